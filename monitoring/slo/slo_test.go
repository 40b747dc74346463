package slo

import (
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fakeart/server/telemetry"
)

func TestLoad(t *testing.T) {
	got, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	month := 30 * 24 * time.Hour
	route := Matcher{"route", "=~", "/predict|/model/"}
	post := Matcher{"method", "=", "POST"}
	small := []Matcher{{"route", "=", "/predict"}, post, {"size", "=", "small"}}
	large := []Matcher{{"route", "=", "/predict"}, post, {"size", "=", "large"}}
	const week = 7 * 24 * time.Hour
	want := []Objective{
		{
			Name: "accuracy", DisplayName: "Predictions that users confirm", Target: 0.9, Window: month,
			Total:     Selector{"fakeart_feedback_total", []Matcher{{"correct", "=~", "true|false"}}},
			Good:      &Selector{"fakeart_feedback_total", []Matcher{{"correct", "=", "true"}}},
			Shortfall: &Shortfall{Lookback: week, MinEvents: 50, Runbook: "accuracy-below-objective", Title: "accuracy is below its objective"},
		},
		{
			Name: "availability", DisplayName: "Predictions without a server error", Target: 0.999, Window: month,
			Total: Selector{"fakeart_requests_total", []Matcher{route, post, {"code", "=~", "[235].."}}},
			Bad:   &Selector{"fakeart_requests_total", []Matcher{route, post, {"code", "=~", "5.."}}},
		},
		{
			Name: "latency-large", DisplayName: "Large images within 2.5 s", Target: 0.99, Window: month,
			Total:   Selector{"fakeart_request_duration_seconds_count", large},
			Good:    &Selector{"fakeart_request_duration_seconds_bucket", append(large[:3:3], Matcher{"le", "=", "2.5"})},
			Latency: &Latency{Selector{"fakeart_request_duration_seconds", large}, 2.5},
		},
		{
			Name: "latency", DisplayName: "Small images within 25 ms", Target: 0.99, Window: month,
			Total:   Selector{"fakeart_request_duration_seconds_count", small},
			Good:    &Selector{"fakeart_request_duration_seconds_bucket", append(small[:3:3], Matcher{"le", "=", "0.025"})},
			Latency: &Latency{Selector{"fakeart_request_duration_seconds", small}, 0.025},
		},
	}
	for i := range got {
		got[i].Description = ""
		if s := got[i].Shortfall; s != nil {
			s.Meaning = ""
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objectives (-want +got):\n%s", diff)
	}
}

// scrape returns the server's metrics after requests with different statuses.
func scrape(t *testing.T) string {
	t.Helper()
	zero := func() int { return 0 }
	m := telemetry.NewMetrics("test", telemetry.Sources{
		QueueDepth: zero, LogWaiting: zero, LogOutbox: zero, InFlight: zero, LogWritable: func() bool { return true },
		Accuracy: func() map[string]float64 { return nil },
	})
	m.Model("fakeart", "sha256:1", []string{"cat", "dog"})
	for _, route := range []string{"/predict", "/model/"} {
		for _, status := range []int{200, 303, 400, 499, 503} {
			m.Route(route, "POST").ObserveSize(status, time.Millisecond, telemetry.Small)
			m.Route(route, "POST").ObserveSize(status, time.Millisecond, telemetry.Large)
		}
	}
	response := httptest.NewRecorder()
	m.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// count returns the number of series in a scrape that a selector matches.
func count(t *testing.T, metrics string, s Selector) (series int) {
	t.Helper()
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
lines:
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, s.Metric+"{")
		if !ok {
			continue
		}
		labels := map[string]string{}
		for _, m := range label.FindAllStringSubmatch(rest, -1) {
			labels[m[1]] = m[2]
		}
		for _, m := range s.Matchers {
			matches := labels[m.Label] == m.Value
			if strings.HasSuffix(m.Op, "~") {
				matches = regexp.MustCompile("^(?:" + m.Value + ")$").MatchString(labels[m.Label])
			}
			if matches == strings.HasPrefix(m.Op, "!") {
				continue lines
			}
		}
		series++
	}
	return series
}

// An SLO on series that the server doesn't export would always be met, and a threshold that isn't the
// bound of a bucket would only be estimated.
func TestLoad_SeriesExist(t *testing.T) {
	metrics := scrape(t)
	objectives, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int{ // total, part
		"accuracy":      {2 * 2, 2},     // two labels with true and false; two with true
		"availability":  {2 * 3, 2 * 1}, // two routes with 200, 303 and 503; two with 503
		"latency":       {1, 1},         // the count; the bucket
		"latency-large": {1, 1},
	}
	for _, o := range objectives {
		part := o.Bad
		if part == nil {
			part = o.Good
		}
		if got := [2]int{count(t, metrics, o.Total), count(t, metrics, *part)}; got != want[o.Name] {
			t.Errorf("%s: %d series match total %s, %d match %s; want %v", o.Name, got[0], o.Total, got[1], part, want[o.Name])
		}
	}
}

func TestParseSelector(t *testing.T) {
	for query, want := range map[string]string{
		`up`:                              `up{}`,
		` up { } `:                        `up{}`,
		`a:b_c{x="1",y!="2",z=~"3|4",}`:   `a:b_c{x="1",y!="2",z=~"3|4"}`,
		`a{ x !~ "a\\.b" , y="\"{},\"" }`: `a{x!~"a\\.b",y="\"{},\""}`,
	} {
		got, err := parseSelector(query)
		if err != nil || got.String() != want {
			t.Errorf("parseSelector(%q) = %s, %v; want %s", query, got, err, want)
		}
	}
	for _, query := range []string{
		``, `{a="b"}`, `1up`, `sum(up)`, `up[5m]`, `up{a="b"}[5m]`, `up{a="b"} offset 1h`, `up{a="b"} / down`, `up{a="b"`, `up{a=b}`, `up{a='b'}`,
		`up{a="b" c="d"}`, `up{,}`, `up{a=~"("}`, `up{a=="b"}`, `up{a="\q"}`, "up{a=\"\n\"}",
	} {
		got, err := parseSelector(query)
		if err == nil {
			t.Errorf("parseSelector(%q) = %s, want an error", query, got)
		} else if !strings.Contains(err.Error(), "selector "+query+": ") {
			t.Errorf("parseSelector(%q): error %v, want it to contain the query", query, err)
		}
	}
}

func TestMatcher_Matches(t *testing.T) {
	for matcher, value := range map[Matcher]string{
		{"a", "=", "x"}: "x", {"a", "!=", "x"}: "xx", {"a", "=~", "x|y"}: "y", {"a", "!~", "x|y"}: "xy", {"a", "=~", ""}: "", {"a", "=~", ".*"}: "1\n2",
	} {
		if !matcher.Matches(value) {
			t.Errorf("%v doesn't match %q", matcher, value)
		}
	}
	for matcher, value := range map[Matcher]string{{"a", "=", "x"}: "", {"a", "!=", "x"}: "x", {"a", "=~", "x|y"}: "xy", {"a", "!~", "x|y"}: "y"} {
		if matcher.Matches(value) {
			t.Errorf("%v matches %q", matcher, value)
		}
	}
}

func TestRead_TargetPercent(t *testing.T) {
	data, err := files.ReadFile("availability.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := strings.Replace(string(data), "target: 0.999", "targetPercent: 99.9", 1)
	got, err := Read(fstest.MapFS{"a.yaml": {Data: []byte(file)}})
	if err != nil || got[0].Target != 0.999 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestRead_Invalid(t *testing.T) {
	read := func(name string) string {
		data, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	availability, latency, accuracy := read("availability.yaml"), read("latency.yaml"), read("accuracy.yaml")
	change := func(file, old, with string) string {
		if !strings.Contains(file, old) {
			t.Fatalf("%q not found in the file", old)
		}
		return strings.Replace(file, old, with, 1)
	}
	for name, c := range map[string]struct{ file, message string }{
		"empty":                     {"# nothing\n", ""},
		"invalid_yaml":              {"a: [", ""},
		"not_openslo":               {"hello: world\n", ""},
		"other_version":             {change(availability, "openslo/v1", "openslo/v2alpha"), ""},
		"other_kind":                {"apiVersion: openslo/v1\nkind: Service\nmetadata:\n  name: fakeart\nspec: {}\n", "expected only SLOs"},
		"unknown_key":               {change(availability, "isRolling", "isRoling"), "isRoling"},
		"no_target":                 {change(availability, "target: 0.999", "timeSliceTarget: 0.9"), "target"},
		"target_1":                  {change(availability, "0.999", "1"), "target"},
		"target_0":                  {change(availability, "0.999", "0"), "target"},
		"calendar_window":           {change(availability, "isRolling: true", "isRolling: false\n      calendar: {startTime: 2026-01-01 00:00:00, timeZone: UTC}"), "rolling"},
		"zero_window":               {change(availability, "30d", "0d"), ""},
		"window_with_unknown_unit":  {change(availability, "30d", "30x"), ""},
		"time_slices":               {change(change(availability, "Occurrences", "RatioTimeslices"), "target: 0.999", "target: 0.999\n      timeSliceWindow: 1m"), "Occurrences"},
		"two_objectives":            {availability + "    - displayName: more\n      target: 0.99\n", "2 objectives"},
		"no_display_name":           {change(availability, "displayName: Predictions", "#"), "displayName"},
		"indicator_ref":             {availability[:strings.Index(availability, "  indicator:")] + "  indicatorRef: other\n" + availability[strings.Index(availability, "  timeWindow:"):], "indicator"},
		"not_a_counter":             {change(availability, "counter: true", "counter: false"), "counter"},
		"other_source":              {change(availability, "type: Prometheus", "type: Datadog"), "bad: expected a metricSource of type Prometheus"},
		"other_source_key":          {change(availability, "query:", "promql:"), "query"},
		"query_not_a_selector":      {change(latency, "query: fakeart_request_duration_seconds_count", "query: rate(fakeart_request_duration_seconds_count"), "total: selector rate("},
		"two_metrics":               {change(availability, "fakeart_requests_total", "fakeart_panics_total"), "the same metric"},
		"bucket_without_le":         {change(latency, `,le="0.025"`, ""), "threshold"},
		"threshold_not_a_number":    {change(latency, `le="0.025"`, `le="fast"`), "seconds"},
		"threshold_infinite":        {change(latency, `le="0.025"`, `le="+Inf"`), "seconds"},
		"threshold_negated":         {change(latency, `le="0.025"`, `le!="0.025"`), "threshold"},
		"bucket_as_bad":             {change(latency, "good:", "bad:"), "expected it as good"},
		"lookback_invalid":          {change(accuracy, "look-back: 7d", "look-back: soon"), "fakeart/look-back"},
		"lookback_above_window":     {change(accuracy, "look-back: 7d", "look-back: 31d"), "30d"},
		"lookback_without_events":   {change(accuracy, `    fakeart/least-events: "50"`+"\n", ""), "fakeart/least-events"},
		"events_without_lookback":   {change(accuracy, "    fakeart/look-back: 7d\n", ""), "fakeart/look-back"},
		"events_zero":               {change(accuracy, `"50"`, `"0"`), "fakeart/least-events"},
		"events_not_a_number":       {change(accuracy, `"50"`, `"many"`), "fakeart/least-events"},
		"unknown_annotation":        {change(accuracy, "fakeart/look-back", "fakeart/lookback"), "fakeart/lookback"},
		"total_with_other_matchers": {change(latency, `_count{route="/predict",`, `_count{`), "expected fakeart_request_duration_seconds_count{"},
	} {
		got, err := Read(fstest.MapFS{"broken.yaml": {Data: []byte(c.file)}})
		if err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		} else if !strings.HasPrefix(err.Error(), "broken.yaml: ") || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: error %q, want broken.yaml and %q", name, err, c.message)
		}
	}
	_, err := Read(fstest.MapFS{"a.yaml": {Data: []byte(latency)}, "b.yaml": {Data: []byte(latency)}})
	if err == nil || !strings.Contains(err.Error(), "b.yaml: duplicate SLO latency") {
		t.Errorf("duplicate name: error %v", err)
	}
}
