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

// Drift of the model's answers: the share of a class in a quarter of a day differs by
// driftOfShare from the week's, with at least driftPictures images to compare.
const (
	driftOfShare  = 0.15
	driftPictures = 500
)

// failedRequests is the ID of a metric in Cloud Logging: the requests that Cloud Run answered 429
// or 5xx. It counts entries of the request log, because Google's metric request_count lacks the
// requests that never reached an instance, such as those beyond the maximum of instances
// (https://cloud.google.com/monitoring/api/metrics_gcp_p_z).
func failedRequests(stack *Stack) string {
	return strings.ReplaceAll(stack.Prefix, "-", "_") + "_failed_requests"
}

// serverAlerts are the alerts on the server's own metrics and on those of Cloud Run.
func serverAlerts(stack *Stack, service string, minInstances int) []alert {
	own := func(metric, matchers string) string {
		return fmt.Sprintf(`%s{cluster=%q,namespace=%q%s}`, metric, runCluster, service, matchers)
	}
	google := func(metric, matchers string) string {
		return fmt.Sprintf(`run_googleapis_com:%s{monitored_resource="cloud_run_revision",service_name=%q%s}`, metric, service, matchers)
	}
	increase := func(series, window string) string { return "sum(increase(" + series + "[" + window + "]))" }

	// Requests fail, and no request that needs a model succeeds. The windows are 10 minutes long
	// because entries of a log can be that late. With an instance that answers some requests, the
	// objectives tell how bad it is. Or instances run, but none of them has a model.
	notReady := increase(`logging_googleapis_com:user_`+failedRequests(stack)+`{monitored_resource="cloud_run_revision"}`, "10m") + " > 0 unless on() " +
		increase(own("fakeart_requests_total", `,route=~"/predict|/model/|/readyz|/v2/.*(ready|infer)",code=~"[23].."`), "10m") + " > 0 or (" +
		"count(last_over_time(" + own("fakeart_build_info", "") + "[5m])) unless on() count(last_over_time(" + own("fakeart_model_info", "") + "[5m])))"
	if minInstances > 0 {
		notReady = "(" + notReady + ") or (sum(max_over_time(" + google("container_instance_count", "") + "[5m])) or vector(0)) < 1"
	}
	shares := func(window string) string {
		return "sum by (label) (increase(" + own("fakeart_predictions_total", "") + "[" + window + "]))"
	}
	all := func(window string) string { return increase(own("fakeart_predictions_total", ""), window) }
	return []alert{
		{
			name: "no-instance-ready", runbook: "no-instance-ready", page: true,
			title:      "no instance is ready",
			meaning:    "Requests fail and none is answered, or no instance has a model.",
			conditions: promQL("nothing is answered, or no model", notReady, 5*time.Minute, time.Minute),
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
			meaning: fmt.Sprintf("The share of a class in six hours differs by more than %v from that of seven days, with more than %d predictions.", driftOfShare, driftPictures),
			// A class that has had no prediction for six hours may have no series there: its share is 0.
			conditions: promQL("share of a class, six hours against seven days", fmt.Sprintf("max(abs((%s or 0 * %s) / on() group_left() %s - %s / on() group_left() %s)) > %v and on() %s > %d",
				shares("6h"), shares("7d"), all("6h"), shares("7d"), all("7d"), driftOfShare, all("6h"), driftPictures), time.Hour, 10*time.Minute),
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
