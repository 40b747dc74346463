// The classify view: upload images, show predictions.

import { describe, element, fileSize, noModel, Problem, request, short, sleep } from './api.js'
import { query } from './models.js'

const byId = (id) => document.getElementById(id)
const cards = byId('cards')
const template = byId('card')

const maxRequests = 4 // concurrent requests
const maxAttempts = 4 // per image, while the server is busy
const manyImages = 12 // more are shown as a compact grid at first
const timeout = 120_000 // milliseconds per request; uploads can be slow

// Classes of the files in samples/. They are offered to models with these classes.
const sampleLabels = ['REAL', 'FAKE']

const entries = new Set() // all images in the list
const queue = []
let running = 0
let batch = [] // images since the queue was last empty
let model = null
let refreshModel = async () => {}

// initClassify sets up the view. loadModel loads the current model, which calls setModel.
export function initClassify(loadModel) {
  refreshModel = loadModel
  for (const id of ['files', 'camera']) {
    const input = byId(id)
    input.addEventListener('change', () => {
      add([...input.files])
      input.value = '' // so that the same file can be chosen again
    })
  }
  const drop = byId('drop')
  let inside = 0
  addEventListener('dragenter', (event) => {
    event.preventDefault()
    inside++
    drop.classList.add('over')
  })
  addEventListener('dragleave', () => {
    inside = Math.max(0, inside - 1)
    drop.classList.toggle('over', inside > 0)
  })
  addEventListener('dragover', (event) => event.preventDefault())
  addEventListener('drop', (event) => {
    event.preventDefault() // keep the browser from opening the file
    inside = 0
    drop.classList.remove('over')
    location.hash = 'classify'
    addOrExplain(event.dataTransfer.files, 'That is not a file. Save the image, then drop the file.')
  })
  addEventListener('paste', (event) => {
    if (event.target.matches?.('input, textarea')) return
    if (event.clipboardData.files.length) location.hash = 'classify'
    addOrExplain(event.clipboardData.files, 'The clipboard contains no image. Copy one, or choose a file.')
  })
  addEventListener('beforeunload', (event) => {
    if (entries.size) event.preventDefault() // the results would be lost: the browser asks
  })
  byId('filter').addEventListener('change', filter)
  byId('compact').addEventListener('click', () => setCompact(!cards.classList.contains('compact')))
  byId('csv').addEventListener('click', downloadCSV)
  byId('clear').addEventListener('click', () => {
    for (const entry of [...entries]) remove(entry)
    byId('files').focus()
  })
  byId('retry-failed').addEventListener('click', () => {
    for (const entry of entries) if (entry.state === 'failed' && entry.retryable) enqueue(entry)
  })
  for (const label of sampleLabels) {
    for (const n of [1, 2, 3]) {
      const name = `Sample ${n}, drawn as ${label}`
      const file = `ui/samples/${label.toLowerCase()}-${n}.png`
      const image = element('img', { src: file, width: 48, height: 48, alt: '' })
      byId('samples').append(element('li', {}, element('button', { type: 'button', onclick: () => addSample(file, name, label), 'aria-label': `Classify sample ${n} of ${label}` },
        image, element('span', {}, label))))
    }
  }
}

// addOrExplain adds the files, or shows the message without files.
function addOrExplain(files, message) {
  if (files.length) add([...files])
  else announce(message, true)
}

// setModel updates the view for the current model.
export function setModel(current) {
  model = current
  const methods = current.explanations ?? []
  for (const option of byId('method').options) option.disabled = option.value !== '' && !methods.includes(option.value)
  const method = byId('method')
  if (method.selectedOptions[0]?.disabled) method.value = methods[0] ?? ''
  byId('sample-choice').hidden = !sampleLabels.every((label) => current.classes.includes(label))
  byId('about').textContent = current.description || 'Upload an image to see the prediction and where the model looked.'
  byId('labels').replaceChildren(...current.classes.map((label) => element('option', { value: label })))
  // An image is shown as the model sees it.
  document.body.classList.toggle('turned', current.applies_orientation)
  const note = byId('disclaimer')
  const synthetic = current.data_source.startsWith('synthetic')
  note.classList.toggle('warn', synthetic)
  note.textContent = synthetic
    ? 'The current model is for demonstration only: it was trained on drawn shapes. Its predictions for real images are meaningless.'
    : `The current model was trained on ${current.data_source || 'an unknown dataset'} and sees only ${current.input_width}×${current.input_height} pixels. ` +
      'It can be wrong, especially about images from other sources. Treat predictions as a hint, not as proof.'
}

async function addSample(url, name, label) {
  try {
    const response = await fetch(url)
    if (!response.ok) throw new Error(response.statusText)
    add([new File([await response.blob()], name, { type: 'image/png' })], label)
  } catch {
    announce(`${describe(new Problem(0)).title}. ${describe(new Problem(0)).advice}`, true)
  }
}

// add adds the files to the list and classifies them. label is the known label of a sample.
function add(files, label = '') {
  if (entries.size === 0) setCompact(files.length > manyImages)
  byId('results').hidden = false
  byId('filter').value = '' // so that the new images are visible
  const added = document.createDocumentFragment()
  for (const file of files) {
    const entry = { file, label, url: URL.createObjectURL(file) }
    const card = template.content.firstElementChild.cloneNode(true)
    entry.card = card
    entry.part = (selector) => card.querySelector(selector)
    entries.add(entry)
    const original = entry.part('.original')
    original.addEventListener('load', () => {
      const [w, h] = storedSize(original)
      const stack = entry.part('.stack')
      stack.style.aspectRatio = `${w} / ${h}`
      stack.classList.toggle('wide', w >= h)
      if (Math.max(w, h) <= 64) stack.classList.add('pixels')
      entry.part('.size').textContent = `${w}×${h}, ${fileSize(file.size)}`
    })
    original.addEventListener('error', () => card.classList.add('no-preview'))
    original.decoding = 'async'
    original.alt = file.name
    original.src = entry.url
    entry.part('.name').textContent = file.name || 'pasted image'
    entry.part('.name').title = file.name
    entry.part('.size').textContent = fileSize(file.size)
    entry.part('.remove').setAttribute('aria-label', `Remove ${file.name} from the list`)
    entry.part('.remove').addEventListener('click', () => {
      const next = card.nextElementSibling ?? card.previousElementSibling
      remove(entry)
      ;(next?.querySelector('.remove') ?? byId('files')).focus()
    })
    entry.part('.retry').addEventListener('click', () => enqueue(entry))
    entry.part('.opacity input').addEventListener('input', (event) => {
      entry.part('.heat').style.opacity = event.target.value / 100
    })
    entry.part('.correct').addEventListener('click', () => sendFeedback(entry, entry.result.label))
    entry.part('.incorrect').addEventListener('click', () => {
      const others = Object.keys(entry.result.probabilities).filter((label) => label !== entry.result.label)
      if (entry.classes === 2) sendFeedback(entry, others[0])
      else {
        entry.part('.label-choice').hidden = false
        entry.part('.label-choice input').focus()
      }
    })
    entry.part('.label-choice input').addEventListener('change', (event) => {
      if (event.target.value) sendFeedback(entry, event.target.value)
    })
    entry.part('textarea').addEventListener('change', () => {
      if (entry.feedback) sendFeedback(entry, entry.feedback)
    })
    added.append(card)
  }
  cards.prepend(added)
  cards.firstElementChild?.scrollIntoView({ block: 'nearest' }) // on a phone the list is below the fold
  for (const entry of [...entries].slice(-files.length)) enqueue(entry)
}

// storedSize returns an image's width and height without applying its EXIF orientation, which most
// models ignore. naturalWidth and naturalHeight always apply it, whatever the style is.
function storedSize(image) {
  if (document.body.classList.contains('turned')) return [image.naturalWidth, image.naturalHeight]
  image.style.cssText = 'position: absolute; width: auto; height: auto; max-width: none'
  const { offsetWidth, offsetHeight } = image
  image.style.cssText = ''
  return offsetWidth && offsetHeight ? [offsetWidth, offsetHeight] : [image.naturalWidth, image.naturalHeight]
}

function remove(entry) {
  URL.revokeObjectURL(entry.url)
  URL.revokeObjectURL(entry.input)
  entry.card.remove()
  entries.delete(entry)
  const waiting = queue.indexOf(entry)
  if (waiting >= 0) queue.splice(waiting, 1)
  byId('results').hidden = entries.size === 0
  summarize()
}

function enqueue(entry) {
  if (entry.state === 'waiting') return
  setState(entry, 'waiting')
  entry.part('.label strong').textContent = ''
  entry.part('.label span').textContent = 'Waiting…'
  entry.part('.facts').textContent = entry.part('.detail').textContent = ''
  entry.part('.retry').hidden = true
  queue.push(entry)
  batch.push(entry)
  summarize()
  while (running < maxRequests && queue.length) work()
}

async function work() {
  running++
  while (queue.length) {
    const entry = queue.shift()
    try {
      await classify(entry)
    } catch (error) {
      fail(entry, error)
    }
    summarize()
  }
  running--
  if (running === 0) announceBatch()
}

// classify sends the image to the server and shows the prediction. It retries while the server is busy.
async function classify(entry) {
  entry.part('.label span').textContent = 'Classifying…'
  for (let attempt = 1; ; attempt++) {
    const method = byId('method').value
    const began = performance.now()
    try {
      const { file } = entry
      const type = file.type.startsWith('image/') ? file.type : 'application/octet-stream'
      entry.result = await request(`predict${query({ input: 'png', ...(method && { explain: method, explain_format: 'png' }) })}`, { method: 'POST', body: file, type, timeout })
      entry.took = performance.now() - began
      break
    } catch (error) {
      if (error.status === 422 && method) {
        // Either the image is damaged, or a new model doesn't support the explanation method.
        await refreshModel()
        if (byId('method').value !== method) continue
      }
      const busy = (error.status === 503 && !noModel(error)) || error.status === 429
      if (!busy || attempt === maxAttempts || !entries.has(entry)) throw error
      const wait = Math.min(30, Math.max(1, error.retryAfter) * attempt)
      entry.part('.label span').textContent = `${describe(error).title}: retrying in ${wait}\u00a0s…`
      await sleep(wait * 1000)
    }
  }
  if (entry.result.model !== model?.model) await refreshModel()
  await show(entry)
}

// confidence returns the probability of the predicted class.
const confidence = ({ label, probability, probabilities }) => probabilities[label] ?? probability

function percent(p) {
  if (p > 0.999 && p < 1) return 'over 99.9%'
  if (p < 0.001 && p > 0) return 'under 0.1%'
  return `${(100 * p).toFixed(1)}%`
}

async function show(entry) {
  const { result, part } = entry
  setState(entry, 'done')
  const known = model?.model === result.model
  const classes = known ? model.classes : Object.keys(result.probabilities)
  entry.classes = classes.length
  entry.card.classList.add(`series-${Math.max(0, classes.indexOf(result.label)) % colors}`)
  part('.label strong').textContent = result.label
  part('.label span').textContent = ''
  const bar = part('.bar')
  const p = confidence(result)
  bar.setAttribute('aria-valuenow', (100 * p).toFixed(1))
  bar.setAttribute('aria-valuetext', `${percent(p)} ${result.label}`)
  part('.bar i').style.width = `${100 * p}%`
  part('.percent').textContent = `${percent(p)} ${result.label}`
  showOthers(entry)
  const name = known ? model.name : ''
  part('.facts').replaceChildren(
    `Classified in ${entry.took < 10 ? entry.took.toFixed(1) : Math.round(entry.took)} ms by `,
    element('code', { title: result.model }, [name, short(result.model)].filter(Boolean).join(' ')),
  )
  part('.detail').textContent = entry.label ? `Sample drawn as ${entry.label}: the prediction is ${entry.label === result.label ? 'correct' : 'incorrect'}.` : ''
  if (result.input) {
    part('.input').src = objectURL(entry, result.input)
    part('.input').alt = 'The image as the model sees it'
    part('.input').addEventListener('load', () => {
      const { naturalWidth: width, naturalHeight: height } = part('.input')
      part('.input-size').textContent = `: ${width}×${height}`
      part('.stack.model').style.aspectRatio = `${width} / ${height}`
      part('.stack.model').classList.toggle('wide', width >= height)
    }, { once: true })
    part('.input').hidden = false
  }
  // Show the prediction even if drawing the heat map fails.
  if (result.explanation) await drawHeatMap(entry).catch(reportError)
  part('.correct').textContent = `Yes, ${result.label}`
  part('.incorrect').textContent = entry.classes === 2 ? `No, ${Object.keys(result.probabilities).find((label) => label !== result.label)}` : 'No'
  part('.feedback').hidden = false
}

const colors = 6 // of classes, in the style sheet

// showOthers shows the next most probable classes as bars. Of two classes, the second follows from the first.
function showOthers({ result, part }) {
  const others = Object.entries(result.probabilities).filter(([label]) => label !== result.label)
  const list = part('.others')
  list.hidden = others.length < 2
  list.replaceChildren(...others.slice(0, maxOthers).map(([label, p]) => {
    const fill = element('i')
    fill.style.width = `${100 * p}%`
    return element('li', {}, element('span', {}, label), element('div', { class: 'bar', 'aria-hidden': 'true' }, fill), element('span', { class: 'value' }, percent(p)))
  }))
}

const maxOthers = 4

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))

// objectURL returns a URL for a PNG from the server. It replaces the previous one of the entry.
function objectURL(entry, base64) {
  URL.revokeObjectURL(entry.input)
  entry.input = URL.createObjectURL(new Blob([bytes(base64)], { type: 'image/png' }))
  return entry.input
}

// drawHeatMap colors the saliency map: from transparent at 0 through yellow to red at 1.
async function drawHeatMap(entry) {
  const heat = entry.part('.heat')
  const map = await createImageBitmap(new Blob([bytes(entry.result.explanation.png)], { type: 'image/png' }))
  heat.width = map.width
  heat.height = map.height
  // The map has the parts of the model's input. That is the whole image only if the image is stretched to it.
  if (/shortest|contain/.test(model?.preprocessing ?? '')) entry.part('.stack.model').append(heat)
  const context = heat.getContext('2d', { willReadFrequently: true })
  context.drawImage(map, 0, 0)
  const image = context.getImageData(0, 0, heat.width, heat.height)
  for (let i = 0; i < image.data.length; i += 4) {
    const v = image.data[i] / 255
    image.data.set([255, Math.round(225 * (1 - v) ** 0.8), Math.round(70 * (1 - v)), Math.round(255 * Math.min(1, 1.15 * v))], i)
  }
  context.putImageData(image, 0, 0)
  const opacity = entry.part('.opacity')
  heat.hidden = opacity.hidden = false
  heat.style.opacity = opacity.querySelector('input').value / 100
}

function fail(entry, error) {
  const { title, advice, detail } = describe(error)
  const { part } = entry
  setState(entry, 'failed')
  entry.retryable = ![400, 413, 415, 422].includes(error.status) // a retry may succeed
  part('.label strong').textContent = title
  part('.label span').textContent = ''
  part('.facts').textContent = advice
  part('.detail').textContent = detail
  part('.retry').hidden = !entry.retryable
}

async function sendFeedback(entry, label) {
  const { part, result } = entry
  const status = part('.feedback-status')
  const comment = part('textarea').value.trim()
  status.textContent = 'Sending…'
  try {
    await request('feedback', { method: 'POST', type: 'application/json', body: JSON.stringify({ id: result.id, label, ...(comment && { comment }) }) })
  } catch (error) {
    const { title, advice, detail } = describe(error)
    status.textContent = error.status === 404 ? `Feedback not saved: ${detail || title}.` : `Feedback not saved: ${title}. ${advice}`
    return
  }
  entry.feedback = label
  part('.correct').setAttribute('aria-pressed', String(label === result.label))
  part('.incorrect').setAttribute('aria-pressed', String(label !== result.label))
  status.textContent = `Feedback saved: ${label}. You can still change it.`
}

function setState(entry, state) {
  entry.state = entry.card.dataset.state = state
}

// setCompact shows the images as a grid of small cards, or as a list with all details.
function setCompact(compact) {
  cards.classList.toggle('compact', compact)
  byId('compact').setAttribute('aria-pressed', String(compact))
}

// filter hides the images that don't match the selected filter. Waiting images always match.
function filter() {
  const wanted = byId('filter').value
  for (const { card, state, result } of entries) card.hidden = wanted !== '' && state !== 'waiting' && (state === 'done' ? `=${result.label}` : state) !== wanted
  byId('filtered').hidden = entries.size === 0 || [...entries].some(({ card }) => !card.hidden)
}

// downloadCSV downloads the list as a CSV file (RFC 4180), in the order of the page.
function downloadCSV() {
  const rows = [['file', 'bytes', 'label', 'confidence', 'id', 'model_name', 'model', 'feedback', 'error']]
  for (const card of cards.children) {
    const { file, state, result, feedback, part } = [...entries].find((entry) => entry.card === card)
    if (state === 'done') rows.push([file.name, file.size, result.label, confidence(result), result.id, result.modelName, result.model, feedback, ''])
    else rows.push([file.name, file.size, '', '', '', '', '', '', state === 'failed' ? part('.label strong').textContent : 'waiting'])
  }
  const csv = rows.map((row) => row.map(csvField).join(',') + '\r\n').join('')
  const url = URL.createObjectURL(new Blob([csv], { type: 'text/csv' }))
  element('a', { href: url, download: 'predictions.csv' }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000) // the download has started by then
}

// csvField quotes a value if necessary. Spreadsheets run text that begins like a formula: an apostrophe
// prevents that.
function csvField(value) {
  let text = String(value ?? '')
  if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

// count returns the number of images by label, in descending order, and of those that failed or wait.
function count(list) {
  const counts = { failed: 0, waiting: 0 }
  const byLabel = new Map()
  for (const { state, result } of list) {
    if (state === 'done') byLabel.set(result.label, (byLabel.get(result.label) ?? 0) + 1)
    else counts[state]++
  }
  return { ...counts, labels: [...byLabel].sort(([, a], [, b]) => b - a) }
}

const maxCounts = 5 // labels in a summary

// counted returns the numbers of images by label as texts.
function counted({ labels }) {
  const rest = labels.slice(maxCounts).reduce((sum, [, n]) => sum + n, 0)
  return [...labels.slice(0, maxCounts).map(([label, n]) => `${n} ${label}`), rest && `${rest} of other classes`].filter(Boolean)
}

function summarize() {
  const n = count(entries)
  const parts = [...counted(n), n.failed && `${n.failed} failed`, n.waiting && `${n.waiting} waiting`]
  byId('summary').textContent = parts.filter(Boolean).join(', ') || 'Predictions'
  const choice = byId('filter')
  const wanted = choice.value
  const options = [['', 'all'], ...n.labels.map(([label]) => [`=${label}`, label]), ['failed', 'failed']]
  if (options.length !== choice.options.length || options.some(([value], i) => choice.options[i].value !== value)) {
    choice.replaceChildren(...options.map(([value, text]) => element('option', { value }, text)))
    choice.value = options.some(([value]) => value === wanted) ? wanted : ''
  }
  filter()
  byId('retry-failed').hidden = ![...entries].some((entry) => entry.state === 'failed' && entry.retryable)
}

// announceBatch announces the results since the queue was last empty.
function announceBatch() {
  const done = batch.filter((entry) => entries.has(entry))
  batch = []
  if (done.length === 1) {
    const [{ file, result, state, part }] = done
    announce(state === 'failed' ? `${file.name}: ${part('.label strong').textContent}. ${part('.facts').textContent}` : `${file.name}: ${percent(confidence(result))} ${result.label}`)
  } else if (done.length > 1) {
    const n = count(done)
    announce(`${done.length} images: ${[...counted(n), `${n.failed} failed`].join(', ')}`)
  }
}

let fading
// announce makes screen readers read a message. If visible is set, it also shows the message.
function announce(text, visible = false) {
  const note = byId('announce')
  note.textContent = text
  note.classList.toggle('hidden', !visible)
  clearTimeout(fading)
  if (visible) fading = setTimeout(() => note.classList.add('hidden'), 8000)
}
