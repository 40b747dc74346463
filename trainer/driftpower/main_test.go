package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
	"fakeart/trainer/train"
)

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	data, run := filepath.Join(dir, "data"), filepath.Join(dir, "run")
	cfg, err := config.Load("", []string{
		"dataset.dir=" + data, "dataset.train_per_class=200", "dataset.test_per_class=1000", "run.dir=" + run,
		"experiment.epochs=1", "experiment.val_split=0.5", "model.channels=[2]", "model.dense=[4]",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dataset.Prepare(t.Context(), cfg.Dataset, io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := train.Run(t.Context(), cfg, "", io.Discard); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := measure(t.Context(), &table, run, data, 4); err != nil {
		t.Fatal(err)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(table.String()) {
		cells := strings.Split(line, "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) > 5 {
			lines[cells[1]] = cells
		}
	}
	if len(lines) != 2+2+len(shifts()) {
		t.Errorf("%d lines, want %d:\n%s", len(lines), 2+2+len(shifts()), table.String())
	}
	if cells := lines["no change, both sides resampled"]; len(cells) < 5 || cells[4] != "0.0 %" {
		t.Errorf("cells without a change: %q", cells)
	}
	if cells := lines["brightness + 0.2"]; len(cells) < 6 || cells[4] != "100.0 %" || !strings.Contains(cells[5], "brightness") {
		t.Errorf("cells of brighter images: %q", cells)
	}
	if err := measure(t.Context(), io.Discard, filepath.Join(dir, "none"), data, 1); err == nil {
		t.Error("measure(missing run) succeeded")
	}
}
