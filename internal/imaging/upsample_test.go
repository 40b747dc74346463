package imaging

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func noise(rng *rand.Rand, n int) []uint8 {
	out := make([]uint8, n)
	for i := range out {
		out[i] = uint8(rng.Uint32())
		if rng.IntN(4) == 0 {
			out[i] = []uint8{0, 255}[rng.IntN(2)]
		}
	}
	return out
}

// plainTriangle implements h2v1_fancy_upsample of jdsample.c sample by sample, for the sums 3·near + far of two
// rows, or for near alone if far is nil.
func plainTriangle(near, far []uint8) []uint8 {
	sum, bias, shift := func(x int) int { return int(near[x]) }, [2]int{1, 2}, 2
	if far != nil {
		sum, bias, shift = func(x int) int { return 3*int(near[x]) + int(far[x]) }, [2]int{8, 7}, 4
	}
	out := make([]uint8, 0, 2*len(near))
	for x := range near {
		left, right := sum(max(x-1, 0)), sum(min(x+1, len(near)-1))
		out = append(out, uint8((3*sum(x)+left+bias[0])>>shift), uint8((3*sum(x)+right+bias[1])>>shift))
	}
	return out
}

func TestTriangleFilters(t *testing.T) { eachKernel(t, testTriangleFilters) }

func testTriangleFilters(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for n := 3; n < 150; n++ {
		near, far := noise(rng, n), noise(rng, n)
		out := make([]uint8, (n+3)&^3*2)
		triangleAcross(out, near)
		if !bytes.Equal(out[:2*n], plainTriangle(near, nil)) {
			t.Errorf("triangleAcross of %d samples = %v, want %v", n, out[:2*n], plainTriangle(near, nil))
		}
		triangleBoth(out, near, far)
		if !bytes.Equal(out[:2*n], plainTriangle(near, far)) {
			t.Errorf("triangleBoth of %d samples = %v, want %v", n, out[:2*n], plainTriangle(near, far))
		}
	}
}

// plainWebPUpsample implements upsampling.c of libwebp sample by sample.
func plainWebPUpsample(near, far []uint8) []uint8 {
	out := make([]uint8, 0, 2*len(near))
	for x := range near {
		for _, side := range []int{max(x-1, 0), min(x+1, len(near)-1)} {
			n, f, sn, sf := int(near[x]), int(far[x]), int(near[side]), int(far[side])
			out = append(out, uint8(((n+sn+f+sf+8+2*(sn+f))>>3+n)>>1))
		}
	}
	return out
}

func TestWebPUpsample(t *testing.T) { eachKernel(t, testWebPUpsample) }

func testWebPUpsample(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for n := 1; n < 150; n++ {
		near, far := noise(rng, n), noise(rng, n)
		out := make([]uint8, (n+3)&^3*2)
		webpUpsample(out, near, far)
		if want := plainWebPUpsample(near, far); !bytes.Equal(out[:2*n], want) {
			t.Errorf("%d samples: got %v, want %v", n, out[:2*n], want)
		}
	}
}

func TestColorTables(t *testing.T) {
	limit := func(v int) uint8 { return uint8(min(max(v, 0), 255)) }
	plainJPEG := func(y, cb, cr int) [3]uint8 {
		y, u, v := y<<16+1<<15, cb-128, cr-128
		return [3]uint8{limit((y + 91881*v) >> 16), limit((y - 22554*u - 46802*v) >> 16), limit((y + 116130*u) >> 16)}
	}
	plainWebP := func(y, u, v int) [3]uint8 {
		y = y * 19077 >> 8
		r, g, b := y+v*26149>>8-14234, y-u*6419>>8-v*13320>>8+8708, y+u*33050>>8-17685
		return [3]uint8{limit(r >> 6), limit(g >> 6), limit(b >> 6)}
	}
	step := 3
	if testing.Short() {
		step = 17
	}
	for cb := 0; cb < 256; cb += step {
		for cr := 0; cr < 256; cr += step {
			for luma := range 256 {
				for _, c := range []struct {
					name  string
					table *colorTables
					want  [3]uint8
				}{
					{"JPEG", jpegColors, plainJPEG(luma, cb, cr)},
					{"WebP", webpColors, plainWebP(luma, cb, cr)},
				} {
					var got [3]uint8
					got[0], got[1], got[2] = c.table.pixel(uint8(luma), uint8(cb), uint8(cr))
					if got != c.want {
						t.Fatalf("%s, Y %d, Cb %d, Cr %d: got %v, want %v", c.name, luma, cb, cr, got, c.want)
					}
				}
			}
		}
	}
}
