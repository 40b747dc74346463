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

// say leaves feedback on record i of those that written keeps.
func say(t *testing.T, store *predlog.SQLite, i int, label string) {
	t.Helper()
	id := uuid.UUID{byte(i), byte(i >> 8), 7}.String()
	if _, err := store.Feedback(t.Context(), predlog.Feedback{ID: id, Time: start.Add(time.Hour), Label: label, Comment: "=so, \"it\" is\n"}); err != nil {
		t.Fatal(err)
	}
}

// judged is what Feedback has called f with.
func judged(t *testing.T, path string) (said []string, all map[string]int) {
	t.Helper()
	all, err := Feedback(t.Context(), path, func(j *Judged) error {
		picture, err := j.Picture()
		said = append(said, fmt.Sprintf("%s %s %g %s %q", j.Model, j.Verdict, j.Probability, j.Label, picture))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return said, all
}

func TestFeedbackIsReadFromEveryFormOfALog(t *testing.T) {
	path, store := written(t, 20)
	say(t, store, 3, "REAL")
	say(t, store, 3, "FAKE") // the last one counts
	say(t, store, 4, "REAL")
	say(t, store, 6, "REAL")
	want := []string{`sha256:aaaa REAL 3e-06 FAKE "picture3"`, `sha256:bbbb REAL 4e-06 REAL ""`, `sha256:aaaa REAL 6e-06 REAL "picture6"`}
	for _, format := range []predlog.Format{"", predlog.Database, predlog.NDJSON, predlog.CSV, predlog.Parquet} {
		t.Run(string(format), func(t *testing.T) {
			path := path
			if format != "" {
				path = export(t, store, format)
			}
			got, all := judged(t, path)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if !maps.Equal(all, map[string]int{modelA: 16, modelB: 4}) {
				t.Errorf("predictions by model: %v", all)
			}
			// What else is read of a log is as it was.
			if l, err := Read(t.Context(), path, Query{Model: modelA}); err != nil || l.Taken != 16 {
				t.Errorf("%+v, %v", l, err)
			}
		})
	}
}

func TestALogOfAnOlderVersionHasNoFeedback(t *testing.T) {
	path, store := written(t, 5)
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
		"database": path, "ndjson": file(t, []byte(line+"}\n")), "ndjson of BigQuery's view": file(t, []byte(line+`,"feedback_label":null}`+"\n")),
		"csv": file(t, []byte("time,model,label,probability,image_format,width,height,mean,std_dev,brightness,contrast,sharpness,saturation,embedding\n"+
			"2026-11-26T10:00:00Z,sha256:aaaa,FAKE,0.75,png,640,480,0.5,0.1,0.5,0.1,0.01,0.2,\"[1.5,2]\"\n")),
	} {
		t.Run(name, func(t *testing.T) {
			if got, all := judged(t, path); len(got) != 0 || all[modelA] == 0 {
				t.Errorf("%v, %v", got, all)
			}
		})
	}
}

func TestFeedbackThatCannotBeIsRefused(t *testing.T) {
	_, store := written(t, 2)
	say(t, store, 0, "REAL")
	good, err := os.ReadFile(export(t, store, predlog.NDJSON))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, text, want string }{
		{"a label of another kind", `"feedback_label":"REAL"`, `"feedback_label":"MAYBE"`, `"MAYBE" is neither`},
		{"a verdict of another kind", `"label":"REAL"`, `"label":"cat"`, `"cat" is neither`},
		{"a probability that is none", `"probability":0`, `"probability":1.5`, "1.5"},
		{"a probability that is no number", `"probability":0`, `"probability":"NaN"`, "NaN"},
		{"a line that breaks off", `"feedback_time"`, "\n", "JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(string(good), test.old, test.text, 1)
			_, err := Feedback(t.Context(), file(t, []byte(text)), func(*Judged) error { return nil })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, path := range map[string]string{"nothing": filepath.Join(t.TempDir(), "absent"), "a folder": t.TempDir(), "no log": file(t, []byte("hello")), "an empty file": file(t, nil)} {
		if _, err := Feedback(t.Context(), path, func(*Judged) error { return nil }); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path, _ := written(t, 5)
	if _, err := Feedback(ctx, path, func(*Judged) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
