package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/monitoring"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"fakeart/monitoring/slo"
)

// What Cloud Monitoring keeps to: a goal of at most 0.999, over whole days, 30 at most.
const (
	highestGoal = 0.999
	longestDays = 30
)

// objectiveArgs is an objective as Cloud Monitoring has it, but for the service it
// belongs to, on the metrics that the Cloud Run service's Managed Prometheus sidecar
// sends.
func objectiveArgs(stack *Stack, service string, o slo.Objective) (*monitoring.SloArgs, error) {
	const day = 24 * time.Hour
	if o.Target > highestGoal {
		return nil, fmt.Errorf("SLO %s: target %v: Cloud Monitoring takes at most %v", o.Name, o.Target, highestGoal)
	}
	if o.Window%day != 0 || o.Window < day || o.Window > longestDays*day {
		return nil, fmt.Errorf("SLO %s: window %v: Cloud Monitoring takes 1 to %d whole days", o.Name, o.Window, longestDays)
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

// objectiveName is how Cloud Monitoring calls an objective.
func objectiveName(stack *Stack, service string, o slo.Objective) string {
	return fmt.Sprintf("projects/%s/services/%s/serviceLevelObjectives/%s", stack.Project, service, o.Name)
}

// metricFilter is a selector in the language of Cloud Monitoring's filters, of a
// metric that was collected as a counter or a histogram.
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
