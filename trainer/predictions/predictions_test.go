package predictions

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"fakeart/internal/drift"
	// The tests read what the server's own package writes, so that the two stay compatible.
	"fakeart/server/predlog"
)

const (
	modelA = "sha256:aaaa"
	modelB = "sha256:bbbb"
)

var start = time.Date(2026, 11, 26, 10, 0, 0, 123456000, time.UTC)

// newLog writes n records, one per second. Every fifth is of modelB, and every third has an image.
func newLog(t *testing.T, n int) (path string, store *predlog.SQLite) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "predictions.db")
	store, err := predlog.OpenSQLite(t.Context(), predlog.SQLiteOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close(context.Background()) })
	records := make([]predlog.Record, n)
	for i := range records {
		f := float64(i)
		r := &records[i]
		*r = predlog.Record{
			ID: [16]byte{byte(i), byte(i >> 8), 7}, Time: start.Add(time.Duration(i) * time.Second), RequestID: "=1+1",
			Model: modelA, Label: "REAL", Probability: f / 1e6, ImageFormat: "jpeg", Width: 100 + i, Height: 50 + i,
			Mean: f / 1e5, StdDev: 2 * f / 1e5, Brightness: 3 * f / 1e5, Contrast: 4 * f / 1e5, Sharpness: 5 * f / 1e5, Saturation: 6 * f / 1e5,
			Embedding: []float32{float32(i), -0.5, 1e-9},
		}
		if i%5 == 4 {
			r.Model = modelB
		}
		if i%3 == 0 {
			r.Image = []byte(fmt.Sprint("image", i))
			r.ImageSHA256 = [32]byte{byte(i), byte(i >> 8), 1}
		}
	}
	if err := store.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	return path, store
}

// export exports a log and returns the path of the file.
func export(t *testing.T, store *predlog.SQLite, format predlog.Format) string {
	t.Helper()
	var data bytes.Buffer
	if err := store.Export(t.Context(), &data, format); err != nil {
		t.Fatal(err)
	}
	return file(t, data.Bytes())
}

func file(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead_AllFormats(t *testing.T) {
	path, store := newLog(t, 60)
	var want *Log
	for _, format := range []predlog.Format{"", predlog.Database, predlog.NDJSON, predlog.CSV, predlog.Parquet} {
		t.Run(string(format), func(t *testing.T) {
			path := path // the database itself, while the server has it open
			if format != "" {
				path = export(t, store, format)
			}
			got, err := Read(t.Context(), path, Query{Model: modelA, Since: start.Add(10 * time.Second), Until: start.Add(50 * time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("Read() = %+v\nwant the same as for the open database\n%+v", got, want)
			}
		})
	}
	if want.Matched != 32 || len(want.Rows) != 32 || want.OtherTime != 20 || want.OtherModels[modelB] != 8 || want.NonFinite != 0 ||
		!want.From.Equal(start.Add(10*time.Second)) || !want.To.Equal(start.Add(48*time.Second)) {
		t.Errorf("matched %d, rows %d, other times %d, other models %v, %s to %s", want.Matched, len(want.Rows), want.OtherTime, want.OtherModels, want.From, want.To)
	}
	row := drift.Row{
		Time: start.Add(10 * time.Second), Model: modelA, Label: "REAL", Probability: 1e-5, Format: "jpeg", Width: 110, Height: 60,
		Mean: 1e-4, StdDev: 2e-4, Brightness: 3e-4, Contrast: 4e-4, Sharpness: 5e-4, Saturation: 6e-4, Embedding: []float32{10, -0.5, 1e-9},
	}
	if !reflect.DeepEqual(want.Rows[0], row) {
		t.Errorf("Rows[0] = %+v, want %+v", want.Rows[0], row)
	}
	if len(want.Images) != 11 || string(want.Images[0].Data) != "image12" || want.Images[0].Label != "REAL" || want.Images[0].Probability != 12e-6 {
		t.Errorf("%d images, the first %+v", len(want.Images), want.Images[0])
	}
}

func TestRead_ModelOfNewestRecord(t *testing.T) {
	path, _ := newLog(t, 60) // the last record is of modelB
	l, err := Read(t.Context(), path, Query{})
	if err != nil || l.Model != modelB || l.Matched != 12 || l.OtherModels[modelA] != 48 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestRead_Sample(t *testing.T) {
	path, store := newLog(t, 2*drift.SampleSize)
	l, err := Read(t.Context(), path, Query{Model: modelA})
	if err != nil {
		t.Fatal(err)
	}
	if l.Matched != 8000 || len(l.Rows) != drift.SampleSize || len(l.Images) != maxImages {
		t.Errorf("matched %d, rows %d, images %d", l.Matched, len(l.Rows), len(l.Images))
	}
	lines, err := Read(t.Context(), export(t, store, predlog.NDJSON), Query{Model: modelA})
	if err != nil || !reflect.DeepEqual(lines, l) {
		t.Errorf("the sample of the export differs from that of the database (%v)", err)
	}
}

func TestRead_BigQueryExport(t *testing.T) {
	l, err := Read(t.Context(), file(t, []byte(`{"id":"1","time":"2026-11-26 10:00:00.123456 UTC","model":"m","label":"FAKE","probability":0.75,"image_format":"png","image_bytes":"9","width":"640","height":"480","mean":0.5,"std_dev":0.1,"brightness":0.5,"contrast":0.1,"sharpness":0.01,"saturation":0.2,"embedding":[1.5,2]}
{"id":"2","time":"2026-11-26 10:00:01 UTC","model":"m","label":"FAKE","probability":"NaN","image_format":"png","image_bytes":"9","width":"640","height":"480","mean":0.5,"std_dev":0.1,"brightness":0.5,"contrast":0.1,"sharpness":0.01,"saturation":0.2,"embedding":[1.5,2]}
`)), Query{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Rows) != 1 || l.NonFinite != 1 || l.Rows[0].Width != 640 || !l.Rows[0].Time.Equal(start) || l.Rows[0].Embedding[0] != 1.5 {
		t.Errorf("%+v", l)
	}
}

func TestRead_InvalidLog(t *testing.T) {
	path, store := newLog(t, 20)
	ndjson, err := os.ReadFile(export(t, store, predlog.NDJSON))
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(export(t, store, predlog.CSV))
	if err != nil {
		t.Fatal(err)
	}
	columns, err := os.ReadFile(export(t, store, predlog.Parquet))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := sql.Open("sqlite", other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE x (y)"); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	empty, _ := newLog(t, 0)
	late := Query{Since: start.Add(time.Hour), Model: modelA}
	for name, test := range map[string]struct {
		path  string
		query Query
		want  string
	}{
		"missing_file":      {filepath.Join(t.TempDir(), "none"), Query{}, "no such file"},
		"directory":         {t.TempDir(), Query{}, "not a regular file"},
		"empty_file":        {file(t, nil), Query{}, "log is empty"},
		"empty_database":    {empty, Query{}, "log is empty"},
		"csv_header_only":   {file(t, table[:bytes.IndexByte(table, '\n')+1]), Query{Model: modelA}, "log is empty"},
		"text_file":         {file(t, []byte("hello\n")), Query{}, "not a prediction log"},
		"other_database":    {other, Query{}, "belongs to another program"},
		"other_model":       {path, Query{Model: "sha256:cc"}, modelA + ", " + modelB},
		"other_time":        {path, late, "outside the requested time"},
		"truncated_ndjson":  {file(t, ndjson[:len(ndjson)-30]), Query{Strict: true}, ":20: "},
		"truncated_csv":     {file(t, table[:len(table)-30]), Query{Strict: true}, ":21: "},
		"truncated_parquet": {file(t, columns[:len(columns)-30]), Query{}, "not a prediction log"},
		"corrupt_parquet":   {file(t, append(bytes.Clone(columns[:40]), make([]byte, 400)...)), Query{}, "not a prediction log"},
		"other_json":        {file(t, []byte(`{"time":"2026-11-26T10:00:00Z"}`)), Query{}, `:1: missing field "model"`},
		"long_other_json":   {file(t, bytes.Repeat([]byte("{}\n"), 200)), Query{}, `no readable record: `},
		"other_csv":         {file(t, []byte("probability,time\n1,2\n")), Query{}, `missing column "model"`},
		"invalid_number":    {file(t, bytes.ReplaceAll(table, []byte(",REAL,"), []byte(",REAL,x"))), Query{}, "probability"},
		"invalid_time":      {file(t, bytes.Replace(ndjson, []byte("2026-11-26T"), []byte("yesterday"), 1)), Query{Strict: true}, ":1: "},
		"multiline_json":    {file(t, []byte("{\n\"time\": 1}\n")), Query{}, "isn't a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Read(t.Context(), test.path, test.query)
			if err == nil {
				t.Fatalf("Read() = %+v, want an error", l)
			}
			if !strings.Contains(err.Error(), test.want) || name != "missing_file" && !strings.Contains(err.Error(), test.path) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestRead_Canceled(t *testing.T) {
	path, store := newLog(t, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, p := range []string{path, export(t, store, predlog.NDJSON), export(t, store, predlog.CSV), export(t, store, predlog.Parquet)} {
		if _, err := Read(ctx, p, Query{Model: modelA}); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
	}
}

// copies returns a log in which records 3 and 4 of ten were delivered three times, without its
// last column if the format is text.
func copies(t *testing.T, format predlog.Format) string {
	t.Helper()
	path, store := newLog(t, 10)
	giveFeedback(t, store, 3, "FAKE")
	if format == "" || format == predlog.Database {
		// A table that another program has made, without a unique id.
		if err := store.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		execute(t, path, "CREATE TABLE other AS SELECT * FROM predictions", "DROP TABLE predictions", "ALTER TABLE other RENAME TO predictions",
			"INSERT INTO predictions (seq, "+databaseColumns+") SELECT seq + 100, "+databaseColumns+" FROM predictions WHERE seq IN (4, 5)",
			"INSERT INTO predictions (seq, "+databaseColumns+") SELECT seq + 200, "+databaseColumns+" FROM predictions WHERE seq IN (4, 5)")
		return path
	}
	exported := export(t, store, format)
	data, err := os.ReadFile(exported)
	if err != nil {
		t.Fatal(err)
	}
	if format == predlog.Parquet {
		rows, err := parquet.Read[predlog.Entry](bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := parquet.Write(&out, append(append(rows, rows[3:5]...), rows[3:5]...)); err != nil {
			t.Fatal(err)
		}
		return file(t, out.Bytes())
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	first := 3
	if format == predlog.CSV {
		first = 4
	}
	again := bytes.Join(lines[first:first+2], nil)
	if format == predlog.CSV { // the comment of the feedback has a line break
		again = bytes.Join(lines[first:first+3], nil)
	}
	return file(t, append(append(data, again...), again...))
}

const databaseColumns = "id, time, request_id, trace_id, model, label, probability, latency_seconds, image_sha256, image_format, image_bytes, " +
	"width, height, mean, std_dev, brightness, contrast, sharpness, saturation, image_logged, embedding"

func execute(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestRead_Duplicates(t *testing.T) {
	for _, format := range []predlog.Format{predlog.Database, predlog.NDJSON, predlog.CSV, predlog.Parquet} {
		t.Run(string(format), func(t *testing.T) {
			path := copies(t, format)
			l, err := Read(t.Context(), path, Query{Model: modelA})
			if err != nil {
				t.Fatal(err)
			}
			if l.Matched != 8 || len(l.Rows) != 8 || l.OtherModels[modelB] != 2 || l.Duplicates != 4 || l.Unreadable != 0 {
				t.Errorf("matched %d, rows %d, other models %v, %+v; want 8, 8, 2 and 4 duplicates", l.Matched, len(l.Rows), l.OtherModels, l.Skipped)
			}
			labeled, counts := collect(t, path)
			if len(labeled) != 1 || counts.Duplicates != 4 || counts.Predictions[modelA] != 8 || counts.Predictions[modelB] != 2 {
				t.Errorf("%d with feedback, %+v", len(labeled), counts)
			}
		})
	}
}

func TestRead_UnreadableRecord(t *testing.T) {
	path, store := newLog(t, 10)
	ndjson, err := os.ReadFile(export(t, store, predlog.NDJSON))
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(export(t, store, predlog.CSV))
	if err != nil {
		t.Fatal(err)
	}
	columns, err := os.ReadFile(export(t, store, predlog.Parquet))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, path, "CREATE TABLE other AS SELECT * FROM predictions", "DROP TABLE predictions", "ALTER TABLE other RENAME TO predictions", "UPDATE predictions SET width = NULL WHERE seq = 4")
	// nullable has the required columns, as those of BigQuery's exports can be.
	type nullable struct {
		Time        time.Time `parquet:"time,timestamp(microsecond)"`
		Model       string    `parquet:"model"`
		Label       string    `parquet:"label"`
		Probability float64   `parquet:"probability"`
		ImageFormat string    `parquet:"image_format"`
		Width       *int64    `parquet:"width,optional"`
		Height      int64     `parquet:"height"`
		Mean        float64   `parquet:"mean"`
		StdDev      float64   `parquet:"std_dev"`
		Brightness  float64   `parquet:"brightness"`
		Contrast    float64   `parquet:"contrast"`
		Sharpness   float64   `parquet:"sharpness"`
		Saturation  float64   `parquet:"saturation"`
		Embedding   []float32 `parquet:"embedding,list"`
	}
	rows, err := parquet.Read[predlog.Row](bytes.NewReader(columns), int64(len(columns)))
	if err != nil {
		t.Fatal(err)
	}
	var optional []nullable
	for i, r := range rows {
		row := nullable{r.Time, r.Model, r.Label, r.Probability, r.ImageFormat, &rows[i].Width, r.Height, r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation, r.Embedding}
		if i == 3 {
			row.Width = nil
		}
		optional = append(optional, row)
	}
	var null bytes.Buffer
	if err := parquet.Write(&null, optional); err != nil {
		t.Fatal(err)
	}
	// edit replaces text in the fourth record.
	edit := func(data []byte, line int, old, text string) string {
		lines := bytes.SplitAfter(data, []byte("\n"))
		if !bytes.Contains(lines[line], []byte(old)) {
			t.Fatalf("line %d doesn't contain %s: %s", line, old, lines[line])
		}
		changed := slices.Clone(lines)
		changed[line] = bytes.Replace(lines[line], []byte(old), []byte(text), 1)
		return file(t, bytes.Join(changed, nil))
	}
	for _, test := range []struct{ name, path, place, reason string }{
		{"ndjson_missing_field", edit(ndjson, 3, `"brightness":`, `"bright":`), ":4", `missing field "brightness"`},
		{"ndjson_null", edit(ndjson, 3, `"mean":0.00003`, `"mean":null`), ":4", `missing field "mean"`},
		{"ndjson_missing_embedding", edit(ndjson, 3, `"embedding"`, `"e"`), ":4", `missing field "embedding"`},
		{"ndjson_text_in_embedding", edit(ndjson, 3, `"embedding":[3`, `"embedding":["x"`), ":4", "embedding"},
		{"ndjson_wrong_type", edit(ndjson, 3, `"label":"REAL"`, `"label":7`), ":4", `field "label"`},
		{"ndjson_no_number", edit(ndjson, 3, `"width":103`, `"width":"wide"`), ":4", `"wide" isn't a number`},
		{"ndjson_no_time", edit(ndjson, 3, `"time":"`, `"time":"x`), ":4", "isn't a time"},
		{"ndjson_damaged", edit(ndjson, 3, `{"id"`, `"id"`), ":4", "isn't a JSON object"},
		{"ndjson_first_line", edit(ndjson, 0, `"label"`, `"l"`), ":1", `missing field "label"`},
		{"ndjson_truncated", file(t, ndjson[:len(ndjson)-40]), ":10", "truncated"},
		{"csv_missing_field", edit(table, 4, ",REAL,", ",,"), ":5", `missing field "label"`},
		{"csv_no_number", edit(table, 4, ",103,53,", ",wide,53,"), ":5", `"wide" isn't a number`},
		{"csv_quote", edit(table, 4, ",REAL,", `,RE"AL,`), ":5", "damaged"},
		{"csv_truncated", file(t, table[:len(table)-60]), ":11", "truncated"},
		{"parquet_null", file(t, null.Bytes()), ", row 4", `missing field "width"`},
		{"database_null", path, ", seq 4", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := Read(t.Context(), test.path, Query{})
			if err != nil {
				t.Fatal(err)
			}
			records := l.Matched
			for _, n := range l.OtherModels {
				records += n
			}
			want := test.path + test.place + ": "
			if records != 9 || l.Unreadable != 1 || len(l.Examples) != 1 || !strings.HasPrefix(l.Examples[0], want) || !strings.Contains(l.Examples[0], test.reason) {
				t.Errorf("%d records, %+v; want 9, and one example with %s and %s", records, l.Skipped, want, test.reason)
			}
			for _, r := range l.Rows {
				if r.Width == 0 || r.Label == "" {
					t.Errorf("row with a zero for a missing field: %+v", r)
				}
			}
			if _, err := Read(t.Context(), test.path, Query{Strict: true}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("strict: error = %v, want one with %s and %s", err, want, test.reason)
			}
		})
	}
}
