package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fakeart/internal/drift"
)

// trained returns a run folder whose reference has 200 rows.
func trained(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	data, run := filepath.Join(dir, "d"), filepath.Join(dir, "r")
	for _, args := range [][]string{
		{"data", "prepare", "dataset.dir=" + data, "dataset.train_per_class=200", "dataset.test_per_class=2"},
		{"train", "dataset.dir=" + data, "dataset.train_per_class=200", "dataset.test_per_class=2", "run.dir=" + run, "experiment.epochs=1", "experiment.val_split=0.5", "model.channels=[2]", "model.dense=[8]"},
	} {
		if code, _, stderr := trainer(t, args...); code != 0 {
			t.Fatal(stderr)
		}
	}
	return run
}

// logged writes a log that contains each row of the run's reference several times, modified by change.
func logged(t *testing.T, run string, times int, change func(*drift.Row)) string {
	t.Helper()
	reference, err := drift.ReadReference(run)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range times * len(reference.Rows) {
		r := reference.Rows[i%len(reference.Rows)]
		r.Embedding = slices.Clone(r.Embedding)
		r.Format, r.Width, r.Height = "jpeg", 32, 32
		change(&r)
		embedding, err := json.Marshal(r.Embedding)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, `{"time":"%s","model":"%s","label":"%s","probability":%g,"image_format":"%s","width":%d,"height":%d,"mean":%g,"std_dev":%g,`+
			`"brightness":%g,"contrast":%g,"sharpness":%g,"saturation":%g,"embedding":%s}`+"\n",
			time.Unix(1e9+int64(i), 0).UTC().Format(time.RFC3339), r.Model, r.Label, r.Probability, r.Format, r.Width, r.Height, r.Mean, r.StdDev,
			r.Brightness, r.Contrast, r.Sharpness, r.Saturation, embedding)
	}
	path := filepath.Join(t.TempDir(), "log.ndjson")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDrift(t *testing.T) {
	run := trained(t)
	same := logged(t, run, 1, func(*drift.Row) {})
	changed := logged(t, run, 1, func(r *drift.Row) { r.Sharpness /= 2 })

	code, stdout, stderr := trainer(t, "drift", "--reference", run, "--current", same, "--fail-on-drift")
	if code != 0 || stderr != "" || !strings.Contains(stdout, "no drift in the other columns") || !strings.Contains(stdout, "unknown: width, height, image_format: ") {
		t.Errorf("unchanged log: exit code %d, standard error %q, standard output\n%s", code, stderr, stdout)
	}
	result, page := filepath.Join(t.TempDir(), "drift.json"), filepath.Join(t.TempDir(), "drift.html")
	code, stdout, stderr = trainer(t, "drift", "--reference", filepath.Join(run, drift.ReferenceFile), "--current", changed, "--json", result, "--report", page)
	if code != 0 || stderr != "" || !strings.Contains(stdout, "\ndrift in sharpness\n") {
		t.Errorf("changed log: exit code %d, standard error %q, standard output\n%s", code, stderr, stdout)
	}
	code, _, stderr = trainer(t, "drift", "--reference", run, "--current", changed, "--fail-on-drift")
	if code != exitDrift {
		t.Errorf("--fail-on-drift: exit code %d", code)
	}
	checkError(t, stderr, "sharpness")

	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "Drift in sharpness") {
		t.Errorf("report: %v", err)
	}
	var got struct {
		Drift   bool
		Records int
		From    time.Time
		Columns []drift.Column
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if !got.Drift || got.Records != 200 || got.From.Unix() != 1e9 || len(got.Columns) != 12 {
		t.Errorf("JSON = %s", text)
	}
}

func TestDrift_LogAsReference(t *testing.T) {
	run := trained(t)
	// Images have another width in the second half.
	n := 0
	log := logged(t, run, 2, func(r *drift.Row) {
		if n++; n > 200 {
			r.Width = 640
		}
	})
	since := time.Unix(1e9+200, 0).UTC().Format(time.RFC3339)
	code, stdout, stderr := trainer(t, "drift", "--reference", log, "--current", log, "--since", since, "--fail-on-drift")
	if code != exitDrift || !strings.Contains(stdout, "\ndrift in width\n") || strings.Contains(stdout, "unknown") {
		t.Errorf("exit code %d, standard error %q, standard output\n%s", code, stderr, stdout)
	}
}

func TestDrift_OtherModels(t *testing.T) {
	run := trained(t)
	n := 0
	log := logged(t, run, 2, func(r *drift.Row) {
		if n++; n%2 == 0 {
			r.Model, r.Mean = "sha256:other", 9
		}
	})
	code, stdout, stderr := trainer(t, "drift", "--reference", run, "--current", log, "--fail-on-drift")
	if code != 0 || stderr != "ignored 200 records of another model, sha256:other\n" {
		t.Errorf("exit code %d, standard error %q, standard output\n%s", code, stderr, stdout)
	}
}

func TestDrift_Error(t *testing.T) {
	run := trained(t)
	empty := filepath.Join(t.TempDir(), "empty.ndjson")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n := 0
	ten := logged(t, run, 1, func(r *drift.Row) {
		if n++; n > 10 {
			r.Model = "sha256:other"
		}
	})
	other := logged(t, run, 1, func(r *drift.Row) { r.Model = "sha256:other" })
	for _, test := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"--reference", run, "--current", empty}, exitFailure, []string{empty, "the log is empty"}},
		{[]string{"--reference", run, "--current", other}, exitFailure, []string{other, "other models", "sha256:other"}},
		{[]string{"--reference", run, "--current", run}, exitFailure, []string{run, "not a regular file"}},
		{[]string{"--reference", empty, "--current", other}, exitFailure, []string{empty}},
		{[]string{"--reference", t.TempDir(), "--current", other}, exitFailure, []string{drift.ReferenceFile}},
		{[]string{"--reference", other, "--current", other, "--since", "2000-01-01"}, exitFailure, []string{"reference: ", other, "outside the requested time"}},
		{[]string{"--reference", run}, exitUsage, []string{"--current"}},
		{[]string{"--reference", run, "--current", other, "--since", "tomorrow"}, exitUsage, []string{"tomorrow"}},
		{[]string{"--reference", run, "--current", other, "--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"}, exitUsage, []string{"isn't before"}},
	} {
		code, stdout, stderr := trainer(t, append([]string{"drift", "--fail-on-drift"}, test.args...)...)
		if code != test.code || stdout != "" {
			t.Errorf("%v: exit code %d, standard output %q", test.args, code, stdout)
		}
		checkError(t, stderr, test.want...)
	}
	code, stdout, stderr := trainer(t, "drift", "--fail-on-drift", "--reference", run, "--current", ten)
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, "too few rows") {
		t.Errorf("ten rows: exit code %d, standard output %q, standard error %q", code, stdout, stderr)
	}
}

func TestDrift_LogAgainstItself(t *testing.T) {
	run := trained(t)
	log := logged(t, run, 2, func(*drift.Row) {})
	copied := filepath.Join(t.TempDir(), "copy.ndjson")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	// Half of the records are in both logs.
	if err := os.WriteFile(copied, text[len(text)/2:], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"same_file", []string{"--reference", log, "--current", log}, "400 of 400"},
		{"copy_of_a_part", []string{"--reference", log, "--current", copied}, "the same records"},
		{"until_only", []string{"--reference", log, "--current", log, "--until", "2026-01-01"}, "--until without --since"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := trainer(t, append([]string{"drift"}, test.args...)...)
			if code != exitFailure || stdout != "" {
				t.Errorf("exit code %d, standard output %q, want an error", code, stdout)
			}
			checkError(t, stderr, test.want)
			if !strings.Contains(stderr, "hint: add --since") {
				t.Errorf("standard error %q, want a hint", stderr)
			}
		})
	}
	// Other records with the same values can be compared, and a run's reference needs no --since.
	later := filepath.Join(t.TempDir(), "later.ndjson")
	if err := os.WriteFile(later, []byte(strings.ReplaceAll(string(text), `{"time":"2001`, `{"time":"2002`)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--reference", log, "--current", later}, {"--reference", run, "--current", log, "--until", "2026-01-01"}} {
		if code, stdout, stderr := trainer(t, append([]string{"drift"}, args...)...); code != 0 || !strings.Contains(stdout, "no drift") {
			t.Errorf("%v: exit code %d, standard error %q, standard output\n%s", args, code, stderr, stdout)
		}
	}
}

func TestDrift_SkippedRecords(t *testing.T) {
	run := trained(t)
	n := 0
	log := logged(t, run, 1, func(*drift.Row) {})
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i := range lines {
		lines[i] = strings.Replace(lines[i], "{", fmt.Sprintf(`{"id":"%d",`, n), 1)
		n++
	}
	lines = append(lines[:len(lines)-1], lines[0], lines[0], "{\"id\":\n")
	if err := os.WriteFile(log, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	result := filepath.Join(t.TempDir(), "drift.json")
	code, stdout, stderr := trainer(t, "drift", "--reference", run, "--current", log, "--json", result)
	if code != 0 || !strings.HasPrefix(stdout, "200 records ") || !strings.Contains(stderr, "ignored 2 duplicate records") || !strings.Contains(stderr, "skipped 1 unreadable records: "+log+":203: ") {
		t.Errorf("exit code %d, standard error %q, standard output\n%s", code, stderr, stdout)
	}
	var got struct {
		Duplicates int `json:"duplicate_records"`
		Unreadable int `json:"unreadable_records"`
	}
	text, err = os.ReadFile(result)
	if err != nil || json.Unmarshal(text, &got) != nil || got.Duplicates != 2 || got.Unreadable != 1 {
		t.Errorf("JSON = %s, %v", text, err)
	}
	code, stdout, stderr = trainer(t, "drift", "--reference", run, "--current", log, "--strict")
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, log+":203: ") {
		t.Errorf("--strict: exit code %d, standard error %q, standard output %q", code, stderr, stdout)
	}
}
