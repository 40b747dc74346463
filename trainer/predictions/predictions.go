// Package predictions reads prediction logs: the server's database, even while the server writes to
// it, and exports (NDJSON, CSV, Parquet) from GET /log/export or BigQuery.
//
// [Read] returns the records of one model for a drift check. It keeps a uniform sample. [Feedback]
// visits the predictions that have feedback.
//
// Records can be delivered more than once: of those with the same ID, only the first counts. To find
// the others in an export, the readers keep a hash of each ID, which takes up to 40 MB per million
// records. The server's database has no duplicates, and needs no such map. Records that can't be read
// are skipped. [Skipped] describes both.
package predictions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"fakeart/internal/drift"
)

// Query selects records of a log.
type Query struct {
	// Model is the digest of a model. If it is empty, [Read] uses the model of the newest record.
	Model string
	// Since (inclusive) and Until (exclusive) bound the time. Zero values mean no bound.
	Since, Until time.Time
	// Strict makes a record that can't be read an error.
	Strict bool
}

// Log is a sample of the records that match a [Query].
type Log struct {
	// Model is the digest of the model. Matched is the number of records that match the query, and
	// From and To are the times of the first and the last of them.
	Model    string
	Matched  int
	From, To time.Time
	// Rows are a sample of the matching records, ordered by time.
	Rows []drift.Row
	// OtherTime is the number of records outside the time of the query. OtherModels has the
	// numbers of records of other models within that time, by digest.
	OtherTime   int
	OtherModels map[string]int
	// NonFinite is the number of rows that were removed from the sample because they have NaN or
	// infinite values.
	NonFinite int
	// Images are a random sample of the logged images of matching records, at most 24.
	Images []Image
	Skipped
}

// Image is a logged image with its prediction.
type Image struct {
	Time        time.Time
	Label       string  // the predicted class
	Probability float64 // as reported: see Labeled
	Data        []byte  // the image file as it was received
}

// maxImages is the maximum length of Log.Images.
const maxImages = 24

// ErrFormat is returned for a file that isn't a prediction log.
var ErrFormat = errors.New("not a prediction log")

// record is a record while it is read: the fields that queries use, and functions that load the
// others. It is valid only during the call that it is passed to.
type record struct {
	place string // where it is in the file: ":17" for line 17
	id    string // empty in exports without this column
	time  time.Time
	model string
	// feedback is the correct class according to the latest feedback, or empty without feedback.
	feedback string
	// fill loads the fields of a row that depend on the record, except Time and Model.
	fill func(*drift.Row) error
	// image loads the image file as it was received. It is nil if the image wasn't logged.
	image func() ([]byte, error)
}

// Read reads a log. If no record matches the query, it returns an error that describes the records
// that the log has.
func Read(ctx context.Context, path string, q Query) (*Log, error) {
	fail := func(err error) (*Log, error) { return nil, wrap(path, err) }
	source, err := open(ctx, path, false, q.Strict)
	if err != nil {
		return fail(err)
	}
	if q.Model == "" {
		newest := time.Time{}
		if _, err := source.each(ctx, func(r record) error {
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
	rng, seen := rand.New(rand.NewPCG(1, 4)), 0
	l.Skipped, err = source.each(ctx, func(r record) error {
		if !q.Since.IsZero() && r.time.Before(q.Since) || !q.Until.IsZero() && !r.time.Before(q.Until) {
			l.OtherTime++
			return nil
		}
		if r.model != q.Model {
			l.OtherModels[r.model]++
			return nil
		}
		if l.Matched++; l.From.IsZero() || r.time.Before(l.From) {
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
		if r.image == nil {
			return nil
		}
		seen++
		at := len(l.Images)
		if at == maxImages {
			at = rng.IntN(seen)
		}
		if at >= maxImages {
			return nil
		}
		data, err := r.image()
		if _, bad := errors.AsType[*badRecord](err); bad {
			return nil // the record has counted already, without its image
		}
		if err == nil && row.Model == "" {
			err = r.fill(&row)
		}
		if err != nil {
			return err
		}
		image := Image{Time: r.time, Label: row.Label, Probability: row.Probability, Data: data}
		if at == len(l.Images) {
			l.Images = append(l.Images, image)
		} else {
			l.Images[at] = image
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if l.Matched == 0 {
		return fail(l.noMatch(q))
	}
	l.Rows = slices.DeleteFunc(s.Sorted(), func(r drift.Row) bool { return !r.Finite() })
	l.NonFinite = len(s.Rows) - len(l.Rows)
	return l, nil
}

var errEmpty = errors.New("the log is empty")

// noMatch returns an error that explains why no record matches the query.
func (l *Log) noMatch(q Query) error {
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
		return fmt.Errorf("its %d records in that time are of other models (%s), not of %s\nhint: use the reference of one of these models", others, text, q.Model)
	case l.OtherTime > 0:
		return fmt.Errorf("all of its %d records are outside the requested time\nhint: change --since or --until", l.OtherTime)
	}
	return errEmpty
}

// parseTime parses a time in the server's format (RFC 3339) or BigQuery's.
func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05.999999 MST"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q isn't a time such as 2026-11-26T10:00:00Z", text)
}
