package imaging

// samples are those of a row: planes of red, green and blue, or one of these.
type samples struct {
	red, green, blue []uint8
	gray             bool         // only red is used
	ycc              *colorTables // the planes are luma, blue and red chroma
	argb             []uint32     // the colors of pixels, instead of planes
}

// interleave writes pixels to out.
func (s *samples) interleave(out []uint8, channels int) {
	switch {
	case channels == 1:
		copy(out, s.red)
	case s.gray:
		for x, v := range s.red {
			out[3*x], out[3*x+1], out[3*x+2] = v, v, v
		}
	case s.argb != nil:
		for x, v := range s.argb {
			out[3*x], out[3*x+1], out[3*x+2] = uint8(v>>16), uint8(v>>8), uint8(v)
		}
	default:
		green, blue := s.green[:len(s.red)], s.blue[:len(s.red)]
		for x, v := range s.red {
			out[3*x], out[3*x+1], out[3*x+2] = v, green[x], blue[x]
		}
	}
}

// apply computes the results of a row. Those of channel c are written to out[start+c], out[start+c+step], and so on.
func (t *taps) apply(out []int32, start, step, channels int, s *samples) {
	switch {
	case t.words == 0:
		shift, clamp := precision-t.fraction, t.fraction == 0
		planes := [3][]uint8{s.red, s.green, s.blue}
		n := channels
		if s.gray {
			n = 1
		}
		for c := range n {
			if t.identity && t.fraction == 0 {
				at := start + c
				for _, v := range planes[c] {
					out[at] = int32(v)
					at += step
				}
				continue
			}
			applyWindows(t, out, start+c, step, planes[c], shift, clamp)
		}
		if n < channels {
			repeat(out, start, step, t.axis.count)
		}
	case s.gray:
		t.shrinkPlane(out, start, step, s.red)
		if channels == 3 {
			repeat(out, start, step, t.axis.count)
		}
	case t.words == 1:
		t.shrinkByPairs(out, start, step, s)
	default:
		t.shrink(out, start, step, s)
	}
}

// repeat copies the first channel to the others.
func repeat(out []int32, start, step, n int) {
	for range n {
		p := out[start : start+3]
		p[1], p[2] = p[0], p[0]
		start += step
	}
}

// applyWindows computes results by their lists of coefficients. It divides sums by 2 to the power of shift.
func applyWindows[T uint8 | int32](t *taps, out []int32, at, step int, in []T, shift uint, clamp bool) {
	for i := range t.axis.count {
		coef := t.coef[t.offset[i]:t.offset[i+1]]
		window := in[t.first[i]:][:len(coef)]
		sum := int64(1) << (shift - 1)
		for x, k := range coef {
			sum += int64(k) * int64(window[x])
		}
		sum >>= shift
		if clamp {
			sum = int64(clampLevel(sum))
		}
		out[at] = int32(sum)
		at += step
	}
}

func clampLevel(v int64) uint8 { return uint8(min(max(v, 0), 255)) }

// shrinkPlane computes the results of one channel by pairs.
func (t *taps) shrinkPlane(out []int32, at, step int, in []uint8) {
	var sums [2 * maxWords]int64 // of the current result and those before
	for d := range sums {
		sums[d] = halfLevel
	}
	last := 2*t.words - 1
	for i := range t.axis.count + last {
		if i < t.axis.count {
			first, end := t.first[i], t.first[i+1]
			for w := range t.words {
				high, low := halves(sumPlane(t.pairs[w][first:end], in[first:end]))
				sums[2*w] += high
				sums[2*w+1] += low
			}
		}
		if i >= last {
			out[at] = int32(clampLevel(sums[last] >> precision))
			at += step
		}
		for d := last; d > 0; d-- {
			sums[d] = sums[d-1]
		}
		sums[0] = halfLevel
	}
}

// shrink computes the results of three channels by pairs.
func (t *taps) shrink(out []int32, at, step int, s *samples) {
	var sums [2 * maxWords][3]int64 // of the current result and those before
	for d := range sums {
		sums[d] = [3]int64{halfLevel, halfLevel, halfLevel}
	}
	last := 2*t.words - 1
	for i := range t.axis.count + last {
		if i < t.axis.count {
			first, end := t.first[i], t.first[i+1]
			for w := range t.words {
				r, g, b := sumPlanes(t.pairs[w][first:end], s.red[first:end], s.green[first:end], s.blue[first:end])
				high, low := &sums[2*w], &sums[2*w+1]
				h, l := halves(r)
				high[0] += h
				low[0] += l
				h, l = halves(g)
				high[1] += h
				low[1] += l
				h, l = halves(b)
				high[2] += h
				low[2] += l
			}
		}
		if i >= last {
			p, sum := out[at:at+3], &sums[last]
			p[0], p[1], p[2] = int32(clampLevel(sum[0]>>precision)), int32(clampLevel(sum[1]>>precision)), int32(clampLevel(sum[2]>>precision))
			at += step
		}
		for d := last; d > 0; d-- {
			sums[d] = sums[d-1]
		}
		sums[0] = [3]int64{halfLevel, halfLevel, halfLevel}
	}
}

// shrinkByPairs is like shrink for the bilinear filter, whose sums aren't negative. Its samples may need conversion to RGB.
func (t *taps) shrinkByPairs(out []int32, at, step int, s *samples) {
	red, green, blue := uint64(halfLevel), uint64(halfLevel), uint64(halfLevel)
	pairs := t.pairs[0]
	put := func(r, g, b uint64) {
		p := out[at : at+3]
		p[0] = int32(min(uint32(r)>>precision, 255))
		p[1] = int32(min(uint32(g)>>precision, 255))
		p[2] = int32(min(uint32(b)>>precision, 255))
		at += step
	}
	for i := range t.axis.count {
		first, end := t.first[i], t.first[i+1]
		var r, g, b int64
		switch {
		case s.ycc != nil:
			r, g, b = sumYCC(s.ycc, pairs[first:end], s.red[first:end], s.green[first:end], s.blue[first:end])
		case s.argb != nil:
			r, g, b = sumARGB(pairs[first:end], s.argb[first:end])
		default:
			r, g, b = sumPlanes(pairs[first:end], s.red[first:end], s.green[first:end], s.blue[first:end])
		}
		if i > 0 {
			put(red+uint64(r), green+uint64(g), blue+uint64(b))
		}
		red, green, blue = uint64(r)>>32+halfLevel, uint64(g)>>32+halfLevel, uint64(b)>>32+halfLevel
	}
	put(red, green, blue)
}

// The functions below return sums of samples times pairs of coefficients. They are functions of their own so that all
// variables stay in registers.

//go:noinline
func sumPlane(pairs []int64, in []uint8) (sum int64) {
	in = in[:len(pairs)]
	for x, k := range pairs {
		sum += k * int64(in[x])
	}
	return sum
}

//go:noinline
func sumPlanes(pairs []int64, r, g, b []uint8) (red, green, blue int64) {
	r, g, b = r[:len(pairs)], g[:len(pairs)], b[:len(pairs)]
	for x, k := range pairs {
		red += k * int64(r[x])
		green += k * int64(g[x])
		blue += k * int64(b[x])
	}
	return red, green, blue
}

// sumYCC converts samples of YCbCr.
//
//go:noinline
func sumYCC(c *colorTables, pairs []int64, luma, cb, cr []uint8) (red, green, blue int64) {
	luma, cb, cr = luma[:len(pairs)], cb[:len(pairs)], cr[:len(pairs)]
	for x, k := range pairs {
		sum := c.luma[luma[x]] + c.cb[cb[x]] + c.cr[cr[x]]
		if sum&outsideLanes == 0 { // nothing to be clamped
			red += k * int64(sum>>redLane&255)
			green += k * int64(sum>>greenLane)
			blue += k * int64(sum>>blueLane&255)
			continue
		}
		sum += biasLanes
		red += k * int64(clamped[sum>>redLane&2047])
		green += k * int64(clamped[sum>>greenLane&2047])
		blue += k * int64(clamped[sum>>blueLane&2047])
	}
	return red, green, blue
}

// sumARGB takes pixels of 32 bits.
//
//go:noinline
func sumARGB(pairs []int64, pixels []uint32) (red, green, blue int64) {
	pixels = pixels[:len(pairs)]
	for i, k := range pairs {
		p := pixels[i]
		red += k * int64(p>>16&255)
		green += k * int64(p>>8&255)
		blue += k * int64(p&255)
	}
	return red, green, blue
}
