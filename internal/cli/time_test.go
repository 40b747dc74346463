package cli_test

import (
	"strings"
	"testing"
	"time"

	"fakeart/internal/cli"
)

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("UTC+2", 2*60*60)
	now := time.Date(2026, 12, 1, 1, 30, 0, 0, zone) // still November in UTC
	for text, want := range map[string]string{
		"today":                     "2026-12-01T00:00:00+02:00",
		"yesterday":                 "2026-11-30T00:00:00+02:00",
		"2026-11-30":                "2026-11-30T00:00:00+02:00",
		"2026-11-30T08:00:00Z":      "2026-11-30T08:00:00Z",
		"2026-11-30T08:00:00+05:30": "2026-11-30T08:00:00+05:30",
		"24h":                       "2026-11-30T01:30:00+02:00",
		"1h30m":                     "2026-12-01T00:00:00+02:00",
		"7d":                        "2026-11-24T01:30:00+02:00",
	} {
		t.Run(text, func(t *testing.T) {
			got, err := cli.ParseTime(text, now)
			if err != nil || got.Format(time.RFC3339) != want {
				t.Errorf("ParseTime(%q) = %s, %v, want %s", text, got.Format(time.RFC3339), err, want)
			}
		})
	}
}

func TestParseTime_Invalid(t *testing.T) {
	for _, text := range []string{"", "tomorrow", "2026-13-01", "30.11.2026", "24", "-24h", "0h", "-1d", "99999999d", "2026-11-30T08:00:00"} {
		t.Run(text, func(t *testing.T) {
			_, err := cli.ParseTime(text, time.Now())
			if err == nil {
				t.Fatalf("ParseTime(%q) succeeded", text)
			}
			for _, part := range []string{"invalid time", text, "\nhint: ", "2026-11-30", "yesterday", "24h", "local time zone"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("ParseTime(%q) error = %q, want it to contain %q", text, err, part)
				}
			}
			if strings.Contains(err.Error(), "2006") || strings.Contains(err.Error(), "parsing") {
				t.Errorf("ParseTime(%q) error = %q exposes package time", text, err)
			}
		})
	}
}
