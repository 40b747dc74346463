// The models view: shows the current and available models, and switches between them.

import { capital, definitions, element, explain, request, short } from './api.js'

const byId = (id) => document.getElementById(id)
const listeners = []
let current = null
let selected = '' // name of the selected model; empty for the default

// query returns the query string that selects the model, with further parameters.
export function query(parameters = {}) {
  const text = String(new URLSearchParams({ ...(selected && { model: selected }), ...parameters }))
  return text && `?${text}`
}

// initModels shows the choice of the model if the server has several.
export async function initModels() {
  let served
  try {
    ({ served } = await request('models'))
  } catch {
    return // the models view shows the error
  }
  if (served.length < 2) return
  const select = byId('model')
  select.replaceChildren(...served.map(({ name }) => element('option', { value: name }, name)))
  select.addEventListener('change', () => {
    selected = select.value
    if (byId('models-view').hidden) showCurrent()
    else showModels()
  })
  byId('model-choice').hidden = false
}

// onModel registers a listener that is called with the current model.
export function onModel(listener) {
  listeners.push(listener)
}

// token returns the admin token. It is stored only in the input field.
export const token = () => byId('token').value.trim()

byId('token-form').addEventListener('submit', (event) => event.preventDefault())

export async function showModels() {
  await Promise.all([showCurrent(), showAvailable()])
}

const percent = (share) => (share == null ? '' : `${(100 * share).toFixed(2)}%`)
const maxClasses = 10 // more are counted
const classes = (labels) => labels.slice(0, maxClasses).join(', ') + (labels.length > maxClasses ? ` and ${labels.length - maxClasses} more` : '')
const code = (text) => (text ? element('code', {}, text) : '')
const moment = (time) => new Date(time).toLocaleString()

// showCurrent loads and shows the current model, and calls the listeners.
export async function showCurrent() {
  try {
    current = await request(`models/current${query()}`)
  } catch (error) {
    byId('current').replaceChildren(element('h2', {}, 'Current model'), element('p', { class: 'notice bad' }, explain(error)))
    return
  }
  for (const listener of listeners) listener(current)
  byId('current').replaceChildren(
    element('h2', {}, `Current model: ${current.name || short(current.model)}`),
    definitions([
      ['Digest', code(current.model)],
      ['Trained on', current.data_source || 'unknown'],
      ['Dataset digest', code(current.data_digest)],
      ['Validation accuracy', percent(current.val_accuracy)],
      ['Validation loss', current.val_loss?.toFixed(4)],
      [`Threshold for ${current.positive}`, current.positive ? percent(current.threshold) : ''],
      ['Description', current.description],
      ['Classes', classes(current.classes)],
      ['Input', `${current.input_width}×${current.input_height} pixels`],
      ['License', current.license],
      ['Origin', current.source],
      ['Memory', `about ${Math.round(current.memory / 1e6)}\u00a0MB`],
      ['Explanations', (current.explanations ?? []).join(', ')],
      ['Source', code(current.ref)],
      ['In use since', moment(current.since)],
      ['Trainer revision', code(current.revision)],
    ]),
  )
}

async function showAvailable() {
  let models
  try {
    models = await request(`models${query()}`)
  } catch (error) {
    byId('available').replaceChildren(element('p', { class: 'notice bad' }, explain(error)))
    return
  }
  const row = (name, about, action) => element('li', {}, element('div', {}, element('code', {}, name), element('p', {}, about)), action)
  const use = (ref, text, label) => element('button', { type: 'button', class: 'button', 'aria-label': label, onclick: () => change(ref, label) }, text)
  const rows = models.models.map((m) => row(m.ref, `${(m.size / 1e6).toFixed(1)} MB, published ${moment(m.modified)}`,
    m.current ? element('span', { class: 'badge' }, 'current') : use(m.ref, 'Use', `Switch to ${m.ref}`)))
  if (models.previous) {
    const p = models.previous
    rows.unshift(row(p.ref, `Previous model: ${p.name || 'unnamed'}, ${short(p.model)}`, use('previous', 'Roll back', `Roll back to ${p.ref}`)))
  }
  byId('available').replaceChildren(rows.length ? element('ul', { class: 'rows' }, ...rows) : element('p', {}, 'The model source contains no models.'))
}

// change asks for confirmation, and switches to the model.
async function change(ref, title) {
  const dialog = byId('confirm')
  byId('confirm-text').textContent = `${title}? All new requests will use this model. Requests in flight finish with the current one.`
  const yes = await new Promise((resolve) => {
    byId('confirm-yes').onclick = () => resolve(true)
    byId('confirm-no').onclick = () => resolve(false)
    dialog.oncancel = () => resolve(false)
    dialog.showModal()
  })
  dialog.close()
  if (!yes) return
  showMessage('Loading the model…', '')
  try {
    const now = await request(`models/current${query()}`, { method: 'PUT', type: 'application/json', body: JSON.stringify({ model: ref }), token: token(), timeout: 120_000 })
    showMessage(`Switched to ${now.name || 'unnamed model'}, ${short(now.model)}.`, 'good')
  } catch (error) {
    const text = error.status === 422 ? `The model was rejected; the current model stays in use. ${capital(error.detail)}.` : explain(error)
    showMessage(text, 'bad')
    if (error.status === 401) byId('token').focus()
  }
  await showModels()
}

function showMessage(text, kind) {
  const message = byId('models-message')
  message.hidden = false
  message.className = `notice ${kind}`
  message.textContent = text
}
