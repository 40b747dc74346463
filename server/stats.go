package main

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"fakeart/internal/model"
	"fakeart/server/telemetry"
)

const (
	// statsInterval is the time between two points of the history, and statsPoints how
	// many there are: half an hour.
	statsInterval = 10 * time.Second
	statsPoints   = 180
)

// judging are the patterns of the routes whose requests Stats counts.
var judging = []string{"/predict", "/model/"}

// Stats is what an instance tells of itself at a glance.
type Stats struct {
	Version     string      `json:"version" doc:"Version of the program."`
	Time        time.Time   `json:"time" doc:"When this was told."`
	Started     time.Time   `json:"started" doc:"Since when this instance counts."`
	Ready       bool        `json:"ready" doc:"Whether requests can be answered."`
	Reason      string      `json:"reason,omitempty" doc:"Why they cannot."`
	Predictions ByLabel     `json:"predictions" doc:"Pictures judged since the start, by their verdict."`
	Requests    uint64      `json:"requests" doc:"Requests to judge pictures since the start."`
	Errors      uint64      `json:"errors" doc:"Those of them that were answered 5xx."`
	Latency     Percentiles `json:"latency" doc:"Of requests to judge pictures, in the time of the history."`
	Interval    float64     `json:"interval_seconds" doc:"Time between two points of the history; the last one is not complete."`
	History     []StatsOf   `json:"history" doc:"What was counted in each interval, the newest last, for half an hour."`
	Log         LogHealth   `json:"log" doc:"The prediction log's health."`
	Drift       DriftOf     `json:"drift" doc:"What the last look for drift of the log has found; GET /drift has the details."`
	Feedback    FeedbackOf  `json:"feedback" doc:"What users said of the verdicts."`
}

// ByLabel counts pictures by their verdict.
type ByLabel struct {
	Real uint64 `json:"real" doc:"Judged to be photographs."`
	Fake uint64 `json:"fake" doc:"Judged to be AI-generated."`
}

// Percentiles are estimated from the buckets of a histogram.
type Percentiles struct {
	P50 *float64 `json:"p50" doc:"Seconds that half of the requests did not exceed; null without requests."`
	P95 *float64 `json:"p95" doc:"The same, 95 in a hundred."`
	P99 *float64 `json:"p99" doc:"The same, 99 in a hundred."`
}

// StatsOf is a point of the history.
type StatsOf struct {
	Time time.Time `json:"time" doc:"When the interval began."`
	ByLabel
	Errors uint64 `json:"errors" doc:"Requests answered 5xx."`
	Percentiles
}

// LogHealth is that of the prediction log.
type LogHealth struct {
	Store    string `json:"store" enum:"sqlite,pubsub,none" doc:"Where it is kept."`
	Writable bool   `json:"writable" doc:"Whether it can be written."`
	Error    string `json:"error,omitempty" doc:"Why it cannot."`
	Written  uint64 `json:"written" doc:"Records stored since the start."`
	Spilled  uint64 `json:"spilled" doc:"Records kept in a file since the start, to be sent later."`
	Failed   uint64 `json:"failed" doc:"Records lost since the start."`
	Waiting  int    `json:"waiting" doc:"Records in memory, to be stored in a moment."`
}

// DriftOf is what the last look for drift has found.
type DriftOf struct {
	Watched  bool       `json:"watched" doc:"Whether it is looked for drift."`
	Detected *bool      `json:"detected" doc:"Whether there is any; null when it could not tell (yet)."`
	Time     *time.Time `json:"time" doc:"When it was looked; null likewise."`
	Records  int64      `json:"records" doc:"Records of the log in the window that was looked at."`
}

// FeedbackOf is what users said of the verdicts.
type FeedbackOf struct {
	Count    uint64   `json:"count" doc:"How often they said something since the start."`
	Accuracy *float64 `json:"accuracy" doc:"Share of right verdicts of the model in use among the last ones that they spoke of, as /metrics has it; null when it is unknown."`
}

// history remembers what was counted when.
type history struct {
	m       *Main
	started time.Time

	mu    sync.Mutex
	marks []mark // the oldest first, at least one
}

// mark is what had been counted at a time.
type mark struct {
	time   time.Time
	totals telemetry.Totals
}

func newHistory(m *Main) *history {
	now := time.Now().UTC()
	return &history{m: m, started: now, marks: []mark{{time: now}}}
}

// watch sets a mark now and then, until ctx ends.
func (h *history) watch(ctx context.Context) {
	ticker := time.NewTicker(statsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			h.set(now.UTC())
		}
	}
}

// set sets a mark.
func (h *history) set(now time.Time) {
	totals, err := h.m.metrics.Totals(judging...)
	if err != nil {
		h.m.log.Warn("counts not read for the history", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = append(h.marks, mark{now, totals})
	if excess := len(h.marks) - statsPoints; excess > 0 {
		h.marks = append(h.marks[:0], h.marks[excess:]...)
	}
}

// stats tells what there is to tell now.
func (h *history) stats(now time.Time) (*Stats, error) {
	m := h.m
	h.mu.Lock()
	marks := slices.Clone(h.marks) // before the counts: none of them is newer
	h.mu.Unlock()
	totals, err := m.metrics.Totals(judging...)
	if err != nil {
		return nil, err
	}
	s := &Stats{
		Version: versionText(), Time: now, Started: h.started, Ready: true,
		Predictions: byLabel(totals, telemetry.Totals{}), Requests: totals.Requests, Errors: totals.Errors,
		Interval: statsInterval.Seconds(), History: []StatsOf{},
		Log: LogHealth{
			Store: m.config.LogStore, Writable: true,
			Written: totals.Log["written"], Spilled: totals.Log["spilled"], Failed: totals.Log["failed"], Waiting: waiting(m.predictions),
		},
	}
	if err := m.unready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	if m.logs() {
		if err := m.predictions.Err(); err != nil {
			s.Log.Writable, s.Log.Error = false, err.Error()
		}
	}
	s.Feedback.Count = totals.Feedback
	if m.drift != nil {
		s.Drift.Watched = true
		if found := m.drift.last.Load().found; found != nil {
			s.Drift = DriftOf{true, &found.Drift, &found.Time, found.Records}
		}
	}
	if share, known := m.rightVerdicts(); known {
		s.Feedback.Accuracy = &share
	}
	s.Latency = percentiles(totals.Latency.Since(marks[0].totals.Latency))
	for i, begin := range marks {
		end := totals
		if i+1 < len(marks) {
			end = marks[i+1].totals
		}
		s.History = append(s.History, StatsOf{
			Time: begin.time, ByLabel: byLabel(end, begin.totals), Errors: end.Errors - begin.totals.Errors,
			Percentiles: percentiles(end.Latency.Since(begin.totals.Latency)),
		})
	}
	return s, nil
}

func byLabel(now, before telemetry.Totals) ByLabel {
	return ByLabel{
		Real: now.Predictions[model.Real] - before.Predictions[model.Real],
		Fake: now.Predictions[model.Fake] - before.Predictions[model.Fake],
	}
}

func percentiles(h telemetry.Histogram) Percentiles {
	return Percentiles{number(h.Quantile(0.5)), number(h.Quantile(0.95)), number(h.Quantile(0.99))}
}

// registerStats gives the route by which the page learns of the server's state.
func (m *Main) registerStats(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/stats", OperationID: "stats", Tags: []string{tagState}, Summary: "What the instance has done lately",
		Description: "Counts and latencies of this instance alone, for people; /metrics has all of them, for Prometheus.",
	}, func(context.Context, *struct{}) (*struct{ Body Stats }, error) {
		s, err := m.history.stats(time.Now().UTC())
		if err != nil {
			m.log.Error("counts not read", "error", err)
			return nil, told(err)
		}
		return &struct{ Body Stats }{*s}, nil
	})
}
