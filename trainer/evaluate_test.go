package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEvaluate_CorruptionsAndReport(t *testing.T) {
	run := trained(t)
	page := filepath.Join(t.TempDir(), "report.html")
	code, stdout, stderr := trainer(t, "evaluate", "--model", filepath.Join(run, "model.onnx"), "--data", filepath.Join(filepath.Dir(run), "d"), "--corruptions", "--report", page)
	if code != 0 || !strings.Contains(stdout, `"corruptions"`) || !strings.Contains(stderr, "evaluated noise, severity 1\n") {
		t.Fatalf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	// The report includes the configuration and metrics of the run folder.
	for _, part := range []string{"Corrupted images", "Accuracy on images with pixelate, by severity", "val_split: 0.5", "evidence for the predicted class"} {
		if !strings.Contains(string(html), part) {
			t.Errorf("the report lacks %q", part)
		}
	}
	if strings.Contains(string(html), "No metrics were recorded") {
		t.Error("the report has no training curves")
	}
}

func TestEvaluate_Log(t *testing.T) {
	line := func(digest, feedback string) string {
		return `{"time":"2026-11-26T10:00:00Z","model":"` + digest + `","label":"FAKE","probability":0.9,"image_format":"png","width":32,"height":32,"mean":0,"std_dev":0,` +
			`"brightness":0,"contrast":0,"sharpness":0,"saturation":0,"embedding":[],"feedback_label":"` + feedback + `"}` + "\n"
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
	if code != 0 || !strings.Contains(stdout, `"feedback": 3`) || !strings.Contains(stdout, `"sha256:other"`) || stderr != "" {
		t.Errorf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = trainerOnTerminal(t, "evaluate", "--log", log)
	if code != 0 || !strings.Contains(stdout, "feedback on 3 of 4 predictions") || strings.Contains(stdout, "{") || stderr != "" {
		t.Errorf("on a terminal: exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = trainer(t, "evaluate", "--log", log, "--model", file)
	if code != 0 || !strings.Contains(stdout, `"accuracy": 0.5`) || strings.Contains(stdout, "other") || !strings.Contains(stdout, "isn't a random sample") {
		t.Errorf("exit code %d, standard output\n%s\nstandard error\n%s", code, stdout, stderr)
	}
	if code, _, stderr = trainer(t, "evaluate", "--log", filepath.Join(run, "metrics.csv")); code != exitFailure || !strings.Contains(stderr, "not a prediction log") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestEvaluate_TableOnTerminalJSONOtherwise(t *testing.T) {
	run := trained(t)
	args := []string{"evaluate", "--model", filepath.Join(run, "model.onnx"), "--data", filepath.Join(filepath.Dir(run), "d")}
	for _, test := range []struct {
		name    string
		program func(*testing.T, ...string) (int, string, string)
		args    []string
		json    bool
	}{
		{"terminal", trainerOnTerminal, args, false},
		{"terminal_with_json", trainerOnTerminal, append(args, "--json"), true},
		{"pipe", trainer, args, true},
		{"pipe_with_json", trainer, append(args, "--json"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := test.program(t, test.args...)
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d, standard error %q", code, stderr)
			}
			if json.Valid([]byte(stdout)) != test.json || strings.Contains(stdout, "predicted FAKE") == test.json || !strings.HasSuffix(stdout, "\n") {
				t.Errorf("standard output, JSON expected: %v\n%s", test.json, stdout)
			}
		})
	}
}

func TestEvaluate_ReportOfModelInAnotherRunFolder(t *testing.T) {
	run, other := trained(t), t.TempDir()
	model, err := os.ReadFile(filepath.Join(run, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(run, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"model.onnx": model, "config.yaml": []byte(strings.Replace(string(text), "patience: 3", "patience: 4", 1))} {
		if err := os.WriteFile(filepath.Join(other, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	page := filepath.Join(other, "report.html")
	code, stdout, stderr := trainer(t, "evaluate", "--model", filepath.Join(other, "model.onnx"), "--data", filepath.Join(filepath.Dir(run), "d"), "--split", "train", "--report", page)
	if code != 0 || !strings.Contains(stderr, filepath.Join(other, "config.yaml")+" isn't the configuration of") {
		t.Errorf("exit code %d, standard error %q", code, stderr)
	}
	if !strings.Contains(stdout, "the model was trained on these images") {
		t.Errorf("standard output lacks the note on the train split:\n%s", stdout)
	}
	if html, err := os.ReadFile(page); err != nil || strings.Contains(string(html), "patience: 4") {
		t.Errorf("the report shows the configuration of another run (%v)", err)
	}
}

func TestEvaluate_LogWithDuplicatesAndUnreadableRecords(t *testing.T) {
	line := func(id, label string) string {
		return `{"id":"` + id + `","time":"2026-11-26T10:00:00Z","model":"sha256:aa","label":"` + label + `","probability":0.9,"image_format":"png","width":32,"height":32,"mean":0,"std_dev":0,` +
			`"brightness":0,"contrast":0,"sharpness":0,"saturation":0,"embedding":[],"feedback_label":"FAKE"}` + "\n"
	}
	log := filepath.Join(t.TempDir(), "log.ndjson")
	text := line("1", "FAKE") + line("2", "REAL") + line("2", "REAL") + line("2", "REAL") + line("3", "")
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := trainer(t, "evaluate", "--log", log)
	var result struct {
		Predictions, Feedback int
		Models                []struct{ Accuracy float64 }
		Duplicates            int `json:"duplicate_records"`
		Unreadable            int `json:"unreadable_records"`
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, stderr)
	}
	if result.Predictions != 2 || result.Feedback != 2 || result.Models[0].Accuracy != 0.5 || result.Duplicates != 2 || result.Unreadable != 1 {
		t.Errorf("%+v, want 2 predictions with feedback, accuracy 0.5, 2 duplicates and 1 unreadable record", result)
	}
	if !strings.Contains(stderr, "ignored 2 duplicate records") || !strings.Contains(stderr, log+`:5: the label is empty`) {
		t.Errorf("standard error %q", stderr)
	}
	if code, _, stderr := trainer(t, "evaluate", "--log", log, "--strict"); code != exitFailure || !strings.Contains(stderr, log+`:5: the label is empty`) {
		t.Errorf("--strict: exit code %d, standard error %q", code, stderr)
	}
	if code, _, _ := trainer(t, "evaluate", "--model", "m", "--data", "d", "--strict"); code != exitUsage {
		t.Errorf("--strict without --log: exit code %d", code)
	}
}
