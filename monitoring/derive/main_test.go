package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fakeart/monitoring/slo"
)

func TestOutputs_UpToDate(t *testing.T) {
	for path, derive := range outputs {
		want, err := derive(project(t))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", "..", path))
		if err != nil {
			t.Errorf("%v; run make slo", err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date; run make slo (-want +got):\n%s", path, cmp.Diff(string(want), string(got)))
		}
	}
}

func TestWrite(t *testing.T) {
	root := t.TempDir()
	for path := range outputs {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(root); err != nil {
		t.Fatal(err)
	}
	for path, derive := range outputs {
		want, err := derive(project(t))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, %q", path, err, got)
		}
	}
	if err := write(filepath.Join(root, "none")); err == nil {
		t.Error("write to a missing folder: no error")
	}
}

// project returns the project's objectives.
func project(t *testing.T) []slo.Objective {
	t.Helper()
	all, err := slo.Load()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// objectives returns the project's objectives, read from files with the given replacements. The order
// is availability, latency, accuracy.
func objectives(t *testing.T, replace ...string) []slo.Objective {
	t.Helper()
	files := fstest.MapFS{}
	for _, name := range []string{"availability.yaml", "latency.yaml", "accuracy.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", "slo", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: []byte(strings.NewReplacer(replace...).Replace(string(data)))}
	}
	read, err := slo.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	return append(read[1:], read[0]) // accuracy last
}

func TestK6(t *testing.T) {
	given := objectives(t)
	given[0].Target, given[1].Target, given[1].Latency.Threshold = 0.95, 0.5, 0.4
	for i := range given {
		given[i].DisplayName = "display name"
	}
	text, err := k6(given)
	if err != nil {
		t.Fatal(err)
	}
	var got k6Objectives
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	post := k6Matcher{"method", "=", "POST"}
	route := k6Matcher{"route", "=~", "/predict|/model/"}
	want := []k6Objective{
		{
			Name: "availability", DisplayName: "display name", Target: 0.95,
			Total: []k6Matcher{route, post, {"code", "=~", "[235].."}}, Bad: []k6Matcher{route, post, {"code", "=~", "5.."}},
		},
		{
			Name: "latency", DisplayName: "display name", Target: 0.5,
			Total: []k6Matcher{{"route", "=", "/predict"}, post, {"size", "=", "small"}}, WithinSeconds: 0.4,
		},
	}
	if diff := cmp.Diff(want, got.Objectives); diff != "" {
		t.Errorf("objectives (-want +got):\n%s", diff)
	}
}

func TestK6_OnlyRequestObjectives(t *testing.T) {
	// A load test has no user feedback.
	if text, err := k6(project(t)); err != nil || bytes.Contains(text, []byte("accuracy")) || bytes.Contains(text, []byte("feedback")) {
		t.Errorf("objective on feedback: error %v, %s", err, text)
	}
	text, err := k6(objectives(t, "fakeart_requests_total", "fakeart_log_records_total"))
	if err != nil || bytes.Contains(text, []byte("availability")) || !bytes.Contains(text, []byte("latency")) {
		t.Errorf("objective on the prediction log: error %v, %s", err, text)
	}
	for name, c := range map[string]struct {
		replace []string
		message string
	}{
		"unknown_label":         {[]string{`method="POST",code`, `instance="1",code`}, "SLO availability: fakeart_requests_total{"},
		"no_request_objectives": {[]string{"fakeart_requests_total", "fakeart_panics_total", "fakeart_request_duration_seconds", "fakeart_inference_duration_seconds"}, "no SLO on"},
	} {
		if text, err := k6(objectives(t, c.replace...)); err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: error %v, %s", name, err, text)
		}
	}
}

// within sets the threshold of a latency objective, in seconds, and its label le.
func within(o *slo.Objective, le string, seconds float64) {
	good := *o.Good
	good.Matchers = slices.Clone(good.Matchers)
	for i := range good.Matchers {
		if good.Matchers[i].Label == "le" {
			good.Matchers[i].Value = le
		}
	}
	o.Good, o.Latency.Threshold = &good, seconds
}

func TestPrometheusRules(t *testing.T) {
	given := objectives(t)
	given[0].Target, given[0].Window = 0.975, 28*24*time.Hour
	within(&given[1], "0.4", 0.4)
	given[2].Target, given[2].Shortfall.Lookback, given[2].Shortfall.MinEvents = 0.8, 3*time.Hour, 42
	rules, err := prometheusRules(given)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := prometheusTests(given)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"vector(0.975)", "> 14.4 * 0.025 and", "> 6 * 0.025 and", "> 1 * 0.025 and", `slo="availability"} / 0.025`, "ratio_rate4w", "[4w]", `le="0.4"}[5m]`, `le="0.4"}[3d]`,
		"vector(0.8)", `correct=~"true|false"}[3h])) > 0.2 and sum by (job) (increase(fakeart_feedback_total{correct=~"true|false"}[3h])) >= 42`, "ratio_rate3h", `slo="accuracy"} / 0.2`,
	} {
		if !strings.Contains(string(rules), want) {
			t.Errorf("rules don't contain %s:\n%s", want, rules)
		}
	}
	// 0.9 and 1.1 times 14.4 times 0.025 of a million; 4 and 5 per step for less than 42 events.
	for _, want := range []string{`le="0.4"`, "0+324000x60 19836000+396000x59 ", "0+180000x10 2020000+220000x19 ", "0+4x10 45+5x19 ", `window="3h"`} {
		if !strings.Contains(string(tests), want) {
			t.Errorf("tests don't contain %s:\n%s", want, tests)
		}
	}
}

// Prometheus 3 and newer store le="1" as le="1.0".
func TestPrometheusRules_WholeSecondBucket(t *testing.T) {
	given := objectives(t)
	within(&given[1], "1", 1)
	text, err := prometheusRules(given)
	if want := `le=~"1(\\.0)?"`; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("rules don't contain %s (%v)", want, err)
	}
}

func TestPrometheusRules_GoodIndicator(t *testing.T) {
	given := objectives(t)[:1]
	good := given[0].Total
	given[0].Good, given[0].Bad = &good, nil
	text, err := prometheusRules(given)
	if err != nil || !strings.Contains(string(text), "expr: 1 - (sum by (job) (rate(fakeart_requests_total{") {
		t.Errorf("%v: %s", err, text)
	}
	// All events are good, so there is no example of a bad one.
	if _, err := prometheusTests(given); err == nil || !strings.HasPrefix(err.Error(), "SLO availability: fakeart_requests_total{") {
		t.Errorf("prometheusTests: error %v", err)
	}
	good.Matchers = append(good.Matchers, slo.Matcher{Label: "code", Op: "!~", Value: "5.."})
	if tests, err := prometheusTests(given); err != nil || !strings.Contains(string(tests), `code="503",job="fakeart"}`) {
		t.Errorf("prometheusTests: error %v", err)
	}
}

func TestPrometheusRules_AlertThatNeverFires(t *testing.T) {
	given := objectives(t)
	given[1].Target = 0.93
	_, err := prometheusRules(given)
	if err == nil || !strings.HasPrefix(err.Error(), "SLO latency: target 0.93: ") {
		t.Errorf("error %v, want one for SLO latency", err)
	}
}
