// The view of the server's state, by what it tells of itself.

import { ask, definitions, element, sentence, words } from './api.js'
import { bars, lines } from './chart.js'
import { token } from './models.js'

const byId = (id) => document.getElementById(id)
const every = 5000 // milliseconds
let timer = 0
let seen = null // when the server last answered

export function showState() {
  clearTimeout(timer)
  refresh()
}

export function hideState() {
  clearTimeout(timer)
  timer = 0
}

async function refresh() {
  const mine = (timer = setTimeout(refresh, every))
  try {
    const stats = await ask('stats')
    seen = new Date()
    if (mine !== timer) return
    show(stats)
    await showDrift(stats.drift)
  } catch (error) {
    byId('state-note').className = 'notice bad'
    byId('state-note').textContent = sentence(error) + (seen ? ` What is shown is of ${seen.toLocaleTimeString()}.` : '')
  }
}

const number = (n) => n.toLocaleString()

function milliseconds(seconds) {
  if (seconds == null) return '–'
  const ms = 1000 * seconds
  return `${ms < 10 ? Number(ms.toFixed(2)) : Math.round(ms)} ms`
}

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`
  return `${Math.round(seconds / 86400)} d`
}

function show(s) {
  const note = byId('state-note')
  note.className = s.ready ? 'notice good' : 'notice bad'
  note.textContent = (s.ready ? 'Ready.' : `Not ready: ${s.reason}.`) + ` Up for ${span((Date.parse(s.time) - Date.parse(s.started)) / 1000)}; figures of this instance since then.`
  byId('version').textContent = `· ${s.version}`
  const tile = (name, value, about) => element('div', { class: 'tile' }, element('p', {}, name), element('strong', {}, value), element('p', {}, about))
  const { real, fake } = s.predictions
  const judged = real + fake
  byId('tiles').replaceChildren(
    tile('Judged', number(judged), judged ? `${Math.round((100 * fake) / judged)} % FAKE` : 'nothing yet'),
    tile('p50', milliseconds(s.latency.p50), 'half is quicker'),
    tile('p99', milliseconds(s.latency.p99), 'one in a hundred is slower'),
    tile('Server errors', number(s.errors), `of ${number(s.requests)} requests to judge`),
    tile('Right, users say', s.feedback.accuracy == null ? '–' : `${(100 * s.feedback.accuracy).toFixed(1)} %`, `${number(s.feedback.count)} spoke of verdicts`),
  )
  const step = span(s.interval_seconds)
  bars(byId('chart-predictions'), `Pictures judged in each ${step}, by verdict`, s.history, [
    { name: 'REAL', class: 'real', value: (p) => p.real },
    { name: 'FAKE', class: 'fake', value: (p) => p.fake },
  ], number)
  lines(byId('chart-latency'), `Latency of predictions in each ${step}`, s.history, [
    { name: 'p50', class: 'p50', value: (p) => p.p50 },
    { name: 'p95', class: 'p95', value: (p) => p.p95 },
    { name: 'p99', class: 'p99', value: (p) => p.p99 },
  ], milliseconds)
  const { log } = s
  byId('log-health').replaceChildren(
    element('p', { class: `notice ${log.writable ? 'good' : 'bad'}` }, log.store === 'none' ? 'No log is kept.' : log.writable ? 'It is written.' : `It cannot be written: ${log.error}.`),
    definitions([
      ['Kept in', log.store],
      ['Written', number(log.written)],
      ['Waiting', number(log.waiting)],
      ['Spilled, to be sent later', number(log.spilled)],
      ['Lost', number(log.failed)],
    ]),
  )
}

// showDrift says what the last look has found. The columns are the administrator's to see.
async function showDrift({ watched, detected, time, records }) {
  const drift = byId('drift')
  const told = (kind, text) => element('p', { class: `notice ${kind}` }, text)
  const about = definitions([['Looked at', time && new Date(time).toLocaleString()], ['Records', number(records)]])
  if (!watched) drift.replaceChildren(told('', 'It is not looked for (--drift-reference).'))
  else if (detected === null) drift.replaceChildren(told('', 'It cannot be told yet. The administrator finds the reason at /drift.'))
  else if (!detected) drift.replaceChildren(told('good', 'None found: pictures are like those that the model was tried on.'), about)
  else {
    let columns = 'the administrator’s token, under Models, shows in what'
    try {
      const { columns: all } = await ask('drift', { token: token() })
      columns = all.filter((c) => c.drift).map((c) => c.column).join(', ')
    } catch (error) {
      words(error)
    }
    drift.replaceChildren(told('bad', `Pictures are not like those any more that the model was tried on: ${columns}.`), about)
  }
}
