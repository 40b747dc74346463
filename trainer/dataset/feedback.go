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
			split := slices.Index(splitNames[:], Train)
			if sum[0] < testBelow {
				split = slices.Index(splitNames[:], Test)
			}
			buffer := pool.get()
			buffer.Write(data)
			return submit(job{split: split, class: uint8(slices.Index(classNames[:], j.Label)), key: key, path: key, data: buffer})
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
	// An image that users label both REAL and FAKE is not used.
	for i := range c.splits {
		c.splits[i] = slices.DeleteFunc(c.splits[i], func(p sample) bool { return conflicts[p.key] })
	}
	for key := range conflicts {
		c.reject(key, "conflicting feedback: labeled both REAL and FAKE")
	}
	if err := c.complete(cfg.Path); err != nil {
		return Source{}, fmt.Errorf("%w\nhint: collect more feedback; a fifth of the images, selected by digest, is the test split", err)
	}
	return source, nil
}
