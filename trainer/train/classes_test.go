package train

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
)

// shapes draws a folder with n images per class: a square, a cross or stripes of random color and place on noise.
func shapes(tb testing.TB, n int, classes ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	drawShapes(tb, dir, n, 1, "", classes...)
	return dir
}

func drawShapes(tb testing.TB, dir string, n int, seed uint64, prefix string, classes ...string) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	for c, class := range classes {
		folder := filepath.Join(dir, prefix, class)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			tb.Fatal(err)
		}
		for i := range n {
			img := image.NewNRGBA(image.Rect(0, 0, 40, 30))
			shade := color.NRGBA{uint8(130 + rng.IntN(120)), uint8(130 + rng.IntN(120)), uint8(130 + rng.IntN(120)), 255}
			x0, y0 := 4+rng.IntN(16), 4+rng.IntN(8)
			for y := range 30 {
				for x := range 40 {
					v := uint8(rng.IntN(60))
					img.SetNRGBA(x, y, color.NRGBA{v, v, v, 255})
					dx, dy := x-x0, y-y0
					inside := dx >= 0 && dy >= 0 && dx < 16 && dy < 16
					switch c % 3 {
					case 1:
						inside = inside && (dx/5 == 1 || dy/5 == 1)
					case 2:
						inside = inside && dy/4%2 == 0
					}
					if inside {
						img.SetNRGBA(x, y, shade)
					}
				}
			}
			var buf bytes.Buffer
			if err := png.Encode(&buf, img); err != nil {
				tb.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%03d.png", i)), buf.Bytes(), 0o644); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// folderRun prepares the images in source, and returns the configuration of a run in dir with them.
func folderRun(tb testing.TB, source, dir string, more ...string) *config.Config {
	tb.Helper()
	cfg, err := config.Load("", append([]string{
		"dataset=folder", "dataset.path=" + source, "dataset.dir=" + filepath.Join(filepath.Dir(dir), "data"), "dataset.size=16", "run.dir=" + dir,
		"model.channels=[8,16]", "model.dense=[16]", "experiment.epochs=3", "experiment.batch_size=16", "experiment.lr=0.01",
		"experiment.dropout=0", "experiment.threads=1", "experiment.layout=standard", "experiment.patience=0",
	}, more...))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := dataset.Prepare(tb.Context(), cfg.Dataset, tb.Output()); err != nil {
		tb.Fatal(err)
	}
	return cfg
}

func mustRun(tb testing.TB, cfg *config.Config) *Summary {
	tb.Helper()
	s, err := Run(tb.Context(), cfg, "test", tb.Output())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

var pets = []string{"cat", "dog", "newt"}

func TestRun_SeveralClasses(t *testing.T) {
	source := shapes(t, 60, pets...)
	for name, more := range map[string][]string{
		"cnn":    {"experiment.epochs=6"},
		"resnet": {"model=resnet-small", "model.stem=8", "model.channels=[8,16]", "model.residual=[1,0]", "model.dense=[]", "experiment.epochs=6"},
		"options": {
			"augment=randaugment", "optimizer=adamw", "experiment.schedule=onecycle", "experiment.ema=0.9", "experiment.label_smoothing=0.1",
			"experiment.class_weights=balanced", "experiment.mixup=0.2", "experiment.epochs=10", "dataset.fit=contain",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := folderRun(t, source, filepath.Join(t.TempDir(), "run"), more...)
			s := mustRun(t, cfg)
			f, err := model.Open(s.Model)
			if err != nil {
				t.Fatal(err)
			}
			m := f.Metadata
			if !slices.Equal(m.Classes, pets) || m.Columns != 3 || m.Positive != "" || m.Preprocessing.Width != 16 || m.CAMKind != model.CAMOfPredicted {
				t.Errorf("metadata %+v", m)
			}
			if s.Test == nil || s.Test.Count != 36 || s.Test.Accuracy < 0.8 {
				t.Errorf("test result %+v, want 36 images and an accuracy of at least 0.8", s.Test)
			}
		})
	}
}

// A run with everything that is random, interrupted after any number of steps, gives the same model as a run without interruption.
func TestRun_SeveralClassesResumed(t *testing.T) {
	options := []string{
		"augment=strong", "augment.random_ops=1", "augment.magnitude=0.5", "optimizer=adamw", "experiment.schedule=onecycle", "experiment.ema=0.9",
		"experiment.mixup=0.2", "experiment.dropout=0.2", "experiment.epochs=2",
	}
	source := shapes(t, 20, pets...)
	parent := t.TempDir()
	want := mustRun(t, folderRun(t, source, filepath.Join(parent, "whole"), options...)).Digest
	for stop := 1; stop < 8; stop += 2 {
		cfg := folderRun(t, source, filepath.Join(parent, fmt.Sprint("stopped-", stop)), options...)
		if _, err := Run(newStopAfter(t, stop), cfg, "test", t.Output()); !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
		cfg.Run.Resume = true
		if got := mustRun(t, cfg).Digest; got != want {
			t.Errorf("interrupted: model %s, want %s", got, want)
		}
	}
}

func TestRun_ValidationSplit(t *testing.T) {
	dir := t.TempDir()
	drawShapes(t, dir, 20, 1, "train", pets...)
	drawShapes(t, dir, 5, 2, "val", pets...)
	cfg := folderRun(t, dir, filepath.Join(t.TempDir(), "run"))
	r := &run{cfg: cfg}
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	if len(r.trainIndices) != 60 || r.validation.Len() != 15 {
		t.Errorf("%d training and %d validation images, want 60 and 15", len(r.trainIndices), r.validation.Len())
	}
	if s := mustRun(t, cfg); s.Test != nil || math.IsNaN(s.ValLoss) {
		t.Errorf("summary %+v", s)
	}
}

func TestRun_Positive(t *testing.T) {
	source := shapes(t, 10, "cat", "dog")
	for _, test := range []struct{ key, positive, err string }{
		{"auto", "", ""},
		{"", "", ""},
		{"cat", "cat", ""},
		{"bird", "", `model.positive is "bird", but the classes of the dataset are cat, dog`},
	} {
		cfg := folderRun(t, source, filepath.Join(t.TempDir(), "run"), "experiment.epochs=1", "model.positive="+test.key, "model.threshold=0.25")
		s, err := Run(t.Context(), cfg, "test", t.Output())
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error = %v, want %q", test.key, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := model.Open(s.Model)
		if err != nil || f.Metadata.Positive != test.positive || (f.Metadata.Threshold == 0.25) != (test.positive != "") {
			t.Errorf("%s: %v, metadata %+v", test.key, err, f.Metadata)
		}
	}
	if p := positive(config.PositiveAuto, []string{"FAKE", "REAL"}); p != "FAKE" {
		t.Errorf("positive class of FAKE and REAL = %q", p)
	}
}

func TestRun_Init(t *testing.T) {
	source := shapes(t, 60, pets...)
	dir := t.TempDir()
	first := mustRun(t, folderRun(t, source, filepath.Join(dir, "first"), "experiment.epochs=8"))
	// A learning rate this small changes nothing, so that the new model is as accurate as the first one.
	same := folderRun(t, source, filepath.Join(dir, "same"), "experiment.init="+first.Model, "experiment.epochs=1", "experiment.lr=1e-9", "experiment.seed=5", "experiment.ema=0")
	if s := mustRun(t, same); s.Test.Accuracy < first.Test.Accuracy-0.1 {
		t.Errorf("accuracy %v after starting from a model with %v", s.Test.Accuracy, first.Test.Accuracy)
	}
	for name, classes := range map[string][]string{"more_classes": {"a", "b", "c", "d"}, "other_classes": {"x", "y", "z"}} {
		cfg := folderRun(t, shapes(t, 12, classes...), filepath.Join(t.TempDir(), "run"), "experiment.init="+first.Model, "experiment.epochs=1")
		var out bytes.Buffer
		if _, err := Run(t.Context(), cfg, "test", &out); err != nil || !strings.Contains(out.String(), "new_last_layer=true") {
			t.Errorf("%s: %v\n%s", name, err, &out)
		}
	}
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		more []string
		want string
	}{
		"missing":       {[]string{"experiment.init=" + filepath.Join(dir, "none.onnx")}, "experiment.init"},
		"not_a_model":   {[]string{"experiment.init=" + text}, "experiment.init"},
		"other_network": {[]string{"experiment.init=" + first.Model, "model.channels=[8,8]"}, "block2.conv.weight"},
		"other_size":    {[]string{"experiment.init=" + first.Model, "dataset.size=32"}, "takes images of 16×16 pixels, but those of the dataset"},
	} {
		run := filepath.Join(t.TempDir(), "run")
		_, err := Run(t.Context(), folderRun(t, source, run, test.more...), "test", t.Output())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error = %v, want %q", name, err, test.want)
		}
		if list(run) != nil {
			t.Errorf("%s: left behind %q", name, list(run))
		}
	}
}

// A finished run continues for more epochs. Only the number of epochs can change.
func TestRun_MoreEpochs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first := mustTrain(t, dir, "experiment.schedule=constant", "experiment.warmup_epochs=0")
	longer := []string{"experiment.schedule=constant", "experiment.warmup_epochs=0", "experiment.epochs=3", "run.resume=true"}
	s := mustTrain(t, dir, longer...)
	if s.Digest == first.Digest {
		t.Error("the model is the same")
	}
	if again := mustTrain(t, dir, longer...); again.Digest != s.Digest {
		t.Error("the finished run changed")
	}
	// With a constant learning rate, it's the same as a run of three epochs from the start, except for the configuration.
	whole := mustTrain(t, filepath.Join(t.TempDir(), "run"), longer[:3]...)
	if whole.Digest != s.Digest {
		t.Errorf("model %s, want %s", s.Digest, whole.Digest)
	}
	_, err := Run(t.Context(), configuration(t, dir, longer[0], longer[1], "experiment.epochs=2", "run.resume=true"), "test", t.Output())
	if err == nil || !strings.Contains(err.Error(), "experiment.epochs: 3 → 2") {
		t.Errorf("fewer epochs: error = %v", err)
	}
}
