package evaluate

import (
	"context"
	"fmt"
	"math/rand/v2"

	"fakeart/internal/model"
	"fakeart/trainer/corrupt"
	"fakeart/trainer/dataset"
)

// CorruptionResult is the accuracy on images with one corruption.
type CorruptionResult struct {
	Corruption string `json:"corruption"`
	// Accuracy holds the accuracy at each severity, from 1 to 5.
	Accuracy [corrupt.Severities]float64 `json:"accuracy"`
}

// RunCorruptions measures a model's accuracy on a split with each corruption at each severity. The
// result is deterministic for a seed under the conditions that [Run] states. RunCorruptions calls
// done after each measurement.
func RunCorruptions(ctx context.Context, f *model.File, dataDir, split string, batch int, seed int64, done func(corruption string, severity int)) ([]CorruptionResult, error) {
	images, _, err := dataset.Load(dataDir, split)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	var results []CorruptionResult
	corrupted := &dataset.Split{Images: make([]uint8, len(images.Images)), Labels: images.Labels, Side: images.Side, Classes: images.Classes}
	for c, corruption := range corrupt.Corruptions {
		r := CorruptionResult{Corruption: corruption.Name}
		for s, amount := range corruption.Amounts {
			copy(corrupted.Images, images.Images)
			rng := rand.New(rand.NewPCG(uint64(seed), uint64(c*corrupt.Severities+s)))
			for i := range corrupted.Len() {
				if err := corruption.Apply(corrupted.Image(i), amount, rng); err != nil {
					return nil, fmt.Errorf("evaluate: apply %[2]s to image %[1]d: %[3]w", i, corruption.Name, err)
				}
			}
			correct := 0
			err := Each(ctx, f, corrupted, batch, func(i int, p Prediction) {
				if p.Class == int(corrupted.Labels[i]) {
					correct++
				}
			})
			if err != nil {
				return nil, fmt.Errorf("evaluate: %w", err)
			}
			r.Accuracy[s] = float64(correct) / float64(corrupted.Len())
			done(corruption.Name, s+1)
		}
		results = append(results, r)
	}
	return results, nil
}

// MeanCorruptionAccuracy returns the mean accuracy over all corruptions and severities.
func MeanCorruptionAccuracy(results []CorruptionResult) float64 {
	sum := 0.0
	for _, r := range results {
		for _, a := range r.Accuracy {
			sum += a / float64(len(results)*corrupt.Severities)
		}
	}
	return sum
}
