package predlog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// columns are the columns of the table, in the order in which rows are written and read.
const columns = "id, time, request_id, trace_id, model, label, probability, latency_seconds, image_sha256, image_format, image_bytes, " +
	"width, height, mean, std_dev, brightness, contrast, sharpness, saturation, image_logged, embedding, orientation, model_name"

const numColumns = 23

// rowsAtOnce are the numbers of rows that one statement can insert. Fifty rows per statement are a
// fifth cheaper than one; more rows do not help further.
var rowsAtOnce = [...]int{50, 8, 1}

// inserter writes records on one connection with prepared statements. It calls the driver directly,
// because database/sql would check and copy each value once more.
type inserter struct {
	conn                    *sql.Conn
	begin, commit, rollback driver.Stmt
	version, image          driver.Stmt
	rows                    [len(rowsAtOnce)]driver.Stmt

	args    []driver.NamedValue
	scratch []byte
}

func newInserter(ctx context.Context, db *sql.DB) (_ *inserter, err error) {
	n := &inserter{args: make([]driver.NamedValue, rowsAtOnce[0]*numColumns)}
	for i := range n.args {
		n.args[i].Ordinal = i + 1
	}
	if n.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	prepare := func(c driver.ConnPrepareContext, statement *driver.Stmt, text string) {
		if err != nil {
			return
		}
		// After an error, the driver's statement isn't nil, but an interface that holds a nil pointer.
		if prepared, e := c.PrepareContext(ctx, text); e != nil {
			err = e
		} else {
			*statement = prepared
		}
	}
	e := n.conn.Raw(func(c any) error {
		conn := c.(driver.ConnPrepareContext)
		prepare(conn, &n.begin, "BEGIN IMMEDIATE")
		prepare(conn, &n.commit, "COMMIT")
		prepare(conn, &n.rollback, "ROLLBACK")
		prepare(conn, &n.version, "PRAGMA schema_version")
		prepare(conn, &n.image, "INSERT INTO images (sha256, data) VALUES (?, ?) ON CONFLICT DO NOTHING")
		row := "(?" + strings.Repeat(",?", numColumns-1) + ")"
		for i, rows := range rowsAtOnce {
			prepare(conn, &n.rows[i], "INSERT INTO predictions ("+columns+") VALUES "+row+strings.Repeat(","+row, rows-1)+" ON CONFLICT (id) DO NOTHING")
		}
		return err
	})
	if e != nil {
		n.close()
		return nil, e
	}
	return n, nil
}

func (n *inserter) close() {
	// Statements must be closed before their connection.
	_ = n.conn.Raw(func(any) error {
		for _, s := range append(n.rows[:], n.begin, n.commit, n.rollback, n.version, n.image) {
			if s != nil {
				_ = s.Close()
			}
		}
		return nil
	})
	_ = n.conn.Close()
}

// schemaVersion returns a number that SQLite increments with each change of the schema.
func (n *inserter) schemaVersion() (version int64, err error) {
	err = n.conn.Raw(func(any) error {
		rows, err := n.version.(driver.StmtQueryContext).QueryContext(context.Background(), nil)
		if err != nil {
			return err
		}
		values := make([]driver.Value, 1)
		err = rows.Next(values)
		version, _ = values[0].(int64)
		return errors.Join(err, rows.Close())
	})
	return version, err
}

// write inserts the records in one transaction.
func (n *inserter) write(records []Record) error {
	return n.conn.Raw(func(any) (err error) {
		if err := run(n.begin, nil); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				return
			}
			// After some errors SQLite has already rolled back. Ignore that there is no transaction (code 1).
			if e := run(n.rollback, nil); e != nil && code(e) != 1 {
				err = errors.Join(err, fmt.Errorf("roll back: %w", e))
			}
		}()
		for i := range records {
			if r := &records[i]; r.Image != nil {
				n.args[0].Value, n.args[1].Value = hex.EncodeToString(r.ImageSHA256[:]), r.Image
				if err := run(n.image, n.args[:2]); err != nil {
					return err
				}
			}
		}
		for i, size := range rowsAtOnce {
			for len(records) >= size {
				n.scratch = n.scratch[:0]
				for k := range size {
					n.bind(n.args[k*numColumns:(k+1)*numColumns], &records[k])
				}
				if err := run(n.rows[i], n.args[:size*numColumns]); err != nil {
					return err
				}
				records = records[size:]
			}
		}
		return run(n.commit, nil)
	})
}

func run(s driver.Stmt, args []driver.NamedValue) error {
	// A cancelable context would cost a goroutine per call.
	_, err := s.(driver.StmtExecContext).ExecContext(context.Background(), args)
	return err
}

// bind sets the values of a row, in the order of columns.
func (n *inserter) bind(args []driver.NamedValue, r *Record) {
	logged := int64(0)
	if r.Image != nil {
		logged = 1
	}
	start := len(n.scratch)
	n.scratch = appendFloats(n.scratch, r.Embedding)
	embedding := n.scratch[start:]
	if embedding == nil {
		embedding = []byte{} // nil would be NULL
	}
	for i, v := range [numColumns]driver.Value{
		uuid.UUID(r.ID).String(), r.Time.UTC().Format(timeFormat), r.RequestID, r.TraceID,
		reuse(args[4].Value, r.Model), reuse(args[5].Value, r.Label), r.Probability, r.Latency.Seconds(),
		hex.EncodeToString(r.ImageSHA256[:]), reuse(args[9].Value, r.ImageFormat), int64(r.ImageBytes),
		int64(r.Width), int64(r.Height), r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation, logged, embedding, int64(r.Orientation), reuse(args[22].Value, r.ModelName),
	} {
		args[i].Value = v
	}
}

// reuse returns text as a driver.Value. If the previous value is the same, which is common, it
// returns that one, to avoid an allocation.
func reuse(previous driver.Value, text string) driver.Value {
	if s, ok := previous.(string); ok && s == text {
		return previous
	}
	return text
}
