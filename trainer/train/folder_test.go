package train

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAFolderThatHoldsARunIsRefused(t *testing.T) {
	for name, dir := range map[string]string{"an interrupted one": interruptedRun(t), "one that has ended": func() string {
		dir := filepath.Join(t.TempDir(), "run")
		mustTrain(t, dir)
		return dir
	}()} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, dir)
			mustFail(t, dir, nil, "holds a run already", "run.resume=true", dir)
			mustBeUntouched(t, dir, before)
		})
	}
}

func TestAFolderThatHoldsAnythingElseIsRefused(t *testing.T) {
	for _, resume := range []string{"run.resume=false", "run.resume=true"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("years of work"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustFail(t, dir, []string{resume}, "thesis.txt", "run.dir")
		if names := list(dir); len(names) != 1 {
			t.Errorf("the folder holds %q", names)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustFail(t, file, nil, "run.dir", file)
	mustFail(t, filepath.Join(file, "run"), nil, "run.dir", file)
}

func TestAnEmptyFolderIsTaken(t *testing.T) {
	dir := t.TempDir()
	// What a run that was killed while it wrote its configuration leaves.
	for _, name := range []string{lockFile, litterPrefix + configFile + "123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustTrain(t, dir)
	mustEqual(t, outcomeOf(t, dir), reference(t))
	mustHoldNoLitter(t, dir)
}

func TestWhatAKilledRunWasWritingIsRemoved(t *testing.T) {
	dir := interruptedRun(t)
	for _, name := range []string{filepath.Join(checkpointsDir, litterPrefix+checkpointFile+"1"), litterPrefix + modelFile + "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	note := filepath.Join(dir, ".notes") // somebody else's
	if err := os.WriteFile(note, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustTrain(t, dir, "run.resume=true")
	mustHoldNoLitter(t, dir)
	if _, err := os.Stat(note); err != nil {
		t.Errorf("a file that is not the run's was removed: %v", err)
	}
}

// mustHoldNoLitter fails if a run folder has half-written files.
func mustHoldNoLitter(t *testing.T, dir string) {
	t.Helper()
	for _, name := range append(list(dir), list(filepath.Join(dir, checkpointsDir))...) {
		if strings.HasPrefix(name, litterPrefix) {
			t.Errorf("%s was left in %s", name, dir)
		}
	}
}

func TestASecondTrainingInAFolderIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	g := newGate()
	ended := make(chan error)
	cfg := configuration(t, dir)
	go func() {
		_, err := Run(t.Context(), cfg, "test", g)
		ended <- err
	}()
	<-g.reached
	mustFail(t, dir, []string{"run.resume=true"}, "another training", dir)
	mustFail(t, dir, nil, "holds a run already")
	close(g.opened)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

func TestAFailedStartLeavesNoFolder(t *testing.T) {
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
		"without data":         {"dataset.dir=" + filepath.Join(t.TempDir(), "none"), []string{"data prepare"}},
		"without a manifest":   {broken(t, func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) }), []string{"data prepare", "manifest.json"}},
		"without test labels":  {broken(t, func(dir string) error { return os.Remove(filepath.Join(dir, "test-labels.npy")) }), []string{"data prepare", "test-labels.npy"}},
		"with half the images": {broken(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 9000) }), []string{"data prepare", "train-images.npy"}},
		"with half a test":     {broken(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "test-images.npy"), 9000) }), []string{"data prepare", "test-images.npy"}},
		"with one picture of each class": {broken(t, func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return draw(dir, 1, 1)
		}), []string{"too few", "2 pictures"}},
		"in a layout that there is not": {"model.channels=[5]", []string{"layout", "standard"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "runs")
			options := []string{test.option, "run.root=" + root, "experiment.layout=blocked"}
			mustFail(t, "", options, test.words...)
			if names := list(root); len(names) != 0 {
				t.Errorf("the folder of runs holds %q", names)
			}
			named := filepath.Join(t.TempDir(), "run")
			mustFail(t, named, options, test.words...)
			if _, err := os.Stat(named); err == nil {
				t.Errorf("%s was left", named)
			}
			// One that was there stays, and can be used.
			there := t.TempDir()
			mustFail(t, there, options, test.words...)
			mustTrain(t, there, "experiment.epochs=1")
		})
	}
}

func TestFoldersOfRunsAreNamedByTime(t *testing.T) {
	root := filepath.Join(t.TempDir(), "runs[1]") // a name that is no pattern
	cfg := configuration(t, "", "run.root="+root, "run.name=base")
	resume := configuration(t, "", "run.root="+root, "run.name=base", "run.resume=true")
	_, err := newestRun(resume)
	wantError(t, err, "no run named base", root, "run.dir=")

	now := time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)
	for _, want := range []string{"20260301-235959-base", "20260302-000000-base", "20260302-000001-base"} {
		got, err := newRun(cfg, now)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("a run's folder is %s, want %s: %v", got, want, err)
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
		t.Errorf("the newest run is %s, want %s: %v", got, want, err)
	}
}

func TestTheNewestRunIsContinued(t *testing.T) {
	root := filepath.Join(t.TempDir(), "runs")
	for range 2 {
		_, err := Run(newStopAfter(t, 2), configuration(t, "", "run.root="+root), "test", t.Output())
		if !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
	}
	names := list(root)
	if len(names) != 2 {
		t.Fatalf("the folder of runs holds %q", names)
	}
	older := snapshot(t, filepath.Join(root, names[0]))
	s := mustTrain(t, "", "run.root="+root, "run.resume=true")
	if want := filepath.Join(root, names[1]); s.Dir != want {
		t.Errorf("%s was continued, want %s", s.Dir, want)
	}
	mustBeUntouched(t, filepath.Join(root, names[0]), older)
	mustEqual(t, outcomeOf(t, s.Dir), reference(t))
}
