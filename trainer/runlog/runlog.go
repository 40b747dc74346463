// Package runlog keeps metrics.csv, the record of how a training run went.
//
// The file has one line a training step and one an epoch, each written at once,
// so that it can be watched while the run goes on and survives the run's death:
//
//	kind,epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,lr,images_per_second
//	step,1,100,0.4213,0.8125,,,0.001,2650.1
//	epoch,1,250,0.3127,0.8671,0.2903,0.8812,0.001,2641.7
package runlog

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Kind tells the two kinds of rows apart.
type Kind string

// The kinds of rows: after a training step, and at an epoch's end.
const (
	Step  Kind = "step"
	Epoch Kind = "epoch"
)

// Row is one line of metrics.csv.
type Row struct {
	Kind Kind
	// Epoch and Step count from 1. An epoch's row carries its last step.
	Epoch, Step int
	// TrainLoss (nats) and TrainAccuracy (0 to 1) are of one batch in a step's row
	// and the mean over the epoch in an epoch's.
	TrainLoss, TrainAccuracy float64
	// ValLoss and ValAccuracy are of the validation split. They are empty cells in
	// the file where they are NaN here: without such a split, and always in a
	// step's row.
	ValLoss, ValAccuracy float64
	// LR is the learning rate of the step, or of the epoch's last one.
	LR float64
	// ImagesPerSecond is the speed of training.
	ImagesPerSecond float64
}

var header = [...]string{
	"kind", "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_second",
}

var errNotMetrics = errors.New("line 1: this is not a metrics.csv of a training run")

// Log appends rows to a metrics.csv. It is not safe for concurrent use.
type Log struct {
	f    *os.File
	size int64        // of the whole lines in f
	last map[Kind]int // the step of the last row of each kind
}

// Create starts the metrics.csv of a new run. It refuses a path where a file
// already is: that is the record of another run.
func Create(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("start metrics: %s is there already; choose another run folder, or continue that run", path)
	}
	if err != nil {
		return nil, fmt.Errorf("start metrics: %w", err)
	}
	l := &Log{f: f, last: map[Kind]int{}}
	if err := l.write(header[:]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// Resume opens the metrics.csv of a run that goes on after the given step. Rows of
// later steps are cut off, since the run will write them again, and so is a
// line that a crash left half written. A missing or empty file is begun anew. A
// file that is no metrics.csv is refused and left as it is.
func Resume(path string, step int) (_ *Log, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("resume metrics: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("resume metrics %s: %w", path, errors.Join(err, f.Close()))
		}
	}()

	l := &Log{f: f, last: map[Kind]int{}}
	begun := false
	err = scan(f, func(r *Row, end int64) bool {
		if r == nil {
			begun = true
		} else if r.Step > step {
			return false
		} else {
			l.last[r.Kind] = r.Step
		}
		l.size = end
		return true
	})
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(l.size); err != nil {
		return nil, err
	}
	if !begun {
		return l, l.write(header[:])
	}
	return l, nil
}

// Append writes a row and hands it to the operating system before it returns. A
// row of the same kind and step as the last one is already there (a run that
// goes on from between an epoch's last step and its validation repeats the
// latter) and is not written twice.
func (l *Log) Append(r Row) error {
	if r.Kind != Step && r.Kind != Epoch {
		return fmt.Errorf("append metrics: kind %q is neither %q nor %q", r.Kind, Step, Epoch)
	}
	if last, ok := l.last[r.Kind]; ok && r.Step <= last {
		if r.Step == last {
			return nil
		}
		return fmt.Errorf("append metrics: %s row of step %d after that of step %d", r.Kind, r.Step, last)
	}
	val := func(v float64) string {
		if r.Kind == Step || math.IsNaN(v) {
			return ""
		}
		return number(v)
	}
	err := l.write([]string{
		string(r.Kind), strconv.Itoa(r.Epoch), strconv.Itoa(r.Step),
		number(r.TrainLoss), number(r.TrainAccuracy), val(r.ValLoss), val(r.ValAccuracy),
		number(r.LR), number(r.ImagesPerSecond),
	})
	if err != nil {
		return err
	}
	l.last[r.Kind] = r.Step
	return nil
}

// Close brings the file to the disk and closes it.
func (l *Log) Close() error {
	if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
		return fmt.Errorf("close metrics: %w", err)
	}
	return nil
}

// write adds one line, or nothing: what a full disk cut short is taken back, so
// that the next line does not continue it.
func (l *Log) write(cells []string) error {
	var line bytes.Buffer
	w := csv.NewWriter(&line)
	_ = w.Write(cells) // into memory
	w.Flush()
	if _, err := l.f.WriteAt(line.Bytes(), l.size); err != nil {
		return fmt.Errorf("write metrics: %w", errors.Join(err, l.f.Truncate(l.size)))
	}
	l.size += int64(line.Len())
	return nil
}

// number is the shortest text that reads back as the same float64.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// Read returns all rows of a metrics.csv, in order. A last line without its
// newline is left out: a run that is writing it, or died doing so, made it. An
// error names the line.
func Read(path string) ([]Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer f.Close()
	var rows []Row
	err = scan(f, func(r *Row, _ int64) bool {
		if r != nil {
			rows = append(rows, *r)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read metrics %s: %w", path, err)
	}
	return rows, nil
}

// scan calls visit for the header (nil) and every whole row, with the offset
// behind it, until visit returns false.
func scan(f *os.File, visit func(r *Row, end int64) bool) error {
	size, err := wholeLines(f)
	if err != nil {
		return err
	}
	if size == 0 {
		return fragment(f)
	}
	in := csv.NewReader(io.NewSectionReader(f, 0, size))
	in.FieldsPerRecord = -1 // counted below, with a better message
	in.ReuseRecord = true
	for first := true; ; first = false {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line, _ := in.FieldPos(0)
		var row *Row
		if first {
			if !slices.Equal(cells, header[:]) {
				return errNotMetrics
			}
		} else if row, err = parse(cells); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if !visit(row, in.InputOffset()) {
			return nil
		}
	}
}

// wholeLines returns the length of a file up to and with its last newline.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	var buf [512]byte
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				return end - n + i + 1, nil
			}
		}
		end -= n
	}
	return 0, nil
}

// fragment accepts a file without a whole line if it is one that was begun.
func fragment(f *os.File) error {
	begun := strings.Join(header[:], ",")
	text, err := io.ReadAll(io.NewSectionReader(f, 0, int64(len(begun))+1))
	if err == nil && !strings.HasPrefix(begun, string(text)) {
		err = errNotMetrics
	}
	return err
}

func parse(cells []string) (*Row, error) {
	if len(cells) != len(header) {
		return nil, fmt.Errorf("%d cells, want %d", len(cells), len(header))
	}
	r := &Row{Kind: Kind(cells[0])}
	if r.Kind != Step && r.Kind != Epoch {
		return nil, fmt.Errorf("kind %q is neither %q nor %q", cells[0], Step, Epoch)
	}
	for i, dst := range []*int{&r.Epoch, &r.Step} {
		v, err := strconv.Atoi(cells[1+i])
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s %q is not a count", header[1+i], cells[1+i])
		}
		*dst = v
	}
	for i, dst := range []*float64{
		&r.TrainLoss, &r.TrainAccuracy, &r.ValLoss, &r.ValAccuracy, &r.LR, &r.ImagesPerSecond,
	} {
		name, cell := header[3+i], cells[3+i]
		if cell == "" && (dst == &r.ValLoss || dst == &r.ValAccuracy) {
			*dst = math.NaN()
			continue
		}
		v, err := strconv.ParseFloat(cell, 64)
		if err != nil {
			return nil, fmt.Errorf("%s %q is not a number", name, cell)
		}
		*dst = v
	}
	return r, nil
}
