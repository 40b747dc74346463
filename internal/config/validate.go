package config

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
)

// problems lists everything that is wrong with a configuration. Its error text is one line for
// a single problem, and a count followed by one line per problem otherwise.
type problems []string

func (p problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%d problems:\n  %s", len(p), strings.Join(p, "\n  "))
}

// err returns the problems as an error, or nil without problems.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// fileName matches strings that can be part of a file name on every operating system.
var fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// hubRepo matches the <owner>/<name> of a repository on the Hugging Face hub.
var hubRepo = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// notOneOf returns the problem for a value that isn't one of the allowed ones.
func notOneOf(key, value string, allowed []string) string {
	return fmt.Sprintf("%s is %q: it must be %s%s", key, value, orList(allowed), suggest(value, allowed))
}

// validate returns an error that lists all values out of range. written has the values as the user
// wrote them, by key.
func (c *Config) validate(written map[string]string) error {
	var p problems
	check := func(ok bool, key string, value any, allowed string) {
		if !ok {
			p = append(p, fmt.Sprintf("%s is %s: it must be %s", key, cmp.Or(written[key], show(value)), allowed))
		}
	}
	choice := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			p = append(p, notOneOf(key, value, allowed))
		}
	}
	// Comparisons are written so that NaN fails them.
	share := func(key string, v float64) { check(v >= 0 && v < 1, key, v, "at least 0 and below 1") }
	positive := func(key string, v float64) {
		check(v > 0 && !math.IsInf(v, 1), key, v, "a finite number above 0")
	}
	fraction := func(key string, v float64) { check(v >= 0 && v <= 1, key, v, "from 0 to 1") }
	widths := func(key string, v []int, least, most, low, high int) {
		ok := len(v) >= least && len(v) <= most && !slices.ContainsFunc(v, func(n int) bool { return n < low || n > high })
		check(ok, key, v, fmt.Sprintf("a list of %d to %d whole numbers, each from %d to %d", least, most, low, high))
	}
	batch := func(key string, v int) {
		check(v >= 1 && v <= MaxBatchSize, key, v, fmt.Sprintf("from 1 to %d", MaxBatchSize))
	}
	folder := func(key, v string) {
		check(v != "", key, v, "the path of a directory")
		tilde(check, key, v)
	}

	r := c.Run
	folder("run.root", r.Root)
	tilde(check, "run.dir", r.Dir)
	check(fileName.MatchString(r.Name), "run.name", r.Name, nameRule)

	d := c.Dataset
	folder("dataset.dir", d.Dir)
	switch d.Name {
	case "synthetic":
		check(d.TrainPerClass >= 1, "dataset.train_per_class", d.TrainPerClass, "at least 1")
		check(d.TestPerClass >= 1, "dataset.test_per_class", d.TestPerClass, "at least 1")
	case "folder", "archive", "feedback":
		// Only `trainer data prepare` needs the path, and checks that it isn't empty.
		tilde(check, "dataset.path", d.Path)
	case "huggingface":
		check(hubRepo.MatchString(d.Repo), "dataset.repo", d.Repo, "<owner>/<name>")
		check(d.Revision != "", "dataset.revision", d.Revision, "a branch, tag or commit")
		check(d.Endpoint == "" || strings.HasPrefix(d.Endpoint, "https://") || strings.HasPrefix(d.Endpoint, "http://"),
			"dataset.endpoint", d.Endpoint, "an http:// or https:// address, or empty")
	}

	if d.Name != "synthetic" {
		check(d.Size >= minSize && d.Size <= MaxSize, "dataset.size", d.Size, fmt.Sprintf("from %d to %d", minSize, MaxSize))
		choice("dataset.fit", d.Fit, "stretch", "shortest-edge", "contain")
		choice("dataset.orientation", d.Orientation, "ignore", "apply")
		choice("dataset.jpeg", d.JPEG, "full", "dct")
	}
	check(d.TestSplit >= 0 && d.TestSplit <= 0.5, "dataset.test_split", d.TestSplit, "from 0 to 0.5")
	tilde(check, "dataset.model", d.Model)

	a := c.Augment
	share("augment.crop", a.Crop)
	choice("augment.padding", a.Padding, "reflect", "constant")
	check(a.RandomOps >= 0 && a.RandomOps <= MaxRandomOps, "augment.random_ops", a.RandomOps, fmt.Sprintf("from 0 to %d", MaxRandomOps))
	fraction("augment.magnitude", a.Magnitude)
	fraction("augment.brightness", a.Brightness)
	fraction("augment.contrast", a.Contrast)
	fraction("augment.saturation", a.Saturation)
	fraction("augment.cutout", a.Cutout)

	m := c.Model
	check(m.Stem >= 0 && m.Stem <= maxWidth, "model.stem", m.Stem, fmt.Sprintf("from 0 (none) to %d", maxWidth))
	widths("model.channels", m.Channels, 1, maxBlocks, 1, maxWidth)
	widths("model.residual", m.Residual, 0, maxBlocks, 0, maxUnits)
	check(len(m.Residual) == 0 || len(m.Residual) == len(m.Channels), "model.residual", m.Residual,
		fmt.Sprintf("empty, or a list with one number for each of the %d blocks in model.channels", len(m.Channels)))
	least := 1
	if m.GlobalPool {
		least = 0
	}
	widths("model.dense", m.Dense, least, maxDense, 1, maxWidth)
	share("model.slope", m.Slope)
	// A value that ${experiment.…} passes on is reported once, for the experiment below.
	if m.Dropout != c.Experiment.Dropout {
		share("model.dropout", m.Dropout)
	}
	check(m.Threshold > 0 && m.Threshold < 1, "model.threshold", m.Threshold, "above 0 and below 1")

	o := c.Optimizer
	if o.LR != c.Experiment.LR {
		positive("optimizer.lr", o.LR)
	}
	check(o.WeightDecay >= 0 && !math.IsInf(o.WeightDecay, 1), "optimizer.weight_decay", o.WeightDecay, "a finite number, 0 or more")
	switch o.Name {
	case "adam", "adamw":
		share("optimizer.beta1", o.Beta1)
		share("optimizer.beta2", o.Beta2)
		positive("optimizer.epsilon", o.Epsilon)
	case "sgd":
		share("optimizer.momentum", o.Momentum)
		check(!o.Nesterov || o.Momentum != 0, "optimizer.nesterov", o.Nesterov, "false where optimizer.momentum is 0")
	}

	e := c.Experiment
	check(fileName.MatchString(e.Name), "experiment.name", e.Name, nameRule)
	check(e.Epochs >= 1 && e.Epochs <= MaxEpochs, "experiment.epochs", e.Epochs, fmt.Sprintf("from 1 to %d", MaxEpochs))
	batch("experiment.batch_size", e.BatchSize)
	positive("experiment.lr", e.LR)
	share("experiment.dropout", e.Dropout)
	choice("experiment.schedule", e.Schedule, "constant", "cosine", "onecycle")
	check(e.WarmupEpochs >= 0 && (e.WarmupEpochs <= float64(e.Epochs) || e.Epochs < 1) && !math.IsInf(e.WarmupEpochs, 1),
		"experiment.warmup_epochs", e.WarmupEpochs, fmt.Sprintf("from 0 to experiment.epochs (%d)", e.Epochs))
	tilde(check, "experiment.init", e.Init)
	share("experiment.ema", e.EMA)
	share("experiment.label_smoothing", e.LabelSmoothing)
	check(e.Mixup >= 0 && !math.IsInf(e.Mixup, 1), "experiment.mixup", e.Mixup, "a finite number, 0 or more")
	if _, err := e.Weights(); err != nil {
		p = append(p, fmt.Sprintf("experiment.class_weights is %q: %v", e.ClassWeights, err))
	}
	check(e.ValSplit > 0 && e.ValSplit <= 0.5, "experiment.val_split", e.ValSplit, "above 0 and at most 0.5")
	check(e.Patience >= 0, "experiment.patience", e.Patience, "0 (never stop early) or more")
	choice("experiment.layout", e.Layout, "auto", "standard", "blocked")
	check(e.Threads >= 0 && e.Threads <= maxThreads, "experiment.threads", e.Threads,
		fmt.Sprintf("from 0 (all cores) to %d", maxThreads))

	choice("profiler.name", c.Profiler.Name, "none", "pprof", "onnxruntime")
	batch("evaluate.batch_size", c.Evaluate.BatchSize)
	return p.err()
}

const (
	minSize    = 2
	maxBlocks  = 10   // each block halves the size: ten reduce MaxSize pixels to one
	maxUnits   = 64   // a larger number is a typo
	maxDense   = 8    // a larger number is a typo
	maxWidth   = 8192 // likewise
	maxThreads = 1024

	nameRule = `a letter or digit, then letters, digits, ".", "_" and "-"`
)

// tilde rejects a path whose "~" the shell didn't expand. Otherwise the program would create a
// directory named "~", which is dangerous to remove.
func tilde(check func(bool, string, any, string), key, path string) {
	check(path != "~" && !strings.HasPrefix(path, "~/"), key, path,
		`a path without "~", which the shell doesn't expand here; use $HOME instead`)
}

func orList(names []string) string {
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
