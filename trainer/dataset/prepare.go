package dataset

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
)

// Prepare creates the dataset that cfg describes in cfg.Dir, and replaces the existing one.
// cfg.Name selects the source: "synthetic", "folder", "archive", "feedback" or "huggingface".
//
// The result is written next to cfg.Dir and renamed when it is complete: if Prepare fails, is
// canceled or killed, or the disk is full, the existing dataset is unchanged. Prepare returns an
// error if cfg.Dir contains anything except a dataset. Images that cannot be read and warnings are
// listed in the manifest, or are an error if cfg.Strict is set. Pixels are kept on disk, not in memory: each image
// needs some 150 bytes of memory, and twice its size on disk until the dataset is complete. Progress is written to
// out: as a bar if out is a terminal, otherwise as lines.
func Prepare(ctx context.Context, cfg config.Dataset, out io.Writer) (*Manifest, error) {
	gather, ok := map[string]func(context.Context, config.Dataset, *collection, io.Writer) (Source, error){
		"synthetic":   gatherSynthetic,
		"folder":      gatherFolder,
		"archive":     gatherArchive,
		"feedback":    gatherFeedback,
		"huggingface": gatherHub,
	}[cfg.Name]
	if !ok {
		return nil, fmt.Errorf("prepare dataset: unknown source %q\nhint: use dataset=synthetic, dataset=folder, dataset=archive, dataset=feedback or dataset=huggingface", cfg.Name)
	}
	if out == nil {
		out = io.Discard
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
	c := &collection{strict: cfg.Strict, input: preprocessing(cfg)}
	var err error
	if c.plan, err = c.input.Compile(); err != nil {
		return nil, err
	}
	s, err := openStore(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if c.file, err = s.create(); err != nil {
		return nil, err
	}
	defer c.file.Close()

	var m Manifest
	if m.Source, err = gather(ctx, cfg, c, out); err != nil {
		return nil, err
	}
	c.sort()
	m.Warnings = append(slices.Clone(c.warned), c.warnings()...)
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

// preprocessing returns the steps from image file to pixels that cfg selects.
func preprocessing(cfg config.Dataset) imaging.Preprocessing {
	if cfg.Size == 0 { // the source draws images of a fixed size
		return imaging.Default()
	}
	p := imaging.Square(cfg.Size)
	switch imaging.Fit(cfg.Fit) {
	case imaging.ShortestEdge:
		p.Fit, p.Resize, p.Crop = imaging.ShortestEdge, cfg.Size, imaging.HalfEven
	case imaging.Contain:
		p.Fit = imaging.Contain
	}
	if cfg.Orientation != "" {
		p.Orientation = imaging.Orientation(cfg.Orientation)
	}
	if cfg.JPEG != "" {
		p.JPEG = imaging.JPEGScale(cfg.JPEG)
	}
	return p
}

// sample is a decoded image with its class.
type sample struct {
	key   string // unique sort key within a split; the same from a directory, zip and tar
	class uint16
	at    int64             // number of the image in collection.file
	sum   [sha256.Size]byte // of the pixels
	// rotated is set if the image has an EXIF orientation, which isn't applied.
	rotated bool
}

// collection gathers samples and rejections. It is safe for concurrent use. It keeps the pixels in a file.
type collection struct {
	strict  bool
	classes []string // set by the source
	input   imaging.Preprocessing
	plan    *imaging.Plan
	file    *os.File // the pixels of all images, in the order in which they were added
	next    atomic.Int64

	mu       sync.Mutex
	splits   [len(splitNames)][]sample
	rejected []Rejection
	warned   []string // warnings of the source
}

// add adds an image, whose pixels it writes to the file.
func (c *collection) add(split int, p sample, pixels []byte) error {
	p.at, p.sum = c.next.Add(1)-1, sha256.Sum256(pixels)
	if _, err := c.file.WriteAt(pixels, p.at*int64(len(pixels))); err != nil {
		return writeError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.splits[split] = append(c.splits[split], p)
	return nil
}

// pixels reads the pixels of an image.
func (c *collection) pixels(dst []byte, p *sample) error {
	if _, err := c.file.ReadAt(dst, p.at*int64(len(dst))); err != nil {
		return fmt.Errorf("read back an image: %w", err)
	}
	return nil
}

// warn adds a warning of the source.
func (c *collection) warn(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warned = append(c.warned, text)
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

// counts returns the number of samples of each class in a split.
func (c *collection) counts(split int) []int {
	n := make([]int, len(c.classes))
	for i := range c.splits[split] {
		n[c.splits[split][i].class]++
	}
	return n
}

// complete sorts the collection and returns an error unless each class has images in the train split, or in the only
// split of the source. name is the name of the source in errors. With all, each class needs images in the train and
// the test split.
func (c *collection) complete(name string, all bool) error {
	c.sort()
	needed := []int{splitIndex(Train)}
	if all {
		needed = append(needed, splitIndex(Test))
	}
	if !all && len(c.splits[needed[0]]) == 0 && len(c.splits[splitIndex(Test)]) > 0 {
		return nil // images to evaluate a model on
	}
	for _, split := range needed {
		splitName := splitNames[split]
		for class, n := range c.counts(split) {
			if n > 0 {
				continue
			}
			dir := splitName + "/" + c.classes[class]
			for _, r := range c.rejected {
				if c.isIn(r.Path, dir, c.classes[class]) {
					return fmt.Errorf("%s has no readable images in %s; for example %s: %s\n"+
						"hint: replace these images, or remove the folder of the class", name, dir, r.Path, r.Reason)
				}
			}
			if len(c.splits[split]) == 0 {
				dir = splitName
			}
			if all {
				return fmt.Errorf("%s has no images in %s; both splits need images of %s", name, dir, strings.Join(c.classes, " and "))
			}
			return fmt.Errorf("%s has no images in %s; each class needs images to train on\n"+
				"hint: add images to that folder, or remove it", name, dir)
		}
	}
	return nil
}

// isIn reports whether a rejected file is in the directory of a class.
func (c *collection) isIn(path, dir, class string) bool {
	name := strings.ToLower(memberName(path)) + "/"
	return strings.Contains(name, strings.ToLower(dir)+"/") || strings.HasPrefix(name, strings.ToLower(class)+"/")
}

// writeError returns the error for a file of the dataset that can't be written.
func writeError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("write dataset: %w; the previous dataset, if any, is unchanged\nhint: free disk space and run the command again", err)
}
