package config

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fakeart/configs"
)

// load composes a configuration from the built-in files and fails the test on error.
func load(t *testing.T, overrides ...string) *Config {
	t.Helper()
	c, err := Load("", overrides)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// folder writes a copy of the built-in files to a temporary directory and returns its path.
// files replaces or adds files; empty content removes the file.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, configs.Files); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if content == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad_defaults(t *testing.T) {
	want := &Config{
		Run:     Run{Root: "runs", Name: "base"},
		Dataset: Dataset{Name: "synthetic", Dir: "data/synthetic", Seed: 1, TrainPerClass: 2000, TestPerClass: 500},
		Model: Model{
			Channels: []int{32, 64, 128}, Residual: []int{}, Dense: []int{256, 128},
			Slope: 0.01, Dropout: 0.3, Positive: PositiveAuto, Threshold: 0.5,
		},
		Augment:   Augment{Padding: "reflect"},
		Optimizer: Optimizer{Name: "adam", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8},
		Profiler:  Profiler{Name: "none"},
		Evaluate:  Evaluate{BatchSize: 250},
	}
	got := load(t)
	// The schedule of base is tuned by experiment; these values are fixed.
	if e := got.Experiment; e.Name != "base" || e.Dropout != 0.3 || e.BatchSize != 32 || e.LR != 1e-3 || e.Seed != 420 {
		t.Errorf("experiment base is %+v", e)
	}
	want.Experiment = got.Experiment
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLoad_overrides(t *testing.T) {
	tests := []struct {
		name      string
		overrides []string
		get       func(*Config) any
		want      any
	}{
		{
			"choice",
			[]string{"optimizer=sgd"},
			func(c *Config) any { return c.Optimizer },
			Optimizer{Name: "sgd", LR: 1e-3, Momentum: 0.9, Nesterov: true},
		},
		{
			"defaults list in a group file",
			[]string{"experiment=trials1"},
			func(c *Config) any {
				return []any{c.Experiment.Name, c.Experiment.Epochs, c.Experiment.LR, c.Experiment.Seed}
			},
			[]any{"trials1", 10, 1e-4, int64(420)},
		},
		{
			"value before choice",
			[]string{"experiment.epochs=7", "experiment=trials1"},
			func(c *Config) any { return c.Experiment.Epochs }, 7,
		},
		{
			"last value wins",
			[]string{"experiment.epochs=7", "experiment.epochs=8"},
			func(c *Config) any { return c.Experiment.Epochs }, 8,
		},
		{
			"last choice wins",
			[]string{"dataset=huggingface", "dataset=archive"},
			func(c *Config) any { return c.Dataset.Name }, "archive",
		},
		{
			"referenced value",
			[]string{"experiment.lr=0.5"},
			func(c *Config) any { return c.Optimizer.LR }, 0.5,
		},
		{
			"reference",
			[]string{"experiment.warmup_epochs=${experiment.epochs}", "experiment.epochs=3"},
			func(c *Config) any { return c.Experiment.WarmupEpochs }, 3.0,
		},
		{
			"reference within a string",
			[]string{"run.dir=out/${experiment.name}-${experiment.batch_size}-${experiment.lr}"},
			func(c *Config) any { return c.Run.Dir }, "out/base-32-0.001",
		},
		{
			"chained references",
			[]string{"run.root=${run.dir}", "run.dir=x/${run.name}", "run.name=${experiment.name}"},
			func(c *Config) any { return c.Run.Root }, "x/base",
		},
		{
			"nested reference",
			[]string{"run.dir=${${run.name}.name}", "run.name=dataset"},
			func(c *Config) any { return c.Run.Dir }, "synthetic",
		},
		{
			"escaped reference",
			[]string{`run.dir=a\${run.name}b`},
			func(c *Config) any { return c.Run.Dir }, "a${run.name}b",
		},
		{
			"list",
			[]string{"model.channels=[16, 32]"},
			func(c *Config) any { return c.Model.Channels },
			[]int{16, 32},
		},
		{
			"whole number for a float",
			[]string{"experiment.lr=1"},
			func(c *Config) any { return c.Experiment.LR }, 1.0,
		},
		{
			"exponent without decimal point",
			[]string{"experiment.lr=1e-3"},
			func(c *Config) any { return c.Experiment.LR }, 1e-3,
		},
		{
			"leading zeros",
			[]string{"experiment.seed=-010"},
			func(c *Config) any { return c.Experiment.Seed }, int64(-10),
		},
		{
			"largest int64",
			[]string{"experiment.seed=9223372036854775807"},
			func(c *Config) any { return c.Experiment.Seed }, int64(math.MaxInt64),
		},
		{
			"boolean",
			[]string{"run.resume=true"},
			func(c *Config) any { return c.Run.Resume }, true,
		},
		{
			"string that looks like a number",
			[]string{"run.name=2024"},
			func(c *Config) any { return c.Run.Name }, "2024",
		},
		{
			"string with YAML syntax",
			[]string{`dataset=archive`, `dataset.path=C:\a: b #c=d`},
			func(c *Config) any { return c.Dataset.Path }, `C:\a: b #c=d`,
		},
		{
			"quoted string",
			[]string{`run.dir="a b"`},
			func(c *Config) any { return c.Run.Dir }, "a b",
		},
		{
			"empty string",
			[]string{"run.dir=x", "run.dir="},
			func(c *Config) any { return c.Run.Dir }, "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.get(load(t, test.overrides...)); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestLoad_invalidOverrides(t *testing.T) {
	tests := []struct {
		name      string
		overrides []string
		want      []string // parts of the message
	}{
		{
			"unknown key",
			[]string{"experiment.epoch=6"},
			[]string{"experiment.epoch=6", `unknown key "experiment.epoch"`, "did you mean experiment.epochs?"},
		},
		{
			"key without section",
			[]string{"epochs=6"},
			[]string{`"epochs"`, "did you mean experiment.epochs?"},
		},
		{
			"key in wrong section",
			[]string{"model.batch_size=6"},
			[]string{`unknown key "model.batch_size"`, "model.dense"},
		},
		{
			"unknown group",
			[]string{"experimnt=base"},
			[]string{`"experimnt"`, "did you mean experiment?"},
		},
		{
			"unknown choice",
			[]string{"dataset=archve"},
			[]string{"dataset=archve", "did you mean archive?", "archive, feedback, folder, huggingface, synthetic"},
		},
		{
			"choice outside the directory",
			[]string{"dataset=../model/cnn"},
			[]string{"unknown dataset"},
		},
		{
			"word for a whole number",
			[]string{"experiment.epochs=six"},
			[]string{`experiment.epochs is "six"`, "must be a whole number"},
		},
		{
			"fraction for a whole number",
			[]string{"experiment.epochs=6.5"},
			[]string{"experiment.epochs is 6.5", "must be a whole number"},
		},
		{
			"integer overflow",
			[]string{"experiment.seed=99999999999999999999"},
			[]string{"experiment.seed is", "must be a whole number from -9223372036854775808 to 9223372036854775807"},
		},
		{
			"empty number",
			[]string{"experiment.lr="},
			[]string{"experiment.lr is empty", "must be a number"},
		},
		{
			"quoted number",
			[]string{"experiment.lr='0.1'"},
			[]string{`experiment.lr is "0.1"`, "must be a number"},
		},
		{
			"yes for a boolean",
			[]string{"run.resume=yes"},
			[]string{`run.resume is "yes"`, "must be true or false"},
		},
		{
			"number for a list",
			[]string{"model.channels=16"},
			[]string{"model.channels is 16", "such as [32,64,128]"},
		},
		{
			"fraction in an integer list",
			[]string{"model.channels=[16,2.5]"},
			[]string{"model.channels is [16,2.5]", "list of whole numbers"},
		},
		{
			"value for a section",
			[]string{"run=x"},
			[]string{"run is a section", "run.dir"},
		},
		{
			"name of a group",
			[]string{"optimizer.name=sgd"},
			[]string{"optimizer.name=sgd", "write optimizer=sgd"},
		},
		{
			"key of another optimizer",
			[]string{"optimizer.momentum=0.5"},
			[]string{"optimizer.momentum does not apply to optimizer=adam, only to sgd"},
		},
		{
			"leading dashes",
			[]string{"--experiment.epochs=6"},
			[]string{"--experiment.epochs=6", "without dashes"},
		},
		{
			"value in a separate argument",
			[]string{"experiment.epochs", "6"},
			[]string{`"experiment.epochs" is not a setting`, `"6" is not a setting`, "experiment.epochs=6"},
		},
		{
			"spaces around equals sign",
			[]string{"experiment.epochs", "=", "6"},
			[]string{`"=" has no key`, "without spaces"},
		},
		{
			"adding with plus",
			[]string{"+experiment.epochs=6"},
			[]string{"+ is not supported", "write experiment.epochs=6"},
		},
		{
			"removing with tilde",
			[]string{"~profiler"},
			[]string{"~ is not supported"},
		},
		{
			"reference to unknown key",
			[]string{"model.slope=${experiment.lrr}"},
			[]string{"model.slope: ${experiment.lrr}", "did you mean experiment.lr?"},
		},
		{
			"reference to unset key",
			[]string{"model.slope=${optimizer.momentum}"},
			[]string{"model.slope: ${optimizer.momentum} is not set by the selected files"},
		},
		{
			"circular references",
			[]string{"run.root=${run.dir}", "run.dir=${run.name}", "run.name=x${run.root}"},
			[]string{"circular reference: run.dir → run.name → run.root → run.dir"},
		},
		{
			"reference to itself",
			[]string{"experiment.lr=${experiment.lr}"},
			[]string{"experiment.lr → experiment.lr"},
		},
		{
			"reference of wrong type",
			[]string{"experiment.epochs=${experiment.lr}"},
			[]string{"experiment.epochs is 1.0e-3", "must be a whole number"},
		},
		{
			"unclosed reference",
			[]string{"run.dir=${run.name"},
			[]string{"run.dir", "is not closed"},
		},
		{
			"list within a string",
			[]string{"run.dir=a${model.dense}"},
			[]string{"${model.dense} is a list"},
		},
		{
			"resolver",
			[]string{"run.dir=${oc.env:HOME}"},
			[]string{"resolvers are not supported"},
		},
		{
			"several problems",
			[]string{"experiment.epochs=0", "experiment.lr=.nan", "model.threshold=1", "experiment.schedule=cosin"},
			[]string{"experiment.epochs is 0", "experiment.lr is .nan", "model.threshold is 1", `experiment.schedule is "cosin"`, "did you mean cosine?"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load("", test.overrides)
			wantParts(t, err, test.want)
		})
	}
}

func wantParts(t *testing.T, err error, parts []string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q\ndoes not contain %q", err, part)
		}
	}
}

func TestLoad_outOfRange(t *testing.T) {
	sgd, archive, hub := "optimizer=sgd", "dataset=archive", "dataset=huggingface"
	tests := [][]string{ // only the last one is invalid
		{"run.root="},
		{"run.root=~/runs"},
		{"run.dir=~"},
		{"run.name="},
		{"run.name=a/b"},
		{"run.name=.."},
		{"dataset.dir="},
		{"dataset.train_per_class=0"},
		{"dataset.test_per_class=-1"},
		{archive, "dataset.path=~/cifake.zip"},
		{hub, "dataset.repo=cifake"},
		{hub, "dataset.revision="},
		{hub, "dataset.endpoint=localhost:80"},
		{"model.channels=[]"},
		{"model.channels=[0]"},
		{"model.channels=[1,2,3,4,5,6,7,8,9,10,11]"},
		{"model.dense=[]"},
		{"model.dense=[128,-1]"},
		{"model.slope=1"},
		{"model.slope=-0.1"},
		{"model.dropout=1"},
		{"model.dropout=.nan"},
		{"model.threshold=0"},
		{"model.threshold=1"},
		{"optimizer.lr=0"},
		{"optimizer.weight_decay=-1"},
		{"optimizer.weight_decay=.inf"},
		{"optimizer.beta1=1"},
		{"optimizer.beta2=-0.1"},
		{"optimizer.epsilon=0"},
		{sgd, "optimizer.momentum=1"},
		{sgd, "optimizer.nesterov=true", "optimizer.momentum=0"},
		{"experiment.name=a b"},
		{"experiment.epochs=0"},
		{"experiment.epochs=1048577"},
		{"experiment.batch_size=0"},
		{"experiment.batch_size=65537"},
		{"experiment.lr=0"},
		{"experiment.lr=-1"},
		{"experiment.lr=.inf"},
		{"experiment.lr=.nan"},
		{"experiment.dropout=1"},
		{"experiment.schedule=linear"},
		{"experiment.warmup_epochs=-1"},
		{"experiment.epochs=2", "experiment.warmup_epochs=2.5"},
		{"experiment.val_split=0"},
		{"experiment.val_split=0.51"},
		{"experiment.val_split=.nan"},
		{"experiment.patience=-1"},
		{"experiment.layout=nchw"},
		{"experiment.threads=-1"},
		{"experiment.threads=1025"},
		{"experiment.ema=1"},
		{"experiment.label_smoothing=1"},
		{"experiment.mixup=-1"},
		{"experiment.class_weights=equal"},
		{"experiment.class_weights=cat=0"},
		{"experiment.init=~/model.onnx"},
		{"augment.crop=1"},
		{"augment.padding=zero"},
		{"augment.random_ops=17"},
		{"augment.magnitude=1.1"},
		{"augment.brightness=-0.1"},
		{"augment.cutout=2"},
		{"model.stem=-1"},
		{"model.residual=[1]"},
		{"model.residual=[1,-1,1]"},
		{"model.dense=[]"},
		{"dataset=folder", "dataset.size=1"},
		{"dataset=folder", "dataset.size=1025"},
		{"dataset=folder", "dataset.fit=crop"},
		{"dataset=folder", "dataset.orientation=turn"},
		{"dataset=folder", "dataset.jpeg=fast"},
		{"dataset=folder", "dataset.test_split=0.6"},
		{"profiler.name=perf"},
		{"evaluate.batch_size=0"},
	}
	for _, overrides := range tests {
		last := overrides[len(overrides)-1]
		t.Run(last, func(t *testing.T) {
			_, err := Load("", overrides)
			key, _, _ := strings.Cut(last, "=")
			if strings.HasSuffix(last, "momentum=0") {
				key = "optimizer.nesterov"
			}
			wantParts(t, err, []string{key + " is ", "must be "})
		})
	}
}

func TestLoad_rangeLimits(t *testing.T) {
	load(t, "experiment.epochs=1", "experiment.batch_size=1", "experiment.dropout=0", "experiment.val_split=0.5",
		"experiment.warmup_epochs=1", "experiment.patience=0", "model.slope=0", "model.channels=[1,1,1,1,1]",
		"model.dense=[1]", "optimizer.weight_decay=0", "optimizer.beta1=0")
	load(t, "optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false")
}

func TestLoad_allChoices(t *testing.T) {
	c := composer{files: configs.Files, fields: schema()}
	groups, err := c.groups()
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 7 {
		t.Errorf("groups are %v", groups)
	}
	for group, choices := range groups {
		for _, choice := range choices {
			t.Run(group+"="+choice, func(t *testing.T) {
				c := load(t, group+"="+choice)
				// The name appears in directory names and messages, so it must match the file.
				names := map[string]string{
					"dataset": c.Dataset.Name, "optimizer": c.Optimizer.Name,
					"experiment": c.Experiment.Name, "profiler": c.Profiler.Name,
				}
				if name, ok := names[group]; ok && name != choice {
					t.Errorf("%s.name is %q", group, name)
				}
			})
		}
	}
}

func TestLoad_directory(t *testing.T) {
	t.Run("custom directory", func(t *testing.T) {
		dir := folder(t, map[string]string{"experiment/night.yaml": "defaults: [trials1]\nname: night\nepochs: 99\n"})
		c, err := Load(dir, []string{"experiment=night"})
		if err != nil {
			t.Fatal(err)
		}
		if e := c.Experiment; e.Epochs != 99 || e.LR != 1e-4 || c.Run.Name != "night" {
			t.Errorf("got %+v, run %q", e, c.Run.Name)
		}
	})
	t.Run("position of _self_", func(t *testing.T) {
		const groups = "- dataset: synthetic\n- model: cnn\n- optimizer: adam\n- experiment: base\n- profiler: none\n- evaluate: default\n"
		const values = "run: {root: runs, dir: '', name: x, resume: false}\nevaluate: {batch_size: 7}\n"
		for text, want := range map[string]int{
			"defaults:\n- _self_\n" + groups + values:      250,
			"defaults:\n" + groups + "- _self_\n" + values: 7,
			"defaults:\n" + groups + values:                7,
		} {
			c, err := Load(folder(t, map[string]string{"config.yaml": text}), nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.Evaluate.BatchSize != want {
				t.Errorf("evaluate.batch_size is %d, want %d for\n%s", c.Evaluate.BatchSize, want, text)
			}
		}
	})

	base, err := configs.Files.ReadFile("experiment/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{
			"unknown key",
			map[string]string{"experiment/base.yaml": string(base) + "\nepoch: 3\n"},
			[]string{"experiment/base.yaml", `"experiment.epoch"`, "did you mean experiment.epochs?"},
		},
		{
			"wrong type",
			map[string]string{"profiler/none.yaml": "name: 3"},
			[]string{"profiler/none.yaml: profiler.name is 3", "must be a string"},
		},
		{
			"empty value",
			map[string]string{"profiler/none.yaml": "name:"},
			[]string{"profiler/none.yaml: profiler.name is empty"},
		},
		{
			"missing key",
			map[string]string{"profiler/none.yaml": "# nothing\n"},
			[]string{"profiler.name has no value"},
		},
		{
			"unknown variant",
			map[string]string{"optimizer/adam.yaml": "name: adamx\nlr: 1\nweight_decay: 0\nbeta1: 0\n"},
			[]string{`adam.yaml: optimizer.name is "adamx": it must be adam, adamw or sgd; did you mean adam or adamw?`},
		},
		{
			"key that does not apply",
			map[string]string{"optimizer/adam.yaml": "name: adam\nlr: 1\nweight_decay: 0\nbeta1: 0\nbeta2: 0\nepsilon: 1\nmomentum: 1\n"},
			[]string{"adam.yaml: optimizer.momentum does not apply to optimizer=adam"},
		},
		{
			"section for a value",
			map[string]string{"profiler/none.yaml": "name: {a: b}"},
			[]string{"profiler/none.yaml", `"profiler.name.a"`},
		},
		{
			"YAML syntax error",
			map[string]string{"profiler/none.yaml": "name: [\n"},
			[]string{"profiler/none.yaml: line 1: invalid YAML: "},
		},
		{
			"duplicate key",
			map[string]string{"profiler/none.yaml": "name: none\nname: pprof\n"},
			[]string{`profiler/none.yaml: line 2: key "name" is already set on line 1`},
		},
		{
			"list at top level",
			map[string]string{"profiler/none.yaml": "- name"},
			[]string{`profiler/none.yaml: line 1: the file must consist of "key: value" lines`},
		},
		{
			"defaults not a list",
			map[string]string{"experiment/smoke.yaml": "defaults: base"},
			[]string{"experiment/smoke.yaml", "must be a list"},
		},
		{
			"circular defaults",
			map[string]string{"experiment/smoke.yaml": "defaults: [cloud]", "experiment/cloud.yaml": "defaults: [smoke]"},
			[]string{"circular defaults: smoke → cloud → smoke"},
		},
		{
			"missing file in defaults",
			map[string]string{"experiment/smoke.yaml": "defaults: [basis]"},
			[]string{"experiment/smoke.yaml: defaults", "basis.yaml"},
		},
		{
			"unknown group in defaults",
			map[string]string{"config.yaml": "defaults:\n- datset: synthetic\n"},
			[]string{"config.yaml", `"datset"`, "did you mean dataset?"},
		},
		{
			"group listed twice",
			map[string]string{"config.yaml": "defaults:\n- model: cnn\n- model: cnn\n"},
			[]string{"model is listed twice"},
		},
		{
			"choice for unlisted group",
			map[string]string{"config.yaml": "defaults:\n- model: cnn\n"},
			[]string{"no entry for experiment"},
		},
		{
			"unknown choice in defaults",
			map[string]string{"config.yaml": "defaults:\n- model: cn\n"},
			[]string{"config.yaml", "did you mean cnn?"},
		},
		{
			"missing config.yaml",
			map[string]string{"config.yaml": ""},
			[]string{"no config.yaml in this directory"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t, test.files)
			_, err := Load(dir, []string{"experiment=smoke"})
			wantParts(t, err, test.want)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestLoadFile_roundTrip(t *testing.T) {
	tests := map[string][]string{
		"defaults":                nil,
		"sgd and archive":         {"optimizer=sgd", "dataset=archive", "dataset.path=a: b"},
		"hub":                     {"dataset=huggingface", "dataset.revision=0123", "experiment=cloud"},
		"special strings":         {"run.dir=1e3", `run.root=a\${b}: "c' #d`, `dataset.dir="null"`, "run.name=true"},
		"extreme numbers":         {"experiment.lr=0.1000000000000000055", "experiment.seed=-9223372036854775808", "optimizer.epsilon=5e-324"},
		"whole numbers as floats": {"experiment.lr=1", "experiment.warmup_epochs=0"},
		"multiple lines":          {"run.dir=\"a\\nb\""},
	}
	for name, overrides := range tests {
		t.Run(name, func(t *testing.T) {
			c := load(t, overrides...)
			data, err := c.YAML()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			back, err := LoadFile(path)
			if err != nil {
				t.Fatalf("%v in\n%s", err, data)
			}
			if diff := cmp.Diff(c, back); diff != "" {
				t.Errorf("(-written +read)\n%s", diff)
			}
			again, err := back.YAML()
			if err != nil || string(again) != string(data) {
				t.Errorf("YAML() after LoadFile = %v\n%s\nwant\n%s", err, again, data)
			}
		})
	}
}

func TestLoadFile_invalid(t *testing.T) {
	data, err := load(t).YAML()
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string]string{
		{"epochs: ", "epoch: "}:         "did you mean experiment.epochs?",
		{"resume: false", "resume: 0"}:  "run.resume is 0",
		{"  dropout: ", "  #dropout: "}: "model.dropout has no value",
		{"profiler:", "profiler: x"}:    "config.yaml",
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), change[0], change[1])), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := LoadFile(path)
		wantParts(t, err, []string{path, want})
	}
	if _, err := LoadFile(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadFile(missing file) = %v, want fs.ErrNotExist", err)
	}
}

func TestConfig_Digest(t *testing.T) {
	digest := load(t).Digest()
	if len(digest) != len("sha256:")+64 || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("digest is %q", digest)
	}
	for _, same := range [][]string{
		{"run.root=x", "run.dir=y", "run.name=z", "run.resume=true"},
		{"profiler=pprof"},
		{"evaluate.batch_size=1"},
		{"dataset.dir=elsewhere"},
		{"experiment.lr=0.0010"},
		{"experiment=base", "dataset=synthetic"},
	} {
		if got := load(t, same...).Digest(); got != digest {
			t.Errorf("%v changes the digest", same)
		}
	}
	seen := map[string]string{digest: "the defaults"}
	for _, other := range []string{
		"dataset=archive", "dataset=huggingface", "dataset.seed=2", "dataset.train_per_class=1", "model.channels=[32,64]",
		"model.slope=0", "optimizer=sgd", "optimizer.beta1=0.8", "experiment.epochs=2", "experiment.lr=0.002",
		"experiment.seed=1", "experiment.batch_size=64", "experiment.layout=standard", "augment.flip=true", "experiment.val_split=0.2",
	} {
		d := load(t, other).Digest()
		if before, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", other, before)
		}
		seen[d] = other
	}
	a, b := load(t, "dataset=archive"), load(t, "dataset=archive", "dataset.path=x", "dataset.strict=true")
	if a.Digest() != b.Digest() {
		t.Error("dataset.path and dataset.strict change the digest")
	}
}

// A file selects files of other groups, unless the command line does.
func TestLoad_OverrideOfOtherGroups(t *testing.T) {
	c := load(t, "experiment=cifar10")
	if c.Dataset.Name != "folder" || c.Optimizer.Name != "adamw" || !c.Augment.Flip || c.Optimizer.LR != c.Experiment.LR {
		t.Errorf("dataset %q, optimizer %q, flip %v", c.Dataset.Name, c.Optimizer.Name, c.Augment.Flip)
	}
	c = load(t, "experiment=cifar10", "optimizer=sgd", "augment=none", "dataset.size=64")
	if c.Optimizer.Name != "sgd" || c.Augment.Flip || c.Dataset.Size != 64 {
		t.Errorf("optimizer %q, flip %v, size %d", c.Optimizer.Name, c.Augment.Flip, c.Dataset.Size)
	}
	for _, test := range []struct{ entry, want string }{
		{"override /optimiser: sgd", `unknown group "optimiser"; did you mean optimizer?`},
		{"override /optimizer: sdg", "unknown optimizer; did you mean sgd?"},
		{"override /optimizer: 1", "isn't"},
		{"override /experiment: base", "name the file itself"},
		{"optimizer: sgd", "must be the name of another file"},
	} {
		text := "defaults:\n  - base\n  - " + test.entry + "\nname: x\n"
		_, err := Load(folder(t, map[string]string{"experiment/x.yaml": text}), []string{"experiment=x"})
		if err == nil {
			t.Errorf("%s: no error", test.entry)
			continue
		}
		if test.want != "isn't" {
			wantParts(t, err, []string{"x.yaml", test.want})
		}
	}
	// The nearest file decides.
	files := map[string]string{
		"experiment/far.yaml":  "defaults: [base, {override /optimizer: adam}, {override /augment: strong}]\nname: far\n",
		"experiment/near.yaml": "defaults: [far, {override /optimizer: sgd}]\nname: near\n",
	}
	c, err := Load(folder(t, files), []string{"experiment=near"})
	if err != nil || c.Optimizer.Name != "sgd" || c.Augment.Cutout == 0 || c.Experiment.Name != "near" {
		t.Errorf("error %v, %+v", err, c)
	}
}

// Runs of earlier versions can be resumed: their configuration has the digest that it had.
func TestLoadFile_OfEarlierVersion(t *testing.T) {
	c, err := LoadFile("testdata/run-v1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const want = "sha256:fb7fe0a0a3c5e24ddc4a13d1d57dd049f263c66865c59293ebd1e93d68b831a7"
	if c.Digest() != want {
		t.Errorf("digest = %s, want %s", c.Digest(), want)
	}
	if d := c.Differences(load(t)); len(d) != 0 {
		t.Errorf("differences to the defaults: %v", d)
	}
}

func TestConfig_Differences(t *testing.T) {
	a := load(t)
	if d := a.Differences(load(t, "run.resume=true", "run.dir=x", "evaluate.batch_size=1")); len(d) != 0 {
		t.Errorf("Differences of other paths = %v, want none", d)
	}
	got := a.Differences(load(t, "experiment.batch_size=8", "optimizer=sgd", "model.channels=[1]"))
	want := []string{
		"model.channels: [32,64,128] → [1]",
		`optimizer.name: "adam" → "sgd"`,
		"optimizer.beta1: 0.9 → (none)",
		"optimizer.beta2: 0.999 → (none)",
		"optimizer.epsilon: 1e-08 → (none)",
		"optimizer.momentum: (none) → 0.9",
		"optimizer.nesterov: (none) → true",
		"experiment.batch_size: 32 → 8",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
