package page_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"fakeart/server/page"
)

// most is how many bytes the page may have, samples and all.
const most = 150_000

func TestThePageIsSmallAndWhole(t *testing.T) {
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
				t.Errorf("%s is not the same when unpacked: %v", name, err)
			}
		}
	}
	if total > most {
		t.Errorf("the page has %d bytes, more than %d", total, most)
	}
	t.Logf("%d bytes in %d files", total, len(page.Files()))
	if page.Files()[page.Index] == nil {
		t.Error("there is no page")
	}
}
