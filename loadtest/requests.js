// @ts-check
// The requests and the checks of their responses. A failed check fails the run: SLOs tolerate some
// requests without a response, but no wrong responses.

import { check } from 'k6';
import { b64encode } from 'k6/encoding';
import http from 'k6/http';
import { Rate } from 'k6/metrics';

import { predictions, read, record } from './objectives.js';

/**
 * @typedef {{ file: string, label?: string, drawing: string, data: ArrayBuffer }} ImageFile
 * @typedef {{ digests: string[], threshold: number, labels: boolean, probabilities: Record<string, number> }} Expected
 *   results of setup: the digests of the models that may respond, whether labels can be checked, and
 *   the probability of each drawing by each model
 * @typedef {import('k6/http').Response} Response
 */

/** URL of the server. */
export const target = (__ENV.TARGET || 'http://127.0.0.1:8080').replace(/\/+$/, '');

const index = JSON.parse(String(read('./pictures/index.json')));

/** Digest of the dataset whose test split contains the images. */
export const data = index.data;

/** @type {ImageFile[]} */
export const images = index.pictures.map((/** @type {ImageFile} */ p) => ({ ...p, data: read(`./pictures/${p.file}`, 'b') }));

/** JPEG files in the input size of the model, like CIFAKE's images. */
export const jpegs = images.filter((p) => p.label && p.file.endsWith('.jpg'));
const bmps = images.filter((p) => p.file.endsWith('.bmp'));

/** Share of correct labels. Counted only for models trained on the dataset. */
const rightLabel = new Rate('right_label');

/** Picks a random element. @template T @param {T[]} list @returns {T} */
export const pick = (list) => list[Math.floor(Math.random() * list.length)];

/** Timeout of a request in seconds. The run waits for the last responses. */
export const timeout = 5;

/** @param {string} route @param {Record<string, string>} [headers] @returns {{ headers?: Record<string, string>, timeout: string, tags: { name: string } }} */
const params = (route, headers) => ({ headers, timeout: `${timeout}s`, tags: { name: route } });
const json = { 'Content-Type': 'application/json' };

/** Returns the JSON of a response, or undefined if it is invalid. @param {Response} r @returns {any} */
function body(r) {
  try {
    return JSON.parse(String(r.body));
  } catch {
    return undefined;
  }
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** @param {string} model @param {ImageFile} image */
const keyOf = (model, image) => `${model} ${image.drawing}`;

/**
 * Reports whether the probability is the same as in setup: it may not depend on the format, route or
 * batch.
 *
 * @param {string} model @param {ImageFile} image @param {number} probability @param {Expected} expected
 */
function sameProbability(model, image, probability, expected) {
  const before = expected.probabilities[keyOf(model, image)];
  return before === undefined || Math.abs(before - probability) < 1e-4;
}

/**
 * Returns the current model's probability for each image, by model and drawing, or {} if the request
 * fails. The request isn't counted in any metric.
 *
 * @returns {Record<string, number>}
 */
export function probabilities() {
  const got = body(postForms(images))?.predictions;
  if (!Array.isArray(got) || got.length !== images.length) return {};
  return Object.fromEntries(images.map((p, i) => [keyOf(got[i]?.model, p), got[i]?.probability]));
}

/** @param {ImageFile} image @param {string} label @param {Expected} expected */
function recordLabel(image, label, expected) {
  if (expected.labels && image.label) rightLabel.add(label === image.label);
}

/**
 * Checks a prediction.
 *
 * @param {any} p @param {ImageFile} image @param {Expected} expected @returns {boolean}
 */
function checkPrediction(p, image, expected) {
  const ok = check(p, {
    'id is a UUIDv7': (p) => uuid.test(p?.id),
    'label is REAL or FAKE': (p) => p?.label === 'REAL' || p?.label === 'FAKE',
    'isAI matches the label': (p) => p?.isAI === (p?.label === 'FAKE'),
    'probability is between 0 and 1': (p) => p?.probability >= 0 && p?.probability <= 1,
    'probability matches the label': (p) => p?.probability > expected.threshold === (p?.label === 'FAKE'),
    'model is the current one': (p) => expected.digests.includes(p?.model),
    'same pixels, same probability': (p) => sameProbability(p?.model, image, p?.probability, expected),
  });
  if (ok) {
    recordLabel(image, p.label, expected);
    predictions.add(1);
  }
  return ok;
}

/**
 * Checks the response for one image and returns the prediction, or undefined.
 *
 * @param {string} route @param {Response} r @param {ImageFile} image @param {Expected} expected
 */
function checkSingle(route, r, image, expected) {
  if (record(route, r)) return undefined;
  const p = body(r);
  return check(r, { 'status is 200': (r) => r.status === 200 }) && checkPrediction(p, image, expected) ? p : undefined;
}

/** Sends an image as a form, like a browser. @param {ImageFile} image @param {Expected} expected @param {string} [route] */
export function sendForm(image, expected, route = '/predict') {
  return checkSingle(route, http.post(target + route, { data: http.file(image.data, image.file) }, params(route)), image, expected);
}

/** Sends an image as the body. @param {ImageFile} image @param {Expected} expected */
export function sendBody(image, expected) {
  return checkSingle('/predict', http.post(`${target}/predict`, image.data, params('/predict', { 'Content-Type': 'application/octet-stream' })), image, expected);
}

/**
 * Requests a prediction with an explanation.
 *
 * @param {ImageFile} image @param {Expected} expected @param {string} method gradcam or occlusion @param {string} [format] array or png
 */
export function sendExplained(image, expected, method, format = 'array') {
  const r = http.post(`${target}/predict?explain=${method}&explain_format=${format}`, image.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = checkSingle('/predict', r, image, expected);
  if (!p) return;
  const values = format === 'array' ? (p.explanation?.map || []).flat() : [];
  check(p.explanation, {
    'explanation uses the requested method': (e) => e?.method === method,
    'explanation has 32×32 values between 0 and 1': (e) => (format === 'png' ? /^iVBORw0KGgo/.test(e?.png) : e?.map?.length === 32 && values.length === 1024 && values.every((/** @type {number} */ v) => v >= 0 && v <= 1)),
  });
}

/**
 * Requests a prediction with the model's input as a PNG.
 *
 * @param {ImageFile} image @param {Expected} expected
 */
export function sendForInput(image, expected) {
  const r = http.post(`${target}/predict?input=png`, image.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = checkSingle('/predict', r, image, expected);
  if (p) check(p, { 'input is a PNG': (p) => /^iVBORw0KGgo/.test(p.input) });
}

/**
 * Checks the response for several images, of which one may be invalid.
 *
 * @param {Response} r @param {ImageFile[]} list @param {Expected} expected @param {number} [invalid] index of the invalid image
 */
function checkSeveral(r, list, expected, invalid = -1) {
  if (record('/predict', r)) return;
  const got = body(r)?.predictions;
  const complete = check(r, {
    'status is 200': (r) => r.status === 200,
    'one prediction per image': () => Array.isArray(got) && got.length === list.length,
  });
  if (!complete) return;
  check(got, { 'same model for all images': (got) => new Set(got.filter((/** @type {any} */ p) => p.model).map((/** @type {any} */ p) => p.model)).size === 1 });
  list.forEach((image, i) => {
    if (i !== invalid) checkPrediction(got[i], image, expected);
    else check(got[i], { 'invalid image has an error at its index': (p) => p?.error?.status === 415 && p?.label === undefined });
  });
}

/** Sends several images as one form. @param {ImageFile[]} list */
function postForms(list) {
  const boundary = 'fakeart-loadtest-boundary';
  const parts = list.flatMap((p) => [
    ascii(`--${boundary}\r\nContent-Disposition: form-data; name="data"; filename="${p.file}"\r\n\r\n`),
    new Uint8Array(p.data), ascii('\r\n'),
  ]);
  const headers = { 'Content-Type': `multipart/form-data; boundary=${boundary}` };
  return http.post(`${target}/predict`, join(...parts, ascii(`--${boundary}--\r\n`)), params('/predict', headers));
}

/** Sends several images as a form and checks the response. @param {ImageFile[]} list @param {Expected} expected */
export const sendForms = (list, expected) => checkSeveral(postForms(list), list, expected);

/** Sends several images as JSON, optionally with an invalid one. @param {ImageFile[]} list @param {Expected} expected @param {number} [invalid] index of the invalid image */
export function sendInstances(list, expected, invalid) {
  const instances = list.map((p, i) => ({ b64: i === invalid ? 'bm8=' : b64encode(p.data) }));
  checkSeveral(http.post(`${target}/predict`, JSON.stringify({ instances }), params('/predict', json)), list, expected, invalid);
}

const inferRoute = '/v2/models/{name}/infer';
const inferURL = `${target}/v2/models/fakeart/infer`;

/**
 * Requests inference by the Open Inference Protocol, which takes tensors.
 *
 * @param {boolean} binary use the binary tensor data extension in request and response
 * @param {Expected} expected
 */
export function infer(binary, expected) {
  const image = pick(bmps);
  const values = tensor(image.data);
  const input = { name: 'input', shape: [1, 3, 32, 32], datatype: 'FP32' };
  const id = `${__VU}-${__ITER}`;
  if (!binary) {
    const request = { id, inputs: [{ ...input, data: Array.from(values) }], outputs: [{ name: 'logit' }] };
    const r = http.post(inferURL, JSON.stringify(request), { ...params(inferRoute, json), compression: 'gzip' });
    if (record(inferRoute, r)) return;
    const response = body(r);
    checkInference(r, response, response?.outputs?.[0]?.data?.[0], id, image, expected);
    return;
  }
  const head = ascii(JSON.stringify({
    id, inputs: [{ ...input, parameters: { binary_data_size: values.byteLength } }], outputs: [{ name: 'logit', parameters: { binary_data: true } }],
  }));
  const headers = { 'Content-Type': 'application/octet-stream', 'Inference-Header-Content-Length': String(head.length) };
  const r = http.post(inferURL, join(head, new Uint8Array(values.buffer)), { ...params(inferRoute, headers), responseType: 'binary' });
  if (record(inferRoute, r)) return;
  // Without the header, as in an error, the whole body is JSON.
  const bytes = r.body instanceof ArrayBuffer ? r.body : new ArrayBuffer(0);
  const length = Number(r.headers['Inference-Header-Content-Length'] || bytes.byteLength);
  let response;
  try {
    response = JSON.parse(String.fromCharCode(...new Uint8Array(bytes, 0, length)));
  } catch {
    response = undefined;
  }
  checkInference(r, response, bytes.byteLength === length + 4 ? new DataView(bytes).getFloat32(length, true) : undefined, id, image, expected);
}

/**
 * Checks a response of the protocol.
 *
 * @param {Response} r @param {any} response @param {number|undefined} logit
 * @param {string} id @param {ImageFile} image @param {Expected} expected
 */
function checkInference(r, response, logit, id, image, expected) {
  const probability = 1 / (1 + Math.exp(-Number(logit)));
  const ok = check(r, {
    'status is 200': (r) => r.status === 200,
    'v2: id is the one sent': () => response?.id === id,
    'v2: version is the current model': () => expected.digests.includes(response?.model_version),
    'v2: one logit': () => Number.isFinite(logit) && String(response?.outputs?.[0]?.shape) === '1,1',
    'same pixels, same probability': () => sameProbability(response?.model_version, image, probability, expected),
  });
  if (!ok) return;
  recordLabel(image, probability > expected.threshold ? 'FAKE' : 'REAL', expected);
  predictions.add(1);
}

/** Returns the pixels of a 32×32 BMP as planes of red, green and blue. @param {ArrayBuffer} bmp */
function tensor(bmp) {
  const bytes = new Uint8Array(bmp);
  const start = new DataView(bmp).getUint32(10, true);
  const side = 32;
  const planes = new Float32Array(3 * side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      for (let c = 0; c < 3; c++) { // rows from the bottom up, blue first
        planes[c * side * side + y * side + x] = bytes[start + 3 * ((side - 1 - y) * side + x) + 2 - c] / 255;
      }
    }
  }
  return planes;
}

/**
 * Sends the correct label of a prediction. A server without a prediction log rejects feedback with 404.
 *
 * @param {any} p the prediction @param {ImageFile} image
 */
export function sendFeedback(p, image) {
  const route = '/feedback';
  const feedback = { id: p?.id, label: image.label || p?.label, comment: 'load test' };
  const r = http.post(target + route, JSON.stringify(feedback), { ...params(route, json), responseCallback: http.expectedStatuses(200, 404) });
  const f = body(r);
  check(r, {
    'feedback is stored, or rejected without a log': (r) => r.status === 200 || (r.status === 404 && f?.detail?.includes('keeps no')),
    'feedback response repeats the feedback': (r) => r.status !== 200 || (f?.id === feedback.id && f?.label === feedback.label && f?.comment === feedback.comment),
    'feedback response has the prediction': (r) => r.status !== 200 || f?.verdict === undefined || (f.verdict === p.label && f.correct === (f.verdict === f.label)),
  });
}

/** Checks that the server is ready. Cloud Run reserves paths such as /readyz. */
export function health() {
  const route = '/v2/health/ready';
  check(http.get(target + route, params(route)), {
    'server is ready': (r) => r.status === 200 && body(r)?.ready === true,
  });
}

/** Checks the descriptions of the model by Triton's extensions of the protocol. */
export function modelDetails() {
  const config = '/v2/models/fakeart/config', statistics = '/v2/models/fakeart/stats', index = '/v2/repository/index';
  check(http.get(target + config, params(config)), {
    'config has the input': (r) => r.status === 200 && String(body(r)?.input?.[0]?.dims) === '3,32,32',
  });
  check(http.get(target + statistics, params(statistics)), {
    'statistics count images': (r) => r.status === 200 && body(r)?.model_stats?.[0]?.inference_count > 0,
  });
  check(http.post(target + index, '{"ready":true}', params(index, json)), {
    'index lists the model': (r) => r.status === 200 && body(r)?.[0]?.state === 'READY',
  });
}

/** Checks that /stats counts predictions. */
export function stats() {
  const route = '/stats';
  check(http.get(target + route, params(route)), {
    'stats count predictions': (r) => r.status === 200 && body(r)?.predictions.real + body(r)?.predictions.fake > 0,
  });
}

/**
 * Requests that the server must reject, with a description. The default path is /predict.
 *
 * @type {{ what: string, path?: string, method?: string, headers?: Record<string, string>, send: () => any }[]}
 */
export const invalidRequests = [
  { what: 'empty body', send: () => null },
  { what: 'text', send: () => 'I am a photograph.' },
  { what: 'noise', send: () => new Uint8Array(4096).map(() => 256 * Math.random()).buffer },
  { what: 'truncated image', send: () => find('real-0.png').slice(0, 600) },
  { what: 'corrupt image data', send: () => damaged(find('real-0.png')) },
  { what: 'image of 2 billion pixels', send: () => huge(find('real-0.png')) },
  { what: 'form without an image', send: () => ({ other: 'field' }) },
  { what: 'truncated form', headers: { 'Content-Type': 'multipart/form-data; boundary=b' }, send: () => '--b\r\nContent-Disposition: form-data; name="data"' },
  { what: 'form without a boundary', headers: { 'Content-Type': 'multipart/form-data' }, send: () => 'x' },
  { what: 'invalid JSON', headers: json, send: () => '{"instances":[' },
  { what: 'JSON of the wrong shape', headers: json, send: () => '{"instances":{"b64":1}}' },
  { what: 'no instances', headers: json, send: () => '{"instances":[]}' },
  { what: '10,000 instances', headers: json, send: () => JSON.stringify({ instances: Array(10_000).fill({ b64: '' }) }) },
  { what: 'unsupported encoding', headers: { 'Content-Encoding': 'br' }, send: () => find('real-0.png') },
  { what: 'invalid gzip', headers: { 'Content-Encoding': 'gzip' }, send: () => find('real-0.png') },
  { what: 'unknown explanation method', path: '/predict?explain=tarot', send: () => find('real-0.png') },
  { what: 'unknown input format', path: '/predict?input=jpeg', send: () => find('real-0.png') },
  { what: 'wrong HTTP method', method: 'DELETE', send: () => null },
  { what: 'unknown path', path: '/predictions', send: () => 'x' },
  { what: 'tensor of the wrong shape', path: '/v2/models/fakeart/infer', headers: json, send: () => '{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[0]}]}' },
  { what: 'wrong header length', path: '/v2/models/fakeart/infer', headers: { 'Inference-Header-Content-Length': '99999' }, send: () => '{}' },
  { what: 'feedback on an unknown prediction', path: '/feedback', headers: json, send: () => '{"id":"00000000-0000-7000-8000-000000000000","label":"REAL"}' },
  { what: 'invalid feedback', path: '/feedback', headers: json, send: () => '{"id":"1","label":"MAYBE"}' },
  { what: 'unknown model', path: '/v2/models/other/infer', headers: json, send: () => '{}' },
  { what: 'invalid index request', path: '/v2/repository/index', headers: json, send: () => '[]' },
];

/** Sends an invalid request and checks that the server rejects it as documented. @param {typeof invalidRequests[number]} h */
export function sendInvalid(h) {
  const path = h.path || '/predict';
  const r = http.request(h.method || 'POST', target + path, h.send(), { ...params(path, h.headers), responseCallback: http.expectedStatuses({ min: 400, max: 499 }) });
  record(path, r);
  const response = body(r);
  check(r, {
    [`${h.what}: rejected with 4xx`]: (r) => r.status >= 400 && r.status < 500,
    [`${h.what}: response has a reason`]: () => (path.startsWith('/v2/') ? response?.error?.length > 0 : response?.status === r.status && response?.detail?.length > 0),
  });
}

/** @param {string} file */
const find = (file) => /** @type {ImageFile} */ (images.find((p) => p.file === file)).data;

/** Returns a copy with wrong bytes in the middle of its data. @param {ArrayBuffer} png */
function damaged(png) {
  const bytes = new Uint8Array(png.slice(0));
  bytes.fill(0xff, 300, 400);
  return bytes.buffer;
}

/** Returns a copy with a huge width and height in its header, with a valid checksum. @param {ArrayBuffer} png */
function huge(png) {
  const bytes = new Uint8Array(png.slice(0));
  const view = new DataView(bytes.buffer);
  view.setUint32(16, 46_341);
  view.setUint32(20, 46_341);
  view.setUint32(29, crc32(bytes.subarray(12, 29)));
  return bytes.buffer;
}

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** @param {string} text */
const ascii = (text) => new Uint8Array(text.length).map((_, i) => text.charCodeAt(i));

/** @param {...Uint8Array} parts */
function join(...parts) {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return all.buffer;
}

/** Returns the current model, or the problem why it is unknown. @returns {{ model?: any, problem?: string }} */
export function currentModel() {
  const r = http.get(`${target}/models/current`, params('/models/current'));
  if (r.status === 0) return { problem: `no response from ${target} (${r.error})\nhint: start a server with bin/server --model FILE, or set another address with -e TARGET=http://HOST:PORT` };
  const model = body(r);
  if (r.status !== 200 || !model?.model) return { problem: `${target}/models/current returned ${r.status} and no model: is it Fakeart's server?` };
  return { model };
}

/** Returns the models that the server's source offers. @returns {{ ref: string, current: boolean }[]} */
export const offeredModels = () => body(http.get(`${target}/models`, params('/models')))?.models || [];

/** Changes the current model. @param {string} ref @returns {{ model?: any, problem?: string }} */
export function changeModel(ref) {
  const token = __ENV.FAKEART_ADMIN_TOKEN;
  /** @type {Record<string, string>} */
  const headers = token ? { ...json, Authorization: `Bearer ${token.split(',')[0]}` } : json;
  const r = http.put(`${target}/models/current`, JSON.stringify({ model: ref }), { ...params('/models/current', headers), timeout: '30s' });
  if (r.status === 200) return { model: body(r) };
  const hint = r.status === 401 || r.status === 403 ? '\nhint: set FAKEART_ADMIN_TOKEN to an admin token' : '';
  return { problem: `PUT ${target}/models/current returned ${r.status}: ${body(r)?.detail || r.error}${hint}` };
}
