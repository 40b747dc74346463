package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/trainer/predictions"
)

// testBelow assigns an image to the test split if the first byte of its SHA-256 is less: a fifth of
// the images. So an image stays in its split however much feedback is added, and a model that was
// trained on an older log is never evaluated on its own training data.
const testBelow = 51

// gatherFeedback reads the images of a prediction log, labeled with the feedback of users.
func gatherFeedback(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if cfg.Path == "" {
		return Source{}, errors.New("dataset.path is empty\nhint: set it to the database of the server or to an export of it")
	}
	source := Source{Kind: "feedback", Path: cfg.Path}
	labels := map[string]string{} // by SHA-256 of the image
	conflicts := map[string]bool{}
	var messages []string
	var file *model.File
	if cfg.Model != "" {
		var err error
		if file, err = model.Open(cfg.Model); err != nil {
			return Source{}, fmt.Errorf("dataset.model: %w", err)
		}
		c.classes = slices.Clone(file.Metadata.Classes)
	}
	err := decodeAll(ctx, c, func(submit func(job) error) error {
		counts, err := predictions.Feedback(ctx, cfg.Path, cfg.Strict, func(j *predictions.Labeled) error {
			data, err := j.Image()
			if err != nil {
				return err
			}
			source.Labeled++
			if len(data) == 0 {
				source.WithoutImage++
				return nil
			}
			sum := sha256.Sum256(data)
			key := hex.EncodeToString(sum[:])
			if label, seen := labels[key]; seen {
				if label != j.Label {
					conflicts[key] = true
				}
				return nil
			}
			labels[key] = j.Label
			if len(data) > maxFile {
				return c.unreadable(key, errFileTooLarge)
			}
			class := slices.Index(c.classes, j.Label)
			if class < 0 && file != nil {
				return c.unreadable(key, fmt.Errorf("label %.60q isn't a class of %s", j.Label, cfg.Model))
			}
			if class < 0 {
				class = len(c.classes)
				c.classes = append(c.classes, j.Label)
			}
			if class >= MaxClasses {
				return fmt.Errorf("more than %d different labels", MaxClasses)
			}
			split := splitIndex(Train)
			if sum[0] < testBelow {
				split = splitIndex(Test)
			}
			buffer := pool.get()
			buffer.Write(data)
			return submit(job{split: split, class: uint16(class), key: key, path: key, data: buffer})
		})
		if err != nil {
			return err
		}
		messages = counts.Messages()
		return nil
	})
	if err != nil {
		return Source{}, err
	}
	for _, line := range messages {
		fmt.Fprintln(out, line)
	}
	if source.Labeled == 0 {
		return Source{}, fmt.Errorf("no prediction in %s has feedback\nhint: clients send feedback with POST /feedback", cfg.Path)
	}
	if source.WithoutImage > 0 {
		missing := fmt.Sprintf("%d of %d predictions with feedback in %s have no image\nhint: run the server with --log-images; it logs images from then on",
			source.WithoutImage, source.Labeled, cfg.Path)
		if source.WithoutImage == source.Labeled {
			return Source{}, errors.New(missing)
		}
		fmt.Fprintln(out, missing)
	}
	if file == nil {
		c.sortClasses()
	}
	// An image that users label differently is not used.
	for i := range c.splits {
		c.splits[i] = slices.DeleteFunc(c.splits[i], func(p sample) bool { return conflicts[p.key] })
	}
	for key := range conflicts {
		c.reject(key, "conflicting feedback: labeled as several classes")
	}
	err = checkClasses(c.classes)
	if file != nil {
		source.Model = file.Digest // many classes of it may have no feedback
	} else if err == nil {
		err = c.complete(cfg.Path, true)
	}
	if err == nil && len(c.splits[splitIndex(Train)])+len(c.splits[splitIndex(Test)]) == 0 {
		err = errors.New("no image is left")
	}
	if err != nil {
		return Source{}, fmt.Errorf("%w\nhint: collect more feedback; a fifth of the images, selected by digest, is the test split", err)
	}
	return source, nil
}

// sortClasses sorts the classes, and changes the labels accordingly: those of CIFAKE in their order, others by name.
func (c *collection) sortClasses() {
	before := c.classes
	c.classes = slices.Sorted(slices.Values(before))
	if cifake := Classes(); slices.Equal(c.classes, slices.Sorted(slices.Values(cifake))) {
		c.classes = cifake
	}
	labels := make([]uint16, len(before))
	for i, name := range before {
		labels[i] = uint16(slices.Index(c.classes, name))
	}
	for _, images := range c.splits {
		for i := range images {
			images[i].class = labels[images[i].class]
		}
	}
}
