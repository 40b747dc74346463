package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/monitoring"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"fakeart/monitoring/slo"
)

// Limits of an SLO in Cloud Monitoring. The window must be a whole number of days.
const (
	maxGoal = 0.999
	maxDays = 30
)

// objectiveArgs returns the Cloud Monitoring SLO for an objective, on the metrics that the Managed
// Prometheus sidecar of the Cloud Run service sends. The caller sets the field Service. It returns
// an error if Cloud Monitoring would reject the target or the window.
func objectiveArgs(stack *Stack, service string, o slo.Objective) (*monitoring.SloArgs, error) {
	const day = 24 * time.Hour
	if o.Target > maxGoal {
		return nil, fmt.Errorf("SLO %s: target %v: Cloud Monitoring accepts at most %v", o.Name, o.Target, maxGoal)
	}
	if o.Window%day != 0 || o.Window < day || o.Window > maxDays*day {
		return nil, fmt.Errorf("SLO %s: window %v: Cloud Monitoring accepts 1 to %d whole days", o.Name, o.Window, maxDays)
	}
	sli := &monitoring.SloRequestBasedSliArgs{}
	if o.Latency != nil {
		sli.DistributionCut = &monitoring.SloRequestBasedSliDistributionCutArgs{
			DistributionFilter: pulumi.String(metricFilter(service, o.Latency.Histogram, "histogram")),
			Range:              &monitoring.SloRequestBasedSliDistributionCutRangeArgs{Max: pulumi.Float64(o.Latency.Threshold)},
		}
	} else {
		ratio := &monitoring.SloRequestBasedSliGoodTotalRatioArgs{TotalServiceFilter: pulumi.String(metricFilter(service, o.Total, "counter"))}
		if o.Good != nil {
			ratio.GoodServiceFilter = pulumi.String(metricFilter(service, *o.Good, "counter"))
		} else {
			ratio.BadServiceFilter = pulumi.String(metricFilter(service, *o.Bad, "counter"))
		}
		sli.GoodTotalRatio = ratio
	}
	return &monitoring.SloArgs{
		Project: pulumi.String(stack.Project), SloId: pulumi.String(o.Name),
		DisplayName: pulumi.String(o.DisplayName), Goal: pulumi.Float64(o.Target), RollingPeriodDays: pulumi.Int(int(o.Window / day)),
		RequestBasedSli: sli, UserLabels: stack.Labels("monitoring"),
	}, nil
}

// objectiveName returns the full name of an SLO in Cloud Monitoring.
func objectiveName(stack *Stack, service string, o slo.Objective) string {
	return fmt.Sprintf("projects/%s/services/%s/serviceLevelObjectives/%s", stack.Project, service, o.Name)
}

// metricFilter translates a selector to a Cloud Monitoring filter. kind is the type of the metric:
// counter or histogram.
// (https://cloud.google.com/monitoring/api/v3/filters)
func metricFilter(service string, s slo.Selector, kind string) string {
	terms := []string{
		`metric.type="prometheus.googleapis.com/` + s.Metric + "/" + kind + `"`,
		`resource.type="prometheus_target"`,
		`resource.labels.cluster="` + runCluster + `"`,
		`resource.labels.namespace="` + service + `"`,
	}
	for _, m := range s.Matchers {
		term := map[string]string{
			"=": "=%q", "!=": "!=%q", "=~": "=monitoring.regex.full_match(%q)", "!~": "!=monitoring.regex.full_match(%q)",
		}[m.Op]
		terms = append(terms, "metric.labels."+m.Label+fmt.Sprintf(term, m.Value))
	}
	return strings.Join(terms, " AND ")
}
