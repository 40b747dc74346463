// @ts-check
// Load test of the server. It fails with exit code 99 if the server misses its SLOs or a response is
// wrong. README.md describes the scenarios and the report.
//
//   k6 run loadtest/predict.js
//   k6 run -e TARGET=http://server:8080 -e SCENARIO=steady -e RATE=100 -e DURATION=2m -e REPORT=dir loadtest/predict.js

import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';

import { metricOf, objectives, thresholdOf } from './objectives.js';
import { summarize } from './report.js';
import {
  changeModel, currentModel, data as dataDigest, describe, health, images, infer, invalidRequests, jpegs, largeImages, modelDetails, modelTensors, offeredModels, pick,
  probabilities, sendBody, sendExplained, sendFeedback, sendForInput, sendForm, sendForms, sendInstances, sendInvalid, stats, target, timeout,
} from './requests.js';

/**
 * @typedef {import('./requests.js').Expected} Expected
 * @typedef {Expected & { refs?: string[], before?: string }} Data result of setup
 * @typedef {{ duration: string, rate?: number, plan: (seconds: number, rate: number) => Record<string, any>, exact?: boolean }} Scenario
 */

/** Number of model swaps in the scenario swap. */
const swaps = new Counter('swaps');

/** An arrival rate that doesn't depend on response times. @param {number} rate @param {number} seconds */
const constant = (rate, seconds) => ({ executor: 'constant-arrival-rate', rate, duration: `${seconds}s`, preAllocatedVUs: users(rate) });

/** Number of virtual users for a rate: enough for responses of up to 1 s. @param {number} rate */
const users = (rate) => Math.min(Math.max(Math.ceil(rate), 20), 300);

/** Scenario breakpoint: the maximum number of steps, and the factor between the first and the last rate. */
const maxSteps = 20;
const maxFactor = 70;

/**
 * The scenarios, with their default duration, default rate in requests per second, and k6 options.
 *
 * @type {Record<string, Scenario>}
 */
const scenarios = {
  users: {
    duration: '1m',
    plan: (seconds) => ({
      users: {
        executor: 'ramping-vus', exec: 'user', gracefulRampDown: '0s',
        stages: [{ duration: `${Math.min(10, seconds / 2)}s`, target: 100 }, { duration: `${Math.max(seconds - 10, seconds / 2)}s`, target: 100 }],
      },
    }),
  },
  smoke: {
    duration: '1m',
    plan: (seconds) => ({ smoke: { executor: 'per-vu-iterations', exec: 'smoke', vus: 1, iterations: 1, maxDuration: `${seconds}s`, gracefulStop: '0s' } }),
  },
  steady: { duration: '1m', rate: 50, plan: (seconds, rate) => ({ steady: { ...constant(rate, seconds), exec: 'predict' } }) },
  spike: {
    duration: '1m', rate: 20,
    plan: (seconds, rate) => ({
      spike: {
        executor: 'ramping-arrival-rate', exec: 'predict', preAllocatedVUs: users(10 * rate), startRate: rate,
        stages: [[0.3, 1], [0.02, 10], [0.3, 10], [0.02, 1], [0.36, 1]].map(([share, times]) => ({ duration: `${share * seconds}s`, target: times * rate })),
      },
    }),
  },
  soak: { duration: '1h', rate: 20, plan: (seconds, rate) => ({ soak: { ...constant(rate, seconds), exec: 'mixed' } }) },
  breakpoint: {
    duration: '200s', rate: 50,
    plan: (seconds, rate) => {
      const steps = Math.max(2, Math.min(maxSteps, Math.floor(seconds / 5)));
      const length = seconds / steps;
      return Object.fromEntries(Array.from({ length: steps }, (_, i) => {
        const now = Math.round(rate * maxFactor ** (i / (steps - 1)));
        // Enough users for responses of up to 0.25 s. The next step reuses the users of this one.
        return [`at_${now}`, { ...constant(now, length), startTime: `${i * length}s`, gracefulStop: '1s', preAllocatedVUs: users(now / 4), exec: 'predict' }];
      }));
    },
  },
  mixed: { duration: '1m', rate: 30, plan: (seconds, rate) => ({ mixed: { ...constant(rate, seconds), exec: 'mixed' } }) },
  swap: {
    duration: '1m', rate: 30,
    plan: (seconds, rate) => ({
      predictions: { ...constant(rate, seconds), exec: 'predict' },
      swaps: { executor: 'constant-arrival-rate', exec: 'swap', rate: 1, timeUnit: '5s', duration: `${seconds}s`, preAllocatedVUs: 1 },
    }),
  },
};

const name = __ENV.SCENARIO || 'users';
const scenario = scenarios[name];
if (!scenario) throw new Error(`SCENARIO=${name}: unknown scenario; expected one of ${Object.keys(scenarios).join(', ')}`);

const seconds = secondsOf(__ENV.DURATION || scenario.duration);
const rate = Number(__ENV.RATE || scenario.rate || 0);
if (!Number.isInteger(rate) || rate < 0 || (__ENV.RATE && (rate < 1 || !scenario.rate))) {
  throw new Error(`RATE=${__ENV.RATE}: expected requests per second, such as 50, and a scenario with a rate: ${Object.keys(scenarios).filter((s) => scenarios[s].rate).join(', ')}`);
}

const planned = scenario.plan(seconds, rate);

export const options = {
  // Wait for the last responses. Requests that are cut off wouldn't be counted.
  scenarios: Object.fromEntries(Object.entries(planned).map(([key, plan]) => [key, { gracefulStop: `${timeout}s`, ...plan }])),
  setupTimeout: '90s',
  summaryTrendStats: ['min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
  thresholds: thresholds(),
};

/** Returns the thresholds of the run. */
function thresholds() {
  /** @type {Record<string, any[]>} */
  const all = {
    // Without requests, thresholds on rates pass, but this one fails.
    predictions: ['count>0'],
    checks: ['rate==1'],
    right_label: ['rate>=0.9'],
  };
  for (const o of objectives) {
    if (name === 'breakpoint') {
      // One threshold per step. Over all steps, fast ones would hide slow ones.
      for (const [key, plan] of Object.entries(planned)) {
        const delay = `${parseFloat(plan.startTime) + 0.8 * parseFloat(plan.duration)}s`;
        all[`${metricOf(o)}{scenario:${key}}`] = [{ threshold: thresholdOf(o), abortOnFail: true, delayAbortEval: delay }];
      }
    } else if (name !== 'smoke' || !o.within_seconds) {
      // A smoke test has too few requests for the latency SLO, which allows 1 % slow ones.
      all[metricOf(o)] = [thresholdOf(o)];
    }
  }
  if (name === 'breakpoint') {
    // These always pass, but k6 reports metrics per scenario only if they have a threshold.
    for (const key of Object.keys(planned)) all[`predict_duration{scenario:${key}}`] = ['p(99)>=0'];
  } else if (scenario.rate) {
    // Requests that weren't sent because all users were busy would make the results look better.
    all.dropped_iterations = [`rate<${rate / 100}`];
  }
  if (name === 'smoke') all.iterations = ['count==1']; // doesn't count an iteration that was cut off
  if (name === 'swap') all.swaps = ['count>1'];
  return all;
}

/** @returns {Data} */
export function setup() {
  const { model, problem } = currentModel();
  if (problem) return stop(problem);
  const expected = {
    digests: [model.model], models: { [model.model]: describe(model) }, labels: model.data_digest === dataDigest, probabilities: probabilities(),
    explanations: model.explanations || [], tensors: modelTensors(model),
  };
  if (!expected.labels) console.log(`the model at ${target} was trained on another dataset than the demo's model: the predicted labels aren't checked`);
  if (name !== 'swap') return expected;

  const offered = offeredModels();
  const before = offered.find((m) => m.current)?.ref;
  if (offered.length < 2 || !before) return stop(`SCENARIO=swap: expected a server whose --model is a folder with at least two models, one of them in use; ${target}/models lists ${offered.length}`);
  const refs = [before, /** @type {any} */ (offered.find((m) => !m.current)).ref];
  // Use each model once, to get its digest and probabilities.
  const digests = refs.map((ref) => {
    const changed = changeModel(ref);
    if (changed.problem) stop(changed.problem);
    expected.labels &&= changed.model?.data_digest === dataDigest;
    Object.assign(expected.models, { [changed.model?.model]: describe(changed.model ?? {}) });
    Object.assign(expected.probabilities, probabilities());
    return changed.model?.model;
  });
  return { ...expected, digests, refs, before };
}

/** @param {Data} data */
export function teardown(data) {
  if (!data?.before) return;
  const { problem } = changeModel(data.before);
  if (problem) throw new Error(`the previous model, ${data.before}, couldn't be restored: ${problem}`);
}

/** Aborts the run. @param {string} why @returns {never} */
function stop(why) {
  exec.test.abort(why);
  throw new Error(why);
}

/**
 * Aborts the run if the script throws an error. k6 would continue, and pass without the missing
 * requests.
 *
 * @param {(data: Data) => void} iteration
 */
function abortOnError(iteration) {
  return (/** @type {Data} */ data) => {
    try {
      iteration(data);
    } catch (e) {
      exec.test.abort(`${e instanceof Error ? e.stack : e}`);
    }
  };
}

/** A user of the original project's load test: three predictions per health check. */
export const user = abortOnError((data) => {
  if (Math.random() < 0.25) health();
  else sendForm(pick(jpegs), data);
  sleep(1 + 3 * Math.random());
});

/** Sends one image. */
export const predict = abortOnError((data) => {
  sendForm(pick(jpegs), data);
});

/** Sends random requests of all kinds, in realistic proportions. */
export const mixed = abortOnError((data) => {
  const dice = 100 * Math.random();
  if (dice < 2) sendInvalid(pick(invalidRequests), data);
  else if (dice < 10) health();
  else if (dice < 40) sendForm(pick(images), data);
  else if (dice < 65) sendBody(pick(images), data);
  else if (dice < 70) sendForm(pick(images), data, '/model/');
  else if (dice < 77) sendForms(pickSeveral(), data);
  else if (dice < 84) sendInstances(pickSeveral(), data);
  else if (dice < 86) sendInstances(pickSeveral(), data, 1);
  else infer(dice < 95, data);
});

/** Picks two to five images. */
const pickSeveral = () => Array.from({ length: 2 + Math.floor(4 * Math.random()) }, () => pick(jpegs));

/** Sends requests of all kinds once. */
export const smoke = abortOnError((data) => {
  health();
  for (const image of images) {
    sendForm(image, data);
    sendBody(image, data);
  }
  for (const image of largeImages) sendBody(image, data);
  sendForm(jpegs[0], data, '/model/');
  sendFeedback(sendForm(jpegs[0], data), jpegs[0], data);
  sendForms(images, data);
  sendForInput(jpegs[0], data);
  for (const method of data.explanations) {
    sendExplained(jpegs[0], data, method);
    sendExplained(jpegs[0], data, method, 'png');
  }
  sendInstances(images, data);
  sendInstances(images, data, 1);
  for (const binary of [true, false]) infer(binary, data);
  stats();
  modelDetails(data);
  for (const invalid of invalidRequests) sendInvalid(invalid, data);
});

/** Swaps the model and checks that the other one serves predictions. */
export const swap = abortOnError((data) => {
  const i = (exec.scenario.iterationInTest + 1) % 2;
  const { model, problem } = changeModel(/** @type {string[]} */ (data.refs)[i]);
  const ok = check(model, { 'swap: the other model is the current one': (m) => m?.model === data.digests[i] });
  if (!ok) return void console.error(problem);
  swaps.add(1);
  sendForm(pick(jpegs), { ...data, digests: [data.digests[i]] });
});

/** @param {any} data k6's summary */
export function handleSummary(data) {
  return summarize(data, { scenario: name, target, seconds, rate, planned, dir: __ENV.REPORT });
}

/** Parses a duration such as 90s, 5m or 1h30m into seconds. @param {string} text */
function secondsOf(text) {
  const m = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text);
  const total = m ? 3600 * Number(m[1] || 0) + 60 * Number(m[2] || 0) + Number(m[3] || 0) : 0;
  if (total < 1) throw new Error(`DURATION=${text}: expected a duration such as 90s, 5m or 1h30m`);
  return total;
}
