package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"fakeart/monitoring/metricstest"
	"fakeart/monitoring/prometheus"
)

const policyKind = "gcp:monitoring/alertPolicy:AlertPolicy"

func TestAlerts_RunbookExists(t *testing.T) {
	link := regexp.MustCompile(`\]\((https://example\.org/docs/runbooks/([a-z-]+)\.md)\)`)
	for name, r := range kinds(watched(t, nil), policyKind) {
		content, _ := r.value("documentation.content").(string)
		page := link.FindStringSubmatch(content)
		if page == nil {
			t.Errorf("%s: no runbook link in %q", name, content)
			continue
		}
		if _, err := os.Stat("../docs/runbooks/" + page[2] + ".md"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if url := r.value("documentation.links.0.url"); url != page[1] {
			t.Errorf("%s: links.0.url = %v, want %v", name, url, page[1])
		}
	}
	for _, folder := range []string{"https://example.org/docs/runbooks", "https://example.org/docs/runbooks/"} {
		r := find(t, watched(t, func(a *MonitoringArgs) { a.RunbookURL = folder }), policyKind, "panics")
		if url := r.value("documentation.links.0.url"); url != "https://example.org/docs/runbooks/panics.md" {
			t.Errorf("RunbookURL %s: links.0.url = %v", folder, url)
		}
	}
}

// Without a runbook folder, an alert names the path of the runbook instead of a placeholder link.
func TestAlerts_RunbookLink(t *testing.T) {
	for _, test := range []struct {
		name   string
		change map[string]string
		want   string
	}{
		{"repository", nil, "[dead-letters](https://github.com/owner/name/blob/main/docs/runbooks/dead-letters.md)"},
		{"runbook_url", map[string]string{"fakeart:runbookUrl": "https://wiki.my-company.com/fakeart"}, "[dead-letters](https://wiki.my-company.com/fakeart/dead-letters.md)"},
		{"no_repository", map[string]string{"fakeart:repository": ""}, "docs/runbooks/dead-letters.md in the repository"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := find(t, mustUp(t, "dev", test.change), policyKind, "dead-letters")
			if content, _ := r.value("documentation.content").(string); !strings.HasSuffix(content, test.want) || strings.Contains(content, "OWNER") {
				t.Errorf("content = %q, want it to end in %q", content, test.want)
			}
			if link := r.value("documentation.links"); (link == nil) != (test.name == "no_repository") {
				t.Errorf("links = %v", link)
			}
		})
	}
}

func TestRunbooks(t *testing.T) {
	pages, err := filepath.Glob("../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile("../docs/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, r := range kinds(watched(t, nil), policyKind) {
		used[path.Base(r.value("documentation.links.0.url").(string))] = true
	}
	rules, err := prometheus.Read(os.DirFS("../monitoring/prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		if rule.Alert == "" {
			continue
		}
		folder, name := path.Split(rule.Annotations["runbook_url"])
		if want := "https://github.com/OWNER/REPOSITORY/blob/main/docs/runbooks/"; folder != want {
			t.Errorf("%s: runbook_url is in %s, want %s", rule.Alert, folder, want)
		}
		if _, err := os.Stat("../docs/runbooks/" + name); err != nil {
			t.Errorf("%s: %v", rule.Alert, err)
		}
		used[name] = true
	}
	for _, page := range pages {
		name := filepath.Base(page)
		if name == "README.md" {
			continue
		}
		if !used[name] {
			t.Errorf("%s: no alert links to it", name)
		}
		if !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("%s: missing in docs/runbooks/README.md", name)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		got := regexp.MustCompile(`(?m)^#+ .+$`).FindAllString(string(text), -1)
		want := []string{"# " + strings.TrimSuffix(name, ".md"), "## Symptom", "## Impact", "## Diagnosis", "## Mitigation", "## Verification"}
		if !slices.Equal(got, want) {
			t.Errorf("%s: headings %q, want %q", name, got, want)
		}
	}
	if len(pages) < 10 {
		t.Errorf("%d runbooks, want at least 10", len(pages))
	}
}

func TestAlerts_Channels(t *testing.T) {
	for name, c := range map[string]struct {
		change         func(*MonitoringArgs)
		pages, tickets []any
	}{
		"all":       {nil, []any{"email-id", "pagerduty-id"}, []any{"email-id", "slack-id"}},
		"email":     {func(a *MonitoringArgs) { a.SlackChannel, a.HasPagerDuty = "", false }, []any{"email-id"}, []any{"email-id"}},
		"slack":     {func(a *MonitoringArgs) { a.Email, a.HasPagerDuty = "", false }, []any{"slack-id"}, []any{"slack-id"}},
		"pagerduty": {func(a *MonitoringArgs) { a.Email, a.SlackChannel = "", "" }, []any{"pagerduty-id"}, []any{"pagerduty-id"}},
	} {
		policies := kinds(watched(t, c.change), policyKind)
		if len(policies) < 10 {
			t.Errorf("%s: %d alerts, want at least 10", name, len(policies))
		}
		for alert, r := range policies {
			want := c.tickets
			if r.value("severity") == "CRITICAL" {
				want = c.pages
			}
			if got := r.value("notificationChannels").([]any); !slices.Equal(got, want) {
				t.Errorf("%s: %s goes to %v, want %v", name, alert, got, want)
			}
		}
	}
	noChannel := func(a *MonitoringArgs) { a.Email, a.SlackChannel, a.HasPagerDuty = "", "", false }
	if policies := kinds(watched(t, noChannel), policyKind); len(policies) > 0 {
		t.Errorf("%d alerts without a channel, want 0", len(policies))
	}
}

func TestChannels_Secrets(t *testing.T) {
	channels := kinds(watched(t, nil), "gcp:monitoring/notificationChannel:NotificationChannel")
	for name, want := range map[string]map[string]any{
		"email":     {"type": "email", "labels.email_address": "team@example.org", "sensitiveLabels": nil},
		"slack":     {"type": "slack", "labels.channel_name": "#alerts", "sensitiveLabels.authToken": "xoxb"},
		"pagerduty": {"type": "pagerduty", "labels": nil, "sensitiveLabels.serviceKey": "pd"},
	} {
		for path, value := range want {
			if got := channels[name].value(path); got != value {
				t.Errorf("%s: %s is %v, want %v", name, path, got, value)
			}
		}
		if channels[name].secrets != (name != "email") {
			t.Errorf("%s: secrets = %v", name, channels[name].secrets)
		}
	}
}

// google reports whether a metric comes from Google Cloud rather than from the server.
func google(metric string) bool {
	return strings.HasPrefix(metric, "run_googleapis_com:") || strings.HasPrefix(metric, "logging_googleapis_com:")
}

// A query for an unknown series or label would never return a result.
func TestAlerts_QueriesUseKnownSeries(t *testing.T) {
	server := metricstest.Server(t, "cluster", "namespace")
	selector, series := regexp.MustCompile(`(\w+)\{cluster="__run__",namespace="fakeart-dev-server"`), regexp.MustCompile(`\bfakeart_`)
	selectors := 0
	for name, r := range kinds(watched(t, nil), policyKind) {
		query, _ := r.value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
		if query == "" {
			continue
		}
		for _, problem := range server.Query(query, google) {
			t.Errorf("%s: %s", name, problem)
		}
		found := len(selector.FindAllString(query, -1))
		if len(series.FindAllString(query, -1)) != found {
			t.Errorf("%s: a selector in %s isn't restricted to the service", name, query)
		}
		selectors += found
	}
	if selectors < 8 {
		t.Errorf("%d selectors, want at least 8", selectors)
	}
}

func TestSLOs_FiltersUseKnownMetrics(t *testing.T) {
	server := metricstest.Server(t, "cluster", "namespace")
	filters := 0
	for name, r := range kinds(watched(t, nil), sloKind) {
		r.strings(func(path, filter string) {
			metric := regexp.MustCompile(`metric\.type="prometheus\.googleapis\.com/(\w+)/(\w+)"`).FindStringSubmatch(filter)
			if metric == nil {
				return
			}
			filters++
			series := metric[1]
			if histogram := metric[2] == "histogram"; histogram != server.Histogram(series) {
				t.Errorf("%s: %s: %s isn't a %s", name, path, series, metric[2])
			} else if histogram {
				series += "_count"
			}
			var labels []string
			for _, label := range regexp.MustCompile(`metric\.labels\.(\w+)`).FindAllStringSubmatch(filter, -1) {
				labels = append(labels, label[1])
			}
			for _, problem := range server.Selector(series, labels...) {
				t.Errorf("%s: %s: %s", name, path, problem)
			}
		})
	}
	if filters != 6 {
		t.Errorf("%d filters, want 6", filters)
	}
}

// An alert that exists in both Prometheus and Cloud Monitoring must have the same expression and
// severity in both, except for the labels that select the service: job in Prometheus, cluster and
// namespace in Cloud Monitoring.
func TestAlerts_SameExpressionInPrometheus(t *testing.T) {
	rules, err := prometheus.Read(os.DirFS("../monitoring/prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	policies := kinds(watched(t, nil), policyKind)
	same := 0
	for _, rule := range rules {
		page := strings.TrimSuffix(path.Base(rule.Annotations["runbook_url"]), ".md")
		policy, ok := policies[page]
		if !ok {
			continue
		}
		if severity := strings.ToLower(policy.value("severity").(string)); rule.Labels["severity"] != severity {
			t.Errorf("%s is %s in Prometheus, and %s on Google Cloud", page, rule.Labels["severity"], severity)
		}
		query := policy.value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
		if strings.Contains(query, "_googleapis_com:") {
			continue // uses Cloud Run's metrics, which Prometheus doesn't have
		}
		same++
		if here, there := common(t, rule.Expr), common(t, query); here != there {
			t.Errorf("%s: in Prometheus\n%s\non Google Cloud\n%s", page, here, there)
		}
	}
	if same < 4 {
		t.Errorf("%d alerts in both, want at least 4", same)
	}
}

// common returns a query without the labels that select the service.
func common(t *testing.T, query string) string {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			n.LabelMatchers = slices.DeleteFunc(n.LabelMatchers, func(m *labels.Matcher) bool {
				return slices.Contains([]string{"cluster", "namespace", "job"}, m.Name)
			})
		case *parser.AggregateExpr:
			n.Grouping = slices.DeleteFunc(n.Grouping, func(label string) bool { return label == "job" })
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				n.VectorMatching.MatchingLabels = slices.DeleteFunc(n.VectorMatching.MatchingLabels, func(label string) bool { return label == "job" })
				n.VectorMatching.On = n.VectorMatching.On && len(n.VectorMatching.MatchingLabels) > 0
			}
		}
		return nil
	})
	return regexp.MustCompile(`\b(on|by) \(\) `).ReplaceAllString(expr.String(), "")
}

func TestAlerts_ValidConditions(t *testing.T) {
	for name, r := range kinds(watched(t, nil), policyKind) {
		conditions := r.value("conditions").([]any)
		for i, c := range conditions {
			condition := made{inputs: c.(map[string]any)}
			if v, _ := condition.value("displayName").(string); v == "" {
				t.Errorf("%s: condition %d has no displayName", name, i)
			}
			threshold, promQL := condition.value("conditionThreshold"), condition.value("conditionPrometheusQueryLanguage")
			if condition.value("conditionMatchedLog") != nil && len(conditions) == 1 {
				continue
			}
			if (threshold == nil) == (promQL == nil) || promQL != nil && len(conditions) != 1 {
				t.Errorf("%s: invalid condition %d: %v", name, i, c)
			}
			if filter, _ := condition.value("conditionThreshold.filter").(string); threshold != nil && (filter == "" || len(filter) > 2048) {
				t.Errorf("%s: invalid filter %q", name, filter)
			}
			for _, path := range []string{"conditionThreshold.duration", "conditionPrometheusQueryLanguage.duration"} {
				var s int
				if v := condition.value(path); v != nil {
					if _, err := fmt.Sscanf(v.(string), "%ds", &s); err != nil || s%60 != 0 {
						t.Errorf("%s: duration %v isn't a multiple of a minute", name, v)
					}
				}
			}
			if v := condition.value("conditionPrometheusQueryLanguage.evaluationInterval"); promQL != nil && v != "60s" && v != "600s" {
				t.Errorf("%s: evaluationInterval = %v, want 60s or 600s", name, v)
			}
		}
		if content := r.value("documentation.content").(string); len(content) > 8192 {
			t.Errorf("%s: content of %d bytes, want at most 8192", name, len(content))
		}
	}
}

func TestAlerts_JobsDeadLettersUptime(t *testing.T) {
	resources := watched(t, nil)
	for name, want := range map[string]string{
		"dead-letters": `resource.labels.subscription_id=one_of("a-dead-letters","b-dead-letters")`,
		"job-failed":   `metric.labels.result="failed" AND resource.labels.location="europe-west4" AND resource.labels.job_name=one_of("fakeart-dev-train","fakeart-dev-drift")`,
		"unreachable":  `resource.type="uptime_url" AND metric.labels.check_id="ready-id"`,
	} {
		if got := find(t, resources, policyKind, name).value("conditions.0.conditionThreshold.filter").(string); !strings.HasSuffix(got, want) {
			t.Errorf("%s: filter = %s, want it to end in %s", name, got, want)
		}
	}
	check := find(t, resources, "gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig", "ready")
	if check.value("monitoredResource.labels.host") != "fakeart.example.org" || strings.HasSuffix(check.value("httpCheck.path").(string), "z") {
		t.Errorf("uptime check = %v", check.inputs)
	}
	private := watched(t, func(a *MonitoringArgs) { a.Host = nil })
	if n := len(kinds(private, check.kind)); n != 0 || len(kinds(private, policyKind)) != len(kinds(resources, policyKind))-1 {
		t.Errorf("a private service has %d uptime checks, want 0", n)
	}
	always := `or vector(0)) < 1`
	query := func(resources []made) string {
		return find(t, resources, policyKind, "no-instance-ready").value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
	}
	if idle := watched(t, func(a *MonitoringArgs) { a.MinInstances = 0 }); !strings.HasSuffix(query(resources), always) || strings.Contains(query(idle), always) {
		t.Error("no-instance-ready must count instances only if minInstances isn't 0")
	}
}

// The alert must count requests that reach no instance. Google's request_count lacks them, so it
// counts entries of the request log.
func TestAlerts_NoInstanceReady(t *testing.T) {
	const kind = "gcp:logging/metric:Metric"
	resources := watched(t, nil)
	expect(t, find(t, resources, kind, "failed-requests"), map[string]any{
		"name": "fakeart_dev_failed_requests", "metricDescriptor.metricKind": "DELTA", "metricDescriptor.valueType": "INT64",
		"filter": `resource.type="cloud_run_revision" AND resource.labels.service_name="fakeart-dev-server" AND resource.labels.location="europe-west4"` +
			` AND logName="projects/my-project-1/logs/run.googleapis.com%2Frequests" AND (httpRequest.status=429 OR httpRequest.status>=500)`,
	})
	query := find(t, resources, policyKind, "no-instance-ready").value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
	if !strings.Contains(query, `logging_googleapis_com:user_fakeart_dev_failed_requests{monitored_resource="cloud_run_revision"}`) || strings.Contains(query, "request_count") {
		t.Errorf("query = %s", query)
	}
	if _, err := parser.NewParser(parser.Options{}).ParseExpr(query); err != nil {
		t.Error(err)
	}
	// The metric must exist before the alert on it, and isn't needed without alerts.
	if n := len(kinds(watched(t, func(a *MonitoringArgs) { a.HasMetrics = false }), kind)); n != 1 {
		t.Errorf("without HasMetrics: %d metrics, want 1", n)
	}
	if n := len(kinds(watched(t, func(a *MonitoringArgs) { a.Email, a.SlackChannel, a.HasPagerDuty = "", "", false }), kind)); n != 0 {
		t.Errorf("without channels: %d metrics, want 0", n)
	}
}

func TestUptimeCheck_OnlyPublicService(t *testing.T) {
	for _, test := range []struct {
		name   string
		change map[string]string
		checks int
	}{
		{"public", map[string]string{"fakeart:public": "true"}, 1},
		{"private", map[string]string{"fakeart:public": "false"}, 0},
		{"public_internal_ingress", map[string]string{"fakeart:public": "true", "fakeart:ingress": "internal"}, 0},
		{"public_behind_other_load_balancer", map[string]string{"fakeart:public": "true", "fakeart:ingress": "internal-and-cloud-load-balancing"}, 0},
		{"public_behind_own_load_balancer", map[string]string{
			"fakeart:public": "true", "fakeart:ingress": "internal-and-cloud-load-balancing", "fakeart:loadBalancer": "{}", "fakeart:domain": "fakeart.example.org",
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			resources := mustUp(t, "dev", test.change)
			if n := len(kinds(resources, "gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig")); n != test.checks {
				t.Errorf("%d uptime checks, want %d", n, test.checks)
			}
			if _, ok := kinds(resources, policyKind)["unreachable"]; ok != (test.checks > 0) {
				t.Errorf("alert unreachable exists: %v", ok)
			}
		})
	}
}

func TestMonitoring_PreviewWithUnknownOutputs(t *testing.T) {
	resources, err := watch(nil, true)
	if err != nil || len(kinds(resources, policyKind)) < 10 {
		t.Errorf("%d resources, %v", len(resources), err)
	}
}

func TestAlerts_PictureDriftMatchesWorkflowLog(t *testing.T) {
	r := kinds(watched(t, nil), policyKind)["picture-drift"]
	if filter := fmt.Sprint(r.value("conditions.0.conditionMatchedLog.filter")); !strings.Contains(filter, `workflow_id="fakeart-test-dispatch"`) || !strings.Contains(filter, `jsonPayload.event="drift"`) {
		t.Errorf("filter = %s", filter)
	}
	if r.value("alertStrategy.notificationRateLimit.period") == nil {
		t.Error("no notificationRateLimit, which Cloud Monitoring requires for log alerts")
	}
	workflow, err := os.ReadFile(workflowFile)
	if err != nil || !strings.Contains(string(workflow), "event: drift") || !strings.Contains(string(workflow), "moved: ${moved}") {
		t.Errorf("the workflow writes no matching log entry (%v)", err)
	}
}
