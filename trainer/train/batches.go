package train

import (
	"context"
	"math/rand/v2"
	"slices"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
	"fakeart/trainer/net"
)

// What random numbers are for. Each purpose has a stream of its own for every
// epoch or step, drawn from the seed alone: a run that goes on after a break
// draws what it would have drawn without one.
const (
	forSplit uint64 = iota + 1
	forOrder
	forFlip
	forDropout
)

func random(seed int64, purpose uint64, n int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), purpose<<48|uint64(n)))
}

// holdOut cuts the validation pictures from the training split: share of each
// class, drawn by the seed. Both results are indices, in rising order. Of a class
// with two pictures or more each result has one at least; a class's only picture
// is learned from.
func holdOut(labels []uint8, share float64, seed int64) (learn, validate []int) {
	rng := random(seed, forSplit, 0)
	for _, class := range []uint8{dataset.Real, dataset.Fake} {
		var members []int
		for i, l := range labels {
			if l == class {
				members = append(members, i)
			}
		}
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		n := max(int(share*float64(len(members))+0.5), 1)
		n = max(min(n, len(members)-1), 0)
		validate = append(validate, members[:n]...)
		learn = append(learn, members[n:]...)
	}
	slices.Sort(learn)
	slices.Sort(validate)
	return learn, validate
}

// feeder prepares batches in the background, in the order in which they are
// to be learned from, so that a step never waits for its pictures.
type feeder struct {
	trainer *net.Trainer
	split   *dataset.Split
	learn   []int
	config  *config.Config

	free  map[int]chan *net.Batch // by size
	ready chan filled
	all   []*net.Batch
}

// filled is a batch ready to be learned from, or the reason why it is not.
type filled struct {
	batch *net.Batch
	size  int
	err   error
}

// newFeeder makes the batches; run fills them. The caller closes it.
func newFeeder(t *net.Trainer, split *dataset.Split, learn []int, cfg *config.Config) (*feeder, error) {
	f := &feeder{trainer: t, split: split, learn: learn, config: cfg, free: map[int]chan *net.Batch{}, ready: make(chan filled)}
	for _, size := range f.sizes() {
		// One is learned from, one waits, one is being filled. The last of an epoch
		// has a size of its own and comes alone.
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

// size is that of every batch but an epoch's last.
func (f *feeder) size() int { return min(f.config.Experiment.BatchSize, len(f.learn)) }

// sizes are those of the batches of an epoch, each once, the usual one first.
func (f *feeder) sizes() []int {
	sizes := []int{f.size()}
	if rest := len(f.learn) % f.size(); rest > 0 {
		sizes = append(sizes, rest)
	}
	return sizes
}

// steps is the number of steps of an epoch.
func (f *feeder) steps() int { return (len(f.learn) + f.size() - 1) / f.size() }

// order is that in which an epoch goes through the pictures: indices into the split.
func (f *feeder) order(epoch int) []int {
	order := slices.Clone(f.learn)
	random(f.config.Experiment.Seed, forOrder, epoch).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// flip draws which pictures of a step are mirrored.
func (f *feeder) flip(flips []bool, step int) {
	rng := random(f.config.Experiment.Seed, forFlip, step)
	for i := range flips {
		flips[i] = f.config.Experiment.Flip && rng.Uint32()&1 == 1
	}
}

// drop gives what decides, asked once for each number, what a step's dropout drops.
func (f *feeder) drop(step int) func() bool {
	rng := random(f.config.Experiment.Seed, forDropout, step)
	below := uint32(f.config.Model.Dropout * (1 << 32))
	return func() bool { return rng.Uint32() < below }
}

// run fills batches from the given step on (counted from 0 over the whole run)
// until the last or until ctx ends.
func (f *feeder) run(ctx context.Context, from int) {
	defer close(f.ready)
	var order []int
	pictures, labels, flips := make([][]uint8, f.size()), make([]uint8, f.size()), make([]bool, f.size())
	for step := from; step < f.config.Experiment.Epochs*f.steps(); step++ {
		epoch, place := step/f.steps(), step%f.steps()
		if order == nil || place == 0 {
			order = f.order(epoch)
		}
		batch := order[place*f.size() : min((place+1)*f.size(), len(order))]
		n := len(batch)
		for i, index := range batch {
			pictures[i], labels[i] = f.split.Image(index), f.split.Labels[index]
		}
		f.flip(flips[:n], step)
		next := filled{size: n}
		select {
		case next.batch = <-f.free[n]:
		case <-ctx.Done():
			return
		}
		next.err = next.batch.Fill(pictures[:n], labels[:n], flips[:n], 1-f.config.Model.Dropout, f.drop(step))
		select {
		case f.ready <- next:
		case <-ctx.Done():
			return
		}
	}
}

// close frees the batches. run must have ended.
func (f *feeder) close() {
	for _, b := range f.all {
		_ = b.Close()
	}
}
