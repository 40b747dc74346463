package augment

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"fakeart/internal/config"
)

const side = 16

// sample returns an image whose pixels are all different.
func sample() []uint8 {
	p := make([]uint8, side*side*colors)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range side * side {
		p[3*i], p[3*i+1], p[3*i+2] = uint8(i), uint8(rng.IntN(256)), uint8(rng.IntN(256))
	}
	return p
}

func applied(c config.Augment, seed int64, epoch, image int) []uint8 {
	dst := make([]uint8, side*side*colors)
	New(c, side).Apply(dst, sample(), seed, epoch, image)
	return dst
}

var everything = config.Augment{
	Flip: true, Crop: 0.25, Padding: "reflect", RandomOps: 3, Magnitude: 0.7, Brightness: 0.3, Contrast: 0.3, Saturation: 0.3, Cutout: 0.3,
}

func TestApply_Deterministic(t *testing.T) {
	used := New(everything, side)
	src, dst := sample(), make([]uint8, side*side*colors)
	h := sha256.New()
	for image := range 50 {
		used.Apply(dst, src, 1, 2, image)
		if !bytes.Equal(dst, applied(everything, 1, 2, image)) {
			t.Fatalf("image %d depends on the images before", image)
		}
		h.Write(dst)
	}
	if !bytes.Equal(src, sample()) {
		t.Error("the source changed")
	}
	t.Log(hex.EncodeToString(h.Sum(nil)))
	first := applied(everything, 1, 2, 3)
	for name, other := range map[string][]uint8{
		"seed": applied(everything, 2, 2, 3), "epoch": applied(everything, 1, 3, 3), "image": applied(everything, 1, 2, 4),
	} {
		if bytes.Equal(first, other) {
			t.Errorf("another %s gives the same image", name)
		}
	}
}

func TestApply_FlipAndCrop(t *testing.T) {
	src := sample()
	at := func(p []uint8, x, y int) [3]uint8 { return [3]uint8(p[(y*side+x)*colors:]) }
	reflect := func(i int) int {
		if i < 0 {
			return -i
		}
		if i >= side {
			return 2*side - 2 - i
		}
		return i
	}
	flipped, moves, n := 0, map[[2]int]int{}, 2000
	for _, padding := range []string{"reflect", "constant"} {
		for image := range n {
			p := applied(config.Augment{Flip: true, Crop: 0.125, Padding: padding}, 1, 0, image)
			found := false
			for dy := -2; dy <= 2; dy++ {
				for dx := -2; dx <= 2; dx++ {
					for _, flip := range []bool{false, true} {
						same := true
						for y := 0; y < side && same; y++ {
							for x := 0; x < side && same; x++ {
								fx, fy := reflect(x+dx), reflect(y+dy)
								want := [3]uint8{}
								if padding == "reflect" || fx == x+dx && fy == y+dy {
									if flip {
										fx = side - 1 - fx
									}
									want = at(src, fx, fy)
								}
								same = at(p, x, y) == want
							}
						}
						if same && !found {
							found = true
							moves[[2]int{dx, dy}]++
							if flip {
								flipped++
							}
						}
					}
				}
			}
			if !found {
				t.Fatalf("%s: image %d is neither mirrored nor moved", padding, image)
			}
		}
	}
	if share := float64(flipped) / float64(2*n); share < 0.45 || share > 0.55 {
		t.Errorf("%v of the images are mirrored", share)
	}
	for move, count := range moves {
		if count < 2*n/25/2 || count > 2*n/25*2 {
			t.Errorf("%d of %d images are moved by %v", count, 2*n, move)
		}
	}
	if len(moves) != 25 {
		t.Errorf("%d different moves", len(moves))
	}
}

func TestApply_EachOptionChangesImages(t *testing.T) {
	for name, c := range map[string]config.Augment{
		"brightness": {Brightness: 0.5}, "contrast": {Contrast: 0.5}, "saturation": {Saturation: 0.5}, "cutout": {Cutout: 0.25},
		"random_ops": {RandomOps: 2, Magnitude: 0.5},
	} {
		if !Enabled(c) {
			t.Errorf("%s: not enabled", name)
		}
		different := map[string]bool{}
		for image := range 20 {
			different[string(applied(c, 1, 1, image))] = true
		}
		if len(different) < 10 {
			t.Errorf("%s: %d different images of 20", name, len(different))
		}
	}
	for _, c := range []config.Augment{{}, {Padding: "reflect", Magnitude: 0.5}} {
		if Enabled(c) || !bytes.Equal(applied(c, 1, 1, 1), sample()) {
			t.Errorf("%+v changes images", c)
		}
	}
}

func TestApply_Cutout(t *testing.T) {
	for image := range 100 {
		p := applied(config.Augment{Cutout: 0.25}, 1, 1, image)
		changed := 0
		for i := range p {
			if p[i] != sample()[i] {
				changed++
				if p[i] != gray {
					t.Fatal("a changed pixel isn't gray")
				}
			}
		}
		if changed > 4*4*colors {
			t.Errorf("image %d: %d values changed, want a square of 4 pixels", image, changed)
		}
	}
}

// With magnitude 0, operations with a magnitude change nothing.
func TestOps_MagnitudeZero(t *testing.T) {
	a, rng := New(config.Augment{}, side), rand.New(rand.NewPCG(1, 1))
	for i, op := range ops[:11] {
		p := sample()
		op(a, p, 0, rng)
		if !bytes.Equal(p, sample()) {
			t.Errorf("operation %d changes the image at magnitude 0", i)
		}
	}
}

func TestOps_KnownResults(t *testing.T) {
	p := []uint8{0, 100, 255, 0x8f, 0x7f, 128, 1, 2, 3}
	posterize(p, 4)
	if want := []uint8{0, 96, 240, 0x80, 0x70, 128, 0, 0, 0}; !bytes.Equal(p, want) {
		t.Errorf("posterize = %v, want %v", p, want)
	}
	p = []uint8{0, 100, 255, 200, 199, 128}
	solarize(p, 199.5)
	if want := []uint8{0, 100, 0, 55, 199, 128}; !bytes.Equal(p, want) {
		t.Errorf("solarize = %v, want %v", p, want)
	}
	p = []uint8{10, 5, 7, 20, 5, 9, 15, 5, 8}
	autocontrast(p)
	if want := []uint8{0, 5, 0, 255, 5, 255, 128, 5, 128}; !bytes.Equal(p, want) {
		t.Errorf("autocontrast = %v, want %v", p, want)
	}
	p = []uint8{100, 0, 255, 50, 50, 50}
	blend(p, 0, luma)
	if want := []uint8{59, 59, 59, 50, 50, 50}; !bytes.Equal(p, want) {
		t.Errorf("gray = %v, want %v", p, want)
	}
	// A quarter turn.
	a := New(config.Augment{}, 2)
	p = []uint8{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4}
	a.affine(p, 0, -1, 1, 0, 0, 0)
	if want := []uint8{2, 2, 2, 4, 4, 4, 1, 1, 1, 3, 3, 3}; !bytes.Equal(p, want) {
		t.Errorf("turned = %v, want %v", p, want)
	}
}

func BenchmarkApply(b *testing.B) {
	for name, c := range map[string]config.Augment{
		"standard": {Flip: true, Crop: 0.125, Padding: "reflect"}, "everything": everything,
	} {
		b.Run(name, func(b *testing.B) {
			a, src := New(c, 32), make([]uint8, 32*32*colors)
			dst := make([]uint8, len(src))
			for i := 0; b.Loop(); i++ {
				a.Apply(dst, src, 1, 1, i)
			}
		})
	}
}
