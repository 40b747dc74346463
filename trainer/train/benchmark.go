package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
)

const (
	benchmarkRounds = 7
	benchmarkImages = 4096
	benchmarkTime   = 1500 * time.Millisecond // per measurement
)

// Speed is the result of a benchmark for one batch size.
type Speed struct {
	Batch int
	// Training and Inference are in images per second, each the median over all rounds.
	Training, Inference float64
	// Efficiency is training ÷ (inference ÷ 3), the median over all rounds. A training step does
	// the work of three forward passes, so 1 is the maximum for a program that trains at the speed
	// of inference.
	Efficiency float64
	// Layout is the layout used for training.
	Layout string
}

// Benchmark measures the training speed of the configured network, in the same loop as Run
// including the preparation of batches, and the inference speed of ONNX Runtime for the same
// network, batch size and threads. The two alternate, so that a machine whose speed changes does
// not favor either. It trains on noise, in memory, and prints a line per round to out.
func Benchmark(ctx context.Context, cfg *config.Config, batch int, out io.Writer) (*Speed, error) {
	c := *cfg
	c.Experiment.BatchSize = batch
	c.Experiment.Epochs = 1 << 20 // the benchmark stops long before
	size := cmp.Or(c.Dataset.Size, imaging.Default().Width)
	images := noise(max(benchmarkImages, batch), size, c.Experiment.Seed)
	input := imaging.Square(size)
	r := &run{cfg: &c, manifest: &dataset.Manifest{Size: size, Input: &input, Classes: images.Classes}}
	var err error
	if r.net, err = network(&c, size, len(images.Classes)); err != nil {
		return nil, err
	}
	s := &Speed{Batch: batch}
	var training, inference, efficiency []float64
	for round := range benchmarkRounds {
		t, layout, err := r.benchmarkTraining(ctx, images)
		if err != nil {
			return nil, err
		}
		i, err := r.benchmarkInference(ctx)
		if err != nil {
			return nil, err
		}
		s.Layout = layout
		training, inference, efficiency = append(training, t), append(inference, i), append(efficiency, 3*t/i)
		fmt.Fprintf(out, "batch %d, round %d of %d: training %.0f, inference %.0f images/s\n", batch, round+1, benchmarkRounds, t, i)
	}
	s.Training, s.Inference, s.Efficiency = median(training), median(inference), median(efficiency)
	return s, nil
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// noise returns a split of n images of random pixels with two classes.
func noise(n, size int, seed int64) *dataset.Split {
	s := &dataset.Split{Images: make([]uint8, n*imaging.Channels*size*size), Labels: make([]uint16, n), Side: size, Classes: []string{"0", "1"}}
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	for i := range s.Images {
		s.Images[i] = uint8(rng.Uint32())
	}
	for i := range s.Labels {
		s.Labels[i] = uint16(i & 1)
	}
	return s
}

// benchmarkTraining returns the speed of the training loop in images per second.
func (r *run) benchmarkTraining(ctx context.Context, images *dataset.Split) (_ float64, layout string, err error) {
	if r.trainer, err = newTrainer(r.cfg, r.net, r.net.Init(r.cfg.Experiment.Seed), nil, ""); err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, r.trainer.Close()) }()
	indices := make([]int, images.Len()/r.cfg.Experiment.BatchSize*r.cfg.Experiment.BatchSize)
	for i := range indices {
		indices[i] = i
	}
	if r.feeder, err = newFeeder(r.trainer, images, indices, r.cfg); err != nil {
		return 0, "", err
	}
	defer r.feeder.close()
	feeding, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		r.feeder.run(feeding, 0)
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()
	rate, err := rate(ctx, r.cfg.Experiment.BatchSize, func() error {
		next, ok := <-r.feeder.ready
		if !ok {
			return ctx.Err()
		}
		if next.err != nil {
			return next.err
		}
		if _, err := r.trainer.Step(next.batch, r.cfg.Optimizer.LR); err != nil {
			return err
		}
		r.feeder.free[next.size] <- next.batch
		return nil
	})
	return rate, r.trainer.Layout(), err
}

// benchmarkInference returns the speed of the exported network in images per second.
func (r *run) benchmarkInference(ctx context.Context) (_ float64, err error) {
	f, _, err := r.export(best{Weights: r.net.Init(r.cfg.Experiment.Seed)})
	if err != nil {
		return 0, err
	}
	batch := r.cfg.Experiment.BatchSize
	s, err := f.NewSession(batch, ort.Options{Threads: r.cfg.Experiment.Threads, Spin: true})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	in := s.Input().Float32
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range in {
		in[i] = rng.Float32()
	}
	return rate(ctx, batch, func() error { return s.Run(batch) })
}

// rate calls do repeatedly, each time for n images, and returns the images per second.
func rate(ctx context.Context, n int, do func() error) (float64, error) {
	for range 5 {
		if err := do(); err != nil {
			return 0, err
		}
	}
	begin, count := time.Now(), 0
	for time.Since(begin) < benchmarkTime {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := do(); err != nil {
			return 0, err
		}
		count += n
	}
	return float64(count) / time.Since(begin).Seconds(), nil
}
