package predlog

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openSQLite(t *testing.T, options SQLiteOptions) *SQLite {
	t.Helper()
	if options.Path == "" {
		options.Path = filepath.Join(t.TempDir(), "log", "predictions.db")
	}
	s, err := OpenSQLite(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func mustWrite(t *testing.T, s Store, records ...Record) {
	t.Helper()
	if err := s.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
}

// allRows reads all rows page by page, and returns them oldest first.
func allRows(t *testing.T, s Reader) []Row {
	t.Helper()
	var rows []Row
	for cursor := ""; ; {
		page, next, err := s.Page(t.Context(), cursor, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			rows = append([]Row{r.Row}, rows...)
		}
		if next == "" {
			return rows
		}
		cursor = next
	}
}

func allRowsAtOnce(t *testing.T, s *SQLite) []Row {
	t.Helper()
	_, rows, err := s.oldest(t.Context(), 0, 1<<30, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func rowsOf(records []Record) []Row {
	rows := make([]Row, len(records))
	for i := range records {
		rows[i] = records[i].row()
	}
	return rows
}

// query runs a query on a separate connection, like another program.
func query(t *testing.T, path, text string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var result sql.NullString
	if err := db.QueryRow(text).Scan(&result); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return result.String
}

func TestSQLite_WriteAndRead(t *testing.T) {
	records := newRecords(61) // uses prepared statements of every size
	records[3].RequestID, records[3].TraceID, records[3].Embedding = "", "", nil
	records[4].RequestID = "nul\x00 in it, 'quotes', \"more\" and ünïcode"
	records[5].ImageFormat, records[5].Embedding = "tensor", []float32{1.5}
	var counts tally
	s := openSQLite(t, SQLiteOptions{Count: counts.count})
	mustWrite(t, s)
	mustWrite(t, s, records[:60]...)
	mustWrite(t, s, records[60])
	equalRows(t, allRows(t, s), rowsOf(records))
	if n, err := s.Count(t.Context()); n != 61 || err != nil {
		t.Errorf("Count = %d, %v, want 61", n, err)
	}
	if counts.of(Written) != 61 {
		t.Errorf("counted %v, want 61 written", counts.n)
	}
}

func TestOpenSQLite_ExistingDatabase(t *testing.T) {
	for _, synchronous := range []Synchronous{Normal, Full} {
		t.Run(string(synchronous), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a folder with % and #?", "predictions.db")
			records := newRecords(10)
			s := openSQLite(t, SQLiteOptions{Path: path, Synchronous: synchronous})
			mustWrite(t, s, records[:5]...)
			mustClose(t, s)
			if _, err := os.Stat(path); err != nil {
				t.Fatal(err)
			}
			s = openSQLite(t, SQLiteOptions{Path: path, Synchronous: synchronous})
			mustWrite(t, s, records[5:]...)
			equalRows(t, allRows(t, s), rowsOf(records))
			want := map[Synchronous]int{Normal: 1, Full: 2}[synchronous]
			var got int
			s.mu.Lock()
			defer s.mu.Unlock()
			if err := s.db.insert.conn.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&got); err != nil || got != want {
				t.Errorf("synchronous = %d, %v", got, err)
			}
		})
	}
}

func TestSQLiteWrite_Duplicates(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(60)
	mustWrite(t, s, records[:40]...)
	mustWrite(t, s, records...)
	equalRows(t, allRows(t, s), rowsOf(records))
	if got := query(t, s.options.Path, "SELECT max(seq) FROM predictions"); got != "60" {
		t.Errorf("last seq = %s, want 60", got)
	}
}

func TestSQLite_TableFormat(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	r := newRecord(0)
	mustWrite(t, s, *r)
	got := query(t, s.options.Path, "SELECT concat_ws(' ', id, time, request_id, label, probability, latency_seconds, image_sha256, length(embedding), datetime(time)) FROM predictions")
	row := r.row()
	want := row.ID + " 2026-11-26T10:11:12.123456Z request-0 FAKE 0.75 0.0015 " + row.ImageSHA256 + " 512 2026-11-26 10:11:12"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPage(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(10)
	mustWrite(t, s, records[:8]...)
	first, cursor, err := s.Page(t.Context(), "", 4)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, records[8:]...)
	second, end, err := s.Page(t.Context(), cursor, 4)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range append(first, second...) {
		if want := records[7-i].row().ID; r.ID != want {
			t.Errorf("row %d is %s, want %s", i, r.ID, want)
		}
	}
	if end != "" {
		t.Errorf("cursor after the last page = %q, want none", end)
	}
	for _, bad := range []string{"x", "-1", "0", "1.5", "99999999999999999999"} {
		if _, _, err := s.Page(t.Context(), bad, 4); !errors.Is(err, ErrCursor) {
			t.Errorf("Page with cursor %q: error %v, want ErrCursor", bad, err)
		}
	}
	if _, _, err := s.Page(t.Context(), "", 0); err == nil {
		t.Error("Page with limit 0 returned no error")
	}
}

func TestOpenSQLite_Errors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.db")
	db, err := sql.Open("sqlite", other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE bookmarks (url TEXT)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	mustClose(t, openSQLite(t, SQLiteOptions{Path: newer}))
	if db, err = sql.Open("sqlite", newer); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		options SQLiteOptions
		want    string
	}{
		{"no path", SQLiteOptions{}, "no file name given"},
		{"directory", SQLiteOptions{Path: dir}, "not a regular file"},
		{"path below a file", SQLiteOptions{Path: filepath.Join(file, "x.db")}, "not a directory"},
		{"another program's database", SQLiteOptions{Path: other}, "belongs to another program"},
		{"newer version", SQLiteOptions{Path: newer}, "newer version of this program (schema 9999"},
		{"unknown synchronous setting", SQLiteOptions{Path: file, Synchronous: "off"}, `synchronous setting "off"`},
		{"negative age", SQLiteOptions{Path: file, MaxAge: -1}, "negative"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := tree(t, dir)
			_, err := OpenSQLite(t.Context(), test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("OpenSQLite = %v, want an error containing %q", err, test.want)
			}
			for name, data := range before {
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s was changed: %v", name, err)
				}
			}
		})
	}
}

// tree returns the contents of the files in the directory, except lock files.
func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := filepath.Join(dir, e.Name()); e.Type().IsRegular() && !strings.HasSuffix(name, ".lock") {
			if files[name], err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return files
}

func TestOpenSQLite_InUse(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	_, err := OpenSQLite(t.Context(), SQLiteOptions{Path: s.options.Path})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second OpenSQLite = %v, want an error", err)
	}
	mustWrite(t, s, *newRecord(0))
	mustClose(t, s)
	s = openSQLite(t, SQLiteOptions{Path: s.options.Path})
	if len(allRows(t, s)) != 1 {
		t.Error("the record is missing")
	}
}

func TestRetention(t *testing.T) {
	records := newRecords(1000) // a second apart
	for _, test := range []struct {
		name    string
		options SQLiteOptions
		want    int
	}{
		{"by age", SQLiteOptions{MaxAge: 700 * time.Second}, 700},
		{"by rows", SQLiteOptions{MaxRows: 321}, 321},
		{"by both, rows stricter", SQLiteOptions{MaxAge: 700 * time.Second, MaxRows: 10}, 10},
		{"by both, age stricter", SQLiteOptions{MaxAge: 5 * time.Second, MaxRows: 100}, 5},
		{"below the limit", SQLiteOptions{MaxRows: 5000}, 1000},
		{"no limit", SQLiteOptions{}, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Open without limits, so that the background goroutine doesn't run.
			s := openSQLite(t, SQLiteOptions{})
			mustWrite(t, s, records...)
			s.options.MaxAge, s.options.MaxRows = test.options.MaxAge, test.options.MaxRows
			now := records[len(records)-1].Time.Add(time.Second - time.Microsecond)
			if err := s.retain(now); err != nil {
				t.Fatal(err)
			}
			rows := allRows(t, s)
			equalRows(t, rows, rowsOf(records[1000-test.want:]))
		})
	}
}

func TestRetention_BackgroundAndReusedPages(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{MaxRows: 100})
	for i := range 3000 {
		r := newRecord(i)
		mustWrite(t, s, *r)
		if i%500 == 499 {
			if err := s.retain(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustClose(t, s)
	info, err := os.Stat(s.options.Path)
	if err != nil {
		t.Fatal(err)
	}
	// 3000 rows would take more than 2.5 MB.
	if info.Size() > 1<<20 {
		t.Errorf("the file has %d bytes, want at most 1 MiB", info.Size())
	}
	s = openSQLite(t, SQLiteOptions{Path: s.options.Path, MaxAge: time.Nanosecond})
	// Make all records old, whatever the current time.
	s.mu.Lock()
	_, err = s.db.insert.conn.ExecContext(t.Context(), "UPDATE predictions SET time = '2020-01-01T00:00:00.000000Z'")
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "old rows are deleted", func() bool { n, _ := s.Count(t.Context()); return n == 0 })
}

func TestSQLite_ImagesAreDeduplicated(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(4)
	for i := range records {
		records[i].Image = []byte("image one")
		records[i].ImageSHA256 = records[0].ImageSHA256
	}
	records[3].Image, records[3].ImageSHA256 = []byte("image two"), [32]byte{1}
	mustWrite(t, s, records...)
	count := func() string { return query(t, s.options.Path, "SELECT count(*) FROM images") }
	if got := count(); got != "2" {
		t.Errorf("%s images, want 2", got)
	}
	seqs, rows, err := s.oldest(t.Context(), 0, 10, 1<<20)
	if err != nil || len(rows) != 4 {
		t.Fatal(err, len(rows))
	}
	if string(rows[2].Image) != "image one" || string(rows[3].Image) != "image two" {
		t.Errorf("images %q and %q, want image one and image two", rows[2].Image, rows[3].Image)
	}
	for i, want := range []string{"2", "2", "1", "0"} {
		if err := s.remove(t.Context(), seqs[i:i+1]); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != want {
			t.Errorf("%s images after deleting %d records, want %s", got, i+1, want)
		}
	}
}

func TestSQLite_VanishedDatabase(t *testing.T) {
	for _, test := range []struct {
		name   string
		vanish func(path string) error
	}{
		{"file deleted", os.Remove},
		{"directory deleted", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		{"file moved", func(path string) error { return os.Rename(path, path+".old") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var lines logLines
			s := openSQLite(t, SQLiteOptions{Logger: lines.logger()})
			records := newRecords(2)
			mustWrite(t, s, records[0])
			if err := test.vanish(s.options.Path); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, s, records[1])
			equalRows(t, allRows(t, s), rowsOf(records[1:]))
			mustClose(t, s)
			if got := query(t, s.options.Path, "SELECT count(*) FROM predictions"); got != "1" {
				t.Errorf("%s rows in the file, want 1", got)
			}
			if !strings.Contains(lines.String(), "vanished") {
				t.Errorf("log: %s", lines.String())
			}
		})
	}
}

func TestSQLiteWrite_LockedDatabase(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	db, err := sql.Open("sqlite", "file:"+s.options.Path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	_, err = s.db.insert.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 1")
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), newRecords(1)); !isBusy(err) {
		t.Fatalf("Write to a locked database = %v, want SQLITE_BUSY", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, newRecords(1)...)
}

func TestSQLite_ClosedOrCanceled(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	mustClose(t, s)
	mustClose(t, s)
	if err := s.Write(t.Context(), newRecords(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close = %v, want ErrClosed", err)
	}
	if _, err := s.Count(t.Context()); err == nil {
		t.Error("Count after Close returned no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = openSQLite(t, SQLiteOptions{})
	if err := s.Write(ctx, newRecords(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Write with a canceled context = %v", err)
	}
	if err := s.Export(ctx, &bytes.Buffer{}, NDJSON); !errors.Is(err, context.Canceled) {
		t.Errorf("Export with a canceled context = %v", err)
	}
	if err := s.Export(t.Context(), &bytes.Buffer{}, "xlsx"); err == nil || !strings.Contains(err.Error(), "xlsx") {
		t.Errorf("Export in an unknown format = %v", err)
	}
}

func TestLog_FullDatabase(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	limit := func(pages string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.db.insert.conn.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("20")
	l := New(s, Options{MaxRecords: 500})
	records := newRecords(400)
	for i := range records {
		mustAppend(t, l, &records[i])
	}
	eventually(t, "the database is full", func() bool { return isFull(l.Err()) })
	limit("1000000")
	eventually(t, "the records are written", func() bool { return l.Err() == nil && l.Waiting() == 0 })
	equalRows(t, allRowsAtOnce(t, s), rowsOf(records))
	mustClose(t, l)
}
