// @ts-check
// Puts a server under load, and fails (exit code 99) when it misses its objectives or
// answers wrongly. README.md says what the scenarios are for and how to read the result.
//
//   k6 run loadtest/predict.js
//   k6 run -e TARGET=http://server:8080 -e SCENARIO=steady -e RATE=100 -e DURATION=2m -e REPORT=dir loadtest/predict.js

import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';

import { metricOf, objectives, thresholdOf } from './objectives.js';
import { summarize } from './report.js';
import {
  any, changeModel, currentModel, data as dataDigest, health, hostile, infer, jpegs, offeredModels, pictures,
  probabilities, sendBody, sendExplained, sendFeedback, sendForInput, sendForm, sendForms, sendHostile, sendInstances, stats, target, timeout,
} from './requests.js';

/**
 * @typedef {import('./requests.js').Expected} Expected
 * @typedef {Expected & { refs?: string[], before?: string }} Data what setup hands on
 * @typedef {{ duration: string, rate?: number, plan: (seconds: number, rate: number) => Record<string, any>, exact?: boolean }} Scenario
 */

/** Models put in use by the scenario swap. */
const swaps = new Counter('swaps');

/** A rate of requests that does not depend on the answers. @param {number} rate @param {number} seconds */
const constant = (rate, seconds) => ({ executor: 'constant-arrival-rate', rate, duration: `${seconds}s`, preAllocatedVUs: users(rate) });

/** @param {number} rate the users for it: enough until answers take a second */
const users = (rate) => Math.min(Math.max(Math.ceil(rate), 20), 300);

/** The most steps of the scenario breakpoint, from its rate to seventy times as much. */
const most = 20;
const range = 70;

/**
 * The scenarios: how long each takes and how many requests a second it sends unless
 * told otherwise, and what of that k6 is to do.
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
      const steps = Math.max(2, Math.min(most, Math.floor(seconds / 5)));
      const length = seconds / steps;
      return Object.fromEntries(Array.from({ length: steps }, (_, i) => {
        const now = Math.round(rate * range ** (i / (steps - 1)));
        // Users for answers that take a quarter of a second; those of one step are the next one's, too.
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
if (!scenario) throw new Error(`SCENARIO=${name}: there is none; choose one of ${Object.keys(scenarios).join(', ')}`);

const seconds = secondsOf(__ENV.DURATION || scenario.duration);
const rate = Number(__ENV.RATE || scenario.rate || 0);
if (!Number.isInteger(rate) || rate < 0 || (__ENV.RATE && (rate < 1 || !scenario.rate))) {
  throw new Error(`RATE=${__ENV.RATE}: want requests a second, such as 50, and a scenario that has a rate: ${Object.keys(scenarios).filter((s) => scenarios[s].rate).join(', ')}`);
}

const planned = scenario.plan(seconds, rate);

export const options = {
  // Whoever was asked at the end has time to answer: what is cut off would not be counted.
  scenarios: Object.fromEntries(Object.entries(planned).map(([key, plan]) => [key, { gracefulStop: `${timeout}s`, ...plan }])),
  setupTimeout: '90s',
  summaryTrendStats: ['min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
  thresholds: thresholds(),
};

/** What the run has to keep to. */
function thresholds() {
  /** @type {Record<string, any[]>} */
  const all = {
    // A share of nothing keeps to every threshold; a count of nothing does not.
    predictions: ['count>0'],
    checks: ['rate==1'],
    right_label: ['rate>=0.9'],
  };
  for (const o of objectives) {
    if (name === 'breakpoint') {
      // Each step for itself: over all of them the slow ones would be lost in the many.
      for (const [key, plan] of Object.entries(planned)) {
        const delay = `${parseFloat(plan.startTime) + 0.8 * parseFloat(plan.duration)}s`;
        all[`${metricOf(o)}{scenario:${key}}`] = [{ threshold: thresholdOf(o), abortOnFail: true, delayAbortEval: delay }];
      }
    } else if (name !== 'smoke' || !o.within_seconds) {
      // One request of a hundred may be slow: a smoke test has too few to tell.
      all[metricOf(o)] = [thresholdOf(o)];
    }
  }
  if (name === 'breakpoint') {
    // Nothing is asked of these: k6 keeps apart only what has a threshold.
    for (const key of Object.keys(planned)) all[`predict_duration{scenario:${key}}`] = ['p(99)>=0'];
  } else if (scenario.rate) {
    // What was not sent, since all users were waiting, would make the figures look good.
    all.dropped_iterations = [`rate<${rate / 100}`];
  }
  if (name === 'smoke') all.iterations = ['count==1']; // one that was cut off does not count
  if (name === 'swap') all.swaps = ['count>1'];
  return all;
}

/** @returns {Data} */
export function setup() {
  const { model, problem } = currentModel();
  if (problem) return stop(problem);
  const expected = { digests: [model.model], threshold: model.threshold, labels: model.data_digest === dataDigest, probabilities: probabilities() };
  if (!expected.labels) console.log(`the model at ${target} was trained on other data than make demo's: whether its labels are right is not checked`);
  if (name !== 'swap') return expected;

  const offered = offeredModels();
  const before = offered.find((m) => m.current)?.ref;
  if (offered.length < 2 || !before) return stop(`SCENARIO=swap: want a server whose --model is a folder of two models or more, and one of them in use; ${target}/models offers ${offered.length}`);
  const refs = [before, /** @type {any} */ (offered.find((m) => !m.current)).ref];
  // Each once, to know how they call themselves.
  const digests = refs.map((ref) => {
    const changed = changeModel(ref);
    if (changed.problem) stop(changed.problem);
    expected.labels &&= changed.model?.data_digest === dataDigest;
    Object.assign(expected.probabilities, probabilities());
    return changed.model?.model;
  });
  return { ...expected, digests, refs, before };
}

/** @param {Data} data */
export function teardown(data) {
  if (!data?.before) return;
  const { problem } = changeModel(data.before);
  if (problem) throw new Error(`the model that was in use before, ${data.before}, is not in use again: ${problem}`);
}

/** Ends the run. @param {string} why @returns {never} */
function stop(why) {
  exec.test.abort(why);
  throw new Error(why);
}

/**
 * Ends the run when the script itself fails: k6 would go on, and pass without what was
 * not tried.
 *
 * @param {(data: Data) => void} iteration
 */
function whole(iteration) {
  return (/** @type {Data} */ data) => {
    try {
      iteration(data);
    } catch (e) {
      exec.test.abort(`${e instanceof Error ? e.stack : e}`);
    }
  };
}

/** A user of the original's load test: three predictions for each look at its health. */
export const user = whole((data) => {
  if (Math.random() < 0.25) health();
  else sendForm(any(jpegs), data);
  sleep(1 + 3 * Math.random());
});

/** One picture. */
export const predict = whole((data) => {
  sendForm(any(jpegs), data);
});

/** Everything that the API takes, in the shares of a busy day. */
export const mixed = whole((data) => {
  const dice = 100 * Math.random();
  if (dice < 2) sendHostile(any(hostile));
  else if (dice < 10) health();
  else if (dice < 40) sendForm(any(pictures), data);
  else if (dice < 65) sendBody(any(pictures), data);
  else if (dice < 70) sendForm(any(pictures), data, '/model/');
  else if (dice < 77) sendForms(some(), data);
  else if (dice < 84) sendInstances(some(), data);
  else if (dice < 86) sendInstances(some(), data, 1);
  else infer(dice < 95, data);
});

/** Two to five pictures. */
const some = () => Array.from({ length: 2 + Math.floor(4 * Math.random()) }, () => any(jpegs));

/** Everything that the API takes, once. */
export const smoke = whole((data) => {
  health();
  for (const picture of pictures) {
    sendForm(picture, data);
    sendBody(picture, data);
  }
  sendForm(jpegs[0], data, '/model/');
  sendFeedback(sendForm(jpegs[0], data), jpegs[0]);
  sendForms(pictures, data);
  sendForInput(jpegs[0], data);
  for (const method of ['gradcam', 'occlusion']) {
    sendExplained(jpegs[0], data, method);
    sendExplained(jpegs[0], data, method, 'png');
  }
  sendInstances(pictures, data);
  sendInstances(pictures, data, 1);
  for (const binary of [true, false]) infer(binary, data);
  stats();
  hostile.forEach(sendHostile);
});

/** Puts the other model in use; from then on it answers. */
export const swap = whole((data) => {
  const i = (exec.scenario.iterationInTest + 1) % 2;
  const { model, problem } = changeModel(/** @type {string[]} */ (data.refs)[i]);
  const ok = check(model, { 'swap: the other model is in use': (m) => m?.model === data.digests[i] });
  if (!ok) return void console.error(problem);
  swaps.add(1);
  sendForm(any(jpegs), { ...data, digests: [data.digests[i]] });
});

/** @param {any} data what k6 has measured */
export function handleSummary(data) {
  return summarize(data, { scenario: name, target, seconds, rate, planned, dir: __ENV.REPORT });
}

/** Reads a time such as 90s, 5m or 1h30m. @param {string} text */
function secondsOf(text) {
  const m = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text);
  const total = m ? 3600 * Number(m[1] || 0) + 60 * Number(m[2] || 0) + Number(m[3] || 0) : 0;
  if (total < 1) throw new Error(`DURATION=${text}: want a time such as 90s, 5m or 1h30m`);
  return total;
}
