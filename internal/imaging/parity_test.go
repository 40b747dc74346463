package imaging

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbinet/npyio"
)

// deviation is how far two pictures are apart, in levels.
type deviation struct {
	max  int
	mean float64
}

func deviate(got, want []uint8) (d deviation) {
	sum := 0
	for i := range got {
		diff := int(got[i]) - int(want[i])
		diff = max(diff, -diff)
		d.max = max(d.max, diff)
		sum += diff
	}
	d.mean = float64(sum) / float64(len(got))
	return d
}

func readPixels(t testing.TB, name string) []uint8 {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var pixels []uint8
	if err := npyio.Read(bytes.NewReader(raw), &pixels); err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	if len(pixels) != numPixels {
		t.Fatalf("%s holds %d values, want %d", name, len(pixels), numPixels)
	}
	return pixels
}

// TestPixelsEqualPillowOnTheYardstick compares with pictures that stay outside of the repository.
func TestPixelsEqualPillowOnTheYardstick(t *testing.T) {
	root := os.Getenv("FAKEART_DATA")
	if root == "" {
		t.Skip("FAKEART_DATA is not set: no yardstick pictures here")
	}
	names, err := filepath.Glob(filepath.Join(root, "pillow", "*.npy"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatalf("no pictures in %s", filepath.Join(root, "pillow"))
	}
	var d Decoder
	for _, name := range names {
		picture := strings.TrimSuffix(name, ".32x32.npy")
		t.Run(filepath.Base(picture), func(t *testing.T) {
			data, err := os.ReadFile(picture)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]uint8, numPixels)
			if err := d.Pixels(got, data); err != nil {
				t.Fatal(err)
			}
			dev := deviate(got, readPixels(t, name))
			t.Log(fmt.Sprintf("max %d, mean %.4f", dev.max, dev.mean))
			if lossy(picture, data) {
				if dev.max > 3 || dev.mean > 0.1 {
					t.Errorf("deviates from Pillow by up to %d levels, %.3f on average", dev.max, dev.mean)
				}
			} else if dev.max != 0 {
				t.Errorf("deviates from Pillow by up to %d levels, %.3f on average", dev.max, dev.mean)
			}
		})
	}
}

// lossy tells whether the decoder's own arithmetic (the inverse DCT) may round differently.
func lossy(name string, data []byte) bool {
	return strings.HasSuffix(name, ".jpg")
}
