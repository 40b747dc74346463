package predlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(victimVariable); path != "" {
		victim(path)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const digest = "sha256:4fdaf93b1c1b7d2a4fdaf93b1c1b7d2a4fdaf93b1c1b7d2a4fdaf93b1c1b7d2a"

// newRecord returns the i-th record, with numbered request ID and image.
func newRecord(i int) *Record {
	embedding := make([]float32, 128)
	for k := range embedding {
		embedding[k] = float32(k)/7 - float32(i)
	}
	return &Record{
		ID:   uuid.Must(uuid.NewV7()),
		Time: time.Date(2026, 11, 26, 10, 11, 12, 123456789, time.UTC).Add(time.Duration(i) * time.Second), RequestID: fmt.Sprintf("request-%d", i),
		TraceID: "0af7651916cd43dd8448eb211c80319c", Model: digest, ModelName: "cats", Label: "FAKE", Probability: 0.75, Latency: 1500 * time.Microsecond,
		ImageSHA256: sha256.Sum256(fmt.Append(nil, i)), ImageFormat: "jpeg", ImageBytes: 1000 + i, Width: 640, Height: 480, Orientation: 6,
		Mean: 0.5, StdDev: 0.25, Brightness: 0.4, Contrast: 0.3, Sharpness: 12.5, Saturation: 0.125, Embedding: embedding,
	}
}

func newRecords(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = *newRecord(i)
	}
	return records
}

// tally is a Counter.
type tally struct {
	mu sync.Mutex
	n  map[Result]int
}

func (t *tally) count(result Result, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[Result]int{}
	}
	t.n[result] += n
}

func (t *tally) of(result Result) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n[result]
}

// logLines collects log output.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits until the condition holds, for a minute at most.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func mustAppend(t *testing.T, l *Log, records ...*Record) {
	t.Helper()
	if err := l.Append(t.Context(), records...); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, c interface{ Close(context.Context) error }) {
	t.Helper()
	if err := c.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func TestAppend_InvalidRecord(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Record)
		want   string
	}{
		{"no time", func(r *Record) { r.Time = time.Time{} }, "time"},
		{"year above 9999", func(r *Record) { r.Time = time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC) }, "time"},
		{"short trace ID", func(r *Record) { r.TraceID = "abc" }, "trace ID"},
		{"trace ID not hexadecimal", func(r *Record) { r.TraceID = strings.Repeat("g", 32) }, "trace ID"},
		{"no model", func(r *Record) { r.Model = "" }, "model"},
		{"no label", func(r *Record) { r.Label = "" }, "label"},
		{"no image format", func(r *Record) { r.ImageFormat = "" }, "image format"},
		{"probability NaN", func(r *Record) { r.Probability = math.NaN() }, "probability"},
		{"probability above 1", func(r *Record) { r.Probability = 1.5 }, "probability"},
		{"infinite statistic", func(r *Record) { r.Sharpness = math.Inf(1) }, "statistics"},
		{"embedding with NaN", func(r *Record) { r.Embedding[127] = float32(math.NaN()) }, "embedding"},
		{"embedding with infinity", func(r *Record) { r.Embedding[2] = float32(math.Inf(-1)) }, "embedding"},
		{"short embedding with NaN", func(r *Record) { r.Embedding = []float32{float32(math.NaN())} }, "embedding"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var counts tally
			l := New(discard{}, Options{Count: counts.count})
			defer mustClose(t, l)
			bad := newRecord(0)
			test.change(bad)
			err := l.Append(t.Context(), newRecord(1), bad)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Append = %v, want ErrInvalid with %q", err, test.want)
			}
			if n := counts.of(Failed); n != 2 {
				t.Errorf("%d records counted as failed, want 2", n)
			}
		})
	}
}

func TestClip(t *testing.T) {
	for _, test := range []struct{ name, id, want string }{
		{"empty", "", ""},
		{"usual", "abc", "abc"},
		{"at the limit", strings.Repeat("a", 128), strings.Repeat("a", 128)},
		{"above the limit", strings.Repeat("a", 129), strings.Repeat("a", 128)},
		{"character across the limit", strings.Repeat("a", 127) + "é", strings.Repeat("a", 127)},
		{"character up to the limit", strings.Repeat("a", 126) + "éx", strings.Repeat("a", 126) + "é"},
		{"not UTF-8", "a\xffb", "a?b"},
		{"no valid UTF-8", strings.Repeat("\x80", 300), "?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := clip(test.id)
			if got != test.want || !utf8.ValidString(got) {
				t.Errorf("clip(%q) = %q, want %q", test.id, got, test.want)
			}
		})
	}
}

// discard is a store that discards all records.
type discard struct{}

func (discard) Write(context.Context, []Record) error { return nil }
func (discard) Close(context.Context) error           { return nil }
