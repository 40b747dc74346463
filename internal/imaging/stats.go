package imaging

import "math"

// Stats describes 32×32 pixels by simple figures, from which a change in what users send can be seen.
// Levels run from 0 to 1 in all of them. Luma is that of ITU-R BT.601: Y = 0.299 R + 0.587 G + 0.114 B.
// Deviations and variances are those of the whole population: divided by the number of values.
type Stats struct {
	// Mean is the average of all 3,072 levels: Σv/3072. 0 to 1.
	Mean float64
	// StdDev is their standard deviation: √(Σ(v−Mean)²/3072). 0 to 0.5.
	StdDev float64
	// Brightness is the average luma: ΣY/1024. 0 to 1.
	Brightness float64
	// Contrast is the standard deviation of luma, known as RMS contrast: √(Σ(Y−Brightness)²/1024). 0 to 0.5.
	Contrast float64
	// Sharpness is the variance of luma's Laplacian, the usual measure of focus: over the 30×30 pixels
	// that have four neighbours, L = above + below + left + right − 4·Y, and Σ(L−ΣL/900)²/900. 0 to 16;
	// photographs mostly have less than 0.1.
	Sharpness float64
	// Saturation is the average saturation of the colour model HSV: of (max−min)/max of a pixel's
	// three levels, 0 for black. 0 to 1.
	Saturation float64
}

// StatsOf computes the figures from pixels as Decode gives them: 32·32·3 bytes, or it panics. It does
// not allocate.
func StatsOf(pixels []uint8) Stats {
	// All sums are of integers, so that their order does not matter and one colour does not deviate at all.
	const (
		white    = 1000 * 255 // as luma
		count    = Size * Size
		interior = (Size - 2) * (Size - 2)
	)
	var (
		luma                        [count]int32
		both, saturation            uint64
		levels, lumaSquares         int64
		laplacians, laplacedSquares int64
	)
	pixels = pixels[:numPixels]
	for i := range luma {
		p := pixels[3*i : 3*i+3 : 3*i+3]
		r, g, b := int64(p[0]), int64(p[1]), int64(p[2])
		levels += r + g + b
		lumaAndSquares := ofRed[p[0]] + ofGreen[p[1]] + ofBlue[p[2]]
		both += lumaAndSquares
		y := int64(lumaAndSquares & lumaMask)
		luma[i] = int32(y)
		lumaSquares += y * y
		most, least := max(r, g), min(r, g)
		most, least = max(most, b), min(least, b)
		saturation += uint64(most-least) * inverse[uint8(most)]
	}
	for top := 0; top < count-2*Size; top += Size {
		above, row, below := luma[top:][:Size], luma[top+Size:][:Size], luma[top+2*Size:][:Size]
		for x := 1; x < Size-1; x++ {
			l := int64(above[x] + below[x] + row[x-1] + row[x+1] - 4*row[x])
			laplacians += l
			laplacedSquares += l * l
		}
	}
	lumas, squares := int64(both&lumaMask), int64(both>>lumaBits)
	return Stats{
		Mean:       float64(levels) / (numPixels * 255),
		StdDev:     math.Sqrt(variance(levels, squares, numPixels)) / 255,
		Brightness: float64(lumas) / (count * white),
		Contrast:   math.Sqrt(variance(lumas, lumaSquares, count)) / white,
		Sharpness:  variance(laplacians, laplacedSquares, interior) / (white * white),
		Saturation: min(float64(saturation)/(count<<inverseBits), 1),
	}
}

// What a level contributes to a pixel's luma, times 1000, stands in the lower half of a word, and its
// square in the upper one: a sum over a whole picture fits in either.
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

// inverse holds 1/i with so many bits of fraction, rounded up.
const inverseBits = 48

var inverse = func() (t [256]uint64) {
	for i := 1; i < len(t); i++ {
		t[i] = (1<<inverseBits + uint64(i) - 1) / uint64(i)
	}
	return t
}()

// variance is that of n integers with the given sum and sum of squares.
func variance(sum, squares, n int64) float64 {
	return float64(n*squares-sum*sum) / float64(n*n)
}
