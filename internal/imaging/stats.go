package imaging

import "math"

// Stats holds simple statistics of a 32×32 image. Drift detection uses them to notice changes in the
// images that users send. Levels are scaled to [0,1]. Luma is that of ITU-R BT.601:
// Y = 0.299 R + 0.587 G + 0.114 B. Standard deviations and variances are population values, divided by
// the number of values.
type Stats struct {
	// Mean is the average of all 3,072 levels: Σv/3072. 0 to 1.
	Mean float64
	// StdDev is their standard deviation: √(Σ(v−Mean)²/3072). 0 to 0.5.
	StdDev float64
	// Brightness is the average luma: ΣY/1024. 0 to 1.
	Brightness float64
	// Contrast is the standard deviation of luma, known as RMS contrast: √(Σ(Y−Brightness)²/1024). 0 to 0.5.
	Contrast float64
	// Sharpness is the variance of luma's Laplacian, a common measure of focus: with
	// L = above + below + left + right − 4·Y for the 30×30 pixels that have four neighbors, it is
	// Σ(L−ΣL/900)²/900. 0 to 16; most photographs are below 0.1.
	Sharpness float64
	// Saturation is the average saturation in the HSV color model: (max−min)/max of a pixel's three
	// levels, 0 for black. 0 to 1.
	Saturation float64
}

// StatsOf computes the statistics of pixels returned by Decoder.Decode. It panics if there are fewer than
// 32·32·3 bytes. It doesn't allocate.
func StatsOf(pixels []uint8) Stats {
	// Integer sums don't depend on the order of summation, and a constant image has a variance of exactly 0.
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

// Tables of each level's contribution to a pixel's luma, times 1000, in the lower bits of a word, and of
// the level's square in the upper bits. Sums over a whole image fit into both parts.
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

// variance returns the population variance of n integers with the given sum and sum of squares.
func variance(sum, squares, n int64) float64 {
	return float64(n*squares-sum*sum) / float64(n*n)
}
