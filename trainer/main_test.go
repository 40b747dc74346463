package main

import (
	"archive/zip"
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
)

func TestMain(m *testing.M) {
	os.Unsetenv("FAKEART_CONFIG_DIR") // the developer's own must not decide a test
	os.Exit(m.Run())
}

// trainer runs the program and returns its exit code and what it wrote.
func trainer(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return trainerContext(t.Context(), args...)
}

func trainerContext(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, streams{&out, &errs})
	return code, out.String(), errs.String()
}

// oneLine fails the test unless stderr is one line of the program that contains the parts. Lines
// with hints may follow.
func oneLine(t *testing.T, stderr string, parts ...string) {
	t.Helper()
	lines := strings.SplitAfter(stderr, "\n")
	notHint := func(line string) bool { return line != "" && !strings.HasPrefix(line, "hint: ") }
	if !strings.HasPrefix(stderr, "trainer: ") || !strings.HasSuffix(stderr, "\n") || slices.ContainsFunc(lines[1:], notHint) {
		t.Errorf("standard error is not one line of the program, or one with hints: %q", stderr)
	}
	for _, part := range parts {
		if !strings.Contains(stderr, part) {
			t.Errorf("standard error %q does not say %q", stderr, part)
		}
	}
}

func TestConfigPrintsAFileThatCanBeReadBack(t *testing.T) {
	code, stdout, stderr := trainer(t, "config", "optimizer=sgd", "experiment.epochs=6")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, standard error %q", code, stderr)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Optimizer.Name != "sgd" || cfg.Experiment.Epochs != 6 {
		t.Errorf("read back %+v", cfg)
	}
}

func TestConfigReadsTheFolderThatIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../configs")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "experiment", "mine.yaml"), []byte("defaults: [base]\nname: mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(code int, stdout, stderr string) {
		t.Helper()
		if code != 0 || !strings.Contains(stdout, "name: mine") {
			t.Errorf("exit code %d, %s%s", code, stdout, stderr)
		}
	}
	check(trainer(t, "config", "--config-dir", dir, "experiment=mine"))
	t.Setenv("FAKEART_CONFIG_DIR", dir)
	check(trainer(t, "config", "experiment=mine"))
}

func TestAWrongCommandLineIsAUsageError(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"no command", nil, []string{"expected one of", "--help"}},
		{"an unknown command", []string{"trian"}, []string{"trian"}},
		{"an unknown flag", []string{"config", "--verbose"}, []string{"--verbose", "--help"}},
		{
			"a setting with dashes",
			[]string{"config", "--experiment.epochs=6"},
			[]string{"settings are written without dashes: experiment.epochs=6"},
		},
		{
			"a choice with dashes",
			[]string{"config", "--experiment=base"},
			[]string{"settings are written without dashes: experiment=base"},
		},
		{
			"a setting without its value",
			[]string{"config", "experiment.epochs"},
			[]string{`"experiment.epochs" is not a setting`, "experiment.epochs=6"},
		},
		{
			"an unknown key",
			[]string{"config", "experiment.epoch=6"},
			[]string{"did you mean experiment.epochs?"},
		},
		{
			"a wrong type",
			[]string{"config", "experiment.epochs=six"},
			[]string{`experiment.epochs is "six": it must be a whole number`},
		},
		{
			"a folder without configuration",
			[]string{"config", "--config-dir", "dataset"},
			[]string{"dataset: there is no config.yaml"},
		},
		{
			"an archive that is not named",
			[]string{"data", "prepare", "dataset=archive"},
			[]string{"dataset.path is empty"},
		},
		{
			"a log that is not named",
			[]string{"data", "prepare", "dataset=feedback"},
			[]string{"dataset.path is empty", "predictions.db"},
		},
		{"nothing to measure", []string{"evaluate"}, []string{"--model", "--data", "--log"}},
		{"a model without data", []string{"evaluate", "--model", "m.onnx"}, []string{"--data"}},
		{"data and a log", []string{"evaluate", "--model", "m.onnx", "--data", "d", "--log", "l"}, []string{"--log", "--data"}},
		{"corruptions of a log", []string{"evaluate", "--log", "l", "--corruptions"}, []string{"--log", "--corruptions"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := trainer(t, test.args...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, standard output %q", code, stdout)
			}
			oneLine(t, stderr, test.want...)
		})
	}
}

func TestSeveralWrongSettingsAreListedTogether(t *testing.T) {
	code, _, stderr := trainer(t, "config", "experiment.epochs=0", "experiment.lr=-1")
	if code != exitUsage || !strings.HasPrefix(stderr, "trainer: configuration: 2 problems:\n") ||
		!strings.Contains(stderr, "\n  experiment.epochs is 0") || !strings.Contains(stderr, "\n  experiment.lr is -1") {
		t.Errorf("exit code %d, standard error %q", code, stderr)
	}
}

func TestHelpAndVersionAnswerOnStandardOutput(t *testing.T) {
	for _, test := range []struct{ arg, want string }{
		{"--help", "data prepare"},
		{"--version", "trainer "},
	} {
		code, stdout, stderr := trainer(t, test.arg)
		if code != 0 || stderr != "" || !strings.Contains(stdout, test.want) {
			t.Errorf("%s: exit code %d, standard output %q, standard error %q", test.arg, code, stdout, stderr)
		}
	}
}

func TestPrepareSaysWhatTheDataSetHolds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset.dir="+dir, "dataset.train_per_class=3", "dataset.test_per_class=2")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, part := range []string{dir + ": sha256:", "train  REAL 3  FAKE 3", "test   REAL 2  FAKE 2", "refused 0"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("standard output %q does not say %q", stdout, part)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
		t.Error(err)
	}
}

func TestPrepareNamesTheFirstRefusedPicturesAndCountsTheRest(t *testing.T) {
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 32, 32))); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, folder := range []string{"train/REAL/", "train/FAKE/", "test/REAL/", "test/FAKE/"} {
		for _, name := range []string{"a.png", "b.png", "c.png", "d.png"} {
			files[folder+name] = picture.Bytes()
		}
	}
	for i := range maxRefusals + 3 {
		files["train/REAL/broken"+string(rune('A'+i))+".png"] = picture.Bytes()[:40]
	}
	path := filepath.Join(t.TempDir(), "cifake.zip")
	writeZip(t, path, files)

	dir := filepath.Join(t.TempDir(), "d")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset=archive", "dataset.path="+path, "dataset.dir="+dir)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if n := strings.Count(stderr, "refused train/REAL/broken"); n != maxRefusals {
		t.Errorf("%d refused pictures are named", n)
	}
	if !strings.Contains(stderr, "refused 3 more") || !strings.Contains(stdout, "refused 23") {
		t.Errorf("standard output %q, standard error %q", stdout, stderr)
	}

	code, _, stderr = trainer(t, "data", "prepare", "dataset=archive", "dataset.path="+path, "dataset.dir="+dir, "dataset.strict=true")
	if code != exitFailure || !strings.Contains(stderr, "train/REAL/broken") || !strings.Contains(stderr, "dataset.strict=false") {
		t.Errorf("strict: exit code %d, standard error %q", code, stderr)
	}
}

func writeZip(t *testing.T, path string, files map[string][]byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for name, content := range files {
		member, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := member.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAFailureIsNoUsageError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.zip")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset=archive", "dataset.path="+path, "dataset.dir="+t.TempDir())
	if code != exitFailure || stdout != "" {
		t.Errorf("exit code %d, standard output %q", code, stdout)
	}
	oneLine(t, stderr, path)
}

func TestAnInterruptHasItsOwnExitCode(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "d")
	code, _, stderr := trainerContext(ctx, "data", "prepare", "dataset.dir="+dir)
	if code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stderr, "interrupted, "+dir+" is as it was before") {
		t.Errorf("standard error %q", stderr)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
}

func TestTheTasksOfASweepDifferByTheirSeed(t *testing.T) {
	dir := t.TempDir()
	data, run := filepath.Join(dir, "d"), filepath.Join(dir, "r")
	if code, _, stderr := trainer(t, "data", "prepare", "dataset.dir="+data, "dataset.train_per_class=20", "dataset.test_per_class=2"); code != 0 {
		t.Fatal(stderr)
	}
	t.Setenv("CLOUD_RUN_TASK_INDEX", "2")
	if code, _, stderr := trainer(t, "train", "dataset.dir="+data, "run.dir="+run, "experiment.epochs=1", "experiment.seed=40", "model.channels=[2]", "model.dense=[2]"); code != 0 {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(filepath.Join(run, "config.yaml"))
	if err != nil || !strings.Contains(string(text), "seed: 42\n") {
		t.Errorf("the run was made with\n%s (%v)", text, err)
	}
}
