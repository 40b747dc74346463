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

// logOf writes predictions for the images to a prediction log; a nil image is not logged. labels is
// the feedback of users; an empty label means no feedback.
func logOf(t *testing.T, images [][]byte, labels []string) (path string, store *predlog.SQLite) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "predictions.db")
	store, err := predlog.OpenSQLite(t.Context(), predlog.SQLiteOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close(context.Background()) })
	records := make([]predlog.Record, len(images))
	for i, p := range images {
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

// labeled returns n images, alternating REAL and FAKE, with their labels.
func labeled(t *testing.T, n int) (images [][]byte, labels []string) {
	t.Helper()
	for i := range n {
		images, labels = append(images, pngOf(t, uint8(i%2), i)), append(labels, classNames[i%2])
	}
	return images, labels
}

func prepareFeedback(path, dir string, out io.Writer) (*Manifest, error) {
	return Prepare(context.Background(), config.Dataset{Name: "feedback", Path: path, Dir: dir}, out)
}

func TestPrepare_Feedback(t *testing.T) {
	images, labels := labeled(t, 100)
	n := len(images)
	// An image twice with the same label, and two images with conflicting labels.
	images, labels = append(images, images[0], images[1], images[2]), append(labels, labels[0], "REAL", "FAKE")
	// One image that is not logged, one without feedback, and one that is not an image.
	images, labels = append(images, nil, pngOf(t, Real, 999), []byte("not an image")), append(labels, "REAL", "", "FAKE")
	path, store := logOf(t, images, labels)
	dir := filepath.Join(t.TempDir(), "d")
	var out bytes.Buffer
	m, err := prepareFeedback(path, dir, &out)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Count(Train) + m.Count(Test); got != n-2 || m.Count(Test) < 10 || m.Count(Test) > 30 {
		t.Errorf("%d images, of them %d in the test split", got, m.Count(Test))
	}
	if real := m.Splits[Train]["REAL"] + m.Splits[Test]["REAL"]; real != n/2-1 {
		t.Errorf("%d images are REAL, want %d", real, n/2-1)
	}
	if want := (Source{Kind: "feedback", Path: path, Labeled: n + 5, WithoutImage: 1}); fmt.Sprint(m.Source) != fmt.Sprint(want) {
		t.Errorf("source = %+v, want %+v", m.Source, want)
	}
	reasons := map[string]int{}
	for _, r := range m.Rejected {
		if len(r.Path) != 64 {
			t.Errorf("path %s of a rejection is not a digest", r.Path)
		}
		reasons[strings.SplitN(r.Reason, ":", 2)[0]]++
	}
	if len(m.Rejected) != 3 || reasons["conflicting feedback"] != 2 {
		t.Errorf("rejected %v, want 3, 2 of them for conflicting feedback", m.Rejected)
	}
	if !strings.Contains(out.String(), "1 of 105 predictions with feedback") || !strings.Contains(out.String(), "--log-images") {
		t.Errorf("output = %s, want the missing image and --log-images", &out)
	}
	split, _, err := Load(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	if split.Len() != m.Count(Train) {
		t.Errorf("Load(train) has %d images, want %d", split.Len(), m.Count(Train))
	}

	// Exports of the log give the same dataset.
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
			t.Errorf("%s: error %v or another digest", format, err)
		}
	}
}

func TestPrepare_FeedbackSplitStable(t *testing.T) {
	images, labels := labeled(t, 200)
	prepare := func(n int) [2]map[string]bool {
		path, _ := logOf(t, images[:n], labels[:n])
		dir := filepath.Join(t.TempDir(), "d")
		if _, err := prepareFeedback(path, dir, io.Discard); err != nil {
			t.Fatal(err)
		}
		var of [2]map[string]bool
		for i, name := range splitNames[:2] {
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
	for i := range splitNames[:2] {
		for p := range before[i] {
			if !after[i][p] {
				t.Errorf("an image of the %s split moved to the other one", splitNames[i])
			}
		}
	}
}

func TestPrepare_FeedbackErrors(t *testing.T) {
	images, labels := labeled(t, 20)
	unlogged := make([][]byte, 20)
	only := strings.Split(strings.Repeat("REAL ", 20), " ")[:20]
	for _, test := range []struct {
		name   string
		images [][]byte
		labels []string
		want   string
	}{
		{"no_feedback", images, make([]string, 20), "no prediction in"},
		{"no_images", unlogged, labels, "20 of 20 predictions with feedback"},
		{"one_class", images, only, "collect more feedback"},
		{"too_few", images[:2], labels[:2], "collect more feedback"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, _ := logOf(t, test.images, test.labels)
			dir := filepath.Join(t.TempDir(), "d")
			_, err := prepareFeedback(path, dir, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("the directory was created")
			}
		})
	}
	path, _ := logOf(t, append(images, []byte("not an image")), append(labels, "FAKE"))
	cfg := config.Dataset{Name: "feedback", Path: path, Dir: filepath.Join(t.TempDir(), "d"), Strict: true}
	if _, err := Prepare(context.Background(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "dataset.strict=false") {
		t.Errorf("strict: error = %v, want dataset.strict=false", err)
	}
	if _, err := prepareFeedback("", t.TempDir(), io.Discard); err == nil || !strings.Contains(err.Error(), "dataset.path") {
		t.Errorf("no path: error = %v, want dataset.path", err)
	}
}

func TestPrepare_FeedbackDuplicatesAndUnreadableRecords(t *testing.T) {
	images, labels := labeled(t, 100)
	_, store := logOf(t, images, labels)
	var text bytes.Buffer
	if err := store.Export(t.Context(), &text, predlog.NDJSON); err != nil {
		t.Fatal(err)
	}
	first, _, _ := bytes.Cut(text.Bytes(), []byte("\n"))
	damaged := bytes.Replace(first, []byte(`"id":"0`), []byte(`"id":"f`), 1)
	damaged = bytes.Replace(damaged, []byte(`"image":"`), []byte(`"image":"-`), 1)
	path := filepath.Join(t.TempDir(), "log.ndjson")
	if err := os.WriteFile(path, bytes.Join([][]byte{bytes.TrimSpace(text.Bytes()), first, first, damaged, []byte("{")}, []byte("\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	m, err := prepareFeedback(path, filepath.Join(t.TempDir(), "d"), &out)
	if err != nil {
		t.Fatal(err)
	}
	if m.Source.Labeled != 100 {
		t.Errorf("%d predictions with feedback, want 100", m.Source.Labeled)
	}
	for _, want := range []string{"ignored 2 duplicate records", "skipped 2 unreadable records: " + path + ":103: image: must be base64; " + path + ":104: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output %q doesn't contain %q", out.String(), want)
		}
	}
	_, err = Prepare(t.Context(), config.Dataset{Name: "feedback", Path: path, Dir: filepath.Join(t.TempDir(), "d"), Strict: true}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), path+":103: ") {
		t.Errorf("strict: error = %v, want one with line 103", err)
	}
}
