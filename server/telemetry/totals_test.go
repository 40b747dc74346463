package telemetry

import (
	"math"
	"testing"
	"time"
)

func TestTotals(t *testing.T) {
	m := NewMetrics("test", Sources{
		QueueDepth: func() int { return 0 }, InFlight: func() int { return 0 }, LogWaiting: func() int { return 0 },
		LogOutbox: func() int { return 0 }, LogWritable: func() bool { return true },
	})
	for range 3 {
		m.Route("/predict", "POST").Observe(200, 2*time.Millisecond)
	}
	m.Route("/model/", "POST").Observe(503, 11*time.Second)
	m.Route("/predict", "GET").Observe(405, time.Millisecond)
	m.Route("/healthz", "GET").Observe(200, time.Millisecond)
	m.Model("x", "sha256:a", []string{"REAL", "FAKE"}).Predicted(1, 0.9)
	m.Model("x", "sha256:b", []string{"REAL", "FAKE"}).Predicted(1, 0.9)
	m.LogRecords("written", 7)
	m.Feedback("x", "REAL", "false")
	m.Feedback("x", "FAKE", "true")
	got, err := m.Totals("/predict", "/model/")
	if err != nil {
		t.Fatal(err)
	}
	if got.Requests != 4 || got.Errors != 1 || got.Images != 2 || got.Predictions["FAKE"] != 2 || got.Predictions["REAL"] != 0 || got.Log["written"] != 7 || got.Feedback != 2 {
		t.Errorf("Totals = %+v", got)
	}
	if got.Latency[2] != 3 || got.Latency[len(got.Latency)-1] != 1 {
		t.Errorf("latency = %v, want 3 between 1.5 and 2 ms and 1 above all bounds", got.Latency)
	}
}

func TestHistogramQuantile(t *testing.T) {
	var h Histogram
	if !math.IsNaN(h.Quantile(0.5)) {
		t.Error("quantile of an empty histogram is not NaN")
	}
	h[0], h[2] = 10, 10 // up to 1 ms; 1.5 to 2 ms
	for q, want := range map[float64]float64{0.25: 0.0005, 0.5: 0.001, 0.75: 0.00175, 1: 0.002} {
		if got := h.Quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("Quantile(%g) = %g, want %g", q, got, want)
		}
	}
	h = Histogram{}
	h[len(h)-1] = 1
	if got := h.Quantile(0.5); got != 10 {
		t.Errorf("above all bounds: Quantile = %g, want 10", got)
	}
	later := h
	later[0] += 4
	if d := later.Since(h); d[0] != 4 || d[len(d)-1] != 0 {
		t.Errorf("Since = %v, want 4 in the first bucket only", d)
	}
}
