package imaging

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// eachKernel runs a test with the code for AVX2, if the processor has it, and with the code in Go.
func eachKernel(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	has := avx2
	t.Cleanup(func() { avx2 = has })
	t.Run("Go", func(t *testing.T) {
		avx2 = false
		test(t)
	})
	t.Run("AVX2", func(t *testing.T) {
		if !has {
			t.Skip("the processor has no AVX2")
		}
		avx2 = true
		test(t)
	})
}

// withoutAVX2 calls f with the code in Go.
func withoutAVX2(f func()) {
	has := avx2
	avx2 = false
	defer func() { avx2 = has }()
	f()
}

// TestInverseAVX2 compares blocks of all kinds, including coefficients that only occur in corrupt data.
func TestInverseAVX2(t *testing.T) {
	if !avx2 {
		t.Skip("the processor has no AVX2")
	}
	rng := rand.New(rand.NewPCG(17, 18))
	for i := range 200000 {
		var a block
		last := rng.IntN(64)
		most := 1 << rng.IntN(17)
		for k := range last + 1 {
			if rng.IntN(3) > 0 {
				a[zigzag[k]] = int32(int16(rng.IntN(2*most) - most))
			}
		}
		b := a
		const stride = 24
		size := []int{8, 4, 2}[rng.IntN(3)]
		got, want := noise(rng, 8*stride), make([]uint8, 8*stride)
		copy(want, got)
		a.samples(last, size, got[3:], stride)
		withoutAVX2(func() { b.samples(last, size, want[3:], stride) })
		if !bytes.Equal(got, want) {
			t.Fatalf("block %d of %d samples per side: got %v, want %v", i, size, got, want)
		}
		if a != (block{}) {
			t.Fatal("the block isn't cleared")
		}
	}
}

// TestColorsAVX2 compares all colors, in rows of all lengths modulo 16.
func TestColorsAVX2(t *testing.T) {
	if !avx2 {
		t.Skip("the processor has no AVX2")
	}
	step := 1
	if testing.Short() {
		step = 17
	}
	for _, c := range []*colorTables{jpegColors, webpColors} {
		luma, cb, cr := make([]uint8, 256), make([]uint8, 256), make([]uint8, 256)
		var got, want [3][]uint8
		for i := range got {
			got[i], want[i] = make([]uint8, 256), make([]uint8, 256)
		}
		for u := 0; u < 256; u += step {
			for v := range 256 {
				for y := range 256 {
					luma[y], cb[y], cr[y] = uint8(y), uint8(u), uint8(v)
				}
				n := 256 - v%17
				c.row(got[0], got[1], got[2], luma[:n], cb, cr)
				for y := range n {
					want[0][y], want[1][y], want[2][y] = c.pixel(luma[y], cb[y], cr[y])
				}
				for i := range got {
					if !bytes.Equal(got[i][:n], want[i][:n]) {
						t.Fatalf("channel %d for Cb %d and Cr %d: got %v, want %v", i, u, v, got[i][:n], want[i][:n])
					}
				}
			}
		}
	}
}
