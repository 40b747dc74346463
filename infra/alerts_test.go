package main

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fakeart/server/telemetry"
)

const policyKind = "gcp:monitoring/alertPolicy:AlertPolicy"

func TestEveryAlertLeadsToItsPageOfTheRunbooks(t *testing.T) {
	link := regexp.MustCompile(`\]\((https://example\.org/docs/runbooks/([a-z-]+)\.md)\)`)
	for name, r := range kinds(watched(t, nil), policyKind) {
		content, _ := r.value("documentation.content").(string)
		page := link.FindStringSubmatch(content)
		if page == nil {
			t.Errorf("%s: its text leads nowhere: %q", name, content)
			continue
		}
		if _, err := os.Stat("../docs/runbooks/" + page[2] + ".md"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if url := r.value("documentation.links.0.url"); url != page[1] {
			t.Errorf("%s: its link is %v", name, url)
		}
	}
	for _, folder := range []string{"https://example.org/docs/runbooks", "https://example.org/docs/runbooks/"} {
		r := find(t, watched(t, func(a *MonitoringArgs) { a.RunbookURL = folder }), policyKind, "panics")
		if url := r.value("documentation.links.0.url"); url != "https://example.org/docs/runbooks/panics.md" {
			t.Errorf("in %s: %v", folder, url)
		}
	}
}

func TestEveryRunbookHasItsAlertAndSaysAllThatIsAsked(t *testing.T) {
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
	for _, page := range pages {
		name := filepath.Base(page)
		if name == "README.md" {
			continue
		}
		if !used[name] {
			t.Errorf("%s: no alert leads there", name)
		}
		if !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("%s: the index does not have it", name)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		got := regexp.MustCompile(`(?m)^#+ .+$`).FindAllString(string(text), -1)
		want := []string{"# " + strings.TrimSuffix(name, ".md"), "## What it means", "## How to look", "## What to do", "## How to know it is over"}
		if !slices.Equal(got, want) {
			t.Errorf("%s has the headings %q, want %q", name, got, want)
		}
	}
	if len(pages) < 10 {
		t.Errorf("only %d pages", len(pages))
	}
}

func TestPagesGoToWhoeverIsOnCallAndTheRestToTheTeam(t *testing.T) {
	for name, c := range map[string]struct {
		change         func(*MonitoringArgs)
		pages, tickets []any
	}{
		"all":             {nil, []any{"email-id", "pagerduty-id"}, []any{"email-id", "slack-id"}},
		"mail":            {func(a *MonitoringArgs) { a.SlackChannel, a.HasPagerDuty = "", false }, []any{"email-id"}, []any{"email-id"}},
		"Slack alone":     {func(a *MonitoringArgs) { a.Email, a.HasPagerDuty = "", false }, []any{"slack-id"}, []any{"slack-id"}},
		"the pager alone": {func(a *MonitoringArgs) { a.Email, a.SlackChannel = "", "" }, []any{"pagerduty-id"}, []any{"pagerduty-id"}},
	} {
		policies := kinds(watched(t, c.change), policyKind)
		if len(policies) < 10 {
			t.Errorf("%s: %d alerts", name, len(policies))
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
	nobody := func(a *MonitoringArgs) { a.Email, a.SlackChannel, a.HasPagerDuty = "", "", false }
	if policies := kinds(watched(t, nobody), policyKind); len(policies) > 0 {
		t.Errorf("%d alerts that nobody gets", len(policies))
	}
}

func TestChannelsCarryTheirSecretsAsSecrets(t *testing.T) {
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
			t.Errorf("%s: secret is %v", name, channels[name].secrets)
		}
	}
}

// A query that names a series, or a label, that there is not would never have a result.
func TestAlertsAskForSeriesThatThereAre(t *testing.T) {
	zero := func() int { return 0 }
	m := telemetry.NewMetrics("test", telemetry.Sources{
		QueueDepth: zero, LogWaiting: zero, LogOutbox: zero, InFlight: zero, LogWritable: func() bool { return true },
	})
	m.Route("/predict", "POST").Answered(200, time.Millisecond)
	m.Model("sha256:1", []string{"REAL", "FAKE"})
	response := httptest.NewRecorder()
	m.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	selector := regexp.MustCompile(`(\w+)\{cluster="__run__",namespace="fakeart-dev-server"(?:,([^}]*))?\}`)
	asked := 0
	for name, r := range kinds(watched(t, nil), policyKind) {
		query, _ := r.value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
		for _, s := range selector.FindAllStringSubmatch(query, -1) {
			asked++
			series := regexp.MustCompile(`(?m)^` + s[1] + `[{ ].*$`).FindString(string(body))
			if series == "" {
				t.Errorf("%s: the server has no %s", name, s[1])
			}
			for _, label := range regexp.MustCompile(`(\w+)(?:=|!)`).FindAllStringSubmatch(s[2], -1) {
				if !strings.Contains(series, label[1]+`="`) {
					t.Errorf("%s: %s has no label %s", name, s[1], label[1])
				}
			}
			for _, value := range regexp.MustCompile(`(?:result|label)="(\w+)"`).FindAllString(s[2], -1) {
				if !strings.Contains(string(body), value) {
					t.Errorf("%s: no %s has %s", name, s[1], value)
				}
			}
		}
		if strings.Count(query, "fakeart_") != len(selector.FindAllString(query, -1)) {
			t.Errorf("%s: not everything in %s is the service's alone", name, query)
		}
	}
	if asked < 8 {
		t.Errorf("only %d selectors", asked)
	}
}

func TestConditionsAreAsTheProviderWantsThem(t *testing.T) {
	for name, r := range kinds(watched(t, nil), policyKind) {
		conditions := r.value("conditions").([]any)
		for i, c := range conditions {
			condition := made{inputs: c.(map[string]any)}
			if v, _ := condition.value("displayName").(string); v == "" {
				t.Errorf("%s: condition %d has no name", name, i)
			}
			threshold, promQL := condition.value("conditionThreshold"), condition.value("conditionPrometheusQueryLanguage")
			if condition.value("conditionMatchedLog") != nil && len(conditions) == 1 {
				continue
			}
			if (threshold == nil) == (promQL == nil) || promQL != nil && len(conditions) != 1 {
				t.Errorf("%s: condition %d is %v", name, i, c)
			}
			if filter, _ := condition.value("conditionThreshold.filter").(string); threshold != nil && (filter == "" || len(filter) > 2048) {
				t.Errorf("%s: its filter is %q", name, filter)
			}
			for _, path := range []string{"conditionThreshold.duration", "conditionPrometheusQueryLanguage.duration"} {
				var s int
				if v := condition.value(path); v != nil {
					if _, err := fmt.Sscanf(v.(string), "%ds", &s); err != nil || s%60 != 0 {
						t.Errorf("%s: duration %v is no multiple of a minute", name, v)
					}
				}
			}
			if v := condition.value("conditionPrometheusQueryLanguage.evaluationInterval"); promQL != nil && v != "60s" && v != "600s" {
				t.Errorf("%s: evaluated every %v", name, v)
			}
		}
		if content := r.value("documentation.content").(string); len(content) > 8192 {
			t.Errorf("%s: %d bytes of text", name, len(content))
		}
	}
}

func TestWhatIsWatchedBesidesTheServer(t *testing.T) {
	resources := watched(t, nil)
	for name, want := range map[string]string{
		"dead-letters": `resource.labels.subscription_id=one_of("a-dead-letters","b-dead-letters")`,
		"job-failed":   `metric.labels.result="failed" AND resource.labels.location="europe-west4" AND resource.labels.job_name=one_of("fakeart-dev-train","fakeart-dev-drift")`,
		"unreachable":  `resource.type="uptime_url" AND metric.labels.check_id="ready-id"`,
	} {
		if got := find(t, resources, policyKind, name).value("conditions.0.conditionThreshold.filter").(string); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	check := find(t, resources, "gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig", "ready")
	if check.value("monitoredResource.labels.host") != "fakeart.example.org" || strings.HasSuffix(check.value("httpCheck.path").(string), "z") {
		t.Errorf("the check from outside is %v", check.inputs)
	}
	private := watched(t, func(a *MonitoringArgs) { a.Host = nil })
	if n := len(kinds(private, check.kind)); n != 0 || len(kinds(private, policyKind)) != len(kinds(resources, policyKind))-1 {
		t.Errorf("a private service has %d checks from outside", n)
	}
	always := `or vector(0)) < 1`
	query := func(resources []made) string {
		return find(t, resources, policyKind, "no-instance-ready").value("conditions.0.conditionPrometheusQueryLanguage.query").(string)
	}
	if idle := watched(t, func(a *MonitoringArgs) { a.MinInstances = 0 }); !strings.HasSuffix(query(resources), always) || strings.Contains(query(idle), always) {
		t.Error("no instance is no fault where none has to be")
	}
}

func TestMonitoringIsPlannedBeforeAnythingIsKnown(t *testing.T) {
	resources, err := watch(nil, true)
	if err != nil || len(kinds(resources, policyKind)) < 10 {
		t.Errorf("%d resources, %v", len(resources), err)
	}
}

func TestDriftOfThePicturesIsAnAlertOnTheWorkflowsLine(t *testing.T) {
	r := kinds(watched(t, nil), policyKind)["picture-drift"]
	if filter := fmt.Sprint(r.value("conditions.0.conditionMatchedLog.filter")); !strings.Contains(filter, `workflow_id="fakeart-test-dispatch"`) || !strings.Contains(filter, `jsonPayload.event="drift"`) {
		t.Errorf("its filter is %s", filter)
	}
	if r.value("alertStrategy.notificationRateLimit.period") == nil {
		t.Error("no rate limit, without which an alert on a log is refused")
	}
	workflow, err := os.ReadFile(workflowFile)
	if err != nil || !strings.Contains(string(workflow), "event: drift") || !strings.Contains(string(workflow), "moved: ${moved}") {
		t.Errorf("the workflow leaves no such line (%v)", err)
	}
}
