package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEvaluateWritesAPageWithCorruptions(t *testing.T) {
	run := trained(t)
	page := filepath.Join(t.TempDir(), "report.html")
	code, stdout, stderr := trainer(t, "evaluate", "--model", filepath.Join(run, "model.onnx"), "--data", filepath.Join(filepath.Dir(run), "d"), "--corruptions", "--report", page)
	if code != 0 || !strings.Contains(stdout, `"corruptions"`) || !strings.Contains(stderr, "accuracy on corrupted pictures") {
		t.Fatalf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	// What the run folder tells is there, too.
	for _, part := range []string{"On corrupted pictures", "Accuracy on pictures with pixelate, by severity", "val_split: 0.5"} {
		if !strings.Contains(string(html), part) {
			t.Errorf("the page does not say %q", part)
		}
	}
	if strings.Contains(string(html), "No metrics were recorded") {
		t.Error("the curves of the training are missing")
	}
}
