package limit

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	var l Rate
	at := func(seconds float64) time.Time { return time.Unix(1000, int64(seconds*1e9)) }
	for i, step := range []struct {
		client string
		time   float64
		want   bool
	}{
		{"a", 0, true},
		{"a", 0.5, true},
		{"a", 0.9, false},
		{"b", 0.9, true},
		{"a", 1.1, true},  // 2 × 0.9 before
		{"a", 1.2, false}, // 2 × 0.8 before, 1 now
		{"a", 1.6, true},
		{"a", 1.7, false},
		{"a", 5, true},
		{"a", 5, true},
		{"a", 5, false},
	} {
		if got := l.Allow(step.client, 2, at(step.time)); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	if len(l.now) != 1 || len(l.before) != 0 {
		t.Errorf("%d and %d clients kept", len(l.now), len(l.before))
	}
}
