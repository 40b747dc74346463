package predlog

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
)

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// readExport has a parser for each format, independent of the exporting code where possible.
var readExport = map[Format]func(t *testing.T, data []byte) []Row{
	NDJSON:   readNDJSON,
	CSV:      readCSV,
	Parquet:  readParquet,
	Database: readDatabase,
}

func readNDJSON(t *testing.T, data []byte) (rows []Row) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		var r Row
		if err := decoder.Decode(&r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

func readCSV(t *testing.T, data []byte) (rows []Row) {
	t.Helper()
	lines, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines[1:] {
		// Build a JSON object by column name, with numbers where JSON has numbers.
		object := map[string]any{}
		for i, name := range lines[0] {
			var number json.Number
			switch {
			case line[i] == "" && strings.HasPrefix(name, "feedback_"): // no feedback
			case name == "embedding":
				object[name] = json.RawMessage(line[i])
			case name == "image":
				if object[name], err = base64.StdEncoding.DecodeString(line[i]); err != nil {
					t.Fatal(err)
				}
			case !slices.Contains([]string{"id", "time", "request_id", "trace_id", "model", "model_name", "label", "image_sha256", "image_format", "feedback_label", "feedback_comment", "feedback_time"}, name):
				number = json.Number(line[i])
				if _, err := strconv.ParseFloat(line[i], 64); err != nil {
					t.Fatal(err)
				}
				object[name] = number
			default:
				object[name] = line[i]
			}
		}
		var r Row
		if err := json.Unmarshal([]byte(mustJSON(t, object)), &r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

func readParquet(t *testing.T, data []byte) []Row {
	t.Helper()
	rows, err := parquet.Read[Row](bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if rows[i].Embedding == nil {
			rows[i].Embedding = []float32{}
		}
	}
	return rows
}

func readDatabase(t *testing.T, data []byte) []Row {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := query(t, path, "PRAGMA integrity_check"); got != "ok" {
		t.Error(got)
	}
	s := openSQLite(t, SQLiteOptions{Path: path})
	rows := allRowsAtOnce(t, s)
	mustClose(t, s)
	return rows
}

var formats = []Format{NDJSON, CSV, Parquet, Database}

func TestExport(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(50)
	records[1].Image = []byte("\x00\xff image")
	records[2].Embedding, records[2].TraceID = nil, ""
	records[3].RequestID = "comma, \"quote\",\nline and <b>"
	mustWrite(t, s, records...)
	want := rowsOf(records)
	for _, format := range formats {
		t.Run(string(format), func(t *testing.T) {
			var b bytes.Buffer
			if err := s.Export(t.Context(), &b, format); err != nil {
				t.Fatal(err)
			}
			equalRows(t, readExport[format](t, b.Bytes()), want)
			if format.ContentType() == Format("").ContentType() {
				t.Error("the format has no media type")
			}
			if f, err := ParseFormat(string(format)); f != format || err != nil {
				t.Errorf("ParseFormat = %q, %v", f, err)
			}
		})
	}
	if _, err := ParseFormat("xlsx"); err == nil {
		t.Error("ParseFormat(xlsx) returned no error")
	}
}

func TestExport_EmptyLog(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	for _, format := range formats {
		t.Run(string(format), func(t *testing.T) {
			var b bytes.Buffer
			if err := s.Export(t.Context(), &b, format); err != nil {
				t.Fatal(err)
			}
			if rows := readExport[format](t, b.Bytes()); len(rows) != 0 {
				t.Errorf("%d rows, want 0", len(rows))
			}
		})
	}
}

// Each transaction has ten records, so a consistent snapshot has a multiple of ten.
func TestExport_SnapshotWhileWriting(t *testing.T) {
	for _, format := range formats {
		t.Run(string(format), func(t *testing.T) {
			s := openSQLite(t, SQLiteOptions{})
			write := func(i int) {
				records := newRecords(10)
				for k := range records {
					records[k].RequestID = strconv.Itoa(10*i + k)
				}
				mustWrite(t, s, records...)
			}
			for i := range 50 {
				write(i)
			}
			stop := make(chan struct{})
			var group sync.WaitGroup
			group.Go(func() {
				for i := 50; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						write(i)
					}
				}
			})
			defer group.Wait()
			defer close(stop)
			for range 2 {
				var b bytes.Buffer
				// Read slowly, so that records are written meanwhile.
				slow := writerFunc(func(p []byte) (int, error) {
					if b.Len() < 256<<10 {
						time.Sleep(time.Millisecond)
					}
					return b.Write(p)
				})
				if err := s.Export(t.Context(), slow, format); err != nil {
					t.Fatal(err)
				}
				rows := readExport[format](t, b.Bytes())
				if len(rows) < 500 || len(rows)%10 != 0 {
					t.Errorf("%d rows, want 0", len(rows))
				}
				for i, r := range rows {
					if r.RequestID != strconv.Itoa(i) {
						t.Fatalf("row %d contains record %s", i, r.RequestID)
					}
				}
			}
		})
	}
}

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after -= len(p); b.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestExport_WriterFails(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	mustWrite(t, s, newRecords(500)...)
	for _, format := range formats {
		if err := s.Export(t.Context(), &broken{after: 1000}, format); err == nil {
			t.Errorf("%s: no error", format)
		}
	}
	// A leaked read transaction would prevent checkpoints of the -wal file.
	if got := s.db.reader.Stats().InUse; got != 0 {
		t.Errorf("%d connections are still in use", got)
	}
}

func TestExport_CSVEscapesFormulas(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	for i, id := range []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "a=1", ""} {
		r := newRecord(i)
		r.RequestID = id
		mustWrite(t, s, *r)
	}
	var b bytes.Buffer
	if err := s.Export(t.Context(), &b, CSV); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := slices.Index(lines[0], "request_id")
	for i, line := range lines[1:] {
		if id := line[column]; id != "" && strings.ContainsRune("=+-@\t\r\n", rune(id[0])) {
			t.Errorf("row %d: %q", i, id)
		}
	}
}

func TestColumnNames(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	mustWrite(t, s, *newRecord(0))
	var want []string
	for _, f := range bigQuerySchema(reflect.TypeFor[Row]()) {
		want = append(want, f.Name)
	}
	// An entry ends with the latest feedback.
	entry := append(slices.Clone(want), "feedback_label", "feedback_comment", "feedback_time")
	if !slices.Equal(csvHeader, entry) {
		t.Errorf("CSV:  %v\nwant: %v", csvHeader, entry)
	}
	var names []string
	for _, c := range parquet.SchemaOf(Entry{}).Fields() {
		names = append(names, c.Name())
	}
	if !slices.Equal(names, entry) {
		t.Errorf("Parquet: %v\nwant:    %v", names, entry)
	}
	object := map[string]any{}
	r := newRecord(0)
	r.Image = []byte{1}
	if err := json.Unmarshal([]byte(mustJSON(t, r.row())), &object); err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if _, ok := object[name]; !ok {
			t.Errorf("JSON has no %s", name)
		}
	}
	if len(object) != len(want) {
		t.Errorf("JSON has %d names, want %d", len(object), len(want))
	}
	db, err := sql.Open("sqlite", s.options.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.Query("SELECT * FROM predictions")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	got, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	got = slices.DeleteFunc(got, func(name string) bool { return name == "seq" || name == "image_logged" })
	got = slices.Insert(got, slices.Index(got, "embedding")+1, "image") // in a table of its own
	if !slices.Equal(got, want) {
		t.Errorf("SQLite: %v\nwant:   %v", got, want)
	}
}

// The exported rows are many times larger than the memory that an export may use.
func TestExport_BoundedMemory(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	image := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	for i := range 24 {
		r := newRecord(i)
		r.Image = image
		mustWrite(t, s, *r)
	}
	for _, format := range formats {
		t.Run(string(format), func(t *testing.T) {
			var peak uint64
			n := 0
			w := writerFunc(func(p []byte) (int, error) {
				if n += len(p); n > 1<<20 {
					n = 0
					var m runtime.MemStats
					// Collect twice: the contents of a sync.Pool survive the first collection.
					runtime.GC()
					runtime.GC()
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc)
				}
				return len(p), nil
			})
			if err := s.Export(t.Context(), w, format); err != nil {
				t.Fatal(err)
			}
			t.Logf("at most %d MiB in use", peak>>20)
			if peak > 16<<20 {
				t.Errorf("%d MiB in use, want at most 16", peak>>20)
			}
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSample(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	begin := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	records := newRecords(1000)
	for i := range records {
		records[i].Time = begin.Add(time.Duration(i) * time.Second)
	}
	if err := s.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		since    time.Duration
		most     int
		of       int64
		rows     int
		from, to time.Duration
	}{
		{-time.Hour, 5000, 1000, 1000, 0, 999 * time.Second},
		{-time.Hour, 250, 1000, 250, 0, 996 * time.Second},
		{400 * time.Second, 5000, 600, 600, 400 * time.Second, 999 * time.Second},
		{400 * time.Second, 300, 600, 300, 400 * time.Second, 998 * time.Second},
		{999 * time.Second, 10, 1, 1, 999 * time.Second, 999 * time.Second},
		{time.Hour, 10, 0, 0, 0, 0},
	} {
		rows, of, err := s.Sample(t.Context(), begin.Add(test.since), test.most)
		if err != nil {
			t.Fatal(err)
		}
		if of != test.of || len(rows) != test.rows {
			t.Errorf("Sample since %s, at most %d: %d rows of %d, want %d of %d", test.since, test.most, len(rows), of, test.rows, test.of)
			continue
		}
		if len(rows) > 0 && (!rows[0].Time.Equal(begin.Add(test.from)) || !rows[len(rows)-1].Time.Equal(begin.Add(test.to))) {
			t.Errorf("Sample since %s, at most %d: times from %s to %s", test.since, test.most, rows[0].Time, rows[len(rows)-1].Time)
		}
	}
	if rows, of, err := openSQLite(t, SQLiteOptions{}).Sample(t.Context(), begin, 10); err != nil || of != 0 || len(rows) != 0 {
		t.Errorf("Sample of an empty log: %d rows of %d, %v", len(rows), of, err)
	}
	if _, _, err := s.Sample(t.Context(), begin, 0); err == nil {
		t.Error("Sample of 0 rows returned no error")
	}
}
