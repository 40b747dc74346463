package page_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"fakeart/server/page"
)

// maxSize is the maximum size of the page in bytes, including samples.
const maxSize = 150_000

func TestFiles(t *testing.T) {
	total := 0
	for name, f := range page.Files() {
		total += len(f.Plain)
		if f.Type == "" {
			t.Errorf("%s has no media type", name)
		}
		if f.Gzip != nil {
			r, err := gzip.NewReader(bytes.NewReader(f.Gzip))
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := io.ReadAll(r); err != nil || !bytes.Equal(plain, f.Plain) {
				t.Errorf("%s differs when decompressed: %v", name, err)
			}
		}
	}
	if total > maxSize {
		t.Errorf("the page has %d bytes, more than %d", total, maxSize)
	}
	t.Logf("%d bytes in %d files", total, len(page.Files()))
	if page.Files()[page.Index] == nil {
		t.Errorf("%s is missing", page.Index)
	}
}
