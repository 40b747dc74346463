// @ts-check
// The requests and the checks of their responses. A failed check fails the run: SLOs tolerate some
// requests without a response, but no wrong responses.

import { check } from 'k6';
import { b64encode } from 'k6/encoding';
import http from 'k6/http';
import { Rate } from 'k6/metrics';

import { predictions, read, record, smallPixels } from './objectives.js';

/**
 * @typedef {{ file: string, label?: string, drawing: string, width: number, height: number, data: ArrayBuffer }} ImageFile
 * @typedef {{ classes: string[], positive: string, threshold: number }} Model
 *   positive is the class that the probability and the threshold refer to; empty if a probability is
 *   that of the predicted class
 * @typedef {{ name: string, datatype: string, shape: number[] }} Tensor
 * @typedef {{ name: string, input: Tensor, output: Tensor }} Tensors the model in the v2 protocol, with its first output
 * @typedef {{ digests: string[], models: Record<string, Model>, labels: boolean, probabilities: Record<string, number>,
 *   explanations: string[], tensors?: Tensors }} Expected
 *   results of setup: the digests of the models that may respond, their /models/current,
 *   whether labels can be checked, the probability of each drawing by each model, the explanations that
 *   the model supports, and its tensors
 * @typedef {import('k6/http').Response} Response
 */

/** URL of the server. */
export const target = (__ENV.TARGET || 'http://127.0.0.1:8080').replace(/\/+$/, '');

/** Name of the model to test, for a server with several. */
const modelName = __ENV.MODEL_NAME || '';

/** Returns the URL of a path, with the name of the model. @param {string} path which may have a query */
const at = (path) => target + path + (modelName ? `${path.includes('?') ? '&' : '?'}model=${encodeURIComponent(modelName)}` : '');

const index = JSON.parse(String(read('./pictures/index.json')));

/** Digest of the dataset whose test split contains the images. */
export const data = index.data;

/** Number of pixels of a request. @param {ImageFile[]} list */
const pixels = (list) => list.reduce((n, p) => n + p.width * p.height, 0);

const sizeOf = (/** @type {ImageFile} */ p) => `${p.width}x${p.height}`;
const size = __ENV.SIZE || '';
const sizes = [...new Set(index.pictures.filter((/** @type {ImageFile} */ p) => !p.label).map(sizeOf))];
if (size && !sizes.includes(size)) throw new Error(`SIZE=${size}: unknown size; expected one of ${sizes.join(', ')}`);

// Each user has a copy of the files. Therefore, large ones are read only if they are sent.
/** @type {ImageFile[]} */
const all = index.pictures
  .filter((/** @type {ImageFile} */ p) => pixels([p]) <= smallPixels || sizeOf(p) === size || __ENV.SCENARIO === 'smoke')
  .map((/** @type {ImageFile} */ p) => ({ ...p, data: read(`./pictures/${p.file}`, 'b') }));

/** Images of all formats: those that are small, or those of SIZE. */
export const images = all.filter((p) => (size ? sizeOf(p) === size : pixels([p]) <= smallPixels));

/** Images that make a request large. */
export const largeImages = all.filter((p) => pixels([p]) > smallPixels);

/** The JPEG files to send: those with a label, which are as small as CIFAKE's images, or those of SIZE. */
export const jpegs = images.filter((p) => (size || p.label) && p.file.endsWith('.jpg'));
const bmps = all.filter((p) => p.file.endsWith('.bmp'));
const pngs = all.filter((p) => p.file.endsWith('.png'));

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
  const got = body(postForms(all))?.predictions;
  if (!Array.isArray(got) || got.length !== all.length) return {};
  return Object.fromEntries(all.map((p, i) => [keyOf(got[i]?.model, p), got[i]?.probability]));
}

/** Returns what the checks need to know of a model. @param {any} model from /models/current @returns {Model} */
export const describe = (model) => ({
  classes: model.classes || [], threshold: model.threshold,
  // A model with two classes and without this field has one output: the probability of the second class.
  positive: model.positive ?? (model.classes?.length === 2 ? model.classes[1] : ''),
});

/** @param {ImageFile} image @param {string} label @param {Expected} expected */
function recordLabel(image, label, expected) {
  if (expected.labels && image.label) rightLabel.add(label === image.label);
}

/**
 * Reports whether the label and the probability of a prediction match: both are those of the greatest
 * probability or, with a positive class, decided by the threshold.
 *
 * @param {any} p @param {Model|undefined} m
 */
function consistent(p, m) {
  if (!m) return false;
  const all = p.probabilities ?? {};
  const own = all[m.positive || p.label];
  if (own !== undefined && Math.abs(own - p.probability) > 1e-6) return false;
  if (m.positive) return p.probability > m.threshold === (p.label === m.positive);
  return Object.values(all).every((other) => other <= p.probability);
}

/**
 * Reports whether the probabilities of a prediction, if it has them, are of classes of the model.
 *
 * @param {any} p @param {Model|undefined} m
 */
function validProbabilities(p, m) {
  const all = Object.entries(p?.probabilities ?? {});
  const sum = all.reduce((n, [, v]) => n + v, 0);
  return all.every(([label, v]) => m?.classes.includes(label) && v >= 0 && v <= 1) && (all.length < (m?.classes.length ?? 0) ? sum < 1.001 : Math.abs(sum - 1) < 0.001 || all.length === 0);
}

/**
 * Checks a prediction.
 *
 * @param {any} p @param {ImageFile} image @param {Expected} expected @returns {boolean}
 */
function checkPrediction(p, image, expected) {
  const m = expected.models[p?.model];
  const ok = check(p, {
    'id is a UUIDv7': (p) => uuid.test(p?.id),
    'label is a class of the model': (p) => !m || m.classes.includes(p?.label),
    'isAI matches the label': (p) => !m || p?.isAI === undefined || p.isAI === (p.label === m.positive),
    'probability is between 0 and 1': (p) => p?.probability >= 0 && p?.probability <= 1,
    'probability matches the label': (p) => !m || consistent(p, m),
    'probabilities are of the classes of the model': (p) => !m || validProbabilities(p, m),
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
  if (record(route, r, pixels([image]))) return undefined;
  const p = body(r);
  return check(r, { 'status is 200': (r) => r.status === 200 }) && checkPrediction(p, image, expected) ? p : undefined;
}

/** Sends an image as a form, like a browser. @param {ImageFile} image @param {Expected} expected @param {string} [route] */
export function sendForm(image, expected, route = '/predict') {
  return checkSingle(route, http.post(at(route), { data: http.file(image.data, image.file) }, params(route)), image, expected);
}

/** Sends an image as the body. @param {ImageFile} image @param {Expected} expected */
export function sendBody(image, expected) {
  return checkSingle('/predict', http.post(at('/predict'), image.data, params('/predict', { 'Content-Type': 'application/octet-stream' })), image, expected);
}

/**
 * Requests a prediction with an explanation.
 *
 * @param {ImageFile} image @param {Expected} expected @param {string} method as in /models/current @param {string} [format] array or png
 */
export function sendExplained(image, expected, method, format = 'array') {
  const r = http.post(at(`/predict?explain=${method}&explain_format=${format}`), image.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = checkSingle('/predict', r, image, expected);
  if (!p) return;
  const map = p.explanation?.map || [[]];
  const values = format === 'array' ? map.flat() : [];
  check(p.explanation, {
    'explanation uses the requested method': (e) => e?.method === method,
    'explanation is a PNG or has rows of values between 0 and 1': (e) => (format === 'png' ? /^iVBORw0KGgo/.test(e?.png)
      : values.length > 0 && values.length === map.length * map[0].length && values.every((/** @type {number} */ v) => v >= 0 && v <= 1)),
  });
}

/**
 * Requests a prediction with the model's input as a PNG.
 *
 * @param {ImageFile} image @param {Expected} expected
 */
export function sendForInput(image, expected) {
  const r = http.post(at('/predict?input=png'), image.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = checkSingle('/predict', r, image, expected);
  if (p) check(p, { 'input is a PNG': (p) => /^iVBORw0KGgo/.test(p.input) });
}

/**
 * Checks the response for several images, of which one may be invalid.
 *
 * @param {Response} r @param {ImageFile[]} list @param {Expected} expected @param {number} [invalid] index of the invalid image
 */
function checkSeveral(r, list, expected, invalid = -1) {
  if (record('/predict', r, pixels(list))) return;
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
  return http.post(at('/predict'), join(...parts, ascii(`--${boundary}--\r\n`)), params('/predict', headers));
}

/** Sends several images as a form and checks the response. @param {ImageFile[]} list @param {Expected} expected */
export const sendForms = (list, expected) => checkSeveral(postForms(list), list, expected);

/** Sends several images as JSON, optionally with an invalid one. @param {ImageFile[]} list @param {Expected} expected @param {number} [invalid] index of the invalid image */
export function sendInstances(list, expected, invalid) {
  const instances = list.map((p, i) => ({ b64: i === invalid ? 'bm8=' : b64encode(p.data) }));
  checkSeveral(http.post(at('/predict'), JSON.stringify({ instances }), params('/predict', json)), list, expected, invalid);
}

const inferRoute = '/v2/models/{name}/infer';

/**
 * Returns the name and the tensors of the model in the v2 protocol, or undefined if the server doesn't
 * describe them.
 *
 * @param {any} model from /models/current @returns {Tensors|undefined}
 */
export function modelTensors(model) {
  const name = modelName || model.model_name || 'fakeart';
  const m = body(http.get(`${target}/v2/models/${encodeURIComponent(name)}`, params('/v2/models/{name}')));
  const one = (/** @type {any} */ t) => ({ ...t, shape: t.shape.map((/** @type {number} */ n) => Math.max(n, 1)) });
  return m?.inputs?.[0] && m.outputs?.[0] ? { name, input: one(m.inputs[0]), output: one(m.outputs[0]) } : undefined;
}

/**
 * Requests inference by the Open Inference Protocol, which takes tensors: the pixels of an image for a
 * model whose preprocessing is known, otherwise a pattern.
 *
 * @param {boolean} binary use the binary tensor data extension in request and response
 * @param {Expected} expected
 */
export function infer(binary, expected) {
  if (!check(expected.tensors, { 'v2: the server describes the tensors of the model': (t) => !!t })) return;
  const { name, input, output } = /** @type {Tensors} */ (expected.tensors);
  const url = `${target}/v2/models/${encodeURIComponent(name)}/infer`;
  const image = expected.labels ? pick(bmps) : undefined;
  const values = image ? tensor(image.data) : pattern(input);
  const id = `${__VU}-${__ITER}`;
  if (!binary) {
    const request = { id, inputs: [{ ...input, data: Array.from(values) }], outputs: [{ name: output.name }] };
    const r = http.post(url, JSON.stringify(request), { ...params(inferRoute, json), compression: 'gzip' });
    if (record(inferRoute, r)) return;
    const response = body(r);
    checkInference(r, response, response?.outputs?.[0]?.data, id, image, expected);
    return;
  }
  const head = ascii(JSON.stringify({
    id, inputs: [{ ...input, parameters: { binary_data_size: values.byteLength } }], outputs: [{ name: output.name, parameters: { binary_data: true } }],
  }));
  const headers = { 'Content-Type': 'application/octet-stream', 'Inference-Header-Content-Length': String(head.length) };
  const r = http.post(url, join(head, new Uint8Array(values.buffer)), { ...params(inferRoute, headers), responseType: 'binary' });
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
  const view = new DataView(bytes, length);
  checkInference(r, response, Array.from({ length: Math.floor(view.byteLength / 4) }, (_, i) => view.getFloat32(4 * i, true)), id, image, expected);
}

/**
 * Returns values for a tensor that are valid for any model: 0 to 1, or 0 to 255 for bytes.
 *
 * @param {Tensor} input
 */
function pattern(input) {
  const n = input.shape.reduce((n, d) => n * d, 1);
  const level = (/** @type {number} */ i) => (i * 37) % 256;
  return input.datatype === 'UINT8' ? new Uint8Array(n).map((_, i) => level(i)) : new Float32Array(n).map((_, i) => level(i) / 256);
}

/** Scores of the pattern, by model. @type {Record<string, number[]>} */
const patternScores = {};

/**
 * Checks a response of the protocol.
 *
 * @param {Response} r @param {any} response @param {number[]|undefined} scores
 * @param {string} id @param {ImageFile|undefined} image undefined for a pattern @param {Expected} expected
 */
function checkInference(r, response, scores, id, image, expected) {
  const shape = /** @type {Tensors} */ (expected.tensors).output.shape;
  const version = response?.model_version;
  const values = scores ?? [];
  const valid = values.length === shape.reduce((n, d) => n * d, 1) && values.every(Number.isFinite);
  const m = expected.models[version];
  const p = image && valid && m ? decide(values, m) : undefined;
  const before = !image && valid ? patternScores[version] ??= values : undefined;
  const ok = check(r, {
    'status is 200': (r) => r.status === 200,
    'v2: id is the one sent': () => response?.id === id,
    'v2: version is the current model': () => expected.digests.includes(version),
    'v2: the scores have the shape of the output': () => valid && String(response?.outputs?.[0]?.shape) === String(shape),
    'v2: same tensor, same scores': () => !before || before.every((v, i) => Math.abs(v - values[i]) <= 1e-4 * Math.max(1, Math.abs(v))),
    'same pixels, same probability': () => !image || !p || sameProbability(version, image, p.probability, expected),
  });
  if (!ok) return;
  if (image && p) recordLabel(image, p.label, expected);
  predictions.add(1);
}

/**
 * Returns the prediction from the logits of a model: one for the second class, or one per class.
 *
 * @param {number[]} logits @param {Model} m
 */
function decide(logits, m) {
  const all = logits.length === 1 ? [0, logits[0]] : logits;
  const powers = all.map((v) => Math.exp(v - Math.max(...all)));
  const probabilities = powers.map((v) => v / powers.reduce((a, b) => a + b));
  const i = m.classes.indexOf(m.positive);
  if (i < 0) return { label: m.classes[probabilities.indexOf(Math.max(...probabilities))], probability: Math.max(...probabilities) };
  return { label: m.classes[probabilities[i] > m.threshold ? i : 1 - i], probability: probabilities[i] };
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
 * Sends the correct label of a prediction, or its own label if the model has other classes. A server
 * without a prediction log rejects feedback with 404.
 *
 * @param {any} p the prediction @param {ImageFile} image @param {Expected} expected
 */
export function sendFeedback(p, image, expected) {
  const route = '/feedback';
  const feedback = { id: p?.id, label: expected.labels && image.label || p?.label, comment: 'load test' };
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

/** Checks the descriptions of the model by Triton's extensions of the protocol. @param {Expected} expected */
export function modelDetails(expected) {
  const name = encodeURIComponent(expected.tensors?.name ?? '');
  const config = `/v2/models/${name}/config`, statistics = `/v2/models/${name}/stats`, index = '/v2/repository/index';
  check(http.get(target + config, params(config)), {
    'config has the input': (r) => r.status === 200 && String(body(r)?.input?.[0]?.dims) === String(expected.tensors?.input.shape.slice(1)),
  });
  check(http.get(target + statistics, params(statistics)), {
    'statistics count images': (r) => r.status === 200 && body(r)?.model_stats?.[0]?.inference_count > 0,
  });
  check(http.post(target + index, '{"ready":true}', params(index, json)), {
    'index lists the model': (r) => r.status === 200 && body(r)?.find((/** @type {any} */ m) => m.name === expected.tensors?.name)?.state === 'READY',
  });
}

/** Returns the sum of all numbers in a value. @param {any} v @returns {number} */
const total = (v) => (typeof v === 'number' ? v : Object.values(v ?? {}).reduce((n, x) => n + total(x), 0));

/** Checks that /stats counts predictions. */
export function stats() {
  const route = '/stats';
  check(http.get(target + route, params(route)), {
    'stats count predictions': (r) => r.status === 200 && total(body(r)?.predictions) > 0,
  });
}

/**
 * Requests that the server must reject, with a description. The default path is /predict; NAME in a path
 * is the name of the model.
 *
 * @type {{ what: string, path?: string, method?: string, headers?: Record<string, string>, send: (expected: Expected) => any }[]}
 */
export const invalidRequests = [
  { what: 'empty body', send: () => null },
  { what: 'text', send: () => 'I am a photograph.' },
  { what: 'noise', send: () => new Uint8Array(4096).map(() => 256 * Math.random()).buffer },
  { what: 'truncated image', send: () => pngs[0].data.slice(0, 600) },
  { what: 'corrupt image data', send: () => damaged(pngs[0].data) },
  { what: 'image of 2 billion pixels', send: () => huge(pngs[0].data) },
  { what: 'form without an image', send: () => ({ other: 'field' }) },
  { what: 'truncated form', headers: { 'Content-Type': 'multipart/form-data; boundary=b' }, send: () => '--b\r\nContent-Disposition: form-data; name="data"' },
  { what: 'form without a boundary', headers: { 'Content-Type': 'multipart/form-data' }, send: () => 'x' },
  { what: 'invalid JSON', headers: json, send: () => '{"instances":[' },
  { what: 'JSON of the wrong shape', headers: json, send: () => '{"instances":{"b64":1}}' },
  { what: 'no instances', headers: json, send: () => '{"instances":[]}' },
  { what: '10,000 instances', headers: json, send: () => JSON.stringify({ instances: Array(10_000).fill({ b64: '' }) }) },
  { what: 'unsupported encoding', headers: { 'Content-Encoding': 'br' }, send: () => pngs[0].data },
  { what: 'invalid gzip', headers: { 'Content-Encoding': 'gzip' }, send: () => pngs[0].data },
  { what: 'unknown explanation method', path: '/predict?explain=tarot', send: () => pngs[0].data },
  { what: 'unknown input format', path: '/predict?input=jpeg', send: () => pngs[0].data },
  { what: 'wrong HTTP method', method: 'DELETE', send: () => null },
  { what: 'unknown path', path: '/predictions', send: () => 'x' },
  { what: 'tensor of the wrong shape', path: '/v2/models/NAME/infer', headers: json, send: (e) => JSON.stringify({ inputs: [{ ...e.tensors?.input, shape: [1, 1], data: [0] }] }) },
  { what: 'wrong header length', path: '/v2/models/NAME/infer', headers: { 'Inference-Header-Content-Length': '99999' }, send: () => '{}' },
  { what: 'feedback on an unknown prediction', path: '/feedback', headers: json, send: (e) => JSON.stringify({ id: '00000000-0000-7000-8000-000000000000', label: Object.values(e.models)[0].classes[0] }) },
  { what: 'invalid feedback', path: '/feedback', headers: json, send: () => '{"id":"1","label":"no such class"}' },
  { what: 'unknown model', path: '/v2/models/no-such-model/infer', headers: json, send: () => '{}' },
  { what: 'unknown model of /predict', path: '/predict?model=no-such-model', send: () => pngs[0].data },
  { what: 'invalid index request', path: '/v2/repository/index', headers: json, send: () => '[]' },
];

/**
 * Sends an invalid request and checks that the server rejects it as documented.
 *
 * @param {typeof invalidRequests[number]} h @param {Expected} expected
 */
export function sendInvalid(h, expected) {
  const path = (h.path || '/predict').replace('NAME', encodeURIComponent(expected.tensors?.name ?? ''));
  const r = http.request(h.method || 'POST', target + path, h.send(expected), { ...params(path, h.headers), responseCallback: http.expectedStatuses({ min: 400, max: 499 }) });
  record(path, r);
  const response = body(r);
  check(r, {
    [`${h.what}: rejected with 4xx`]: (r) => r.status >= 400 && r.status < 500,
    [`${h.what}: response has a reason`]: () => (path.startsWith('/v2/') ? response?.error?.length > 0 : response?.status === r.status && response?.detail?.length > 0),
  });
}

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
  const r = http.get(at('/models/current'), params('/models/current'));
  if (r.status === 0) return { problem: `no response from ${target} (${r.error})\nhint: start a server with bin/server --model FILE, or set another address with -e TARGET=http://HOST:PORT` };
  const model = body(r);
  if (modelName && r.status >= 400 && r.status < 500 && model?.detail) return { problem: `MODEL_NAME=${modelName}: ${model.detail}` };
  if (r.status !== 200 || !model?.model) return { problem: `${target}/models/current returned ${r.status} and no model: is it Fakeart's server?` };
  return { model };
}

/** Returns the models that the server's source offers. @returns {{ ref: string, current: boolean }[]} */
export const offeredModels = () => body(http.get(at('/models'), params('/models')))?.models || [];

/** Changes the current model. @param {string} ref @returns {{ model?: any, problem?: string }} */
export function changeModel(ref) {
  const token = __ENV.FAKEART_ADMIN_TOKEN;
  /** @type {Record<string, string>} */
  const headers = token ? { ...json, Authorization: `Bearer ${token.split(',')[0]}` } : json;
  const r = http.put(at('/models/current'), JSON.stringify({ model: ref }), { ...params('/models/current', headers), timeout: '30s' });
  if (r.status === 200) return { model: body(r) };
  const hint = r.status === 401 || r.status === 403 ? '\nhint: set FAKEART_ADMIN_TOKEN to an admin token' : '';
  return { problem: `PUT ${target}/models/current returned ${r.status}: ${body(r)?.detail || r.error}${hint}` };
}
