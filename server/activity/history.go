// Package activity summarizes what an instance of the server has done since its start, for people:
// counts and latencies with their [History] of half an hour, and the [Accuracy] of the default model.
package activity

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"fakeart/server/failure"
	"fakeart/server/telemetry"
)

// Interval is the time between two points of the history, and MaxPoints their maximum number: half an
// hour.
const (
	Interval  = 10 * time.Second
	MaxPoints = 180
)

// Stats summarizes the state of an instance.
type Stats struct {
	Version     string          `json:"version" doc:"Version of the server."`
	Time        time.Time       `json:"time" doc:"Current time of the server."`
	Started     time.Time       `json:"started" doc:"When this instance started counting."`
	Ready       bool            `json:"ready" doc:"Whether the server is ready."`
	Reason      string          `json:"reason,omitempty" doc:"Why the server isn't ready."`
	Images      uint64          `json:"images" doc:"Images classified since the start."`
	Predictions ByLabel         `json:"predictions" doc:"Images classified since the start, by predicted class: the 50 most frequent classes of a model, and other."`
	Requests    uint64          `json:"requests" doc:"Prediction requests since the start."`
	Errors      uint64          `json:"errors" doc:"Prediction requests with a 5xx response since the start."`
	Latency     Percentiles     `json:"latency" doc:"Latency of prediction requests during the history."`
	Interval    float64         `json:"interval_seconds" doc:"Time between two points of the history. The last interval is incomplete."`
	History     []StatsPoint    `json:"history" doc:"Counts per interval for the last half hour, newest last."`
	Log         LogHealth       `json:"log" doc:"State of the prediction log."`
	Drift       DriftSummary    `json:"drift" doc:"Result of the last drift check; GET /drift returns the details."`
	Feedback    FeedbackSummary `json:"feedback" doc:"Feedback on predictions."`
}

// ByLabel counts images by label of the predicted class.
type ByLabel map[string]uint64

// Percentiles are estimated from the buckets of a histogram.
type Percentiles struct {
	P50 *float64 `json:"p50" doc:"Median in seconds; null if there were no requests."`
	P95 *float64 `json:"p95" doc:"95th percentile in seconds; null if there were no requests."`
	P99 *float64 `json:"p99" doc:"99th percentile in seconds; null if there were no requests."`
}

// StatsPoint is a point of the history.
type StatsPoint struct {
	Time        time.Time `json:"time" doc:"Start of the interval."`
	Images      uint64    `json:"images" doc:"Images classified."`
	Predictions ByLabel   `json:"predictions" doc:"Images classified by predicted class, without classes that have no images."`
	Errors      uint64    `json:"errors" doc:"Prediction requests with a 5xx response."`
	Percentiles
}

// LogHealth is the state of the prediction log.
type LogHealth struct {
	Store    string `json:"store" enum:"sqlite,pubsub,none" doc:"Where predictions are logged."`
	Writable bool   `json:"writable" doc:"Whether the log is writable."`
	Error    string `json:"error,omitempty" doc:"Why the log isn't writable."`
	Written  uint64 `json:"written" doc:"Records stored since the start."`
	Spilled  uint64 `json:"spilled" doc:"Records saved to a file since the start, to be sent later."`
	Failed   uint64 `json:"failed" doc:"Records lost since the start."`
	Waiting  int    `json:"waiting" doc:"Records in memory that wait to be stored."`
}

// DriftSummary is the result of the last drift check in brief.
type DriftSummary struct {
	Watched  bool       `json:"watched" doc:"Whether drift checks are enabled."`
	Detected *bool      `json:"detected" doc:"Whether drift was detected; null if no check has succeeded yet or the last one failed."`
	Time     *time.Time `json:"time" doc:"When the check ran; null if detected is."`
	Records  int64      `json:"records" doc:"Log records in the window of the check."`
}

// FeedbackSummary summarizes the feedback on predictions.
type FeedbackSummary struct {
	Count    uint64   `json:"count" doc:"Feedback requests stored since the start."`
	Accuracy *float64 `json:"accuracy" doc:"Share of correct predictions of the default model among the latest ones with feedback, as in /metrics; null if unknown."`
}

// Sources are where a History reads the state of the server. All fields are required.
type Sources struct {
	Version  string             // of the server
	Routes   []string           // patterns of the routes whose requests are counted
	Metrics  *telemetry.Metrics // counts since the start
	Unready  func() error       // why the server isn't ready, or nil if it is
	Log      func() LogState
	Drift    func() DriftSummary
	Accuracy func() (share float64, known bool) // of the default model
	Logger   *slog.Logger
}

// LogState is the state of the prediction log.
type LogState struct {
	Store   string // where predictions are logged
	Err     error  // why the log isn't writable, or nil
	Waiting int    // records in memory that wait to be stored
}

// History records the counts at regular intervals. It is safe for concurrent use.
type History struct {
	from    Sources
	started time.Time

	mu        sync.Mutex
	snapshots []snapshot // oldest first, at least one
}

// snapshot is the state of the counts at a time.
type snapshot struct {
	time   time.Time
	totals telemetry.Totals
}

// New returns a history that begins now.
func New(from Sources) *History {
	now := time.Now().UTC()
	return &History{from: from, started: now, snapshots: []snapshot{{time: now}}}
}

// Run adds a snapshot at each interval until ctx is done.
func (h *History) Run(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			h.Add(now.UTC())
		}
	}
}

// Add adds a snapshot of the counts, as those at the given time.
func (h *History) Add(now time.Time) {
	totals, err := h.from.Metrics.Totals(h.from.Routes...)
	if err != nil {
		h.from.Logger.Warn("read metrics for the history", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots = append(h.snapshots, snapshot{now, totals})
	if excess := len(h.snapshots) - MaxPoints; excess > 0 {
		h.snapshots = append(h.snapshots[:0], h.snapshots[excess:]...)
	}
}

// Stats returns the state at time now.
func (h *History) Stats(now time.Time) (*Stats, error) {
	h.mu.Lock()
	snapshots := slices.Clone(h.snapshots) // before reading the totals, so that no snapshot is newer
	h.mu.Unlock()
	totals, err := h.from.Metrics.Totals(h.from.Routes...)
	if err != nil {
		return nil, err
	}
	log := h.from.Log()
	s := &Stats{
		Version: h.from.Version, Time: now, Started: h.started, Ready: true,
		Images: totals.Images, Predictions: totals.Predictions, Requests: totals.Requests, Errors: totals.Errors,
		Interval: Interval.Seconds(), History: []StatsPoint{},
		Log: LogHealth{
			Store: log.Store, Writable: log.Err == nil,
			Written: totals.Log["written"], Spilled: totals.Log["spilled"], Failed: totals.Log["failed"], Waiting: log.Waiting,
		},
		Drift: h.from.Drift(), Feedback: FeedbackSummary{Count: totals.Feedback},
	}
	if err := h.from.Unready(); err != nil {
		s.Ready, s.Reason = false, failure.OneLine(err.Error())
	}
	if log.Err != nil {
		s.Log.Error = failure.OneLine(log.Err.Error())
	}
	if share, known := h.from.Accuracy(); known {
		s.Feedback.Accuracy = &share
	}
	s.Latency = percentiles(totals.Latency.Since(snapshots[0].totals.Latency))
	for i, begin := range snapshots {
		end := totals
		if i+1 < len(snapshots) {
			end = snapshots[i+1].totals
		}
		s.History = append(s.History, StatsPoint{
			Time: begin.time, Images: end.Images - begin.totals.Images, Predictions: byLabel(end, begin.totals), Errors: end.Errors - begin.totals.Errors,
			Percentiles: percentiles(end.Latency.Since(begin.totals.Latency)),
		})
	}
	return s, nil
}

// byLabel returns the counts that have increased.
func byLabel(now, before telemetry.Totals) ByLabel {
	counts := ByLabel{}
	for label, n := range now.Predictions {
		if b := before.Predictions[label]; n >= b {
			n -= b // otherwise the class has been counted as other meanwhile
		}
		if n > 0 {
			counts[label] = n
		}
	}
	return counts
}

func percentiles(h telemetry.Histogram) Percentiles {
	if h == (telemetry.Histogram{}) {
		return Percentiles{}
	}
	return Percentiles{new(h.Quantile(0.5)), new(h.Quantile(0.95)), new(h.Quantile(0.99))}
}
