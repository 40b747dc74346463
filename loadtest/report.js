// @ts-check
// The report of a run: a table for the terminal and, with REPORT, the same as a self-contained page
// (report.html) and with all metrics of k6 (summary.json).

import { metricOf, objectives } from './objectives.js';

/**
 * @typedef {{ scenario: string, target: string, seconds: number, rate: number, planned: Record<string, any>, dir?: string }} Run
 * @typedef {{ name: string, ok: boolean, empty: boolean, wanted: string, measured: string }} Condition
 * @typedef {{ rate: number, held: boolean, p99: number, shares: number[] }} Step
 * @typedef {ReturnType<typeof read>} Report
 */

/** Descriptions of the thresholds that aren't SLOs. @type {Record<string, string>} */
const meanings = {
  predictions: 'Images were classified',
  checks: 'Responses match the API',
  right_label: 'Labels are correct',
  dropped_iterations: 'Requests not sent because all users were busy',
  iterations: 'All requests were sent in time',
  swaps: 'Models were swapped',
};

/**
 * Returns the files of the report, for k6's handleSummary.
 *
 * @param {any} data k6's summary
 * @param {Run} run
 */
export function summarize(data, run) {
  const report = read(data, run);
  /** @type {Record<string, string>} */
  const files = { stdout: text(report) };
  if (run.dir) {
    files[`${run.dir}/summary.json`] = JSON.stringify({ ...report, k6: data }, null, 2);
    files[`${run.dir}/report.html`] = page(report);
  }
  return files;
}

/** @param {number} n */
const count = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ',');
/** @param {number} share */
const percent = (share) => `${Number((100 * share).toFixed(3))} %`;
/** @param {number} ms */
const milliseconds = (ms) => ms.toFixed(ms < 100 ? 2 : 0);

/**
 * Extracts the results from k6's summary.
 *
 * @param {any} data @param {Run} run
 */
function read(data, run) {
  const metrics = data.metrics;
  /** @type {Condition[]} */
  const conditions = [];
  /** @param {string} metric @param {string} name */
  const add = (metric, name) => {
    const { thresholds, values, type } = metrics[metric] || {};
    for (const [wanted, { ok }] of /** @type {[string, any][]} */ (Object.entries(thresholds || {}))) {
      const [, sign, figure] = /** @type {string[]} */ (/(>=|==|[<>])(.*)/.exec(wanted));
      const share = type === 'rate';
      const empty = share && values.passes + values.fails === 0;
      conditions.push({
        name, ok, empty,
        wanted: `${{ '>=': '≥ ', '==': '' }[sign] ?? `${sign} `}${share ? percent(Number(figure)) : figure}${wanted.startsWith('rate') && !share ? '/s' : ''}`,
        measured: !share ? (wanted.startsWith('rate') ? `${Number(values.rate.toFixed(2))}` : count(values.count)) : empty ? 'no data' : `${percent(values.rate)} of ${count(values.passes + values.fails)}`,
      });
    }
  };
  for (const o of objectives) add(metricOf(o), o.display_name);
  for (const [metric, meaning] of Object.entries(meanings)) add(metric, meaning);

  /** @type {Step[]} */
  const steps = [];
  if (run.scenario === 'breakpoint') {
    for (const [key, plan] of Object.entries(run.planned)) {
      const of = objectives.map((o) => metrics[`${metricOf(o)}{scenario:${key}}`]).filter((m) => m?.values.passes + m?.values.fails > 0);
      if (of.length === 0) break;
      steps.push({
        rate: plan.rate, held: of.every((m) => Object.values(m.thresholds).every((t) => t.ok)),
        p99: metrics[`predict_duration{scenario:${key}}`]?.values['p(99)'] ?? NaN, shares: of.map((m) => m.values.rate),
      });
      if (!steps[steps.length - 1].held) break; // the next step has too few requests
    }
  }
  const broke = steps.find((s) => !s.held);
  const held = steps.filter((s) => s.held).at(-1);

  // k6's duration may be up to 1 s too short.
  const cut = run.scenario !== 'smoke' && data.state.testRunDurationMs < 1000 * (run.seconds - 1);

  /** @type {{ name: string, fails: number, passes: number }[]} */
  const checks = data.root_group.checks;
  return {
    scenario: run.scenario, target: run.target, ended: new Date().toISOString(), asked: run.rate ? `${run.seconds} s at ${run.rate} requests/s` : `${run.seconds} s`,
    passed: conditions.every((c) => c.ok) && conditions.length > 0 && !broke && !cut && (metrics.predictions?.values.count || 0) > 0,
    conditions, steps, cut: cut && conditions.every((c) => c.ok) && !broke,
    found: conditions.every((c) => c.ok) && !!broke && !!held,
    limit: !steps.length ? '' : !broke ? `the SLOs were met up to ${held?.rate} requests/s, the last step`
      : held ? `the SLOs were met at ${held.rate} requests/s and missed at ${broke.rate}` : `the SLOs were missed at the first step, ${broke.rate} requests/s`,
    load: [
      ['requests', `${count(metrics.http_reqs?.values.count || 0)}, ${(metrics.http_reqs?.values.rate || 0).toFixed(1)}/s`],
      ['images classified', count(metrics.predictions?.values.count || 0)],
      ...(metrics.vus?.values.max ? [['concurrent users', count(metrics.vus.values.max)]] : []),
      ['duration', `${(data.state.testRunDurationMs / 1000).toFixed(1)} s`],
    ],
    latency: ['min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'].flatMap((key) => {
      const value = metrics.predict_duration?.values[key];
      return metrics.predict_duration?.values.max ? [[key.replace(/[()]/g, ''), milliseconds(value)]] : [];
    }),
    failed: checks.filter((c) => c.fails > 0).map((c) => `${c.name}: ${count(c.fails)} of ${count(c.fails + c.passes)} failed`),
  };
}

/** @param {Condition} c */
const mark = (c) => (c.empty ? '–' : c.ok ? '✓' : '✗');

/** Formats rows as columns, the first one aligned to the left. @param {string[][]} rows */
function columns(rows) {
  const widths = rows.reduce((w, row) => row.map((cell, i) => Math.max(w[i] || 0, cell.length)), /** @type {number[]} */ ([]));
  return rows.map((row) => `  ${row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('   ')}\n`).join('');
}

/** @param {Report} r */
function text(r) {
  const parts = [`\n  ${r.scenario} (${r.asked}) at ${r.target}\n`];
  if (r.conditions.length) parts.push(columns([['', 'target', 'measured'], ...r.conditions.map((c) => [`${mark(c)} ${c.name}`, c.wanted, c.measured])]));
  if (r.steps.length) parts.push(columns([['requests/s', 'p99 ms', ...names()], ...stepRows(r)]), `  ${r.limit}\n`);
  parts.push(columns(r.load));
  if (r.latency.length) parts.push(`  prediction latency, ms: ${r.latency.map((pair) => pair.join(' ')).join('  ')}\n`);
  if (r.failed.length) parts.push(r.failed.map((f) => `  ✗ ${f}\n`).join(''));
  parts.push(`  ${outcome(r)}\n\n`);
  return parts.join('\n');
}

const names = () => objectives.map((o) => o.name);

/** @param {Report} r */
const stepRows = (r) => r.steps.map((s) => [`${s.held ? '✓' : '✗'} ${s.rate}`, milliseconds(s.p99), ...s.shares.map(percent)]);

/** @param {Report} r */
const outcome = (r) => (r.passed ? 'PASSED' : r.found ? 'LIMIT FOUND' : r.cut ? 'CUT SHORT' : r.conditions.length ? 'FAILED' : 'FAILED: no measurements');

/** @param {any} value */
const escape = (value) => String(value).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** @param {string[][]} rows @param {string[]} [head] */
function table(rows, head) {
  /** @param {string} tag @param {string[]} cells */
  const row = (tag, cells) => `<tr${cells[0].startsWith('✗') ? ' class="bad"' : ''}>${cells.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${head ? row('th', head) : ''}${rows.map((cells) => row('td', cells)).join('')}</table>`;
}

/** @param {Report} r */
function page(r) {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Load test: ${escape(r.scenario)}</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
  h1 span { padding: 0 .4em; border-radius: .2em; color: #fff; background: ${r.passed || r.found ? '#1a7f37' : '#b3261e'}; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { padding: .25rem 1.5rem .25rem 0; text-align: right; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
  th:first-child, td:first-child { text-align: left; }
  .bad { color: #b3261e; }
</style>
<h1>Load test <span>${escape(outcome(r))}</span></h1>
<p>Scenario ${escape(r.scenario)}, ${escape(r.asked)}, at ${escape(r.target)}; ended ${escape(r.ended)}</p>
<h2>Thresholds</h2>
${table(r.conditions.map((c) => [`${mark(c)} ${c.name}`, c.wanted, c.measured]), ['', 'target', 'measured'])}
${r.steps.length ? `<h2>Steps</h2>${table(stepRows(r), ['requests/s', 'p99 ms', ...names()])}<p>${escape(r.limit)}</p>` : ''}
${r.failed.length ? `<h2>Failed checks</h2><ul>${r.failed.map((f) => `<li>${escape(f)}</li>`).join('')}</ul>` : ''}
<h2>Load</h2>
${table(r.load)}
${r.latency.length ? `<h2>Prediction latency in ms</h2>${table([r.latency.map((pair) => pair[1])], r.latency.map((pair) => pair[0]))}` : ''}
</html>
`;
}
