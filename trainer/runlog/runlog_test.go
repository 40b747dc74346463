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

// run is three epochs of two steps.
func run() []Row {
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

func TestRowsReadBackAsTheyWereWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	rows := append(run(), Row{Epoch, 4, 7, nan, 1.0 / 3, nan, nan, 5e-324, math.MaxFloat64})
	write(t, l, err, rows...)

	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(rows) { // as text, since NaN is not NaN
		t.Errorf("read back\n%v\nwant\n%v", got, rows)
	}
}

func TestTheFileIsPlainCSVWithTheDocumentedHeader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	write(t, l, err,
		Row{Kind: Step, Epoch: 1, Step: 1, TrainLoss: 0.5, TrainAccuracy: 0.75, LR: 0.001, ImagesPerSecond: 2650.5},
		Row{Epoch, 1, 1, 0.5, 0.75, 0.25, 1, 0.001, 2650.5},
		Row{Epoch, 2, 2, 0.5, 0.75, nan, nan, 0.001, 2650.5})
	want := head + "step,1,1,0.5,0.75,,,0.001,2650.5\nepoch,1,1,0.5,0.75,0.25,1,0.001,2650.5\nepoch,2,2,0.5,0.75,,,0.001,2650.5\n"
	if got := text(t, path); got != want {
		t.Errorf("file holds\n%s\nwant\n%s", got, want)
	}
}

func TestARowCanBeReadBeforeTheLogIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(run()[0]); err != nil {
		t.Fatal(err)
	}
	if rows, err := Read(path); err != nil || len(rows) != 1 {
		t.Errorf("read %d rows, %v", len(rows), err)
	}
}

func TestCreateLeavesAnotherRunsRecordAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Create(path)
	write(t, l, err, run()...)
	before := text(t, path)
	if _, err := Create(path); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("error = %v", err)
	}
	if text(t, path) != before {
		t.Error("the file changed")
	}
}

func TestAResumedRunLeavesTheFileOfOneThatWasNot(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.csv")
	l, err := Create(whole)
	write(t, l, err, run()...)
	want := text(t, whole)

	// Killed after any number of bytes, resumed from the checkpoint of any earlier step.
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
			path := filepath.Join(dir, "killed.csv")
			if err := os.WriteFile(path, []byte(want[:size]), 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := Resume(path, checkpoint)
			var rest []Row
			for _, r := range run() {
				// An epoch's row is repeated by a run that goes on from its last step.
				if r.Step > checkpoint || r.Step == checkpoint && r.Kind == Epoch {
					rest = append(rest, r)
				}
			}
			write(t, l, err, rest...)
			if got := text(t, path); got != want {
				t.Fatalf("killed after %d bytes, resumed after step %d:\n%s\nwant\n%s", size, checkpoint, got, want)
			}
		}
	}
}

func TestResumeBeginsAMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	l, err := Resume(path, 0)
	write(t, l, err, run()[0])
	if got := text(t, path); !strings.HasPrefix(got, head+"step,1,1,") {
		t.Errorf("file holds %q", got)
	}
}

func TestAppendRefusesRowsOutOfOrderAndOfNoKind(t *testing.T) {
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
			t.Errorf("accepted %+v", r)
		}
	}
	if rows, err := Read(l.f.Name()); err != nil || len(rows) != 1 {
		t.Errorf("the file holds %d rows, %v", len(rows), err)
	}
}

func TestATamperedFileIsRefusedWithItsLineAndLeftAsItIs(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"another header", "epoch,loss\n1,2\n", "line 1: this is not a metrics.csv"},
		{"one line of something else", "hello", "line 1: this is not a metrics.csv"},
		{"binary", "\x89PNG\r\n\x1a\n", "line 1: this is not a metrics.csv"},
		{"a word for a number", head + "step,1,1,low,0.5,,,0.001,1\n", `line 2: train_loss "low" is not a number`},
		{"an empty cell that must be filled", head + "step,1,1,,0.5,,,0.001,1\n", `line 2: train_loss "" is not a number`},
		{"a fractional step", head + "step,1,1.5,1,0.5,,,0.001,1\n", `line 2: step "1.5" is not a count`},
		{"a negative epoch", head + "step,-1,1,1,0.5,,,0.001,1\n", `line 2: epoch "-1" is not a count`},
		{"a missing cell", head + "step,1,1,1,0.5,,,0.001,1\nstep,1,2,1\n", "line 3: 4 cells, want 9"},
		{"an unknown kind", head + "batch,1,1,1,0.5,,,0.001,1\n", `line 2: kind "batch"`},
		{"an open quote", head + "step,1,1,\"1,0.5,,,0.001,1\n", "line 2"},
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
				t.Errorf("the file became %q", got)
			}
		})
	}
}

func TestReadOfAnEmptyOrMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.csv")
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error = %v", err)
	}
	for _, content := range []string{"", head, head[:20], head + "step,1,1,0.5"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if rows, err := Read(path); err != nil || len(rows) != 0 {
			t.Errorf("%q gives %d rows, %v", content, len(rows), err)
		}
	}
}

func TestAWriteThatFailsLeavesWholeLines(t *testing.T) {
	full := "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip("this system has no " + full)
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
	// The row did not count as written: it can be tried again.
	if _, there := l.last[Step]; there || l.size != 0 {
		t.Errorf("the log holds %v, %d bytes", l.last, l.size)
	}
}
