package imaging

// resampler turns, resizes, crops and pads an image. It takes its rows one by one, and holds only those that are in the
// window of the next result.
//
// Like Pillow, it resizes the turned image in two passes, usually first horizontally and then vertically, and rounds to
// 8 bits in between. One pass is along the rows of the image, and the other one adds rows up. If the image is turned by 90°,
// its rows are columns of the result.
type resampler struct {
	plan *Plan
	// orientation is that of the next image, as in Info.Orientation.
	orientation int
	// upward reports that the next image's rows come from the bottom.
	upward bool

	dst      []uint8
	height   int
	channels int
	turned   bool // rows of the image are columns of the result
	sumFirst bool // rows are added up before the pass along rows
	copying  bool // no pixel changes
	across   taps // along the image's rows
	down     taps // along its columns
	placed   struct{ x, y int }

	// ring holds the rows that will be added up, of length samples each: pixels, or planes if sumFirst is true. Row y, relative
	// to down.base, is at index y % down.stride. If results of the first pass aren't rounded, wideRing holds them.
	ring     []uint8
	wideRing []int32
	length   int
	next     int // the first result of down that isn't finished

	luma    []uint8
	sums    []int64
	summed  []uint8 // a result of down that isn't written to dst directly
	wideSum []int32
	line    []uint8 // a row or column of the result
}

// begin starts an image of the given size, whose rows come in order. The result is written to dst.
func (r *resampler) begin(dst []uint8, width, height int) {
	p := &r.plan.p
	r.dst, r.height, r.channels = dst, height, p.Channels()
	r.turned = r.orientation > 4
	var mirrored, flipped bool
	switch r.orientation {
	case 2, 8:
		mirrored = true
	case 3, 7:
		mirrored, flipped = true, true
	case 4, 6:
		flipped = true
	}
	var columns, rows axis
	if r.turned {
		columns, rows = p.axes(height, width)
		r.across.compute(p, rows, mirrored, avx2 && p.fraction() == 0)
		r.down.compute(p, columns, flipped != r.upward, false)
	} else {
		columns, rows = p.axes(width, height)
		r.across.compute(p, columns, mirrored, avx2 && p.fraction() == 0)
		r.down.compute(p, rows, flipped != r.upward, false)
	}
	r.sumFirst = r.turned != p.verticalFirst(columns, rows)
	r.placed.x, r.placed.y = columns.place, rows.place
	if columns.count < p.Width || rows.count < p.Height {
		r.pad(p)
	}
	r.copying = !r.turned && !mirrored && r.across.identity && r.down.identity
	if r.copying {
		return
	}
	n := r.channels * r.across.axis.count
	r.line = grown(r.line, n)
	r.length = n
	if r.sumFirst {
		r.length = r.channels * (r.across.end - r.across.base)
	}
	r.next = 0
	r.sums = grown(r.sums, r.length)
	r.summed = grown(r.summed, r.length)
	if r.down.fraction > 0 {
		r.wideRing = grown(r.wideRing, r.down.stride*r.length)
		r.wideSum = grown(r.wideSum, r.length)
	} else {
		r.ring = grown(r.ring, r.down.stride*r.length)
	}
}

// grown returns a slice of length n, which is s if its capacity suffices. Its content is undefined.
func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// pad fills the result with the padding color.
func (r *resampler) pad(p *Preprocessing) {
	color := p.Padding[:]
	if r.channels == 1 {
		color = []uint8{luma(color[0], color[1], color[2])}
	}
	for i := range r.dst {
		r.dst[i] = color[i%len(color)]
	}
}

// needs reports whether row y of the image contributes to the result. Other rows needn't be passed.
func (r *resampler) needs(y int) bool {
	if r.upward {
		y = r.height - 1 - y
	}
	if y -= r.down.base; y < 0 || y >= r.down.end-r.down.base {
		return false
	}
	return r.copying || r.next < r.down.axis.count && y >= r.down.first[r.next]
}

// out returns the pixels of the result from that of row y of the image on, if copying is true.
func (r *resampler) out(y int) []uint8 {
	if r.upward {
		y = r.height - 1 - y
	}
	return r.dstRow(y - r.down.base)
}

// row adds row y of the image. Rows must come in order. For a gray image, the three slices can be the same, which takes
// a third of the time.
func (r *resampler) row(y int, red, green, blue []uint8) {
	if r.needs(y) {
		from, to := r.across.base, r.across.end
		s := samples{red: red[from:to], green: green[from:to], blue: blue[from:to]}
		s.gray = &red[0] == &green[0] && &red[0] == &blue[0]
		r.add(y, &s)
	}
}

// yccRow is like row for a row of YCbCr.
func (r *resampler) yccRow(y int, c *colorTables, luma, cb, cr []uint8, buffers *rowBuffers) {
	if !r.needs(y) {
		return
	}
	from, to := r.across.base, r.across.end
	luma, cb, cr = luma[from:to], cb[from:to], cr[from:to]
	if r.copying && r.channels == 3 {
		c.pixels(r.out(y), luma, cb, cr)
		return
	}
	n := len(luma)
	s := samples{red: buffers.get(0, n), green: buffers.get(1, n), blue: buffers.get(2, n)}
	c.row(s.red, s.green, s.blue, luma, cb, cr)
	r.add(y, &s)
}

// argbRow is like row for a row of pixels with blue in the lowest bits. Alpha, in the highest, is ignored.
func (r *resampler) argbRow(y int, pixels []uint32, buffers *rowBuffers) {
	if !r.needs(y) {
		return
	}
	pixels = pixels[r.across.base:r.across.end]
	n := len(pixels)
	s := samples{red: buffers.get(0, n), green: buffers.get(1, n), blue: buffers.get(2, n)}
	splitARGB(s.red, s.green, s.blue, pixels)
	r.add(y, &s)
}

// splitARGB copies the colors of pixels into three planes.
func splitARGB(red, green, blue []uint8, pixels []uint32) {
	n := len(pixels)
	red, green, blue = red[:n], green[:n], blue[:n]
	for x, p := range pixels {
		red[x], green[x], blue[x] = uint8(p>>16), uint8(p>>8), uint8(p)
	}
}

// add adds row y, whose samples start at across.base.
func (r *resampler) add(y int, s *samples) {
	if r.channels == 1 {
		r.toGray(s)
	}
	if r.copying {
		s.interleave(r.out(y), r.channels)
		return
	}
	if r.upward {
		y = r.height - 1 - y
	}
	y -= r.down.base
	at := y % r.down.stride * r.length
	switch {
	case r.down.fraction > 0 && r.sumFirst:
		for c, plane := range s.planes(r.channels) {
			out := r.wideRing[at+c*len(plane):][:len(plane)]
			for x, v := range plane {
				out[x] = int32(v)
			}
		}
	case r.down.fraction > 0:
		start, step := r.order()
		for c, plane := range s.planes(r.channels) {
			applyWide(&r.across, r.wideRing[at:][:r.length], start+c, step, plane, precision-r.across.fraction)
		}
	case r.sumFirst:
		for c, plane := range s.planes(r.channels) {
			copy(r.ring[at+c*len(plane):], plane)
		}
	default:
		start, step := r.order()
		r.across.apply(r.ring[at:][:r.length], start, step, r.channels, s)
	}
	for r.next < r.down.axis.count && r.down.last(r.next) <= y {
		r.finish()
	}
}

// order returns where in a row the results of across start, and how far they are apart.
func (r *resampler) order() (start, step int) {
	if r.across.reversed {
		return r.channels * (r.across.axis.count - 1), -r.channels
	}
	return 0, r.channels
}

// toGray replaces colors by their luma.
func (r *resampler) toGray(s *samples) {
	if s.gray {
		return
	}
	n := len(s.red)
	r.luma = grown(r.luma, n)
	green, blue := s.green[:n], s.blue[:n]
	for x, red := range s.red {
		r.luma[x] = luma(red, green[x], blue[x])
	}
	*s = samples{red: r.luma, gray: true}
}

// luma converts a pixel to gray like Pillow (L24 in Convert.c).
func luma(red, green, blue uint8) uint8 {
	return uint8((19595*uint32(red) + 38470*uint32(green) + 7471*uint32(blue) + 1<<15) >> 16)
}

// finish computes the next result from the rows in the ring.
func (r *resampler) finish() {
	t, i := &r.down, r.next
	r.next++
	coef := t.coef[i*t.stride:][:t.size[i]]
	slot := t.first[i] % t.stride
	if t.fraction == 0 {
		sumRows(r.result(i), r.ring, r.length, slot, coef, r.sums)
		r.deliver(i)
		return
	}
	shift := precision + t.fraction // in a second pass, its samples have the fraction
	if r.sumFirst {
		shift = precision - t.fraction
	}
	sums := r.sums
	for j := range sums {
		sums[j] = 1 << (shift - 1)
	}
	for x, k := range coef {
		line := r.wideRing[(slot+x)%t.stride*r.length:][:len(sums)]
		for j, v := range line {
			sums[j] += int64(k) * int64(v)
		}
	}
	if r.sumFirst {
		for j, sum := range sums {
			r.wideSum[j] = int32(sum >> shift)
		}
	} else {
		out := r.result(i)
		for j, sum := range sums[:len(out)] {
			out[j] = clampLevel(sum >> shift)
		}
	}
	r.deliver(i)
}

// result returns where to write the sums of result i.
func (r *resampler) result(i int) []uint8 {
	if r.turned || r.sumFirst {
		return r.summed
	}
	return r.dstRow(i)
}

// dstRow returns the pixels of result i, if it's a row.
func (r *resampler) dstRow(i int) []uint8 {
	if r.down.reversed {
		i = r.down.axis.count - 1 - i
	}
	return r.dst[((r.placed.y+i)*r.plan.p.Width+r.placed.x)*r.channels:][:r.across.axis.count*r.channels]
}

// deliver writes result i to its row or column, unless result returned the row. If it was added up first, it
// still needs the other pass.
func (r *resampler) deliver(i int) {
	line := r.summed
	if r.sumFirst {
		line = r.line
		if !r.turned {
			line = r.dstRow(i)
		}
		start, step := r.order()
		width := r.length / r.channels
		if r.down.fraction > 0 {
			for c := range r.channels {
				applyWide(&r.across, line, start+c, step, r.wideSum[c*width:][:width], precision+r.across.fraction)
			}
		} else {
			s := samples{red: r.summed[:width], gray: r.channels == 1}
			if r.channels == 3 {
				s.green, s.blue = r.summed[width:2*width], r.summed[2*width:]
			}
			r.across.apply(line, start, step, r.channels, &s)
		}
	}
	if r.turned {
		r.putColumn(i, line)
	}
}

// putColumn writes result i to its column.
func (r *resampler) putColumn(i int, line []uint8) {
	if r.down.reversed {
		i = r.down.axis.count - 1 - i
	}
	stride := r.plan.p.Width * r.channels
	at := r.placed.y*stride + (r.placed.x+i)*r.channels
	for len(line) > 0 {
		copy(r.dst[at:], line[:r.channels])
		line = line[r.channels:]
		at += stride
	}
}

// end ends an image whose rows have all been added.
func (r *resampler) end() { r.dst, r.upward = nil, false }

// trim releases large buffers.
func (r *resampler) trim() {
	r.dst, r.upward, r.orientation = nil, false, 1
	r.across.trim()
	r.down.trim()
	r.sums = trimmed(r.sums, 8)
	r.wideRing, r.wideSum = trimmed(r.wideRing, 4), trimmed(r.wideSum, 4)
	r.ring, r.luma, r.summed, r.line = trimmed(r.ring, 1), trimmed(r.luma, 1), trimmed(r.summed, 1), trimmed(r.line, 1)
}

// trimmed returns s, or nil if it's a large buffer of elements of size bytes.
func trimmed[T any](s []T, size int) []T {
	if size*cap(s) > maxScratch {
		return nil
	}
	return s
}
