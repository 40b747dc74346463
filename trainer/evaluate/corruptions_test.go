package evaluate

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"fakeart/trainer/corrupt"
	"fakeart/trainer/dataset"
)

func TestRunCorruptions(t *testing.T) {
	dir, f := prepare(t), file(t, identity, nil)
	measure := func(seed int64) []CorruptionResult {
		t.Helper()
		measured := 0
		results, err := RunCorruptions(t.Context(), f, dir, dataset.Test, 4, seed, func(string, int) { measured++ })
		if err != nil {
			t.Fatal(err)
		}
		if measured != corrupt.Severities*len(corrupt.Corruptions) || len(results) != len(corrupt.Corruptions) {
			t.Fatalf("%d measurements, %d results, want %d and %d", measured, len(results), corrupt.Severities*len(corrupt.Corruptions), len(corrupt.Corruptions))
		}
		return results
	}
	results := measure(1)
	for _, r := range results {
		// The model classifies 9 of the 11 single-color images correctly. The REAL image with a
		// red of 127 is classified as FAKE when it is brighter.
		var want float64
		switch r.Corruption {
		case "blur", "contrast", "pixelate", "resize":
			want = 9.0 / 11
		case "brightness":
			want = 8.0 / 11
		default:
			continue
		}
		for severity, accuracy := range r.Accuracy {
			if accuracy != want {
				t.Errorf("%s, severity %d: accuracy %.4f, want %.4f", r.Corruption, severity+1, accuracy, want)
			}
		}
	}
	if !reflect.DeepEqual(measure(1), results) {
		t.Error("RunCorruptions with the same seed returned different results")
	}

	result, _, err := Run(t.Context(), f, dir, dataset.Test, 4)
	if err != nil {
		t.Fatal(err)
	}
	result.Corruptions = results
	var table bytes.Buffer
	result.WriteTable(&table)
	text, err := result.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "brightness  0.7273  0.7273") || !strings.Contains(string(text), `"corruption": "brightness"`) {
		t.Errorf("table:\n%s\nJSON:\n%s", table.String(), text)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RunCorruptions(ctx, f, dir, dataset.Test, 4, 1, func(string, int) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("RunCorruptions with a canceled context: error = %v, want context.Canceled", err)
	}
}
