package predictions

import (
	"context"
	"errors"
	"fmt"
	"os"

	"fakeart/internal/drift"
)

// Labeled is a prediction with feedback.
type Labeled struct {
	// Model is the digest of the model, Predicted the predicted class, and Probability the
	// probability of FAKE.
	Model, Predicted string
	Probability      float64
	// Label is the correct class according to the latest feedback.
	Label string

	image func() ([]byte, error)
}

// Image returns the image file as it was received, or nil if it wasn't logged. It must only be
// called during the call that the prediction was passed to.
func (l *Labeled) Image() ([]byte, error) {
	if l.image == nil {
		return nil, nil
	}
	return l.image()
}

// Feedback calls f for each prediction of a log that has feedback, in the order of the log. It
// returns the number of predictions per model digest, with or without feedback. Logs of versions
// that didn't support feedback have none.
func Feedback(ctx context.Context, path string, f func(*Labeled) error) (predictions map[string]int, err error) {
	fail := func(err error) (map[string]int, error) {
		return nil, fmt.Errorf("read prediction log %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read prediction log: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%w: not a regular file", ErrFormat))
	}
	each, err := open(path, true)
	if err != nil {
		return fail(err)
	}
	predictions = map[string]int{}
	n := 0
	err = each(ctx, func(r record) error {
		n++
		predictions[r.model]++
		if r.feedback == "" {
			return nil
		}
		var row drift.Row
		if err := r.fill(&row); err != nil {
			return err
		}
		l := &Labeled{Model: r.model, Predicted: row.Label, Probability: row.Probability, Label: r.feedback, image: r.image}
		for _, label := range []string{l.Predicted, l.Label} {
			if label != "REAL" && label != "FAKE" {
				return fmt.Errorf("record %d: label %q is neither REAL nor FAKE", n, label)
			}
		}
		if !(l.Probability >= 0 && l.Probability <= 1) {
			return fmt.Errorf("record %d: probability %v isn't between 0 and 1", n, l.Probability)
		}
		return f(l)
	})
	if err == nil && n == 0 {
		err = errEmpty
	}
	if errors.Is(err, context.Canceled) {
		return nil, err
	}
	if err != nil {
		return fail(err)
	}
	return predictions, nil
}
