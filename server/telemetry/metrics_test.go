package telemetry

import (
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func metrics() *Metrics {
	return NewMetrics("1.2.3", Sources{
		QueueDepth: func() int { return 3 }, InFlight: func() int { return 4 }, LogWaiting: func() int { return 5 }, LogOutbox: func() int { return 6 }, LogWritable: func() bool { return true },
		Accuracy: func() map[string]float64 { return map[string]float64{"cats": 0.875} },
	})
}

func text(t *testing.T, m *Metrics) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	m.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	if recorder.Code != 200 {
		t.Fatalf("status %d: %s", recorder.Code, recorder.Body)
	}
	return recorder.Body.String()
}

// exercise sets every metric.
func exercise(m *Metrics) {
	m.Route("/predict", "POST").ObserveSize(200, 3*time.Millisecond, Small)
	m.Route("/predict", "POST").ObserveSize(200, 30*time.Second, Small)
	m.Route("/predict", "POST").ObserveSize(422, time.Millisecond, Small)
	model := m.Model("cats", "sha256:abc", []string{"REAL", "FAKE"})
	model.Batch(4, 800*time.Microsecond)
	model.Predicted(1, 0.97)
	model.Predicted(0, 0.01)
	m.Swap("cats", true)
	m.Swap("cats", false)
	m.LogRecords("written", 2)
	m.Panic()
	m.SetModel("cats", "sha256:old", "old", "d", "p")
	m.SetModel("cats", "sha256:abc", "new", "d", "p")
	m.SetModel("dogs", "sha256:def", "dogs", "d", "p")
}

func TestMetrics(t *testing.T) {
	m := metrics()
	exercise(m)
	got := text(t, m)
	for _, line := range []string{
		`fakeart_requests_total{code="200",method="POST",route="/predict"} 2`,
		`fakeart_requests_total{code="422",method="POST",route="/predict"} 1`,
		`fakeart_request_duration_seconds_bucket{method="POST",route="/predict",size="small",le="0.001"} 1`,
		`fakeart_request_duration_seconds_bucket{method="POST",route="/predict",size="small",le="0.003"} 2`,
		`fakeart_request_duration_seconds_count{method="POST",route="/predict",size="small"} 3`,
		`fakeart_inference_duration_seconds_bucket{model_name="cats",le="0.001"} 1`,
		`fakeart_batch_size_bucket{model_name="cats",le="4"} 1`,
		`fakeart_predictions_total{label="FAKE",model="sha256:abc",model_name="cats"} 1`,
		`fakeart_predictions_total{label="REAL",model="sha256:abc",model_name="cats"} 1`,
		`fakeart_probability_bucket{model_name="cats",le="0.05"} 1`,
		`fakeart_model_swaps_total{model_name="cats",result="success"} 1`,
		`fakeart_model_swaps_total{model_name="cats",result="failed"} 1`,
		`fakeart_log_records_total{result="written"} 2`,
		`fakeart_log_records_total{result="failed"} 0`,
		`fakeart_model_info{data_digest="d",model="sha256:abc",model_name="cats",name="new",preprocessing="p"} 1`,
		`fakeart_model_info{data_digest="d",model="sha256:def",model_name="dogs",name="dogs",preprocessing="p"} 1`,
		`fakeart_feedback_accuracy_ratio{model_name="cats"} 0.875`,
		`fakeart_build_info{version="1.2.3"} 1`,
		`fakeart_queue_depth 3`, `fakeart_requests_in_flight 4`, `fakeart_log_waiting_records 5`, `fakeart_log_outbox_records 6`, `fakeart_log_writable 1`, `fakeart_panics_total 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
	for _, name := range []string{"sha256:old", "go_goroutines", "process_resident_memory_bytes"} {
		if strings.Contains(got, name) == (name == "sha256:old") {
			t.Errorf("metrics contain %s: %t, want %t", name, name == "sha256:old", name != "sha256:old")
		}
	}
}

func TestMetrics_Promlint(t *testing.T) {
	m := metrics()
	exercise(m)
	problems, err := promlint.New(strings.NewReader(text(t, m))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(m.registry); err != nil || n < 20 {
		t.Errorf("%d metrics, %v, want at least 20", n, err)
	}
}

// The share of requests within an SLO threshold is exact only at a bucket's bound.
func TestDurationBuckets(t *testing.T) {
	for _, threshold := range []float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1} {
		if !slices.Contains(durationBuckets[:], threshold) {
			t.Errorf("%g s is not a bound", threshold)
		}
	}
	for i, b := range durationBuckets[1:] {
		if a := durationBuckets[i]; b <= a || b <= 1 && b/a > 1.5+1e-9 && math.Abs(b/a-5.0/3) > 1e-9 {
			t.Errorf("the bounds %g s and %g s are too far apart or out of order", a, b)
		}
	}
}

func TestMetrics_NoAllocations(t *testing.T) {
	m := metrics()
	exercise(m)
	route, model := m.Route("/predict", "POST"), m.Model("cats", "sha256:abc", []string{"REAL", "FAKE"})
	if n := testing.AllocsPerRun(100, func() {
		route.ObserveSize(200, time.Millisecond, Small)
		model.Predicted(1, 0.9)
		model.Batch(8, time.Millisecond)
	}); n != 0 {
		t.Errorf("%g allocations per request, want 0", n)
	}
}

func TestRouteObserve_InvalidStatus(t *testing.T) {
	m := metrics()
	for _, status := range []int{-1, 600, 1 << 30} {
		m.Route("/x", "GET").Observe(status, 0)
	}
	if !strings.Contains(text(t, m), `fakeart_requests_total{code="500",method="GET",route="/x"} 3`) {
		t.Error("invalid statuses were not counted as 500")
	}
}

func BenchmarkRouteObserve(b *testing.B) {
	route := metrics().Route("/predict", "POST")
	b.ReportAllocs()
	for b.Loop() {
		route.Observe(200, 2*time.Millisecond)
	}
}
