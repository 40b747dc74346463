package main

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"

	"fakeart/monitoring/prometheus"
	"fakeart/monitoring/slo"
)

// prometheusTests generates slo_test.yaml, promtool unit tests of the rules of prometheusRules. On
// series that depend on the targets, each alert must be silent, fire and resolve.
func prometheusTests(objectives []slo.Objective) ([]byte, error) {
	file := prometheus.Tests{RuleFiles: []string{"slo.rules.yaml"}, EvaluationInterval: "5m"}
	for _, o := range objectives {
		for _, a := range o.BurnAlerts() {
			test, err := burnTest(o, a)
			if err != nil {
				return nil, fmt.Errorf("SLO %s: %w", o.Name, err)
			}
			file.Tests = append(file.Tests, test)
		}
		if alerts := o.BurnAlerts(); len(alerts) > 0 {
			test, err := quietTest(o, alerts[0])
			if err != nil {
				return nil, fmt.Errorf("SLO %s: %w", o.Name, err)
			}
			file.Tests = append(file.Tests, test)
		}
		if o.Shortfall != nil {
			tests, err := shortfallTests(o)
			if err != nil {
				return nil, fmt.Errorf("SLO %s: %w", o.Name, err)
			}
			file.Tests = append(file.Tests, tests...)
		}
		test, err := faultlessTest(o)
		if err != nil {
			return nil, fmt.Errorf("SLO %s: %w", o.Name, err)
		}
		file.Tests = append(file.Tests, test)
	}
	return generated(file)
}

// steps is the number of samples in the short lookback window of an alert: enough for a rate, few
// enough for a test over three days.
const steps = 5

// burnTest tests a burn-rate alert. The budget burns at 0.9 times the alert's rate for the long lookback
// window, then at 1.1 times, and then at 0.9 times again. In the second phase, the short window exceeds
// the limit first, but the alert fires only when the long one does. In the third phase, the short window
// resolves the alert.
func burnTest(o slo.Objective, a slo.BurnAlert) (prometheus.Test, error) {
	interval := a.Short / steps
	long := int(a.Long / interval)
	slow, fast := 0.9*a.Factor*o.ErrorBudget(), math.Min(1.1*a.Factor*o.ErrorBudget(), 1)
	series, err := seriesOf(o, []phase{{slow, long, events}, {fast, long, events}, {slow, steps + 1, events}})
	if err != nil {
		return prometheus.Test{}, err
	}
	severity := "warning"
	if a.Page {
		severity = "critical"
	}
	firing := fmt.Sprintf(`ALERTS{alertstate="firing",slo=%q,window=%q}`, o.Name, promDuration(a.Long))
	alert := []prometheus.Sample{{
		Labels: fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing",job="fakeart",severity=%q,slo=%q,window=%q}`, camel(a.Runbook), severity, o.Name, promDuration(a.Long)),
		Value:  1,
	}}
	at := func(steps int) string { return promDuration(time.Duration(steps) * interval) }
	test := prometheus.Test{
		Name:     fmt.Sprintf("%s, %v times, %s and %s", o.Name, a.Factor, promDuration(a.Long), promDuration(a.Short)),
		Interval: promDuration(interval), Series: series,
		Queries: []prometheus.Query{
			{Expr: firing, At: at(long)},
			{Expr: firing, At: at(long + steps)},
			{Expr: firing, At: at(2 * long), Samples: alert},
			{Expr: firing, At: at(2*long + steps + 1)},
		},
	}
	if a.Factor == 1 { // the budget lasts exactly for the SLO's window
		test.Queries = append(test.Queries, prometheus.Query{
			Expr: fmt.Sprintf("round(job:slo_budget_left:ratio{slo=%q}, 0.01)", o.Name), At: at(long),
			Samples: []prometheus.Sample{{Labels: fmt.Sprintf(`{job="fakeart",slo=%q}`, o.Name), Value: 0.1}},
		})
	}
	return test, nil
}

// quietTest tests that a burn-rate alert requires bad events and not only a high rate: all events
// are bad, first one fewer than required and then more.
func quietTest(o slo.Objective, a slo.BurnAlert) (prometheus.Test, error) {
	interval := a.Short / steps
	// Each burst is in the middle of the short window that ends at the next query.
	const before = 2*steps + steps/2
	series, err := seriesOf(o, []phase{{0, before, 0}, {1, 1, slo.MinBadEvents - 1}, {1, steps - 1, 0}, {1, 1, slo.MinBadEvents}, {1, steps, 0}})
	if err != nil {
		return prometheus.Test{}, err
	}
	at := func(step int) string { return promDuration(time.Duration(step) * interval) }
	firing := fmt.Sprintf(`count(ALERTS{alertstate="firing",slo=%q,window=%q})`, o.Name, promDuration(a.Long))
	return prometheus.Test{
		Name: o.Name + ", few events", Interval: promDuration(interval), Series: series,
		Queries: []prometheus.Query{
			{Expr: firing, At: at(3 * steps)},
			{Expr: firing, At: at(4 * steps), Samples: []prometheus.Sample{{Labels: "{}", Value: 1}}},
		},
	}, nil
}

// shortfallTests test the alert on a share below the target. It must be silent above the target and with
// too few events, fire, and resolve once there are enough good events. All samples are within the
// lookback window, which may be weeks long.
func shortfallTests(o slo.Objective) (tests []prometheus.Test, err error) {
	const interval = 5 * time.Minute
	few := math.Floor(float64(o.Shortfall.MinEvents-1) / (2 * steps)) // per step
	for _, c := range []struct {
		name   string
		phases []phase
	}{
		{"below objective", []phase{{0.9 * o.ErrorBudget(), 2 * steps, events}, {math.Min(1.1*o.ErrorBudget(), 1), 4 * steps, events}, {0.5 * o.ErrorBudget(), 4 * steps, events}}},
		{"too few events", []phase{{1, 2 * steps, few}, {1, 4 * steps, few + 1}, {0, 4 * steps, events}}},
	} {
		made, err := seriesOf(o, c.phases)
		if err != nil {
			return nil, err
		}
		window := promDuration(o.Shortfall.Lookback)
		test := prometheus.Test{Name: o.Name + ", " + c.name, Interval: promDuration(interval), Series: made}
		at := 0
		for i, p := range c.phases {
			at += p.steps
			q := prometheus.Query{Expr: fmt.Sprintf(`ALERTS{alertstate="firing",slo=%q}`, o.Name), At: promDuration(time.Duration(at) * interval)}
			if i == 1 {
				q.Samples = []prometheus.Sample{{
					Labels: fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing",job="fakeart",severity="warning",slo=%q,window=%q}`, camel(o.Shortfall.Runbook), o.Name, window),
					Value:  1,
				}}
			}
			test.Queries = append(test.Queries, q)
		}
		tests = append(tests, test)
	}
	return tests, nil
}

// faultlessTest has only good events. Bad events have no series yet, which must count as an error ratio
// of 0 instead of a missing one.
func faultlessTest(o slo.Objective) (prometheus.Test, error) {
	series, err := seriesOf(o, []phase{{0, 60, events}})
	if err != nil {
		return prometheus.Test{}, err
	}
	ratio := errorRatio(5 * time.Minute)
	if o.Shortfall != nil {
		ratio = errorRatio(o.Shortfall.Lookback)
	}
	return prometheus.Test{
		Name: o.Name + ", no errors", Interval: "1m", Series: series,
		Queries: []prometheus.Query{
			{
				Expr: fmt.Sprintf("%s{slo=%q}", ratio, o.Name), At: "1h",
				Samples: []prometheus.Sample{{Labels: fmt.Sprintf(`%s{job="fakeart",slo=%q}`, ratio, o.Name)}},
			},
			{Expr: fmt.Sprintf("ALERTS{slo=%q}", o.Name), At: "1h"},
		},
	}, nil
}

// phase is a period of so many steps in which a share of the events per step is bad.
type phase struct {
	share  float64
	steps  int
	events float64
}

// events is the number of events per step, large enough for whole numbers of bad events.
const events = 1e6

// seriesOf returns input series with the events of an objective.
func seriesOf(o slo.Objective, phases []phase) ([]prometheus.Series, error) {
	count := func(name string, share func(phase) float64) prometheus.Series {
		s := prometheus.Series{Series: name}
		last := 0.0
		for i, p := range phases {
			by := math.Round(p.events * share(p))
			from, more := last+by, p.steps-1
			if i == 0 {
				from, more = 0, p.steps
			} else {
				s.Values += " "
			}
			s.Values += fmt.Sprintf("%.0f+%.0fx%d", from, by, more)
			last += by * float64(p.steps)
		}
		return s
	}
	all := func(phase) float64 { return 1 }
	bad := func(p phase) float64 { return p.share }
	good := func(p phase) float64 { return 1 - p.share }

	if o.Latency != nil {
		labels, err := example(&o.Total, nil)
		if err != nil {
			return nil, err
		}
		le := slo.Matcher{Label: "le", Op: "=", Value: strconv.FormatFloat(o.Latency.Threshold, 'g', -1, 64)}
		return []prometheus.Series{count(seriesName(o.Total.Metric, labels), all), count(seriesName(o.Good.Metric, append(labels, le)), good)}, nil
	}
	part, rest := good, bad
	is := o.Good
	if is == nil {
		part, rest, is = bad, good, o.Bad
	}
	partLabels, err := example(&o.Total, is)
	if err != nil {
		return nil, err
	}
	restLabels, err := example(&o.Total, nil, *is)
	if err != nil {
		return nil, err
	}
	made := []prometheus.Series{count(seriesName(o.Total.Metric, partLabels), part), count(seriesName(o.Total.Metric, restLabels), rest)}
	// Events that never happened have no series.
	return slices.DeleteFunc(made, func(s prometheus.Series) bool { return !regexp.MustCompile(`\+[1-9]`).MatchString(s.Values) }), nil
}

func seriesName(metric string, labels []slo.Matcher) string {
	return slo.Selector{Metric: metric, Matchers: append(labels, slo.Matcher{Label: "job", Op: "=", Value: "fakeart"})}.String()
}

// example returns the labels of an event that matches total and and, if not nil, but none of not.
func example(total, and *slo.Selector, not ...slo.Selector) ([]slo.Matcher, error) {
	for _, labels := range []map[string]string{
		{"route": "/predict", "method": "POST", "code": "200", "correct": "true", "size": "small"},
		{"route": "/predict", "method": "POST", "code": "200", "correct": "true", "size": "large"},
		{"route": "/predict", "method": "POST", "code": "503", "correct": "false", "size": "small"},
	} {
		matches := func(s slo.Selector) bool {
			return !slices.ContainsFunc(s.Matchers, func(m slo.Matcher) bool { return m.Label != "le" && !m.Matches(labels[m.Label]) })
		}
		if !matches(*total) || and != nil && !matches(*and) || slices.ContainsFunc(not, matches) {
			continue
		}
		var made []slo.Matcher
		for _, m := range total.Matchers {
			if !slices.ContainsFunc(made, func(other slo.Matcher) bool { return other.Label == m.Label }) {
				made = append(made, slo.Matcher{Label: m.Label, Op: "=", Value: labels[m.Label]})
			}
		}
		return made, nil
	}
	return nil, fmt.Errorf("%s: no example of its events for the promtool tests: POST /predict with status 200 or 503 and feedback don't match\nhint: add an example in monitoring/derive/promtest.go", total)
}
