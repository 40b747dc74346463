package imaging

// precision is the number of fraction bits of Pillow's resampling coefficients for 8-bit channels
// (PRECISION_BITS in Resample.c): 32 bits minus 8 for the sample and 2 for overshoot.
const precision = 32 - 8 - 2

// taps holds the coefficients that map a row or column of some length to Size samples.
//
// If the source is longer than the result, each source sample is in the windows of at most two neighboring
// results, because each window starts and ends at the center of a neighboring one. The two coefficients are
// packed into one word, so that a single multiplication computes both products.
type taps struct {
	length int           // of the source; 0: not computed yet
	first  [Size + 1]int // first source sample in the window of each result, followed by length

	// If the source is longer than the result: for source sample x with first[i] <= x < first[i+1], the
	// coefficient for result i in the upper half, and that for result i-1 in the lower half.
	pairs []uint64

	// Otherwise: result i has the coefficients coef[offset[i]:offset[i+1]].
	offset [Size + 1]int
	coef   []uint32
}

// window returns the range of source samples for result i, and the center of its window in samples.
func (t *taps) window(i int) (first, last int, middle float64) {
	scale := float64(t.length) / Size
	support := max(scale, 1) // the triangle's own support is 1
	middle = (float64(i) + 0.5) * scale
	return max(int(middle-support+0.5), 0), min(int(middle+support+0.5), t.length), middle
}

// compute computes the coefficients for a source of the given length. It implements precompute_coeffs and
// normalize_coeffs_8bpc of Pillow's Resample.c for the triangle filter, in double precision and with the
// same order of operations, so that all coefficients are equal. The float64 conversions keep the compiler
// from fusing multiplications with additions, which would round differently on some processors.
func (t *taps) compute(length int) {
	if t.length == length {
		return
	}
	t.length = length
	inverse := 1 / max(float64(length)/Size, 1)
	t.coef, t.pairs = t.coef[:0], t.pairs[:0]
	if t.shrinks() {
		if cap(t.pairs) < length {
			t.pairs = make([]uint64, length)
		}
		t.pairs = t.pairs[:length]
		clear(t.pairs)
	}
	for i := range Size {
		first, last, middle := t.window(i)
		sum := 0.0
		for x := first; x < last; x++ {
			sum += triangle(float64((float64(x) - middle + 0.5) * inverse))
		}
		t.first[i] = first
		t.offset[i] = len(t.coef)
		next, _, _ := t.window(i + 1)
		for x := first; x < last; x++ {
			w := triangle(float64((float64(x)-middle+0.5)*inverse)) / sum
			k := uint32(0.5 + float64(w*(1<<precision)))
			switch {
			case !t.shrinks():
				t.coef = append(t.coef, k)
			case x < next || i == Size-1:
				t.pairs[x] |= uint64(k) << 32
			default:
				t.pairs[x] |= uint64(k)
			}
		}
	}
	t.first[Size] = length
	t.offset[Size] = len(t.coef)
}

// shrinks reports whether the source is longer than the result, so that pairs are used.
func (t *taps) shrinks() bool { return t.length > Size }

// apply maps a row of samples to a row of Size results, rounded to 8 bits.
func (t *taps) apply(out *[Size]uint32, in []uint8) {
	const half = 1 << (precision - 1)
	if t.length == Size {
		for x, s := range in[:Size] {
			out[x] = uint32(s)
		}
		return
	}
	if !t.shrinks() {
		for i := range out {
			coef := t.coef[t.offset[i]:t.offset[i+1]]
			src := in[t.first[i]:][:len(coef)]
			sum := uint32(half)
			for x, k := range coef {
				sum += k * uint32(src[x])
			}
			out[i] = min(sum>>precision, 255)
		}
		return
	}
	entered := uint64(half) // sum of a result over the samples before the current ones
	for i := range out {
		pairs := t.pairs[t.first[i]:t.first[i+1]]
		src := in[t.first[i]:][:len(pairs)]
		sum := uint64(0)
		for x, k := range pairs {
			sum += k * uint64(src[x])
		}
		if i > 0 {
			out[i-1] = min(uint32(entered+sum)>>precision, 255)
		}
		entered = sum>>32 + half
	}
	out[Size-1] = min(uint32(entered)>>precision, 255)
}

// applyColors is like apply for the red, green and blue samples of a row. sum returns their sums over the source
// samples from first to last, weighted by the pairs of coefficients. The source must be longer than the result.
func (t *taps) applyColors(out *[Channels][Size]uint32, sum func(pairs []uint64, first, last int) (red, green, blue uint64)) {
	const half = 1 << (precision - 1)
	red, green, blue := uint64(half), uint64(half), uint64(half)
	for i := range Size {
		first, last := t.first[i], t.first[i+1]
		r, g, b := sum(t.pairs[first:last], first, last)
		if i > 0 {
			out[0][i-1] = min(uint32(red+r)>>precision, 255)
			out[1][i-1] = min(uint32(green+g)>>precision, 255)
			out[2][i-1] = min(uint32(blue+b)>>precision, 255)
		}
		red, green, blue = r>>32+half, g>>32+half, b>>32+half
	}
	out[0][Size-1] = min(uint32(red)>>precision, 255)
	out[1][Size-1] = min(uint32(green)>>precision, 255)
	out[2][Size-1] = min(uint32(blue)>>precision, 255)
}

// sumYCC returns the sums of red, green and blue for samples of YCbCr. It's a function of its own so that all
// variables stay in registers.
//
//go:noinline
func sumYCC(c *colorTables, pairs []uint64, luma, cb, cr []uint8) (red, green, blue uint64) {
	luma, cb, cr = luma[:len(pairs)], cb[:len(pairs)], cr[:len(pairs)]
	for x, k := range pairs {
		sum := c.luma[luma[x]] + c.cb[cb[x]] + c.cr[cr[x]]
		if sum&outsideLanes == 0 { // nothing to be clamped
			red += k * (sum >> redLane & 255)
			green += k * (sum >> greenLane)
			blue += k * (sum >> blueLane & 255)
			continue
		}
		sum += biasLanes
		red += k * uint64(clamped[sum>>redLane&2047])
		green += k * uint64(clamped[sum>>greenLane&2047])
		blue += k * uint64(clamped[sum>>blueLane&2047])
	}
	return red, green, blue
}

// sumARGB returns the sums of red, green and blue for pixels of 32 bits.
//
//go:noinline
func sumARGB(pairs []uint64, pixels []uint32) (red, green, blue uint64) {
	pixels = pixels[:len(pairs)]
	for i, k := range pairs {
		p := pixels[i]
		red += k * uint64(p>>16&255)
		green += k * uint64(p>>8&255)
		blue += k * uint64(p&255)
	}
	return red, green, blue
}

func triangle(x float64) float64 {
	if x < 0 {
		x = -x
	}
	if x < 1 {
		return 1 - x
	}
	return 0
}

// resampler resizes an image to 32×32 like Pillow's ImagingResample with the BILINEAR filter. It takes the
// rows one by one, in any order, and adds each to the result immediately. So it holds neither the image nor
// the intermediate result of the horizontal pass.
type resampler struct {
	dst        []uint8
	copying    bool // the image has the result's size
	horizontal taps
	vertical   taps
	sum        [Size][Channels][Size]uint32 // per result row: all red, all green, all blue samples
}

// begin starts an image of the given size. The result is written to dst.
func (r *resampler) begin(dst []uint8, width, height int) {
	r.dst = dst
	r.copying = width == Size && height == Size
	if r.copying {
		return
	}
	r.horizontal.compute(width)
	r.vertical.compute(height)
	for i := range r.sum {
		for c := range r.sum[i] {
			for x := range r.sum[i][c] {
				r.sum[i][c][x] = 1 << (precision - 1)
			}
		}
	}
}

// line returns row y of the result. If copying is true, callers may write to it instead of calling row.
func (r *resampler) line(y int) []uint8 { return r.dst[y*Size*Channels:][:Size*Channels] }

// row adds row y of the image. It must be called exactly once per row. For a gray image, the three slices
// can be the same, which takes a third of the time.
func (r *resampler) row(y int, red, green, blue []uint8) {
	if r.copying {
		out := r.line(y)
		red, green, blue = red[:Size], green[:Size], blue[:Size]
		for x := range Size {
			out[3*x], out[3*x+1], out[3*x+2] = red[x], green[x], blue[x]
		}
		return
	}

	var lines [Channels][Size]uint32
	r.horizontal.apply(&lines[0], red)
	if &red[0] == &green[0] && &red[0] == &blue[0] {
		lines[1], lines[2] = lines[0], lines[0]
	} else {
		r.horizontal.apply(&lines[1], green)
		r.horizontal.apply(&lines[2], blue)
	}
	r.addRow(y, &lines)
}

// yccRow is like row for a row of YCbCr.
func (r *resampler) yccRow(y int, c *colorTables, luma, cb, cr []uint8, buffers *rowBuffers) {
	switch {
	case r.copying:
		c.pixels(r.line(y), luma, cb, cr)
	case r.horizontal.shrinks():
		var lines [Channels][Size]uint32
		r.horizontal.applyColors(&lines, func(pairs []uint64, first, last int) (red, green, blue uint64) {
			return sumYCC(c, pairs, luma[first:last], cb[first:last], cr[first:last])
		})
		r.addRow(y, &lines)
	default:
		red, green, blue := buffers.get(0, len(luma)), buffers.get(1, len(luma)), buffers.get(2, len(luma))
		c.row(red, green, blue, luma, cb, cr)
		r.row(y, red, green, blue)
	}
}

// argbRow is like row for a row of pixels with blue in the lowest bits. Alpha, in the highest, is ignored.
func (r *resampler) argbRow(y int, pixels []uint32, buffers *rowBuffers) {
	if !r.copying && r.horizontal.shrinks() {
		var lines [Channels][Size]uint32
		r.horizontal.applyColors(&lines, func(pairs []uint64, first, last int) (red, green, blue uint64) {
			return sumARGB(pairs, pixels[first:last])
		})
		r.addRow(y, &lines)
		return
	}
	n := len(pixels)
	red, green, blue := buffers.get(0, n), buffers.get(1, n), buffers.get(2, n)
	splitARGB(red, green, blue, pixels)
	r.row(y, red, green, blue)
}

// splitARGB copies the colors of pixels into three planes.
func splitARGB(red, green, blue []uint8, pixels []uint32) {
	n := len(pixels)
	red, green, blue = red[:n], green[:n], blue[:n]
	for x, p := range pixels {
		red[x], green[x], blue[x] = uint8(p>>16), uint8(p>>8), uint8(p)
	}
}

// addRow adds row y after the horizontal pass, which rounded it to 8 bits, as in Pillow.
func (r *resampler) addRow(y int, lines *[Channels][Size]uint32) {
	v := &r.vertical
	if v.shrinks() {
		i := 0
		for y >= v.first[i+1] {
			i++
		}
		k := v.pairs[y]
		r.add(i, uint32(k>>32), lines)
		if i > 0 {
			r.add(i-1, uint32(k), lines)
		}
		return
	}
	for i := range Size {
		if at := y - v.first[i]; at >= 0 && at < v.offset[i+1]-v.offset[i] {
			r.add(i, v.coef[v.offset[i]+at], lines)
		}
	}
}

// add adds k times the lines to row i of the result.
func (r *resampler) add(i int, k uint32, lines *[Channels][Size]uint32) {
	for c := range lines {
		sum, line := &r.sum[i][c], &lines[c]
		for x := range line {
			sum[x] += k * line[x]
		}
	}
}

// end writes the result, after all rows have been added.
func (r *resampler) end() {
	if !r.copying {
		for y := range Size {
			out := r.line(y)
			sum := &r.sum[y]
			for x := range Size {
				for c := range Channels {
					out[Channels*x+c] = uint8(min(sum[c][x]>>precision, 255))
				}
			}
		}
	}
	r.dst = nil
}

// trim releases large buffers.
func (r *resampler) trim() {
	r.dst = nil
	for _, t := range []*taps{&r.horizontal, &r.vertical} {
		if 8*cap(t.pairs) > maxScratch {
			*t = taps{}
		}
	}
}
