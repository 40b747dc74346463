package cli_test

import (
	"strings"
	"testing"
	"time"

	"fakeart/internal/cli"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "-1s": -time.Second, "7d": 7 * 24 * time.Hour, "0.5d": 12 * time.Hour,
	} {
		if got, err := cli.ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "30", "soon", "d", "1e300d", "NaNd", "1w"} {
		if got, err := cli.ParseDuration(text); err == nil || !strings.Contains(err.Error(), "invalid duration") || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("ParseDuration(%q) = %v, %v, want an error with a hint", text, got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "10485760": 10 << 20, "10MB": 1e7, "10MiB": 10 << 20, "10 mib": 10 << 20, "1.5kB": 1500, "8KiB": 8 << 10, "2GiB": 2 << 30, "1TB": 1e12, "100B": 100, "1e3": 1000, "-1": -1,
	} {
		if got, err := cli.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "big", "10M", "10XB", "0.5", "99999999TB", "NaN"} {
		if got, err := cli.ParseSize(text); err == nil || !strings.Contains(err.Error(), "invalid size") || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("ParseSize(%q) = %d, %v, want an error with a hint", text, got, err)
		}
	}
}
