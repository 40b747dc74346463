package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"image"
	"image/color"
	"image/png"
	"os"
	"slices"
	"testing"
)

func drawn(split int, class uint8, n int) [][]byte {
	var d drawing
	images := make([][]byte, n)
	for i := range images {
		images[i] = make([]byte, syntheticBytes)
		d.draw(images[i], 420, split, class, i)
	}
	return images
}

func TestSynthetic_Golden(t *testing.T) {
	h := sha256.New()
	for split := range 2 {
		for class := range classNames {
			for _, p := range drawn(split, uint8(class), 50) {
				h.Write(p)
			}
		}
	}
	// Change syntheticID whenever this digest changes.
	const want = "dead-leaves-v1 452733dd23c26e0edfb4cce723e8b2dc21b057f141b0853a31f473e01789fc51"
	if got := syntheticID + " " + hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("digest of the images = %s, want %s", got, want)
	}
}

func TestSynthetic_NoDuplicates(t *testing.T) {
	seen := map[string]bool{}
	var d drawing
	pixels := make([]byte, syntheticBytes)
	for _, seed := range []int64{0, 1, -1} {
		for split := range 2 {
			for class := range classNames {
				for i := range 40 {
					d.draw(pixels, seed, split, uint8(class), i)
					if seen[string(pixels)] {
						t.Fatalf("image %d of class %d, split %d, seed %d is a duplicate", i, class, split, seed)
					}
					seen[string(pixels)] = true
				}
			}
		}
	}
}

func TestSynthetic_IndependentOfOrder(t *testing.T) {
	var used, fresh drawing
	a, b := make([]byte, syntheticBytes), make([]byte, syntheticBytes)
	for i := range 20 {
		used.draw(a, 1, 0, uint8(i%2), i)
	}
	used.draw(a, 1, 0, Fake, 3)
	fresh.draw(b, 1, 0, Fake, 3)
	if !bytes.Equal(a, b) {
		t.Error("the image depends on images drawn before")
	}
}

// bestThreshold returns the accuracy of the best rule "FAKE if the value is above (or below) t".
func bestThreshold(real, fake []float64) float64 {
	type sample struct {
		value float64
		fake  int
	}
	var all []sample
	for _, v := range real {
		all = append(all, sample{v, 0})
	}
	for _, v := range fake {
		all = append(all, sample{v, 1})
	}
	slices.SortFunc(all, func(a, b sample) int {
		switch {
		case a.value < b.value:
			return -1
		case a.value > b.value:
			return 1
		default:
			return 0
		}
	})
	best, below := 0, [2]int{}
	for _, s := range all {
		below[s.fake]++
		right := below[0] + len(fake) - below[1]
		best = max(best, right, len(all)-right)
	}
	return float64(best) / float64(len(all))
}

func measure(images [][]byte, f func([]byte) float64) []float64 {
	values := make([]float64, len(images))
	for i, p := range images {
		values[i] = f(p)
	}
	return values
}

func TestSynthetic_ClassesNotSeparableByMoments(t *testing.T) {
	mean := func(channels ...int) func([]byte) float64 {
		return func(p []byte) float64 {
			sum := 0
			for i := 0; i < len(p); i += 3 {
				for _, ch := range channels {
					sum += int(p[i+ch])
				}
			}
			return float64(sum)
		}
	}
	real, fake := drawn(0, Real, 400), drawn(0, Fake, 400)
	for name, f := range map[string]func([]byte) float64{
		"brightness": mean(0, 1, 2), "red": mean(0), "green": mean(1), "blue": mean(2),
		"contrast": func(p []byte) float64 {
			var sum, squares float64
			for _, v := range p {
				sum += float64(v)
				squares += float64(v) * float64(v)
			}
			n := float64(len(p))
			return squares/n - sum/n*sum/n
		},
	} {
		accuracy := bestThreshold(measure(real, f), measure(fake, f))
		t.Logf("%s: %.3f", name, accuracy)
		if accuracy > 0.65 {
			t.Errorf("a threshold on the %s classifies %.0f %% of the images correctly, want at most 65", name, 100*accuracy)
		}
	}
}

func TestSynthetic_UpsamplingGrid(t *testing.T) {
	level := func(p []byte, x, y int) float64 {
		i := 3 * (y*32 + x)
		return float64(p[i]) + float64(p[i+1]) + float64(p[i+2])
	}
	// The horizontal differences within 2×2 blocks, compared with those across their borders:
	// inside the blocks of an upsampling grid they are smaller.
	grid := func(p []byte) float64 {
		var phase [2]float64
		for y := range 32 {
			for x := 1; x < 30; x++ {
				d := level(p, x, y) - level(p, x+1, y)
				phase[x%2] += max(d, -d)
			}
		}
		return max(phase[0], phase[1]) / (min(phase[0], phase[1]) + 1)
	}
	real, fake := drawn(0, Real, 400), drawn(0, Fake, 400)
	accuracy := bestThreshold(measure(real, grid), measure(fake, grid))
	t.Logf("grid: %.3f", accuracy)
	if accuracy < 0.6 {
		t.Errorf("the upsampling grid classifies %.0f %% of the images correctly, want at least 60", 100*accuracy)
	}
}

// TestContactSheet draws images of both classes to the PNG file FAKEART_CONTACT_SHEET, REAL in the
// upper half and FAKE in the lower, to inspect changes of the drawing.
func TestContactSheet(t *testing.T) {
	path := os.Getenv("FAKEART_CONTACT_SHEET")
	if path == "" {
		t.Skip("set FAKEART_CONTACT_SHEET to a file name to draw a contact sheet")
	}
	const columns, rows, scale, pitch = 16, 5, 3, 34
	sheet := image.NewRGBA(image.Rect(0, 0, columns*pitch*scale, 2*rows*pitch*scale))
	for i, pixels := range append(drawn(0, Real, columns*rows), drawn(0, Fake, columns*rows)...) {
		for y := range 32 * scale {
			for x := range 32 * scale {
				p := 3 * ((y/scale)*32 + x/scale)
				sheet.SetRGBA(i%columns*pitch*scale+x, i/columns*pitch*scale+y,
					color.RGBA{pixels[p], pixels[p+1], pixels[p+2], 255})
			}
		}
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, sheet); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkDraw(b *testing.B) {
	var d drawing
	pixels := make([]byte, syntheticBytes)
	for i := 0; b.Loop(); i++ {
		d.draw(pixels, 1, 0, uint8(i%2), i)
	}
}
