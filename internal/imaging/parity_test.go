package imaging

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sbinet/npyio"
	"github.com/sbinet/npyio/npz"
)

// deviation is the difference between two images, in levels.
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

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fixture is an image and the pixels that Pillow decodes from it.
type fixture struct {
	name string
	data []byte
	want []uint8
}

// loadFixtures reads the fixtures written by testdata/make_fixtures.py.
var loadFixtures = sync.OnceValues(func() ([]fixture, error) {
	names, err := filepath.Glob("testdata/images/*")
	if err != nil {
		return nil, err
	}
	expected, err := npz.Open("testdata/expected.npz")
	if err != nil {
		return nil, err
	}
	defer expected.Close()
	if len(names) == 0 || len(names) != len(expected.Keys()) {
		return nil, fmt.Errorf("%d images, but %d expected results; run testdata/make_fixtures.py", len(names), len(expected.Keys()))
	}
	fixtures := make([]fixture, len(names))
	for i, name := range names {
		f := &fixtures[i]
		f.name = filepath.Base(name)
		if f.data, err = os.ReadFile(name); err != nil {
			return nil, err
		}
		if err := expected.Read(f.name+".npy", &f.want); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return fixtures, nil
})

func readFixtures(t testing.TB) []fixture {
	t.Helper()
	fixtures, err := loadFixtures()
	if err != nil {
		t.Fatal(err)
	}
	return fixtures
}

func checkPixels(t *testing.T, got, want []uint8) {
	t.Helper()
	if dev := deviate(got, want); dev.max > 0 {
		t.Errorf("differs from Pillow by up to %d levels, %.3f on average", dev.max, dev.mean)
	}
}

func TestPixels_equalPillow(t *testing.T) {
	fixtures := readFixtures(t)
	var d Decoder // reused, to detect state that leaks into the next image
	for _, f := range fixtures {
		t.Run(f.name, func(t *testing.T) {
			got := make([]uint8, numPixels)
			if err := d.Pixels(got, f.data); err != nil {
				t.Fatal(err)
			}
			checkPixels(t, got, f.want)
		})
	}
}

// TestPixels_equalPillowOnExternalImages compares with images outside of the repository, in
// $FAKEART_DATA/pillow.
func TestPixels_equalPillowOnExternalImages(t *testing.T) {
	root := os.Getenv("FAKEART_DATA")
	if root == "" {
		t.Skip("FAKEART_DATA is not set")
	}
	names, err := filepath.Glob(filepath.Join(root, "pillow", "*.npy"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatalf("no images in %s", filepath.Join(root, "pillow"))
	}
	var d Decoder
	for _, name := range names {
		path := strings.TrimSuffix(name, ".32x32.npy")
		t.Run(filepath.Base(path), func(t *testing.T) {
			got := make([]uint8, numPixels)
			if err := d.Pixels(got, readFile(t, path)); err != nil {
				t.Fatal(err)
			}
			var want []uint8
			if err := npyio.Read(bytes.NewReader(readFile(t, name)), &want); err != nil {
				t.Fatal(err)
			}
			checkPixels(t, got, want)
		})
	}
}
