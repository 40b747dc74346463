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

// testData is the data set that the tests learn from: small, and drawn once.
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

// draw prepares a synthetic data set with so many pictures of each class.
func draw(dir string, train, test int) error {
	_, err := dataset.Prepare(context.Background(), config.Dataset{
		Name: "synthetic", Dir: dir, Seed: 7, TrainPerClass: train, TestPerClass: test,
	}, io.Discard)
	return err
}

// childVariable makes the test program train instead, for tests that kill it. It
// holds the overrides, a line each.
const childVariable = "FAKEART_TRAIN_CHILD"

// trainAsChild trains and saves after each step, until it ends or is killed.
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

// overrides make a run of a second: 32 of 44 pictures to learn from in steps of
// 12, 12 and 8, for two epochs, with flips and dropout.
func overrides(dir string, more ...string) []string {
	return append([]string{
		"run.dir=" + dir, "dataset.dir=" + testData,
		"model.channels=[16,16]", "model.dense=[16,8]",
		"experiment.epochs=2", "experiment.batch_size=12", "experiment.val_split=0.25", "experiment.lr=0.01",
		"experiment.flip=true", "experiment.dropout=0.3", "experiment.threads=1", "experiment.layout=standard",
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

// mustTrain trains in dir, to the end.
func mustTrain(tb testing.TB, dir string, more ...string) *Summary {
	tb.Helper()
	s, err := Run(tb.Context(), configuration(tb, dir, more...), "test", tb.Output())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// mustFail trains in dir, which must end in an error that has all the words, and
// be one line.
func mustFail(t *testing.T, dir string, more []string, words ...string) {
	t.Helper()
	_, err := Run(t.Context(), configuration(t, dir, more...), "test", t.Output())
	wantError(t, err, words...)
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %v", err)
	}
}

// stopAfter is a context that ends after it was asked n times whether it has:
// a run asks before each step, and between batches while it measures.
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

// outcome is all that a run leaves which has to be the same whenever the run is.
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

// mustEqual compares what two runs left.
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
	// As texts, so that NaN, which stands for an empty cell, equals NaN.
	g, w := fmt.Sprintf("%+v", got.metrics), fmt.Sprintf("%+v", want.metrics)
	if g != w {
		tb.Errorf("%s differs:\n%s\nwant\n%s", metricsFile, g, w)
	}
}

var (
	referenceOnce    sync.Once
	referenceOutcome outcome
)

// reference is what the run of overrides leaves where nothing interrupts it.
func reference(tb testing.TB) outcome {
	tb.Helper()
	referenceOnce.Do(func() {
		dir := filepath.Join(filepath.Dir(testData), "reference")
		mustTrain(tb, dir)
		referenceOutcome = outcomeOf(tb, dir)
	})
	return referenceOutcome
}

// snapshot is the content of each file below dir, but for the run's log and lock.
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

// mustBeUntouched compares a folder with an earlier snapshot of it.
func mustBeUntouched(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := snapshot(t, dir)
	if !maps.Equal(before, after) {
		t.Errorf("%s was touched: it held %q and holds %q now, or their content differs", dir,
			slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// list is the names in a folder, empty where there is no folder.
func list(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// noGoroutineLeft fails if what follows leaves goroutines behind.
func noGoroutineLeft(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var after int
		for range 200 { // they need a moment to end
			if after = runtime.NumGoroutine(); after <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d before:\n%s", after, before, stacks[:runtime.Stack(stacks, true)])
	})
}

// gate is an output that holds a run up at its first line until it is opened.
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
