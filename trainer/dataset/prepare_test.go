package dataset

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"fakeart/internal/config"
)

// cifakeZip returns the path of cifake-layout.zip in FAKEART_DATA, or skips the test.
func cifakeZip(tb testing.TB) string {
	dir := os.Getenv("FAKEART_DATA")
	if dir == "" {
		tb.Skip("FAKEART_DATA is not set; set it to the directory that contains cifake-layout.zip")
	}
	return filepath.Join(dir, "cifake-layout.zip")
}

func synthetic(dir string, seed int64) config.Dataset {
	return config.Dataset{Name: "synthetic", Dir: dir, Seed: seed, TrainPerClass: 20, TestPerClass: 5}
}

func TestLoad_PreparedDataset(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "d")
	m, err := Prepare(context.Background(), synthetic(dir, 1), new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	for split, n := range map[string]int{Train: 40, Test: 10} {
		s, loaded, err := Load(dir, split)
		if err != nil {
			t.Fatal(err)
		}
		if s.Len() != n || len(s.Images) != n*32*32*3 || len(s.Image(n-1)) != 32*32*3 {
			t.Errorf("%s: %d labels and %d bytes, want %d images", split, s.Len(), len(s.Images), n)
		}
		if loaded.Digest() != m.Digest() {
			t.Errorf("%s: digest = %s, want %s", split, loaded.Digest(), m.Digest())
		}
		if got := loaded.Splits[split]["REAL"]; got != n/2 {
			t.Errorf("%s: the manifest has %d REAL, want %d", split, got, n/2)
		}
	}
}

func TestPrepare_CIFAKELayout(t *testing.T) {
	cfg := config.Dataset{Name: "archive", Path: cifakeZip(t), Dir: filepath.Join(t.TempDir(), "d"), Strict: true}
	m, err := Prepare(context.Background(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if m.Count(Train) != 8000 || m.Count(Test) != 2000 || len(m.Rejected) != 0 {
		t.Errorf("%d training and %d test images, %d rejected; want 8000, 2000, 0", m.Count(Train), m.Count(Test), len(m.Rejected))
	}
}
