// Package runlog reads and writes metrics.csv, the metrics of a training run.
//
// [Create] starts the file of a new run, [Resume] continues that of an interrupted one, and [Read]
// returns its rows. The file has one line per training step and one per epoch. Each is written
// immediately, so that the file can be followed during training and survives a crash:
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

// Kind is the kind of a row.
type Kind string

// The kinds of rows: one after each training step, one at the end of each epoch.
const (
	Step  Kind = "step"
	Epoch Kind = "epoch"
)

// Row is one line of metrics.csv.
type Row struct {
	Kind Kind
	// Epoch and Step count from 1. The row of an epoch has the epoch's last step.
	Epoch, Step int
	// TrainLoss (nats) and TrainAccuracy (0 to 1) are those of one batch in a Step row, and means
	// over the epoch in an Epoch row.
	TrainLoss, TrainAccuracy float64
	// ValLoss and ValAccuracy are those of the validation split. They are NaN without such a
	// split and always in a Step row; the file has empty cells instead of NaN.
	ValLoss, ValAccuracy float64
	// LR is the learning rate of the step, or of the epoch's last step.
	LR float64
	// ImagesPerSecond is the training speed.
	ImagesPerSecond float64
}

var header = [...]string{
	"kind", "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_second",
}

var errNotMetrics = errors.New("line 1: not the header of a metrics.csv")

// Log appends rows to a metrics.csv. It is not safe for concurrent use.
type Log struct {
	f    *os.File
	size int64        // length of f up to the end of its last complete line
	last map[Kind]int // step of the last row of each kind
}

// Create creates the metrics.csv of a new run. It returns an error if the file exists, since it
// would then belong to another run.
func Create(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create metrics: %s already exists\nhint: choose another run folder, or resume that run", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create metrics: %w", err)
	}
	l := &Log{f: f, last: map[Kind]int{}}
	if err := l.write(header[:]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// Resume opens the metrics.csv of a run that continues after the given step. It removes the rows of
// later steps, which the run writes again, and a last line that a crash left incomplete. It creates
// a missing file and writes the header of an empty one. If the file isn't a metrics.csv, Resume
// returns an error and leaves it unchanged.
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
	hasHeader := false
	err = scan(f, func(r *Row, end int64) bool {
		if r == nil {
			hasHeader = true
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
	if !hasHeader {
		return l, l.write(header[:])
	}
	return l, nil
}

// Append writes a row without buffering. It ignores a row with the kind and step of the last one
// of its kind: a run that was interrupted between the last step of an epoch and the epoch's
// validation repeats that validation.
func (l *Log) Append(r Row) error {
	if r.Kind != Step && r.Kind != Epoch {
		return fmt.Errorf("append metrics: kind %q is neither %q nor %q", r.Kind, Step, Epoch)
	}
	if last, ok := l.last[r.Kind]; ok && r.Step <= last {
		if r.Step == last {
			return nil
		}
		return fmt.Errorf("append metrics: %s row of step %d after the one of step %d", r.Kind, r.Step, last)
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

// Close syncs the file to disk and closes it.
func (l *Log) Close() error {
	if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
		return fmt.Errorf("close metrics: %w", err)
	}
	return nil
}

// write adds one complete line or nothing: it removes a line that a full disk cut short, so that
// the next one starts on a new line.
func (l *Log) write(cells []string) error {
	var line bytes.Buffer
	w := csv.NewWriter(&line)
	_ = w.Write(cells) // to memory, which doesn't fail
	w.Flush()
	if _, err := l.f.WriteAt(line.Bytes(), l.size); err != nil {
		return fmt.Errorf("write metrics: %w", errors.Join(err, l.f.Truncate(l.size)))
	}
	l.size += int64(line.Len())
	return nil
}

// number returns the shortest decimal that parses to exactly v.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// Read returns all rows of a metrics.csv, in order. It skips a last line without a newline, which
// is still being written or was cut short by a crash. Errors name the line.
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

// scan calls visit for the header (with a nil row) and every complete row, with the offset of the
// following line, until visit returns false.
func scan(f *os.File, visit func(r *Row, end int64) bool) error {
	size, err := completeLines(f)
	if err != nil {
		return err
	}
	if size == 0 {
		return checkFragment(f)
	}
	in := csv.NewReader(io.NewSectionReader(f, 0, size))
	in.FieldsPerRecord = -1 // parse checks it and returns a clearer error
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

// completeLines returns the length of a file up to its last newline, inclusive.
func completeLines(f *os.File) (int64, error) {
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

// checkFragment returns an error unless a file without a complete line is empty or holds the
// beginning of the header.
func checkFragment(f *os.File) error {
	want := strings.Join(header[:], ",")
	text, err := io.ReadAll(io.NewSectionReader(f, 0, int64(len(want))+1))
	if err == nil && !strings.HasPrefix(want, string(text)) {
		err = errNotMetrics
	}
	return err
}

func parse(cells []string) (*Row, error) {
	if len(cells) != len(header) {
		return nil, fmt.Errorf("%d cells instead of %d", len(cells), len(header))
	}
	r := &Row{Kind: Kind(cells[0])}
	if r.Kind != Step && r.Kind != Epoch {
		return nil, fmt.Errorf("kind %q is neither %q nor %q", cells[0], Step, Epoch)
	}
	for i, dst := range []*int{&r.Epoch, &r.Step} {
		v, err := strconv.Atoi(cells[1+i])
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s %q is not a non-negative integer", header[1+i], cells[1+i])
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
