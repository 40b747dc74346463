// @ts-check
// The SLOs as k6 metrics with thresholds. The targets are in slo.json, which `make slo` generates from
// monitoring/slo/*.yaml.

import { Counter, Rate, Trend } from 'k6/metrics';

/**
 * @typedef {{ label: 'route'|'method'|'code'|'size', op: string, value: string }} Matcher
 * @typedef {{ name: string, display_name: string, target: number, total: Matcher[],
 *   within_seconds?: number, good?: Matcher[], bad?: Matcher[] }} Objective
 * @typedef {{ route: string, method: string, code: string, size: string }} Labels
 * @typedef {import('k6/http').Response} Response
 */

/** @type {Objective[]} */
export const objectives = JSON.parse(String(read('./slo.json'))).objectives;

/** Reads a file in this folder. @param {string} name @param {'b'|''} [mode] b for bytes */
export function read(name, mode = '') {
  try {
    return open(name, mode);
  } catch (e) {
    throw new Error(`${e}: the folder loadtest/ is incomplete\nhint: in a checkout, run make slo to write slo.json and go generate ./loadtest/draw to write the images`);
  }
}

/** Returns the name of the metric with the share of good requests. @param {Objective} o */
export const metricOf = (o) => `slo_${o.name.replace(/-/g, '_')}`;

/** Returns the threshold for the metric. @param {Objective} o */
export const thresholdOf = (o) => `rate>=${o.target}`;

const rates = objectives.map((o) => new Rate(metricOf(o)));

/** Time from the first byte of a POST /predict request to the first byte of the response. */
const duration = new Trend('predict_duration', true);

/** Number of images with a valid prediction. */
export const predictions = new Counter('predictions');

/**
 * Counts a response for each matching SLO, as the server's metrics do. A request without a response
 * counts like a 503.
 *
 * @param {string} route the route pattern, as in the server's metrics
 * @param {Response} response
 * @param {number} [pixels] number of pixels of all images in the request
 * @returns {boolean} true if the request failed with a server error that an SLO has counted
 */
export function record(route, response, pixels = 0) {
  const { sending, waiting } = response.timings;
  const answered = response.status > 0;
  const seconds = answered ? (sending + waiting) / 1000 : Infinity;
  const labels = { route, method: response.request.method, code: String(response.status || 503), size: sizeOf(response.request.url, pixels) };
  let counted = false;
  objectives.forEach((o, i) => {
    if (!matches(o.total, labels)) return;
    const good = o.within_seconds ? seconds <= o.within_seconds : o.good ? matches(o.good, labels) : !matches(o.bad, labels);
    rates[i].add(good);
    counted ||= !good;
  });
  if (answered && route === '/predict') duration.add(sending + waiting);
  return counted && labels.code >= '500';
}

/** Maximum number of pixels of all images of a small request. */
export const smallPixels = 1_000_000;

/** Returns the size class of a request, as the server does. @param {string} url @param {number} pixels */
const sizeOf = (url, pixels) => (/[?&]explain=/.test(url) || pixels > smallPixels ? 'large' : 'small');

/** Reports whether all matchers match. @param {Matcher[]|undefined} matchers @param {Labels} labels */
function matches(matchers, labels) {
  return (matchers || []).every(({ label, op, value }) => {
    const found = op.endsWith('~') ? new RegExp(`^(?:${value})$`).test(labels[label]) : labels[label] === value;
    return found !== op.startsWith('!');
  });
}
