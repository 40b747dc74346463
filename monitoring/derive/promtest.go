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
	slow, fast := 0.9*a.Factor*budget(o), math.Min(1.1*a.Factor*budget(o), 1)
	series, err := seriesOf(o, []phase{{slow, long}, {fast, long}, {slow, steps + 1}})
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

// faultlessTest has good events alone: those that are not good have no series yet,
// which counts as none of them, and not as nothing known.
func faultlessTest(o slo.Objective) (prometheus.Test, error) {
	series, err := seriesOf(o, []phase{{0, 60}})
	if err != nil {
		return prometheus.Test{}, err
	}
	return prometheus.Test{
		Name: o.Name + ", no error yet", Interval: "1m", Series: series,
		Queries: []prometheus.Query{
			{
				Expr: fmt.Sprintf("job:slo_errors:ratio_rate5m{slo=%q}", o.Name), At: "1h",
				Samples: []prometheus.Sample{{Labels: fmt.Sprintf(`job:slo_errors:ratio_rate5m{job="fakeart",slo=%q}`, o.Name)}},
			},
			{Expr: fmt.Sprintf("ALERTS{slo=%q}", o.Name), At: "1h"},
		},
	}, nil
}

// phase is a time in which such a share of the events is not good.
type phase struct {
	share float64
	steps int
}

// seriesOf are the series of an objective's events.
func seriesOf(o slo.Objective, phases []phase) ([]prometheus.Series, error) {
	const events = 1e6 // a step
	count := func(name string, share func(phase) float64) prometheus.Series {
		s := prometheus.Series{Series: name}
		last := 0.0
		for i, p := range phases {
			by := math.Round(events * share(p))
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
		return []prometheus.Series{count(series(o.Total.Metric, labels), all), count(series(o.Good.Metric, append(labels, le)), good)}, nil
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
	made := []prometheus.Series{count(series(o.Total.Metric, partLabels), part), count(series(o.Total.Metric, restLabels), rest)}
	// What never happened has no series.
	return slices.DeleteFunc(made, func(s prometheus.Series) bool { return !regexp.MustCompile(`\+[1-9]`).MatchString(s.Values) }), nil
}

func series(metric string, labels []slo.Matcher) string {
	return slo.Selector{Metric: metric, Matchers: append(labels, slo.Matcher{Label: "job", Op: "=", Value: "fakeart"})}.String()
}

// example is the labels of a request that both selectors count, and those of not do not.
func example(total, and *slo.Selector, not ...slo.Selector) ([]slo.Matcher, error) {
	for _, code := range []string{"200", "503"} {
		labels := map[string]string{"route": "/predict", "method": "POST", "code": code}
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
	return nil, fmt.Errorf("%s: no POST /predict answered 200 or 503 is an example of its events for promtool's tests; give them one in monitoring/derive/promtest.go", total)
}
