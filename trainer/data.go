package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fakeart/trainer/dataset"
)

// dataCommand groups the commands for datasets.
type dataCommand struct {
	Prepare prepareCommand `cmd:"" help:"Prepare the configured dataset in the directory dataset.dir."`
}

// prepareCommand prepares a dataset.
type prepareCommand struct {
	composition
}

// Run prints progress and rejected images on standard error, and the contents of the dataset on
// standard output.
func (c *prepareCommand) Run(ctx context.Context, std streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	d := cfg.Dataset
	if (d.Name == "archive" || d.Name == "folder") && d.Path == "" {
		return usageError{errors.New("dataset.path is empty\nhint: set it to a folder, .zip or .tar, such as dataset.path=cifake.zip")}
	}
	if d.Name == "feedback" && d.Path == "" {
		return usageError{errors.New("dataset.path is empty\nhint: set it to a prediction log, such as dataset.path=predictions.db")}
	}
	missing := firstMissing(filepath.Dir(filepath.Clean(d.Dir)))
	manifest, err := dataset.Prepare(ctx, d, std.err)
	if err != nil {
		removeEmpty(filepath.Dir(filepath.Clean(d.Dir)), missing)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted, %s is unchanged: %w", d.Dir, err)
	}
	if err != nil {
		return err
	}
	for i, rejection := range manifest.Rejected {
		if i == maxRejections {
			fmt.Fprintf(std.err, "rejected %d more images, all listed in %s\n", len(manifest.Rejected)-i, filepath.Join(d.Dir, "manifest.json"))
			break
		}
		fmt.Fprintf(std.err, "rejected %s: %s\n", rejection.Path, rejection.Reason)
	}
	for _, warning := range manifest.Warnings {
		fmt.Fprintf(std.err, "warning: %s\n", warning)
	}
	return summarize(std.out, d.Dir, manifest)
}

// maxListed is the number of classes up to which the images of each are counted.
const maxListed = 10

// maxRejections is the number of rejected images that are listed. The rest is counted.
const maxRejections = 20

// firstMissing returns the topmost directory of a path that doesn't exist, or "" if the path exists.
func firstMissing(path string) string {
	missing := ""
	for {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing, path = path, filepath.Dir(path)
	}
}

// removeEmpty removes a directory and its parents up to top, if they are empty. It removes nothing
// if top is "".
func removeEmpty(dir, top string) {
	for top != "" && len(dir) >= len(top) && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
}

// summarize prints the contents of a dataset.
func summarize(out io.Writer, dir string, m *dataset.Manifest) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", dir, m.Digest())
	if len(m.Classes) > maxListed {
		fmt.Fprintf(&b, "  %d classes of %d×%d pixels\n", len(m.Classes), m.Size, m.Size)
	}
	for _, split := range []string{dataset.Train, dataset.Val, dataset.Test} {
		if m.Count(split) == 0 {
			continue
		}
		fmt.Fprintf(&b, "  %-5s", split)
		if len(m.Classes) > maxListed {
			fmt.Fprintf(&b, "  %d images", m.Count(split))
		} else {
			for _, class := range m.Classes {
				fmt.Fprintf(&b, "  %s %d", class, m.Splits[split][class])
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "  rejected %d\n", len(m.Rejected))
	_, err := io.WriteString(out, b.String())
	return err
}
