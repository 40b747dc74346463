package train

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestResume_InterruptedAnywhere(t *testing.T) {
	want := reference(t)
	for n := 0; ; n++ {
		interrupted := true
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			noGoroutineLeft(t)
			dir := filepath.Join(t.TempDir(), "run")
			_, err := Run(newStopAfter(t, n), configuration(t, dir), "test", t.Output())
			if err == nil {
				interrupted = false
				mustEqual(t, outcomeOf(t, dir), want)
				return
			}
			if !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
			wantError(t, err, "run.dir="+dir, "run.resume=true")
			mustTrain(t, dir, "run.resume=true")
			mustEqual(t, outcomeOf(t, dir), want)
		})
		if !interrupted {
			if n < 10 { // six training steps, two validations and the export
				t.Errorf("the run checked its context %d times, want at least 10", n)
			}
			return
		}
	}
}

func TestResume_InterruptedRepeatedly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for range 100 {
		// Three calls: it stops after two training steps, or after one and a validation. The export
		// checks the context more often and starts from the beginning each time.
		_, err := Run(newStopAfter(t, 3), configuration(t, dir, "run.resume=true"), "test", t.Output())
		if errors.Is(err, ErrInterrupted) {
			if c, err := loadCheckpoint(filepath.Join(dir, checkpointsDir)); err != nil || c == nil {
				t.Fatalf("loadCheckpoint after an interruption = %v, %v", c, err)
			} else if c.Done {
				break
			}
			continue
		}
		t.Fatal(err)
	}
	mustTrain(t, dir, "run.resume=true")
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

func TestResume_EarlyStopping(t *testing.T) {
	options := []string{"experiment.epochs=80", "experiment.patience=2", "experiment.schedule=constant", "experiment.warmup_epochs=0", "experiment.lr=0.02"}
	whole := filepath.Join(t.TempDir(), "run")
	mustTrain(t, whole, options...)
	steps := len(outcomeOf(t, whole).metrics)
	dir := filepath.Join(t.TempDir(), "run")
	// Interrupt the run in the epochs after the best one.
	if _, err := Run(newStopAfter(t, steps-2), configuration(t, dir, options...), "test", t.Output()); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	mustTrain(t, dir, append(options, "run.resume=true")...)
	mustEqual(t, outcomeOf(t, dir), outcomeOf(t, whole))
}

func TestResume_Killed(t *testing.T) {
	if testing.Short() {
		t.Skip("starts about twelve processes")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	options := []string{"experiment.epochs=4", "run.resume=true"}
	kills := 0
	// Kill the run with an increasing delay after its first line. It saves a checkpoint after each
	// step, so most kills happen while it writes a checkpoint.
	for wait := time.Duration(0); ; wait = wait*3/2 + 2*time.Millisecond {
		child := exec.CommandContext(t.Context(), self)
		child.Env = append(os.Environ(), childVariable+"="+strings.Join(overrides(dir, options...), "\n"))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		child.Stderr = t.Output()
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		lines.Scan()
		last := lines.Text()
		killer := time.AfterFunc(wait, func() { _ = child.Process.Kill() })
		for lines.Scan() {
			last = lines.Text()
		}
		err = child.Wait()
		killer.Stop()
		if err == nil {
			break
		}
		if child.ProcessState.Exited() {
			t.Fatalf("the run failed: %v; its last line: %s", err, last)
		}
		kills++
		if _, err := loadCheckpoint(filepath.Join(dir, checkpointsDir)); err != nil {
			t.Fatalf("after %d kills: %v", kills, err)
		}
	}
	t.Logf("killed %d times", kills)
	if kills < 3 {
		t.Errorf("the run was killed %d times, want at least 3", kills)
	}
	whole := filepath.Join(t.TempDir(), "run")
	mustTrain(t, whole, options...)
	mustEqual(t, outcomeOf(t, dir), outcomeOf(t, whole))
	got, want := list(dir), list(whole)
	if !slices.Equal(got, want) || !slices.Equal(list(filepath.Join(dir, checkpointsDir)), []string{checkpointFile}) {
		t.Errorf("folder of the killed run contains %q and %q, want %q", got, list(filepath.Join(dir, checkpointsDir)), want)
	}
}

func TestResume_Complete(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	want := mustTrain(t, dir)
	before := snapshot(t, dir)
	for _, more := range [][]string{nil, {"profiler=pprof"}, {"profiler=onnxruntime"}, {"evaluate.batch_size=3"}} {
		got := mustTrain(t, dir, append(more, "run.resume=true")...)
		mustBeUnchanged(t, dir, before)
		if got.Digest != want.Digest || got.BestEpoch != want.BestEpoch || got.ValLoss != want.ValLoss || got.Test.Accuracy != want.Test.Accuracy {
			t.Errorf("summary = %+v, want %+v", got, want)
		}
	}
	t.Run("newer_program", func(t *testing.T) {
		if _, err := Run(t.Context(), configuration(t, dir, "run.resume=true"), "newer", t.Output()); err != nil {
			t.Fatal(err)
		}
		mustBeUnchanged(t, dir, before)
	})
	t.Run("restores_removed_files", func(t *testing.T) {
		for _, name := range []string{modelFile, evalFile, reportFile} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			mustTrain(t, dir, "run.resume=true")
			mustBeUnchanged(t, dir, before)
		}
	})
}

func TestResume_NoRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	mustTrain(t, dir, "run.resume=true")
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

// interruptedRun returns the folder of a run that was interrupted after 4 of its 6 training steps.
func interruptedRun(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	_, err := Run(newStopAfter(t, 6), configuration(t, dir), "test", t.Output())
	if !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	return dir
}

func TestResume_OtherConfiguration(t *testing.T) {
	dir := interruptedRun(t)
	before := snapshot(t, dir)
	_, err := Run(t.Context(), configuration(t, dir, "run.resume=true", "run.name=x", "experiment.epochs=9", "model.dense=[8]"), "test", t.Output())
	wantError(t, err, "another configuration", "experiment.epochs: 2 → 9", "model.dense: [16,8] → [8]")
	if err != nil && strings.Contains(err.Error(), "run.name") {
		t.Errorf("error = %v, want no run.name in it", err)
	}
	mustBeUnchanged(t, dir, before)

	t.Run("edited_configuration", func(t *testing.T) {
		path := filepath.Join(dir, configFile)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.Replace(text, []byte("epochs: 2"), []byte("epochs: 9"), 1)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)
		mustFail(t, dir, []string{"run.resume=true", "experiment.epochs=9"}, "another configuration")
		mustBeUnchanged(t, dir, before)
	})
}

func TestResume_OtherDataset(t *testing.T) {
	dir := interruptedRun(t)
	before := snapshot(t, dir)
	data := filepath.Join(t.TempDir(), "data")
	if err := draw(data, 22, 10); err != nil {
		t.Fatal(err)
	}
	relabel(t, data) // the same configuration, but other data
	mustFail(t, dir, []string{"run.resume=true", "dataset.dir=" + data}, "started with dataset", data)
	mustBeUnchanged(t, dir, before)
	mustTrain(t, dir, "run.resume=true")
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

func TestRun_DatasetReplacedDuringTraining(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := draw(data, 22, 10); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	g := newGate()
	failed := make(chan error)
	cfg := configuration(t, dir, "dataset.dir="+data)
	go func() {
		_, err := Run(t.Context(), cfg, "test", g)
		failed <- err
	}()
	<-g.reached
	if err := draw(data, 22, 11); err != nil {
		t.Error(err)
	}
	close(g.opened)
	wantError(t, <-failed, "has been replaced", "run.resume=true")
	if slices.Contains(list(dir), modelFile) {
		t.Error("a model was exported")
	}
	mustTrain(t, dir, "run.resume=true")
	mustEqual(t, outcomeOf(t, dir), reference(t))
}

func TestResume_DamagedCheckpoint(t *testing.T) {
	dir := interruptedRun(t)
	path := filepath.Join(dir, checkpointsDir, checkpointFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, test := range map[string]struct {
		content []byte
		words   []string
	}{
		"empty":                      {nil, []string{"damaged", "remove it"}},
		"truncated_in_first_line":    {whole[:5], []string{"damaged", "remove it"}},
		"truncated_after_first_line": {whole[:len(checkpointMagic)+2], []string{"damaged", "remove it"}},
		"truncated_in_middle":        {whole[:len(whole)/2], []string{"damaged", "remove it"}},
		"truncated_by_one_byte":      {whole[:len(whole)-1], []string{"damaged", "remove it"}},
		"flipped_bit":                {flipped, []string{"damaged", "remove it"}},
		"other_file":                 {[]byte("PK\x03\x04 an archive"), []string{"damaged", "remove it"}},
		"newer_version":              {append([]byte("fakeart checkpoint 2\n"), whole[len("fakeart checkpoint 1\n"):]...), []string{"version 2 is newer"}},
		"much_newer_version":         {[]byte("fakeart checkpoint 37\nwho knows"), []string{"version 37 is newer"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			mustFail(t, dir, []string{"run.resume=true"}, append(test.words, path)...)
			mustBeUnchanged(t, dir, before)
		})
	}
	t.Run("restored", func(t *testing.T) {
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		mustTrain(t, dir, "run.resume=true")
		mustEqual(t, outcomeOf(t, dir), reference(t))
	})
	t.Run("removed", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		mustTrain(t, dir, "run.resume=true")
		mustEqual(t, outcomeOf(t, dir), reference(t))
	})
}
