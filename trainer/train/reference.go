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
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
)

// writeReference leaves beside the model what drift is told from: its answers about the
// validation pictures. They are of the train split, but the network has not learned
// them: about those that it has it is surer than about any others, which would look
// like drift from the first day on.
func (r *run) writeReference(ctx context.Context, f *model.File) error {
	pictures := subset(r.validate, sampleByClass(r.validate.Labels, drift.ReferenceRows))
	reference := drift.Reference{Model: f.Digest, Data: r.manifest.Digest()}
	err := evaluate.Each(ctx, f, pictures, r.cfg.Evaluate.BatchSize, func(i int, logit float32, embedding []float32) {
		s := imaging.StatsOf(pictures.Image(i))
		p := model.Probability(logit)
		label, _ := f.Metadata.Label(p)
		reference.Rows = append(reference.Rows, drift.Row{
			Label: label, Probability: p, Mean: s.Mean, StdDev: s.StdDev, Brightness: s.Brightness, Contrast: s.Contrast,
			Sharpness: s.Sharpness, Saturation: s.Saturation, Embedding: slices.Clone(embedding),
		})
	})
	if err != nil {
		return fmt.Errorf("make the reference for drift: %w", err)
	}
	data, err := reference.Marshal()
	if err != nil {
		return err
	}
	path := r.folder.file(drift.ReferenceFile)
	if err := atomicwriter.WriteFile(path, data, 0o644); err != nil {
		return r.unwritten(fmt.Errorf("write %s: %w", path, err))
	}
	return nil
}

// sampleByClass draws at most so many pictures, of each class in its share. It draws
// the same ones of the same labels.
func sampleByClass(labels []uint8, most int) []int {
	most = min(most, len(labels))
	byClass := make([][]int, len(dataset.Classes()))
	for i, label := range labels {
		byClass[label] = append(byClass[label], i)
	}
	rng := rand.New(rand.NewPCG(1, 3))
	var chosen []int
	for _, of := range byClass {
		rng.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		chosen = append(chosen, of[:len(of)*most/len(labels)]...)
	}
	slices.Sort(chosen)
	return chosen
}
