package prometheus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v3"

	"fakeart/monitoring/metricstest"
	"fakeart/monitoring/prometheus"
)

func rules(t *testing.T) []prometheus.Rule {
	t.Helper()
	rules, err := prometheus.Read(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) < 20 {
		t.Fatalf("%d rules, want at least 20", len(rules))
	}
	return rules
}

func TestRules_UseKnownSeries(t *testing.T) {
	server := metricstest.Server(t, "job", "instance")
	server.Add(rules(t))
	for _, r := range rules(t) {
		for _, problem := range server.Query(r.Expr, nil) {
			t.Errorf("%s%s: %s", r.Alert, r.Record, problem)
		}
	}
}

func TestAlerts_AnnotationsAndDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity = %q", r.Alert, s)
		}
		if !strings.HasPrefix(r.Annotations["summary"], "{{ $labels.") || len(r.Annotations["description"]) < 40 || len(r.Annotations) != 3 {
			t.Errorf("%s: invalid annotations %v", r.Alert, r.Annotations)
		}
		if !regexp.MustCompile(`(?m)^\|.*\b` + r.Alert + `\b.*\| ` + r.Labels["severity"] + ` \|`).Match(page) {
			t.Errorf("%s: missing in the table of docs/how-to/monitoring.md with severity %s", r.Alert, r.Labels["severity"])
		}
		// The runbook of LatencyBurnsFast is latency-burns-fast.md.
		name := strings.ToLower(regexp.MustCompile(`\B[A-Z]`).ReplaceAllString(r.Alert, "-$0"))
		if url := r.Annotations["runbook_url"]; !strings.HasSuffix(url, "/docs/runbooks/"+name+".md") {
			t.Errorf("%s: runbook_url = %s", r.Alert, url)
		}
	}
}

// `make slo-check` runs the tests. This test checks that every alert has one in which it fires and
// resolves.
func TestAlerts_HaveTests(t *testing.T) {
	paths, err := filepath.Glob("*_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fires := map[string]bool{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file prometheus.Tests
		if err := yaml.Unmarshal(data, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, test := range file.Tests {
			if name, complete := tested(test); complete {
				fires[name] = true
			}
		}
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		name := r.Alert
		if window := r.Labels["window"]; window != "" {
			name += " " + window
		}
		if !fires[name] {
			t.Errorf("no test in which %s is silent, fires and resolves", name)
		}
	}
}

// tested returns the alert that fires in a test, followed by its label window, and reports whether the
// alert is silent before and after.
func tested(test prometheus.Test) (name string, complete bool) {
	var states string
	for _, q := range test.Queries {
		if !strings.HasPrefix(q.Expr, "ALERTS") {
			continue
		}
		if len(q.Samples) == 0 {
			states += "silent "
			continue
		}
		label := func(name string) string {
			if m := regexp.MustCompile(name + `="([^"]*)"`).FindStringSubmatch(q.Samples[0].Labels); m != nil {
				return m[1]
			}
			return ""
		}
		name = strings.TrimSpace(label("alertname") + " " + label("window"))
		states += "firing "
	}
	return name, regexp.MustCompile(`^(silent )+(firing )+silent $`).MatchString(states)
}

func TestTested(t *testing.T) {
	query := func(firing bool) prometheus.Query {
		q := prometheus.Query{Expr: "ALERTS"}
		if firing {
			q.Samples = []prometheus.Sample{{Labels: `ALERTS{alertname="X",window="1h"}`}}
		}
		return q
	}
	for states, want := range map[string]bool{"010": true, "00110": true, "01": false, "10": false, "00": false, "0101": false} {
		var test prometheus.Test
		for _, step := range states {
			test.Queries = append(test.Queries, query(step == '1'))
		}
		if name, complete := tested(test); complete != want || strings.Contains(states, "1") && name != "X 1h" {
			t.Errorf("tested(%s) = %q, %v, want %v", states, name, complete, want)
		}
	}
}

func TestRead_Invalid(t *testing.T) {
	for name, file := range map[string]string{
		"invalid_yaml": "groups: [", "unknown_key": "groups:\n  - name: a\n    rules:\n      - alert: A\n        expr: up\n        fro: 5m\n", "empty": "",
	} {
		got, err := prometheus.Read(fstest.MapFS{"broken.rules.yaml": {Data: []byte(file)}, "other.yaml": {Data: []byte("x")}})
		if err == nil || !strings.HasPrefix(fmt.Sprint(err), "broken.rules.yaml: ") {
			t.Errorf("%s: got %v, error %v", name, got, err)
		}
	}
}
