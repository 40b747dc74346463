// Package predictions reads prediction logs: the database that a server keeps, also
// while it writes it, and the server's exports (ndjson, CSV, Parquet), whether they
// come from GET /log/export or from BigQuery.
//
// Of however many records a uniform sample is kept, so that memory is bounded.
package predictions

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"fakeart/internal/drift"
)

// Query says which records of a log count.
type Query struct {
	// Model is the digest of the model whose records they are; empty means that of the
	// newest record.
	Model string
	// Since and Until bound the time, Until excluded; zero means no bound.
	Since, Until time.Time
}

// Log is what was read of a log.
type Log struct {
	// Model is whose records were taken, Taken their number, and From and To the times of
	// the first and the last of them.
	Model    string
	Taken    int
	From, To time.Time
	// Rows are a sample of them, by time.
	Rows []drift.Row
	// OtherTime and OtherModels are the records that the query left out: outside of its
	// time, and of other models, by digest.
	OtherTime   int
	OtherModels map[string]int
	// Broken is the number of rows of the sample that were left out for values that are no
	// finite numbers.
	Broken int
	// Pictures are some of those that were logged.
	Pictures []Picture
}

// Picture is one that was logged, with what the model said of it.
type Picture struct {
	Time        time.Time
	Label       string
	Probability float64
	Data        []byte // as it was sent
}

// maxPictures is how many pictures are kept.
const maxPictures = 24

// ErrFormat means that a file is no prediction log.
var ErrFormat = errors.New("not a prediction log")

// record is a record on its way: what the query asks for, and how to get at the rest.
type record struct {
	time  time.Time
	model string
	// feedback is what the picture is, as a user last said; empty when nobody did.
	feedback string
	// fill writes the row that is sampled; nil where it is done later.
	fill func(*drift.Row) error
	// picture is the picture as it was sent, and nil without one.
	picture func() ([]byte, error)
}

// Read reads a log. One that holds nothing of what the query asks for is an error that
// says what it holds instead.
func Read(ctx context.Context, path string, q Query) (*Log, error) {
	fail := func(err error) (*Log, error) { return nil, fmt.Errorf("read prediction log %s: %w", path, err) }
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read prediction log: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%w: it is not a file", ErrFormat))
	}
	each, err := reader(path, false)
	if err != nil {
		return fail(err)
	}
	if q.Model == "" {
		newest := time.Time{}
		if err := each(ctx, func(r record) error {
			if !r.time.Before(newest) {
				newest, q.Model = r.time, strings.Clone(r.model)
			}
			return nil
		}); err != nil {
			return fail(err)
		}
		if q.Model == "" {
			return fail(errEmpty)
		}
	}
	l := &Log{Model: q.Model, OtherModels: map[string]int{}}
	var s drift.Sampler
	pictures, seen := rand.New(rand.NewPCG(1, 4)), 0
	if err := each(ctx, func(r record) error {
		if !q.Since.IsZero() && r.time.Before(q.Since) || !q.Until.IsZero() && !r.time.Before(q.Until) {
			l.OtherTime++
			return nil
		}
		if r.model != q.Model {
			l.OtherModels[r.model]++
			return nil
		}
		if l.Taken++; l.From.IsZero() || r.time.Before(l.From) {
			l.From = r.time
		}
		if r.time.After(l.To) {
			l.To = r.time
		}
		var row drift.Row
		if slot := s.Slot(); slot != nil {
			if err := r.fill(slot); err != nil {
				return err
			}
			slot.Time, slot.Model = r.time, q.Model
			row = *slot
		}
		if r.picture == nil {
			return nil
		}
		seen++
		at := len(l.Pictures)
		if at == maxPictures {
			at = pictures.IntN(seen)
		}
		if at >= maxPictures {
			return nil
		}
		data, err := r.picture()
		if err == nil && row.Model == "" {
			err = r.fill(&row)
		}
		if err != nil {
			return err
		}
		p := Picture{Time: r.time, Label: row.Label, Probability: row.Probability, Data: data}
		if at == len(l.Pictures) {
			l.Pictures = append(l.Pictures, p)
		} else {
			l.Pictures[at] = p
		}
		return nil
	}); err != nil {
		return fail(err)
	}
	if l.Taken == 0 {
		return fail(l.nothing(q))
	}
	l.Rows = slices.DeleteFunc(s.Sorted(), func(r drift.Row) bool { return !r.Finite() })
	l.Broken = len(s.Rows) - len(l.Rows)
	return l, nil
}

var errEmpty = errors.New("it is empty")

// nothing says why no record was taken.
func (l *Log) nothing(q Query) error {
	others := 0
	for _, n := range l.OtherModels {
		others += n
	}
	switch {
	case others > 0:
		models := slices.SortedFunc(maps.Keys(l.OtherModels), func(a, b string) int { return cmp.Compare(l.OtherModels[b], l.OtherModels[a]) })
		text := strings.Join(models[:min(len(models), 3)], ", ")
		if len(models) > 3 {
			text += fmt.Sprintf(" and %d more", len(models)-3)
		}
		return fmt.Errorf("its %d records in that time are of other models (%s), none of %s; name the reference of a model that it is of", others, text, q.Model)
	case l.OtherTime > 0:
		return fmt.Errorf("all of its %d records are outside of the time asked for; see --since and --until", l.OtherTime)
	}
	return errEmpty
}

// reader tells by the first bytes of the file what it is, and returns what calls a
// function for each of its records. A database is only asked for feedback when told to.
func reader(path string, feedback bool) (func(context.Context, func(record) error) error, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	head := make([]byte, 512)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = bytes.TrimPrefix(head[:n], []byte("\ufeff")) // which spreadsheets put before a CSV
	lines := func(read func(context.Context, *bufio.Reader, func(record) error) error) func(context.Context, func(record) error) error {
		return func(ctx context.Context, f func(record) error) error {
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			return read(ctx, bufio.NewReaderSize(file, 1<<20), f)
		}
	}
	switch {
	case len(bytes.TrimSpace(head)) == 0:
		return nil, errEmpty
	case bytes.HasPrefix(head, []byte("SQLite format 3\x00")):
		return func(ctx context.Context, f func(record) error) error { return eachOfDatabase(ctx, path, feedback, f) }, nil
	case bytes.HasPrefix(head, []byte("PAR1")):
		return func(ctx context.Context, f func(record) error) error { return eachOfParquet(ctx, path, f) }, nil
	case bytes.TrimSpace(head)[0] == '{':
		return lines(eachOfNDJSON), nil
	case bytes.Contains(bytes.SplitN(head, []byte("\n"), 2)[0], []byte("probability")):
		return lines(eachOfCSV), nil
	}
	return nil, fmt.Errorf("%w: it begins neither like a SQLite database nor like an export (ndjson, csv, parquet); name the server's --log-path or what GET /log/export has given", ErrFormat)
}

// parseTime reads the log's form, RFC 3339, and BigQuery's.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		var other error
		if t, other = time.Parse("2006-01-02 15:04:05.999999 MST", text); other == nil {
			err = nil
		}
	}
	return t.UTC(), err
}
