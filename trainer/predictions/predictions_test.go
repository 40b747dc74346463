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
	"strings"
	"testing"
	"time"

	"fakeart/internal/drift"
	// The server's own log writes what is read here, so that the two cannot part.
	"fakeart/server/predlog"
)

const (
	modelA = "sha256:aaaa"
	modelB = "sha256:bbbb"
)

var start = time.Date(2026, 11, 26, 10, 0, 0, 123456000, time.UTC)

// written keeps n records, one a second, of which every fifth is of another model and
// every third has its picture.
func written(t *testing.T, n int) (path string, store *predlog.SQLite) {
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
			r.Image = []byte(fmt.Sprint("picture", i))
			r.ImageSHA256 = [32]byte{byte(i), byte(i >> 8), 1}
		}
	}
	if err := store.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	return path, store
}

// export writes the log in a format of the server's.
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

func TestEveryFormOfALogIsReadAlike(t *testing.T) {
	path, store := written(t, 60)
	var want *Log
	for _, format := range []predlog.Format{"", predlog.Database, predlog.NDJSON, predlog.CSV, predlog.Parquet} {
		t.Run(string(format), func(t *testing.T) {
			path := path // the database itself, while it is open
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
				t.Errorf("%+v\nand from the database\n%+v", got, want)
			}
		})
	}
	if want.Taken != 32 || len(want.Rows) != 32 || want.OtherTime != 20 || want.OtherModels[modelB] != 8 || want.Broken != 0 ||
		!want.From.Equal(start.Add(10*time.Second)) || !want.To.Equal(start.Add(48*time.Second)) {
		t.Errorf("taken %d, rows %d, other times %d, other models %v, %s to %s", want.Taken, len(want.Rows), want.OtherTime, want.OtherModels, want.From, want.To)
	}
	row := drift.Row{
		Time: start.Add(10 * time.Second), Model: modelA, Label: "REAL", Probability: 1e-5, Format: "jpeg", Width: 110, Height: 60,
		Mean: 1e-4, StdDev: 2e-4, Brightness: 3e-4, Contrast: 4e-4, Sharpness: 5e-4, Saturation: 6e-4, Embedding: []float32{10, -0.5, 1e-9},
	}
	if !reflect.DeepEqual(want.Rows[0], row) {
		t.Errorf("the first row is %+v, want %+v", want.Rows[0], row)
	}
	if len(want.Pictures) != 11 || string(want.Pictures[0].Data) != "picture12" || want.Pictures[0].Label != "REAL" || want.Pictures[0].Probability != 12e-6 {
		t.Errorf("%d pictures, the first %+v", len(want.Pictures), want.Pictures[0])
	}
}

func TestWithoutAModelTheNewestRecordsIsTaken(t *testing.T) {
	path, _ := written(t, 60) // the last one is B's
	l, err := Read(t.Context(), path, Query{})
	if err != nil || l.Model != modelB || l.Taken != 12 || l.OtherModels[modelA] != 48 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestOfManyRecordsASampleIsKept(t *testing.T) {
	path, store := written(t, 2*drift.SampleSize)
	l, err := Read(t.Context(), path, Query{Model: modelA})
	if err != nil {
		t.Fatal(err)
	}
	if l.Taken != 8000 || len(l.Rows) != drift.SampleSize || len(l.Pictures) != maxPictures {
		t.Errorf("taken %d, rows %d, pictures %d", l.Taken, len(l.Rows), len(l.Pictures))
	}
	lines, err := Read(t.Context(), export(t, store, predlog.NDJSON), Query{Model: modelA})
	if err != nil || !reflect.DeepEqual(lines, l) {
		t.Errorf("the export's sample is another one (%v)", err)
	}
}

func TestBigQuerysExportIsRead(t *testing.T) {
	l, err := Read(t.Context(), file(t, []byte(`{"id":"1","time":"2026-11-26 10:00:00.123456 UTC","model":"m","label":"FAKE","probability":0.75,"image_format":"png","image_bytes":"9","width":"640","height":"480","mean":0.5,"std_dev":0.1,"brightness":0.5,"contrast":0.1,"sharpness":0.01,"saturation":0.2,"embedding":[1.5,2]}
{"id":"2","time":"2026-11-26 10:00:01 UTC","model":"m","label":"FAKE","probability":"NaN","image_format":"png","image_bytes":"9","width":"640","height":"480","mean":0.5,"std_dev":0.1,"brightness":0.5,"contrast":0.1,"sharpness":0.01,"saturation":0.2,"embedding":[1.5,2]}
`)), Query{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Rows) != 1 || l.Broken != 1 || l.Rows[0].Width != 640 || !l.Rows[0].Time.Equal(start) || l.Rows[0].Embedding[0] != 1.5 {
		t.Errorf("%+v", l)
	}
}

func TestBadLogsAreRefused(t *testing.T) {
	path, store := written(t, 20)
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
	empty, _ := written(t, 0)
	late := Query{Since: start.Add(time.Hour), Model: modelA}
	for name, test := range map[string]struct {
		path  string
		query Query
		want  string
	}{
		"no file":                  {filepath.Join(t.TempDir(), "none"), Query{}, "no such file"},
		"a folder":                 {t.TempDir(), Query{}, "not a file"},
		"an empty file":            {file(t, nil), Query{}, "it is empty"},
		"an empty database":        {empty, Query{}, "it is empty"},
		"a CSV of a header alone":  {file(t, table[:bytes.IndexByte(table, '\n')+1]), Query{Model: modelA}, "it is empty"},
		"a text":                   {file(t, []byte("hello\n")), Query{}, "not a prediction log"},
		"another program's":        {other, Query{}, "another program's"},
		"another model's":          {path, Query{Model: "sha256:cc"}, modelA + ", " + modelB},
		"another time's":           {path, late, "outside of the time"},
		"an export that broke off": {file(t, ndjson[:len(ndjson)-30]), Query{}, "line 20"},
		"a table that broke off":   {file(t, table[:len(table)-30]), Query{}, "line 21"},
		"a Parquet file cut off":   {file(t, columns[:len(columns)-30]), Query{}, "not a prediction log"},
		"a damaged Parquet file":   {file(t, append(bytes.Clone(columns[:40]), make([]byte, 400)...)), Query{}, "not a prediction log"},
		"another JSON":             {file(t, []byte(`{"time":"2026-11-26T10:00:00Z"}`)), Query{}, `no column "model"`},
		"another CSV":              {file(t, []byte("probability,time\n1,2\n")), Query{}, `no column "model"`},
		"a number that is none":    {file(t, bytes.ReplaceAll(table, []byte(",REAL,"), []byte(",REAL,x"))), Query{}, "probability"},
		"a time that is none":      {file(t, bytes.Replace(ndjson, []byte("2026-11-26T"), []byte("yesterday"), 1)), Query{}, "line 1"},
		"a JSON object over lines": {file(t, []byte("{\n\"time\": 1}\n")), Query{}, "of one line"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Read(t.Context(), test.path, test.query)
			if err == nil {
				t.Fatalf("it is read as %+v", l)
			}
			if !strings.Contains(err.Error(), test.want) || name != "no file" && !strings.Contains(err.Error(), test.path) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReadingStopsWhenTold(t *testing.T) {
	path, store := written(t, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, p := range []string{path, export(t, store, predlog.NDJSON), export(t, store, predlog.CSV), export(t, store, predlog.Parquet)} {
		if _, err := Read(ctx, p, Query{Model: modelA}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}
