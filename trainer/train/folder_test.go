package train

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRun_FolderContainsRun(t *testing.T) {
	for name, dir := range map[string]string{"interrupted": interruptedRun(t), "complete": func() string {
		dir := filepath.Join(t.TempDir(), "run")
		mustTrain(t, dir)
		return dir
	}()} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, dir)
			mustFail(t, dir, nil, "already contains a run", "run.resume=true", dir)
			mustBeUnchanged(t, dir, before)
		})
	}
}

func TestRun_FolderContainsOtherFiles(t *testing.T) {
	for _, resume := range []string{"run.resume=false", "run.resume=true"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("years of work"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustFail(t, dir, []string{resume}, "thesis.txt", "run.dir")
		if names := list(dir); len(names) != 1 {
			t.Errorf("the folder contains %q, want only thesis.txt", names)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustFail(t, file, nil, "run.dir", file)
	mustFail(t, filepath.Join(file, "run"), nil, "run.dir", file)
}

func TestRun_EmptyFolder(t *testing.T) {
	dir := t.TempDir()
	// Files of a run that was killed while it wrote its configuration.
	for _, name := range []string{lockFile, tempPrefix + configFile + "123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustTrain(t, dir)
	mustEqual(t, outcomeOf(t, dir), reference(t))
	mustHaveNoTempFiles(t, dir)
}

func TestRun_RemovesTempFiles(t *testing.T) {
	dir := interruptedRun(t)
	for _, name := range []string{filepath.Join(checkpointsDir, tempPrefix+checkpointFile+"1"), tempPrefix + modelFile + "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	note := filepath.Join(dir, ".notes") // not a file of the run
	if err := os.WriteFile(note, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustTrain(t, dir, "run.resume=true")
	mustHaveNoTempFiles(t, dir)
	if _, err := os.Stat(note); err != nil {
		t.Errorf("%s was removed: %v", note, err)
	}
}

// mustHaveNoTempFiles fails the test if a run folder contains temporary files.
func mustHaveNoTempFiles(t *testing.T, dir string) {
	t.Helper()
	for _, name := range append(list(dir), list(filepath.Join(dir, checkpointsDir))...) {
		if strings.HasPrefix(name, tempPrefix) {
			t.Errorf("%s was left in %s", name, dir)
		}
	}
}

func TestRun_FolderInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	g := newGate()
	ended := make(chan error)
	cfg := configuration(t, dir)
	go func() {
		_, err := Run(t.Context(), cfg, "test", g)
		ended <- err
	}()
	<-g.reached
	mustFail(t, dir, []string{"run.resume=true"}, "in use by another training", dir)
	mustFail(t, dir, nil, "already contains a run")
	close(g.opened)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

func TestRun_FailedStartLeavesNoFolder(t *testing.T) {
	broken := func(t *testing.T, change func(dir string) error) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "data")
		if err := draw(dir, 3, 2); err != nil {
			t.Fatal(err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		return "dataset.dir=" + dir
	}
	tests := map[string]struct {
		option string
		words  []string
	}{
		"no_dataset":             {"dataset.dir=" + filepath.Join(t.TempDir(), "none"), []string{"data prepare"}},
		"no_manifest":            {broken(t, func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) }), []string{"data prepare", "manifest.json"}},
		"no_test_labels":         {broken(t, func(dir string) error { return os.Remove(filepath.Join(dir, "test-labels.npy")) }), []string{"data prepare", "test-labels.npy"}},
		"truncated_train_images": {broken(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 9000) }), []string{"data prepare", "train-images.npy"}},
		"truncated_test_images":  {broken(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "test-images.npy"), 9000) }), []string{"data prepare", "test-images.npy"}},
		"one_image_per_class": {broken(t, func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return draw(dir, 1, 1)
		}), []string{"too few", "2 images"}},
		"unsupported_layout": {"model.channels=[5]", []string{"layout", "standard"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "runs")
			options := []string{test.option, "run.root=" + root, "experiment.layout=blocked"}
			mustFail(t, "", options, test.words...)
			if names := list(root); len(names) != 0 {
				t.Errorf("run.root contains %q, want nothing", names)
			}
			named := filepath.Join(t.TempDir(), "run")
			mustFail(t, named, options, test.words...)
			if _, err := os.Stat(named); err == nil {
				t.Errorf("%s was left behind", named)
			}
			// An existing directory remains and can be used.
			there := t.TempDir()
			mustFail(t, there, options, test.words...)
			mustTrain(t, there, "experiment.epochs=1")
		})
	}
}

func TestNewRun(t *testing.T) {
	root := filepath.Join(t.TempDir(), "runs[1]") // not a glob pattern
	cfg := configuration(t, "", "run.root="+root, "run.name=base")
	resume := configuration(t, "", "run.root="+root, "run.name=base", "run.resume=true")
	_, err := newestRun(resume)
	wantError(t, err, "no run named base", root, "run.dir=")

	now := time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)
	for _, want := range []string{"20260301-235959-base", "20260302-000000-base", "20260302-000001-base"} {
		got, err := newRun(cfg, now)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("newRun = %s, %v; want %s", got, err, want)
		}
	}
	for _, other := range []string{"20270101-000000-base-wide", "20270101-000000-xbase", "base", "20269999-000000-base", "notes-base"} {
		if err := os.Mkdir(filepath.Join(root, other), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "20280101-000000-base"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := newestRun(resume)
	if want := filepath.Join(root, "20260302-000001-base"); err != nil || got != want {
		t.Errorf("newestRun = %s, %v; want %s", got, err, want)
	}
}

func TestRun_ResumesNewest(t *testing.T) {
	root := filepath.Join(t.TempDir(), "runs")
	for range 2 {
		_, err := Run(newStopAfter(t, 2), configuration(t, "", "run.root="+root), "test", t.Output())
		if !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
	}
	names := list(root)
	if len(names) != 2 {
		t.Fatalf("run.root contains %q, want two runs", names)
	}
	older := snapshot(t, filepath.Join(root, names[0]))
	s := mustTrain(t, "", "run.root="+root, "run.resume=true")
	if want := filepath.Join(root, names[1]); s.Dir != want {
		t.Errorf("resumed %s, want %s", s.Dir, want)
	}
	mustBeUnchanged(t, filepath.Join(root, names[0]), older)
	mustEqual(t, outcomeOf(t, s.Dir), reference(t))
}
