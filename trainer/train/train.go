// Package train makes a model learn: a run reads a prepared data set, trains
// the network of trainer/net epoch by epoch, keeps the best one, and leaves it
// with all that is known about it in a run folder.
//
// A run is reproducible: the same configuration, data, seed and machine give
// the same model file, byte for byte, whether or not the run was broken off and
// continued in between.
package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime/pprof"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"fakeart/internal/config"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/net"
	"fakeart/trainer/runlog"
)

// ErrInterrupted is matched (errors.Is) by the error of a run that was told to
// stop, did so between two steps, and can be continued.
var ErrInterrupted = errors.New("interrupted")

// checkpointEvery bounds what a killed run loses, besides that each epoch's end
// is kept.
const checkpointEvery = 30 * time.Second

// Summary is what became of a run.
type Summary struct {
	// Dir is the run folder, and Model the model file in it.
	Dir, Model string
	// Digest is the model file's, "sha256:…".
	Digest string
	// BestEpoch counts from 1; ValLoss and ValAccuracy are its measurements.
	BestEpoch            int
	ValLoss, ValAccuracy float64
	// Test is the measurement on the test split; nil if the data set has none.
	Test *evaluate.Result
}

// run is a training run at work.
type run struct {
	cfg      *config.Config
	folder   *folder
	log      *slog.Logger
	out      io.Writer
	net      *net.Network
	trainer  *net.Trainer
	manifest *dataset.Manifest
	split    *dataset.Split
	validate *dataset.Split
	feeder   *feeder
	metrics  *runlog.Log
	state    checkpoint
	revision string
}

// Run trains as the configuration says, from the start or, with run.resume,
// from the last checkpoint. Lines (and on a terminal a progress bar) go to out
// and to the run's train.log. When ctx ends the run stops between two steps,
// saves, and returns ErrInterrupted. revision is the trainer's source revision,
// noted in the model file.
func Run(ctx context.Context, cfg *config.Config, revision string, out io.Writer) (_ *Summary, err error) {
	r := &run{cfg: cfg, out: out, revision: revision}
	// All that can be wrong without a run folder is found before there is one.
	if r.net, err = network(cfg); err != nil {
		return nil, err
	}
	if r.split, r.manifest, err = dataset.Load(cfg.Dataset.Dir, dataset.Train); err != nil {
		return nil, err
	}
	learn, validate := holdOut(r.split.Labels, cfg.Experiment.ValSplit, cfg.Experiment.Seed)
	if len(learn) == 0 || len(validate) == 0 {
		return nil, fmt.Errorf("train: the %d pictures of %s are too few to hold some out for validation (experiment.val_split)",
			r.split.Len(), cfg.Dataset.Dir)
	}
	r.validate = subset(r.split, validate)
	if err := ort.Init(); err != nil {
		return nil, err
	}
	if r.folder, err = openFolder(cfg, time.Now()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	prefix := ""
	if cfg.Profiler.Name == "onnxruntime" {
		prefix = r.folder.file("onnxruntime")
	}
	if r.trainer, err = newTrainer(cfg, r.net, prefix); err != nil {
		return nil, err
	}
	stop, err := r.profile()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	r.log = slog.New(slog.NewTextHandler(r.folder.logTo(out), nil))
	if err := r.restore(); err != nil {
		return nil, err
	}
	if r.feeder, err = newFeeder(r.trainer, r.split, learn, cfg); err != nil {
		return nil, err
	}
	if r.metrics, err = runlog.Resume(r.folder.file(metricsFile), r.state.State.Step); err != nil {
		return nil, err
	}
	r.log.Info("train", "run", r.folder.path, "data", cfg.Dataset.Name, "pictures", len(learn), "validation", len(validate),
		"steps_per_epoch", r.feeder.steps(), "layout", r.trainer.Layout(), "from_step", r.state.State.Step)
	if !r.state.Done {
		if err := r.learn(ctx); err != nil {
			return nil, err
		}
	}
	return r.finish(ctx)
}

// network is the network that the configuration describes.
func network(cfg *config.Config) (*net.Network, error) {
	m := cfg.Model
	return net.New(net.Config{Channels: m.Channels, Dense: m.Dense, Slope: m.Slope, Dropout: m.Dropout})
}

// newTrainer makes a trainer as the configuration wants it, with fresh weights.
func newTrainer(cfg *config.Config, n *net.Network, profilePrefix string) (*net.Trainer, error) {
	o := cfg.Optimizer
	return net.NewTrainer(n, n.Init(cfg.Experiment.Seed), net.TrainerOptions{
		Optimizer: net.Optimizer{
			Name: o.Name, WeightDecay: o.WeightDecay, Beta1: o.Beta1, Beta2: o.Beta2, Epsilon: o.Epsilon,
			Momentum: o.Momentum, Nesterov: o.Nesterov,
		},
		Layout: cfg.Experiment.Layout, Threads: cfg.Experiment.Threads, ProfilePrefix: profilePrefix,
	})
}

// close ends what is open, also half-way through Run.
func (r *run) close() error {
	var err error
	if r.feeder != nil {
		r.feeder.close()
	}
	if r.trainer != nil {
		err = r.trainer.Close()
	}
	if r.metrics != nil {
		err = errors.Join(err, r.metrics.Close())
	}
	if r.folder != nil {
		r.folder.close()
	}
	return err
}

// profile starts the profilers of Go programs, if asked for.
func (r *run) profile() (stop func() error, err error) {
	if r.cfg.Profiler.Name != "pprof" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(r.folder.file("cpu.pprof"))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		err := f.Close()
		heap, err2 := os.Create(r.folder.file("heap.pprof"))
		if err2 == nil {
			err2 = errors.Join(pprof.Lookup("heap").WriteTo(heap, 0), heap.Close())
		}
		return errors.Join(err, err2)
	}, nil
}

// restore takes up the last checkpoint, if the run has one.
func (r *run) restore() error {
	r.state = checkpoint{ConfigDigest: r.cfg.Digest(), DataDigest: r.manifest.Digest()}
	c, err := loadCheckpoint(r.folder.file(checkpointsDir))
	if err != nil || c == nil {
		return err
	}
	if c.ConfigDigest != r.state.ConfigDigest || c.DataDigest != r.state.DataDigest {
		return fmt.Errorf("continue run %s: its checkpoint is of another configuration or data set; "+
			"give back what it was trained with (%s), or choose another run.dir", r.folder.path, c.DataDigest)
	}
	r.state = *c
	return r.trainer.Restore(c.State)
}

// learn makes the steps that are left.
func (r *run) learn(ctx context.Context) error {
	// The feeder must have ended before the batches are freed, whatever happens.
	feeding, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		r.feeder.run(feeding, r.state.State.Step)
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()
	steps := r.feeder.steps()
	saved := time.Now()
	for epoch := r.state.State.Step / steps; epoch < r.cfg.Experiment.Epochs; epoch++ {
		bar := r.bar(epoch)
		for place := r.state.State.Step - epoch*steps; place < steps; place++ {
			if ctx.Err() != nil {
				return r.interrupted()
			}
			if err := r.step(epoch, steps); err != nil {
				return err
			}
			if bar != nil {
				_ = bar.Set(place + 1)
			}
			if time.Since(saved) > checkpointEvery && place < steps-1 {
				if err := r.save(); err != nil {
					return err
				}
				saved = time.Now()
			}
		}
		done, err := r.endEpoch(ctx, epoch, steps)
		if err != nil {
			return err
		}
		r.state.Done = done || epoch == r.cfg.Experiment.Epochs-1
		if err := r.save(); err != nil {
			return err
		}
		saved = time.Now()
		if r.state.Done {
			return nil
		}
	}
	return nil
}

// bar is an epoch's progress bar, or nil where there is no terminal.
func (r *run) bar(epoch int) *progressbar.ProgressBar {
	f, ok := r.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return progressbar.NewOptions(r.feeder.steps(),
		progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(fmt.Sprintf("epoch %d/%d", epoch+1, r.cfg.Experiment.Epochs)),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("steps"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
}

// step learns from the next batch and records how that went.
func (r *run) step(epoch, steps int) error {
	begin := time.Now()
	next := <-r.feeder.ready
	if next.err != nil {
		return next.err
	}
	lr := learningRate(r.cfg, r.state.State.Step, steps)
	result, err := r.trainer.Step(next.batch, lr)
	if err != nil {
		return err
	}
	r.feeder.free[next.size] <- next.batch
	step := r.state.State.Step + 1
	if math.IsNaN(result.Loss) || math.IsInf(result.Loss, 0) {
		return fmt.Errorf("training step %d (epoch %d): the loss is %v; try a smaller experiment.lr (now %g), a longer "+
			"experiment.warmup_epochs or another optimizer; the last good state is in %s",
			step, epoch+1, result.Loss, r.cfg.Optimizer.LR, r.folder.file(checkpointsDir))
	}
	took := time.Since(begin).Seconds()
	r.state.State.Step = step
	t := &r.state.Epoch
	t.Loss += result.Loss * float64(next.size)
	t.Correct += result.Correct
	t.Seen += next.size
	t.Seconds += took
	return r.metrics.Append(runlog.Row{
		Kind: runlog.Step, Epoch: epoch + 1, Step: step,
		TrainLoss: result.Loss, TrainAccuracy: float64(result.Correct) / float64(next.size),
		ValLoss: math.NaN(), ValAccuracy: math.NaN(), LR: lr, ImagesPerSecond: float64(next.size) / took,
	})
}

// endEpoch measures the epoch on the validation pictures and says whether the
// run should stop early.
func (r *run) endEpoch(ctx context.Context, epoch, steps int) (stop bool, err error) {
	t := r.state.Epoch
	weights := r.trainer.State().Weights
	loss, accuracy, err := r.measure(ctx, weights)
	if ctx.Err() != nil {
		return false, r.interrupted()
	}
	if err != nil {
		return false, err
	}
	row := runlog.Row{
		Kind: runlog.Epoch, Epoch: epoch + 1, Step: r.state.State.Step,
		TrainLoss: t.Loss / float64(t.Seen), TrainAccuracy: float64(t.Correct) / float64(t.Seen),
		ValLoss: loss, ValAccuracy: accuracy,
		LR: learningRate(r.cfg, r.state.State.Step-1, steps), ImagesPerSecond: float64(t.Seen) / t.Seconds,
	}
	if err := r.metrics.Append(row); err != nil {
		return false, err
	}
	r.log.Info("epoch", "epoch", fmt.Sprintf("%d/%d", row.Epoch, r.cfg.Experiment.Epochs),
		"train_loss", rounded(row.TrainLoss), "train_accuracy", rounded(row.TrainAccuracy),
		"val_loss", rounded(loss), "val_accuracy", rounded(accuracy), "images_per_second", math.Round(row.ImagesPerSecond))
	r.state.Epoch = tally{}
	r.state.Since++
	if r.state.Best.Epoch == 0 || loss < r.state.Best.Loss {
		r.state.Best = best{epoch + 1, loss, accuracy, weights}
		r.state.Since = 0
	}
	patience := r.cfg.Experiment.Patience
	if patience > 0 && r.state.Since >= patience && row.Epoch < r.cfg.Experiment.Epochs {
		r.log.Info("stop early", "epochs_without_progress", patience, "best_epoch", r.state.Best.Epoch)
		return true, nil
	}
	return false, nil
}

func rounded(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// save writes a checkpoint of this moment.
func (r *run) save() error {
	r.state.State = r.trainer.State()
	return r.state.save(r.folder.file(checkpointsDir))
}

// interrupted saves and says how to go on.
func (r *run) interrupted() error {
	if err := r.save(); err != nil {
		return err
	}
	return fmt.Errorf("%w at step %d, saved in %s: go on with the same command and run.dir=%s run.resume=true",
		ErrInterrupted, r.state.State.Step, r.folder.path, r.folder.path)
}

// subset is the pictures with the given indices.
func subset(s *dataset.Split, indices []int) *dataset.Split {
	var out dataset.Split
	for _, i := range indices {
		out.Images = append(out.Images, s.Image(i)...)
		out.Labels = append(out.Labels, s.Labels[i])
	}
	return &out
}
