package dataset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"fakeart/internal/config"
	"fakeart/server/predlog"
)

// logOf keeps predictions of the pictures in a log; nil is one that was not logged. labels are
// what users say of them; an empty one is nothing.
func logOf(t *testing.T, pictures [][]byte, labels []string) (path string, store *predlog.SQLite) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "predictions.db")
	store, err := predlog.OpenSQLite(t.Context(), predlog.SQLiteOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close(context.Background()) })
	records := make([]predlog.Record, len(pictures))
	for i, p := range pictures {
		records[i] = predlog.Record{
			ID: [16]byte{byte(i), byte(i >> 8), 7}, Time: time.Unix(1e9+int64(i), 0), Model: "sha256:a", Label: "REAL", Probability: 0.25, ImageFormat: "png",
			ImageSHA256: sha256.Sum256(p), Image: p,
		}
	}
	if err := store.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	for i, label := range labels {
		if label == "" {
			continue
		}
		f := predlog.Feedback{ID: uuid.UUID(records[i].ID).String(), Time: time.Unix(2e9, 0), Label: label}
		if _, err := store.Feedback(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	return path, store
}

// labelled are n pictures, REAL and FAKE in turn, with their labels.
func labelled(t *testing.T, n int) (pictures [][]byte, labels []string) {
	t.Helper()
	for i := range n {
		pictures, labels = append(pictures, pngOf(t, uint8(i%2), i)), append(labels, classNames[i%2])
	}
	return pictures, labels
}

func prepareFeedback(path, dir string, out io.Writer) (*Manifest, error) {
	return Prepare(context.Background(), config.Dataset{Name: "feedback", Path: path, Dir: dir}, out)
}

func TestLabelledPicturesOfALogBecomeADataSet(t *testing.T) {
	pictures, labels := labelled(t, 100)
	n := len(pictures)
	// The same picture twice with one label, and two with both labels.
	pictures, labels = append(pictures, pictures[0], pictures[1], pictures[2]), append(labels, labels[0], "REAL", "FAKE")
	// One that is not logged, one that nobody spoke of, and one that is no picture.
	pictures, labels = append(pictures, nil, pngOf(t, Real, 999), []byte("no picture")), append(labels, "REAL", "", "FAKE")
	path, store := logOf(t, pictures, labels)
	dir := filepath.Join(t.TempDir(), "d")
	var out bytes.Buffer
	m, err := prepareFeedback(path, dir, &out)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Count(Train) + m.Count(Test); got != n-2 || m.Count(Test) < 10 || m.Count(Test) > 30 {
		t.Errorf("%d pictures, of them %d in the test split", got, m.Count(Test))
	}
	if real := m.Splits[Train]["REAL"] + m.Splits[Test]["REAL"]; real != n/2-1 {
		t.Errorf("%d are REAL", real)
	}
	if want := (Source{Kind: "feedback", Path: path, Labelled: n + 5, WithoutImage: 1}); fmt.Sprint(m.Source) != fmt.Sprint(want) {
		t.Errorf("the manifest says %+v, want %+v", m.Source, want)
	}
	reasons := map[string]int{}
	for _, r := range m.Rejected {
		if len(r.Path) != 64 {
			t.Errorf("%s is no digest", r.Path)
		}
		reasons[strings.SplitN(r.Reason, ":", 2)[0]]++
	}
	if len(m.Rejected) != 3 || reasons["users disagree on it"] != 2 {
		t.Errorf("refused %v", m.Rejected)
	}
	if !strings.Contains(out.String(), "1 of 105 labelled predictions") || !strings.Contains(out.String(), "--log-images") {
		t.Errorf("it says %s", &out)
	}
	split, _, err := Load(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	if split.Len() != m.Count(Train) {
		t.Errorf("loaded %d", split.Len())
	}

	// An export gives the same, and so does another time.
	for _, format := range []predlog.Format{predlog.NDJSON, predlog.CSV, predlog.Parquet, predlog.Database} {
		var data bytes.Buffer
		if err := store.Export(t.Context(), &data, format); err != nil {
			t.Fatal(err)
		}
		export := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(export, data.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := prepareFeedback(export, filepath.Join(t.TempDir(), "d"), io.Discard)
		if err != nil || again.Digest() != m.Digest() {
			t.Errorf("%s: %v, another digest", format, err)
		}
	}
}

func TestAPictureStaysInItsSplitAsTheLogGrows(t *testing.T) {
	pictures, labels := labelled(t, 200)
	prepare := func(n int) [2]map[string]bool {
		path, _ := logOf(t, pictures[:n], labels[:n])
		dir := filepath.Join(t.TempDir(), "d")
		if _, err := prepareFeedback(path, dir, io.Discard); err != nil {
			t.Fatal(err)
		}
		var of [2]map[string]bool
		for i, name := range splitNames {
			split, _, err := Load(dir, name)
			if err != nil {
				t.Fatal(err)
			}
			of[i] = map[string]bool{}
			for k := range split.Len() {
				of[i][string(split.Image(k))] = true
			}
		}
		return of
	}
	before, after := prepare(100), prepare(200)
	for i := range splitNames {
		for p := range before[i] {
			if !after[i][p] {
				t.Errorf("a picture has left the %s split", splitNames[i])
			}
		}
	}
}

func TestALogWithoutWhatIsNeededIsRefused(t *testing.T) {
	pictures, labels := labelled(t, 20)
	unlogged := make([][]byte, 20)
	only := strings.Split(strings.Repeat("REAL ", 20), " ")[:20]
	for _, test := range []struct {
		name     string
		pictures [][]byte
		labels   []string
		want     string
	}{
		{"nobody spoke", pictures, make([]string, 20), "no prediction in"},
		{"no pictures", unlogged, labels, "20 of 20 labelled predictions"},
		{"one class", pictures, only, "gather more feedback"},
		{"too few", pictures[:2], labels[:2], "gather more feedback"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, _ := logOf(t, test.pictures, test.labels)
			dir := filepath.Join(t.TempDir(), "d")
			_, err := prepareFeedback(path, dir, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("it left a folder")
			}
		})
	}
	path, _ := logOf(t, append(pictures, []byte("no picture")), append(labels, "FAKE"))
	cfg := config.Dataset{Name: "feedback", Path: path, Dir: filepath.Join(t.TempDir(), "d"), Strict: true}
	if _, err := Prepare(context.Background(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "dataset.strict=false") {
		t.Errorf("strict: %v", err)
	}
	if _, err := prepareFeedback("", t.TempDir(), io.Discard); err == nil || !strings.Contains(err.Error(), "dataset.path") {
		t.Errorf("no log: %v", err)
	}
}
