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

// runCluster is the value of the label cluster that the Managed Prometheus sidecar sets on Cloud
// Run. It sets the label namespace to the name of the service.
const runCluster = "__run__"

// alert describes an alert policy. make creates the policy.
type alert struct {
	// name is the resource name, title the title shown to people.
	name, title string
	// runbook is the name of the page in docs/runbooks, without .md.
	runbook string
	// page marks critical alerts, which can't wait until the morning.
	page bool
	// meaning explains the alert in a sentence.
	meaning string
	// conditions must all hold for the alert to fire.
	conditions []*monitoring.AlertPolicyConditionArgs
	// needs are resources that must exist before the policy.
	needs []pulumi.Resource
}

// burnAlerts returns the burn-rate alerts of an SLO. name is its full name in Cloud Monitoring.
func burnAlerts(name string, o slo.Objective, objective pulumi.Resource) (alerts []alert) {
	for _, b := range o.BurnAlerts() {
		a := alert{
			name: fmt.Sprintf("%s-burns-%s", o.Name, slo.FormatDuration(b.Long)), runbook: b.Runbook, page: b.Page,
			title: b.Title, meaning: b.Meaning,
			needs: []pulumi.Resource{objective},
		}
		for _, lookback := range []time.Duration{b.Long, b.Short} {
			a.conditions = append(a.conditions, &monitoring.AlertPolicyConditionArgs{
				DisplayName: pulumi.String(fmt.Sprintf("burn rate above %v over %s", b.Factor, slo.FormatDuration(lookback))),
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

// shortfallAlert returns the alert of an SLO that has too few events for burn rates.
func shortfallAlert(service string, o slo.Objective, objective pulumi.Resource) alert {
	own := func(s slo.Selector) slo.Selector {
		s.Matchers = slices.Concat([]slo.Matcher{{Label: "cluster", Op: "=", Value: runCluster}, {Label: "namespace", Op: "=", Value: service}}, s.Matchers)
		return s
	}
	return alert{
		name: o.Shortfall.Runbook, runbook: o.Shortfall.Runbook, title: o.Shortfall.Title, meaning: o.Shortfall.Meaning,
		conditions: promQL("below the objective, with enough events", o.BelowTarget(slo.Series{Select: own}), 0, 10*time.Minute),
		needs:      []pulumi.Resource{objective},
	}
}

// promQL returns a condition that holds once the query has returned a result for the duration
// lasts. The query is evaluated at the interval every.
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

// Limits of the alert on prediction drift: the distribution of the predicted classes over 6 hours
// differs from that over 7 days by a total variation distance of more than driftDistance, with more
// than driftMinPredictions in the 6 hours, and more than driftMinPerClass per class.
const (
	driftDistance       = 0.15
	driftMinPredictions = 500
	driftMinPerClass    = 50
)

// failedRequests returns the name of the log-based metric that counts requests to which Cloud Run
// responded with 429 or 5xx. It counts request log entries because Google's metric request_count
// lacks requests that never reached an instance, such as those over the instance limit
// (https://cloud.google.com/monitoring/api/metrics_gcp_p_z).
func failedRequests(stack *Stack) string {
	return strings.ReplaceAll(stack.Prefix, "-", "_") + "_failed_requests"
}

// serverAlerts returns the alerts on the server's metrics and on Cloud Run's.
func serverAlerts(stack *Stack, service string, minInstances int) []alert {
	own := func(metric, matchers string) string {
		return fmt.Sprintf(`%s{cluster=%q,namespace=%q%s}`, metric, runCluster, service, matchers)
	}
	google := func(metric, matchers string) string {
		return fmt.Sprintf(`run_googleapis_com:%s{monitored_resource="cloud_run_revision",service_name=%q%s}`, metric, service, matchers)
	}
	increase := func(series, window string) string { return "sum(increase(" + series + "[" + window + "]))" }

	// Either requests fail and no request that requires a model succeeds, or instances run without a
	// model. The windows are 10 minutes long because log entries can be that late. If some requests
	// succeed, the SLO alerts apply instead.
	notReady := increase(`logging_googleapis_com:user_`+failedRequests(stack)+`{monitored_resource="cloud_run_revision"}`, "10m") + " > 0 unless on() " +
		increase(own("fakeart_requests_total", `,route=~"/predict|/model/|/readyz|/v2/.*(ready|infer)",code=~"[23].."`), "10m") + " > 0 or (" +
		"count(last_over_time(" + own("fakeart_build_info", "") + "[5m])) unless on() count(last_over_time(" + own("fakeart_model_info", "") + "[5m])))"
	if minInstances > 0 {
		notReady = "(" + notReady + ") or (sum(max_over_time(" + google("container_instance_count", "") + "[5m])) or vector(0)) < 1"
	}
	byModel := func(window string) string {
		return "sum by (model_name) (increase(" + own("fakeart_predictions_total", "") + "[" + window + "]))"
	}
	byClass := func(window string) string {
		return strings.Replace(byModel(window), "(model_name)", "(model_name, label)", 1)
	}
	return []alert{
		{
			name: "no-instance-ready", runbook: "no-instance-ready", page: true,
			title:      "no instance is ready",
			meaning:    "Requests fail and none succeeds, or no instance has a model.",
			conditions: promQL("no request succeeds, or no instance has a model", notReady, 5*time.Minute, time.Minute),
		},
		{
			name: "metrics-missing", runbook: "metrics-missing",
			title:   "the server's metrics are missing",
			meaning: "The service handles requests, but the Managed Prometheus sidecar has sent no metrics for 15 minutes. SLOs and most alerts don't work without them.",
			conditions: promQL("requests without metrics", increase(google("request_count", `,response_code=~"2.."`), "15m")+" > 0 unless on() count(last_over_time("+
				own("fakeart_build_info", "")+"[15m]))", 5*time.Minute, time.Minute),
		},
		{
			name: "prediction-log-failing", runbook: "prediction-log-failing",
			title:   "the prediction log can't be written",
			meaning: "Records of the prediction log were lost, can't be written, or have been in the outbox of an instance for 15 minutes. They are lost when the instance stops.",
			conditions: promQL("records lost, log not writable, or records in the outbox", increase(own("fakeart_log_records_total", `,result="failed"`), "10m")+" > 0 or min("+
				own("fakeart_log_writable", "")+") < 1 or sum(min_over_time("+own("fakeart_log_outbox_records", "")+"[15m])) > 0", 0, time.Minute),
		},
		{
			name: "panics", runbook: "panics",
			title:      "a request handler panicked",
			meaning:    "A request handler panicked, which is a bug in the server. The client received a 500 response.",
			conditions: promQL("any panic", increase(own("fakeart_panics_total", ""), "10m")+" > 0", 0, time.Minute),
		},
		{
			name: "model-drift", runbook: "model-drift",
			title: "predictions have drifted",
			meaning: fmt.Sprintf("The distribution of the predicted classes of a model over 6 hours differs by more than %v (total variation distance) from that over 7 days, with more than %d predictions, and more than %d per class.",
				driftDistance, driftMinPredictions, driftMinPerClass),
			// A class without predictions in the last 6 hours may have no series. Its share is then 0.
			conditions: promQL("distribution of the classes, 6 hours against 7 days", fmt.Sprintf("0.5 * sum by (model_name) (abs((%s or 0 * %s) / on(model_name) group_left() %s - %s / on(model_name) group_left() %s)) > %v and on(model_name) %s > clamp_min(%d * count by (model_name) (%s > 0), %d)",
				byClass("6h"), byClass("7d"), byModel("6h"), byClass("7d"), byModel("7d"), driftDistance, byModel("6h"), driftMinPerClass, byClass("7d"), driftMinPredictions), time.Hour, 10*time.Minute),
		},
	}
}

// deadLetterAlert returns the alert on messages in dead-letter subscriptions.
func deadLetterAlert(subscriptions pulumi.StringArray) alert {
	filter := subscriptions.ToStringArrayOutput().ApplyT(func(names []string) string {
		return `metric.type="pubsub.googleapis.com/subscription/num_undelivered_messages" AND resource.type="pubsub_subscription" AND resource.labels.subscription_id=` + oneOf(names)
	}).(pulumi.StringOutput)
	return alert{
		name: "dead-letters", runbook: "dead-letters",
		title:   "messages couldn't be delivered",
		meaning: "A dead-letter subscription has messages: an event couldn't be handled, or a record of the prediction log couldn't be written to BigQuery.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("any undelivered message"),
			ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
				Filter: filter, Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(0), Duration: pulumi.String("0s"),
				Aggregations: aggregation(5*time.Minute, "ALIGN_MAX", "REDUCE_SUM", "resource.label.subscription_id"),
			},
		}},
	}
}

// jobAlert returns the alert on job executions that failed after all retries.
func jobAlert(stack *Stack, jobs []string) alert {
	return alert{
		name: "job-failed", runbook: "job-failed",
		title:   "a job failed",
		meaning: "An execution of a Cloud Run job failed after all retries.",
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

// driftAlert returns the alert on the log entry that the workflow of Triggers writes when it finds
// drift in yesterday's images.
func driftAlert(workflow string) alert {
	return alert{
		name: "picture-drift", runbook: "picture-drift",
		title:   "images have drifted",
		meaning: "The average of an image statistic, or of the model's probabilities, has shifted yesterday by at least half a standard deviation from the four weeks before.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("the drift check found drift"),
			ConditionMatchedLog: &monitoring.AlertPolicyConditionConditionMatchedLogArgs{
				Filter:          pulumi.String(fmt.Sprintf(`resource.type="workflows.googleapis.com/Workflow" AND resource.labels.workflow_id=%q AND jsonPayload.event="drift"`, workflow)),
				LabelExtractors: pulumi.StringMap{"moved": pulumi.String("EXTRACT(jsonPayload.moved)")},
			},
		}},
	}
}

// uptimeAlert returns the alert on an uptime check that fails from more than one location.
func uptimeAlert(check *monitoring.UptimeCheckConfig) alert {
	id := check.ID().ToStringOutput().ApplyT(path.Base).(pulumi.StringOutput)
	return alert{
		name: "unreachable", runbook: "unreachable", page: true,
		title:   "the service can't be reached",
		meaning: "Uptime checks from at least two locations found the service unreachable or not ready.",
		conditions: []*monitoring.AlertPolicyConditionArgs{{
			DisplayName: pulumi.String("fails from two locations"),
			ConditionThreshold: &monitoring.AlertPolicyConditionConditionThresholdArgs{
				Filter:     pulumi.Sprintf(`metric.type="monitoring.googleapis.com/uptime_check/check_passed" AND resource.type="uptime_url" AND metric.labels.check_id="%s"`, id),
				Comparison: pulumi.String("COMPARISON_GT"), ThresholdValue: pulumi.Float64(1), Duration: pulumi.String("60s"),
				// As the console does it: the last result of each location, and the number of failures.
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

// oneOf returns a one_of expression for a Cloud Monitoring filter. A name may be the full name of a
// resource, of which only the last part is used.
func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", path.Base(name))
	}
	return "one_of(" + strings.Join(quoted, ",") + ")"
}

// make creates the alert policy.
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
	// An incident closes when its series ends, as the series of a stopped instance do.
	strategy := &monitoring.AlertPolicyAlertStrategyArgs{AutoClose: seconds(30 * time.Minute)}
	if a.conditions[0].ConditionMatchedLog != nil {
		strategy.NotificationRateLimit = &monitoring.AlertPolicyAlertStrategyNotificationRateLimitArgs{Period: seconds(time.Hour)}
	}
	title := stack.Prefix + ": " + a.title
	documentation := &monitoring.AlertPolicyDocumentationArgs{
		Subject: pulumi.String(title), MimeType: pulumi.String("text/markdown"),
		Content: pulumi.String(a.meaning + "\n\nRunbook: docs/runbooks/" + a.runbook + ".md in the repository"),
	}
	if runbooks != "" {
		url := strings.TrimSuffix(runbooks, "/") + "/" + a.runbook + ".md"
		documentation.Content = pulumi.String(a.meaning + "\n\nRunbook: [" + a.runbook + "](" + url + ")")
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
