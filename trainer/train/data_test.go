package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
)

// edit changes a file of a dataset, and the manifest accordingly.
func edit(t *testing.T, dir, name string, change func(data []byte), describe func(m *dataset.Manifest)) {
	t.Helper()
	m, err := dataset.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(data)
	sum := sha256.Sum256(data)
	m.Files[name] = dataset.File{Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
	describe(m)
	text, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifest.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// header is the size of the header of a NumPy file.
const header = 128

// relabel changes the label of the first training image, which is FAKE.
func relabel(t *testing.T, dir string) {
	t.Helper()
	edit(t, dir, "train-labels.npy", func(data []byte) { data[header] = dataset.Real }, func(m *dataset.Manifest) {
		m.Splits[dataset.Train]["REAL"]++
		m.Splits[dataset.Train]["FAKE"]--
	})
}

func TestRun_ConfigurationDoesNotMatchData(t *testing.T) {
	for name, test := range map[string]struct {
		options []string
		words   []string
	}{
		"seed": {
			[]string{"dataset.seed=99"},
			[]string{"dataset.seed is 99, but the dataset was prepared with 7", "hint: to train on this dataset, add dataset=synthetic dataset.seed=7\n", "set another dataset.dir, and prepare it"},
		},
		"several_keys": {
			[]string{"dataset.train_per_class=3", "dataset.test_per_class=4"},
			[]string{"dataset.train_per_class is 3, but the dataset was prepared with 22; dataset.test_per_class is 4, but", "dataset.train_per_class=22 dataset.test_per_class=10"},
		},
		"kind": {
			[]string{"dataset=archive"},
			[]string{"dataset is archive, but the dataset was prepared with synthetic", "add dataset=synthetic dataset.seed=7 dataset.train_per_class=22 dataset.test_per_class=10"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			options := overrides(dir)
			if name == "kind" { // the keys of synthetic don't apply
				options = nil
				for _, o := range overrides(dir) {
					if !strings.HasPrefix(o, "dataset.") || strings.HasPrefix(o, "dataset.dir=") {
						options = append(options, o)
					}
				}
			}
			cfg, err := config.Load("", append(options, test.options...))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Run(t.Context(), cfg, "test", t.Output())
			wantError(t, err, append(test.words, testData)...)
			if _, err := os.Stat(dir); err == nil {
				t.Error("a run folder was created")
			}
		})
	}
	// A run that was started before must not be resumed with another description of its data.
	dir := interruptedRun(t)
	mustFail(t, dir, []string{"run.resume=true", "dataset.seed=99"}, "dataset.seed is 99")
}

func TestRun_ClassMissingFromValidation(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := draw(data, 22, 10); err != nil {
		t.Fatal(err)
	}
	edit(t, data, "train-labels.npy", func(labels []byte) {
		for i := range 21 {
			labels[header+i] = dataset.Real // one of 22 FAKE is left
		}
	}, func(m *dataset.Manifest) {
		m.Splits[dataset.Train] = map[string]int{"REAL": 43, "FAKE": 1}
		m.Warnings = []string{"the warning of the dataset"}
	})
	dir := filepath.Join(t.TempDir(), "run")
	s := mustTrain(t, dir, "dataset.dir="+data, "experiment.epochs=1")
	log, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"level=WARN", "no validation image is FAKE", "the warning of the dataset"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("%s lacks %q:\n%s", logFile, want, log)
		}
	}
	if notes := strings.Join(s.Test.Notes, "\n"); !strings.Contains(notes, "the warning of the dataset") {
		t.Errorf("notes of the evaluation are %q", notes)
	}
	strict := configuration(t, filepath.Join(t.TempDir(), "run"), "dataset.dir="+data)
	strict.Dataset.Strict = true // no key of dataset=synthetic
	_, err = Run(t.Context(), strict, "test", t.Output())
	wantError(t, err, "no validation image is FAKE", data, "dataset.strict=false")
	if _, err := os.Stat(strict.Run.Dir); err == nil {
		t.Error("a run folder was created")
	}
}

func TestValidationWarnings(t *testing.T) {
	split := &dataset.Split{Images: make([]uint8, 6*32*32*3), Labels: []uint16{0, 0, 0, 1, 1, 1}, Side: 32, Classes: dataset.Classes()}
	for i := range split.Labels {
		split.Image(i)[0] = uint8(i)
	}
	if w := validationWarnings(split, split.Subset([]int{0, 4}), []int{1, 2, 3}, []int{0, 4}); w != nil {
		t.Errorf("warnings about different images: %q", w)
	}
	copy(split.Image(4), split.Image(2))
	w := validationWarnings(split, split.Subset([]int{0, 4}), []int{1, 2, 3}, []int{0, 4})
	if len(w) != 1 || !strings.Contains(w[0], "1 of 2 validation images") || !strings.Contains(w[0], "4 = 2") {
		t.Errorf("warnings about one image twice: %q", w)
	}
	w = validationWarnings(split, split.Subset([]int{0, 1}), []int{3}, []int{0, 1})
	if len(w) != 1 || !strings.Contains(w[0], "no validation image is FAKE") {
		t.Errorf("warnings about a missing class: %q", w)
	}
}

func TestResume_OtherRevision(t *testing.T) {
	dir := interruptedRun(t) // by revision "test"
	s, err := Run(t.Context(), configuration(t, dir, "run.resume=true"), "later", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	f, err := model.Open(s.Model)
	if err != nil || f.Metadata.Revision != "test, later" {
		t.Errorf("revision of the model = %q (%v), want both that trained it", f.Metadata.Revision, err)
	}
}

// A model file of another run in the folder isn't the result of this run.
func TestResume_ForeignModel(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "other")
	want := mustTrain(t, dir)
	mustTrain(t, other, "experiment.seed=1")
	foreign, err := os.ReadFile(filepath.Join(other, modelFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, modelFile), foreign, 0o600)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, evalFile))
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := mustTrain(t, dir, "run.resume=true"); s.Digest != want.Digest {
		t.Errorf("digest = %s, want that of the run, %s", s.Digest, want.Digest)
	}
}
