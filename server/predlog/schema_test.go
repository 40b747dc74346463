package predlog

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// interfere executes statements on a separate connection, like another program.
func interfere(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// schemaFaults are changes of the database by another program.
var schemaFaults = []struct {
	name   string
	change []string
	want   string // part of the error
	undo   []string
}{
	{
		"column renamed",
		[]string{"ALTER TABLE predictions RENAME COLUMN probability TO p"},
		"column probability",
		[]string{"ALTER TABLE predictions RENAME COLUMN p TO probability"},
	},
	{
		"column of the feedback renamed",
		[]string{"ALTER TABLE feedback RENAME COLUMN comment TO remark"},
		"column comment",
		[]string{"ALTER TABLE feedback RENAME COLUMN remark TO comment"},
	},
	{
		"column dropped",
		[]string{"ALTER TABLE predictions DROP COLUMN saturation"},
		"column saturation",
		[]string{"ALTER TABLE predictions ADD COLUMN saturation REAL NOT NULL DEFAULT 0"},
	},
	{
		"table renamed",
		[]string{"ALTER TABLE images RENAME TO pictures"},
		"table images",
		[]string{"ALTER TABLE pictures RENAME TO images"},
	},
	{
		"table dropped",
		[]string{"DROP TABLE predictions"},
		"table predictions",
		nil,
	},
	{
		"table rebuilt without its unique id",
		[]string{"CREATE TABLE other AS SELECT * FROM predictions", "DROP TABLE predictions", "ALTER TABLE other RENAME TO predictions"},
		"predictions",
		nil,
	},
	{
		"index dropped",
		[]string{"DROP INDEX feedback_id"},
		"CREATE INDEX feedback_id",
		[]string{"CREATE INDEX feedback_id ON feedback (id)"},
	},
	{
		"trigger dropped",
		[]string{"DROP TRIGGER predictions_delete_feedback"},
		"CREATE TRIGGER predictions_delete_feedback",
		[]string{"CREATE TRIGGER predictions_delete_feedback AFTER DELETE ON predictions\nBEGIN\n  DELETE FROM feedback WHERE id = old.id;\nEND"},
	},
	{
		"trigger that discards records",
		[]string{"CREATE TRIGGER lose BEFORE INSERT ON predictions BEGIN SELECT RAISE(IGNORE); END"},
		"trigger lose",
		[]string{"DROP TRIGGER lose"},
	},
	{
		"trigger that fails",
		[]string{"CREATE TRIGGER stop BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'no'); END"},
		"trigger stop",
		[]string{"DROP TRIGGER stop"},
	},
}

func TestSQLite_SchemaChangedByAnotherProgram(t *testing.T) {
	for _, test := range schemaFaults {
		t.Run(test.name, func(t *testing.T) {
			s := openSQLite(t, SQLiteOptions{})
			records := newRecords(4)
			mustWrite(t, s, records[0])
			interfere(t, s.options.Path, test.change...)
			for range 3 {
				err := s.Write(t.Context(), records[1:2])
				if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("Write = %v, want ErrSchema with %q", err, test.want)
				}
			}
			if _, err := s.Count(t.Context()); err != nil && !errors.Is(err, ErrSchema) {
				t.Errorf("Count = %v, want no error or ErrSchema", err)
			}
			if test.undo == nil {
				return
			}
			interfere(t, s.options.Path, test.undo...)
			mustWrite(t, s, records[1:]...)
			if rows := allRows(t, s); len(rows) != 4 {
				t.Errorf("%d records after the repair, want 4", len(rows))
			}
		})
	}
}

func TestOpenSQLite_OtherSchema(t *testing.T) {
	for _, test := range schemaFaults {
		t.Run(test.name, func(t *testing.T) {
			path := filled(t)
			interfere(t, path, test.change...)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = OpenSQLite(t.Context(), SQLiteOptions{Path: path})
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("OpenSQLite = %v, want ErrSchema with %q and the path", err, test.want)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the database was changed: %v", err)
			}
			if test.undo == nil {
				return
			}
			interfere(t, path, test.undo...)
			s := openSQLite(t, SQLiteOptions{Path: path})
			mustWrite(t, s, *newRecord(1000))
		})
	}
}

// A log whose schema was changed can still be read as far as possible.
func TestSQLite_ReadOnlyWithOtherSchema(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(3)
	mustWrite(t, s, records...)
	interfere(t, s.options.Path, "DROP TRIGGER predictions_delete_feedback")
	if err := s.Write(t.Context(), newRecords(1)); !errors.Is(err, ErrSchema) {
		t.Fatalf("Write = %v, want ErrSchema", err)
	}
	equalRows(t, allRows(t, s), rowsOf(records))
	if err := s.retain(records[2].Time); err != nil {
		t.Error(err)
	}
	if err := s.remove(t.Context(), []int64{1}); !errors.Is(err, ErrSchema) {
		t.Errorf("remove = %v, want ErrSchema", err)
	}
	equalRows(t, allRows(t, s), rowsOf(records))
}

func TestSQLite_HarmlessAdditionsByAnotherProgram(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	mustWrite(t, s, *newRecord(0))
	interfere(t, s.options.Path,
		"ALTER TABLE predictions ADD COLUMN note TEXT", "CREATE INDEX mine ON predictions (time)", "CREATE VIEW latest AS SELECT * FROM predictions",
		"CREATE TABLE bookmarks (url TEXT)", "CREATE TRIGGER marked AFTER INSERT ON bookmarks BEGIN SELECT 1; END", "ANALYZE")
	mustWrite(t, s, *newRecord(1))
	mustClose(t, s)
	s = openSQLite(t, SQLiteOptions{Path: s.options.Path})
	mustWrite(t, s, *newRecord(2))
	if n := len(allRows(t, s)); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

func TestSQLite_ReplacedByAnotherFile(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "bookmarks.db")
	interfere(t, foreign, "CREATE TABLE bookmarks (url TEXT)")
	for _, test := range []struct {
		name    string
		replace func(t *testing.T, path string)
		want    string
	}{
		{"another program's database", func(t *testing.T, path string) {
			if err := os.Rename(foreign, path); err != nil {
				t.Fatal(err)
			}
		}, "belongs to another program"},
		{"directory", func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openSQLite(t, SQLiteOptions{})
			mustWrite(t, s, *newRecord(0))
			test.replace(t, s.options.Path)
			for range 3 {
				if err := s.Write(t.Context(), newRecords(1)); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("Write = %v, want an error containing %q", err, test.want)
				}
			}
			if _, err := s.Count(t.Context()); err == nil {
				t.Error("Count returned no error")
			}
			if err := os.RemoveAll(s.options.Path); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, s, *newRecord(1))
		})
	}
}

// The -wal file of the previous database must not be applied to the one that replaces it.
func TestSQLite_RestoredFromBackup(t *testing.T) {
	for _, test := range []struct {
		name   string
		change []string // made by another program before
	}{
		{"working log", nil},
		{"log with another schema", []string{"ALTER TABLE predictions RENAME COLUMN probability TO p", "CREATE TABLE large (x BLOB)", "INSERT INTO large VALUES (zeroblob(100000))"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			backup := openSQLite(t, SQLiteOptions{})
			records := newRecords(10)
			mustWrite(t, backup, records[:4]...)
			mustClose(t, backup)
			s := openSQLite(t, SQLiteOptions{})
			mustWrite(t, s, newRecords(500)...)
			if test.change != nil {
				interfere(t, s.options.Path, test.change...)
				if err := s.Write(t.Context(), records[4:]); !errors.Is(err, ErrSchema) {
					t.Fatalf("Write = %v, want ErrSchema", err)
				}
			}
			if err := os.Rename(backup.options.Path, s.options.Path); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, s, records[4:]...)
			equalRows(t, allRows(t, s), rowsOf(records))
			mustClose(t, s)
			if got := query(t, s.options.Path, "PRAGMA integrity_check"); got != "ok" {
				t.Error(got)
			}
		})
	}
}

// A log that turns unwritable accepts predictions, reports the fault, and recovers.
func TestLog_SchemaChangedByAnotherProgram(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	l := New(s, Options{})
	mustAppend(t, l, newRecord(0))
	eventually(t, "the record is written", func() bool { return l.Waiting() == 0 })
	interfere(t, s.options.Path, "ALTER TABLE predictions RENAME COLUMN probability TO p")
	mustAppend(t, l, newRecord(1))
	eventually(t, "the log fails", func() bool { return errors.Is(l.Err(), ErrSchema) })
	mustAppend(t, l, newRecord(2))
	interfere(t, s.options.Path, "ALTER TABLE predictions RENAME COLUMN p TO probability")
	eventually(t, "the log works", func() bool { return l.Err() == nil && l.Waiting() == 0 })
	if n := len(allRows(t, s)); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
	mustClose(t, l)
}
