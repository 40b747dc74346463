package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/draw"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	_ "golang.org/x/image/webp"

	"fakeart/internal/config"
)

// The encoded files may differ between releases of the encoders, but the pixels must not.
func TestImages_UpToDate(t *testing.T) {
	const again = "; run go generate ./loadtest/draw"
	dir := filepath.Join("..", "pictures")
	read := func(file string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatalf("%v%s", err, again)
		}
		return data
	}
	// A larger dataset starts with the same images.
	want, err := generate(t.Context(), "dataset.train_per_class=1", fmt.Sprintf("dataset.test_per_class=%d", perClass))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load("", []string{"dataset=synthetic"})
	if err != nil {
		t.Fatal(err)
	}
	want.Source.TrainPerClass, want.Source.TestPerClass = cfg.Dataset.TrainPerClass, cfg.Dataset.TestPerClass
	var got index
	if err := json.Unmarshal(read("index.json"), &got); err != nil {
		t.Fatal(err)
	}
	want.Data = got.Data // follows from the source, but takes long to generate
	ignore := cmpopts.IgnoreUnexported(imageFile{})
	if diff := cmp.Diff(*want, got, ignore); diff != "" {
		t.Errorf("index.json (-want +got)%s:\n%s", again, diff)
	}
	drawings := map[string][]uint8{}
	for _, p := range want.Pictures {
		pixels := make([][]uint8, 2)
		for i, data := range [][]byte{p.data, read(p.File)} {
			img, _, err := image.Decode(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", p.File, err)
			}
			if size := img.Bounds().Size(); size != image.Pt(p.Width, p.Height) {
				t.Errorf("%s: size %v, want %d×%d", p.File, size, p.Width, p.Height)
			}
			rgba := image.NewRGBA(img.Bounds())
			draw.Draw(rgba, rgba.Rect, img, img.Bounds().Min, draw.Src)
			pixels[i] = rgba.Pix
		}
		if !slices.Equal(pixels[0], pixels[1]) {
			t.Errorf("%s: pixels differ from the generated image%s", p.File, again)
		}
		// The script expects the same probability for the same drawing.
		if first, ok := drawings[p.Drawing]; ok && !slices.Equal(first, pixels[0]) {
			t.Errorf("%s: pixels differ from other files of drawing %s", p.File, p.Drawing)
		}
		drawings[p.Drawing] = pixels[0]
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != len(want.Pictures)+1 {
		t.Errorf("%d files in addition to index.json, want %d%s (%v)", len(files)-1, len(want.Pictures), again, err)
	}
}
