package train

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fakeart/internal/drift"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/net"
	"fakeart/trainer/runlog"
)

func TestRun_Deterministic(t *testing.T) {
	for _, layout := range []string{net.LayoutStandard, net.LayoutBlocked} {
		for _, optimizer := range []string{"adam", "sgd"} {
			t.Run(layout+"_"+optimizer, func(t *testing.T) {
				skipWithout(t, layout)
				options := []string{"experiment.layout=" + layout, "optimizer=" + optimizer, "experiment.threads=2"}
				first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
				mustTrain(t, first, options...)
				mustTrain(t, second, options...)
				mustEqual(t, outcomeOf(t, second), outcomeOf(t, first))
			})
		}
	}
}

func TestRun_OptionsChangeModel(t *testing.T) {
	models := map[string]string{string(reference(t).model): "the reference"}
	for _, option := range []string{"experiment.seed=1", "augment.flip=false", "experiment.dropout=0.2"} {
		dir := filepath.Join(t.TempDir(), "run")
		mustTrain(t, dir, option)
		m := string(outcomeOf(t, dir).model)
		if same, ok := models[m]; ok {
			t.Errorf("%s gives the same model as %s", option, same)
		}
		models[m] = option
	}
}

// skipWithout skips the test if this machine does not support the layout.
func skipWithout(t *testing.T, layout string) {
	t.Helper()
	if layout != net.LayoutBlocked {
		return
	}
	cfg := configuration(t, "", "experiment.layout=blocked")
	n, err := network(cfg, 32, 2)
	if err != nil {
		t.Fatal(err)
	}
	trainer, err := newTrainer(cfg, n, n.Init(cfg.Experiment.Seed), nil, "")
	if err != nil {
		t.Skipf("blocked layout is not supported on this machine: %v", err)
	}
	if err := trainer.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRun_FolderContents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	s := mustTrain(t, dir)
	want := []string{lockFile, checkpointsDir, configFile, drift.ReferenceFile, evalFile, metricsFile, modelFile, reportFile, logFile}
	got := list(dir)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the folder contains %q, want %q", got, want)
	}
	if got := list(filepath.Join(dir, checkpointsDir)); !slices.Equal(got, []string{checkpointFile}) {
		t.Errorf("checkpoints = %q, want only %s", got, checkpointFile)
	}
	if s.Dir != dir || s.Model != filepath.Join(dir, modelFile) || s.Test == nil || s.Test.Count != 20 {
		t.Errorf("summary = %+v, want the paths and a test result of 20 images", s)
	}

	f, err := model.Open(s.Model)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configuration(t, dir)
	m := f.Metadata
	if f.Digest != s.Digest || m.ConfigDigest != cfg.Digest() || m.Seed != cfg.Experiment.Seed || m.Revision != "test" ||
		m.ValLoss != s.ValLoss || m.ValAccuracy != s.ValAccuracy || m.DataDigest != s.Test.Data {
		t.Errorf("metadata of the model = %+v, want values matching %+v", m, s)
	}
	result, _, err := evaluate.Run(t.Context(), f, testData, dataset.Test, 250)
	if err != nil {
		t.Fatal(err)
	}
	text, err := result.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if got := outcomeOf(t, dir).eval; !bytes.Equal(got, text) {
		t.Errorf("%s =\n%s\nwant the result of evaluate.Run:\n%s", evalFile, got, text)
	}

	reference, err := drift.ReadReference(dir)
	if err != nil {
		t.Fatal(err)
	}
	if reference.Model != s.Digest || reference.Data != s.Test.Data || len(reference.Rows) != 12 {
		t.Errorf("drift reference has model %s, data %s and %d rows; want those of the run and 12", reference.Model, reference.Data, len(reference.Rows))
	}
	for _, r := range reference.Rows {
		if label := m.Classes[m.Decide([]float64{1 - r.Probability, r.Probability})]; r.Label != label || r.StdDev == 0 || len(r.Embedding) != f.EmbeddingSize {
			t.Errorf("invalid row in the drift reference: %+v", r)
		}
	}

	rows := outcomeOf(t, dir).metrics
	var kinds []string
	for _, r := range rows {
		kinds = append(kinds, string(r.Kind))
	}
	if got, want := strings.Join(kinds, " "), "step step step epoch step step step epoch"; got != want {
		t.Errorf("kinds of rows = %s, want %s", got, want)
	}
	// The loss of an epoch is the mean over its images; the last batch has fewer images.
	mean := (12*rows[0].TrainLoss + 12*rows[1].TrainLoss + 8*rows[2].TrainLoss) / 32
	if math.Abs(rows[3].TrainLoss-mean) > 1e-12 {
		t.Errorf("loss of the epoch = %v, want the mean over its images, %v", rows[3].TrainLoss, mean)
	}
	page, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("Class-activation map for FAKE")) && !bytes.Contains(page, []byte("Class-activation map for REAL")) {
		t.Errorf("%s shows no maps", reportFile)
	}
	log, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{`msg="start training"`, "epoch=1/2", "epoch=2/2", "msg=export", s.Digest, "msg=evaluate"} {
		if !strings.Contains(string(log), word) {
			t.Errorf("%s does not contain %q:\n%s", logFile, word, log)
		}
	}
}

func TestSampleByClass(t *testing.T) {
	labels := make([]uint16, 1000)
	for i := range 250 {
		labels[4*i] = dataset.Fake
	}
	chosen := sampleByClass(labels, 200)
	fakes := 0
	for _, i := range chosen {
		fakes += int(labels[i])
	}
	if len(chosen) != 200 || fakes != 50 || !slices.IsSorted(chosen) || len(slices.Compact(slices.Clone(chosen))) != 200 {
		t.Errorf("%d images are selected, %d of them FAKE; want 200 and 50, sorted and distinct", len(chosen), fakes)
	}
	if again := sampleByClass(labels, 200); !slices.Equal(again, chosen) {
		t.Error("sampleByClass is not deterministic")
	}
	if all := sampleByClass(labels, 5000); len(all) != len(labels) {
		t.Errorf("sampleByClass(5000) selects %d images, want all", len(all))
	}
}

func TestRun_NoTestSplit(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := draw(data, 12, 1); err != nil {
		t.Fatal(err)
	}
	edit(t, data, "train-labels.npy", func([]byte) {}, func(m *dataset.Manifest) {
		delete(m.Splits, dataset.Test)
		maps.DeleteFunc(m.Files, func(name string, _ dataset.File) bool { return strings.HasPrefix(name, dataset.Test) })
	})
	dir := filepath.Join(t.TempDir(), "run")
	s := mustTrain(t, dir, "dataset.dir="+data, "experiment.epochs=1")
	if _, err := model.Open(s.Model); err != nil {
		t.Error(err)
	}
	if s.Test != nil || slices.Contains(list(dir), evalFile) {
		t.Errorf("a missing test split was evaluated: %+v", s)
	}
	mustTrain(t, dir, "dataset.dir="+data, "experiment.epochs=1", "run.resume=true")
}

func TestRun_EarlyStopping(t *testing.T) {
	const patience, epochs = 2, 80
	dir := filepath.Join(t.TempDir(), "run")
	options := []string{"experiment.epochs=80", "experiment.patience=2", "experiment.schedule=constant", "experiment.warmup_epochs=0", "experiment.lr=0.02"}
	s := mustTrain(t, dir, options...)

	var measured []runlog.Row
	for _, r := range outcomeOf(t, dir).metrics {
		if r.Kind == runlog.Epoch {
			measured = append(measured, r)
		}
	}
	if len(measured) == epochs {
		t.Fatalf("no early stopping within %d epochs", epochs)
	}
	best := slices.MinFunc(measured, func(a, b runlog.Row) int {
		if a.ValLoss < b.ValLoss {
			return -1
		}
		return 1
	})
	if s.BestEpoch != best.Epoch || s.ValLoss != best.ValLoss || s.ValAccuracy != best.ValAccuracy {
		t.Errorf("exported epoch %d with loss %v, want %d with %v", s.BestEpoch, s.ValLoss, best.Epoch, best.ValLoss)
	}
	if last := measured[len(measured)-1].Epoch; last != best.Epoch+patience {
		t.Errorf("last epoch = %d, want the best one, %d, plus %d", last, best.Epoch, patience)
	}

	// The exported model gives the same metrics on the validation images, which are selected again.
	cfg := configuration(t, dir, options...)
	split, _, err := dataset.Load(testData, dataset.Train)
	if err != nil {
		t.Fatal(err)
	}
	_, held := holdOut(split.Labels, cfg.Experiment.ValSplit, cfg.Experiment.Seed)
	f, err := model.Open(s.Model)
	if err != nil {
		t.Fatal(err)
	}
	images := split.Subset(held)
	scores, err := evaluate.Scores(t.Context(), f, images, cfg.Evaluate.BatchSize)
	if err != nil {
		t.Fatal(err)
	}
	m, err := evaluate.Measure(&f.Metadata, scores, images.Labels)
	if err != nil {
		t.Fatal(err)
	}
	if *m.LogLoss != best.ValLoss || *m.LogLoss != f.Metadata.ValLoss || m.Accuracy != f.Metadata.ValAccuracy {
		t.Errorf("loss of the model file = %v; %v in its metadata, %v in metrics.csv", *m.LogLoss, f.Metadata.ValLoss, best.ValLoss)
	}
}

func TestRun_Diverged(t *testing.T) {
	for name, options := range map[string][]string{
		"NaN_loss":         {"optimizer=sgd", "experiment.lr=1e30", "experiment.warmup_epochs=0"},
		"optimizer_lr":     {"optimizer=sgd", "optimizer.lr=1e30", "experiment.warmup_epochs=0"},
		"infinite_weights": {"optimizer=sgd", "experiment.lr=1e38", "optimizer.momentum=0.99", "experiment.warmup_epochs=0", "experiment.batch_size=32"},
	} {
		t.Run(name, func(t *testing.T) {
			noGoroutineLeft(t)
			dir := filepath.Join(t.TempDir(), "run")
			want := "experiment.lr smaller than"
			if name == "optimizer_lr" {
				want = "optimizer.lr smaller than"
			}
			r := &run{cfg: configuration(t, dir, options...), out: t.Output()} // saves after each step
			_, err := r.do(t.Context())
			wantError(t, err, "diverged", want, "optimizer", "another run.dir")
			if slices.Contains(list(dir), modelFile) {
				t.Error("a model was exported")
			}
			c, err := loadCheckpoint(filepath.Join(dir, checkpointsDir))
			if err != nil {
				t.Fatal(err)
			}
			if c != nil && !finite(c.State.Weights.Params, c.State.Weights.Mean, c.State.Weights.Var) {
				t.Error("the checkpoint contains NaN or infinite weights")
			}
			before := snapshot(t, dir)
			delete(before, filepath.Join(dir, metricsFile))
			mustFail(t, dir, append(options, "run.resume=true"), "diverged")
			after := snapshot(t, dir)
			for path, content := range before {
				if after[path] != content {
					t.Errorf("%s has changed", path)
				}
			}
		})
	}
}

func TestSave_NonFiniteWeights(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, err := Run(newStopAfter(t, 2), configuration(t, dir), "test", t.Output())
	if !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	cfg := configuration(t, dir, "run.resume=true")
	r := &run{cfg: cfg, out: t.Output(), folder: &folder{path: dir}}
	n, err := network(cfg, 32, 2)
	if err != nil {
		t.Fatal(err)
	}
	if r.trainer, err = newTrainer(cfg, n, n.Init(cfg.Experiment.Seed), nil, ""); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		w := n.Init(1)
		w.Var[len(w.Var)-1] = float32(bad)
		if err := r.trainer.Restore(net.State{Weights: w}); err != nil {
			t.Fatal(err)
		}
		wantError(t, r.save(), "diverged")
	}
	mustBeUnchanged(t, dir, before)
}

func TestRun_Profiler(t *testing.T) {
	t.Run("pprof", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		mustTrain(t, dir, "profiler=pprof")
		for _, name := range []string{cpuProfileFile, heapProfileFile} {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				t.Error(err)
				continue
			}
			defer f.Close()
			z, err := gzip.NewReader(f)
			if err != nil {
				t.Errorf("%s is not a profile: %v", name, err)
				continue
			}
			if data, err := io.ReadAll(z); err != nil || len(data) == 0 {
				t.Errorf("%s has %d bytes: %v", name, len(data), err)
			}
		}
	})
	t.Run("onnxruntime", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		mustTrain(t, dir, "profiler=onnxruntime")
		traces, err := filepath.Glob(filepath.Join(dir, onnxProfilePrefix+"*.json"))
		if err != nil || len(traces) != 1 {
			t.Fatalf("traces = %q, %v; want one", traces, err)
		}
		text, err := os.ReadFile(traces[0])
		if err != nil {
			t.Fatal(err)
		}
		var events []struct {
			Category string `json:"cat"`
			Name     string `json:"name"`
			Duration int64  `json:"dur"`
		}
		if err := json.Unmarshal(text, &events); err != nil {
			t.Fatal(err)
		}
		var nodes, runs int
		for _, e := range events {
			if e.Category == "Node" && strings.Contains(e.Name, "block1_back") {
				nodes++
			}
			if e.Name == "model_run" {
				runs++
			}
		}
		// Two epochs of two steps with the regular batch size. The last step of each is smaller and
		// not profiled.
		if nodes == 0 || runs != 4 {
			t.Errorf("the trace has %d runs and %d nodes of the backward pass of block1, want 4 runs and some nodes", runs, nodes)
		}
	})
}

func TestBenchmark_Canceled(t *testing.T) {
	noGoroutineLeft(t)
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := Benchmark(ctx, configuration(t, ""), 8, t.Output()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Benchmark error = %v, want context.DeadlineExceeded", err)
	}
}
