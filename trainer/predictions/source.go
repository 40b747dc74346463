package predictions

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"strings"
)

// Skipped describes the records of a log that were not used.
type Skipped struct {
	// Duplicates is the number of records with the ID of an earlier record.
	Duplicates int
	// Unreadable is the number of records that can't be read, such as a truncated line. Examples has
	// the first few: the file, its line, row or record number, and the reason.
	Unreadable int
	Examples   []string
}

const (
	maxExamples = 3
	// maxUnreadable is the number of unreadable records at the start of a file after which the file
	// isn't a prediction log.
	maxUnreadable = 100
)

// Messages returns a message for each kind of skipped records.
func (s *Skipped) Messages() (lines []string) {
	if s.Duplicates > 0 {
		lines = append(lines, fmt.Sprintf("ignored %d duplicate records, with the id of an earlier one", s.Duplicates))
	}
	if s.Unreadable > 0 {
		more := ""
		if s.Unreadable > len(s.Examples) {
			more = "; …"
		}
		lines = append(lines, fmt.Sprintf("skipped %d unreadable records: %s%s", s.Unreadable, strings.Join(s.Examples, "; "), more))
	}
	return lines
}

// BadRecord returns an error with which a callback rejects a record, for example because its values are impossible. The record is then
// treated like one that can't be read.
func BadRecord(err error) error { return &badRecord{err: err} }

// badRecord is the error of a record that can't be read. [source.each] sets the place.
type badRecord struct {
	err   error
	place string // see record.place
}

func (e *badRecord) Error() string { return e.err.Error() }
func (e *badRecord) Unwrap() error { return e.err }

// wrap adds the file, and the place in it, to an error.
func wrap(path string, err error) error {
	if e, ok := errors.AsType[*badRecord](err); ok {
		path += e.place
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("read prediction log: %w", err) // it has the path
	}
	return fmt.Errorf("read prediction log %s: %w", path, err)
}

// source reads a log file.
type source struct {
	path   string
	strict bool
	unique bool // no two records have the same ID
	// read calls the function for each record, or with an error for one that can't be read. It
	// returns the error that the function returns.
	read func(ctx context.Context, f func(record, error) error) error
}

// open detects the format of a file by its first bytes. The database's feedback is only read if
// feedback is true.
func open(ctx context.Context, path string, feedback, strict bool) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrFormat)
	}
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
	head = bytes.TrimPrefix(head[:n], []byte("\ufeff")) // spreadsheets write a byte order mark before CSV
	s := &source{path: path, strict: strict}
	lines := func(read func(context.Context, *bufio.Reader, func(record, error) error) error) {
		s.read = func(ctx context.Context, f func(record, error) error) error {
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
		if s.unique, err = uniqueIDs(ctx, path); err != nil {
			return nil, err
		}
		s.read = func(ctx context.Context, f func(record, error) error) error {
			return eachDatabase(ctx, path, feedback, f)
		}
	case bytes.HasPrefix(head, []byte("PAR1")):
		s.read = func(ctx context.Context, f func(record, error) error) error { return eachParquet(ctx, path, f) }
	case bytes.TrimSpace(head)[0] == '{':
		lines(eachNDJSON)
	case bytes.Contains(bytes.SplitN(head, []byte("\n"), 2)[0], []byte("probability")):
		lines(eachCSV)
	default:
		return nil, fmt.Errorf("%w: neither a SQLite database nor an export (ndjson, csv, parquet)\nhint: use the file of the server's --log-path, or a response of GET /log/export", ErrFormat)
	}
	return s, nil
}

// each calls f for each record, except duplicates and records that can't be read. f may return a
// [badRecord] for one more.
func (s *source) each(ctx context.Context, f func(record) error) (skipped Skipped, err error) {
	seed, seen, good := maphash.MakeSeed(), map[uint64]struct{}{}, false
	err = s.read(ctx, func(r record, err error) error {
		var hash uint64
		if err == nil && r.id != "" && !s.unique {
			// In ten million records, the probability that two IDs have the same hash is 3 in a million.
			hash = maphash.String(seed, r.id)
			if _, ok := seen[hash]; ok {
				skipped.Duplicates++
				return nil
			}
		}
		if err == nil {
			err = f(r)
		}
		bad, ok := errors.AsType[*badRecord](err)
		switch {
		case err == nil:
			good = true
			if hash != 0 {
				seen[hash] = struct{}{}
			}
			return nil
		case !ok:
			return err
		}
		bad.place = r.place
		if s.strict {
			return bad
		}
		if skipped.Unreadable++; len(skipped.Examples) < maxExamples {
			skipped.Examples = append(skipped.Examples, s.path+bad.place+": "+bad.Error())
		}
		if !good && skipped.Unreadable == maxUnreadable {
			return errNoRecord
		}
		return nil
	})
	if errors.Is(err, errNoRecord) || err == nil && !good && skipped.Unreadable > 0 {
		err = fmt.Errorf("%w: no readable record: %s", ErrFormat, skipped.Examples[0])
	}
	return skipped, err
}

var errNoRecord = errors.New("no readable record")
