// The view of models: the one in use, those available, and the change between them.

import { ask, definitions, element, sentence, short } from './api.js'

const byId = (id) => document.getElementById(id)
const listeners = []
let current = null

// onModel has listener told of the model in use.
export function onModel(listener) {
  listeners.push(listener)
}

// token is the administrator's. It is nowhere but in the field of this tab.
export const token = () => byId('token').value.trim()

byId('token-form').addEventListener('submit', (event) => event.preventDefault())

export async function showModels() {
  await Promise.all([showCurrent(), showAvailable()])
}

const percent = (share) => (share == null ? '' : `${(100 * share).toFixed(2)} %`)
const code = (text) => (text ? element('code', {}, text) : '')
const moment = (time) => new Date(time).toLocaleString()

// showCurrent asks for the model in use, and tells the listeners.
export async function showCurrent() {
  try {
    current = await ask('models/current')
  } catch (error) {
    byId('current').replaceChildren(element('h2', {}, 'In use'), element('p', { class: 'notice bad' }, sentence(error)))
    return
  }
  for (const listener of listeners) listener(current)
  byId('current').replaceChildren(
    element('h2', {}, `In use: ${current.name || short(current.model)}`),
    definitions([
      ['Digest', code(current.model)],
      ['Trained on', current.data_source || 'unknown'],
      ['Data', code(current.data_digest)],
      ['Validation accuracy', percent(current.val_accuracy)],
      ['Validation loss', current.val_loss?.toFixed(4)],
      ['FAKE above', `${percent(current.threshold)} probability`],
      ['Explained by', (current.explanations ?? []).join(', ')],
      ['From', code(current.ref)],
      ['Since', moment(current.since)],
      ['Trainer’s revision', code(current.revision)],
    ]),
  )
}

async function showAvailable() {
  let models
  try {
    models = await ask('models')
  } catch (error) {
    byId('available').replaceChildren(element('p', { class: 'notice bad' }, sentence(error)))
    return
  }
  const row = (name, about, action) => element('li', {}, element('div', {}, element('code', {}, name), element('p', {}, about)), action)
  const use = (ref, text, label) => element('button', { type: 'button', class: 'button', 'aria-label': label, onclick: () => change(ref, label) }, text)
  const rows = models.models.map((m) => row(m.ref, `${(m.size / 1e6).toFixed(1)} MB, published ${moment(m.modified)}`,
    m.current ? element('span', { class: 'badge' }, 'in use') : use(m.ref, 'Use', `Put ${m.ref} in use`)))
  if (models.previous) {
    const p = models.previous
    rows.unshift(row(p.ref, `the model before this one: ${p.name || 'without a name'}, ${short(p.model)}`, use('previous', 'Roll back', `Roll back to ${p.ref}`)))
  }
  byId('available').replaceChildren(rows.length ? element('ul', { class: 'rows' }, ...rows) : element('p', {}, 'The source of models offers none.'))
}

// change asks whether that is meant, and puts the model in use.
async function change(ref, title) {
  const dialog = byId('confirm')
  byId('confirm-text').textContent = `${title}? It judges all requests from then on, of everybody. Those in flight finish on the model they have.`
  const yes = await new Promise((resolve) => {
    byId('confirm-yes').onclick = () => resolve(true)
    byId('confirm-no').onclick = () => resolve(false)
    dialog.oncancel = () => resolve(false)
    dialog.showModal()
  })
  dialog.close()
  if (!yes) return
  say('The model is made ready…', '')
  try {
    const now = await ask('models/current', { method: 'PUT', type: 'application/json', body: JSON.stringify({ model: ref }), token: token(), timeout: 120_000 })
    say(`In use now: ${now.name || 'a model without a name'}, ${short(now.model)}.`, 'good')
  } catch (error) {
    const text = error.status === 422 ? `The model was not taken, and the one in use stays. ${error.detail}.` : sentence(error)
    say(text, 'bad')
    if (error.status === 401) byId('token').focus()
  }
  await showModels()
}

function say(text, kind) {
  const message = byId('models-message')
  message.hidden = false
  message.className = `notice ${kind}`
  message.textContent = text
}
