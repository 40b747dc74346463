package imaging

import (
	"math"
	"math/rand/v2"
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
func plainStats(pixels []uint8) (s Stats) {
	var levels, luma, laplacians []float64
	for i := 0; i < numPixels; i += 3 {
		r, g, b := float64(pixels[i])/255, float64(pixels[i+1])/255, float64(pixels[i+2])/255
		levels = append(levels, r, g, b)
		luma = append(luma, 0.299*r+0.587*g+0.114*b)
		if most := max(r, g, b); most > 0 {
			s.Saturation += (most - min(r, g, b)) / most / (Size * Size)
		}
	}
	for y := 1; y < Size-1; y++ {
		for x := 1; x < Size-1; x++ {
			i := y*Size + x
			laplacians = append(laplacians, luma[i-Size]+luma[i+Size]+luma[i-1]+luma[i+1]-4*luma[i])
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
		t.Run(f.name, func(t *testing.T) { checkStats(t, StatsOf(f.want, Size, Channels), plainStats(f.want), 1e-9) })
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		span := rng.IntN(256) + 1
		pixels := filled(func(int, int) [3]uint8 {
			return [3]uint8{uint8(rng.IntN(span)), uint8(rng.IntN(span)), uint8(rng.IntN(span))}
		})
		checkStats(t, StatsOf(pixels, Size, Channels), plainStats(pixels), 1e-9)
	}
}

func TestStatsOf_allocations(t *testing.T) {
	pixels := fixtureNamed(t, "png-32x32.png").want
	if n := testing.AllocsPerRun(20, func() { StatsOf(pixels, Size, Channels) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
