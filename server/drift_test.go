package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fakeart/internal/drift"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/server/benchmark"
	"fakeart/server/driftwatch"
	"fakeart/server/load"
)

// writeReference writes a drift reference for n red images of various brightness.
func writeReference(t testing.TB, digest string, n int) string {
	t.Helper()
	r := drift.Reference{Model: digest}
	rng := rand.New(rand.NewPCG(1, 1))
	for range n {
		level := uint8(155 + rng.IntN(100))
		red := float64(level) / 255
		s := imaging.StatsOf(bytes.Repeat([]uint8{level, 0, 0}, imaging.Size*imaging.Size), imaging.Size, imaging.Channels)
		r.Rows = append(r.Rows, drift.Row{
			Label: model.Fake, Probability: model.Probability(float32(8*red - 4)), Mean: s.Mean, StdDev: s.StdDev, Brightness: s.Brightness,
			Contrast: s.Contrast, Sharpness: s.Sharpness, Saturation: s.Saturation, Embedding: []float32{float32(red), 0, 0},
		})
	}
	data, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, drift.ReferenceFile, data)
}

// predictRed sends n red images whose levels are distributed over 100 values from least on.
func predictRed(t *testing.T, m *Main, n int, least int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(2, 1))
	for range n {
		img := pngOf(t, solid(color.NRGBA{R: uint8(least + rng.IntN(100)), A: 255}, 32, 32))
		if response, body := do(t, "POST", m.URL()+"/predict", "", img); response.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
	}
	waitForRecords(t, m, float64(n))
}

// awaitDrift waits for a successful drift check and returns its result.
func awaitDrift(t *testing.T, m *Main) driftwatch.Drift {
	t.Helper()
	var d driftwatch.Drift
	waitFor(t, "a drift check", func() bool {
		response, body := do(t, "GET", m.URL()+"/drift", "", nil)
		if response.StatusCode == http.StatusConflict {
			return false
		}
		if err := json.Unmarshal(body, &d); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s (%v)", response.StatusCode, body, err)
		}
		return true
	})
	return d
}

// startDriftMonitored starts a server that checks for drift against a reference of 300 rows.
func startDriftMonitored(t *testing.T) *Main {
	t.Helper()
	path := writeModel(t, redDetector(t), metadata())
	f, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, path)
	config.DriftReference, config.DriftEvery, config.DriftWindow = writeReference(t, f.Digest, 300), time.Second, time.Hour
	return startMain(t, NewMain(config, slog.New(slog.DiscardHandler)))
}

func TestDrift(t *testing.T) {
	for _, test := range []struct {
		name  string
		least int
		drift bool
	}{{"same_distribution", 155, false}, {"darker_images", 100, true}} {
		t.Run(test.name, func(t *testing.T) {
			m := startDriftMonitored(t)
			predictRed(t, m, 150, test.least)
			d := awaitDrift(t, m)
			if d.Drift != test.drift || d.Model != inUse(m) || d.Records < 100 || len(d.Columns) != 12 {
				t.Errorf("%+v", d)
			}
			want := 0.0
			if test.drift {
				want = 1
			}
			if got := metric(t, m, "fakeart_drift_detected"); got != want {
				t.Errorf("fakeart_drift_detected is %g", got)
			}
			if got := metric(t, m, "fakeart_drift_window_rows"); got < 100 {
				t.Errorf("fakeart_drift_window_rows is %g", got)
			}
			if got := metric(t, m, `fakeart_drift_score{column="brightness",test="wasserstein"}`); (got > 0.5) != test.drift {
				t.Errorf("the score is %g", got)
			}
			if at := metric(t, m, "fakeart_drift_timestamp_seconds"); time.Since(time.UnixMilli(int64(1000*at))) > time.Minute {
				t.Errorf("checked at %g", at)
			}
		})
	}
}

func TestDrift_CheckFails(t *testing.T) {
	m := startDriftMonitored(t)
	predictRed(t, m, 10, 155)
	waitFor(t, "a drift check", func() bool {
		response, body := do(t, "GET", m.URL()+"/drift", "", nil)
		if response.StatusCode != http.StatusConflict {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
		return strings.Contains(string(body), "too few rows: the model has 10 predictions")
	})
	_, body := do(t, "GET", m.URL()+"/metrics", "", nil)
	for _, name := range []string{"fakeart_drift_detected", "fakeart_drift_score"} {
		if strings.Contains(string(body), "\n"+name) {
			t.Errorf("%s exists", name)
		}
	}
	if !strings.Contains(string(body), "\nfakeart_drift_window_rows 10\n") {
		t.Error("no metric for the rows of the window")
	}

	// Replace the reference with one for another model.
	data, err := os.ReadFile(writeReference(t, "sha256:other", 300))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.config.DriftReference, data, 0o644); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an error about the other model", func() bool {
		_, body := do(t, "GET", m.URL()+"/drift", "", nil)
		return strings.Contains(string(body), "sha256:other")
	})
}

func TestDrift_Disabled(t *testing.T) {
	m := start(t)
	response, body := do(t, "GET", m.URL()+"/drift", "", nil)
	checkProblem(t, response, body, http.StatusNotFound, "--drift-reference")
}

func TestDrift_UnreadableReference(t *testing.T) {
	config := testConfig(t, writeModel(t, redDetector(t), metadata()))
	config.DriftReference = filepath.Join(t.TempDir(), "none")
	m := NewMain(config, slog.New(slog.DiscardHandler))
	err := m.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--drift-reference") || !strings.Contains(err.Error(), config.DriftReference) {
		t.Errorf("%v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkPredict_DriftChecks is BenchmarkPredict with a prediction log, with and without continuous
// drift checks.
func BenchmarkPredict_DriftChecks(b *testing.B) {
	path := writeModel(b, redDetector(b), metadata())
	f, err := model.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	for _, enabled := range []bool{false, true} {
		b.Run(fmt.Sprintf("checks=%v", enabled), func(b *testing.B) {
			config := testConfig(b, path)
			if enabled {
				config.DriftReference, config.DriftEvery = writeReference(b, f.Digest, drift.ReferenceRows), time.Millisecond
			}
			m := startMain(b, NewMain(config, slog.New(slog.DiscardHandler)))
			addr, request := m.endpoints[0].listener.Addr().String(), benchmark.ImageRequest("/predict", 32, 32)
			if _, err := load.ClosedLoop(b.Context(), addr, request, 16, load.Limit{Requests: 2 * driftwatch.MaxRows}); err != nil {
				b.Fatal(err) // more records than one check compares
			}
			b.ResetTimer()
			if _, err := load.ClosedLoop(b.Context(), addr, request, 16, load.Limit{Requests: b.N}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
		})
	}
}
