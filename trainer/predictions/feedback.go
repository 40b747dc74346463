package predictions

import (
	"context"
	"errors"
	"fmt"

	"fakeart/internal/drift"
)

// Labeled is a prediction with feedback.
type Labeled struct {
	// Model is the digest of the model, Predicted the predicted class, and Probability the reported
	// probability: that of the positive class or, for a model without one, of the predicted class.
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

// Counts describes the predictions of a log.
type Counts struct {
	// Predictions is the number of predictions per model digest, with or without feedback.
	Predictions map[string]int
	Skipped
}

// Feedback calls f for each prediction of a log that has feedback, in the order of the log. Records
// that can't be read are an error if strict is true. Logs of versions that didn't support feedback have
// none.
func Feedback(ctx context.Context, path string, strict bool, f func(*Labeled) error) (*Counts, error) {
	source, err := open(ctx, path, true, strict)
	if err != nil {
		return nil, wrap(path, err)
	}
	counts := &Counts{Predictions: map[string]int{}}
	counts.Skipped, err = source.each(ctx, func(r record) error {
		if r.feedback != "" {
			var row drift.Row
			if err := r.fill(&row); err != nil {
				return err
			}
			l := &Labeled{Model: r.model, Predicted: row.Label, Probability: row.Probability, Label: r.feedback, image: r.image}
			for _, label := range []string{l.Predicted, l.Label} {
				if label == "" {
					return &badRecord{err: errors.New("the label is empty")}
				}
			}
			if !(l.Probability >= 0 && l.Probability <= 1) {
				return &badRecord{err: fmt.Errorf("probability %v isn't between 0 and 1", l.Probability)}
			}
			if err := f(l); err != nil {
				return err
			}
		}
		counts.Predictions[r.model]++
		return nil
	})
	if err == nil && len(counts.Predictions) == 0 {
		err = errEmpty
	}
	if errors.Is(err, context.Canceled) {
		return nil, err
	}
	if err != nil {
		return nil, wrap(path, err)
	}
	return counts, nil
}
