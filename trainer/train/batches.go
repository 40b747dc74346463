package train

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/trainer/augment"
	"fakeart/trainer/dataset"
	"fakeart/trainer/net"
)

// Streams of random numbers. Each purpose has its own stream for each epoch or training step,
// derived only from the seed, so a resumed run draws the same numbers as an uninterrupted one.
const (
	streamSplit uint64 = iota + 1
	streamOrder
	_ // was used for flips
	streamDropout
	streamMixup
	streamCalibration
)

func random(seed int64, purpose uint64, n int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), purpose<<48|uint64(n)))
}

// holdOut divides the train split into training and validation images: a fraction share of each
// class is held out, selected by the seed. It returns sorted indices. If a class has at least two
// images, each result contains at least one of them; a single image is used for training.
func holdOut(labels []uint16, share float64, seed int64) (train, validation []int) {
	rng := random(seed, streamSplit, 0)
	for _, members := range byClass(labels) {
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		n := max(int(share*float64(len(members))+0.5), 1)
		n = max(min(n, len(members)-1), 0)
		validation = append(validation, members[:n]...)
		train = append(train, members[n:]...)
	}
	slices.Sort(train)
	slices.Sort(validation)
	return train, validation
}

// byClass returns the indices of the images of each class, up to the highest label.
func byClass(labels []uint16) [][]int {
	if len(labels) == 0 {
		return nil
	}
	classes := make([][]int, int(slices.Max(labels))+1)
	for i, label := range labels {
		classes[label] = append(classes[label], i)
	}
	return classes
}

// feeder prepares batches in a background goroutine, in the order of training, so that a training
// step never waits for its images.
type feeder struct {
	trainer *net.Trainer
	split   *dataset.Split
	indices []int
	config  *config.Config

	// Only with augmentation or mixup: room for the changed images of a batch.
	augmenter *augment.Augmenter
	pixels    [][]uint8
	mixed     []uint8
	targets   [][]float32

	free  map[int]chan *net.Batch // by size
	ready chan preparedBatch
	all   []*net.Batch
}

// preparedBatch is a batch that is ready for training, or an error.
type preparedBatch struct {
	batch *net.Batch
	size  int
	err   error
}

// newFeeder allocates the batches, which run fills. The caller must close the feeder.
func newFeeder(t *net.Trainer, split *dataset.Split, indices []int, cfg *config.Config) (*feeder, error) {
	f := &feeder{trainer: t, split: split, indices: indices, config: cfg, free: map[int]chan *net.Batch{}, ready: make(chan preparedBatch)}
	length := split.Side * split.Side * imaging.Channels
	if augment.Enabled(cfg.Augment) || cfg.Experiment.Mixup > 0 {
		f.augmenter = augment.New(cfg.Augment, split.Side)
		for range f.size() {
			f.pixels = append(f.pixels, make([]uint8, length))
		}
	}
	if cfg.Experiment.Mixup > 0 {
		f.mixed = make([]uint8, f.size()*length)
		for range f.size() {
			f.targets = append(f.targets, make([]float32, len(split.Classes)))
		}
	}
	for _, size := range f.sizes() {
		// One is in use, one is ready and one is being filled. The last batch of an epoch may be
		// smaller; there is one of that size.
		n := 3
		if size < f.size() {
			n = 1
		}
		f.free[size] = make(chan *net.Batch, n)
		for range n {
			b, err := t.NewBatch(size)
			if err != nil {
				f.close()
				return nil, err
			}
			f.all = append(f.all, b)
			f.free[size] <- b
		}
	}
	return f, nil
}

// size returns the size of all batches except the last one of an epoch.
func (f *feeder) size() int { return min(f.config.Experiment.BatchSize, len(f.indices)) }

// sizes returns the distinct batch sizes of an epoch, the regular one first.
func (f *feeder) sizes() []int {
	sizes := []int{f.size()}
	if rest := len(f.indices) % f.size(); rest > 0 {
		sizes = append(sizes, rest)
	}
	return sizes
}

// steps returns the number of training steps per epoch.
func (f *feeder) steps() int { return (len(f.indices) + f.size() - 1) / f.size() }

// order returns the indices of the training images in the order of an epoch.
func (f *feeder) order(epoch int) []int {
	order := slices.Clone(f.indices)
	random(f.config.Experiment.Seed, streamOrder, epoch).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// samples returns the images of a batch with their labels, changed by augmentation and mixup. They are valid until the next call.
func (f *feeder) samples(batch []int, epoch, step int) net.Samples {
	s := net.Samples{
		Images: make([][]uint8, len(batch)), Labels: make([]uint16, len(batch)),
		Keep: 1 - f.config.Model.Dropout, Drop: f.drop(step),
	}
	for i, index := range batch {
		s.Images[i], s.Labels[i] = f.split.Image(index), f.split.Labels[index]
		if f.augmenter != nil {
			f.augmenter.Apply(f.pixels[i], s.Images[i], f.config.Experiment.Seed, epoch, index)
			s.Images[i] = f.pixels[i]
		}
	}
	if f.targets != nil {
		f.mix(&s, random(f.config.Experiment.Seed, streamMixup, step))
	}
	return s
}

// mix replaces each image by a mix of itself and another image of the batch, and its label by the classes of both (Zhang et al.,
// "mixup: Beyond Empirical Risk Minimization", 2018). The share is the same for all images of a batch.
func (f *feeder) mix(s *net.Samples, rng *rand.Rand) {
	alpha := f.config.Experiment.Mixup
	// The source of distuv is a rand.Source of math/rand/v2.
	share := distuv.Beta{Alpha: alpha, Beta: alpha, Src: rng}.Rand()
	if math.IsNaN(share) { // of both gammas being 0, for a tiny alpha
		share = 1
	}
	partners := rng.Perm(len(s.Images))
	s.Soft = f.targets[:len(s.Images)]
	length := len(f.mixed) / len(f.pixels)
	for i, j := range partners {
		out := f.mixed[i*length:][:length]
		for k, v := range s.Images[i] {
			out[k] = uint8(share*float64(v) + (1-share)*float64(s.Images[j][k]) + 0.5)
		}
		clear(s.Soft[i])
		s.Soft[i][s.Labels[i]] += float32(share)
		s.Soft[i][s.Labels[j]] += float32(1 - share)
	}
	for i := range s.Images {
		s.Images[i] = f.mixed[i*length:][:length]
	}
	s.Labels = nil
}

// drop returns a function that draws the dropout mask of a training step, one element per call.
func (f *feeder) drop(step int) func() bool {
	rng := random(f.config.Experiment.Seed, streamDropout, step)
	below := uint32(f.config.Model.Dropout * (1 << 32))
	return func() bool { return rng.Uint32() < below }
}

// run fills batches from training step from (counted from 0 over the whole run) until the last one
// or until ctx ends.
func (f *feeder) run(ctx context.Context, from int) {
	defer close(f.ready)
	var order []int
	for step := from; step < f.config.Experiment.Epochs*f.steps(); step++ {
		epoch, place := step/f.steps(), step%f.steps()
		if order == nil || place == 0 {
			order = f.order(epoch)
		}
		batch := order[place*f.size() : min((place+1)*f.size(), len(order))]
		n := len(batch)
		next := preparedBatch{size: n}
		select {
		case next.batch = <-f.free[n]:
		case <-ctx.Done():
			return
		}
		next.err = next.batch.Fill(f.samples(batch, epoch, step))
		select {
		case f.ready <- next:
		case <-ctx.Done():
			return
		}
	}
}

// close frees the batches. run must have returned.
func (f *feeder) close() {
	for _, b := range f.all {
		_ = b.Close()
	}
}
