// The judging view: pictures in, verdicts out.

import { ask, element, noModel, Problem, short, sleep, words } from './api.js'

const byId = (id) => document.getElementById(id)
const cards = byId('cards')
const template = byId('card')

const atOnce = 4 // requests on their way
const attempts = 4 // of a picture that a busy server refuses
const patience = 120_000 // milliseconds for one picture; a slow connection takes long to send one

const entries = new Set() // what the list shows
const queue = []
let running = 0
let batch = [] // since the queue was empty
let model = null
let modelsChanged = async () => {}

// startJudging makes the view work; askModels is what has it told of the model in use.
export function startJudging(askModels) {
  modelsChanged = askModels
  for (const id of ['files', 'camera']) {
    const input = byId(id)
    input.addEventListener('change', () => {
      add([...input.files])
      input.value = '' // the same file may be chosen again
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
    event.preventDefault() // else the browser would open the file
    inside = 0
    drop.classList.remove('over')
    location.hash = 'judge'
    given(event.dataTransfer.files, 'That was no file. Save the picture, and drop the file.')
  })
  addEventListener('paste', (event) => {
    if (event.target.matches?.('input, textarea')) return
    if (event.clipboardData.files.length) location.hash = 'judge'
    given(event.clipboardData.files, 'The clipboard holds no picture. Copy one, or choose a file.')
  })
  byId('clear').addEventListener('click', () => {
    for (const entry of [...entries]) remove(entry)
    byId('files').focus()
  })
  byId('again').addEventListener('click', () => {
    for (const entry of entries) if (entry.state === 'failed' && entry.worthwhile) enqueue(entry)
  })
  for (const label of ['real', 'fake']) {
    for (const n of [1, 2, 3]) {
      const name = `Sample ${n}, drawn as ${label.toUpperCase()}`
      const picture = element('img', { src: `ui/samples/${label}-${n}.png`, width: 48, height: 48, alt: '' })
      byId('samples').append(element('li', {}, element('button', { type: 'button', onclick: () => addSample(`ui/samples/${label}-${n}.png`, name, label.toUpperCase()), 'aria-label': `Judge sample ${n} of ${label.toUpperCase()}` },
        picture, element('span', {}, label.toUpperCase()))))
    }
  }
}

function given(files, otherwise) {
  if (files.length) add([...files])
  else announce(otherwise, true)
}

// modelChanged is told of the model in use.
export function modelChanged(current) {
  model = current
  const can = current.explanations ?? []
  for (const option of byId('method').options) option.disabled = option.value !== '' && !can.includes(option.value)
  const method = byId('method')
  if (method.selectedOptions[0]?.disabled) method.value = can[0] ?? ''
  const note = byId('honesty')
  const synthetic = current.data_source.startsWith('synthetic')
  note.classList.toggle('warn', synthetic)
  note.textContent = synthetic
    ? 'The model in use was trained on shapes that a program drew, to show that everything works. What it says of real pictures means nothing.'
    : `The model in use was trained on ${current.data_source || 'a data set that it does not name'}, and judges from 32×32 pixels. ` +
      'Pictures of other generators may fool it, and a photograph may look generated to it: take the verdict as a hint, not as a proof.'
}

async function addSample(address, name, truth) {
  try {
    const response = await fetch(address)
    if (!response.ok) throw new Error(response.statusText)
    add([new File([await response.blob()], name, { type: 'image/png' })], truth)
  } catch {
    announce(`${words(new Problem(0)).title}. ${words(new Problem(0)).advice}`, true)
  }
}

// add shows the files and has them judged.
function add(files, truth = '') {
  byId('results').hidden = false
  const added = document.createDocumentFragment()
  for (const file of files) {
    const entry = { file, truth, url: URL.createObjectURL(file) }
    const card = template.content.firstElementChild.cloneNode(true)
    entry.card = card
    entry.part = (selector) => card.querySelector(selector)
    entries.add(entry)
    const original = entry.part('.original')
    original.addEventListener('load', () => {
      const [w, h] = sizeAsSeen(original)
      const stack = entry.part('.stack')
      stack.style.aspectRatio = `${w} / ${h}`
      stack.classList.toggle('wide', w >= h)
      if (Math.max(w, h) <= 64) stack.classList.add('pixels')
    })
    original.addEventListener('error', () => card.classList.add('unseen'))
    original.decoding = 'async'
    original.alt = file.name
    original.src = entry.url
    entry.part('.name').textContent = file.name || 'pasted picture'
    entry.part('.name').title = file.name
    entry.part('.remove').setAttribute('aria-label', `Remove ${file.name} from the list`)
    entry.part('.remove').addEventListener('click', () => {
      const next = card.nextElementSibling ?? card.previousElementSibling
      remove(entry)
      ;(next?.querySelector('.remove') ?? byId('files')).focus()
    })
    entry.part('.retry').addEventListener('click', () => enqueue(entry))
    entry.part('.strength input').addEventListener('input', (event) => {
      entry.part('.heat').style.opacity = event.target.value / 100
    })
    entry.part('.right').addEventListener('click', () => feedback(entry, entry.answer.label))
    entry.part('.wrong').addEventListener('click', () => feedback(entry, other(entry.answer.label)))
    entry.part('textarea').addEventListener('change', () => {
      if (entry.said) feedback(entry, entry.said)
    })
    added.append(card)
  }
  cards.prepend(added)
  cards.firstElementChild?.scrollIntoView({ block: 'nearest' }) // on a phone it is below the screen
  for (const entry of [...entries].slice(-files.length)) enqueue(entry)
}

// sizeAsSeen is a picture's width and height without the orientation in its EXIF, of which
// the model knows nothing: naturalWidth and naturalHeight are with it, whatever the style says.
function sizeAsSeen(picture) {
  picture.style.cssText = 'position: absolute; width: auto; height: auto; max-width: none'
  const { offsetWidth, offsetHeight } = picture
  picture.style.cssText = ''
  return offsetWidth && offsetHeight ? [offsetWidth, offsetHeight] : [picture.naturalWidth, picture.naturalHeight]
}

function remove(entry) {
  URL.revokeObjectURL(entry.url)
  URL.revokeObjectURL(entry.seen)
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
  while (running < atOnce && queue.length) work()
}

async function work() {
  running++
  while (queue.length) {
    const entry = queue.shift()
    try {
      await judge(entry)
    } catch (error) {
      fail(entry, error)
    }
    summarize()
  }
  running--
  if (running === 0) conclude()
}

// judge asks the server about the picture; while it is busy, several times.
async function judge(entry) {
  entry.part('.label span').textContent = 'Judging…'
  for (let attempt = 1; ; attempt++) {
    const method = byId('method').value
    const query = new URLSearchParams({ input: 'png', ...(method && { explain: method, explain_format: 'png' }) })
    const began = performance.now()
    try {
      const { file } = entry
      const type = file.type.startsWith('image/') ? file.type : 'application/octet-stream'
      entry.answer = await ask(`predict?${query}`, { method: 'POST', body: file, type, timeout: patience })
      entry.took = performance.now() - began
      break
    } catch (error) {
      if (error.status === 422 && method) {
        // The picture is damaged; or the model has been changed, for one that cannot explain itself so.
        await modelsChanged()
        if (byId('method').value !== method) continue
      }
      const busy = (error.status === 503 && !noModel(error)) || error.status === 429
      if (!busy || attempt === attempts || !entries.has(entry)) throw error
      const wait = Math.min(30, Math.max(1, error.after) * attempt)
      entry.part('.label span').textContent = `${words(error).title}: asking again in ${wait} s…`
      await sleep(wait * 1000)
    }
  }
  if (entry.answer.model !== model?.model) await modelsChanged()
  await show(entry)
}

const other = (label) => (label === 'FAKE' ? 'REAL' : 'FAKE')

function percent(p) {
  if (p > 0.999 && p < 1) return 'over 99.9 %'
  if (p < 0.001 && p > 0) return 'under 0.1 %'
  return `${(100 * p).toFixed(1)} %`
}

async function show(entry) {
  const { answer, part } = entry
  setState(entry, answer.isAI ? 'fake' : 'real')
  part('.label strong').textContent = answer.label
  part('.label span').textContent = answer.isAI ? 'probably AI-generated' : 'probably a photograph'
  const bar = part('.bar')
  bar.setAttribute('aria-valuenow', (100 * answer.probability).toFixed(1))
  bar.setAttribute('aria-valuetext', `${percent(answer.probability)} likely AI-generated`)
  part('.bar i').style.width = `${100 * answer.probability}%`
  part('.percent').textContent = percent(answer.probability)
  const name = model?.model === answer.model ? model.name : ''
  part('.facts').replaceChildren(
    `Answered in ${entry.took < 10 ? entry.took.toFixed(1) : Math.round(entry.took)} ms by `,
    element('code', { title: answer.model }, [name, short(answer.model)].filter(Boolean).join(' ')),
  )
  part('.detail').textContent = entry.truth ? `It was drawn as ${entry.truth}: the verdict is ${entry.truth === answer.label ? 'right' : 'wrong'}.` : ''
  if (answer.input) {
    part('.seen').src = address(entry, answer.input)
    part('.seen').alt = 'The picture as 32×32 pixels, which is what the model saw'
    part('.seen').hidden = false
  }
  // The verdict stands, whatever becomes of the map.
  if (answer.explanation) await drawHeat(entry).catch(reportError)
  part('.right').textContent = answer.isAI ? 'Yes, generated' : 'Yes, a photograph'
  part('.wrong').textContent = answer.isAI ? 'No, a photograph' : 'No, generated'
  part('.feedback').hidden = false
}

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))

// address is that of a picture that the server has sent.
function address(entry, base64) {
  URL.revokeObjectURL(entry.seen)
  entry.seen = URL.createObjectURL(new Blob([bytes(base64)], { type: 'image/png' }))
  return entry.seen
}

// drawHeat colours the map: from nothing over yellow to red where it is 1.
async function drawHeat(entry) {
  const heat = entry.part('.heat')
  const context = heat.getContext('2d', { willReadFrequently: true })
  const map = await createImageBitmap(new Blob([bytes(entry.answer.explanation.png)], { type: 'image/png' }))
  context.drawImage(map, 0, 0)
  const image = context.getImageData(0, 0, heat.width, heat.height)
  for (let i = 0; i < image.data.length; i += 4) {
    const v = image.data[i] / 255
    image.data.set([255, Math.round(225 * (1 - v) ** 0.8), Math.round(70 * (1 - v)), Math.round(255 * Math.min(1, 1.15 * v))], i)
  }
  context.putImageData(image, 0, 0)
  const strength = entry.part('.strength')
  heat.hidden = strength.hidden = false
  heat.style.opacity = strength.querySelector('input').value / 100
}

function fail(entry, error) {
  const { title, advice, detail } = words(error)
  const { part } = entry
  setState(entry, 'failed')
  entry.worthwhile = ![400, 413, 415, 422].includes(error.status) // asking again may help
  part('.label strong').textContent = title
  part('.label span').textContent = ''
  part('.facts').textContent = advice
  part('.detail').textContent = detail
  part('.retry').hidden = !entry.worthwhile
}

async function feedback(entry, label) {
  const { part, answer } = entry
  const noted = part('.noted')
  const comment = part('textarea').value.trim()
  noted.textContent = 'Sending…'
  try {
    await ask('feedback', { method: 'POST', type: 'application/json', body: JSON.stringify({ id: answer.id, label, ...(comment && { comment }) }) })
  } catch (error) {
    const { title, advice, detail } = words(error)
    noted.textContent = error.status === 404 ? `Not noted: ${detail || title}.` : `Not noted: ${title}. ${advice}`
    return
  }
  entry.said = label
  part('.right').setAttribute('aria-pressed', String(label === answer.label))
  part('.wrong').setAttribute('aria-pressed', String(label !== answer.label))
  noted.textContent = `Noted: it is ${label}. Thank you; you may change your mind.`
}

function setState(entry, state) {
  entry.state = entry.card.dataset.state = state
}

function count(list) {
  const counts = { real: 0, fake: 0, failed: 0, waiting: 0 }
  for (const { state } of list) counts[state]++
  return counts
}

function summarize() {
  const n = count(entries)
  const parts = [n.fake && `${n.fake} FAKE`, n.real && `${n.real} REAL`, n.failed && `${n.failed} not judged`, n.waiting && `${n.waiting} waiting`]
  byId('summary').textContent = parts.filter(Boolean).join(', ') || 'Verdicts'
  byId('again').hidden = ![...entries].some((entry) => entry.state === 'failed' && entry.worthwhile)
}

// conclude says what has become of all that was asked.
function conclude() {
  const done = batch.filter((entry) => entries.has(entry))
  batch = []
  if (done.length === 1) {
    const [{ file, answer, state, part }] = done
    announce(state === 'failed' ? `${file.name}: ${part('.label strong').textContent}. ${part('.facts').textContent}` : `${file.name}: ${answer.label}, ${percent(answer.probability)} likely AI-generated`)
  } else if (done.length > 1) {
    const n = count(done)
    announce(`${done.length} pictures: ${n.fake} FAKE, ${n.real} REAL, ${n.failed} not judged`)
  }
}

let fading
// announce says something to a screen reader, and shows it to all when it is visible.
function announce(text, visible = false) {
  const note = byId('announce')
  note.textContent = text
  note.classList.toggle('hidden', !visible)
  clearTimeout(fading)
  if (visible) fading = setTimeout(() => note.classList.add('hidden'), 8000)
}
