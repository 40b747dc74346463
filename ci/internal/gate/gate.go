// Package gate checks the accuracy of a trained model before the pipeline pushes images. Call [Check]
// with the run's eval.json.
package gate

import (
	"encoding/json"
	"errors"
	"fmt"
)

// CheckMinimum returns an error if a minimum accuracy isn't between 0 and 1.
func CheckMinimum(minimum float64) error {
	if minimum < 0 || minimum > 1 {
		return fmt.Errorf("minimum accuracy %v isn't between 0 and 1", minimum)
	}
	return nil
}

// Check returns the accuracy in eval, a run's eval.json. `trainer train` writes that file with the
// results on the test split. Check returns an error if the accuracy is below minimum, a number
// between 0 and 1.
func Check(eval []byte, minimum float64) (accuracy float64, err error) {
	if err := CheckMinimum(minimum); err != nil {
		return 0, err
	}
	var measured struct {
		Accuracy *float64
		Count    int
	}
	if err := json.Unmarshal(eval, &measured); err != nil {
		return 0, fmt.Errorf("read the run's eval.json: %w", err)
	}
	if measured.Accuracy == nil || measured.Count == 0 {
		return 0, errors.New("the run's eval.json has no accuracy, or it was measured on 0 images")
	}
	if *measured.Accuracy < minimum {
		return *measured.Accuracy, fmt.Errorf("accuracy %.4f on %d images is below the minimum, %.4f\nhint: train longer, or lower --min-accuracy",
			*measured.Accuracy, measured.Count, minimum)
	}
	return *measured.Accuracy, nil
}
