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

// Prepare makes the data set that cfg describes and puts it into cfg.Dir in place of the one that
// is there. cfg.Name chooses the source: "synthetic", "archive",
// "feedback" or "huggingface".
//
// The result is written beside cfg.Dir and renamed when it is whole: whatever ends Prepare early
// (an error, ctx, a kill, a full disk) leaves the older data set as it was. A folder that holds
// anything but a data set is refused. A picture that cannot be read is listed in the manifest, or
// ends Prepare if cfg.Strict. Progress goes to out: a bar if that is a terminal, otherwise lines.
func Prepare(ctx context.Context, cfg config.Dataset, out io.Writer) (*Manifest, error) {
	gather, ok := map[string]func(context.Context, config.Dataset, *collection, io.Writer) (Source, error){
		"synthetic":   gatherSynthetic,
		"archive":     gatherArchive,
		"feedback":    gatherFeedback,
		"huggingface": gatherHub,
	}[cfg.Name]
	if !ok {
		return nil, fmt.Errorf("prepare data set: there is no source %q; choose dataset=synthetic, dataset=archive, dataset=feedback or dataset=huggingface", cfg.Name)
	}
	m, err := prepare(ctx, cfg, out, gather)
	if err != nil {
		return nil, fmt.Errorf("prepare data set: %w", err)
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
	if err := s.write(ctx, &m, c); err != nil {
		return nil, err
	}
	// From here on there is nothing to wait for: a late cancel must not undo finished work.
	if err := s.publish(); err != nil {
		return nil, err
	}
	return &m, nil
}

// picture is one decoded picture.
type picture struct {
	key    string // orders the pictures of a split: unique, and the same from folder, zip and tar
	class  uint8
	pixels []byte
}

// collection gathers decoded pictures and refusals from several goroutines. 120,000 pictures, as
// many as CIFAKE has, are 368 MB of pixels; the files that they came from are not kept.
type collection struct {
	strict bool

	mu      sync.Mutex
	splits  [len(splitNames)][]picture
	refused []Rejection
}

func (c *collection) add(split int, p picture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.splits[split] = append(c.splits[split], p)
}

// refuse notes what did not become a picture.
func (c *collection) refuse(path, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, Rejection{Path: path, Reason: reason})
}

// unreadable notes a picture that cannot be read, which is an error if the user said strict.
func (c *collection) unreadable(path string, err error) error {
	if c.strict {
		return fmt.Errorf("%s: %w; mend or remove it, or set dataset.strict=false to leave it out", path, err)
	}
	c.refuse(path, err.Error())
	return nil
}

// sort brings pictures and refusals into an order that does not depend on the source's order, nor
// on which goroutine was faster.
func (c *collection) sort() {
	for _, pictures := range c.splits {
		slices.SortFunc(pictures, func(a, b picture) int { return strings.Compare(a.key, b.key) })
	}
	slices.SortFunc(c.refused, func(a, b Rejection) int {
		if n := strings.Compare(a.Path, b.Path); n != 0 {
			return n
		}
		return strings.Compare(a.Reason, b.Reason)
	})
}

// count returns the number of pictures of a class in a split.
func (c *collection) count(split int, class uint8) int {
	n := 0
	for _, p := range c.splits[split] {
		if p.class == class {
			n++
		}
	}
	return n
}
