package imaging

import (
	"math"
	"slices"
)

// precision is the number of fraction bits of Pillow's resampling coefficients for 8-bit channels
// (PRECISION_BITS in Resample.c): 32 bits minus 8 for the sample and 2 for overshoot.
const precision = 32 - 8 - 2

// halfLevel rounds a sum of samples times coefficients.
const halfLevel = 1 << (precision - 1)

// maxWords is the support of the widest filter (Lanczos). See taps.pairs.
const maxWords = 3

// axis maps the pixels of an image along one dimension to those of the result: source pixels are resized to resized
// ones, of which count are kept, beginning with first. They are at place in the result.
type axis struct {
	source, resized int
	first, count    int
	place           int
}

// taps holds the coefficients that map a row or column of samples to the results of an axis.
//
// If an antialiasing filter with support s shrinks the image, each sample is in the windows of at most 2s neighboring
// results, because a window starts and ends where others do. Two coefficients are packed into one word, so that
// a single multiplication computes both products. Otherwise each result has a list of coefficients.
type taps struct {
	axis     axis // without place; zero: not computed yet
	reversed bool
	// base and end are the range of samples that are in the window of any result.
	base, end int
	// first is the first sample in the window of each result, relative to base, followed by end.
	first []int
	// fraction is the number of fraction bits of the results of a first pass. Pillow rounds them to 8-bit levels.
	fraction uint
	// identity reports that a result is a sample.
	identity bool

	// words is the support of the filter if pairs are used, or 0.
	words int
	// pairs has words slices. Let x be a sample with first[i] <= x < first[i+1]. In word w, the upper half of pairs[w][x] is
	// its coefficient for result i−2w, and the lower half that for result i−2w−1. The halves are signed:
	// a negative lower half borrows from the upper one. See halves.
	pairs [maxWords][]int64

	// Result i has the coefficients coef[offset[i]:offset[i+1]].
	offset []int
	coef   []int32
	// depth is the number of coefficients of the result that has most.
	depth int

	raw     []float64 // of weights
	rounded []int32   // of weights
}

// halves returns the two signed numbers whose sum (with high shifted by 32 bits) is word.
func halves(word int64) (high, low int64) {
	low = int64(int32(word))
	return (word - low) >> 32, low
}

// compute computes the coefficients for an axis. If reversed is true, the samples come in reverse order,
// and so do the results.
func (t *taps) compute(p *Preprocessing, a axis, reversed bool) {
	a.place = 0
	if t.axis == a && t.reversed == reversed {
		return
	}
	t.axis, t.reversed = a, reversed
	t.identity = a.source == a.resized
	t.fraction, t.words = 0, 0
	if !p.Antialias && p.Filter != Nearest {
		t.fraction = unroundedBits
	}
	t.first = slices.Grow(t.first[:0], a.count+1)
	t.offset, t.coef = slices.Grow(t.offset[:0], a.count+1), t.coef[:0]
	switch {
	case t.identity, p.Filter == Nearest:
		t.coef = slices.Grow(t.coef, a.count)
		t.nearest(a)
	case p.Antialias && a.resized < a.source && t.pack(p.Filter):
		return
	case p.Antialias:
		t.coef = slices.Grow(t.coef, maxDepth*a.count)
		t.antialiased(p.Filter)
	default:
		t.coef = slices.Grow(t.coef, maxDepth*a.count)
		t.sampled(p.Filter, a)
	}
	t.offset = append(t.offset, len(t.coef))
	if reversed {
		t.reverse()
	}
	t.base, t.end, t.depth = t.first[0], 0, 0
	for i, first := range t.first {
		n := t.offset[i+1] - t.offset[i]
		t.end = max(t.end, first+n)
		t.depth = max(t.depth, n)
		t.first[i] = first - t.base
	}
	t.first = append(t.first, t.end-t.base)
}

// last returns the last sample, relative to base, in the window of result i, which has a list of coefficients.
func (t *taps) last(i int) int { return t.first[i] + t.offset[i+1] - t.offset[i] - 1 }

// unroundedBits is the number of fraction bits that results of the first pass keep without antialiasing. OpenCV and
// PyTorch don't round them.
const unroundedBits = 8

// nearest computes the coefficients of the nearest filter like ImagingScaleAffine in Pillow's Geometry.c.
func (t *taps) nearest(a axis) {
	scale := float64(a.source) / float64(a.resized)
	at := scale * 0.5
	for i := range a.first + a.count {
		if i >= a.first {
			t.first = append(t.first, min(int(at), a.source-1))
			t.offset = append(t.offset, len(t.coef))
			t.coef = append(t.coef, 1<<precision)
		}
		at += scale
	}
}

// window returns the range of samples in the window of result i of an antialiasing filter, and the window's center.
// It implements precompute_coeffs of Pillow's Resample.c in double precision and with the same order of operations, so that
// all coefficients are equal. The float64 conversions keep the compiler from fusing multiplications with additions,
// which would round differently on some processors.
func (t *taps) window(filter Filter, i int) (first, last int, middle float64) {
	scale := float64(t.axis.source) / float64(t.axis.resized)
	reach := float64(support(filter) * max(scale, 1))
	middle = float64((float64(i) + 0.5) * scale)
	return max(int(middle-reach+0.5), 0), min(int(middle+reach+0.5), t.axis.source), middle
}

// weights returns the coefficients of the window of result i: the rest of precompute_coeffs, and normalize_coeffs_8bpc.
// The result is valid until the next call.
func (t *taps) weights(filter Filter, i int) (first int, coef []int32) {
	first, last, middle := t.window(filter, i)
	inverse := 1 / max(float64(t.axis.source)/float64(t.axis.resized), 1)
	if n := last - first; cap(t.raw) < n {
		t.raw, t.rounded = make([]float64, n+n/8), make([]int32, n+n/8)
	}
	sum := 0.0
	t.raw, t.rounded = t.raw[:0], t.rounded[:0]
	for x := first; x < last; x++ {
		w := weight(filter, float64((float64(x)-middle+0.5)*inverse))
		t.raw = append(t.raw, w)
		sum += w
	}
	for _, w := range t.raw {
		if sum != 0 {
			w /= sum
		}
		t.rounded = append(t.rounded, fixed(w))
	}
	return first, t.rounded
}

// antialiased computes Pillow's coefficients as lists.
func (t *taps) antialiased(filter Filter) {
	for i := t.axis.first; i < t.axis.first+t.axis.count; i++ {
		first, coef := t.weights(filter, i)
		t.first = append(t.first, first)
		t.offset = append(t.offset, len(t.coef))
		t.coef = append(t.coef, coef...)
	}
}

// pack computes Pillow's coefficients as pairs. It returns false if a sample had too many, which rounding errors could
// cause in theory.
func (t *taps) pack(filter Filter) bool {
	// Result i of those that are kept, in the order in which they are computed, is result at(i) of the axis.
	n := t.axis.count
	at := func(i int) int {
		if t.reversed {
			return t.axis.first + n - 1 - i
		}
		return t.axis.first + i
	}
	t.end = 0
	for i := range n {
		first, last, _ := t.window(filter, at(i))
		if t.reversed {
			first, last = t.axis.source-last, t.axis.source-first
		}
		t.first = append(t.first, first)
		t.end = max(t.end, last)
	}
	t.base = t.first[0]
	for i := range t.first {
		t.first[i] -= t.base
	}
	words := int(support(filter))
	length := t.end - t.base
	for w := range words {
		if cap(t.pairs[w]) < length {
			t.pairs[w] = make([]int64, length)
		}
		t.pairs[w] = t.pairs[w][:length]
		clear(t.pairs[w])
	}
	for i := range n {
		_, coef := t.weights(filter, at(i))
		if t.reversed {
			slices.Reverse(coef)
		}
		segment := i // the last result whose window starts at x or before
		for j, k := range coef {
			x := t.first[i] + j
			for segment < n-1 && t.first[segment+1] <= x {
				segment++
			}
			switch word := (segment - i) / 2; {
			case k == 0:
			case word >= words:
				t.first = t.first[:0]
				return false
			case (segment-i)%2 == 0:
				t.pairs[word][x] += int64(k) << 32
			default:
				t.pairs[word][x] += int64(k)
			}
		}
	}
	t.first = append(t.first, length)
	t.words = words
	return true
}

// fixed returns a coefficient with precision fraction bits.
func fixed(w float64) int32 {
	w = float64(w * (1 << precision))
	if w < 0 {
		return int32(w - 0.5)
	}
	return int32(w + 0.5)
}

// sampled computes coefficients that don't depend on the scale, like those of OpenCV (INTER_LINEAR, INTER_CUBIC and
// INTER_LANCZOS4). Samples beyond the border equal those at the border.
func (t *taps) sampled(filter Filter, a axis) {
	scale := float64(a.source) / float64(a.resized)
	n := map[Filter]int{Bilinear: 2, Bicubic: 4, Lanczos: 8}[filter]
	for i := a.first; i < a.first+a.count; i++ {
		at := (float64(i)+0.5)*scale - 0.5
		before := math.Floor(at)
		var raw [8]float64
		sum := 0.0
		for j := range n {
			distance := math.Abs(at - before - float64(j-n/2+1))
			switch filter {
			case Bilinear:
				raw[j] = 1 - distance
			case Bicubic:
				raw[j] = cubic(distance, -0.75)
			default:
				raw[j] = sinc(distance) * sinc(distance/4)
			}
			sum += raw[j]
		}
		first := int(before) - n/2 + 1
		lowest := min(max(first, 0), a.source-1)
		highest := min(max(first+n-1, 0), a.source-1)
		t.first = append(t.first, lowest)
		t.offset = append(t.offset, len(t.coef))
		for range highest - lowest + 1 {
			t.coef = append(t.coef, 0)
		}
		coef := t.coef[len(t.coef)-(highest-lowest+1):]
		for j, w := range raw[:n] {
			coef[min(max(first+j, 0), a.source-1)-lowest] += fixed(w / sum)
		}
	}
}

// support returns the distance from the center at which a filter ends.
func support(filter Filter) float64 {
	switch filter {
	case Bicubic:
		return 2
	case Lanczos:
		return 3
	}
	return 1
}

// weight returns the value of one of Pillow's filters.
func weight(filter Filter, x float64) float64 {
	x = math.Abs(x)
	switch filter {
	case Bicubic:
		return cubic(x, -0.5)
	case Lanczos:
		if x < 3 {
			return float64(sinc(x) * sinc(x/3))
		}
		return 0
	}
	return max(1-x, 0)
}

// cubic returns the value of the bicubic filter with parameter a for x >= 0.
func cubic(x, a float64) float64 {
	switch {
	case x < 1:
		return float64(float64(float64(float64(float64((a+2)*x)-(a+3))*x)*x) + 1)
	case x < 2:
		return float64(float64(float64(float64(float64((x-5)*x)+8)*x)-4) * a)
	}
	return 0
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// reverse reverses the order of samples and results.
func (t *taps) reverse() {
	n := len(t.first)
	first, offset := make([]int, 0, n), make([]int, 0, n+1)
	coef := make([]int32, 0, len(t.coef))
	for i := n - 1; i >= 0; i-- {
		window := t.coef[t.offset[i]:t.offset[i+1]]
		first = append(first, t.axis.source-t.first[i]-len(window))
		offset = append(offset, len(coef))
		for j := len(window) - 1; j >= 0; j-- {
			coef = append(coef, window[j])
		}
	}
	t.first, t.offset, t.coef = first, append(offset, len(coef)), coef
}

// trim releases large buffers.
func (t *taps) trim() {
	for w := range t.pairs {
		if 8*cap(t.pairs[w]) > maxScratch {
			*t = taps{}
			return
		}
	}
	if 8*cap(t.raw) > maxScratch {
		*t = taps{}
	}
}
