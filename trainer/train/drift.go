package train

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/drift"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/trainer/evaluate"
)

// writeDriftReference writes the drift reference: the model's predictions for the validation
// images. They are part of the train split, but the network was not trained on them. On training
// images it is more confident than on others, which would look like drift from the first day on.
func (r *run) writeDriftReference(ctx context.Context, f *model.File) error {
	images := r.validation.Subset(sampleByClass(r.validation.Labels, drift.ReferenceRows))
	reference := drift.Reference{Model: f.Digest, Data: r.manifest.Digest()}
	err := evaluate.Each(ctx, f, images, r.cfg.Evaluate.BatchSize, func(i int, p evaluate.Prediction) {
		s := imaging.StatsOf(images.Image(i), images.Side, imaging.Channels)
		reference.Rows = append(reference.Rows, drift.Row{
			Label: p.Label, Probability: p.Reported, Mean: s.Mean, StdDev: s.StdDev, Brightness: s.Brightness, Contrast: s.Contrast,
			Sharpness: s.Sharpness, Saturation: s.Saturation, Embedding: slices.Clone(p.Embedding),
		})
	})
	if err != nil {
		return fmt.Errorf("compute the drift reference: %w", err)
	}
	data, err := reference.Marshal()
	if err != nil {
		return err
	}
	path := r.folder.file(drift.ReferenceFile)
	if err := atomicwriter.WriteFile(path, data, 0o644); err != nil {
		return r.writeError(fmt.Errorf("write %s: %w", path, err))
	}
	return nil
}

// sampleByClass selects at limit limit images, with the same class frequencies as labels. It returns
// sorted indices, which are always the same for the same labels.
func sampleByClass(labels []uint16, limit int) []int {
	limit = min(limit, len(labels))
	rng := rand.New(rand.NewPCG(1, 3))
	var chosen []int
	for _, of := range byClass(labels) {
		rng.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		chosen = append(chosen, of[:len(of)*limit/len(labels)]...)
	}
	slices.Sort(chosen)
	return chosen
}
