package predictions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"fakeart/server/predlog"
)

// giveFeedback adds feedback on record i of newLog.
func giveFeedback(t *testing.T, store *predlog.SQLite, i int, label string) {
	t.Helper()
	id := uuid.UUID{byte(i), byte(i >> 8), 7}.String()
	if _, err := store.Feedback(t.Context(), predlog.Feedback{ID: id, Time: start.Add(time.Hour), Label: label, Comment: "=so, \"it\" is\n"}); err != nil {
		t.Fatal(err)
	}
}

// collect returns the arguments that Feedback passes to its callback, and its result.
func collect(t *testing.T, path string) (labeled []string, counts *Counts) {
	t.Helper()
	counts, err := Feedback(t.Context(), path, false, func(l *Labeled) error {
		image, err := l.Image()
		labeled = append(labeled, fmt.Sprintf("%s %s %g %s %q", l.Model, l.Predicted, l.Probability, l.Label, image))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return labeled, counts
}

func TestFeedback_AllFormats(t *testing.T) {
	path, store := newLog(t, 20)
	giveFeedback(t, store, 3, "REAL")
	giveFeedback(t, store, 3, "FAKE") // replaces the one before
	giveFeedback(t, store, 4, "REAL")
	giveFeedback(t, store, 6, "REAL")
	want := []string{`sha256:aaaa REAL 3e-06 FAKE "image3"`, `sha256:bbbb REAL 4e-06 REAL ""`, `sha256:aaaa REAL 6e-06 REAL "image6"`}
	for _, format := range []predlog.Format{"", predlog.Database, predlog.NDJSON, predlog.CSV, predlog.Parquet} {
		t.Run(string(format), func(t *testing.T) {
			path := path
			if format != "" {
				path = export(t, store, format)
			}
			got, all := collect(t, path)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if !maps.Equal(all.Predictions, map[string]int{modelA: 16, modelB: 4}) {
				t.Errorf("predictions by model: %v", all)
			}
			// Feedback doesn't change what Read returns.
			if l, err := Read(t.Context(), path, Query{Model: modelA}); err != nil || l.Matched != 16 {
				t.Errorf("%+v, %v", l, err)
			}
		})
	}
}

func TestFeedback_OldLog(t *testing.T) {
	path, store := newLog(t, 5)
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "DROP TABLE feedback"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	line := `{"time":"2026-11-26 10:00:00 UTC","model":"sha256:aaaa","label":"FAKE","probability":0.75,"image_format":"png","width":"640","height":"480",` +
		`"mean":0.5,"std_dev":0.1,"brightness":0.5,"contrast":0.1,"sharpness":0.01,"saturation":0.2,"embedding":[1.5,2]`
	for name, path := range map[string]string{
		"database": path, "ndjson": file(t, []byte(line+"}\n")), "bigquery_view": file(t, []byte(line+`,"feedback_label":null}`+"\n")),
		"csv": file(t, []byte("time,model,label,probability,image_format,width,height,mean,std_dev,brightness,contrast,sharpness,saturation,embedding\n"+
			"2026-11-26T10:00:00Z,sha256:aaaa,FAKE,0.75,png,640,480,0.5,0.1,0.5,0.1,0.01,0.2,\"[1.5,2]\"\n")),
	} {
		t.Run(name, func(t *testing.T) {
			if got, all := collect(t, path); len(got) != 0 || all.Predictions[modelA] == 0 {
				t.Errorf("got %v, counts %v, want no feedback", got, all)
			}
		})
	}
}

func TestFeedback_InvalidLog(t *testing.T) {
	_, store := newLog(t, 2)
	giveFeedback(t, store, 0, "REAL")
	good, err := os.ReadFile(export(t, store, predlog.NDJSON))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, text, want string }{
		{"empty_class", `"label":"REAL"`, `"label":""`, "label is empty"},
		{"probability_out_of_range", `"probability":0`, `"probability":1.5`, "1.5"},
		{"probability_NaN", `"probability":0`, `"probability":"NaN"`, "NaN"},
		{"truncated_line", `"feedback_time"`, "\n", "JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(string(good), test.old, test.text, 1)
			_, err := Feedback(t.Context(), file(t, []byte(text)), true, func(*Labeled) error { return nil })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
	for name, path := range map[string]string{"missing file": filepath.Join(t.TempDir(), "absent"), "directory": t.TempDir(), "other file": file(t, []byte("hello")), "empty file": file(t, nil)} {
		if _, err := Feedback(t.Context(), path, false, func(*Labeled) error { return nil }); err == nil {
			t.Errorf("Feedback(%s) succeeded", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path, _ := newLog(t, 5)
	if _, err := Feedback(ctx, path, false, func(*Labeled) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Feedback with a canceled context: error = %v, want context.Canceled", err)
	}
}
