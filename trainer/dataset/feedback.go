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

// testBelow is the first byte of a picture's SHA-256 below which it is for the test split: a
// fifth. So a picture stays in its split however many come after it, and a model that was trained
// on an older log is never measured on what it has seen.
const testBelow = 51

// gatherFeedback takes the pictures of a prediction log, labelled by what users said of them.
func gatherFeedback(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if cfg.Path == "" {
		return Source{}, errors.New("no prediction log given; set dataset.path to the server's database, or to an export of it")
	}
	source := Source{Kind: "feedback", Path: cfg.Path}
	labels := map[string]string{} // of pictures, by their SHA-256
	conflicts := map[string]bool{}
	err := decodeAll(ctx, c, func(submit func(job) error) error {
		_, err := predictions.Feedback(ctx, cfg.Path, func(j *predictions.Judged) error {
			source.Labelled++
			data, err := j.Picture()
			if err != nil {
				return err
			}
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
		return err
	})
	if err != nil {
		return Source{}, err
	}
	if source.Labelled == 0 {
		return Source{}, fmt.Errorf("no prediction in %s has feedback; users give it by POST /feedback", cfg.Path)
	}
	if source.WithoutImage > 0 {
		advice := fmt.Sprintf("%d of %d labelled predictions in %s have no picture: only a server with --log-images keeps them, from then on",
			source.WithoutImage, source.Labelled, cfg.Path)
		if source.WithoutImage == source.Labelled {
			return Source{}, errors.New(advice)
		}
		fmt.Fprintln(out, advice)
	}
	// A picture that is REAL to one user and FAKE to another teaches nothing.
	for i := range c.splits {
		c.splits[i] = slices.DeleteFunc(c.splits[i], func(p picture) bool { return conflicts[p.key] })
	}
	for key := range conflicts {
		c.refuse(key, "users disagree on it: it is labelled both REAL and FAKE")
	}
	if err := c.complete(cfg.Path); err != nil {
		return Source{}, fmt.Errorf("%w; a fifth of the pictures, by their digests, is the test split: gather more feedback", err)
	}
	return source, nil
}
