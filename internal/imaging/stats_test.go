package imaging

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// filled returns an image with pixels computed from column and row.
func filled(pixel func(x, y int) [3]uint8) []uint8 {
	pixels := make([]uint8, 0, numPixels)
	for i := range Size * Size {
		p := pixel(i%Size, i/Size)
		pixels = append(pixels, p[0], p[1], p[2])
	}
	return pixels
}

func checkStats(t *testing.T, got, want Stats, tolerance float64) {
	t.Helper()
	for _, f := range []struct {
		name      string
		got, want float64
	}{
		{"mean", got.Mean, want.Mean},
		{"standard deviation", got.StdDev, want.StdDev},
		{"brightness", got.Brightness, want.Brightness},
		{"contrast", got.Contrast, want.Contrast},
		{"sharpness", got.Sharpness, want.Sharpness},
		{"saturation", got.Saturation, want.Saturation},
	} {
		if !(math.Abs(f.got-f.want) <= tolerance) {
			t.Errorf("%s: got %v, want %v", f.name, f.got, f.want)
		}
	}
}

func TestStatsOf(t *testing.T) {
	plain := func(r, g, b uint8) []uint8 { return filled(func(int, int) [3]uint8 { return [3]uint8{r, g, b} }) }
	checkers := filled(func(x, y int) [3]uint8 {
		v := uint8(255 * ((x + y) % 2))
		return [3]uint8{v, v, v}
	})
	halves := filled(func(x, _ int) [3]uint8 { // 20 % gray on the left, 60 % gray on the right
		v := uint8(51 + 102*(x/16))
		return [3]uint8{v, v, v}
	})
	dot := filled(func(x, y int) [3]uint8 {
		if x == 10 && y == 20 {
			return [3]uint8{255, 255, 255}
		}
		return [3]uint8{}
	})
	for _, c := range []struct {
		name   string
		pixels []uint8
		want   Stats
	}{
		{"black", plain(0, 0, 0), Stats{}},
		{"white", plain(255, 255, 255), Stats{Mean: 1, Brightness: 1}},
		{"red", plain(255, 0, 0), Stats{Mean: 1. / 3, StdDev: math.Sqrt(2) / 3, Brightness: 0.299, Saturation: 1}},
		{"green", plain(0, 255, 0), Stats{Mean: 1. / 3, StdDev: math.Sqrt(2) / 3, Brightness: 0.587, Saturation: 1}},
		{"blue", plain(0, 0, 255), Stats{Mean: 1. / 3, StdDev: math.Sqrt(2) / 3, Brightness: 0.114, Saturation: 1}},
		{"half saturated", plain(200, 100, 150), Stats{
			Mean: 150. / 255, StdDev: math.Sqrt(5000./3) / 255, Brightness: (0.299*200 + 0.587*100 + 0.114*150) / 255, Saturation: 0.5,
		}},
		// Every interior pixel has a Laplacian of 4 or -4.
		{"checkerboard", checkers, Stats{Mean: 0.5, StdDev: 0.5, Brightness: 0.5, Contrast: 0.5, Sharpness: 16}},
		// The Laplacian is 0.4 for 30 pixels beside the edge, and -0.4 for another 30.
		{"edge", halves, Stats{Mean: 0.4, StdDev: 0.2, Brightness: 0.4, Contrast: 0.2, Sharpness: 60 * 0.16 / 900}},
		// The Laplacian is -4 at the dot and 1 at its four neighbors, with a mean of 0.
		{"white dot", dot, Stats{
			Mean: 1. / 1024, StdDev: math.Sqrt(1023) / 1024, Brightness: 1. / 1024, Contrast: math.Sqrt(1023) / 1024, Sharpness: 20. / 900,
		}},
	} {
		t.Run(c.name, func(t *testing.T) { checkStats(t, StatsOf(c.pixels, Size, Channels), c.want, 1e-12) })
	}
}

// plainStats computes Stats by its definition, in float64.
func plainStats(pixels []uint8, width, channels int) (s Stats) {
	var levels, luma, laplacians []float64
	count := len(pixels) / channels
	height := count / width
	for p := range slices.Chunk(pixels, channels) {
		r, g, b := float64(p[0])/255, float64(p[channels/2])/255, float64(p[channels-1])/255
		levels = append(levels, r, g, b)
		luma = append(luma, 0.299*r+0.587*g+0.114*b)
		if most := max(r, g, b); most > 0 {
			s.Saturation += (most - min(r, g, b)) / most / float64(count)
		}
	}
	for y := 1; y < height-1; y++ {
		for x := 1; x < width-1; x++ {
			i := y*width + x
			laplacians = append(laplacians, luma[i-width]+luma[i+width]+luma[i-1]+luma[i+1]-4*luma[i])
		}
	}
	moments := func(values []float64) (mean, variance float64) {
		for _, v := range values {
			mean += v / float64(len(values))
		}
		for _, v := range values {
			variance += (v - mean) * (v - mean) / float64(len(values))
		}
		return mean, variance
	}
	s.Mean, s.StdDev = moments(levels)
	s.Brightness, s.Contrast = moments(luma)
	_, s.Sharpness = moments(laplacians)
	s.StdDev, s.Contrast = math.Sqrt(s.StdDev), math.Sqrt(s.Contrast)
	return s
}

func TestStatsOf_definition(t *testing.T) {
	for _, f := range readFixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			checkStats(t, StatsOf(f.want, Size, Channels), plainStats(f.want, Size, Channels), 1e-9)
		})
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		span := rng.IntN(256) + 1
		pixels := filled(func(int, int) [3]uint8 {
			return [3]uint8{uint8(rng.IntN(span)), uint8(rng.IntN(span)), uint8(rng.IntN(span))}
		})
		checkStats(t, StatsOf(pixels, Size, Channels), plainStats(pixels, Size, Channels), 1e-9)
	}
}

func TestStatsOf_sizes(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, size := range [][2]int{{1, 1}, {1, 9}, {2, 2}, {3, 3}, {5, 2}, {7, 31}, {224, 224}, {224, 100}, {513, 5}, {1500, 4}, {3000, 700}} {
		for _, channels := range []int{1, 3} {
			t.Run(fmt.Sprintf("%dx%dx%d", size[0], size[1], channels), func(t *testing.T) {
				pixels := noise(rng, size[0]*size[1]*channels)
				checkStats(t, StatsOf(pixels, size[0], channels), plainStats(pixels, size[0], channels), 1e-9)
			})
		}
	}
	// The largest sums.
	white := bytes.Repeat([]uint8{255}, 3*4096*4096)
	checkStats(t, StatsOf(white, 4096, 3), Stats{Mean: 1, Brightness: 1}, 0)
	for i := range 4096 * 4096 {
		if (i+i/4096)%2 == 0 {
			white[3*i], white[3*i+1], white[3*i+2] = 0, 0, 0
		}
	}
	checkStats(t, StatsOf(white, 4096, 3), Stats{Mean: 0.5, StdDev: 0.5, Brightness: 0.5, Contrast: 0.5, Sharpness: 16}, 1e-12)
}

func TestStatsOf_incompleteRows(t *testing.T) {
	for _, test := range []struct{ bytes, width, channels int }{{0, 1, 3}, {3, 0, 3}, {10, 3, 3}, {9, 2, 3}, {3, 2, 1}, {12, 2, 2}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("StatsOf doesn't panic for %+v", test)
				}
			}()
			StatsOf(make([]uint8, test.bytes), test.width, test.channels)
		}()
	}
}

func TestStatsOf_allocations(t *testing.T) {
	pixels := fixtureNamed(t, "png-32x32.png").want
	if n := testing.AllocsPerRun(20, func() { StatsOf(pixels, Size, Channels) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
