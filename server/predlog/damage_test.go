package predlog

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// filled creates a database of several pages and returns its path.
func filled(t *testing.T) (path string) {
	t.Helper()
	s := openSQLite(t, SQLiteOptions{})
	mustWrite(t, s, newRecords(300)...)
	mustClose(t, s)
	return s.options.Path
}

// aside returns the files that were moved aside, by the part of their names after the time.
func aside(t *testing.T, path string) map[string]string {
	t.Helper()
	pattern := regexp.MustCompile(`\.corrupt-\d{8}T\d{6}Z(.*)$`)
	found := map[string]string{}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if m := pattern.FindStringSubmatch(e.Name()); m != nil {
			found[m[1]] = filepath.Join(filepath.Dir(path), e.Name())
		}
	}
	return found
}

func change(t *testing.T, path string, f func(data []byte) []byte) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = f(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return data
}

func garbage(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

func TestOpenSQLite_DamagedDatabase(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(data []byte) []byte
	}{
		{"text file", func([]byte) []byte { return []byte(strings.Repeat("this is a letter to my aunt\n", 50)) }},
		{"a few bytes", func([]byte) []byte { return []byte("hello") }},
		{"garbage header", func(d []byte) []byte { copy(d, garbage(100)); return d }},
		{"invalid page size", func(d []byte) []byte { d[16], d[17] = 0x12, 0x34; return d }},
		{"zeroed schema page", func(d []byte) []byte { clear(d[100:4096]); return d }},
		{"truncated in the middle", func(d []byte) []byte { return d[:len(d)/2] }},
		{"truncated in the middle of a page", func(d []byte) []byte { return d[:len(d)/2+1000] }},
		{"zeroed page in the middle", func(d []byte) []byte { p := len(d) / 4096 / 2 * 4096; clear(d[p : p+4096]); return d }},
		{"garbage in the middle", func(d []byte) []byte { copy(d[len(d)/2:], garbage(8192)); return d }},
		{"garbage after the header", func(d []byte) []byte { copy(d[4096:], garbage(len(d)-4096)); return d }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filled(t)
			damaged := change(t, path, test.damage)
			var lines logLines
			s := openSQLite(t, SQLiteOptions{Path: path, Logger: lines.logger()})
			// The damage is found while opening, or soon after by the background check.
			eventually(t, "the database is moved aside", func() bool { return len(aside(t, path)) > 0 && strings.Contains(lines.String(), "moved it aside") })
			records := newRecords(20)
			mustWrite(t, s, records...)
			equalRows(t, allRows(t, s), rowsOf(records))
			mustClose(t, s)
			moved := aside(t, path)[""]
			got, err := os.ReadFile(moved)
			if err != nil {
				t.Fatal(err)
			}
			// Opening sets WAL mode in the header, and changes nothing else.
			if len(got) != len(damaged) || !bytes.Equal(got[min(100, len(got)):], damaged[min(100, len(got)):]) {
				t.Errorf("%s has %d bytes and differs from the damaged database of %d bytes", moved, len(got), len(damaged))
			}
			if !strings.Contains(lines.String(), moved) {
				t.Errorf("the log doesn't mention %s:\n%s", moved, lines.String())
			}
			if got := query(t, path, "PRAGMA integrity_check"); got != "ok" {
				t.Error(got)
			}
		})
	}
}

func TestSQLiteWrite_DamagedDatabase(t *testing.T) {
	path := filled(t)
	var lines logLines
	s := openSQLite(t, SQLiteOptions{Path: path, Logger: lines.logger()})
	eventually(t, "the background check is done", func() bool { s.reading.Lock(); defer s.reading.Unlock(); return true })
	s.mu.Lock()
	// Drop the cached pages of the connection.
	_, err := s.db.insert.conn.ExecContext(t.Context(), "PRAGMA shrink_memory")
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(garbage(int(info.Size())-4096), 4096); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	l := New(s, Options{Durable: true})
	r := newRecord(1000)
	mustAppend(t, l, r)
	equalRows(t, allRows(t, s), []Row{r.row()})
	if l.Err() != nil {
		t.Error(l.Err())
	}
	mustClose(t, l)
	if aside(t, path)[""] == "" || !strings.Contains(lines.String(), "moved it aside") {
		t.Errorf("files moved aside: %v, log: %s", aside(t, path), lines.String())
	}
}

// leaveWAL returns a database with the -wal file of a killed process, and its records.
func leaveWAL(t *testing.T) (path string, records []Record) {
	t.Helper()
	s := openSQLite(t, SQLiteOptions{})
	records = newRecords(100)
	mustWrite(t, s, records...)
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		data, err := os.ReadFile(s.options.Path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "predictions.db"+suffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "predictions.db"), records
}

func TestOpenSQLite_RecoversWAL(t *testing.T) {
	path, records := leaveWAL(t)
	s := openSQLite(t, SQLiteOptions{Path: path})
	equalRows(t, allRows(t, s), rowsOf(records))
	if moved := aside(t, path); len(moved) != 0 {
		t.Errorf("files %v were moved aside, want none", moved)
	}
}

func TestOpenSQLite_DamagedWAL(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(data []byte) []byte
		moved  bool
	}{
		{"all garbage", func(d []byte) []byte { return garbage(len(d)) }, true},
		{"a few bytes", func([]byte) []byte { return []byte("hello") }, true},
		{"garbage header", func(d []byte) []byte { copy(d, garbage(32)); return d }, true},
		{"wrong header checksum", func(d []byte) []byte { d[12]++; return d }, true},
		{"garbage frames", func(d []byte) []byte { copy(d[32:], garbage(len(d)-32)); return d }, false},
		{"truncated in the middle", func(d []byte) []byte { return d[:len(d)/2] }, false},
		{"empty", func([]byte) []byte { return nil }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, _ := leaveWAL(t)
			damaged := change(t, path+"-wal", test.damage)
			var lines logLines
			s := openSQLite(t, SQLiteOptions{Path: path, Logger: lines.logger()})
			r := newRecord(1000)
			mustWrite(t, s, *r)
			rows := allRows(t, s)
			if got := rows[len(rows)-1]; got.ID != r.row().ID {
				t.Errorf("last row = %v, want the new record", got)
			}
			mustClose(t, s)
			if got := query(t, path, "PRAGMA integrity_check"); got != "ok" {
				t.Error(got)
			}
			if !test.moved {
				return
			}
			found := false
			for _, name := range aside(t, path+"-wal") {
				data, err := os.ReadFile(name)
				found = found || (err == nil && bytes.Equal(data, damaged) && strings.Contains(lines.String(), name))
			}
			if !found {
				t.Errorf("the -wal file was not moved aside: %v\n%s", aside(t, path), lines.String())
			}
		})
	}
}

func TestFreeName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path+"-wal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := freeName(path); got != path+"-2" {
		t.Errorf("freeName(%s) = %s, want suffix -2", path, got)
	}
}

func TestOpenSQLite_DamagedDatabaseWithWAL(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{Path: filled(t)})
	mustWrite(t, s, *newRecord(1000))
	path := filepath.Join(t.TempDir(), "predictions.db")
	var wal []byte
	for _, suffix := range []string{"", "-wal", "-shm"} {
		data, err := os.ReadFile(s.options.Path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		switch suffix {
		case "":
			p := len(data) / 4096 / 2 * 4096
			clear(data[p : p+4096])
		case "-wal":
			wal = data
		}
		if err := os.WriteFile(path+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openSQLite(t, SQLiteOptions{Path: path})
	eventually(t, "the database is moved aside", func() bool { return aside(t, path)[""] != "" })
	r := newRecord(2000)
	mustWrite(t, s, *r)
	mustClose(t, s)
	got, err := os.ReadFile(aside(t, path)["-wal"])
	if err != nil || !bytes.Equal(got, wal) {
		t.Errorf("the -wal file moved aside has %d bytes, want the original %d bytes (%v)", len(got), len(wal), err)
	}
	s = openSQLite(t, SQLiteOptions{Path: path})
	equalRows(t, allRows(t, s), []Row{r.row()})
}
