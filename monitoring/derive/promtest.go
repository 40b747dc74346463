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

// prometheusTests gives unit tests of what prometheusRules gives: that each alert is
// silent, fires, and ends again, on series made for its objective's figures.
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

// steps are how many values a series has in the alert's short look back: enough for a
// rate, few enough for three days.
const steps = 5

// burnTest has the budget burn at nine tenths of the alert's rate for its long look
// back, then at eleven, and then at nine again. In the second phase the short look back
// sees it first and the long one has to, too; in the third the short one ends it.
func burnTest(o slo.Objective, a slo.BurnAlert) (prometheus.Test, error) {
	interval := a.Short / steps
	long := int(a.Long / interval)
	slow, fast := 0.9*a.Factor*o.Budget(), math.Min(1.1*a.Factor*o.Budget(), 1)
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
	if a.Factor == 1 { // the rate at which the budget lasts for its window
		test.Queries = append(test.Queries, prometheus.Query{
			Expr: fmt.Sprintf("round(job:slo_budget_left:ratio{slo=%q}, 0.01)", o.Name), At: at(long),
			Samples: []prometheus.Sample{{Labels: fmt.Sprintf(`{job="fakeart",slo=%q}`, o.Name), Value: 0.1}},
		})
	}
	return test, nil
}

// shortfallTests see that the alert on a share below the target says nothing above it, nor of
// too few events, however bad; that it fires; and that it ends as the good ones catch up. All
// of that lies within the look back, which may be of weeks.
func shortfallTests(o slo.Objective) (tests []prometheus.Test, err error) {
	const interval = 5 * time.Minute
	few := math.Floor(float64(o.Shortfall.Least-1) / (2 * steps)) // a step
	for _, c := range []struct {
		name   string
		phases []phase
	}{
		{"below its objective", []phase{{0.9 * o.Budget(), 2 * steps, events}, {math.Min(1.1*o.Budget(), 1), 4 * steps, events}, {0.5 * o.Budget(), 4 * steps, events}}},
		{"of too few events", []phase{{1, 2 * steps, few}, {1, 4 * steps, few + 1}, {0, 4 * steps, events}}},
	} {
		made, err := seriesOf(o, c.phases)
		if err != nil {
			return nil, err
		}
		window := promDuration(o.Shortfall.LookBack)
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

// faultlessTest has good events alone: those that are not good have no series yet,
// which counts as none of them, and not as nothing known.
func faultlessTest(o slo.Objective) (prometheus.Test, error) {
	series, err := seriesOf(o, []phase{{0, 60, events}})
	if err != nil {
		return prometheus.Test{}, err
	}
	ratio := errorRatio(5 * time.Minute)
	if o.Shortfall != nil {
		ratio = errorRatio(o.Shortfall.LookBack)
	}
	return prometheus.Test{
		Name: o.Name + ", no error yet", Interval: "1m", Series: series,
		Queries: []prometheus.Query{
			{
				Expr: fmt.Sprintf("%s{slo=%q}", ratio, o.Name), At: "1h",
				Samples: []prometheus.Sample{{Labels: fmt.Sprintf(`%s{job="fakeart",slo=%q}`, ratio, o.Name)}},
			},
			{Expr: fmt.Sprintf("ALERTS{slo=%q}", o.Name), At: "1h"},
		},
	}, nil
}

// phase is a time in which such a share of the events, of which so many come a step, is not
// good.
type phase struct {
	share  float64
	steps  int
	events float64
}

// events are so many a step that every share of them is exact.
const events = 1e6

// seriesOf are the series of an objective's events.
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
	// What never happened has no series.
	return slices.DeleteFunc(made, func(s prometheus.Series) bool { return !regexp.MustCompile(`\+[1-9]`).MatchString(s.Values) }), nil
}

func seriesName(metric string, labels []slo.Matcher) string {
	return slo.Selector{Metric: metric, Matchers: append(labels, slo.Matcher{Label: "job", Op: "=", Value: "fakeart"})}.String()
}

// example is the labels of an event that both selectors count, and those of not do not.
func example(total, and *slo.Selector, not ...slo.Selector) ([]slo.Matcher, error) {
	for _, labels := range []map[string]string{
		{"route": "/predict", "method": "POST", "code": "200", "correct": "true"},
		{"route": "/predict", "method": "POST", "code": "503", "correct": "false"},
	} {
		fits := func(s slo.Selector) bool {
			return !slices.ContainsFunc(s.Matchers, func(m slo.Matcher) bool { return m.Label != "le" && !m.Fits(labels[m.Label]) })
		}
		if !fits(*total) || and != nil && !fits(*and) || slices.ContainsFunc(not, fits) {
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
	return nil, fmt.Errorf("%s: neither a POST /predict answered 200 or 503 nor a feedback is an example of its events for promtool's tests; give them one in monitoring/derive/promtest.go", total)
}
