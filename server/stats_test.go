package main

import (
	"encoding/json"
	"testing"
	"time"

	"fakeart/server/activity"
	"fakeart/server/page"
)

func getStats(t *testing.T, m *Main) activity.Stats {
	t.Helper()
	response, body := do(t, "GET", m.URL()+"/stats", "", nil)
	if response.StatusCode != 200 {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	var s activity.Stats
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStats(t *testing.T) {
	m := start(t)
	if s := getStats(t, m); s.Predictions["REAL"]+s.Predictions["FAKE"] != 0 || s.Latency.P50 != nil || len(s.History) != 1 || !s.Ready {
		t.Errorf("at startup: %+v", s)
	}
	judge := func(n int) {
		for range n {
			if response, body := do(t, "POST", m.URL()+"/predict", "", page.Files()["samples/fake-1.png"].Plain); response.StatusCode != 200 {
				t.Fatalf("%s", body)
			}
		}
	}
	judge(2)
	mark := time.Now().UTC()
	m.history.Add(mark)
	judge(3)
	waitForRecords(t, m, 5)
	s := getStats(t, m)
	if total := s.Predictions["REAL"] + s.Predictions["FAKE"]; total != s.Images || total != 5 || s.Requests != 5 || s.Errors != 0 {
		t.Errorf("%d predictions in %d requests with %d errors, want 5, 5 and 0", total, s.Requests, s.Errors)
	}
	if len(s.History) != 2 || s.History[0].Predictions["REAL"]+s.History[0].Predictions["FAKE"] != 2 || s.History[1].Images != 3 || !s.History[1].Time.Equal(mark) {
		t.Errorf("history: %+v", s.History)
	}
	if s.Latency.P50 == nil || *s.Latency.P50 <= 0 || *s.Latency.P99 < *s.Latency.P50 || s.History[1].P95 == nil {
		t.Errorf("latency: %+v", s.Latency)
	}
	if s.Log.Store != "sqlite" || !s.Log.Writable || s.Log.Written+uint64(s.Log.Waiting) != 5 {
		t.Errorf("log: %+v", s.Log)
	}
	if s.Feedback.Count != 0 || s.Feedback.Accuracy != nil {
		t.Errorf("feedback before any was sent: %+v", s.Feedback)
	}
	_, body := do(t, "POST", m.URL()+"/predict", "", page.Files()["samples/fake-1.png"].Plain)
	var p Prediction
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	if response, body := do(t, "POST", m.URL()+"/feedback", "application/json", []byte(`{"id":"`+p.ID+`","label":"`+p.Label+`"}`)); response.StatusCode != 200 {
		t.Fatalf("%s", body)
	}
	if s := getStats(t, m); s.Feedback.Count != 1 || s.Feedback.Accuracy == nil || *s.Feedback.Accuracy != 1 {
		t.Errorf("feedback: %+v", s.Feedback)
	}
	// Data that isn't an image is a client error, not a server error.
	do(t, "POST", m.URL()+"/predict", "", []byte("hello"))
	if s := getStats(t, m); s.Errors != 0 || s.Requests != 7 {
		t.Errorf("%d requests, %d errors", s.Requests, s.Errors)
	}
	for range activity.MaxPoints + 5 {
		m.history.Add(time.Now().UTC())
	}
	if s := getStats(t, m); len(s.History) != activity.MaxPoints || s.History[0].Images != 0 {
		t.Errorf("the history has %d points, want %d", len(s.History), activity.MaxPoints)
	}
}

func TestStats_NotReady(t *testing.T) {
	m := start(t, func(c *Config) { c.LogStore = "none" })
	m.draining.Store(true)
	defer m.draining.Store(false)
	s := getStats(t, m)
	if s.Ready || s.Reason == "" || s.Log.Store != "none" {
		t.Errorf("%+v", s)
	}
}

func TestStats_Drift(t *testing.T) {
	if s := getStats(t, start(t)); s.Drift.Watched {
		t.Errorf("without a reference: %+v", s.Drift)
	}
	m := startDriftMonitored(t)
	if s := getStats(t, m); !s.Drift.Watched || s.Drift.Detected != nil || s.Drift.Time != nil {
		t.Errorf("before there are records to compare: %+v", s.Drift)
	}
	predictRed(t, m, 120, 100)
	awaitDrift(t, m)
	if s := getStats(t, m); s.Drift.Detected == nil || !*s.Drift.Detected || s.Drift.Records == 0 || s.Drift.Time == nil {
		t.Errorf("other images: %+v", s.Drift)
	}
}
