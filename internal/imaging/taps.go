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

// axis maps the pixels of an image along one dimension to those of the result: source pixels are resized to resized
// ones, of which count are kept, beginning with first. They are at place in the result.
type axis struct {
	source, resized int
	first, count    int
	place           int
}

// taps holds the coefficients that map a row or column of samples to the results of an axis.
type taps struct {
	axis     axis // without place; zero: not computed yet
	reversed bool
	// base and end are the range of samples that are in the window of any result.
	base, end int
	// first is the first sample in the window of each result, relative to base, and size the number of samples.
	first, size []int
	// Result i has the coefficients coef[i*stride:][:size[i]]. The others up to the next multiple of stride are 0.
	coef   []int32
	stride int
	// aligned reports that stride is a multiple of 8, and that stride samples follow each first one. AVX2 needs both.
	aligned bool
	// fraction is the number of fraction bits of the results of a first pass. Pillow rounds them to 8-bit levels.
	fraction uint
	// identity reports that a result is a sample.
	identity bool

	raw []float64 // of weights
}

// compute computes the coefficients for an axis. If reversed is true, the samples come in reverse order,
// and so do the results. If aligned is true, the taps are for functions with AVX2.
func (t *taps) compute(p *Preprocessing, a axis, reversed, aligned bool) {
	a.place = 0
	aligned = aligned && a.source >= 8
	if t.axis == a && t.reversed == reversed && t.aligned == aligned {
		return
	}
	t.axis, t.reversed, t.aligned = a, reversed, aligned
	t.identity = a.source == a.resized
	t.fraction = p.fraction()
	t.first, t.size = grown(t.first, a.count), grown(t.size, a.count)
	single := t.identity || p.Filter == Nearest
	switch {
	case single:
		t.stride = 1
	case p.Antialias:
		t.stride = 0
		for i := range a.count {
			first, last, _ := t.window(p.Filter, a.first+i)
			t.stride = max(t.stride, last-first)
		}
	default:
		t.stride = openCVTaps(p.Filter)
	}
	if aligned {
		t.stride = (t.stride + 7) &^ 7
	}
	t.coef = grown(t.coef, t.stride*a.count)
	clear(t.coef)
	switch {
	case single:
		t.nearest()
	case p.Antialias:
		t.antialiased(p.Filter)
	default:
		t.sampled(p.Filter)
	}
	if reversed {
		t.reverse()
	}
	t.base, t.end = t.first[0], 0
	for i, first := range t.first {
		t.end = max(t.end, first+t.size[i])
		t.first[i] = first - t.base
	}
	if aligned {
		t.align()
	}
}

// fraction returns the value of taps.fraction.
func (p *Preprocessing) fraction() uint {
	if p.Antialias || p.Filter == Nearest {
		return 0
	}
	return unroundedBits
}

// set sets the window of result i of those that are kept, and returns its coefficients.
func (t *taps) set(i, first, size int) []int32 {
	t.first[i], t.size[i] = first, size
	return t.coef[i*t.stride:][:size]
}

// reverse reverses the order of samples and results.
func (t *taps) reverse() {
	slices.Reverse(t.first)
	slices.Reverse(t.size)
	slices.Reverse(t.coef)
	for i, size := range t.size {
		t.first[i] = t.axis.source - t.first[i] - size
		coef := t.coef[i*t.stride:][:t.stride] // the coefficients are at the end
		copy(coef, coef[t.stride-size:])
		clear(coef[size:])
	}
}

// align moves the windows at the end so that stride samples follow each first one.
func (t *taps) align() {
	length := t.end - t.base
	if length < t.stride {
		t.aligned = false
		return
	}
	for i, first := range t.first {
		if shift := first + t.stride - length; shift > 0 {
			coef := t.coef[i*t.stride:][:t.stride]
			copy(coef[shift:], coef[:t.size[i]])
			clear(coef[:shift])
			t.first[i] -= shift
			t.size[i] += shift
		}
	}
}

// last returns the last sample, relative to base, in the window of result i.
func (t *taps) last(i int) int { return t.first[i] + t.size[i] - 1 }

// unroundedBits is the number of fraction bits that results of the first pass keep without antialiasing. OpenCV and
// PyTorch don't round them.
const unroundedBits = 8

// nearest computes the coefficients of the nearest filter like ImagingScaleAffine in Pillow's Geometry.c, which adds up
// the scale and its rounding errors.
func (t *taps) nearest() {
	a := &t.axis
	scale := float64(a.source) / float64(a.resized)
	at := scale * 0.5
	if a.first > maxSide { // Pillow can't create such an image
		at = float64((float64(a.first) + 0.5) * scale)
	} else {
		for range a.first {
			at += scale
		}
	}
	for i := range a.count {
		t.set(i, min(int(at), a.source-1), 1)[0] = 1 << precision
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

// antialiased computes Pillow's coefficients: the rest of precompute_coeffs, and normalize_coeffs_8bpc.
func (t *taps) antialiased(filter Filter) {
	inverse := 1 / max(float64(t.axis.source)/float64(t.axis.resized), 1)
	t.raw = grown(t.raw, t.stride)
	for i := range t.axis.count {
		first, last, middle := t.window(filter, t.axis.first+i)
		sum := 0.0
		raw := t.raw[:last-first]
		for j := range raw {
			raw[j] = weight(filter, float64((float64(first+j)-middle+0.5)*inverse))
			sum += raw[j]
		}
		coef := t.set(i, first, last-first)
		for j, w := range raw {
			if sum != 0 {
				w /= sum
			}
			coef[j] = fixed(w)
		}
	}
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
func (t *taps) sampled(filter Filter) {
	scale := float64(t.axis.source) / float64(t.axis.resized)
	n := openCVTaps(filter)
	for i := range t.axis.count {
		at := (float64(t.axis.first+i)+0.5)*scale - 0.5
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
		inside := func(x int) int { return min(max(x, 0), t.axis.source-1) }
		lowest := inside(first)
		coef := t.set(i, lowest, inside(first+n-1)-lowest+1)
		for j, w := range raw[:n] {
			coef[inside(first+j)-lowest] += fixed(w / sum)
		}
	}
}

// openCVTaps returns the number of samples in the window of an OpenCV filter.
func openCVTaps(filter Filter) int {
	switch filter {
	case Bicubic:
		return 4
	case Lanczos:
		return 8
	}
	return 2
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

// trim releases large buffers.
func (t *taps) trim() {
	if max(8*cap(t.raw), 4*cap(t.coef)) > maxScratch {
		*t = taps{}
	}
}
