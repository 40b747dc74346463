package evaluate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
)

// logFile writes an NDJSON export with one prediction per line. A line is "MODEL CLASS PROBABILITY
// [FEEDBACK]".
func logFile(t *testing.T, lines ...string) string {
	t.Helper()
	var b strings.Builder
	for i, line := range lines {
		var digest, predicted, probability, feedback string
		if n, _ := fmt.Sscan(line, &digest, &predicted, &probability, &feedback); n < 3 {
			t.Fatal(line)
		}
		fmt.Fprintf(&b, `{"id":"%d","time":"2026-11-26T10:00:00Z","model":%q,"label":%q,"probability":%s,"image_format":"png","width":32,"height":32,`+
			`"mean":0,"std_dev":0,"brightness":0,"contrast":0,"sharpness":0,"saturation":0,"embedding":[],"feedback_label":%q}`+"\n", i, digest, predicted, probability, feedback)
	}
	path := filepath.Join(t.TempDir(), "log.ndjson")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMeasureFeedback(t *testing.T) {
	// The threshold of sha256:a was 0.3. The logged predictions count, not those at 0.5.
	log := logFile(
		t,
		"sha256:a FAKE 0.9 FAKE", "sha256:a FAKE 0.4 FAKE", "sha256:a FAKE 0.8 REAL", "sha256:a REAL 0.2 REAL", "sha256:a REAL 0.25 FAKE",
		"sha256:a REAL 0.1", "sha256:a FAKE 0.99", "sha256:b REAL 0.1 REAL", "sha256:b FAKE 1 FAKE", "sha256:c REAL 0.1",
	)
	r, err := MeasureFeedback(t.Context(), log, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if r.Predictions != 10 || r.Count != 7 || len(r.Models) != 2 {
		t.Fatalf("%+v", r)
	}
	a := r.Models[0]
	if a.Model != "sha256:a" || a.Predictions != 7 || a.Count != 5 || a.Confusion != (Confusion{TP: 2, FP: 1, FN: 1, TN: 1}) {
		t.Errorf("%+v", a)
	}
	loss := -(math.Log(0.9) + math.Log(0.4) + math.Log(0.2) + math.Log(0.8) + math.Log(0.25)) / 5
	// Four of the pairs (0.9, 0.4, 0.25) × (0.8, 0.2) are in order.
	if math.Abs(a.Accuracy-0.6) > 1e-9 || math.Abs(a.Precision-2.0/3) > 1e-9 || math.Abs(*a.LogLoss-loss) > 1e-6 || a.ROCAUC == nil || math.Abs(*a.ROCAUC-4.0/6) > 1e-9 {
		t.Errorf("%+v, roc auc %v, want a loss of %g", a, a.ROCAUC, loss)
	}
	b := r.Models[1]
	if b.Accuracy != 1 || len(b.Notes) != 1 || !strings.Contains(b.Notes[0], "rounded") {
		t.Errorf("%+v", b)
	}

	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Predictions, Feedback int
		Models                []map[string]any
		Notes                 []string
	}
	if err := json.Unmarshal(text, &back); err != nil || back.Feedback != 7 || back.Models[0]["accuracy"] != 0.6 || back.Notes[0] != FeedbackNote {
		t.Errorf("%v: %s", err, text)
	}
	if _, ok := back.Models[0]["threshold"]; ok {
		t.Errorf("JSON has a threshold although it is unknown: %s", text)
	}
	var table bytes.Buffer
	r.WriteTable(&table)
	for _, part := range []string{"7 of 10 predictions", "sha256:a: feedback on 5 of 7", "accuracy    0.6000", "actual FAKE", "isn't a random sample"} {
		if !strings.Contains(table.String(), part) {
			t.Errorf("table lacks %q:\n%s", part, &table)
		}
	}
}

func TestMeasureFeedback_OnAllPredictions(t *testing.T) {
	r, err := MeasureFeedback(t.Context(), logFile(t, "sha256:a FAKE 0.9 FAKE", "sha256:a REAL 0.1 FAKE"), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if r.WriteTable(&table); !strings.Contains(table.String(), "2 of 2 predictions (100 %)") {
		t.Error(&table)
	}
}

func TestMeasureFeedback_OneModel(t *testing.T) {
	log := logFile(t, "sha256:a FAKE 0.9 FAKE", "sha256:b REAL 0.1 FAKE", "sha256:b REAL 0.1", "sha256:c REAL 0.1")
	f := &model.File{Digest: "sha256:b", Metadata: model.Trained(32, model.Real, model.Fake)}
	f.Metadata.Threshold = 0.4
	r, err := MeasureFeedback(t.Context(), log, f, false)
	if err != nil || len(r.Models) != 1 || r.Models[0].Model != "sha256:b" || r.Predictions != 2 || r.Count != 1 || *r.Models[0].Threshold != 0.4 {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = MeasureFeedback(t.Context(), log, &model.File{Digest: "sha256:c"}, false)
	if err == nil || !strings.Contains(err.Error(), "no feedback on the 1 predictions of sha256:c") || !strings.Contains(err.Error(), "hint: 2 predictions") {
		t.Errorf("got %v", err)
	}
	_, err = MeasureFeedback(t.Context(), logFile(t, "sha256:a FAKE 0.9"), nil, false)
	if err == nil || !strings.Contains(err.Error(), "POST /feedback") {
		t.Errorf("got %v", err)
	}
	if _, err = MeasureFeedback(t.Context(), filepath.Join(t.TempDir(), "absent"), nil, false); err == nil {
		t.Error("MeasureFeedback(missing file) succeeded")
	}
}

// Without a model file, the classes are the labels in the log.
func TestMeasureFeedback_ManyClasses(t *testing.T) {
	log := logFile(t, "sha256:a cat 0.9 cat", "sha256:a dog 0.6 cat", "sha256:a owl 0.5 owl", "sha256:a dog 0.7 dog", "sha256:a dog 0.7 wolf")
	r, err := MeasureFeedback(t.Context(), log, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	m := r.Models[0]
	if m.Binary != nil || m.LogLoss != nil || math.Abs(m.Accuracy-0.6) > 1e-9 || len(m.PerClass) != 4 || m.PerClass[0].Label != "cat" || m.PerClass[0].Support != 2 {
		t.Errorf("metrics %+v", m.Metrics)
	}
	f := &model.File{Digest: "sha256:a", Metadata: model.Trained(32, "cat", "dog", "owl")}
	r, err = MeasureFeedback(t.Context(), log, f, false)
	if err != nil {
		t.Fatal(err)
	}
	if r.Count != 4 || len(r.Models[0].PerClass) != 3 || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "feedback on 1 predictions is not counted") }) {
		t.Errorf("feedback %+v, want 4 predictions and a note about the unknown label", r)
	}
	_, err = MeasureFeedback(t.Context(), logFile(t, "sha256:a ant 0.9 cat", "sha256:a cat 0.9 cat"), f, true)
	if err == nil || !strings.Contains(err.Error(), `"ant" isn't one of the model's classes`) {
		t.Errorf("error %v, want one about the class of another model", err)
	}
}

func TestRun_FeedbackNote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := config.Dataset{Name: "synthetic", Dir: dir, Seed: 1, TrainPerClass: 2, TestPerClass: 3}
	if _, err := dataset.Prepare(t.Context(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "manifest.json")
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, bytes.Replace(text, []byte(`"kind": "synthetic"`), []byte(`"kind": "feedback"`), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := Run(t.Context(), file(t, identity, nil), dir, "test", 4)
	if err != nil || !slices.Contains(r.Notes, FeedbackNote) || slices.Contains(r.Notes, SyntheticNote) {
		t.Errorf("%+v, %v", r, err)
	}
}
