package predlog

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
)

// Reader is a store that can be read.
type Reader interface {
	// Page returns up to limit rows, newest first and without images: those before the cursor, or
	// the newest if it is empty. next is the cursor of the following page, or empty after the last
	// one. Rows written meanwhile appear on no later page. It returns ErrCursor for a cursor that
	// Page didn't return.
	Page(ctx context.Context, cursor string, limit int) (rows []Entry, next string, err error)
	// Export writes a consistent snapshot of all rows, oldest first, without blocking writes and in
	// bounded memory. After an error the data in w is unusable.
	Export(ctx context.Context, w io.Writer, format Format) error
	// Sample returns at most `most` rows since the given time, evenly spread and oldest first, and
	// the approximate number of rows since then. Its duration doesn't depend on the size of the
	// log.
	Sample(ctx context.Context, since time.Time, most int) (rows []Row, of int64, err error)
	// Accuracy returns how many predictions of the model were right according to their latest
	// feedback, and out of how many: the latest thousand with feedback.
	Accuracy(ctx context.Context, model string) (right, of int64, err error)
	// Count returns the number of rows.
	Count(ctx context.Context) (int64, error)
}

// Format is the file format of an export.
type Format string

// The formats.
const (
	// NDJSON has one JSON object per line.
	NDJSON Format = "ndjson"
	// CSV has a header line. The embedding is a JSON array in one field. Request IDs and comments
	// that a spreadsheet would treat as a formula are prefixed with '.
	CSV Format = "csv"
	// Parquet has one column per field.
	Parquet Format = "parquet"
	// Database is a SQLite database.
	Database Format = "sqlite"
)

// ParseFormat returns the format with the given name.
func ParseFormat(name string) (Format, error) {
	switch f := Format(name); f {
	case NDJSON, CSV, Parquet, Database:
		return f, nil
	}
	return "", fmt.Errorf("unknown format %.40q: must be %s, %s, %s or %s", name, NDJSON, CSV, Parquet, Database)
}

// ContentType returns the media type of the format.
func (f Format) ContentType() string {
	switch f {
	case NDJSON:
		return "application/x-ndjson"
	case CSV:
		return "text/csv; charset=utf-8"
	case Parquet:
		return "application/vnd.apache.parquet"
	case Database:
		return "application/vnd.sqlite3"
	}
	return "application/octet-stream"
}

// Limits of a Parquet row group, which is buffered in memory.
const (
	rowGroupRows  = 10_000
	rowGroupBytes = 16 << 20
)

// Page implements Reader.
func (s *SQLite) Page(ctx context.Context, cursor string, limit int) (rows []Entry, next string, err error) {
	before := int64(1<<63 - 1)
	if cursor != "" {
		if before, err = strconv.ParseInt(cursor, 10, 64); err != nil || before < 1 {
			return nil, "", fmt.Errorf("%w %.40q: use the one that the previous page returned", ErrCursor, cursor)
		}
	}
	if limit < 1 {
		return nil, "", fmt.Errorf("read prediction log: invalid page size %d", limit)
	}
	var last int64
	// Read one more row to know whether there is another page.
	more := false
	err = s.each(ctx, "SELECT seq, "+columns+", NULL, "+feedbackColumns+" FROM predictions"+joinFeedback+" WHERE seq < ? ORDER BY seq DESC LIMIT ?", []any{before, limit + 1},
		func(seq int64, r *Entry) error {
			if len(rows) == limit {
				more = true
				return nil
			}
			rows, last = append(rows, *r), seq
			return nil
		})
	if err != nil {
		return nil, "", err
	}
	if more {
		next = strconv.FormatInt(last, 10)
	}
	return rows, next, nil
}

// Count implements Reader.
func (s *SQLite) Count(ctx context.Context) (n int64, err error) {
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT count(*) FROM predictions").Scan(&n)
	})
	return n, err
}

// sampleStep is the number of rows that Sample reads per query.
const sampleStep = 100

// Sample implements Reader. Rows are written roughly in the order of their times, so a binary
// search finds the first one without an index.
func (s *SQLite) Sample(ctx context.Context, since time.Time, most int) (rows []Row, of int64, err error) {
	if most < 1 {
		return nil, 0, fmt.Errorf("read prediction log: invalid sample size %d", most)
	}
	var first, last int64
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		if err := db.QueryRowContext(ctx, "SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM predictions").Scan(&first, &last); err != nil {
			return err
		}
		stamp := since.UTC().Format(timeFormat)
		for low, high := first, last+1; low < high; {
			middle := low + (high-low)/2
			var older bool
			if err := db.QueryRowContext(ctx, "SELECT time < ? FROM predictions WHERE seq >= ? ORDER BY seq LIMIT 1", stamp, middle).Scan(&older); err != nil {
				return err
			}
			if older {
				low = middle + 1
			} else {
				high = middle
			}
			first = low
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	of = last - first + 1
	n := min(of, int64(most))
	for taken := int64(0); taken < n; {
		var marks []string
		var args []any
		for ; taken < n && len(args) < sampleStep; taken++ {
			marks, args = append(marks, "?"), append(args, first+taken*of/n)
		}
		query := "SELECT seq, " + columns + ", NULL, NULL, NULL, NULL FROM predictions WHERE seq IN (" + strings.Join(marks, ",") + ") ORDER BY seq"
		if err := s.each(ctx, query, args, func(_ int64, r *Entry) error {
			if !r.Time.Before(since) {
				rows = append(rows, r.Row)
			}
			return nil
		}); err != nil {
			return nil, 0, err
		}
	}
	return rows, of, nil
}

// Columns and join for the latest feedback of a row, if any.
const (
	feedbackColumns = "feedback_label, feedback_comment, feedback_time"
	joinFeedback    = " LEFT JOIN (SELECT seq AS feedback_seq, label AS feedback_label, comment AS feedback_comment, time AS feedback_time FROM feedback)" +
		" ON feedback_seq = (SELECT max(feedback.seq) FROM feedback WHERE feedback.id = predictions.id)"
)

const selectAll = "SELECT seq, " + columns + ", images.data, " + feedbackColumns +
	" FROM predictions LEFT JOIN images ON image_logged AND sha256 = image_sha256" + joinFeedback

// each calls f for each row of the query, which must select seq, columns, the image, and
// feedbackColumns. f may retain the row. One query sees one state of the database.
func (s *SQLite) each(ctx context.Context, query string, args []any, f func(seq int64, r *Entry) error) error {
	return s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var (
				seq             int64
				r               Entry
				stamp           string
				label, comment  sql.NullString
				givenAt         sql.NullString
				logged          bool
				embedding, data sql.RawBytes
			)
			if err := rows.Scan(&seq, &r.ID, &stamp, &r.RequestID, &r.TraceID, &r.Model, &r.Label, &r.Probability, &r.LatencySeconds,
				&r.ImageSHA256, &r.ImageFormat, &r.ImageBytes, &r.Width, &r.Height,
				&r.Mean, &r.StdDev, &r.Brightness, &r.Contrast, &r.Sharpness, &r.Saturation, &logged, &embedding, &r.Orientation, &r.ModelName, &data,
				&label, &comment, &givenAt); err != nil {
				return err
			}
			if r.Time, err = time.Parse(time.RFC3339, stamp); err != nil {
				return fmt.Errorf("record %s: %w", r.ID, err)
			}
			r.Embedding = parseFloats(embedding)
			r.FeedbackLabel, r.FeedbackComment = label.String, comment.String
			if givenAt.Valid {
				at, err := time.Parse(time.RFC3339, givenAt.String)
				if err != nil {
					return fmt.Errorf("feedback on record %s: %w", r.ID, err)
				}
				r.FeedbackTime = &at
			}
			if data != nil {
				r.Image = append([]byte{}, data...)
			}
			if err := f(seq, &r); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// Export implements Reader.
func (s *SQLite) Export(ctx context.Context, w io.Writer, format Format) error {
	switch format {
	case NDJSON:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		return s.each(ctx, selectAll+" ORDER BY seq", nil, func(_ int64, r *Entry) error { return encoder.Encode(r) })
	case CSV:
		return s.exportCSV(ctx, w)
	case Parquet:
		return s.exportParquet(ctx, w)
	case Database:
		return s.exportDatabase(ctx, w)
	}
	_, err := ParseFormat(string(format))
	return err
}

func (s *SQLite) exportCSV(ctx context.Context, w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvHeader); err != nil {
		return err
	}
	float := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	err := s.each(ctx, selectAll+" ORDER BY seq", nil, func(_ int64, r *Entry) error {
		embedding, err := json.Marshal(r.Embedding)
		if err != nil {
			return err
		}
		return out.Write([]string{
			r.ID, r.Time.UTC().Format(timeFormat), escapeFormula(r.RequestID), r.TraceID, r.Model, r.Label, float(r.Probability), float(r.LatencySeconds),
			r.ImageSHA256, r.ImageFormat, strconv.FormatInt(r.ImageBytes, 10), strconv.FormatInt(r.Width, 10), strconv.FormatInt(r.Height, 10),
			float(r.Mean), float(r.StdDev), float(r.Brightness), float(r.Contrast), float(r.Sharpness), float(r.Saturation),
			string(embedding), base64.StdEncoding.EncodeToString(r.Image), strconv.FormatInt(r.Orientation, 10), r.ModelName,
			r.FeedbackLabel, escapeFormula(r.FeedbackComment), r.feedbackTime(),
		})
	})
	out.Flush()
	return errors.Join(err, out.Error())
}

var csvHeader = []string{
	"id", "time", "request_id", "trace_id", "model", "label", "probability", "latency_seconds",
	"image_sha256", "image_format", "image_bytes", "width", "height",
	"mean", "std_dev", "brightness", "contrast", "sharpness", "saturation", "embedding", "image", "orientation", "model_name",
	"feedback_label", "feedback_comment", "feedback_time",
}

// escapeFormula prefixes text from a client that a spreadsheet would treat as a formula
// (https://owasp.org/www-community/attacks/CSV_Injection).
func escapeFormula(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}

func (s *SQLite) exportParquet(ctx context.Context, w io.Writer) error {
	out := parquet.NewGenericWriter[Entry](w, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("fakeart", "", ""),
		// Page bounds would keep the smallest and largest image of each page in memory until the end.
		parquet.SkipPageBounds("image"), parquet.SkipPageStatistics("image"))
	rows, size := 0, 0
	err := s.each(ctx, selectAll+" ORDER BY seq", nil, func(_ int64, r *Entry) error {
		if _, err := out.Write([]Entry{*r}); err != nil {
			return err
		}
		rows, size = rows+1, size+len(r.Image)
		if rows < rowGroupRows && size < rowGroupBytes {
			return nil
		}
		rows, size = 0, 0
		return out.Flush()
	})
	if err != nil {
		return err
	}
	return out.Close()
}

// exportDatabase copies the database to a temporary file in one read transaction, and the file to
// w.
func (s *SQLite) exportDatabase(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "fakeart-export-")
	if err != nil {
		return fmt.Errorf("export prediction log: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "predictions.db")
	if err := s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
		return err
	}); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("export prediction log: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := io.Copy(w, file); err != nil {
		return fmt.Errorf("export prediction log: %w", err)
	}
	return ctx.Err()
}
