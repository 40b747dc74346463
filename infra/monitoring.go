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

// Monitoring holds notification channels, SLOs, alerts, the uptime check and the dashboard.
type Monitoring struct {
	pulumi.ResourceState

	// Channels are the full names of all notification channels.
	Channels pulumi.StringArray
	// Mail are the channels that send email, the only ones that a budget can use.
	Mail pulumi.StringArray
	// Objectives are the SLOs defined in monitoring/slo, in the same order.
	Objectives []*monitoring.Slo
	// Alerts are the alert policies. It is empty without notification channels.
	Alerts []*monitoring.AlertPolicy
	// Uptime is the uptime check of a public service. Otherwise it is nil.
	Uptime *monitoring.UptimeCheckConfig
	// DashboardURL is the URL of the dashboard. It is empty without a service.
	DashboardURL pulumi.StringOutput
}

// MonitoringArgs are the arguments of NewMonitoring.
type MonitoringArgs struct {
	Stack *Stack
	// Service is the name of the Cloud Run service. If empty, there are only alerts on dead
	// letters, jobs and drift.
	Service string
	// HasMetrics is true once the project has received the server's metrics. Cloud Monitoring
	// rejects SLOs and alerts on metrics that the project has never received, so it must be false
	// for the first service of a project.
	HasMetrics bool
	// MinInstances is the minimum number of instances of the service.
	MinInstances int
	// Host is the host name of the service, or its https:// URL, for the uptime check. It must be
	// reachable without authentication. If nil, there is no uptime check.
	Host pulumi.StringInput

	// Email and SlackChannel may be empty. SlackToken is the token for SlackChannel.
	Email, SlackChannel string
	SlackToken          pulumi.StringPtrInput
	// PagerDutyKey is used if HasPagerDuty is true.
	PagerDutyKey pulumi.StringPtrInput
	HasPagerDuty bool

	// RunbookURL is the URL of the folder with the runbooks that alerts link to. If empty, alerts
	// name the runbook's path in the repository.
	RunbookURL string
	// DeadLetterSubscriptions are the names of subscriptions that should have no messages.
	DeadLetterSubscriptions pulumi.StringArray
	// Jobs are the names of Cloud Run jobs.
	Jobs []string
	// DriftWorkflow is the name of the workflow that checks for drift. It may be empty.
	DriftWorkflow string
	// After are the resources that must exist before those on the server's metrics: the service.
	After []pulumi.Resource
}

// uptimePath is the path that the uptime check requests. Cloud Run reserves paths that end in z, so
// that /healthz and /readyz work only for its own probes
// (https://cloud.google.com/run/docs/known-issues).
const uptimePath = "/v2/health/ready"

// NewMonitoring creates notification channels, SLOs, alerts, the uptime check and the dashboard.
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
		alerts = nil // nobody would receive them
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

// channels creates the notification channels. It returns those for critical alerts (PagerDuty and
// email) and those for the others (Slack and email). If one of the lists would be empty, it holds
// all channels.
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
		id := made.ID().ToStringOutput() // the ID of a channel is its full name
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

// watchService creates the dashboard, uptime check, log-based metric and SLOs of the service, and
// returns the alerts on them.
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
		// The metric is created without HasMetrics, because it must exist minutes before the alert on it.
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
