package train

import (
	"context"
	"math/rand/v2"
	"slices"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
	"fakeart/trainer/net"
)

// Streams of random numbers. Each purpose has its own stream for each epoch or training step,
// derived only from the seed, so a resumed run draws the same numbers as an uninterrupted one.
const (
	streamSplit uint64 = iota + 1
	streamOrder
	streamFlip
	streamDropout
)

func random(seed int64, purpose uint64, n int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), purpose<<48|uint64(n)))
}

// holdOut divides the train split into training and validation images: a fraction share of each
// class is held out, selected by the seed. It returns sorted indices. If a class has at least two
// images, each result contains at least one of them; a single image is used for training.
func holdOut(labels []uint16, share float64, seed int64) (train, validation []int) {
	rng := random(seed, streamSplit, 0)
	for _, class := range []uint16{dataset.Real, dataset.Fake} {
		var members []int
		for i, l := range labels {
			if l == class {
				members = append(members, i)
			}
		}
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

// feeder prepares batches in a background goroutine, in the order of training, so that a training
// step never waits for its images.
type feeder struct {
	trainer *net.Trainer
	split   *dataset.Split
	indices []int
	config  *config.Config

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

// flip draws which images of a training step are mirrored.
func (f *feeder) flip(flips []bool, step int) {
	rng := random(f.config.Experiment.Seed, streamFlip, step)
	for i := range flips {
		flips[i] = f.config.Experiment.Flip && rng.Uint32()&1 == 1
	}
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
	images, labels, flips := make([][]uint8, f.size()), make([]uint16, f.size()), make([]bool, f.size())
	for step := from; step < f.config.Experiment.Epochs*f.steps(); step++ {
		epoch, place := step/f.steps(), step%f.steps()
		if order == nil || place == 0 {
			order = f.order(epoch)
		}
		batch := order[place*f.size() : min((place+1)*f.size(), len(order))]
		n := len(batch)
		for i, index := range batch {
			images[i], labels[i] = f.split.Image(index), f.split.Labels[index]
		}
		f.flip(flips[:n], step)
		next := preparedBatch{size: n}
		select {
		case next.batch = <-f.free[n]:
		case <-ctx.Done():
			return
		}
		next.err = next.batch.Fill(net.Samples{
			Images: images[:n], Labels: labels[:n], Flip: flips[:n], Keep: 1 - f.config.Model.Dropout, Drop: f.drop(step),
		})
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
