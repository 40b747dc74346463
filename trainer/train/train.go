// Package train makes a model learn: a run reads a prepared data set, trains
// the network of trainer/net epoch by epoch, keeps the best one, and leaves it
// with all that is known about it in a run folder.
//
// A run is reproducible: the same configuration, data, seed and machine give
// the same model file, byte for byte, whether or not the run was broken off and
// continued in between.
package train

import (
	"cmp"
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
	cfg       *config.Config
	revision  string
	out       io.Writer
	saveEvery time.Duration

	net      *net.Network
	manifest *dataset.Manifest
	split    *dataset.Split
	learn    []int // of split
	validate *dataset.Split

	folder *folder
	log    *slog.Logger // to out and to the run's train.log
	state  checkpoint

	// While it learns.
	trainer *net.Trainer
	feeder  *feeder
	metrics *runlog.Log
}

// Run trains as the configuration says, from the start or, with run.resume,
// from the last checkpoint. Lines (and on a terminal a progress bar) go to out
// and to the run's train.log. When ctx ends the run stops between two steps,
// saves, and returns ErrInterrupted. revision is the trainer's source revision,
// noted in the model file.
//
// An error leaves what the run folder held. One that comes before the first
// step leaves no new run folder either. A run that has ended already is not
// touched again: run.resume gives its summary.
func Run(ctx context.Context, cfg *config.Config, revision string, out io.Writer) (*Summary, error) {
	r := &run{cfg: cfg, revision: revision, out: out, saveEvery: checkpointEvery}
	return r.do(ctx)
}

func (r *run) do(ctx context.Context) (_ *Summary, err error) {
	// All that can be wrong without a run folder is found before there is one.
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if r.folder, err = openFolder(r.cfg, time.Now()); err != nil {
		return nil, err
	}
	defer func() { r.folder.close(err) }()
	r.log = slog.New(slog.NewTextHandler(io.MultiWriter(r.out, r.folder.log), nil))
	c, err := r.folder.checkpoint(r.cfg, r.manifest)
	if err != nil {
		return nil, err
	}
	r.state = *c
	if !r.state.Done {
		if err := r.train(ctx); err != nil {
			return nil, err
		}
	} else if s := r.finished(); s != nil {
		r.log.Info("this run has ended already; nothing was done", "run", r.folder.path)
		return s, nil
	}
	s, err := r.finish(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, r.interruption()
	}
	return s, err
}

// prepare loads the data, all of it once, so that a broken test split is found
// now and not after the training.
func (r *run) prepare() (err error) {
	if r.net, err = network(r.cfg); err != nil {
		return err
	}
	dir := r.cfg.Dataset.Dir
	if r.split, r.manifest, err = dataset.Load(dir, dataset.Train); err != nil {
		return err
	}
	if r.manifest.Count(dataset.Test) > 0 {
		if _, _, err := dataset.Load(dir, dataset.Test); err != nil {
			return err
		}
	}
	learn, validate := holdOut(r.split.Labels, r.cfg.Experiment.ValSplit, r.cfg.Experiment.Seed)
	if len(learn) == 0 || len(validate) == 0 {
		return fmt.Errorf("train: %s has %d pictures to learn from, too few to hold some of a class out for validation; prepare more",
			dir, r.split.Len())
	}
	r.learn, r.validate = learn, subset(r.split, validate)
	return ort.Init()
}

// train makes the steps that are left, from the state on.
func (r *run) train(ctx context.Context) (err error) {
	// What fails after something else has is that failure's consequence.
	defer func() { err = cmp.Or(err, r.close()) }()
	prefix := ""
	if r.cfg.Profiler.Name == "onnxruntime" {
		prefix = r.folder.file(onnxProfilePrefix)
	}
	if r.trainer, err = newTrainer(r.cfg, r.net, prefix); err != nil {
		return err
	}
	if r.state.State.Step > 0 {
		if err := r.trainer.Restore(r.state.State); err != nil {
			return err
		}
	}
	if r.feeder, err = newFeeder(r.trainer, r.split, r.learn, r.cfg); err != nil {
		return err
	}
	if r.metrics, err = runlog.Resume(r.folder.file(metricsFile), r.state.State.Step); err != nil {
		return err
	}
	stop, err := r.profile()
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, stop()) }()
	r.log.Info("train", "run", r.folder.path, "data", r.cfg.Dataset.Name, "pictures", len(r.learn), "validation", r.validate.Len(),
		"steps_per_epoch", r.feeder.steps(), "layout", r.trainer.Layout(), "from_step", r.state.State.Step)
	r.folder.begun()
	return r.epochs(ctx)
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

// close ends what train has opened, also half-way.
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
	return err
}

// profile starts the profilers of Go programs, if asked for.
func (r *run) profile() (stop func() error, err error) {
	if r.cfg.Profiler.Name != "pprof" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(r.folder.file(cpuProfileFile))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		err := f.Close()
		heap, err2 := os.Create(r.folder.file(heapProfileFile))
		if err2 == nil {
			err2 = errors.Join(pprof.Lookup("heap").WriteTo(heap, 0), heap.Close())
		}
		return errors.Join(err, err2)
	}, nil
}

// epochs learns until the last epoch, or one that stops early.
func (r *run) epochs(ctx context.Context) error {
	// The feeder must have ended before the batches are freed, whatever happens.
	feeding, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	from := r.state.State.Step // read here: the state is this goroutine's
	go func() {
		r.feeder.run(feeding, from)
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()
	for epoch := r.epoch(); !r.state.Done; epoch++ {
		if err := r.steps(ctx, epoch); err != nil {
			return err
		}
		if err := r.endEpoch(ctx, epoch); err != nil {
			return err
		}
		if err := r.save(); err != nil {
			return err
		}
	}
	return nil
}

// epoch is the one that the state is in, counted from 0. A run can have been
// interrupted between an epoch's last step and its measurement.
func (r *run) epoch() int {
	step, steps := r.state.State.Step, r.feeder.steps()
	if step%steps == 0 && r.state.Epoch.Seen > 0 {
		return step/steps - 1
	}
	return step / steps
}

// steps makes the steps that are left of an epoch.
func (r *run) steps(ctx context.Context, epoch int) error {
	bar := r.bar(epoch)
	if bar != nil {
		defer func() { _ = bar.Clear() }() // an error is not to stand behind it
	}
	saved := time.Now()
	end := (epoch + 1) * r.feeder.steps()
	for r.state.State.Step < end {
		if ctx.Err() != nil {
			return r.interrupted()
		}
		if err := r.step(epoch); err != nil {
			return err
		}
		if bar != nil {
			_ = bar.Set(r.state.State.Step - end + r.feeder.steps())
		}
		if time.Since(saved) > r.saveEvery && r.state.State.Step < end {
			if err := r.save(); err != nil {
				return err
			}
			saved = time.Now()
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
func (r *run) step(epoch int) error {
	begin := time.Now()
	next := <-r.feeder.ready
	if next.err != nil {
		return next.err
	}
	lr := learningRate(r.cfg, r.state.State.Step, r.feeder.steps())
	result, err := r.trainer.Step(next.batch, lr)
	if err != nil {
		return err
	}
	r.feeder.free[next.size] <- next.batch
	step := r.state.State.Step + 1
	if math.IsNaN(result.Loss) || math.IsInf(result.Loss, 0) {
		return r.diverged(fmt.Sprintf("the loss of step %d (epoch %d) is %v", step, epoch+1, result.Loss))
	}
	took := time.Since(begin).Seconds()
	r.state.State.Step = step
	t := &r.state.Epoch
	t.Loss += result.Loss * float64(next.size)
	t.Correct += result.Correct
	t.Seen += next.size
	t.Seconds += took
	return r.record(runlog.Row{
		Kind: runlog.Step, Epoch: epoch + 1, Step: step,
		TrainLoss: result.Loss, TrainAccuracy: float64(result.Correct) / float64(next.size),
		ValLoss: math.NaN(), ValAccuracy: math.NaN(), LR: lr, ImagesPerSecond: float64(next.size) / took,
	})
}

// record appends a row to metrics.csv.
func (r *run) record(row runlog.Row) error {
	if err := r.metrics.Append(row); err != nil {
		return r.unwritten(err)
	}
	return nil
}

// diverged is the error of a training whose numbers have left the range of
// floating point. To go on with the same configuration would end there again.
func (r *run) diverged(what string) error {
	rate := "experiment.lr"
	if r.cfg.Optimizer.LR != r.cfg.Experiment.LR {
		rate = "optimizer.lr"
	}
	return fmt.Errorf("training has diverged: %s; train anew in another run.dir with a smaller %s (it is %g), "+
		"a longer experiment.warmup_epochs or another optimizer; %s keeps what was saved before",
		what, rate, r.cfg.Optimizer.LR, r.folder.path)
}

// endEpoch measures the epoch on the validation pictures, and settles whether it
// is the best one and whether it is the last.
func (r *run) endEpoch(ctx context.Context, epoch int) error {
	t := r.state.Epoch
	weights := r.trainer.State().Weights
	// A step whose loss is fine can still have gradients that are not.
	if !finite(weights.Params, weights.Mean, weights.Var) {
		return r.diverged(fmt.Sprintf("after epoch %d weights are no numbers any more", epoch+1))
	}
	loss, accuracy, err := r.measure(ctx, weights)
	if ctx.Err() != nil {
		return r.interrupted()
	}
	if err != nil {
		return err
	}
	row := runlog.Row{
		Kind: runlog.Epoch, Epoch: epoch + 1, Step: r.state.State.Step,
		TrainLoss: t.Loss / float64(t.Seen), TrainAccuracy: float64(t.Correct) / float64(t.Seen),
		ValLoss: loss, ValAccuracy: accuracy,
		LR: learningRate(r.cfg, r.state.State.Step-1, r.feeder.steps()), ImagesPerSecond: float64(t.Seen) / t.Seconds,
	}
	if err := r.record(row); err != nil {
		return err
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
	r.state.Done = row.Epoch >= r.cfg.Experiment.Epochs
	if patience := r.cfg.Experiment.Patience; patience > 0 && r.state.Since >= patience && !r.state.Done {
		r.log.Info("stop early", "epochs_without_progress", r.state.Since, "best_epoch", r.state.Best.Epoch)
		r.state.Done = true
	}
	return nil
}

func rounded(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// save writes a checkpoint of this moment.
func (r *run) save() error {
	state := r.trainer.State()
	if w := state.Weights; !finite(w.Params, w.Mean, w.Var) {
		return r.diverged(fmt.Sprintf("after step %d weights are no numbers any more", state.Step))
	}
	r.state.State = state
	if err := r.state.save(r.folder.file(checkpointsDir)); err != nil {
		return r.unwritten(err)
	}
	return nil
}

// finite says whether all numbers are neither infinite nor NaN.
func finite(numbers ...[]float32) bool {
	for _, part := range numbers {
		for _, x := range part {
			if x-x != 0 { // then it is NaN
				return false
			}
		}
	}
	return true
}

// unwritten is the error of a file of the run that could not be written.
func (r *run) unwritten(err error) error {
	return fmt.Errorf("%w; what was saved before is still there: mend that (make room on the disk?) and %s", err, r.goOn())
}

// interrupted saves and says how to go on.
func (r *run) interrupted() error {
	if err := r.save(); err != nil {
		return err
	}
	return r.interruption()
}

// interruption is the error of a run that was told to stop and has saved.
func (r *run) interruption() error {
	return fmt.Errorf("%w at step %d, saved in %s: %s", ErrInterrupted, r.state.State.Step, r.folder.path, r.goOn())
}

// goOn says how to continue the run.
func (r *run) goOn() string {
	return fmt.Sprintf("go on with the same command and run.dir=%s run.resume=true", r.folder.path)
}

// subset is the pictures with the given indices.
func subset(s *dataset.Split, indices []int) *dataset.Split {
	out := dataset.Split{Images: make([]uint8, 0, len(indices)*len(s.Image(0))), Labels: make([]uint8, 0, len(indices))}
	for _, i := range indices {
		out.Images = append(out.Images, s.Image(i)...)
		out.Labels = append(out.Labels, s.Labels[i])
	}
	return &out
}
