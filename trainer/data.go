package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"fakeart/trainer/dataset"
)

// dataCommand groups the commands that work on data sets.
type dataCommand struct {
	Prepare prepareCommand `cmd:"" help:"Make the data set that the configuration describes, in the folder dataset.dir."`
}

// prepareCommand makes a data set.
type prepareCommand struct {
	composition
}

// Run reports progress on standard error, and names each picture that was
// refused there; what the data set holds goes to standard output.
func (c *prepareCommand) Run(ctx context.Context, std streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	d := cfg.Dataset
	if d.Name == "archive" && d.Path == "" {
		return usageError{errors.New("dataset.path is empty: name the folder, .zip, .tar or .tar.gz to read, as in dataset.path=cifake.zip")}
	}
	if d.Name == "feedback" && d.Path == "" {
		return usageError{errors.New("dataset.path is empty: name the prediction log to read, as in dataset.path=predictions.db")}
	}
	manifest, err := dataset.Prepare(ctx, d, std.err)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted, %s is as it was before: %w", d.Dir, err)
	}
	if err != nil {
		return err
	}
	for i, refusal := range manifest.Rejected {
		if i == maxRefusals {
			fmt.Fprintf(std.err, "refused %d more; %s names them all\n", len(manifest.Rejected)-i, filepath.Join(d.Dir, "manifest.json"))
			break
		}
		fmt.Fprintf(std.err, "refused %s: %s\n", refusal.Path, refusal.Reason)
	}
	return summarize(std.out, d.Dir, manifest)
}

// maxRefusals is how many refused pictures are named before the rest is counted.
const maxRefusals = 20

// summarize prints what a data set holds.
func summarize(out io.Writer, dir string, m *dataset.Manifest) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", dir, m.Digest())
	for _, split := range slices.Backward(slices.Sorted(maps.Keys(m.Splits))) { // train, test
		fmt.Fprintf(&b, "  %-5s", split)
		for _, class := range m.Classes {
			fmt.Fprintf(&b, "  %s %d", class, m.Splits[split][class])
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "  refused %d\n", len(m.Rejected))
	_, err := io.WriteString(out, b.String())
	return err
}
