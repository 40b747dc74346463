package predictions

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite", which the server uses as well

	"fakeart/internal/drift"
)

// openDatabase opens a database for reading.
func openDatabase(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	address := filepath.ToSlash(path)
	if !strings.HasPrefix(address, "/") {
		address = "/" + address // Windows: C:/…
	}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: address}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(5000)")
}

// uniqueIDs reports whether the database ensures that no two records have the same ID, as the
// server's does.
func uniqueIDs(ctx context.Context, path string) (unique bool, err error) {
	db, err := openDatabase(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	err = db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pragma_index_list('predictions') AS list
		WHERE list."unique" AND NOT list.partial AND (SELECT group_concat(name) FROM pragma_index_info(list.name)) = 'id')`).Scan(&unique)
	return unique, err
}

// eachDatabase calls f for each record of a database. It reads a consistent snapshot, also while a
// server writes to the database, and loads the large columns of a record only if f calls fill or
// image. Feedback is only read if requested.
func eachDatabase(ctx context.Context, path string, feedback bool, f func(record, error) error) (err error) {
	db, err := openDatabase(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	row, err := tx.PrepareContext(ctx, `SELECT label, probability, image_format, width, height, mean, std_dev, brightness, contrast, sharpness, saturation, embedding
		FROM predictions WHERE seq = ?`)
	if err != nil {
		if strings.Contains(err.Error(), "no such") {
			return fmt.Errorf("%w: the database belongs to another program (%w)", ErrFormat, err)
		}
		return err
	}
	defer func() { _ = row.Close() }()
	labelColumn := "NULL"
	if feedback { // logs of older versions don't have the table
		if err := tx.QueryRowContext(ctx, "SELECT '(SELECT label FROM feedback WHERE feedback.id = predictions.id ORDER BY seq DESC LIMIT 1)' FROM sqlite_schema WHERE name = 'feedback'").
			Scan(&labelColumn); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	// SQLite stores any type in any column, and NaN as NULL.
	readable := "typeof(label) = 'text' AND typeof(image_format) = 'text' AND typeof(width) = 'integer' AND typeof(height) = 'integer' AND typeof(embedding) = 'blob'"
	for _, name := range []string{"probability", "mean", "std_dev", "brightness", "contrast", "sharpness", "saturation"} {
		readable += " AND typeof(" + name + ") IN ('real', 'integer', 'null')"
	}
	rows, err := tx.QueryContext(ctx, "SELECT seq, id, time, model, coalesce(image_logged, 0), image_sha256, "+readable+", "+labelColumn+" FROM predictions ORDER BY seq")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var (
			seq                    int64
			id, stamp, model, hash sql.RawBytes
			logged, readable       bool
			label                  sql.NullString
		)
		if err := rows.Scan(&seq, &id, &stamp, &model, &logged, &hash, &readable, &label); err != nil {
			return err
		}
		place := fmt.Sprintf(", seq %d", seq)
		t, err := parseTime(string(stamp))
		if err == nil && !readable {
			err = errors.New("a field is missing or has the wrong type")
		}
		if err != nil {
			if err := f(record{place: place}, &badRecord{err: err}); err != nil {
				return err
			}
			continue
		}
		r := record{place: place, id: string(id), time: t, model: string(model), feedback: label.String, fill: func(r *drift.Row) error {
			var embedding []byte
			numbers := make([]sql.NullFloat64, 7) // SQLite stores NaN as NULL
			err := row.QueryRowContext(ctx, seq).Scan(&r.Label, &numbers[0], &r.Format, &r.Width, &r.Height,
				&numbers[1], &numbers[2], &numbers[3], &numbers[4], &numbers[5], &numbers[6], &embedding)
			for i, to := range []*float64{&r.Probability, &r.Mean, &r.StdDev, &r.Brightness, &r.Contrast, &r.Sharpness, &r.Saturation} {
				if *to = numbers[i].Float64; !numbers[i].Valid {
					*to = math.NaN()
				}
			}
			r.Embedding = make([]float32, len(embedding)/4)
			for i := range r.Embedding {
				r.Embedding[i] = math.Float32frombits(binary.LittleEndian.Uint32(embedding[4*i:]))
			}
			return err
		}}
		if logged {
			r.image = func() (data []byte, err error) {
				err = tx.QueryRowContext(ctx, "SELECT data FROM images WHERE sha256 = ?", string(hash)).Scan(&data)
				if errors.Is(err, sql.ErrNoRows) {
					err = nil // deleted in the meantime
				}
				return data, err
			}
		}
		if err := f(r, nil); err != nil {
			return err
		}
	}
	return rows.Err()
}
