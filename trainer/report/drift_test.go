package report

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fakeart/internal/drift"
	"fakeart/trainer/predictions"
)

// driftOf returns a comparison with a log of n rows, one per step of time.
func driftOf(t *testing.T, n int, step time.Duration) Drift {
	t.Helper()
	rows := func(n int, moved float64) []drift.Row {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		rows := make([]drift.Row, n)
		for i := range rows {
			v := func() float64 { return 0.5 + 0.1*rng.NormFloat64() }
			rows[i] = drift.Row{
				Time: time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC).Add(time.Duration(i) * step), Model: "sha256:aa", Label: "REAL", Probability: v(),
				Format: "<b>", Width: 32, Height: 32, Mean: v(), StdDev: v(), Brightness: v() + moved, Contrast: v(), Sharpness: v(), Saturation: 0.25,
				Embedding: []float32{float32(v()), float32(v()), float32(v())},
			}
		}
		return rows
	}
	reference, current := rows(300, 0), rows(n, 0.3)
	result, err := drift.Compare(reference, current)
	if err != nil {
		t.Fatal(err)
	}
	var img bytes.Buffer
	if err := png.Encode(&img, image.NewRGBA(image.Rect(0, 0, 40, 30))); err != nil {
		t.Fatal(err)
	}
	return Drift{result, reference, &predictions.Log{
		Model: "sha256:aa", Matched: n + 7, From: current[0].Time, To: current[n-1].Time, Rows: current, OtherModels: map[string]int{"sha256:bb": 3}, NonFinite: 2,
		Images: []predictions.Image{{Label: "FAKE", Probability: 0.75, Data: img.Bytes()}, {Label: "REAL", Data: []byte("gone")}},
	}}
}

func TestWriteDrift(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drift.html")
	if err := WriteDrift(path, driftOf(t, 400, time.Minute)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	html := string(text)
	for _, part := range []string{
		"<h1>Drift in brightness</h1>", "407 records, of which a sample of 400 was compared, from 2026-11-26T10:00:00Z to 2026-11-26T16:39:00Z",
		"3 records of other models", "2 records with NaN or infinite values", "hours since 2026-11-26 10:00 UTC", "Mean of brightness over time",
		"Distribution of saturation", "Fractions of image_format", "&lt;b&gt;", "principal components", "FAKE 0.7500",
	} {
		if !strings.Contains(html, part) {
			t.Errorf("the report lacks %q", part)
		}
	}
	if n := strings.Count(html, "<img "); n != 1 {
		t.Errorf("%d images, want 1", n)
	}
	if n := strings.Count(html, "<svg "); n != 12+9 {
		t.Errorf("%d charts, want 21", n)
	}
	// The report loads nothing.
	if outside := regexp.MustCompile(`(?i)https?://|<script|<link rel="stylesheet`).FindString(html); outside != "" {
		t.Errorf("the report contains %q", outside)
	}
	if strings.Contains(html, "<b>") {
		t.Error("the image format isn't escaped")
	}
}

func TestWriteDrift_NoCurvesOverTime(t *testing.T) {
	for name, d := range map[string]Drift{"few_rows": driftOf(t, 150, time.Hour), "same_time": driftOf(t, 400, 0)} {
		html, err := renderDrift(d)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(html), "Over time") {
			t.Errorf("%s: the report has curves over time", name)
		}
	}
}

func TestWriteDrift_ManyClasses(t *testing.T) {
	d := driftOf(t, 300, time.Hour)
	for i := range d.Reference {
		d.Reference[i].Label = fmt.Sprintf("class %d", i%40)
	}
	for i := range d.Log.Rows {
		d.Log.Rows[i].Label = fmt.Sprintf("class %d", i%20) // the first 20 are twice as frequent
	}
	path := filepath.Join(t.TempDir(), "drift.html")
	if err := WriteDrift(path, d); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "29 others") || strings.Contains(string(page), ">class 39<") {
		t.Error("the chart of the classes doesn't summarize most of 40 classes")
	}
}
