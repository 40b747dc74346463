package main

import (
	"archive/zip"
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/internal/config"
)

func TestMain(m *testing.M) {
	os.Unsetenv("FAKEART_CONFIG_DIR") // tests must not depend on the developer's setting
	os.Exit(m.Run())
}

// trainer runs the program and returns its exit code and output.
func trainer(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return trainerContext(t.Context(), args...)
}

// screen is a terminal in memory.
type screen struct{ bytes.Buffer }

func (*screen) IsTerminal() bool { return true }

// trainerOnTerminal runs the program with terminals as outputs.
func trainerOnTerminal(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs screen
	code = run(t.Context(), args, streams{&out, &errs})
	return code, out.String(), errs.String()
}

func trainerContext(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, streams{&out, &errs})
	return code, out.String(), errs.String()
}

// checkError fails unless stderr is one error message, optionally with hints, that contains the parts
// and no wording of a library.
func checkError(t *testing.T, stderr string, parts ...string) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSuffix(stderr, "\n"), "\n") {
		if prefix := map[bool]string{true: "error: ", false: "hint: "}[i == 0]; !strings.HasPrefix(line, prefix) {
			t.Errorf("line %d of standard error is %q, want it to start with %q", i+1, line, prefix)
		}
	}
	for _, part := range parts {
		if !strings.Contains(stderr, part) {
			t.Errorf("standard error %q lacks %q", stderr, part)
		}
	}
	for _, leak := range []string{"strconv", "2006-01-02", "64 bit", "parsing time"} {
		if strings.Contains(stderr, leak) {
			t.Errorf("standard error %q exposes a library's wording %q", stderr, leak)
		}
	}
}

func TestConfig_RoundTrip(t *testing.T) {
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
		t.Errorf("LoadFile() = %+v", cfg)
	}
}

func TestConfig_ConfigDir(t *testing.T) {
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

func TestRun_UsageError(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"no_subcommand", []string{"data"}, []string{"expected", "prepare", "hint: run trainer data --help"}},
		{"unknown_command", []string{"trian"}, []string{"trian", "hint: did you mean \"train\"?"}},
		{"help_for_unknown_command", []string{"help", "trian"}, []string{"trian", "hint: did you mean \"train\"?"}},
		{"unknown_flag", []string{"config", "--verbose"}, []string{"--verbose", "hint: run trainer config --help"}},
		{
			"setting_with_dashes",
			[]string{"config", "--experiment.epochs=6"},
			[]string{"hint: settings are written without dashes: experiment.epochs=6"},
		},
		{"unknown_flag_with_value", []string{"config", "--verbose=1"}, []string{"unknown flag --verbose", "hint: run trainer config --help"}},
		{"flag_without_value", []string{"drift", "--reference", "r", "--current", "l", "--since"}, []string{"--since needs a value", "hint: run trainer drift --help"}},
		{"integer_flag_without_value", []string{"train", "--task"}, []string{"--task needs a value", "hint: run trainer train --help"}},
		{"list_flag_without_value", []string{"benchmark", "--batches"}, []string{"--batches needs a value"}},
		{
			"choice_with_dashes",
			[]string{"config", "--experiment=base"},
			[]string{"hint: settings are written without dashes: experiment=base"},
		},
		{
			"setting_without_value",
			[]string{"config", "experiment.epochs"},
			[]string{`"experiment.epochs" is not a setting`, "experiment.epochs=6"},
		},
		{
			"unknown_key",
			[]string{"config", "experiment.epoch=6"},
			[]string{"did you mean experiment.epochs?"},
		},
		{
			"wrong_type",
			[]string{"config", "experiment.epochs=six"},
			[]string{`experiment.epochs is "six": it must be a whole number`},
		},
		{
			"config_dir_without_configuration",
			[]string{"config", "--config-dir", "dataset"},
			[]string{"dataset: no config.yaml"},
		},
		{
			"archive_without_path",
			[]string{"data", "prepare", "dataset=archive"},
			[]string{"dataset.path is empty"},
		},
		{
			"feedback_without_path",
			[]string{"data", "prepare", "dataset=feedback"},
			[]string{"dataset.path is empty", "predictions.db"},
		},
		{"evaluate_nothing", []string{"evaluate"}, []string{"--model", "--data", "--log"}},
		{"model_without_data", []string{"evaluate", "--model", "m.onnx"}, []string{"--data"}},
		{"data_and_log", []string{"evaluate", "--model", "m.onnx", "--data", "d", "--log", "l"}, []string{"--log", "--data"}},
		{"corruptions_of_log", []string{"evaluate", "--log", "l", "--corruptions"}, []string{"--log", "--corruptions"}},
		{"split", []string{"evaluate", "--model", "m", "--data", "d", "--split", "dev"}, []string{"--split", "dev"}},
		{"batch_size_not_a_number", []string{"evaluate", "--model", "m", "--data", "d", "--batch-size", "many"}, []string{"--batch-size", `"many" isn't an integer`}},
		{"batch_size_too_large", []string{"evaluate", "--model", "m", "--data", "d", "--batch-size", "99999999999999999999"}, []string{"--batch-size", "out of range"}},
		{"batch_size_0", []string{"evaluate", "--model", "m", "--data", "d", "--batch-size", "0"}, []string{"batch size 0", "hint: use 1 to"}},
		{"batches_not_numbers", []string{"benchmark", "--batches", "32,x"}, []string{"--batches", `"x" isn't an integer`}},
		{"task_not_a_number", []string{"train", "--task", "first"}, []string{"--task", `"first" isn't an integer`}},
		{"setting_after_flag", []string{"train", "experiment=smoke", "--task=1", "experiment.epochs=1"}, []string{"experiment.epochs=1", "hint: put all settings before the flags"}},
		{"setting_of_command_without_settings", []string{"evaluate", "--model", "m", "experiment.epochs=1"}, []string{"experiment.epochs=1", "hint: run trainer evaluate --help"}},
		{"time", []string{"drift", "--reference", "r", "--current", "l", "--since", "last week"}, []string{"--since", `invalid time "last week"`, "yesterday", "24h", "2026-11-30", "RFC 3339", "local time zone"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := trainer(t, test.args...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, standard output %q", code, stdout)
			}
			checkError(t, stderr, test.want...)
		})
	}
}

func TestRun_SeveralInvalidSettings(t *testing.T) {
	code, _, stderr := trainer(t, "config", "experiment.epochs=0", "experiment.lr=-1")
	if code != exitUsage || !strings.HasPrefix(stderr, "error: configuration: 2 problems:\n") ||
		!strings.Contains(stderr, "\n  experiment.epochs is 0") || !strings.Contains(stderr, "\n  experiment.lr is -1") {
		t.Errorf("exit code %d, standard error %q", code, stderr)
	}
}

func TestRun_HelpAndVersion(t *testing.T) {
	program := []string{
		"data prepare", "Examples:\n", "trainer drift --reference", "docs/reference/trainer.md",
		"Choices in the built-in configuration:\n", "base (default), cifar10", "adam (default), adamw, sgd", "huggingface, synthetic (default)",
	}
	for _, test := range []struct {
		name   string
		args   []string
		want   []string
		reject string
	}{
		{"no_arguments", nil, program, ""},
		{"--help", []string{"--help"}, program, ""},
		{"-h", []string{"-h"}, program, ""},
		{"help", []string{"help"}, program, ""},
		{"help_of_command", []string{"help", "train"}, []string{"--task=N", "adam (default), adamw, sgd"}, "Examples:"},
		{"help_of_subcommand", []string{"help", "data", "prepare"}, []string{"trainer data prepare", "synthetic (default)"}, "Examples:"},
		{"help_of_command_without_configuration", []string{"drift", "--help"}, []string{"--since=TIME", "yesterday", "local time zone"}, "Choices"},
		{"--version", []string{"--version"}, []string{"trainer ", "revision"}, ""},
		{"-v", []string{"-v"}, []string{"trainer ", "revision"}, ""},
		{"version", []string{"version"}, []string{"trainer ", "revision"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := trainer(t, test.args...)
			if code != 0 || stderr != "" {
				t.Errorf("exit code %d, standard error %q", code, stderr)
			}
			for _, part := range test.want {
				if !strings.Contains(stdout, part) {
					t.Errorf("standard output lacks %q:\n%s", part, stdout)
				}
			}
			if test.reject != "" && strings.Contains(stdout, test.reject) {
				t.Errorf("standard output contains %q:\n%s", test.reject, stdout)
			}
		})
	}
}

func TestRun_HelpListsChoicesOfConfigDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../configs")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "experiment", "mine.yaml"), []byte("defaults: [base]\nname: mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := trainer(t, "train", "--config-dir", dir, "--help")
	if !strings.Contains(stdout, "Choices in "+dir) || !strings.Contains(stdout, "cloud, mine, smoke") {
		t.Errorf("standard output lacks the choices of the directory:\n%s", stdout)
	}
}

func TestRun_ErrorColor(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if _, _, stderr := trainerOnTerminal(t, "trian"); !strings.Contains(stderr, "\x1b[1;31merror:\x1b[0m ") || !strings.Contains(stderr, "hint:\x1b[0m ") {
		t.Errorf("standard error %q isn't colored", stderr)
	}
	t.Setenv("NO_COLOR", "1")
	if _, _, stderr := trainerOnTerminal(t, "trian"); strings.Contains(stderr, "\x1b") {
		t.Errorf("standard error %q is colored despite NO_COLOR", stderr)
	}
}

func TestDataPrepare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset.dir="+dir, "dataset.train_per_class=3", "dataset.test_per_class=2")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, part := range []string{dir + ": sha256:", "train  REAL 3  FAKE 3", "test   REAL 2  FAKE 2", "rejected 0"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("standard output %q lacks %q", stdout, part)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
		t.Error(err)
	}
}

func TestDataPrepare_RejectedImages(t *testing.T) {
	var img bytes.Buffer
	if err := png.Encode(&img, image.NewRGBA(image.Rect(0, 0, 32, 32))); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, folder := range []string{"train/REAL/", "train/FAKE/", "test/REAL/", "test/FAKE/"} {
		for _, name := range []string{"a.png", "b.png", "c.png", "d.png"} {
			files[folder+name] = img.Bytes()
		}
	}
	for i := range maxRejections + 3 {
		files["train/REAL/broken"+string(rune('A'+i))+".png"] = img.Bytes()[:40]
	}
	path := filepath.Join(t.TempDir(), "cifake.zip")
	writeZip(t, path, files)

	dir := filepath.Join(t.TempDir(), "d")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset=archive", "dataset.path="+path, "dataset.dir="+dir)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if n := strings.Count(stderr, "rejected train/REAL/broken"); n != maxRejections {
		t.Errorf("%d rejected images are listed", n)
	}
	if !strings.Contains(stderr, "rejected 3 more") || !strings.Contains(stdout, "rejected 23") {
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

func TestRun_Failure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.zip")
	code, stdout, stderr := trainer(t, "data", "prepare", "dataset=archive", "dataset.path="+path, "dataset.dir="+t.TempDir())
	if code != exitFailure || stdout != "" {
		t.Errorf("exit code %d, standard output %q", code, stdout)
	}
	checkError(t, stderr, path)
}

func TestRun_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "d")
	code, _, stderr := trainerContext(ctx, "data", "prepare", "dataset.dir="+dir)
	if code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stderr, "interrupted, "+dir+" is unchanged") {
		t.Errorf("standard error %q", stderr)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the dataset exists: %v", err)
	}
}

func TestTrain_TaskChangesSeed(t *testing.T) {
	dir := t.TempDir()
	data, run := filepath.Join(dir, "d"), filepath.Join(dir, "r")
	if code, _, stderr := trainer(t, "data", "prepare", "dataset.dir="+data, "dataset.train_per_class=20", "dataset.test_per_class=2"); code != 0 {
		t.Fatal(stderr)
	}
	t.Setenv("CLOUD_RUN_TASK_INDEX", "02") // decimal, as in settings
	if code, _, stderr := trainer(t, "train", "dataset.dir="+data, "dataset.train_per_class=20", "dataset.test_per_class=2", "run.dir="+run, "run.name=s${experiment.seed}", "experiment.epochs=1", "experiment.seed=40", "model.channels=[2]", "model.dense=[2]"); code != 0 {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(filepath.Join(run, "config.yaml"))
	if err != nil || !strings.Contains(string(text), "seed: 42\n") || !strings.Contains(string(text), "name: s42\n") {
		t.Errorf("config.yaml of the run (%v):\n%s", err, text)
	}
	code, _, stderr := trainer(t, "train", "experiment.seed=9223372036854775806")
	if code != exitUsage {
		t.Errorf("overflow: exit code %d", code)
	}
	checkError(t, stderr, "experiment.seed is 9223372036854775806", "--task=2", "smaller experiment.seed")
}

func TestDataPrepare_FailureRemovesCreatedDirectories(t *testing.T) {
	t.Chdir(t.TempDir())
	prepare := func() {
		t.Helper()
		if code, _, stderr := trainer(t, "data", "prepare", "dataset=archive", "dataset.path=missing.zip", "dataset.dir=data/sets/mine"); code != exitFailure {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
	}
	prepare()
	if _, err := os.Stat("data"); !os.IsNotExist(err) {
		t.Errorf("data remains (%v)", err)
	}
	if err := os.Mkdir("data", 0o755); err != nil {
		t.Fatal(err)
	}
	prepare()
	if files, err := os.ReadDir("data"); err != nil || len(files) != 0 {
		t.Errorf("data contains %v (%v), want the empty directory that existed before", files, err)
	}
}

func TestTrain_OutputOnTerminalAndFile(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	dir := t.TempDir()
	data := filepath.Join(dir, "d")
	if code, _, stderr := trainer(t, "data", "prepare", "dataset.dir="+data, "dataset.train_per_class=20", "dataset.test_per_class=2"); code != 0 {
		t.Fatal(stderr)
	}
	args := []string{"train", "dataset.dir=" + data, "dataset.train_per_class=20", "dataset.test_per_class=2", "experiment.epochs=2", "model.channels=[2]", "model.dense=[2]"}
	code, _, stderr := trainerOnTerminal(t, append(args, "run.dir="+filepath.Join(dir, "terminal"))...)
	if code != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{"start training: run ", "\n epoch  train loss  train acc  val loss  val acc  images/s\n   1/2  ", "\n   2/2  "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("on a terminal, standard error lacks %q:\n%s", want, stderr)
		}
	}
	if strings.Contains(stderr, "\x1b") || strings.Contains(stderr, "train_loss=") {
		t.Errorf("on a terminal with NO_COLOR, standard error is\n%s", stderr)
	}
	log, err := os.ReadFile(filepath.Join(dir, "terminal", "train.log"))
	if err != nil || strings.Count(string(log), "msg=epoch epoch=") != 2 {
		t.Errorf("train.log (%v):\n%s", err, log)
	}

	code, _, stderr = trainer(t, append(args, "run.dir="+filepath.Join(dir, "file"))...)
	if code != 0 || strings.Count(stderr, "msg=epoch epoch=") != 2 || strings.Contains(stderr, "train acc") {
		t.Errorf("exit code %d, standard error isn't logfmt:\n%s", code, stderr)
	}
}
