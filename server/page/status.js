// The status view: the server's health and statistics.

import { definitions, describe, element, explain, request } from './api.js'
import { bars, lines } from './chart.js'
import { token } from './models.js'

const byId = (id) => document.getElementById(id)
const interval = 5000 // milliseconds between updates
let timer = 0
let updated = null // time of the last response

export function showStatus() {
  clearTimeout(timer)
  refresh()
}

export function hideStatus() {
  clearTimeout(timer)
  timer = 0
}

async function refresh() {
  const own = (timer = setTimeout(refresh, interval))
  try {
    const stats = await request('stats')
    updated = new Date()
    if (own !== timer) return // the view was hidden, or shown again
    show(stats)
    await showDrift(stats.drift)
  } catch (error) {
    byId('status-note').className = 'notice bad'
    byId('status-note').textContent = explain(error) + (updated ? ` Last update: ${updated.toLocaleTimeString()}.` : '')
  }
}

const number = (n) => n.toLocaleString()

function milliseconds(seconds) {
  if (seconds == null) return '–'
  const ms = 1000 * seconds
  return `${ms < 10 ? Number(ms.toFixed(2)) : Math.round(ms)}\u00a0ms`
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)}\u00a0s`
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`
  if (seconds < 129600) return `${Math.round(seconds / 3600)}\u00a0h`
  return `${Math.round(seconds / 86400)}\u00a0d`
}

function show(s) {
  const note = byId('status-note')
  note.className = s.ready ? 'notice good' : 'notice bad'
  note.textContent = (s.ready ? 'Ready.' : `Not ready: ${s.reason}.`) + ` Up for ${duration((Date.parse(s.time) - Date.parse(s.started)) / 1000)}. All numbers are for this instance since it started.`
  byId('version').textContent = `· ${s.version}`
  const tile = (name, value, about) => element('div', { class: 'tile' }, element('p', {}, name), element('strong', {}, value), element('p', {}, about))
  const { labels, rest } = shownLabels(s.predictions)
  const total = s.images
  byId('tiles').replaceChildren(
    tile('Images classified', number(total), total && labels.length ? `${Math.round((100 * s.predictions[labels[0]]) / total)}% ${labels[0]}` : 'none yet'),
    tile('Median latency', milliseconds(s.latency.p50), 'half of the requests are faster'),
    tile('p99 latency', milliseconds(s.latency.p99), '1 in 100 requests is slower'),
    tile('Server errors', number(s.errors), `in ${number(s.requests)} prediction requests`),
    tile('User-reported accuracy', s.feedback.accuracy == null ? '–' : `${(100 * s.feedback.accuracy).toFixed(1)}%`, `feedback received: ${number(s.feedback.count)}`),
  )
  const step = duration(s.interval_seconds)
  bars(byId('chart-predictions'), `Images classified per ${step}, by predicted class`, s.history, [
    ...labels.map((label, i) => ({ name: label, class: `series-${i}`, value: (p) => p.predictions[label] ?? 0 })),
    ...(rest ? [{ name: 'other classes', class: 'series-rest', value: (p) => p.images - labels.reduce((sum, label) => sum + (p.predictions[label] ?? 0), 0) }] : []),
  ], number)
  lines(byId('chart-latency'), `Prediction latency per ${step}`, s.history, [
    { name: 'p50', class: 'p50', value: (p) => p.p50 },
    { name: 'p95', class: 'p95', value: (p) => p.p95 },
    { name: 'p99', class: 'p99', value: (p) => p.p99 },
  ], milliseconds)
  const { log } = s
  byId('log-health').replaceChildren(
    element('p', { class: `notice ${log.writable ? 'good' : 'bad'}` }, log.store === 'none' ? 'The prediction log is off.' : log.writable ? 'Writable.' : `Not writable: ${log.error}.`),
    definitions([
      ['Store', log.store],
      ['Written', number(log.written)],
      ['Waiting', number(log.waiting)],
      ['In the outbox', number(log.spilled)],
      ['Lost', number(log.failed)],
    ]),
  )
}

const maxLabels = 6 // classes with a color of their own in the chart

// shownLabels returns the most frequent labels first, and whether there are others.
function shownLabels(predictions) {
  const labels = Object.keys(predictions).filter((label) => predictions[label] > 0 && label !== 'other').sort((a, b) => predictions[b] - predictions[a])
  return { labels: labels.slice(0, maxLabels), rest: labels.length > maxLabels || predictions.other > 0 }
}

// showDrift shows the result of the last drift check. The affected columns require the admin token.
async function showDrift({ watched, detected, time, records }) {
  const drift = byId('drift')
  const notice = (kind, text) => element('p', { class: `notice ${kind}` }, text)
  const about = definitions([['Last check', time && new Date(time).toLocaleString()], ['Records', number(records)]])
  if (!watched) drift.replaceChildren(notice('', 'Drift checks are off. Turn them on with --drift-reference.'))
  else if (detected === null) drift.replaceChildren(notice('', 'No result yet. Admins can see the reason at /drift.'))
  else if (!detected) drift.replaceChildren(notice('good', 'No drift: recent images resemble the drift reference.'), about)
  else {
    let columns = 'enter the admin token on the Models page to see in which columns'
    try {
      const { columns: all } = await request('drift', { token: token() })
      columns = all.filter((c) => c.drift).map((c) => c.column).join(', ')
    } catch (error) {
      describe(error)
    }
    drift.replaceChildren(notice('bad', `Drift detected: ${columns}.`), about)
  }
}
