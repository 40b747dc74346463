// @ts-check
// The project's objectives as k6 metrics with thresholds. Their figures are in slo.json,
// which is derived from monitoring/slo/*.yaml: none stands here.

import { Counter, Rate, Trend } from 'k6/metrics';

/**
 * @typedef {{ label: 'route'|'method'|'code', op: string, value: string }} Matcher
 * @typedef {{ name: string, display_name: string, target: number, total: Matcher[],
 *   within_seconds?: number, good?: Matcher[], bad?: Matcher[] }} Objective
 * @typedef {{ route: string, method: string, code: string }} Labels
 * @typedef {import('k6/http').Response} Response
 */

/** @type {Objective[]} */
export const objectives = JSON.parse(String(read('./slo.json'))).objectives;

/** Reads a file of this folder. @param {string} name @param {'b'|''} [mode] b for its bytes */
export function read(name, mode = '') {
  try {
    return open(name, mode);
  } catch (e) {
    throw new Error(`${e}: the folder loadtest/ has to be whole; in a checkout, make slo writes slo.json, and go generate ./loadtest/draw the pictures`);
  }
}

/** @param {Objective} o the name of its metric: the share of good requests */
export const metricOf = (o) => `slo_${o.name.replace(/-/g, '_')}`;

/** @param {Objective} o what its metric has to be */
export const thresholdOf = (o) => `rate>=${o.target}`;

const rates = objectives.map((o) => new Rate(metricOf(o)));

/** Time from the first byte of a request for a prediction to the first of its answer. */
const duration = new Trend('predict_duration', true);

/** Pictures answered as they should be. */
export const predictions = new Counter('predictions');

/**
 * Counts a request for every objective that is about it, as the server's own metrics
 * do. What was not answered is to its user what an answer of 503 is.
 *
 * @param {string} route the pattern, as in the server's metrics
 * @param {Response} response
 * @returns {boolean} whether it failed, and an objective has counted it as that
 */
export function judge(route, response) {
  const { sending, waiting } = response.timings;
  const answered = response.status > 0;
  const seconds = answered ? (sending + waiting) / 1000 : Infinity;
  const labels = { route, method: response.request.method, code: String(response.status || 503) };
  let counted = false;
  objectives.forEach((o, i) => {
    if (!fits(o.total, labels)) return;
    const good = o.within_seconds ? seconds <= o.within_seconds : o.good ? fits(o.good, labels) : !fits(o.bad, labels);
    rates[i].add(good);
    counted ||= !good;
  });
  if (answered && route === '/predict') duration.add(sending + waiting);
  return counted && labels.code >= '500';
}

/** @param {Matcher[]|undefined} matchers @param {Labels} labels whether all of them do */
function fits(matchers, labels) {
  return (matchers || []).every(({ label, op, value }) => {
    const found = op.endsWith('~') ? new RegExp(`^(?:${value})$`).test(labels[label]) : labels[label] === value;
    return found !== op.startsWith('!');
  });
}
