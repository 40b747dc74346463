// Package metricstest checks, in tests, that the queries of rules and dashboards use only metrics that
// the server exports. Use [Server] to get the metrics and [Metrics.Query] to check a query.
package metricstest

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"fakeart/internal/drift"
	"fakeart/monitoring/prometheus"
	"fakeart/server/telemetry"
)

// closedLabels are labels with a fixed set of values, all of which Server exports.
var closedLabels = []string{"result", "label", "le", "correct"}

// Metrics is a set of known series.
type Metrics struct {
	// series maps a series name to its labels and their values.
	series map[string]map[string][]string
}

// Server returns the metrics of the server's registry. scraper lists the labels that a scraper adds.
func Server(t *testing.T, scraper ...string) *Metrics {
	t.Helper()
	zero := func() int { return 0 }
	served := telemetry.NewMetrics("test", telemetry.Sources{
		QueueDepth: zero, LogWaiting: zero, LogOutbox: zero, InFlight: zero, LogWritable: func() bool { return true },
		Accuracy: func() map[string]float64 { return map[string]float64{"fakeart": 1} },
	})
	// A vector has no series before its first event.
	served.Route("/predict", "POST").Observe(200, time.Millisecond)
	served.Serve("fakeart")
	served.Model("fakeart", "sha256:1", []string{"REAL", "FAKE"}).Predicted(1, 0.9)
	for _, correct := range []string{"true", "false", "unknown"} {
		for _, label := range []string{"REAL", "FAKE"} {
			served.Feedback("fakeart", label, correct)
		}
	}
	served.SetModel("fakeart", "sha256:1", "cnn", "sha256:2", "v1")
	served.Drift(&drift.Result{Columns: []drift.Column{{Name: "probability", Scores: map[string]float64{"ks": 0.1}}}}, 100, time.Now())

	response := httptest.NewRecorder()
	served.Handler().ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := &Metrics{map[string]map[string][]string{}}
	add := func(name string, of map[string][]string) {
		of = maps.Clone(of)
		for _, label := range scraper {
			of[label] = nil
		}
		m.series[name] = of
	}
	for name, family := range families {
		of := map[string][]string{}
		for _, metric := range family.Metric {
			for _, pair := range metric.Label {
				of[pair.GetName()] = append(of[pair.GetName()], pair.GetValue())
			}
		}
		histogram := family.Metric[0].Histogram
		if histogram == nil {
			add(name, of)
			continue
		}
		add(name+"_count", of)
		add(name+"_sum", of)
		of["le"] = []string{"+Inf"}
		for _, bucket := range histogram.Bucket {
			of["le"] = append(of["le"], strconv.FormatFloat(bucket.GetUpperBound(), 'g', -1, 64))
		}
		add(name+"_bucket", of)
	}
	return m
}

// Add adds the series that rules record, and Prometheus's own series up and ALERTS.
func (m *Metrics) Add(rules []prometheus.Rule) {
	m.series["up"] = map[string][]string{"job": nil, "instance": nil}
	alerts := map[string][]string{"alertname": nil, "alertstate": {"pending", "firing"}}
	for _, r := range rules {
		of := map[string][]string{}
		for label := range r.Labels {
			of[label] = nil
		}
		for _, label := range regexp.MustCompile(`by \(([a-z_, ]+)\)`).FindAllStringSubmatch(r.Expr, -1) {
			for name := range strings.SplitSeq(label[1], ",") {
				of[strings.TrimSpace(name)] = nil
			}
		}
		if r.Alert != "" {
			maps.Copy(alerts, of)
			continue
		}
		if strings.Contains(r.Expr, "job:") {
			of["job"] = nil
		}
		for label := range m.series[r.Record] { // several rules may record the same name
			of[label] = nil
		}
		m.series[r.Record] = of
	}
	m.series["ALERTS"] = alerts
}

// Query returns the unknown metrics and labels in a PromQL query. It ignores metrics for which skip, if
// not nil, returns true.
func (m *Metrics) Query(query string, skip func(metric string) bool) (problems []string) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", query, err)}
	}
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf(format, args...)+", in "+query)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			if skip != nil && skip(n.Name) {
				return nil
			}
			for _, problem := range m.selector(n.Name, n.LabelMatchers) {
				bad("%s", problem)
			}
		case *parser.AggregateExpr:
			for _, label := range n.Grouping {
				if !m.has(n.Expr, label, skip) {
					bad("%s: no series has the label %s", n.Op, label)
				}
			}
		case *parser.BinaryExpr:
			if n.VectorMatching == nil {
				return nil
			}
			for _, label := range n.VectorMatching.MatchingLabels {
				if !m.has(n.LHS, label, skip) || !m.has(n.RHS, label, skip) {
					bad("%s: a side has no series with the label %s", n.Op, label)
				}
			}
		}
		return nil
	})
	return problems
}

// Selector returns problems with a metric and label names: those that don't exist.
func (m *Metrics) Selector(metric string, names ...string) (problems []string) {
	of, ok := m.series[metric]
	if !ok {
		return []string{"unknown metric " + metric}
	}
	for _, name := range names {
		if _, ok := of[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s has no label %s", metric, name))
		}
	}
	return problems
}

// Histogram reports whether a metric is a histogram. Pass the name without suffix.
func (m *Metrics) Histogram(metric string) bool { return m.series[metric+"_bucket"] != nil }

func (m *Metrics) selector(metric string, matchers []*labels.Matcher) (problems []string) {
	if problems = m.Selector(metric); problems != nil {
		return problems
	}
	for _, matcher := range matchers {
		if matcher.Name == model.MetricNameLabel {
			continue
		}
		problems = append(problems, m.Selector(metric, matcher.Name)...)
		values := m.series[metric][matcher.Name]
		if len(values) > 0 && slices.Contains(closedLabels, matcher.Name) && !slices.ContainsFunc(values, matcher.Matches) {
			problems = append(problems, fmt.Sprintf("no series of %s matches %s", metric, matcher))
		}
	}
	return problems
}

// has reports whether a series in the expression has the label, or is skipped.
func (m *Metrics) has(expr parser.Expr, label string, skip func(string) bool) (found bool) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			_, has := m.series[s.Name][label]
			found = found || has || skip != nil && skip(s.Name)
		}
		return nil
	})
	return found
}
