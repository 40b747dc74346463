package train

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fakeart/internal/config"
	"fakeart/internal/drift"
	"fakeart/trainer/dataset"
	"fakeart/trainer/runlog"
)

// testData is the directory of a small dataset that all tests use.
var testData string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if overrides := os.Getenv(childVariable); overrides != "" {
		return trainAsChild(strings.Split(overrides, "\n"))
	}
	dir, err := os.MkdirTemp("", "fakeart-train-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	testData = filepath.Join(dir, "data")
	if err := draw(testData, 22, 10); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// draw prepares a synthetic dataset with the given number of images per class.
func draw(dir string, train, test int) error {
	_, err := dataset.Prepare(context.Background(), config.Dataset{
		Name: "synthetic", Dir: dir, Seed: 7, TrainPerClass: train, TestPerClass: test,
	}, io.Discard)
	return err
}

// childVariable is an environment variable that turns the test binary into a program that trains,
// for tests that kill it. Its value is the overrides, one per line.
const childVariable = "FAKEART_TRAIN_CHILD"

// trainAsChild trains and saves a checkpoint after each step, until it is done or killed.
func trainAsChild(overrides []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg, err := config.Load("", overrides)
	if err == nil {
		_, err = (&run{cfg: cfg, revision: "test", out: os.Stdout}).do(ctx)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// overrides returns the options of a run of about a second: 32 of 44 images for training in steps
// of 12, 12 and 8, two epochs, with flips and dropout. The dataset is configured as it was drawn.
func overrides(dir string, more ...string) []string {
	data := testData
	for _, option := range more {
		if path, ok := strings.CutPrefix(option, "dataset.dir="); ok {
			data = path
		}
	}
	train, test := 22, 10
	if m, err := dataset.ReadManifest(data); err == nil {
		train, test = m.Source.TrainPerClass, m.Source.TestPerClass
	}
	return append([]string{
		"run.dir=" + dir, "dataset.dir=" + testData, "dataset.seed=7",
		fmt.Sprint("dataset.train_per_class=", train), fmt.Sprint("dataset.test_per_class=", test),
		"model.channels=[16,16]", "model.dense=[16,8]",
		"experiment.epochs=2", "experiment.batch_size=12", "experiment.val_split=0.25", "experiment.lr=0.01",
		"augment.flip=true", "experiment.dropout=0.3", "experiment.threads=1", "experiment.layout=standard",
	}, more...)
}

func configuration(tb testing.TB, dir string, more ...string) *config.Config {
	tb.Helper()
	cfg, err := config.Load("", overrides(dir, more...))
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// mustTrain trains a complete run in dir.
func mustTrain(tb testing.TB, dir string, more ...string) *Summary {
	tb.Helper()
	s, err := Run(tb.Context(), configuration(tb, dir, more...), "test", tb.Output())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// mustFail trains in dir and expects an error that contains all words.
func mustFail(t *testing.T, dir string, more []string, words ...string) {
	t.Helper()
	_, err := Run(t.Context(), configuration(t, dir, more...), "test", t.Output())
	wantError(t, err, words...)
}

// wantError checks that err contains all words, and that it is one line, optionally followed by
// hints.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("error = nil, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error = %v, want %q in it", err, w)
		}
	}
	for _, line := range strings.Split(err.Error(), "\n")[1:] {
		if !strings.HasPrefix(line, "hint: ") {
			t.Errorf("error has a line that is not a hint: %q", line)
		}
	}
}

// stopAfter is a context that is canceled after n calls of Err. A run calls it before each training
// step, and between batches of an evaluation.
type stopAfter struct {
	context.Context
	left atomic.Int64
}

func newStopAfter(t *testing.T, n int) *stopAfter {
	t.Helper()
	s := &stopAfter{Context: t.Context()}
	s.left.Store(int64(n))
	return s
}

func (s *stopAfter) Err() error {
	if s.left.Add(-1) < 0 {
		return context.Canceled
	}
	return s.Context.Err()
}

// outcome is the part of the results of a run that must be reproducible.
type outcome struct {
	model, eval, drift []byte
	metrics            []runlog.Row
}

func outcomeOf(tb testing.TB, dir string) outcome {
	tb.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			tb.Fatal(err)
		}
		return data
	}
	rows, err := runlog.Read(filepath.Join(dir, metricsFile))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range rows {
		rows[i].ImagesPerSecond = 0
	}
	return outcome{read(modelFile), read(evalFile), read(drift.ReferenceFile), rows}
}

// mustEqual compares the outcomes of two runs.
func mustEqual(tb testing.TB, got, want outcome) {
	tb.Helper()
	if !bytes.Equal(got.model, want.model) {
		tb.Errorf("%s differs", modelFile)
	}
	if !bytes.Equal(got.eval, want.eval) {
		tb.Errorf("%s differs: %s, want %s", evalFile, got.eval, want.eval)
	}
	if !bytes.Equal(got.drift, want.drift) {
		tb.Errorf("%s differs", drift.ReferenceFile)
	}
	// Compare as text, so that NaN, which represents an empty cell, equals NaN.
	g, w := fmt.Sprintf("%+v", got.metrics), fmt.Sprintf("%+v", want.metrics)
	if g != w {
		tb.Errorf("%s differs:\n%s\nwant\n%s", metricsFile, g, w)
	}
}

var (
	referenceOnce    sync.Once
	referenceOutcome outcome
)

// reference returns the outcome of an uninterrupted run with the default overrides.
func reference(tb testing.TB) outcome {
	tb.Helper()
	referenceOnce.Do(func() {
		dir := filepath.Join(filepath.Dir(testData), "reference")
		mustTrain(tb, dir)
		referenceOutcome = outcomeOf(tb, dir)
	})
	return referenceOutcome
}

// snapshot returns the content of each file below dir, except the log and the lock of the run.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == logFile || d.Name() == lockFile {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// mustBeUnchanged checks that the files in dir are equal to an earlier snapshot.
func mustBeUnchanged(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := snapshot(t, dir)
	if !maps.Equal(before, after) {
		t.Errorf("%s was changed: it contained %q and now contains %q, or the content differs", dir,
			slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// list returns the names in a directory, nil if it does not exist.
func list(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// noGoroutineLeft fails the test if the code after it leaks goroutines.
func noGoroutineLeft(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var after int
		for range 200 { // goroutines need a moment to stop
			if after = runtime.NumGoroutine(); after <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d before:\n%s", after, before, stacks[:runtime.Stack(stacks, true)])
	})
}

// gate is an output that blocks a run at its first line until it is opened.
type gate struct {
	reached chan struct{}
	opened  chan struct{}
	once    sync.Once
}

func newGate() *gate { return &gate{reached: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.reached) })
	<-g.opened
	return len(p), nil
}
