package imaging

// samples are those of a row: planes of red, green and blue, or one of gray.
type samples struct {
	red, green, blue []uint8
	gray             bool // only red is used
}

// planes returns the planes for a number of channels.
func (s *samples) planes(channels int) [][]uint8 {
	if s.gray {
		return [][]uint8{s.red, s.red, s.red}[:channels]
	}
	return [][]uint8{s.red, s.green, s.blue}[:channels]
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
	default:
		green, blue := s.green[:len(s.red)], s.blue[:len(s.red)]
		for x, v := range s.red {
			out[3*x], out[3*x+1], out[3*x+2] = v, green[x], blue[x]
		}
	}
}

// apply computes the results of a row, rounded to levels. Those of channel c are written to out[start+c],
// out[start+c+step], and so on.
func (t *taps) apply(out []uint8, start, step, channels int, s *samples) {
	if t.identity && step == channels {
		s.interleave(out[start:], channels)
		return
	}
	if channels == 1 {
		t.applyPlane(out, start, step, s.red)
		return
	}
	red, green, blue := s.red, s.green, s.blue
	if s.gray {
		green, blue = red, red
	}
	if t.aligned {
		acrossRGBAVX2(&out[start], step, &red[0], &green[0], &blue[0], &t.first[0], &t.coef[0], t.stride/8, t.axis.count)
		return
	}
	for i, first := range t.first {
		coef := t.coef[i*t.stride:][:t.size[i]]
		r, g, b := red[first:][:len(coef)], green[first:][:len(coef)], blue[first:][:len(coef)]
		rs, gs, bs := int32(halfLevel), int32(halfLevel), int32(halfLevel)
		for x, k := range coef {
			rs += k * int32(r[x])
			gs += k * int32(g[x])
			bs += k * int32(b[x])
		}
		p := out[start : start+3]
		p[0], p[1], p[2] = clampLevel(rs>>precision), clampLevel(gs>>precision), clampLevel(bs>>precision)
		start += step
	}
}

// applyPlane is like apply for one channel.
func (t *taps) applyPlane(out []uint8, at, step int, in []uint8) {
	if t.aligned {
		acrossAVX2(&out[at], step, &in[0], &t.first[0], &t.coef[0], t.stride/8, t.axis.count)
		return
	}
	for i, first := range t.first {
		coef := t.coef[i*t.stride:][:t.size[i]]
		window := in[first:][:len(coef)]
		sum := int32(halfLevel)
		for x, k := range coef {
			sum += k * int32(window[x])
		}
		out[at] = clampLevel(sum >> precision)
		at += step
	}
}

// applyWide computes the results of a plane from or to samples with a fraction. It divides sums by 2 to the power of shift.
func applyWide[Out, In uint8 | int32](t *taps, out []Out, at, step int, in []In, shift uint) {
	level := shift > precision // the results have no fraction
	for i, first := range t.first {
		coef := t.coef[i*t.stride:][:t.size[i]]
		window := in[first:][:len(coef)]
		sum := int64(1) << (shift - 1)
		for x, k := range coef {
			sum += int64(k) * int64(window[x])
		}
		sum >>= shift
		if level {
			sum = int64(clampLevel(sum))
		}
		out[at] = Out(sum)
		at += step
	}
}

// sumRows adds up rows of a ring, times a coefficient each, and rounds the sums to levels. The rows have length samples,
// and the first one is that with index slot. sums is a buffer.
func sumRows(out, ring []uint8, length, slot int, coef []int32, sums []int64) {
	depth := len(ring) / length
	done := 0
	if avx2 && length >= 8 {
		done = length &^ 7
		before := min(len(coef), depth-slot) // rows before the end of the ring
		sumRowsAVX2(&out[0], &ring[slot*length], before, &ring[0], len(coef)-before, length, &coef[0], done)
	}
	sums = sums[:len(out)-done]
	for x := range sums {
		sums[x] = halfLevel
	}
	for _, k := range coef {
		row := ring[slot*length+done:][:len(sums)]
		for x, v := range row {
			sums[x] += int64(k) * int64(v)
		}
		if slot++; slot == depth {
			slot = 0
		}
	}
	for x, sum := range sums {
		out[done+x] = clampLevel(sum >> precision)
	}
}

func clampLevel[T int32 | int64](v T) uint8 { return uint8(min(max(v, 0), 255)) }
