package runlog

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const head = "kind,epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,lr,images_per_second\n"

var nan = math.NaN()

// sampleRows returns the rows of three epochs of two steps.
func sampleRows() []Row {
	var rows []Row
	for step := 1; step <= 6; step++ {
		epoch := (step + 1) / 2
		rows = append(rows, Row{Step, epoch, step, 1 / float64(step), 0.5, nan, nan, 0.001, 2650.125})
		if step%2 == 0 {
			rows = append(rows, Row{Epoch, epoch, step, 1 / float64(step), 0.75, 0.1 * float64(epoch), 0.875, 1e-5, 2640})
		}
	}
	return rows
}

func write(t *testing.T, l *Log, err error, rows ...Row) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRead_RoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	rows := append(sampleRows(), Row{Epoch, 4, 7, nan, 1.0 / 3, nan, nan, 5e-324, math.MaxFloat64})
	write(t, l, err, rows...)

	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(rows) { // compared as text, since NaN != NaN
		t.Errorf("Read() =\n%v\nwant\n%v", got, rows)
	}
}

func TestAppend_FileFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	write(t, l, err,
		Row{Kind: Step, Epoch: 1, Step: 1, TrainLoss: 0.5, TrainAccuracy: 0.75, LR: 0.001, ImagesPerSecond: 2650.5},
		Row{Epoch, 1, 1, 0.5, 0.75, 0.25, 1, 0.001, 2650.5},
		Row{Epoch, 2, 2, 0.5, 0.75, nan, nan, 0.001, 2650.5})
	want := head + "step,1,1,0.5,0.75,,,0.001,2650.5\nepoch,1,1,0.5,0.75,0.25,1,0.001,2650.5\nepoch,2,2,0.5,0.75,,,0.001,2650.5\n"
	if got := text(t, path); got != want {
		t.Errorf("file contains\n%s\nwant\n%s", got, want)
	}
}

func TestAppend_VisibleBeforeClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(sampleRows()[0]); err != nil {
		t.Fatal(err)
	}
	if rows, err := Read(path); err != nil || len(rows) != 1 {
		t.Errorf("Read() = %d rows, %v, want 1 row", len(rows), err)
	}
}

func TestCreate_FileExists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	write(t, l, err, sampleRows()...)
	before := text(t, path)
	if _, err := Create(path); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("error = %v", err)
	}
	if text(t, path) != before {
		t.Error("Create changed the existing file")
	}
}

func TestResume_AfterCrashAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	complete := filepath.Join(dir, "complete.csv")
	l, err := Create(complete)
	write(t, l, err, sampleRows()...)
	want := text(t, complete)

	// The run crashes after every possible number of bytes and resumes from the checkpoint of
	// every earlier step.
	for size := range len(want) + 1 {
		var last int
		for _, line := range strings.SplitAfter(want[:size], "\n") {
			var kind string
			if strings.HasSuffix(line, "\n") && line != head {
				cells := strings.Split(line, ",")
				kind = cells[0]
				if _, err := fmt.Sscan(cells[2], &last); err != nil || kind == "" {
					t.Fatalf("line %q", line)
				}
			}
		}
		for checkpoint := range last + 1 {
			path := filepath.Join(dir, "crashed.csv")
			if err := os.WriteFile(path, []byte(want[:size]), 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := Resume(path, checkpoint)
			var rest []Row
			for _, r := range sampleRows() {
				// A run that resumes after the last step of an epoch repeats the row of the epoch.
				if r.Step > checkpoint || r.Step == checkpoint && r.Kind == Epoch {
					rest = append(rest, r)
				}
			}
			write(t, l, err, rest...)
			if got := text(t, path); got != want {
				t.Fatalf("crash after %d bytes, resumed after step %d:\n%s\nwant\n%s", size, checkpoint, got, want)
			}
		}
	}
}

func TestResume_MissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Resume(path, 0)
	write(t, l, err, sampleRows()[0])
	if got := text(t, path); !strings.HasPrefix(got, head+"step,1,1,") {
		t.Errorf("file contains %q", got)
	}
}

func TestAppend_InvalidRow(t *testing.T) {
	l, err := Create(filepath.Join(t.TempDir(), "metrics.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(Row{Kind: Step, Epoch: 1, Step: 5}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Row{{Kind: Step, Epoch: 1, Step: 4}, {Kind: "batch", Epoch: 1, Step: 6}, {Epoch: 1, Step: 6}} {
		if err := l.Append(r); err == nil {
			t.Errorf("Append(%+v) succeeded", r)
		}
	}
	if rows, err := Read(l.f.Name()); err != nil || len(rows) != 1 {
		t.Errorf("Read() = %d rows, %v, want 1 row", len(rows), err)
	}
}

func TestReadResume_InvalidFile(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"wrong_header", "epoch,loss\n1,2\n", "line 1: not the header"},
		{"other_text", "hello", "line 1: not the header"},
		{"binary", "\x89PNG\r\n\x1a\n", "line 1: not the header"},
		{"number_is_word", head + "step,1,1,low,0.5,,,0.001,1\n", `line 2: train_loss "low" is not a number`},
		{"missing_number", head + "step,1,1,,0.5,,,0.001,1\n", `line 2: train_loss "" is not a number`},
		{"fractional_step", head + "step,1,1.5,1,0.5,,,0.001,1\n", `line 2: step "1.5" is not a non-negative integer`},
		{"negative_epoch", head + "step,-1,1,1,0.5,,,0.001,1\n", `line 2: epoch "-1" is not a non-negative integer`},
		{"missing_cells", head + "step,1,1,1,0.5,,,0.001,1\nstep,1,2,1\n", "line 3: 4 cells instead of 9"},
		{"unknown_kind", head + "batch,1,1,1,0.5,,,0.001,1\n", `line 2: kind "batch"`},
		{"unterminated_quote", head + "step,1,1,\"1,0.5,,,0.001,1\n", "line 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "metrics.csv")
			if err := os.WriteFile(path, []byte(tc.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(path); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Read: error = %v, want one with %q and the path", err, tc.want)
			}
			if _, err := Resume(path, 10); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Resume: error = %v, want one with %q", err, tc.want)
			}
			if got := text(t, path); got != tc.content {
				t.Errorf("file changed to %q", got)
			}
		})
	}
}

func TestRead_EmptyOrMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error = %v", err)
	}
	for _, content := range []string{"", head, head[:20], head + "step,1,1,0.5"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if rows, err := Read(path); err != nil || len(rows) != 0 {
			t.Errorf("Read(%q) = %d rows, %v, want none", content, len(rows), err)
		}
	}
}

func TestAppend_DiskFull(t *testing.T) {
	full := "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip("missing " + full)
	}
	f, err := os.OpenFile(full, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &Log{f: f, last: map[Kind]int{}}
	r := Row{Kind: Step, Epoch: 1, Step: 1}
	if err := l.Append(r); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("error = %v", err)
	}
	// The row can be appended again.
	if _, ok := l.last[Step]; ok || l.size != 0 {
		t.Errorf("after the error: last = %v, size = %d, want neither", l.last, l.size)
	}
}
