// Package gate decides whether a model that was trained is good enough to go on.
package gate

import (
	"encoding/json"
	"fmt"
)

// CheckLeast returns an error unless an accuracy can be asked for: a share between 0 and 1.
func CheckLeast(least float64) error {
	if least < 0 || least > 1 {
		return fmt.Errorf("minimum accuracy %v isn't between 0 and 1", least)
	}
	return nil
}

// Check reads a run's eval.json, which `trainer train` writes of the test split, and returns an
// error unless the accuracy is at least the given one, a share between 0 and 1.
func Check(eval []byte, least float64) (accuracy float64, err error) {
	if err := CheckLeast(least); err != nil {
		return 0, err
	}
	var measured struct {
		Accuracy *float64
		Count    int
	}
	if err := json.Unmarshal(eval, &measured); err != nil {
		return 0, fmt.Errorf("eval.json of the run: %w", err)
	}
	if measured.Accuracy == nil || measured.Count == 0 {
		return 0, fmt.Errorf("eval.json of the run has no accuracy, or of no pictures")
	}
	if *measured.Accuracy < least {
		return *measured.Accuracy, fmt.Errorf("accuracy %.4f on %d pictures, at least %.4f is asked for: train longer, or ask for less with --min-accuracy",
			*measured.Accuracy, measured.Count, least)
	}
	return *measured.Accuracy, nil
}
