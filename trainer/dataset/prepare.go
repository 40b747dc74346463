package dataset

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"fakeart/internal/config"
)

// Prepare creates the dataset that cfg describes in cfg.Dir, and replaces the existing one.
// cfg.Name selects the source: "synthetic", "archive", "feedback" or "huggingface".
//
// The result is written next to cfg.Dir and renamed when it is complete: if Prepare fails, is
// canceled or killed, or the disk is full, the existing dataset is unchanged. Prepare returns an
// error if cfg.Dir contains anything except a dataset. Images that cannot be read and warnings are
// listed in the manifest, or are an error if cfg.Strict is set. Progress is written to out: as a bar if out is a
// terminal, otherwise as lines.
func Prepare(ctx context.Context, cfg config.Dataset, out io.Writer) (*Manifest, error) {
	gather, ok := map[string]func(context.Context, config.Dataset, *collection, io.Writer) (Source, error){
		"synthetic":   gatherSynthetic,
		"archive":     gatherArchive,
		"feedback":    gatherFeedback,
		"huggingface": gatherHub,
	}[cfg.Name]
	if !ok {
		return nil, fmt.Errorf("prepare dataset: unknown source %q\nhint: use dataset=synthetic, dataset=archive, dataset=feedback or dataset=huggingface", cfg.Name)
	}
	m, err := prepare(ctx, cfg, out, gather)
	if err != nil {
		return nil, fmt.Errorf("prepare dataset: %w", err)
	}
	return m, nil
}

func prepare(
	ctx context.Context, cfg config.Dataset, out io.Writer,
	gather func(context.Context, config.Dataset, *collection, io.Writer) (Source, error),
) (*Manifest, error) {
	s, err := openStore(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()

	var m Manifest
	c := &collection{strict: cfg.Strict}
	if m.Source, err = gather(ctx, cfg, c, out); err != nil {
		return nil, err
	}
	c.sort()
	m.Warnings = c.warnings()
	if err := Reject(cfg.Strict, m.Warnings); err != nil {
		return nil, err
	}
	if err := s.write(ctx, &m, c); err != nil {
		return nil, err
	}
	// Nothing below blocks, so it ignores ctx: a late cancellation must not undo finished work.
	if err := s.publish(); err != nil {
		return nil, err
	}
	return &m, nil
}

// sample is a decoded image with its class.
type sample struct {
	key    string // unique sort key within a split; the same from a directory, zip and tar
	class  uint8
	pixels []byte
	// rotated is set if the image has an EXIF orientation, which isn't applied.
	rotated bool
}

// collection gathers samples and rejections. It is safe for concurrent use. 120,000 images, the
// size of CIFAKE, take 368 MB; the files they were decoded from are not kept.
type collection struct {
	strict bool

	mu       sync.Mutex
	splits   [len(splitNames)][]sample
	rejected []Rejection
}

func (c *collection) add(split int, p sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.splits[split] = append(c.splits[split], p)
}

// reject adds a file or row of the source to the rejections.
func (c *collection) reject(path, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected = append(c.rejected, Rejection{Path: path, Reason: reason})
}

// unreadable rejects an image that cannot be read. It returns an error if the collection is strict.
func (c *collection) unreadable(path string, err error) error {
	if c.strict {
		return fmt.Errorf("%s: %w\nhint: fix or remove the file, or set dataset.strict=false to skip unreadable files", path, err)
	}
	c.reject(path, err.Error())
	return nil
}

// sort makes the order of samples and rejections independent of the order of the source and of
// goroutine scheduling.
func (c *collection) sort() {
	for _, images := range c.splits {
		slices.SortFunc(images, func(a, b sample) int { return strings.Compare(a.key, b.key) })
	}
	slices.SortFunc(c.rejected, func(a, b Rejection) int {
		if n := strings.Compare(a.Path, b.Path); n != 0 {
			return n
		}
		return strings.Compare(a.Reason, b.Reason)
	})
}

// count returns the number of samples of a class in a split.
func (c *collection) count(split int, class uint8) int {
	n := 0
	for _, p := range c.splits[split] {
		if p.class == class {
			n++
		}
	}
	return n
}
