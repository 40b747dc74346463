package metricstest

import (
	"strings"
	"testing"

	"fakeart/monitoring/prometheus"
)

func TestMetrics(t *testing.T) {
	m := Server(t, "job", "instance")
	m.Add([]prometheus.Rule{
		{Record: "job:x:ratio", Expr: "sum by (job, route) (rate(fakeart_requests_total[5m]))", Labels: map[string]string{"slo": "a"}},
		{Alert: "X", Labels: map[string]string{"severity": "warning"}},
	})
	for query, want := range map[string]string{
		`up{job="fakeart"} == 1`: "",
		`sum by (job, code) (rate(fakeart_requests_total{route=~"/a|/b"}[5m])) / on (job) group_left sum by (job) (fakeart_queue_depth)`: "",
		`histogram_quantile(0.9, sum by (le) (rate(fakeart_request_duration_seconds_bucket{le="0.025"}[5m])))`:                           "",
		`fakeart_inference_duration_seconds_sum / fakeart_inference_duration_seconds_count`:                                              "",
		`job:x:ratio{slo="a",route="/"}`:                             "",
		`ALERTS{alertname="X",severity="warning"}`:                   "",
		`go_goroutines{instance="a"}`:                                "",
		`absent(other:metric{x="y"})`:                                "",
		`fakeart_request_total`:                                      "unknown metric fakeart_request_total",
		`fakeart_request_duration_seconds`:                           "unknown metric fakeart_request_duration_seconds",
		`sum(rate(fakeart_requests_total{status="500"}[5m]))`:        "fakeart_requests_total has no label status",
		`sum by (rout) (fakeart_requests_total)`:                     "sum: no series has the label rout",
		`fakeart_queue_depth and on (route) fakeart_requests_total`:  "and: a side has no series with the label route",
		`fakeart_log_records_total{result="lost"}`:                   `no series of fakeart_log_records_total matches result="lost"`,
		`fakeart_request_duration_seconds_bucket{le="0.026"}`:        `no series of fakeart_request_duration_seconds_bucket matches le="0.026"`,
		`fakeart_predictions_total{label!~"FAKE|REAL"}`:              `no series of fakeart_predictions_total matches label!~"FAKE|REAL"`,
		`job:x:ratio{model="a"}`:                                     "job:x:ratio has no label model",
		`sum(rate(fakeart_requests_total[5m])`:                       "unclosed left parenthesis",
		`sum(fakeart_queue_depth{namespace="only on Google Cloud"})`: "fakeart_queue_depth has no label namespace",
	} {
		got := m.Query(query, func(metric string) bool { return strings.HasPrefix(metric, "other:") })
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want) || !strings.Contains(got[0], query)) {
			t.Errorf("Query(%s) = %q, want %q", query, got, want)
		}
	}
	if !m.Histogram("fakeart_batch_size") || m.Histogram("fakeart_requests_total") {
		t.Error("Histogram is wrong for fakeart_batch_size or fakeart_requests_total")
	}
	if got := m.Selector("fakeart_requests_total", "route", "status"); len(got) != 1 || got[0] != "fakeart_requests_total has no label status" {
		t.Errorf("Selector = %q", got)
	}
}
