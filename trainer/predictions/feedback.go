package predictions

import (
	"context"
	"errors"
	"fmt"
	"os"

	"fakeart/internal/drift"
)

// Judged is a prediction that a user has spoken of.
type Judged struct {
	// Model is the digest of the model that judged, Verdict what it said, and Probability
	// how likely it thought FAKE.
	Model, Verdict string
	Probability    float64
	// Label is what the picture is, as the user last said.
	Label string

	picture func() ([]byte, error)
}

// Picture returns the bytes of the picture as it was sent; nil when it was not logged. It is
// good only during the call that the prediction was handed to.
func (j *Judged) Picture() ([]byte, error) {
	if j.picture == nil {
		return nil, nil
	}
	return j.picture()
}

// Feedback calls f for each prediction of a log that a user has spoken of, in the log's order,
// and returns how many predictions it holds of each model, spoken of or not. A log of a version
// that knew no feedback has none.
func Feedback(ctx context.Context, path string, f func(*Judged) error) (predictions map[string]int, err error) {
	fail := func(err error) (map[string]int, error) {
		return nil, fmt.Errorf("read prediction log %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read prediction log: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%w: it is not a file", ErrFormat))
	}
	each, err := reader(path, true)
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
		j := &Judged{Model: r.model, Verdict: row.Label, Probability: row.Probability, Label: r.feedback, picture: r.picture}
		for _, label := range []string{j.Verdict, j.Label} {
			if label != "REAL" && label != "FAKE" {
				return fmt.Errorf("record %d: the label %q is neither REAL nor FAKE", n, label)
			}
		}
		if !(j.Probability >= 0 && j.Probability <= 1) {
			return fmt.Errorf("record %d: the probability %v is not between 0 and 1", n, j.Probability)
		}
		return f(j)
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
