// Package train trains models: a run reads a prepared dataset, trains the network of trainer/net
// epoch by epoch, and writes the best model with its metrics to a run folder.
//
// Call [Run] to train, or to resume an interrupted run. [Benchmark] measures the training speed.
//
// Runs are reproducible: the same configuration, data, seed and machine give the same model file,
// byte for byte, whether or not the run was interrupted and resumed.
package train

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/cli"
	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/net"
	"fakeart/trainer/runlog"
)

// ErrInterrupted is returned (wrapped) by [Run] if its context ended. The run stopped between two
// training steps and can be resumed.
var ErrInterrupted = errors.New("interrupted")

// checkpointEvery is the interval between checkpoints within an epoch. It limits what a killed run
// loses. A checkpoint is also saved after each epoch.
const checkpointEvery = 30 * time.Second

// Summary is the result of a run.
type Summary struct {
	// Dir is the run folder, Model the path of the model file in it.
	Dir, Model string
	// Digest is the digest of the model file, "sha256:…".
	Digest string
	// BestEpoch counts from 1. ValLoss and ValAccuracy are its metrics on the validation images.
	BestEpoch            int
	ValLoss, ValAccuracy float64
	// Test is the evaluation on the test split, or nil if the dataset has none.
	Test *evaluate.Result
}

// run is the state of a training run.
type run struct {
	cfg       *config.Config
	revision  string
	out       io.Writer
	saveEvery time.Duration

	net          *net.Network
	manifest     *dataset.Manifest
	split        *dataset.Split
	trainIndices []int // of split
	validation   *dataset.Split
	weights      []float64   // of the classes in the loss, or nil
	start        *model.File // experiment.init, or nil
	warnings     []string    // about the dataset

	folder   *folder
	log      *slog.Logger     // to out and to train.log in the run folder
	terminal *terminalHandler // formats log if out is a terminal
	state    checkpoint

	// Only set while training.
	trainer *net.Trainer
	feeder  *feeder
	metrics *runlog.Log
}

// Run trains a model as configured, from the start or, if run.resume is set, from the last
// checkpoint. It logs to out and to train.log in the run folder, in logfmt. If out is a terminal, it
// shows a progress bar and a table with one row per epoch there instead. When ctx ends, the run stops
// between two training steps, saves a checkpoint and returns ErrInterrupted. revision is the source
// revision of the trainer, which is stored in the model file.
//
// Run returns an error if the dataset wasn't prepared from the configured source, or if dataset.strict
// is set and there is a reason why metrics may mislead, which is logged as a warning otherwise.
//
// An error never damages what the run folder contained. If an error occurs before the first
// training step, no new run folder is left behind. If the run is already complete, Run returns its
// summary and changes nothing.
func Run(ctx context.Context, cfg *config.Config, revision string, out io.Writer) (*Summary, error) {
	r := &run{cfg: cfg, revision: revision, out: out, saveEvery: checkpointEvery}
	return r.do(ctx)
}

func (r *run) do(ctx context.Context) (_ *Summary, err error) {
	// Find all errors that do not depend on a run folder before creating one.
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if r.folder, err = openFolder(r.cfg, time.Now()); err != nil {
		return nil, err
	}
	defer func() { r.folder.close(err) }()
	r.terminal = &terminalHandler{w: r.out}
	var handler slog.Handler = r.terminal
	if !cli.IsTerminal(r.out) {
		handler = slog.NewTextHandler(r.out, nil)
	}
	r.log = slog.New(slog.NewMultiHandler(handler, slog.NewTextHandler(r.folder.log, nil)))
	for _, warning := range r.warnings {
		r.log.Warn(warning)
	}
	c, err := r.folder.checkpoint(r.cfg, r.manifest)
	if err != nil {
		return nil, err
	}
	if err := r.folder.extend(r.cfg, c); err != nil {
		return nil, err
	}
	r.state = *c
	if r.state.Done {
		if s := r.finished(); s != nil {
			r.log.Info("run is already complete", "run", r.folder.path)
			return s, nil
		}
	}
	r.addRevision()
	if !r.state.Done {
		if err := r.train(ctx); err != nil {
			return nil, err
		}
	}
	s, err := r.finish(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, r.interruptedError()
	}
	return s, err
}

// addRevision adds this revision to those that trained before, if they differ. The model file names all.
func (r *run) addRevision() {
	before := r.state.Revision
	switch {
	case before == "":
	case before == r.revision || strings.HasSuffix(before, ", "+r.revision):
		r.revision = before
	default:
		r.log.Warn("another revision of the trainer continues the run", "before", before, "now", r.revision)
		r.revision = before + ", " + r.revision
	}
	r.state.Revision = r.revision
}

// prepare loads all splits of the dataset, so that a damaged test split is found before the
// training and not after it.
func (r *run) prepare() (err error) {
	dir := r.cfg.Dataset.Dir
	if r.split, r.manifest, err = dataset.Load(dir, dataset.Train); err != nil {
		return err
	}
	if err := r.manifest.Matches(r.cfg.Dataset); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.net, err = network(r.cfg, r.manifest.Size, len(r.manifest.Classes)); err != nil {
		return err
	}
	if p := positive(r.cfg.Model.Positive, r.manifest.Classes); p != "" && (len(r.manifest.Classes) != 2 || !slices.Contains(r.manifest.Classes, p)) {
		return fmt.Errorf("train: model.positive is %q, but the classes of the dataset are %s\nhint: set model.positive=auto, or to a class of a dataset that has two classes", p, dataset.Examples(r.manifest.Classes))
	}
	if r.manifest.Count(dataset.Test) > 0 {
		test, _, err := dataset.Load(dir, dataset.Test)
		if err == nil {
			err = test.Close()
		}
		if err != nil {
			return err
		}
	}
	validate := make([]int, 0)
	if r.manifest.Count(dataset.Val) > 0 {
		if r.validation, _, err = dataset.Load(dir, dataset.Val); err != nil {
			return err
		}
		for i := range r.split.Len() {
			r.trainIndices = append(r.trainIndices, i)
		}
	} else {
		r.trainIndices, validate = holdOut(r.split.Labels, r.cfg.Experiment.ValSplit, r.cfg.Experiment.Seed)
		r.validation = r.split.Subset(validate)
	}
	if len(r.trainIndices) == 0 || r.validation.Len() == 0 {
		return fmt.Errorf("train: %s has %d images in the train split, too few to hold out images of each class for validation\nhint: prepare a larger dataset",
			dir, r.split.Len())
	}
	if r.weights, err = classWeights(r.cfg.Experiment, r.split, r.trainIndices); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.cfg.Experiment.Init != "" {
		if r.start, err = model.Open(r.cfg.Experiment.Init); err != nil {
			return fmt.Errorf("experiment.init: %w", err)
		}
		if in := r.start.Metadata.Preprocessing; in.Width != r.manifest.Size || in.Height != r.manifest.Size {
			return fmt.Errorf("experiment.init: %s takes images of %d×%d pixels, but those of the dataset in %s have %d×%[5]d\n"+
				"hint: prepare a dataset with the model's size, or start from another model", r.cfg.Experiment.Init, in.Width, in.Height, dir, r.manifest.Size)
		}
	}
	r.warnings = append(slices.Clone(r.manifest.Warnings), validationWarnings(r.split, r.validation, r.trainIndices, validate)...)
	if err := dataset.Reject(r.cfg.Dataset.Strict, r.warnings); err != nil {
		return fmt.Errorf("train: the dataset in %s: %w", dir, err)
	}
	return ort.Init()
}

// validationWarnings describes what makes validation metrics misleading: classes without validation
// images, and validation images, held out from the split, that are also training images.
func validationWarnings(split, validation *dataset.Split, learn, heldOut []int) (warnings []string) {
	validated := make([]int, len(split.Classes))
	for _, label := range validation.Labels {
		validated[label]++
	}
	var missing []string
	for label, name := range split.Classes {
		if validated[label] == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		warnings = append(warnings, fmt.Sprintf("no validation image is %s: validation metrics don't measure it", dataset.Examples(missing)))
	}
	if len(heldOut) == 0 {
		return warnings // data prepare has compared the splits
	}
	training := make(map[[sha256.Size]byte]int, len(learn))
	for _, i := range learn {
		training[sha256.Sum256(split.Image(i))] = i
	}
	var repeated []string
	for _, i := range heldOut {
		if j, ok := training[sha256.Sum256(split.Image(i))]; ok {
			repeated = append(repeated, fmt.Sprintf("%d = %d", i, j))
		}
	}
	if len(repeated) > 0 {
		warnings = append(warnings, fmt.Sprintf("%d of %d validation images are also training images; rows of train-images.npy: %s",
			len(repeated), len(heldOut), dataset.Examples(repeated)))
	}
	return warnings
}

// classWeights returns the weights of the classes in the loss, or nil if they are equal.
func classWeights(e config.Experiment, split *dataset.Split, learn []int) ([]float64, error) {
	weights := make([]float64, len(split.Classes))
	switch e.ClassWeights {
	case config.ClassWeightsNone:
		return nil, nil
	case config.ClassWeightsBalanced:
		for _, i := range learn {
			weights[split.Labels[i]]++
		}
		for class, n := range weights {
			weights[class] = 1 // without training images
			if n > 0 {
				weights[class] = float64(len(learn)) / (float64(len(weights)) * n)
			}
		}
		return weights, nil
	}
	named, err := e.Weights()
	if err != nil {
		return nil, fmt.Errorf("experiment.class_weights: %w", err)
	}
	for class, name := range split.Classes {
		weights[class] = 1
		if w, ok := named[name]; ok {
			weights[class] = w
			delete(named, name)
		}
	}
	for name := range named {
		return nil, fmt.Errorf("experiment.class_weights: %q isn't a class of the dataset, which has %s", name, dataset.Examples(split.Classes))
	}
	return weights, nil
}

// train makes the remaining training steps, starting from the state of the checkpoint.
func (r *run) train(ctx context.Context) (err error) {
	// An error while closing after another error is a consequence of that one.
	defer func() { err = cmp.Or(err, r.close()) }()
	prefix := ""
	if r.cfg.Profiler.Name == "onnxruntime" {
		prefix = r.folder.file(onnxProfilePrefix)
	}
	start, err := r.initial()
	if err != nil {
		return err
	}
	if r.trainer, err = newTrainer(r.cfg, r.net, start, r.weights, prefix); err != nil {
		return err
	}
	if r.state.State.Step > 0 {
		if err := r.trainer.Restore(r.state.State); err != nil {
			return err
		}
	}
	if r.feeder, err = newFeeder(r.trainer, r.split, r.trainIndices, r.cfg); err != nil {
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
	r.log.Info("start training", "run", r.folder.path, "data", r.cfg.Dataset.Name, "images", len(r.trainIndices), "validation", r.validation.Len(),
		"steps_per_epoch", r.feeder.steps(), "layout", r.trainer.Layout(), "from_step", r.state.State.Step)
	r.folder.keep()
	return r.epochs(ctx)
}

// network returns the network of the configuration for images of size×size pixels.
func network(cfg *config.Config, size, classes int) (*net.Network, error) {
	m := cfg.Model
	c := net.Config{
		Size: size, Classes: classes, Stem: m.Stem, Channels: m.Channels, GlobalPool: m.GlobalPool, Dense: m.Dense,
		Slope: m.Slope, Dropout: m.Dropout,
	}
	if len(m.Residual) > 0 {
		c.Residual = m.Residual
	}
	return net.New(c)
}

// initial returns the weights to start from: random ones, or those of experiment.init.
func (r *run) initial() (net.Weights, error) {
	seed := r.cfg.Experiment.Seed
	if r.start == nil || r.state.State.Step > 0 {
		return r.net.Init(seed), nil
	}
	fail := func(err error) (net.Weights, error) {
		return net.Weights{}, fmt.Errorf("experiment.init: %s: %w", r.cfg.Experiment.Init, err)
	}
	data, err := os.ReadFile(r.cfg.Experiment.Init)
	if err != nil {
		return fail(err)
	}
	var graph onnxpb.ModelProto
	if err := proto.Unmarshal(data, &graph); err != nil {
		return fail(errors.New("the file isn't an ONNX model"))
	}
	weights, fresh, err := r.net.WeightsFrom(&graph, seed)
	if err != nil {
		return fail(err)
	}
	if !fresh && !slices.Equal(r.start.Metadata.Classes, r.manifest.Classes) { // as many, but other ones
		params, random := r.net.Params(), r.net.Init(seed)
		for _, p := range params[len(params)-2:] {
			copy(weights.Params[p.Offset:p.Offset+p.Size], random.Params[p.Offset:])
		}
		fresh = true
	}
	var images [][]uint8
	order := random(seed, streamCalibration, 0).Perm(len(r.trainIndices))
	for _, i := range order[:min(len(order), calibrationImages)] {
		images = append(images, r.split.Image(r.trainIndices[i]))
	}
	if weights, err = r.net.Calibrate(weights, images); err != nil {
		return fail(err)
	}
	r.log.Info("start from the weights of a model", "model", r.cfg.Experiment.Init, "digest", r.start.Digest, "new_last_layer", fresh)
	return weights, nil
}

// calibrationImages is the number of training images that the batch norms of a model's weights are adapted to.
const calibrationImages = 1024

// newTrainer returns a trainer with the options of the configuration. classWeights may be nil.
func newTrainer(cfg *config.Config, n *net.Network, start net.Weights, classWeights []float64, profilePrefix string) (*net.Trainer, error) {
	o, e := cfg.Optimizer, cfg.Experiment
	return net.NewTrainer(n, start, net.TrainerOptions{
		Optimizer: net.Optimizer{
			Name: o.Name, WeightDecay: o.WeightDecay, DecayKernelsOnly: o.DecayKernels, Beta1: o.Beta1, Beta2: o.Beta2, Epsilon: o.Epsilon,
			Momentum: o.Momentum, Nesterov: o.Nesterov,
		},
		Loss:    net.Loss{ClassWeights: classWeights, LabelSmoothing: e.LabelSmoothing},
		Average: e.EMA,
		Layout:  e.Layout, Threads: e.Threads, ProfilePrefix: profilePrefix,
	})
}

// close frees the resources of train, even if only some of them exist.
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

// profile starts the CPU profile if profiler is pprof. stop ends it and writes the heap profile.
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

// epochs trains until the last epoch or until early stopping.
func (r *run) epochs(ctx context.Context) error {
	// The feeder must have stopped before its batches are freed, in any case.
	feeding, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	from := r.state.State.Step // read here, because only this goroutine may access the state
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

// epoch returns the current epoch, counted from 0. A run may have been interrupted between the last
// training step of an epoch and its validation.
func (r *run) epoch() int {
	step, steps := r.state.State.Step, r.feeder.steps()
	if step%steps == 0 && r.state.Epoch.Seen > 0 {
		return step/steps - 1
	}
	return step / steps
}

// steps makes the remaining training steps of an epoch.
func (r *run) steps(ctx context.Context, epoch int) error {
	bar := r.bar(epoch)
	if bar != nil {
		defer func() { _ = bar.Clear() }() // so that an error is not printed on the line of the bar
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

// bar returns the progress bar of an epoch, or nil if out is not a terminal.
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

// step trains on the next batch and appends a row to metrics.csv.
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
		return r.diverged(fmt.Sprintf("the loss is %[3]v at step %[1]d (epoch %[2]d)", step, epoch+1, result.Loss))
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
		return r.writeError(err)
	}
	return nil
}

// diverged returns the error for a training whose values are NaN or infinite. Resuming it with the
// same configuration would fail again.
func (r *run) diverged(reason string) error {
	rate := "experiment.lr"
	if r.cfg.Optimizer.LR != r.cfg.Experiment.LR {
		rate = "optimizer.lr"
	}
	return fmt.Errorf("training has diverged: %s; earlier checkpoints remain in %s\n"+
		"hint: start again in another run.dir with a %s smaller than %g, a longer experiment.warmup_epochs or another optimizer",
		reason, r.folder.path, rate, r.cfg.Optimizer.LR)
}

// endEpoch evaluates the epoch on the validation images, and decides whether it is the best one and
// whether to stop.
func (r *run) endEpoch(ctx context.Context, epoch int) error {
	t := r.state.Epoch
	weights := r.trainer.Averaged()
	// Gradients can be NaN or infinite even if the loss is finite.
	if !finite(weights.Params, weights.Mean, weights.Var) {
		return r.diverged(fmt.Sprintf("weights are NaN or infinite after epoch %d", epoch+1))
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
	r.terminal.best = r.state.Best.Epoch == 0 || loss < r.state.Best.Loss
	r.log.Info(epochMessage, "epoch", fmt.Sprintf("%d/%d", row.Epoch, r.cfg.Experiment.Epochs),
		"train_loss", rounded(row.TrainLoss), "train_accuracy", rounded(row.TrainAccuracy),
		"val_loss", rounded(loss), "val_accuracy", rounded(accuracy), "images_per_second", math.Round(row.ImagesPerSecond))
	r.state.Epoch = tally{}
	r.state.Since++
	if r.terminal.best {
		r.state.Best = best{epoch + 1, loss, accuracy, weights}
		r.state.Since = 0
	}
	r.state.Done = row.Epoch >= r.cfg.Experiment.Epochs
	if patience := r.cfg.Experiment.Patience; patience > 0 && r.state.Since >= patience && !r.state.Done {
		r.log.Info("stop early", "epochs_without_improvement", r.state.Since, "best_epoch", r.state.Best.Epoch)
		r.state.Done = true
	}
	return nil
}

func rounded(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// save writes a checkpoint of the current state.
func (r *run) save() error {
	state := r.trainer.State()
	if w := state.Weights; !finite(w.Params, w.Mean, w.Var) {
		return r.diverged(fmt.Sprintf("weights are NaN or infinite after step %d", state.Step))
	}
	r.state.State = state
	if err := r.state.save(r.folder.file(checkpointsDir)); err != nil {
		return r.writeError(err)
	}
	return nil
}

// finite reports whether no value is NaN or infinite.
func finite(numbers ...[]float32) bool {
	for _, part := range numbers {
		for _, x := range part {
			if x-x != 0 { // true for NaN and infinities
				return false
			}
		}
	}
	return true
}

// writeError returns the error for a file of the run that could not be written.
func (r *run) writeError(err error) error {
	return fmt.Errorf("%w; earlier checkpoints are intact\nhint: fix the problem, for example free disk space, and %s", err, r.resumeHint())
}

// interrupted saves a checkpoint and returns the error for an interrupted run.
func (r *run) interrupted() error {
	if err := r.save(); err != nil {
		return err
	}
	return r.interruptedError()
}

// interruptedError returns the error for an interrupted run whose checkpoint is saved.
func (r *run) interruptedError() error {
	return fmt.Errorf("%w at step %d, saved in %s\nhint: %s", ErrInterrupted, r.state.State.Step, r.folder.path, r.resumeHint())
}

// resumeHint returns the instruction to resume the run.
func (r *run) resumeHint() string {
	return fmt.Sprintf("resume with the same command and run.dir=%s run.resume=true", r.folder.path)
}
