package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/trainer/dataset"
)

// The dataset of the tests consists of single-color images. The model only uses their red:
// logit = 20 * red/255 - 10.
var (
	reals = []uint8{0, 20, 60, 127, 130}        // the last one is classified as FAKE
	fakes = []uint8{250, 255, 200, 140, 128, 9} // the last one is classified as REAL
)

// redness is the graph of the model. %s stands for nodes that compute `embedding` from `mean`.
const redness = `
ir_version: 8 opset_import { version: 17 }
graph {
  name: "redness"
  node { op_type: "GlobalAveragePool" input: "input" output: "pooled" }
  node { op_type: "Flatten" input: "pooled" output: "mean" }
  %s
  node { op_type: "Gemm" input: "embedding" input: "w" input: "b" output: "logit" }
  initializer { name: "w" data_type: 1 dims: 3 dims: 1 float_data: [20, 0, 0] }
  initializer { name: "b" data_type: 1 dims: 1 float_data: [-10] }
  initializer { name: "half" data_type: 1 dims: 1 float_data: [0.5] }
  input { name: "input" type { tensor_type { elem_type: 1 shape {
    dim { dim_param: "batch" } dim { dim_value: 3 } dim { dim_value: %[2]d } dim { dim_value: %[2]d } } } } }
  output { name: "logit" type { tensor_type { elem_type: 1 shape { dim { dim_param: "batch" } dim { dim_value: 1 } } } } }
  output { name: "embedding" type { tensor_type { elem_type: 1 shape { dim { dim_param: "batch" } dim { dim_value: 3 } } } } }
}`

const identity = `node { op_type: "Identity" input: "mean" output: "embedding" }`

// file returns a model file whose metadata change has modified, unless it is nil.
func file(t *testing.T, nodes string, change func(*model.Metadata)) *model.File {
	t.Helper()
	md := model.Trained(32, model.Real, model.Fake)
	md.Name = "redness"
	if change != nil {
		change(&md)
	}
	var graph onnxpb.ModelProto
	if err := prototext.Unmarshal(fmt.Appendf(nil, redness, nodes, md.Preprocessing.Height), &graph); err != nil {
		t.Fatal(err)
	}
	data, err := model.Marshal(&graph, md)
	if err != nil {
		t.Fatal(err)
	}
	f, err := model.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// prepare creates a dataset of the images above and returns its directory.
func prepare(t *testing.T) string {
	t.Helper()
	source, dir := t.TempDir(), filepath.Join(t.TempDir(), "data")
	for _, split := range []string{"train", "test"} {
		for class, reds := range map[string][]uint8{"REAL": reals, "FAKE": fakes} {
			folder := filepath.Join(source, split, class)
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			for i, red := range reds {
				img := image.NewNRGBA(image.Rect(0, 0, 32, 32))
				for p := range 32 * 32 {
					img.SetNRGBA(p%32, p/32, color.NRGBA{R: red, G: 90, B: uint8(i), A: 255})
				}
				var data bytes.Buffer
				if err := png.Encode(&data, img); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.png", i)), data.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	cfg := config.Dataset{Name: "archive", Path: source, Dir: dir}
	if _, err := dataset.Prepare(context.Background(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRun(t *testing.T) {
	dir, f := prepare(t), file(t, identity, nil)
	images, manifest, err := dataset.Load(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range []int{1, 4, 11, 1000} { // of 11 images
		t.Run(fmt.Sprintf("batch_%d", batch), func(t *testing.T) {
			r, logits, err := Run(context.Background(), f, dir, "test", batch)
			if err != nil {
				t.Fatal(err)
			}
			if len(logits) != 11 {
				t.Fatalf("%d logits", len(logits))
			}
			for i, z := range logits {
				if want := 20*float64(images.Image(i)[0])/255 - 10; math.Abs(float64(z)-want) > 1e-4 {
					t.Errorf("logit %d = %v, want %v", i, z, want)
				}
			}
			if want := (Confusion{TP: 5, FN: 1, FP: 1, TN: 4}); r.Confusion != want {
				t.Errorf("confusion = %+v, want %+v", r.Confusion, want)
			}
			near(t, "accuracy", r.Accuracy, 9.0/11)
			// Of the FAKE images, the one with a red of 9 scores below four REAL images, and the one
			// with 128 below one. The other 25 of the 30 pairs are in order.
			near(t, "roc_auc", *r.ROCAUC, 25.0/30)
			if r.Model != f.Digest || r.Data != manifest.Digest() || r.Source != "archive" || r.Split != "test" || r.Count != 11 {
				t.Errorf("result = %+v", r)
			}

			_, again, err := Run(context.Background(), f, dir, "test", batch)
			if err != nil || !slices.Equal(logits, again) {
				t.Errorf("second Run() = %v, %v, first = %v", again, err, logits)
			}
		})
	}
}

func TestRun_ModelThreshold(t *testing.T) {
	f := file(t, identity, func(md *model.Metadata) { md.Threshold = 0.999 })
	r, _, err := Run(context.Background(), f, prepare(t), "train", 8)
	if err != nil {
		t.Fatal(err)
	}
	if r.Threshold != 0.999 || r.Split != "train" || r.Confusion.TP != 2 || r.Confusion.FP != 0 {
		t.Errorf("result = %+v", r)
	}
}

func TestRun_SyntheticNote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := config.Dataset{Name: "synthetic", Dir: dir, Seed: 1, TrainPerClass: 2, TestPerClass: 3}
	if _, err := dataset.Prepare(context.Background(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	r, _, err := Run(context.Background(), file(t, identity, nil), dir, "test", 4)
	if err != nil {
		t.Fatal(err)
	}
	if r.Source != "synthetic" || !slices.Contains(r.Notes, SyntheticNote) {
		t.Errorf("result = %+v", r)
	}
	var table bytes.Buffer
	r.WriteTable(&table)
	if !strings.Contains(table.String(), SyntheticNote) {
		t.Errorf("table:\n%s", &table)
	}
}

func TestRun_ModelDoesNotMatchDataset(t *testing.T) {
	dir := prepare(t)
	for _, tc := range []struct {
		name   string
		change func(*model.Metadata)
		want   []string
	}{
		{
			"preprocessing",
			func(md *model.Metadata) { md.Preprocessing.Filter = imaging.Bicubic },
			[]string{"rgb-32x32-bicubic", "rgb-32x32-bilinear-aa-v3", dir, "matching model"},
		},
		{
			"class_names",
			func(md *model.Metadata) { md.Classes, md.Positive = []string{"CAT", "DOG"}, "DOG" },
			[]string{`"CAT" "DOG"`, `"REAL" "FAKE"`, dir, "use a model"},
		},
		{
			"class_order",
			func(md *model.Metadata) { md.Classes = []string{"FAKE", "REAL"} },
			[]string{`"FAKE" "REAL"`, `"REAL" "FAKE"`, dir, "use a model"},
		},
		{
			"input_size",
			func(md *model.Metadata) { md.Preprocessing = imaging.Square(64) },
			[]string{"rgb-64x64", "rgb-32x32", "matching model"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, logits, err := Run(context.Background(), file(t, identity, tc.change), dir, "test", 4)
			if err == nil || r != nil || logits != nil {
				t.Fatalf("result %v, error %v", r, err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestRun_InvalidInput(t *testing.T) {
	dir := prepare(t)
	good := file(t, identity, nil)
	// The square root of 0.5 minus the mean is NaN for bright images.
	nan := file(t, `
		node { op_type: "Sub" input: "half" input: "mean" output: "left" }
		node { op_type: "Sqrt" input: "left" output: "embedding" }`, nil)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		name  string
		ctx   context.Context
		file  *model.File
		dir   string
		split string
		batch int
		want  string
	}{
		{"batch_0", t.Context(), good, dir, "test", 0, "batch size 0"},
		{"negative_batch", t.Context(), good, dir, "test", -3, "batch size -3"},
		{"unknown_split", t.Context(), good, dir, "final", 4, "final"},
		{"missing_dataset", t.Context(), good, filepath.Join(dir, "none"), "test", 4, "data prepare"},
		{"NaN_logits", t.Context(), nan, dir, "test", 4, "is NaN for this image: the model has invalid weights"},
		{"canceled", canceled, good, dir, "test", 4, "stopped after 0 of 11 images"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, logits, err := Run(tc.ctx, tc.file, tc.dir, tc.split, tc.batch)
			if err == nil || !strings.Contains(err.Error(), tc.want) || r != nil || logits != nil {
				t.Fatalf("result %v, error = %v, want one with %q", r, err, tc.want)
			}
			if tc.ctx == canceled && !errors.Is(err, context.Canceled) {
				t.Errorf("error = %v, want context.Canceled", err)
			}
		})
	}
}

// sampleResult returns a Result to be formatted.
func sampleResult(t *testing.T) *Result {
	t.Helper()
	m, err := measure01(logits(0.9, 0.8, 0.3, 0.2, 0.6), []uint16{1, 1, 1, 0, 0}, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	return &Result{
		Model: "sha256:aa", Data: "sha256:bb", Source: "archive", Split: "test", Count: 5,
		Classes: dataset.Classes(), Metrics: m,
	}
}

func TestResult_JSON(t *testing.T) {
	text, err := sampleResult(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for key := range got {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	want := []string{
		"accuracy", "balanced_accuracy", "classes", "confusion", "confusion_matrix", "count", "data", "expected_calibration_error", "f1",
		"largest_confusions", "log_loss", "macro_average", "model", "per_class", "positive", "precision", "recall", "roc_auc", "roc_auc_ovr",
		"source", "split", "threshold", "weighted_average",
	}
	if !slices.Equal(keys, want) {
		t.Errorf("fields %q, want %q", keys, want)
	}
	confusion, _ := got["confusion"].(map[string]any)
	for key, want := range map[string]float64{"tp": 2, "fn": 1, "fp": 1, "tn": 1} {
		if confusion[key] != want {
			t.Errorf("confusion.%s = %v, want %v", key, confusion[key], want)
		}
	}
	if got["accuracy"] != 0.6 || got["model"] != "sha256:aa" || got["count"] != 5.0 {
		t.Errorf("JSON = %s", text)
	}
}

func TestResult_WriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "eval.json")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := sampleResult(t)
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	want, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("eval.json = %s, %v", got, err)
	}
	missing := filepath.Join(t.TempDir(), "no", "eval.json")
	if err := r.WriteFile(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error = %v, want an error that names %s", err, missing)
	}
}

func TestResult_WriteTable(t *testing.T) {
	r := sampleResult(t)
	var table bytes.Buffer
	r.WriteTable(&table)
	want := fmt.Sprintf(`5 images of the test split (archive), classified as FAKE above a probability of 0.5

  accuracy    0.6000   roc auc             0.8333
  precision   0.6667   log loss            %.4f
  recall      0.6667   calibration error   %.4f
  f1          0.6667   balanced accuracy   0.5833

               predicted FAKE  predicted REAL
  actual FAKE               2               1
  actual REAL               1               1

model  sha256:aa
data   sha256:bb
`, *r.LogLoss, r.ECE)
	if table.String() != want {
		t.Errorf("table:\n%s\nwant:\n%s", &table, want)
	}

	r.ROCAUC, r.Notes = nil, []string{"roc_auc is undefined"}
	table.Reset()
	r.WriteTable(&table)
	for _, want := range []string{"undefined\n", "note   roc_auc is undefined"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, &table)
		}
	}
}
