package imaging

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// plainTaps returns Pillow's coefficients for result i: the first sample and the weights.
func plainTaps(length, i int) (first int, weights []int) {
	scale := float64(length) / Size
	support := max(scale, 1)
	middle := (float64(i) + 0.5) * scale
	first = max(int(middle-support+0.5), 0)
	last := min(int(middle+support+0.5), length)
	sum := 0.0
	var raw []float64
	for x := first; x < last; x++ {
		raw = append(raw, weight(Bilinear, (float64(x)-middle+0.5)*(1/support)))
		sum += raw[len(raw)-1]
	}
	for _, w := range raw {
		weights = append(weights, int(0.5+w/sum*(1<<precision)))
	}
	return first, weights
}

// plainResize resizes one channel like Pillow: horizontally, then vertically.
func plainResize(pixels []uint8, width, height int) []uint8 {
	pass := func(length, i int, sample func(x int) uint8) uint8 {
		if length == Size {
			return sample(i)
		}
		first, weights := plainTaps(length, i)
		sum := 1 << (precision - 1)
		for x, w := range weights {
			sum += w * int(sample(first+x))
		}
		return uint8(min(sum>>precision, 255))
	}
	narrow := make([]uint8, 0, Size*height)
	for y := range height {
		for i := range Size {
			narrow = append(narrow, pass(width, i, func(x int) uint8 { return pixels[y*width+x] }))
		}
	}
	out := make([]uint8, 0, Size*Size)
	for i := range Size {
		for x := range Size {
			out = append(out, pass(height, i, func(y int) uint8 { return narrow[y*Size+x] }))
		}
	}
	return out
}

func TestResampler_equalsPillow(t *testing.T) { eachKernel(t, testResampler) }

func testResampler(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	r := resampler{plan: defaultPlan()}
	got := make([]uint8, numPixels)
	check := func(width, height int) {
		var channels [Channels][]uint8
		for c := range channels {
			channels[c] = noise(rng, width*height)
		}
		r.begin(got, width, height)
		for y := range height {
			r.row(y, channels[0][y*width:][:width], channels[1][y*width:][:width], channels[2][y*width:][:width])
		}
		r.end()
		for c, channel := range channels {
			want := plainResize(channel, width, height)
			one := make([]uint8, Size*Size)
			for i := range one {
				one[i] = got[Channels*i+c]
			}
			if !bytes.Equal(one, want) {
				t.Fatalf("%d×%d: channel %d differs", width, height, c)
			}
		}
	}
	for n := 1; n < 140; n++ {
		check(n, 1+rng.IntN(100))
		check(1+rng.IntN(100), n)
	}
	for _, n := range []int{255, 256, 257, 500, 641, 1000, 1023, 2048, 4001} {
		check(n, 5)
		check(5, n)
	}
	check(Size, Size)
}

// TestResampler_rows checks that rows of YCbCr and of four-byte pixels give the result of the same rows as planes.
func TestResampler_rows(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	r := resampler{plan: defaultPlan()}
	var buffers rowBuffers
	want, got := make([]uint8, numPixels), make([]uint8, numPixels)
	for _, width := range []int{1, 31, Size, 33, 64, 100, 257, 1000} {
		for _, height := range []int{1, Size, 45} {
			rows := make([][]uint8, height)
			resize := func(dst []uint8, row func(y int, row []uint8)) {
				r.begin(dst, width, height)
				for y := range rows {
					row(y, rows[y])
				}
				r.end()
			}
			for y := range rows {
				rows[y] = noise(rng, 4*width)
			}
			red, green, blue := make([]uint8, width), make([]uint8, width), make([]uint8, width)
			for _, colors := range []*colorTables{jpegColors, webpColors} {
				resize(want, func(y int, row []uint8) {
					colors.row(red, green, blue, row[:width], row[width:2*width], row[2*width:3*width])
					r.row(y, red, green, blue)
				})
				resize(got, func(y int, row []uint8) {
					r.yccRow(y, colors, row[:width], row[width:2*width], row[2*width:3*width], &buffers)
				})
				if !bytes.Equal(got, want) {
					t.Errorf("%d×%d: yccRow differs from row", width, height)
				}
			}
			resize(want, func(y int, row []uint8) {
				for x := range width {
					red[x], green[x], blue[x] = row[4*x], row[4*x+1], row[4*x+2]
				}
				r.row(y, red, green, blue)
			})
			argb := make([]uint32, width)
			resize(got, func(y int, row []uint8) {
				for x := range argb {
					argb[x] = uint32(row[4*x+3])<<24 | uint32(row[4*x])<<16 | uint32(row[4*x+1])<<8 | uint32(row[4*x+2])
				}
				r.argbRow(y, argb, &buffers)
			})
			if !bytes.Equal(got, want) {
				t.Errorf("%d×%d: argbRow differs from row", width, height)
			}
		}
	}
}
