// @ts-check
// What is sent, and what has to come back. A check that fails fails the run: objectives
// leave room for a request that was not answered, not for one that was answered wrongly.

import { check } from 'k6';
import { b64encode } from 'k6/encoding';
import http from 'k6/http';
import { Rate } from 'k6/metrics';

import { judge, predictions, read } from './objectives.js';

/**
 * @typedef {{ file: string, label?: string, drawing: string, data: ArrayBuffer }} Picture
 * @typedef {{ digests: string[], threshold: number, labels: boolean, probabilities: Record<string, number> }} Expected
 *   what setup has found out: the models that may answer, whether labels are known, and
 *   what each model says to each drawing
 * @typedef {import('k6/http').Response} Response
 */

/** Where the server is. */
export const target = (__ENV.TARGET || 'http://127.0.0.1:8080').replace(/\/+$/, '');

const index = JSON.parse(String(read('./pictures/index.json')));

/** The data set of whose test split the pictures are. */
export const data = index.data;

/** @type {Picture[]} */
export const pictures = index.pictures.map((/** @type {Picture} */ p) => ({ ...p, data: read(`./pictures/${p.file}`, 'b') }));

/** The pictures of the network's own size, as JPEG: what CIFAKE's are. */
export const jpegs = pictures.filter((p) => p.label && p.file.endsWith('.jpg'));
const bmps = pictures.filter((p) => p.file.endsWith('.bmp'));

/** Pictures judged to be what they are; counted if the model is one that can know. */
const rightLabel = new Rate('right_label');

/** One of a list. @template T @param {T[]} list @returns {T} */
export const any = (list) => list[Math.floor(Math.random() * list.length)];

/** How long an answer may take; every request gets a verdict, the last one, too. */
export const timeout = 5;

/** @param {string} route @param {Record<string, string>} [headers] @returns {{ headers?: Record<string, string>, timeout: string, tags: { name: string } }} */
const params = (route, headers) => ({ headers, timeout: `${timeout}s`, tags: { name: route } });
const json = { 'Content-Type': 'application/json' };

/** @param {Response} r the answer's JSON; undefined for what is none @returns {any} */
function body(r) {
  try {
    return JSON.parse(String(r.body));
  } catch {
    return undefined;
  }
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** @param {string} model @param {Picture} picture */
const keyOf = (model, picture) => `${model} ${picture.drawing}`;

/**
 * The same pixels have the same probability, in whatever format, route or batch.
 *
 * @param {string} model @param {Picture} picture @param {number} probability @param {Expected} expected
 */
function steady(model, picture, probability, expected) {
  const before = expected.probabilities[keyOf(model, picture)];
  return before === undefined || Math.abs(before - probability) < 1e-4;
}

/**
 * What the model in use says to each picture, by model and drawing; nothing if it does
 * not answer. It counts nowhere.
 *
 * @returns {Record<string, number>}
 */
export function probabilities() {
  const got = body(postForms(pictures))?.predictions;
  if (!Array.isArray(got) || got.length !== pictures.length) return {};
  return Object.fromEntries(pictures.map((p, i) => [keyOf(got[i]?.model, p), got[i]?.probability]));
}

/** @param {Picture} picture @param {string} label @param {Expected} expected */
function judgeLabel(picture, label, expected) {
  if (expected.labels && picture.label) rightLabel.add(label === picture.label);
}

/**
 * Checks one prediction.
 *
 * @param {any} p @param {Picture} picture @param {Expected} expected @returns {boolean}
 */
function predicted(p, picture, expected) {
  const ok = check(p, {
    'id is a UUIDv7': (p) => uuid.test(p?.id),
    'label is REAL or FAKE': (p) => p?.label === 'REAL' || p?.label === 'FAKE',
    'isAI says the same as the label': (p) => p?.isAI === (p?.label === 'FAKE'),
    'probability is from 0 to 1': (p) => p?.probability >= 0 && p?.probability <= 1,
    'probability says the same as the label': (p) => p?.probability > expected.threshold === (p?.label === 'FAKE'),
    'model is the one in use': (p) => expected.digests.includes(p?.model),
    'same pixels, same probability': (p) => steady(p?.model, picture, p?.probability, expected),
  });
  if (ok) {
    judgeLabel(picture, p.label, expected);
    predictions.add(1);
  }
  return ok;
}

/**
 * Checks the answer for one picture and returns its prediction, or undefined.
 *
 * @param {string} route @param {Response} r @param {Picture} picture @param {Expected} expected
 */
function single(route, r, picture, expected) {
  if (judge(route, r)) return undefined;
  const p = body(r);
  return check(r, { 'status is 200': (r) => r.status === 200 }) && predicted(p, picture, expected) ? p : undefined;
}

/** Sends a picture as a form, as a browser does. @param {Picture} picture @param {Expected} expected @param {string} [route] */
export function sendForm(picture, expected, route = '/predict') {
  return single(route, http.post(target + route, { data: http.file(picture.data, picture.file) }, params(route)), picture, expected);
}

/** Sends a picture as the body. @param {Picture} picture @param {Expected} expected */
export function sendBody(picture, expected) {
  return single('/predict', http.post(`${target}/predict`, picture.data, params('/predict', { 'Content-Type': 'application/octet-stream' })), picture, expected);
}

/**
 * Asks where in the picture the model found what it judged by.
 *
 * @param {Picture} picture @param {Expected} expected @param {string} method gradcam or occlusion @param {string} [format] array or png
 */
export function sendExplained(picture, expected, method, format = 'array') {
  const r = http.post(`${target}/predict?explain=${method}&explain_format=${format}`, picture.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = single('/predict', r, picture, expected);
  if (!p) return;
  const values = format === 'array' ? (p.explanation?.map || []).flat() : [];
  check(p.explanation, {
    'explained by the method asked for': (e) => e?.method === method,
    'a map of 32×32 values from 0 to 1': (e) => (format === 'png' ? /^iVBORw0KGgo/.test(e?.png) : e?.map?.length === 32 && values.length === 1024 && values.every((/** @type {number} */ v) => v >= 0 && v <= 1)),
  });
}

/**
 * Sends a picture as the body, and checks that what the model saw comes with the verdict.
 *
 * @param {Picture} picture @param {Expected} expected
 */
export function sendForInput(picture, expected) {
  const r = http.post(`${target}/predict?input=png`, picture.data, params('/predict', { 'Content-Type': 'application/octet-stream' }));
  const p = single('/predict', r, picture, expected);
  if (p) check(p, { 'what the model saw, as a PNG': (p) => /^iVBORw0KGgo/.test(p.input) });
}

/**
 * Checks the answer for several pictures, of which one may be none.
 *
 * @param {Response} r @param {Picture[]} list @param {Expected} expected @param {number} [none] its place
 */
function several(r, list, expected, none = -1) {
  if (judge('/predict', r)) return;
  const got = body(r)?.predictions;
  const whole = check(r, {
    'status is 200': (r) => r.status === 200,
    'one answer for each picture': () => Array.isArray(got) && got.length === list.length,
  });
  if (!whole) return;
  check(got, { 'one model for all pictures': (got) => new Set(got.filter((/** @type {any} */ p) => p.model).map((/** @type {any} */ p) => p.model)).size === 1 });
  list.forEach((picture, i) => {
    if (i !== none) predicted(got[i], picture, expected);
    else check(got[i], { 'what is no picture has its error in its place': (p) => p?.error?.status === 415 && p?.label === undefined });
  });
}

/** @param {Picture[]} list sent as one form */
function postForms(list) {
  const boundary = 'fakeart-loadtest-boundary';
  const parts = list.flatMap((p) => [
    ascii(`--${boundary}\r\nContent-Disposition: form-data; name="data"; filename="${p.file}"\r\n\r\n`),
    new Uint8Array(p.data), ascii('\r\n'),
  ]);
  const headers = { 'Content-Type': `multipart/form-data; boundary=${boundary}` };
  return http.post(`${target}/predict`, join(...parts, ascii(`--${boundary}--\r\n`)), params('/predict', headers));
}

/** Sends several pictures as a form. @param {Picture[]} list @param {Expected} expected */
export const sendForms = (list, expected) => several(postForms(list), list, expected);

/** Sends several pictures as JSON, perhaps with one among them that is none. @param {Picture[]} list @param {Expected} expected @param {number} [none] its place */
export function sendInstances(list, expected, none) {
  const instances = list.map((p, i) => ({ b64: i === none ? 'bm8=' : b64encode(p.data) }));
  several(http.post(`${target}/predict`, JSON.stringify({ instances }), params('/predict', json)), list, expected, none);
}

const inferRoute = '/v2/models/{name}/infer';
const inferURL = `${target}/v2/models/fakeart/infer`;

/**
 * Asks by the Open Inference Protocol, which takes tensors.
 *
 * @param {boolean} binary with the binary tensor data extension, there and back
 * @param {Expected} expected
 */
export function infer(binary, expected) {
  const picture = any(bmps);
  const values = tensor(picture.data);
  const input = { name: 'input', shape: [1, 3, 32, 32], datatype: 'FP32' };
  const id = `${__VU}-${__ITER}`;
  if (!binary) {
    const request = { id, inputs: [{ ...input, data: Array.from(values) }], outputs: [{ name: 'logit' }] };
    const r = http.post(inferURL, JSON.stringify(request), params(inferRoute, json));
    if (judge(inferRoute, r)) return;
    const answer = body(r);
    inferred(r, answer, answer?.outputs?.[0]?.data?.[0], id, picture, expected);
    return;
  }
  const head = ascii(JSON.stringify({
    id, inputs: [{ ...input, parameters: { binary_data_size: values.byteLength } }], outputs: [{ name: 'logit', parameters: { binary_data: true } }],
  }));
  const headers = { 'Content-Type': 'application/octet-stream', 'Inference-Header-Content-Length': String(head.length) };
  const r = http.post(inferURL, join(head, new Uint8Array(values.buffer)), { ...params(inferRoute, headers), responseType: 'binary' });
  if (judge(inferRoute, r)) return;
  // Without the header, as in an error, all of it is JSON.
  const bytes = r.body instanceof ArrayBuffer ? r.body : new ArrayBuffer(0);
  const length = Number(r.headers['Inference-Header-Content-Length'] || bytes.byteLength);
  let answer;
  try {
    answer = JSON.parse(String.fromCharCode(...new Uint8Array(bytes, 0, length)));
  } catch {
    answer = undefined;
  }
  inferred(r, answer, bytes.byteLength === length + 4 ? new DataView(bytes).getFloat32(length, true) : undefined, id, picture, expected);
}

/**
 * Checks the answer of the protocol.
 *
 * @param {Response} r @param {any} answer @param {number|undefined} logit
 * @param {string} id @param {Picture} picture @param {Expected} expected
 */
function inferred(r, answer, logit, id, picture, expected) {
  const probability = 1 / (1 + Math.exp(-Number(logit)));
  const ok = check(r, {
    'status is 200': (r) => r.status === 200,
    'v2: id is the one sent': () => answer?.id === id,
    'v2: version is the model in use': () => expected.digests.includes(answer?.model_version),
    'v2: one logit': () => Number.isFinite(logit) && String(answer?.outputs?.[0]?.shape) === '1,1',
    'same pixels, same probability': () => steady(answer?.model_version, picture, probability, expected),
  });
  if (!ok) return;
  judgeLabel(picture, probability > expected.threshold ? 'FAKE' : 'REAL', expected);
  predictions.add(1);
}

/** The pixels of a 32×32 BMP as planes of red, green and blue. @param {ArrayBuffer} bmp */
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
 * Says that a prediction was right, or what the picture really is. A server without a log
 * cannot keep that, and says so.
 *
 * @param {any} p the prediction @param {Picture} picture
 */
export function sendFeedback(p, picture) {
  const route = '/feedback';
  const said = { id: p?.id, label: picture.label || p?.label, comment: 'load test' };
  const r = http.post(target + route, JSON.stringify(said), { ...params(route, json), responseCallback: http.expectedStatuses(200, 404) });
  const f = body(r);
  check(r, {
    'feedback is kept, or no log is': (r) => r.status === 200 || (r.status === 404 && f?.detail?.includes('keeps no')),
    'feedback is answered with what was said': (r) => r.status !== 200 || (f?.id === said.id && f?.label === said.label && f?.comment === said.comment),
    'feedback knows the verdict': (r) => r.status !== 200 || f?.verdict === undefined || (f.verdict === p.label && f.correct === (f.verdict === f.label)),
  });
}

/** Asks whether the server is ready; Cloud Run keeps paths such as /readyz for itself. */
export function health() {
  const route = '/v2/health/ready';
  check(http.get(target + route, params(route)), {
    'server is ready': (r) => r.status === 200 && body(r)?.ready === true,
  });
}

/** Checks that the server tells what it has judged. */
export function stats() {
  const route = '/stats';
  check(http.get(target + route, params(route)), {
    'the server tells what it has judged': (r) => r.status === 200 && body(r)?.predictions.real + body(r)?.predictions.fake > 0,
  });
}

/**
 * What a server has to refuse: what is wrong with it, and how it is sent. The path is
 * /predict unless it is given.
 *
 * @type {{ what: string, path?: string, method?: string, headers?: Record<string, string>, send: () => any }[]}
 */
export const hostile = [
  { what: 'nothing', send: () => null },
  { what: 'text', send: () => 'I am a photograph.' },
  { what: 'noise', send: () => new Uint8Array(4096).map(() => 256 * Math.random()).buffer },
  { what: 'half a picture', send: () => find('real-0.png').slice(0, 600) },
  { what: 'damaged data', send: () => damaged(find('real-0.png')) },
  { what: 'a picture of 2 billion pixels', send: () => huge(find('real-0.png')) },
  { what: 'a form without a picture', send: () => ({ other: 'field' }) },
  { what: 'a form that breaks off', headers: { 'Content-Type': 'multipart/form-data; boundary=b' }, send: () => '--b\r\nContent-Disposition: form-data; name="data"' },
  { what: 'a form without a boundary', headers: { 'Content-Type': 'multipart/form-data' }, send: () => 'x' },
  { what: 'JSON that is none', headers: json, send: () => '{"instances":[' },
  { what: 'JSON of another shape', headers: json, send: () => '{"instances":{"b64":1}}' },
  { what: 'no instance', headers: json, send: () => '{"instances":[]}' },
  { what: 'ten thousand instances', headers: json, send: () => JSON.stringify({ instances: Array(10_000).fill({ b64: '' }) }) },
  { what: 'an encoding that is not read', headers: { 'Content-Encoding': 'gzip' }, send: () => find('real-0.png') },
  { what: 'an explanation that there is none of', path: '/predict?explain=tarot', send: () => find('real-0.png') },
  { what: 'an input that there is none of', path: '/predict?input=jpeg', send: () => find('real-0.png') },
  { what: 'another method', method: 'DELETE', send: () => null },
  { what: 'no such path', path: '/predictions', send: () => 'x' },
  { what: 'a tensor of another shape', path: '/v2/models/fakeart/infer', headers: json, send: () => '{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[0]}]}' },
  { what: 'a length that is a lie', path: '/v2/models/fakeart/infer', headers: { 'Inference-Header-Content-Length': '99999' }, send: () => '{}' },
  { what: 'feedback on nothing', path: '/feedback', headers: json, send: () => '{"id":"00000000-0000-7000-8000-000000000000","label":"REAL"}' },
  { what: 'feedback of another shape', path: '/feedback', headers: json, send: () => '{"id":"1","label":"MAYBE"}' },
  { what: 'another model', path: '/v2/models/other/infer', headers: json, send: () => '{}' },
];

/** Sends one of them, which has to be refused in the way that the API says. @param {typeof hostile[number]} h */
export function sendHostile(h) {
  const path = h.path || '/predict';
  const r = http.request(h.method || 'POST', target + path, h.send(), { ...params(path, h.headers), responseCallback: http.expectedStatuses({ min: 400, max: 499 }) });
  judge(path, r);
  const answer = body(r);
  check(r, {
    [`${h.what}: refused with 4xx`]: (r) => r.status >= 400 && r.status < 500,
    [`${h.what}: the answer says why`]: () => (path.startsWith('/v2/') ? answer?.error?.length > 0 : answer?.status === r.status && answer?.detail?.length > 0),
  });
}

/** @param {string} file */
const find = (file) => /** @type {Picture} */ (pictures.find((p) => p.file === file)).data;

/** @param {ArrayBuffer} png with a wrong byte in the middle of its data */
function damaged(png) {
  const bytes = new Uint8Array(png.slice(0));
  bytes.fill(0xff, 300, 400);
  return bytes.buffer;
}

/** @param {ArrayBuffer} png with another width and height in its header, checksum and all */
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

/** The model in use, or why it is not known. @returns {{ model?: any, problem?: string }} */
export function currentModel() {
  const r = http.get(`${target}/models/current`, params('/models/current'));
  if (r.status === 0) return { problem: `no server answers at ${target} (${r.error}): start one with bin/server --model FILE, or name another with -e TARGET=http://HOST:PORT` };
  const model = body(r);
  if (r.status !== 200 || !model?.model) return { problem: `${target}/models/current answered ${r.status} and no model: is it Fakeart's server?` };
  return { model };
}

/** The models that the server's source offers. @returns {{ ref: string, current: boolean }[]} */
export const offeredModels = () => body(http.get(`${target}/models`, params('/models')))?.models || [];

/** Has the server use another model. @param {string} ref @returns {{ model?: any, problem?: string }} */
export function changeModel(ref) {
  const token = __ENV.FAKEART_ADMIN_TOKEN;
  /** @type {Record<string, string>} */
  const headers = token ? { ...json, Authorization: `Bearer ${token.split(',')[0]}` } : json;
  const r = http.put(`${target}/models/current`, JSON.stringify({ model: ref }), { ...params('/models/current', headers), timeout: '30s' });
  if (r.status === 200) return { model: body(r) };
  const hint = r.status === 401 || r.status === 403 ? '; give an administrator’s token as FAKEART_ADMIN_TOKEN' : '';
  return { problem: `PUT ${target}/models/current answered ${r.status}: ${body(r)?.detail || r.error}${hint}` };
}
