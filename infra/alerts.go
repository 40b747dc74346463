package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/monitoring"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"fakeart/monitoring/slo"
)

// runCluster is the label cluster of what the Managed Prometheus sidecar collects on
// Cloud Run. The label namespace is the service there.
const runCluster = "__run__"

// alert is an alert policy before it is one.
type alert struct {
	// name is the resource's, title what people read.
	name, title string
	// runbook is the name of its page in docs/runbooks.
	runbook string
	// page is for what cannot wait until the morning.
	page bool
	// meaning says in a sentence what has happened.
	meaning string
	// All the conditions have to hold.
	conditions []*monitoring.AlertPolicyConditionArgs
	// needs are what has to be there before.
	needs []pulumi.Resource
}

// burnAlerts are those of an objective, which Cloud Monitoring calls by that name.
func burnAlerts(name string, o slo.Objective, objective pulumi.Resource) (alerts []alert) {
	for _, b := range o.BurnAlerts() {
		a := alert{
			name: fmt.Sprintf("%s-burns-%s", o.Name, slo.Text(b.Long)), runbook: b.Runbook, page: b.Page,
			title: b.Title, meaning: b.Meaning,
			needs: []pulumi.Resource{objective},
		}
		for _, lookback := range []time.Duration{b.Long, b.Short} {
			a.conditions = append(a.conditions, &monitoring.AlertPolicyConditionArgs{
				DisplayName: pulumi.String(fmt.Sprintf("burns at more than %v for %s", b.Factor, slo.Text(lookback))),
				ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
					Filter:     pulumi.String(fmt.Sprintf("select_slo_burn_rate(%q, %q)", name, seconds(lookback))),
					Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(b.Factor), Duration: pulumi.String("0s"),
				},
			})
		}
		alerts = append(alerts, a)
	}
	return alerts
}

// shortfallAlert is that of an objective whose events are too few for burn rates.
func shortfallAlert(service string, o slo.Objective, objective pulumi.Resource) alert {
	own := func(s slo.Selector) slo.Selector {
		s.Matchers = slices.Concat([]slo.Matcher{{Label: "cluster", Op: "=", Value: runCluster}, {Label: "namespace", Op: "=", Value: service}}, s.Matchers)
		return s
	}
	return alert{
		name: o.Shortfall.Runbook, runbook: o.Shortfall.Runbook, title: o.Shortfall.Title, meaning: o.Shortfall.Meaning,
		conditions: promQL("below the objective, of events enough", o.Below(slo.Series{Select: own}), 0, 10*time.Minute),
		needs:      []pulumi.Resource{objective},
	}
}

// promQL is a condition that holds when the query has had a result for so long.
func promQL(title, query string, lasts, every time.Duration) []*monitoring.AlertPolicyConditionArgs {
	return []*monitoring.AlertPolicyConditionArgs{{
		DisplayName: pulumi.String(title),
		ConditionPrometheusQueryLanguage: &monitoring.AlertPolicyConditionConditionPrometheusQueryLanguageArgs{
			Query: pulumi.String(query), Duration: seconds(lasts), EvaluationInterval: seconds(every),
		},
	}}
}

func seconds(d time.Duration) pulumi.String {
	return pulumi.String(fmt.Sprintf("%ds", int(d.Seconds())))
}

// What counts as drift of the model's answers: the share of FAKE of a quarter of a day
// is that far from the week's, of enough pictures to tell.
const (
	driftOfShare  = 0.15
	driftPictures = 500
)

// serverAlerts are those on the server's own metrics, and on what Cloud Run says of it.
func serverAlerts(service string, minInstances int) []alert {
	own := func(metric, matchers string) string {
		return fmt.Sprintf(`%s{cluster=%q,namespace=%q%s}`, metric, runCluster, service, matchers)
	}
	google := func(metric, matchers string) string {
		return fmt.Sprintf(`run_googleapis_com:%s{monitored_resource="cloud_run_revision",service_name=%q%s}`, metric, service, matchers)
	}
	increase := func(series, window string) string { return "sum(increase(" + series + "[" + window + "]))" }

	// Cloud Run itself answers what no instance takes. With an instance that answers
	// anything well, even /readyz, the objectives have to say what is wrong.
	unanswered := increase(google("request_count", `,response_code=~"429|5.."`), "5m") + " > 0 unless on() " +
		increase(own("fakeart_requests_total", `,route!~"/healthz|/metrics",code=~"[23].."`), "5m") + " > 0"
	if minInstances > 0 {
		unanswered = "(" + unanswered + ") or (sum(max_over_time(" + google("container_instance_count", "") + "[5m])) or vector(0)) < 1"
	}
	share := func(window string) string {
		return increase(own("fakeart_predictions_total", `,label="FAKE"`), window) + " / " + increase(own("fakeart_predictions_total", ""), window)
	}
	return []alert{
		{
			name: "no-instance-ready", runbook: "no-instance-ready", page: true,
			title:      "no instance is ready",
			meaning:    "Requests are refused, and no instance answers any.",
			conditions: promQL("refused, and nothing answered", unanswered, 5*time.Minute, time.Minute),
		},
		{
			name: "metrics-missing", runbook: "metrics-missing",
			title:   "the server's metrics do not arrive",
			meaning: "Requests are answered, but the Managed Prometheus sidecar has sent nothing for 15 minutes. Objectives and most alerts are blind.",
			conditions: promQL("requests, and no metrics", increase(google("request_count", `,response_code=~"2.."`), "15m")+" > 0 unless on() count(last_over_time("+
				own("fakeart_build_info", "")+"[15m]))", 5*time.Minute, time.Minute),
		},
		{
			name: "prediction-log-failing", runbook: "prediction-log-failing",
			title:   "the prediction log cannot be written",
			meaning: "Records of the prediction log were lost, cannot be written, or have waited in an outbox for 15 minutes, which ends with its instance.",
			conditions: promQL("lost, not writable, or waiting", increase(own("fakeart_log_records_total", `,result="failed"`), "10m")+" > 0 or min("+
				own("fakeart_log_writable", "")+") < 1 or sum(min_over_time("+own("fakeart_log_outbox_records", "")+"[15m])) > 0", 0, time.Minute),
		},
		{
			name: "panics", runbook: "panics",
			title:      "a request met a fault of the program",
			meaning:    "A handler failed in a way that is a fault of the program; the request was answered 500.",
			conditions: promQL("any", increase(own("fakeart_panics_total", ""), "10m")+" > 0", 0, time.Minute),
		},
		{
			name: "model-drift", runbook: "model-drift",
			title:   "the model's answers have shifted",
			meaning: fmt.Sprintf("The share of pictures judged FAKE in six hours is more than %v from that of seven days, of more than %d pictures.", driftOfShare, driftPictures),
			conditions: promQL("share of FAKE, six hours against seven days", fmt.Sprintf("abs(%s - %s) > %v and on() %s > %d",
				share("6h"), share("7d"), driftOfShare, increase(own("fakeart_predictions_total", ""), "6h"), driftPictures), time.Hour, 10*time.Minute),
		},
	}
}

// deadLetterAlert is about messages that nobody took from subscriptions of dead letters.
func deadLetterAlert(subscriptions pulumi.StringArray) alert {
	filter := subscriptions.ToStringArrayOutput().ApplyT(func(names []string) string {
		return `metric.type="pubsub.googleapis.com/subscription/num_undelivered_messages" AND resource.type="pubsub_subscription" AND resource.labels.subscription_id=` + oneOf(names)
	}).(pulumi.StringOutput)
	return alert{
		name: "dead-letters", runbook: "dead-letters",
		title:   "messages could not be delivered",
		meaning: "Messages lie in a dead-letter subscription: an event started nothing, or a record of the prediction log is not in BigQuery.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("any undelivered"),
			ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
				Filter: filter, Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(0), Duration: pulumi.String("0s"),
				Aggregations: aggregation(5*time.Minute, "ALIGN_MAX", "REDUCE_SUM", "resource.label.subscription_id"),
			},
		}},
	}
}

// jobAlert is about executions of jobs that failed, after all their retries.
func jobAlert(stack *Stack, jobs []string) alert {
	return alert{
		name: "job-failed", runbook: "job-failed",
		title:   "a job failed",
		meaning: "An execution of a Cloud Run job failed, its retries included.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("any failed execution"),
			ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
				Filter: pulumi.String(`metric.type="run.googleapis.com/job/completed_execution_count" AND resource.type="cloud_run_job" AND metric.labels.result="failed"` +
					` AND resource.labels.location="` + stack.Region + `" AND resource.labels.job_name=` + oneOf(jobs)),
				Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(0), Duration: pulumi.String("0s"),
				Aggregations: aggregation(5*time.Minute, "ALIGN_DELTA", "REDUCE_SUM", "resource.label.job_name"),
			},
		}},
	}
}

// driftAlert is about the line in the log that the workflow of Triggers leaves when
// yesterday's pictures are not like those before.
func driftAlert(workflow string) alert {
	return alert{
		name: "picture-drift", runbook: "picture-drift",
		title:   "the pictures have changed",
		meaning: "Statistics of yesterday's pictures, or the model's probabilities, have moved by half a standard deviation or more from those of the four weeks before.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("the daily check says so"),
			ConditionMatchedLog: &monitoring.AlertPolicyConditionConditionMatchedLogArgs{
				Filter:          pulumi.String(fmt.Sprintf(`resource.type="workflows.googleapis.com/Workflow" AND resource.labels.workflow_id=%q AND jsonPayload.event="drift"`, workflow)),
				LabelExtractors: pulumi.StringMap{"moved": pulumi.String("EXTRACT(jsonPayload.moved)")},
			},
		}},
	}
}

// uptimeAlert is about an uptime check that fails from more than one place.
func uptimeAlert(check *monitoring.UptimeCheckConfig) alert {
	id := check.ID().ToStringOutput().ApplyT(path.Base).(pulumi.StringOutput)
	return alert{
		name: "unreachable", runbook: "unreachable", page: true,
		title:   "the service cannot be reached",
		meaning: "Checks from at least two places in the world found the service unreachable or not ready.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("fails from two places"),
			ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
				Filter:     pulumi.Sprintf(`metric.type="monitoring.googleapis.com/uptime_check/check_passed" AND resource.type="uptime_url" AND metric.labels.check_id="%s"`, id),
				Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(1), Duration: pulumi.String("60s"),
				// As the console makes it: each place's last result, and how many are bad.
				Aggregations: aggregation(20*time.Minute, "ALIGN_NEXT_OLDER", "REDUCE_COUNT_FALSE", "resource.label.*"),
			},
		}},
	}
}

func aggregation(period time.Duration, align, reduce, by string) monitoring.AlertPolicyConditionConditionThresholdAggregationArray {
	return monitoring.AlertPolicyConditionConditionThresholdAggregationArray{&monitoring.AlertPolicyConditionConditionThresholdAggregationArgs{
		AlignmentPeriod: seconds(period), PerSeriesAligner: pulumi.String(align), CrossSeriesReducer: pulumi.String(reduce), GroupByFields: pulumi.StringArray{pulumi.String(by)},
	}}
}

// oneOf is a set of names in the language of Cloud Monitoring's filters. A name may be
// the full one of a resource.
func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", path.Base(name))
	}
	return "one_of(" + strings.Join(quoted, ",") + ")"
}

// make makes an alert policy of the alert.
func (a alert) make(ctx *pulumi.Context, stack *Stack, in pulumi.Resource, runbooks string, channels pulumi.StringArray) (*monitoring.AlertPolicy, error) {
	conditions := monitoring.AlertPolicyConditionArray{}
	for _, c := range a.conditions {
		conditions = append(conditions, c)
	}
	combiner, severity := "OR", "WARNING"
	if len(conditions) > 1 {
		combiner = "AND"
	}
	if a.page {
		severity = "CRITICAL"
	}
	// An incident whose series ended, as those of an instance do, ends as well.
	strategy := &monitoring.AlertPolicyAlertStrategyArgs{AutoClose: seconds(30 * time.Minute)}
	if a.conditions[0].ConditionMatchedLog != nil {
		strategy.NotificationRateLimit = &monitoring.AlertPolicyAlertStrategyNotificationRateLimitArgs{Period: seconds(time.Hour)}
	}
	title := stack.Prefix + ": " + a.title
	documentation := &monitoring.AlertPolicyDocumentationArgs{
		Subject: pulumi.String(title), MimeType: pulumi.String("text/markdown"),
		Content: pulumi.String(a.meaning + "\n\nHow to look, and what to do: docs/runbooks/" + a.runbook + ".md in the repository"),
	}
	if runbooks != "" {
		url := strings.TrimSuffix(runbooks, "/") + "/" + a.runbook + ".md"
		documentation.Content = pulumi.String(a.meaning + "\n\nHow to look, and what to do: [" + a.runbook + "](" + url + ")")
		documentation.Links = monitoring.AlertPolicyDocumentationLinkArray{
			&monitoring.AlertPolicyDocumentationLinkArgs{DisplayName: pulumi.String("Runbook"), Url: pulumi.String(url)},
		}
	}
	return monitoring.NewAlertPolicy(ctx, a.name, &monitoring.AlertPolicyArgs{
		Project: pulumi.String(stack.Project), DisplayName: pulumi.String(title),
		Combiner: pulumi.String(combiner), Conditions: conditions, Severity: pulumi.String(severity),
		NotificationChannels: channels,
		AlertStrategy:        strategy,
		Documentation:        documentation,
		UserLabels:           stack.Labels("monitoring"),
	}, stack.In(in, pulumi.DependsOn(a.needs)))
}
