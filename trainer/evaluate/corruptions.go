package evaluate

import (
	"context"
	"fmt"
	"math/rand/v2"

	"fakeart/internal/model"
	"fakeart/trainer/corrupt"
	"fakeart/trainer/dataset"
)

// Corrupted is the accuracy on the split's pictures under one corruption.
type Corrupted struct {
	Corruption string `json:"corruption"`
	// Accuracy is by severity, from 1 to 5.
	Accuracy [corrupt.Severities]float64 `json:"accuracy"`
}

// Corrupt measures a model on the split that Run measured, with each of the corruptions at each
// severity. The same seed, and what gives the same bits in Run, give the same bits.
// done is called after each measurement.
func Corrupt(ctx context.Context, f *model.File, dataDir, split string, batch int, seed int64, done func(corruption string, severity int)) ([]Corrupted, error) {
	pictures, _, err := dataset.Load(dataDir, split)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	var results []Corrupted
	changed := &dataset.Split{Images: make([]uint8, len(pictures.Images)), Labels: pictures.Labels}
	for c, corruption := range corrupt.Corruptions {
		r := Corrupted{Corruption: corruption.Name}
		for s, amount := range corruption.Amounts {
			copy(changed.Images, pictures.Images)
			rng := rand.New(rand.NewPCG(uint64(seed), uint64(c*corrupt.Severities+s)))
			for i := range changed.Len() {
				if err := corruption.Apply(changed.Image(i), amount, rng); err != nil {
					return nil, fmt.Errorf("evaluate: picture %d with %s: %w", i, corruption.Name, err)
				}
			}
			logits, err := Logits(ctx, f, changed, batch)
			if err != nil {
				return nil, fmt.Errorf("evaluate: %w", err)
			}
			right := 0
			for i, z := range logits {
				if IsFake(z, f.Metadata.Threshold) == (changed.Labels[i] == dataset.Fake) {
					right++
				}
			}
			r.Accuracy[s] = float64(right) / float64(len(logits))
			done(corruption.Name, s+1)
		}
		results = append(results, r)
	}
	return results, nil
}

// CorruptedMean is the average accuracy of all corruptions and severities.
func CorruptedMean(results []Corrupted) float64 {
	sum := 0.0
	for _, r := range results {
		for _, a := range r.Accuracy {
			sum += a / float64(len(results)*corrupt.Severities)
		}
	}
	return sum
}
