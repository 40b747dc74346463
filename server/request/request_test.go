package request

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestID(t *testing.T) {
	for _, test := range []struct {
		name, given string
		kept        bool
	}{
		{"none", "", false},
		{"valid", "abc-123", true},
		{"longest", strings.Repeat("x", maxID), true},
		{"too_long", strings.Repeat("x", maxID+1), false},
		{"space", "a b", false},
		{"newline", "a\nb", false},
		{"not_ASCII", "ä", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ID([]byte(test.given))
			if test.kept {
				if got != test.given {
					t.Errorf("%q, want %q", got, test.given)
				}
				return
			}
			if id, err := uuid.Parse(got); err != nil || id.Version() != 7 {
				t.Errorf("%q, want a UUIDv7: %v", got, err)
			}
		})
	}
}

func TestTracker_Limit(t *testing.T) {
	tracker := NewTracker(Options{Limit: 2, Logger: slog.New(slog.DiscardHandler)})
	for i, want := range []bool{false, false, true} {
		if got := tracker.Begin(); got != want {
			t.Errorf("request %d is over the limit: %v", i+1, got)
		}
	}
	if n := tracker.InProgress(); n != 3 {
		t.Errorf("%d in progress", n)
	}
	tracker.End()
	tracker.End()
	if tracker.Begin() {
		t.Error("rejected after others ended")
	}
}

func TestTracker_Level(t *testing.T) {
	for _, debug := range []bool{false, true} {
		var out bytes.Buffer
		minimum := slog.LevelInfo
		if debug {
			minimum = slog.LevelDebug
		}
		tracker := NewTracker(Options{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: minimum}))})
		for status, want := range map[int]slog.Level{500: slog.LevelError, 504: slog.LevelError, 503: slog.LevelWarn} {
			if level, ok := tracker.Level(status); level != want || !ok {
				t.Errorf("debug %v, status %d: %s, %v", debug, status, level, ok)
			}
		}
		logged := 0
		for range 10 {
			if level, ok := tracker.Level(200); ok {
				logged++
				if want := map[bool]slog.Level{false: slog.LevelInfo, true: slog.LevelDebug}[debug]; level != want {
					t.Errorf("debug %v: level %s, want %s", debug, level, want)
				}
			}
		}
		if want := map[bool]int{false: 1, true: 10}[debug]; logged != want { // a sample, unless at debug
			t.Errorf("debug %v: %d requests logged, want %d", debug, logged, want)
		}
	}
}
