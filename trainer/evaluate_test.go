package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEvaluateWritesAPageWithCorruptions(t *testing.T) {
	run := trained(t)
	page := filepath.Join(t.TempDir(), "report.html")
	code, stdout, stderr := trainer(t, "evaluate", "--model", filepath.Join(run, "model.onnx"), "--data", filepath.Join(filepath.Dir(run), "d"), "--corruptions", "--report", page)
	if code != 0 || !strings.Contains(stdout, `"corruptions"`) || !strings.Contains(stderr, "accuracy on corrupted images") {
		t.Fatalf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	// What the run folder tells is there, too.
	for _, part := range []string{"Corrupted images", "Accuracy on images with pixelate, by severity", "val_split: 0.5", "evidence for the predicted class"} {
		if !strings.Contains(string(html), part) {
			t.Errorf("the page does not say %q", part)
		}
	}
	if strings.Contains(string(html), "No metrics were recorded") {
		t.Error("the curves of the training are missing")
	}
}

func TestEvaluateMeasuresALogOnWhatUsersSaid(t *testing.T) {
	line := func(digest, said string) string {
		return `{"time":"2026-11-26T10:00:00Z","model":"` + digest + `","label":"FAKE","probability":0.9,"image_format":"png","width":32,"height":32,"mean":0,"std_dev":0,` +
			`"brightness":0,"contrast":0,"sharpness":0,"saturation":0,"embedding":[],"feedback_label":"` + said + `"}` + "\n"
	}
	run := trained(t)
	file := filepath.Join(run, "model.onnx")
	code, stdout, stderr := trainer(t, "evaluate", "--model", file, "--data", filepath.Join(filepath.Dir(run), "d"))
	var result struct{ Model string }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != 0 {
		t.Fatal(err, stderr)
	}
	log := filepath.Join(t.TempDir(), "log.ndjson")
	if err := os.WriteFile(log, []byte(line(result.Model, "REAL")+line(result.Model, "FAKE")+line("sha256:other", "FAKE")+line("sha256:other", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = trainer(t, "evaluate", "--log", log)
	if code != 0 || !strings.Contains(stdout, `"feedback": 3`) || !strings.Contains(stdout, `"sha256:other"`) || !strings.Contains(stderr, "3 of 4 predictions") {
		t.Errorf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = trainer(t, "evaluate", "--log", log, "--model", file)
	if code != 0 || !strings.Contains(stdout, `"accuracy": 0.5`) || strings.Contains(stdout, "other") || !strings.Contains(stderr, "isn't a random sample") {
		t.Errorf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	if code, _, stderr = trainer(t, "evaluate", "--log", filepath.Join(run, "metrics.csv")); code != exitFailure || !strings.Contains(stderr, "not a prediction log") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
