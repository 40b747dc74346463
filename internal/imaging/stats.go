package imaging

import (
	"fmt"
	"math"
	"math/bits"
)

// Stats holds simple statistics of an image of w×h pixels. Drift detection uses them to notice changes in the
// images that users send. Levels are scaled to [0,1]. Luma is that of ITU-R BT.601:
// Y = 0.299 R + 0.587 G + 0.114 B. Standard deviations and variances are population values, divided by
// the number of values.
type Stats struct {
	// Mean is the average of all levels v, of which there are n = 3·w·h: Σv/n. 0 to 1.
	Mean float64
	// StdDev is their standard deviation: √(Σ(v−Mean)²/n). 0 to 0.5.
	StdDev float64
	// Brightness is the average luma: ΣY/(w·h). 0 to 1.
	Brightness float64
	// Contrast is the standard deviation of luma, known as RMS contrast: √(Σ(Y−Brightness)²/(w·h)). 0 to 0.5.
	Contrast float64
	// Sharpness is the variance of luma's Laplacian, a common measure of focus: with
	// L = above + below + left + right − 4·Y for the m = (w−2)·(h−2) pixels that have four neighbors, it is
	// Σ(L−ΣL/m)²/m, or 0 if there are no such pixels. 0 to 16; most photographs are below 0.1. It depends on the size: a
	// photograph that is enlarged loses sharpness.
	Sharpness float64
	// Saturation is the average saturation in the HSV color model: (max−min)/max of a pixel's three
	// levels, 0 for black. 0 to 1.
	Saturation float64
}

// StatsOf computes the statistics of pixels returned by Decoder.Decode: rows of the given width, with 3 channels (RGB)
// or 1 (gray, which counts as an image whose red, green and blue are equal). It panics if pixels aren't complete rows. It
// allocates only for images that are wider than 512 pixels.
func StatsOf(pixels []uint8, width, channels int) Stats {
	if width < 1 || channels != 1 && channels != 3 || len(pixels) == 0 || len(pixels)%(width*channels) != 0 {
		panic(fmt.Sprintf("imaging: %d bytes aren't complete rows of %d pixels with %d channels", len(pixels), width, channels))
	}
	// Integer sums don't depend on the order of summation, and a constant image has a variance of exactly 0.
	const white = 1000 * 255 // as luma
	var (
		sums   statsSums
		kept   [3 * statsWidth]int32
		lines  [3][]int32 // the luma of the last three rows
		height = len(pixels) / (width * channels)
		count  = float64(width * height)
	)
	buffer := kept[:]
	if width > statsWidth {
		buffer = make([]int32, 3*width)
	}
	for i := range lines {
		lines[i] = buffer[i*width:][:width]
	}
	for y := range height {
		row := pixels[y*width*channels:][:width*channels]
		if channels == 1 {
			sums.addGray(lines[y%3], row)
		} else {
			sums.addRow(lines[y%3], row)
		}
		if y >= 2 {
			sums.addLaplacians(lines[(y-2)%3], lines[(y-1)%3], lines[y%3])
		}
	}
	pixelCount := uint64(width * height)
	interior := uint64(max(width-2, 0)) * uint64(max(height-2, 0))
	return Stats{
		Mean:       float64(sums.levels) / (3 * count * 255),
		StdDev:     math.Sqrt(variance(sums.levels, sums.levelSquares, 3*pixelCount)) / 255,
		Brightness: float64(sums.lumas) / (count * white),
		Contrast:   math.Sqrt(variance(sums.lumas, sums.lumaSquares, pixelCount)) / white,
		Sharpness:  variance(uint64(max(sums.laplacians, -sums.laplacians)), sums.laplacianSquares, interior) / (white * white),
		Saturation: min(wide(sums.saturation[0], sums.saturation[1])/(count*(1<<inverseBits)), 1),
	}
}

// statsWidth is the width up to which StatsOf doesn't allocate.
const statsWidth = 512

// statsChunk is the number of pixels whose sums fit into the parts of a word. See lumaBits and inverseBits.
const statsChunk = 1024

// statsSums are sums over the pixels of an image: of levels, of 1000 times luma, and of its Laplacians. They are exact
// for up to 4096×4096 pixels.
type statsSums struct {
	levels, levelSquares, lumas, lumaSquares uint64
	laplacians                               int64
	laplacianSquares                         uint64
	saturation                               [2]uint64 // the upper 64 bits, and the lower ones
}

// addRow adds a row of RGB, and writes its luma.
func (s *statsSums) addRow(luma []int32, row []uint8) {
	for len(luma) > 0 {
		n := min(len(luma), statsChunk)
		s.addPixels(luma[:n], row[:3*n])
		luma, row = luma[n:], row[3*n:]
	}
}

// addPixels is like addRow for at most statsChunk pixels.
func (s *statsSums) addPixels(luma []int32, row []uint8) {
	var both, saturation, levels, squares uint64
	for i := range luma {
		p := row[3*i : 3*i+3 : 3*i+3]
		r, g, b := uint64(p[0]), uint64(p[1]), uint64(p[2])
		levels += r + g + b
		lumaAndSquares := ofRed[p[0]] + ofGreen[p[1]] + ofBlue[p[2]]
		both += lumaAndSquares
		y := lumaAndSquares & lumaMask
		luma[i] = int32(y)
		squares += y * y
		most, least := max(r, g), min(r, g)
		most, least = max(most, b), min(least, b)
		saturation += (most - least) * inverse[uint8(most)]
	}
	s.levels += levels
	s.lumas += both & lumaMask
	s.levelSquares += both >> lumaBits
	s.lumaSquares += squares
	low, carry := bits.Add64(s.saturation[1], saturation, 0)
	s.saturation = [2]uint64{s.saturation[0] + carry, low}
}

// addGray adds a gray row, and writes its luma.
func (s *statsSums) addGray(luma []int32, row []uint8) {
	for i, v := range row {
		y := uint64(v)
		luma[i] = int32(1000 * y)
		s.levels += 3 * y
		s.levelSquares += 3 * y * y
		s.lumas += 1000 * y
		s.lumaSquares += 1000 * 1000 * y * y
	}
}

// addLaplacians adds those of a row with two neighbors.
func (s *statsSums) addLaplacians(above, row, below []int32) {
	var sum, squares int64
	above, below = above[:len(row)], below[:len(row)]
	for x := 1; x < len(row)-1; x++ {
		l := int64(above[x] + below[x] + row[x-1] + row[x+1] - 4*row[x])
		sum += l
		squares += l * l
	}
	s.laplacians += sum
	s.laplacianSquares += uint64(squares)
}

// Tables of each level's contribution to a pixel's luma, times 1000, in the lower bits of a word, and of
// the level's square in the upper bits. Sums over statsChunk pixels fit into both parts.
const (
	lumaBits = 28
	lumaMask = 1<<lumaBits - 1
)

var ofRed, ofGreen, ofBlue = func() (r, g, b [256]uint64) {
	for i := range r {
		square := uint64(i*i) << lumaBits
		r[i], g[i], b[i] = square+uint64(299*i), square+uint64(587*i), square+uint64(114*i)
	}
	return r, g, b
}()

// inverseBits is the number of fraction bits in inverse.
const inverseBits = 48

// inverse holds 1/i, rounded up.
var inverse = func() (t [256]uint64) {
	for i := 1; i < len(t); i++ {
		t[i] = (1<<inverseBits + uint64(i) - 1) / uint64(i)
	}
	return t
}()

// variance returns the population variance of n integers with the given sum (without its sign) and sum of squares, or 0
// if n is 0.
func variance(sum, squares, n uint64) float64 {
	if n == 0 {
		return 0
	}
	high, low := bits.Mul64(n, squares)
	sumHigh, sumLow := bits.Mul64(sum, sum)
	low, borrow := bits.Sub64(low, sumLow, 0)
	return wide(high-sumHigh-borrow, low) / (float64(n) * float64(n))
}

// wide converts a number of 128 bits.
func wide(high, low uint64) float64 { return float64(high)*(1<<64) + float64(low) }
