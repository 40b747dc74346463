package imaging

// precision is the number of fraction bits of Pillow's resampling coefficients for 8-bit channels
// (PRECISION_BITS in Resample.c): 32 bits less 8 for the sample and 2 for overshoot.
const precision = 32 - 8 - 2

// taps are the coefficients that map a side of some length to Size samples.
type taps struct {
	length int           // of the source side; 0 = not computed yet
	first  [Size]int     // first source sample of each result
	offset [Size + 1]int // result i has the coefficients coef[offset[i]:offset[i+1]]
	coef   []uint32
}

// compute is precompute_coeffs and normalize_coeffs_8bpc of Pillow's Resample.c for the triangle
// filter: in double precision, in the same order of operations, so that each coefficient is the
// same integer. The float64 conversions keep compilers from fusing a multiplication with an
// addition, which would round differently on some processors.
func (t *taps) compute(length int) {
	if t.length == length {
		return
	}
	t.length = length
	scale := float64(length) / Size
	filterScale := max(scale, 1)
	support := filterScale // the triangle's own support is 1
	inverse := 1 / filterScale
	t.coef = t.coef[:0]
	for i := range Size {
		center := float64((float64(i) + 0.5) * scale)
		first := max(int(center-support+0.5), 0)
		last := min(int(center+support+0.5), length)
		sum := 0.0
		for x := first; x < last; x++ {
			sum += triangle(float64((float64(x) - center + 0.5) * inverse))
		}
		t.first[i] = first
		t.offset[i] = len(t.coef)
		for x := first; x < last; x++ {
			w := triangle(float64((float64(x)-center+0.5)*inverse)) / sum
			t.coef = append(t.coef, uint32(0.5+float64(w*(1<<precision))))
		}
	}
	t.offset[Size] = len(t.coef)
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

// resampler is Pillow's ImagingResample with the BILINEAR filter for a result of 32×32. Rows are
// handed to it one by one, in any order, and added into the result at once, so that neither the
// picture nor the narrowed picture between the passes is ever held.
type resampler struct {
	dst        []uint8
	copying    bool // the picture has the result's size
	horizontal taps
	vertical   taps
	sum        [Size][Channels * Size]uint32 // by result row: reds, greens, blues
}

// begin starts a picture of the given size, whose result goes to dst.
func (r *resampler) begin(dst []uint8, width, height int) {
	r.dst = dst
	r.copying = width == Size && height == Size
	if r.copying {
		return
	}
	r.horizontal.compute(width)
	r.vertical.compute(height)
	for i := range r.sum {
		for j := range r.sum[i] {
			r.sum[i][j] = 1 << (precision - 1)
		}
	}
}

// row takes row y of the picture; each row must come exactly once. The three slices hold the width's
// samples; they may be one and the same for a grey picture, which then costs a third.
func (r *resampler) row(y int, red, green, blue []uint8) {
	if r.copying {
		out := r.dst[y*Size*Channels:][:Size*Channels]
		red, green, blue = red[:Size], green[:Size], blue[:Size]
		for x := range Size {
			out[3*x], out[3*x+1], out[3*x+2] = red[x], green[x], blue[x]
		}
		return
	}

	// The horizontal pass rounds to 8 bits before the vertical one, as Pillow does.
	var line [Channels * Size]uint32
	h := &r.horizontal
	grey := &red[0] == &green[0] && &red[0] == &blue[0]
	switch {
	case h.length == Size:
		for x := range Size {
			line[x], line[Size+x], line[2*Size+x] = uint32(red[x]), uint32(green[x]), uint32(blue[x])
		}
	case grey:
		for x := range Size {
			coef := h.coef[h.offset[x]:h.offset[x+1]]
			src := red[h.first[x]:][:len(coef)]
			sum := uint32(1 << (precision - 1))
			for i, k := range coef {
				sum += k * uint32(src[i])
			}
			v := min(sum>>precision, 255)
			line[x], line[Size+x], line[2*Size+x] = v, v, v
		}
	default:
		for x := range Size {
			coef := h.coef[h.offset[x]:h.offset[x+1]]
			first := h.first[x]
			rs, gs, bs := red[first:][:len(coef)], green[first:][:len(coef)], blue[first:][:len(coef)]
			sr, sg, sb := uint32(1<<(precision-1)), uint32(1<<(precision-1)), uint32(1<<(precision-1))
			for i, k := range coef {
				sr += k * uint32(rs[i])
				sg += k * uint32(gs[i])
				sb += k * uint32(bs[i])
			}
			line[x] = min(sr>>precision, 255)
			line[Size+x] = min(sg>>precision, 255)
			line[2*Size+x] = min(sb>>precision, 255)
		}
	}

	v := &r.vertical
	for i := range Size {
		at := y - v.first[i]
		if at < 0 || at >= v.offset[i+1]-v.offset[i] {
			continue
		}
		k := v.coef[v.offset[i]+at]
		sum := &r.sum[i]
		for j, s := range line {
			sum[j] += k * s
		}
	}
}

// end writes the result. It must not be called before every row was given.
func (r *resampler) end() {
	if !r.copying {
		for y := range Size {
			out := r.dst[y*Size*Channels:][:Size*Channels]
			sum := &r.sum[y]
			for x := range Size {
				out[3*x] = uint8(min(sum[x]>>precision, 255))
				out[3*x+1] = uint8(min(sum[Size+x]>>precision, 255))
				out[3*x+2] = uint8(min(sum[2*Size+x]>>precision, 255))
			}
		}
	}
	r.dst = nil
}

// trim lets go of what a huge picture left behind.
func (r *resampler) trim() {
	r.dst = nil
	for _, t := range []*taps{&r.horizontal, &r.vertical} {
		if 4*cap(t.coef) > maxScratch {
			*t = taps{}
		}
	}
}
