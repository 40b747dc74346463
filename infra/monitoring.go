package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/logging"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/monitoring"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	board "fakeart/monitoring"
	"fakeart/monitoring/slo"
)

// Monitoring is who is told, what is promised, and what is watched.
type Monitoring struct {
	pulumi.ResourceState

	// Channels are all the notification channels, by name.
	Channels pulumi.StringArray
	// Mail are those of them that send mail, which are all that a budget can use.
	Mail pulumi.StringArray
	// Objectives are those of monitoring/slo, in that order.
	Objectives []*monitoring.Slo
	// Alerts are the alert policies. There are none when there is nobody to tell.
	Alerts []*monitoring.AlertPolicy
	// Uptime checks the service from outside; nil when it is not public.
	Uptime *monitoring.UptimeCheckConfig
	// DashboardURL is where the dashboard is looked at; empty without a service.
	DashboardURL pulumi.StringOutput
}

// MonitoringArgs says what there is to watch, and who wants to know.
type MonitoringArgs struct {
	Stack *Stack
	// Service is the name of the Cloud Run service; without one there are only alerts
	// on dead letters and jobs.
	Service string
	// HasMetrics is whether the server's metrics have ever arrived in the project.
	// Cloud Monitoring refuses objectives and alerts on metrics that it never saw,
	// which are all when a project's first service starts.
	HasMetrics bool
	// MinInstances is how many instances there always have to be.
	MinInstances int
	// Host is the service's host name, or its address with https://, for a check from
	// outside; nil for none. Everybody has to be let in there.
	Host pulumi.StringInput

	// Email and SlackChannel may be empty; SlackToken belongs to the channel.
	Email, SlackChannel string
	SlackToken          pulumi.StringPtrInput
	// PagerDutyKey is used if HasPagerDuty.
	PagerDutyKey pulumi.StringPtrInput
	HasPagerDuty bool

	// RunbookURL is the folder that alerts link to, each to its own page. If it is empty they
	// name the page's path in the repository.
	RunbookURL string
	// DeadLetterSubscriptions are names of subscriptions in which there should be no message.
	DeadLetterSubscriptions pulumi.StringArray
	// Jobs are names of Cloud Run jobs.
	Jobs []string
	// DriftWorkflow is the name of the workflow that looks for drift every day; may be empty.
	DriftWorkflow string
	// After is what sends the metrics: the service.
	After []pulumi.Resource
}

// uptimePath is asked for by the check from outside. Cloud Run keeps paths that end in
// z for itself: /healthz and /readyz are for its probes alone, which come from inside.
// (https://cloud.google.com/run/docs/known-issues)
const uptimePath = "/v2/health/ready"

// NewMonitoring makes notification channels, objectives, alerts, a check from outside
// and a dashboard.
func NewMonitoring(ctx *pulumi.Context, name string, args *MonitoringArgs, opts ...pulumi.ResourceOption) (*Monitoring, error) {
	m := &Monitoring{DashboardURL: pulumi.String("").ToStringOutput()}
	if err := register(ctx, "Monitoring", name, m, opts...); err != nil {
		return nil, err
	}
	pages, tickets, err := m.channels(ctx, args)
	if err != nil {
		return nil, err
	}
	var alerts []alert
	if args.Service != "" {
		if alerts, err = m.watchService(ctx, args); err != nil {
			return nil, err
		}
	}
	if len(args.DeadLetterSubscriptions) > 0 {
		alerts = append(alerts, deadLetterAlert(args.DeadLetterSubscriptions))
	}
	if len(args.Jobs) > 0 {
		alerts = append(alerts, jobAlert(args.Stack, args.Jobs))
	}
	if args.DriftWorkflow != "" {
		alerts = append(alerts, driftAlert(args.DriftWorkflow))
	}
	if len(m.Channels) == 0 {
		alerts = nil // an alert that nobody gets only looks like one
	}
	for _, a := range alerts {
		channels := tickets
		if a.page {
			channels = pages
		}
		policy, err := a.make(ctx, args.Stack, m, args.RunbookURL, channels)
		if err != nil {
			return nil, err
		}
		m.Alerts = append(m.Alerts, policy)
	}
	return m, ctx.RegisterResourceOutputs(m, pulumi.Map{"channels": m.Channels, "dashboard": m.DashboardURL})
}

// channels makes the channels. Pages go to PagerDuty and by mail, the rest to Slack and
// by mail; where neither is there, to whoever is.
func (m *Monitoring) channels(ctx *pulumi.Context, args *MonitoringArgs) (pages, tickets pulumi.StringArray, err error) {
	stack := args.Stack
	for _, c := range []struct {
		kind, target  string
		given         bool
		labels        pulumi.StringMap
		secrets       *monitoring.NotificationChannelSensitiveLabelsArgs
		pages, ticket bool
	}{
		{"email", args.Email, args.Email != "", pulumi.StringMap{"email_address": pulumi.String(args.Email)}, nil, true, true},
		{
			"slack", args.SlackChannel, args.SlackChannel != "",
			pulumi.StringMap{"channel_name": pulumi.String("#" + strings.TrimPrefix(args.SlackChannel, "#"))},
			&monitoring.NotificationChannelSensitiveLabelsArgs{AuthToken: args.SlackToken}, false, true,
		},
		{
			"pagerduty", "on call", args.HasPagerDuty, nil,
			&monitoring.NotificationChannelSensitiveLabelsArgs{ServiceKey: args.PagerDutyKey}, true, false,
		},
	} {
		if !c.given {
			continue
		}
		channel := &monitoring.NotificationChannelArgs{
			Project: pulumi.String(stack.Project), Type: pulumi.String(c.kind), DisplayName: pulumi.String(stack.Prefix + ": " + c.target),
			UserLabels: stack.Labels("monitoring"),
		}
		if c.labels != nil {
			channel.Labels = c.labels
		}
		if c.secrets != nil {
			channel.SensitiveLabels = c.secrets
		}
		made, err := monitoring.NewNotificationChannel(ctx, c.kind, channel, stack.In(m))
		if err != nil {
			return nil, nil, err
		}
		id := made.ID().ToStringOutput() // which is its full name
		m.Channels = append(m.Channels, id)
		if c.kind == "email" {
			m.Mail = append(m.Mail, id)
		}
		if c.pages {
			pages = append(pages, id)
		}
		if c.ticket {
			tickets = append(tickets, id)
		}
	}
	if len(pages) == 0 {
		pages = m.Channels
	}
	if len(tickets) == 0 {
		tickets = m.Channels
	}
	return pages, tickets, nil
}

// watchService makes what watches the service, and returns the alerts that follow.
func (m *Monitoring) watchService(ctx *pulumi.Context, args *MonitoringArgs) (alerts []alert, err error) {
	stack := args.Stack
	in := stack.In(m, pulumi.DependsOn(args.After))
	dashboard, err := monitoring.NewDashboard(ctx, "dashboard", &monitoring.DashboardArgs{
		Project: pulumi.String(stack.Project), DashboardJson: pulumi.String(board.Dashboard(args.Service)),
	}, in)
	if err != nil {
		return nil, err
	}
	m.DashboardURL = dashboard.ID().ToStringOutput().ApplyT(func(id string) string {
		return "https://console.cloud.google.com/monitoring/dashboards/builder/" + path.Base(id) + "?project=" + stack.Project
	}).(pulumi.StringOutput)
	if args.Host != nil {
		host := args.Host.ToStringOutput().ApplyT(func(text string) string {
			return strings.TrimSuffix(strings.TrimPrefix(text, "https://"), "/")
		}).(pulumi.StringOutput)
		m.Uptime, err = monitoring.NewUptimeCheckConfig(ctx, "ready", &monitoring.UptimeCheckConfigArgs{
			Project: pulumi.String(stack.Project), DisplayName: pulumi.String(args.Service + " is ready"),
			Period: pulumi.String("300s"), Timeout: pulumi.String("10s"),
			MonitoredResource: &monitoring.UptimeCheckConfigMonitoredResourceArgs{
				Type: pulumi.String("uptime_url"), Labels: pulumi.StringMap{"project_id": pulumi.String(stack.Project), "host": host},
			},
			HttpCheck: &monitoring.UptimeCheckConfigHttpCheckArgs{
				RequestMethod: pulumi.String("GET"), Path: pulumi.String(uptimePath), Port: pulumi.Int(443), UseSsl: pulumi.Bool(true), ValidateSsl: pulumi.Bool(true),
			},
			UserLabels: stack.Labels("monitoring"),
		}, in)
		if err != nil {
			return nil, err
		}
		alerts = append(alerts, uptimeAlert(m.Uptime))
	}
	var failed []pulumi.Resource
	if len(m.Channels) > 0 {
		// It exists minutes before the alert on it: Cloud Monitoring has to know a metric first.
		metric, err := logging.NewMetric(ctx, "failed-requests", &logging.MetricArgs{
			Project: pulumi.String(stack.Project), Name: pulumi.String(failedRequests(stack)),
			Description: pulumi.String("Requests to " + args.Service + " that Cloud Run answered 429 or 5xx, whether or not they reached an instance"),
			Filter: pulumi.String(fmt.Sprintf(`resource.type="cloud_run_revision" AND resource.labels.service_name=%q AND resource.labels.location=%q`+
				` AND logName="projects/%s/logs/run.googleapis.com%%2Frequests" AND (httpRequest.status=429 OR httpRequest.status>=500)`, args.Service, stack.Region, stack.Project)),
			MetricDescriptor: &logging.MetricMetricDescriptorArgs{MetricKind: pulumi.String("DELTA"), ValueType: pulumi.String("INT64"), Unit: pulumi.String("1")},
		}, stack.In(m))
		if err != nil {
			return nil, err
		}
		failed = append(failed, metric)
	}
	if !args.HasMetrics {
		return alerts, nil
	}
	objectives, err := slo.Load()
	if err != nil {
		return nil, err
	}
	service, err := monitoring.NewCustomService(ctx, "service", &monitoring.CustomServiceArgs{
		Project: pulumi.String(stack.Project), ServiceId: pulumi.String(args.Service), DisplayName: pulumi.String(args.Service), UserLabels: stack.Labels("monitoring"),
	}, in)
	if err != nil {
		return nil, err
	}
	for _, o := range objectives {
		objective, err := objectiveArgs(stack, args.Service, o)
		if err != nil {
			return nil, err
		}
		objective.Service = service.ServiceId
		made, err := monitoring.NewSlo(ctx, o.Name, objective, in)
		if err != nil {
			return nil, err
		}
		m.Objectives = append(m.Objectives, made)
		if o.Shortfall != nil {
			alerts = append(alerts, shortfallAlert(args.Service, o, made))
		}
		alerts = append(alerts, burnAlerts(objectiveName(stack, args.Service, o), o, made)...)
	}
	for _, a := range serverAlerts(stack, args.Service, args.MinInstances) {
		a.needs = slices.Concat(args.After, failed)
		alerts = append(alerts, a)
	}
	return alerts, nil
}
