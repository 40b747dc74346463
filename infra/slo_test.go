package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"fakeart/monitoring/slo"
)

// watched returns the resources of NewMonitoring for a service with all features.
func watched(t *testing.T, change func(*MonitoringArgs)) []made {
	t.Helper()
	resources, err := watch(change, false)
	if err != nil {
		t.Fatal(err)
	}
	return resources
}

// watch is like watched, but returns the error and can run as a preview.
func watch(change func(*MonitoringArgs), preview bool) ([]made, error) {
	e := &engine{preview: preview}
	err := pulumi.RunErr(func(ctx *pulumi.Context) error {
		args := &MonitoringArgs{
			Stack:   &Stack{Project: "my-project-1", Region: "europe-west4", Prefix: "fakeart-dev"},
			Service: "fakeart-dev-server", HasMetrics: true, MinInstances: 1, Host: pulumi.String("https://fakeart.example.org/"),
			Email: "team@example.org", SlackChannel: "alerts", SlackToken: secretText("xoxb"), HasPagerDuty: true, PagerDutyKey: secretText("pd"),
			RunbookURL:              "https://example.org/docs/runbooks/",
			DeadLetterSubscriptions: pulumi.StringArray{pulumi.String("projects/my-project-1/subscriptions/a-dead-letters"), pulumi.String("b-dead-letters")},
			Jobs:                    []string{"fakeart-dev-train", "fakeart-dev-drift"}, DriftWorkflow: "fakeart-test-dispatch",
		}
		if change != nil {
			change(args)
		}
		_, err := NewMonitoring(ctx, "monitoring", args)
		return err
	}, pulumi.WithMocks("fakeart", "dev", e), func(i *pulumi.RunInfo) { i.DryRun = preview })
	return e.resources, err
}

func secretText(text string) pulumi.StringPtrInput {
	return pulumi.ToSecret(pulumi.StringPtr(text)).(pulumi.StringPtrOutput)
}

// kinds returns the resources of a type, by name.
func kinds(resources []made, kind string) map[string]made {
	found := map[string]made{}
	for _, r := range resources {
		if r.kind == kind {
			found[r.name] = r
		}
	}
	return found
}

const sloKind = "gcp:monitoring/slo:Slo"

// The SLOs in Cloud Monitoring must match monitoring/slo.
func TestSLOs(t *testing.T) {
	objectives, err := slo.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := kinds(watched(t, nil), sloKind)
	if len(got) != len(objectives) || len(got) < 2 {
		t.Fatalf("%d SLOs in Cloud Monitoring, %d in monitoring/slo", len(got), len(objectives))
	}
	for _, o := range objectives {
		r := got[o.Name]
		for key, want := range map[string]any{
			"goal": o.Target, "rollingPeriodDays": o.Window.Hours() / 24, "displayName": o.DisplayName, "sloId": o.Name, "service": "fakeart-dev-server",
		} {
			if r.value(key) != want {
				t.Errorf("%s: %s = %v, want %v", o.Name, key, r.value(key), want)
			}
		}
		cut := r.value("requestBasedSli.distributionCut.range.max")
		if o.Latency == nil && cut != nil || o.Latency != nil && cut != o.Latency.Threshold {
			t.Errorf("%s: range.max = %v, want %v", o.Name, cut, o.Latency)
		}
	}
}

func TestSLOs_Filters(t *testing.T) {
	const serviceLabels = `resource.type="prometheus_target" AND resource.labels.cluster="__run__" AND resource.labels.namespace="fakeart-dev-server" AND `
	const requests = `metric.type="prometheus.googleapis.com/fakeart_requests_total/counter" AND ` + serviceLabels +
		`metric.labels.route=monitoring.regex.full_match("/predict|/model/") AND metric.labels.method="POST" AND metric.labels.code=monitoring.regex.full_match(`
	got := kinds(watched(t, nil), sloKind)
	for path, want := range map[string]any{
		"goodTotalRatio.totalServiceFilter": requests + `"[235]..")`,
		"goodTotalRatio.badServiceFilter":   requests + `"5..")`,
		"goodTotalRatio.goodServiceFilter":  nil, // exactly two of the three must be set
	} {
		if v := got["availability"].value("requestBasedSli." + path); v != want {
			t.Errorf("%s =\n%v, want\n%v", path, v, want)
		}
	}
	want := `metric.type="prometheus.googleapis.com/fakeart_request_duration_seconds/histogram" AND ` + serviceLabels + `metric.labels.route="/predict" AND metric.labels.method="POST" AND metric.labels.size="small"`
	if v := got["latency"].value("requestBasedSli.distributionCut.distributionFilter"); v != want {
		t.Errorf("distributionFilter =\n%v, want\n%v", v, want)
	}
	if v := metricFilter("s", slo.Selector{Metric: "m", Matchers: []slo.Matcher{{Label: "a", Op: "!=", Value: `"x\`}, {Label: "b", Op: "!~", Value: `a\.b`}}}, "counter"); !strings.HasSuffix(v, ` AND metric.labels.a!="\"x\\" AND metric.labels.b!=monitoring.regex.full_match("a\\.b")`) {
		t.Errorf("metricFilter with negations = %s", v)
	}
}

func TestObjectiveArgs_Invalid(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		target  float64
		window  time.Duration
		message string
	}{
		{0.9995, 30 * day, "SLO o: target 0.9995: Cloud Monitoring accepts at most 0.999"},
		{0.99, 31 * day, "SLO o: window 744h0m0s"},
		{0.99, 12 * time.Hour, "SLO o: window 12h0m0s"},
		{0.99, 36 * time.Hour, "SLO o: window 36h0m0s"},
	} {
		_, err := objectiveArgs(&Stack{}, "s", slo.Objective{Name: "o", Target: c.target, Window: c.window})
		if err == nil || !strings.HasPrefix(err.Error(), c.message) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

func TestAlerts_BurnRates(t *testing.T) {
	policies := kinds(watched(t, nil), policyKind)
	var got []string
	for name, r := range policies {
		if !strings.Contains(name, "-burns-") {
			continue
		}
		line := fmt.Sprint(name, " ", r.value("severity"), " ", r.value("combiner"))
		for i := range r.value("conditions").([]any) {
			condition := made{inputs: r.value(fmt.Sprintf("conditions.%d.conditionThreshold", i)).(map[string]any)}
			line += fmt.Sprint(" | ", condition.value("filter"), condition.value("comparison"), condition.value("thresholdValue"), condition.value("duration"))
		}
		got = append(got, line)
	}
	var want []string
	for _, o := range []string{"availability", "latency", "latency-large"} {
		for _, b := range []struct {
			name, severity, factor string
			long, short            int
		}{{"1h", "CRITICAL", "14.4", 3600, 300}, {"6h", "CRITICAL", "6", 21600, 1800}, {"3d", "WARNING", "1", 259200, 21600}} {
			line := o + "-burns-" + b.name + " " + b.severity + " AND"
			for _, lookback := range []int{b.long, b.short} {
				line += fmt.Sprintf(` | select_slo_burn_rate("projects/my-project-1/services/fakeart-dev-server/serviceLevelObjectives/%s", "%ds")COMPARISON_GT%s0s`, o, lookback, b.factor)
			}
			want = append(want, line)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("alerts:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMonitoring_WithoutMetrics(t *testing.T) {
	for _, r := range watched(t, func(a *MonitoringArgs) { a.HasMetrics = false }) {
		if r.kind == sloKind {
			t.Errorf("unexpected SLO %s", r.name)
		}
		if r.kind == policyKind {
			r.strings(func(_, text string) {
				if strings.Contains(text, "{") && strings.Contains(text, "fakeart_") || strings.Contains(text, "prometheus_target") {
					t.Errorf("alert %s uses the server's metrics: %s", r.name, text)
				}
			})
		}
	}
	left := kinds(watched(t, func(a *MonitoringArgs) { a.Service, a.Host = "", nil }), policyKind)
	if names := slices.Sorted(maps.Keys(left)); !slices.Equal(names, []string{"dead-letters", "job-failed", "picture-drift"}) {
		t.Errorf("without a service: alerts %v", names)
	}
}
