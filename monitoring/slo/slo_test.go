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

func TestTheProjectsObjectivesAreRead(t *testing.T) {
	got, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	month := 30 * 24 * time.Hour
	route := Matcher{"route", "=~", "/predict|/model/"}
	post := Matcher{"method", "=", "POST"}
	predict := []Matcher{{"route", "=", "/predict"}, post}
	const week = 7 * 24 * time.Hour
	want := []Objective{
		{
			Name: "accuracy", DisplayName: "Verdicts that users call right", Target: 0.9, Window: month,
			Total:     Selector{"fakeart_feedback_total", []Matcher{{"correct", "=~", "true|false"}}},
			Good:      &Selector{"fakeart_feedback_total", []Matcher{{"correct", "=", "true"}}},
			Shortfall: &Shortfall{LookBack: week, Least: 50, Runbook: "accuracy-below-objective", Title: "accuracy: below its objective"},
		},
		{
			Name: "availability", DisplayName: "Predictions answered without a server error", Target: 0.999, Window: month,
			Total: Selector{"fakeart_requests_total", []Matcher{route, post, {"code", "=~", "[235].."}}},
			Bad:   &Selector{"fakeart_requests_total", []Matcher{route, post, {"code", "=~", "5.."}}},
		},
		{
			Name: "latency", DisplayName: "Predictions answered within 25 ms", Target: 0.99, Window: month,
			Total:   Selector{"fakeart_request_duration_seconds_count", predict},
			Good:    &Selector{"fakeart_request_duration_seconds_bucket", append(predict[:2:2], Matcher{"le", "=", "0.025"})},
			Latency: &Latency{Selector{"fakeart_request_duration_seconds", predict}, 0.025},
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

// scrape is what the server's metrics look like after a request of each kind.
func scrape(t *testing.T) string {
	t.Helper()
	zero := func() int { return 0 }
	m := telemetry.NewMetrics("test", telemetry.Sources{
		QueueDepth: zero, LogWaiting: zero, LogOutbox: zero, InFlight: zero, LogWritable: func() bool { return true },
		Accuracy: func() (float64, bool) { return 1, true },
	})
	for _, route := range []string{"/predict", "/model/"} {
		for _, status := range []int{200, 303, 400, 499, 503} {
			m.Route(route, "POST").Observe(status, time.Millisecond)
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

// count is how many series of a scrape a selector names.
func count(t *testing.T, scraped string, s Selector) (series int) {
	t.Helper()
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
lines:
	for line := range strings.Lines(scraped) {
		rest, ok := strings.CutPrefix(line, s.Metric+"{")
		if !ok {
			continue
		}
		labels := map[string]string{}
		for _, m := range label.FindAllStringSubmatch(rest, -1) {
			labels[m[1]] = m[2]
		}
		for _, m := range s.Matchers {
			fits := labels[m.Label] == m.Value
			if strings.HasSuffix(m.Op, "~") {
				fits = regexp.MustCompile("^(?:" + m.Value + ")$").MatchString(labels[m.Label])
			}
			if fits == strings.HasPrefix(m.Op, "!") {
				continue lines
			}
		}
		series++
	}
	return series
}

// An indicator of series that the server does not have would be met for ever, and so
// would a threshold between two buckets be guessed.
func TestTheIndicatorsAreSeriesOfTheServer(t *testing.T) {
	scraped := scrape(t)
	objectives, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int{ // total, part
		"accuracy":     {2 * 2, 2},     // of two labels, true and false; and true
		"availability": {2 * 3, 2 * 1}, // of two routes, 200, 303 and 503; and 503
		"latency":      {1, 1},         // the count, and the one bucket
	}
	for _, o := range objectives {
		part := o.Bad
		if part == nil {
			part = o.Good
		}
		if got := [2]int{count(t, scraped, o.Total), count(t, scraped, *part)}; got != want[o.Name] {
			t.Errorf("%s: %d series of total %s, and %d of %s; want %v", o.Name, got[0], o.Total, got[1], part, want[o.Name])
		}
	}
}

func TestSelectorsAreReadAsPromQL(t *testing.T) {
	for query, want := range map[string]string{
		`up`:                              `up{}`,
		` up { } `:                        `up{}`,
		`a:b_c{x="1",y!="2",z=~"3|4",}`:   `a:b_c{x="1",y!="2",z=~"3|4"}`,
		`a{ x !~ "a\\.b" , y="\"{},\"" }`: `a{x!~"a\\.b",y="\"{},\""}`,
	} {
		got, err := parseSelector(query)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v; want %s", query, got, err, want)
		}
	}
	for _, query := range []string{
		``, `{a="b"}`, `1up`, `sum(up)`, `up[5m]`, `up{a="b"}[5m]`, `up{a="b"} offset 1h`, `up{a="b"} / down`, `up{a="b"`, `up{a=b}`, `up{a='b'}`,
		`up{a="b" c="d"}`, `up{,}`, `up{a=~"("}`, `up{a=="b"}`, `up{a="\q"}`, "up{a=\"\n\"}",
	} {
		got, err := parseSelector(query)
		if err == nil {
			t.Errorf("%s: taken for %s", query, got)
		} else if !strings.Contains(err.Error(), "selector "+query+": ") {
			t.Errorf("%s: the message does not name it: %v", query, err)
		}
	}
}

func TestMatchersFitWholeValues(t *testing.T) {
	for matcher, fits := range map[Matcher]string{
		{"a", "=", "x"}: "x", {"a", "!=", "x"}: "xx", {"a", "=~", "x|y"}: "y", {"a", "!~", "x|y"}: "xy", {"a", "=~", ""}: "", {"a", "=~", ".*"}: "1\n2",
	} {
		if !matcher.Fits(fits) {
			t.Errorf("%v does not fit %q", matcher, fits)
		}
	}
	for matcher, not := range map[Matcher]string{{"a", "=", "x"}: "", {"a", "!=", "x"}: "x", {"a", "=~", "x|y"}: "xy", {"a", "!~", "x|y"}: "y"} {
		if matcher.Fits(not) {
			t.Errorf("%v fits %q", matcher, not)
		}
	}
}

func TestPercentsAreSharesWithoutAnErrorOfRounding(t *testing.T) {
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

func TestFilesThatCannotBeUsedAreRefusedByName(t *testing.T) {
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
			t.Fatalf("there is no %q to change", old)
		}
		return strings.Replace(file, old, with, 1)
	}
	for name, c := range map[string]struct{ file, message string }{
		"empty":                       {"# nothing\n", ""},
		"no YAML":                     {"a: [", ""},
		"no OpenSLO":                  {"hello: world\n", ""},
		"another version":             {change(availability, "openslo/v1", "openslo/v2alpha"), ""},
		"another kind":                {"apiVersion: openslo/v1\nkind: Service\nmetadata:\n  name: fakeart\nspec: {}\n", "want SLOs"},
		"a key that is none":          {change(availability, "isRolling", "isRoling"), "isRoling"},
		"no target":                   {change(availability, "target: 0.999", "timeSliceTarget: 0.9"), "target"},
		"all of them":                 {change(availability, "0.999", "1"), "target"},
		"none of them":                {change(availability, "0.999", "0"), "target"},
		"a calendar window":           {change(availability, "isRolling: true", "isRolling: false\n      calendar: {startTime: 2026-01-01 00:00:00, timeZone: UTC}"), "rolling"},
		"no window":                   {change(availability, "30d", "0d"), ""},
		"a window of a strange unit":  {change(availability, "30d", "30x"), ""},
		"time slices":                 {change(change(availability, "Occurrences", "RatioTimeslices"), "target: 0.999", "target: 0.999\n      timeSliceWindow: 1m"), "Occurrences"},
		"two objectives":              {availability + "    - displayName: more\n      target: 0.99\n", "2 objectives"},
		"nameless for people":         {change(availability, "displayName: Predictions", "#"), "displayName"},
		"a reference":                 {availability[:strings.Index(availability, "  indicator:")] + "  indicatorRef: other\n" + availability[strings.Index(availability, "  timeWindow:"):], "indicator"},
		"a metric of another kind":    {change(availability, "counter: true", "counter: false"), "counter"},
		"another source":              {change(availability, "type: Prometheus", "type: Datadog"), "bad: want a metricSource of type Prometheus"},
		"another key":                 {change(availability, "query:", "promql:"), "query"},
		"a query that is no selector": {change(latency, "query: fakeart_request_duration_seconds_count", "query: rate(fakeart_request_duration_seconds_count"), "total: selector rate("},
		"two metrics":                 {change(availability, "fakeart_requests_total", "fakeart_panics_total"), "the same metric"},
		"a bucket of no threshold":    {change(latency, `,le="0.025"`, ""), "threshold"},
		"a threshold of words":        {change(latency, `le="0.025"`, `le="fast"`), "seconds"},
		"no threshold but infinity":   {change(latency, `le="0.025"`, `le="+Inf"`), "seconds"},
		"slow as good":                {change(latency, `le="0.025"`, `le!="0.025"`), "threshold"},
		"fast as bad":                 {change(latency, "good:", "bad:"), "want it as good"},
		"a look back that is none":    {change(accuracy, "look-back: 7d", "look-back: soon"), "fakeart/look-back"},
		"a look back beyond all":      {change(accuracy, "look-back: 7d", "look-back: 31d"), "30d"},
		"a look back alone":           {change(accuracy, `    fakeart/least-events: "50"`+"\n", ""), "fakeart/least-events"},
		"a floor alone":               {change(accuracy, "    fakeart/look-back: 7d\n", ""), "fakeart/look-back"},
		"no floor":                    {change(accuracy, `"50"`, `"0"`), "fakeart/least-events"},
		"a floor of words":            {change(accuracy, `"50"`, `"many"`), "fakeart/least-events"},
		"an annotation that is none":  {change(accuracy, "fakeart/look-back", "fakeart/lookback"), "fakeart/lookback"},
		"a total of more routes":      {change(latency, `_count{route="/predict",`, `_count{`), "want fakeart_request_duration_seconds_count{"},
	} {
		got, err := Read(fstest.MapFS{"broken.yaml": {Data: []byte(c.file)}})
		if err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		} else if !strings.HasPrefix(err.Error(), "broken.yaml: ") || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: the message is %q, want broken.yaml and %q", name, err, c.message)
		}
	}
	_, err := Read(fstest.MapFS{"a.yaml": {Data: []byte(latency)}, "b.yaml": {Data: []byte(latency)}})
	if err == nil || !strings.Contains(err.Error(), "b.yaml: there is another SLO latency") {
		t.Errorf("the same name twice: %v", err)
	}
}
