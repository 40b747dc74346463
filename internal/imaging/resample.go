package imaging

// resampler turns, resizes, crops and pads an image. It takes its rows one by one, and holds as few as it can: for most
// filters none but the sums of the results to which the current row contributes.
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

	line []int32 // a row of the image after the horizontal pass, or a column of the result
	luma []uint8

	length int // number of samples of a row that is added up
	// sums are those of the results that the current segment of rows contributes to, in the halves of down.pairs.
	sums    [maxWords][]int64
	segment int // see taps.pairs
	// ring holds the last rows, if down has no pairs, and next is the first result that isn't finished.
	ring []int32
	next int
	// Sums that don't go directly to the result are in rounded or unrounded.
	rounded   []uint8
	unrounded []int32
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
		r.across.compute(p, rows, mirrored)
		r.down.compute(p, columns, flipped != r.upward)
	} else {
		columns, rows = p.axes(width, height)
		r.across.compute(p, columns, mirrored)
		r.down.compute(p, rows, flipped != r.upward)
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
	r.length = r.channels * r.across.axis.count
	r.line = grown(r.line, r.length)
	if r.sumFirst {
		r.length = r.channels * (r.across.end - r.across.base)
	}
	if r.sumFirst && r.down.fraction > 0 {
		r.unrounded = grown(r.unrounded, r.length)
	} else if r.sumFirst || r.turned {
		r.rounded = grown(r.rounded, r.length)
	}
	for w := range max(r.down.words, 1) {
		r.sums[w] = grown(r.sums[w], r.length)
		for i := range r.sums[w] {
			r.sums[w][i] = halfLevel<<32 + halfLevel
		}
	}
	r.segment, r.next = 0, 0
	if r.down.words == 0 {
		r.ring = grown(r.ring, r.down.depth*r.length)
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
	return r.copying || r.down.words > 0 || r.next < r.down.axis.count && y >= r.down.first[r.next]
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
	switch {
	case r.copying && r.channels == 3:
		c.pixels(r.out(y), luma, cb, cr)
	case r.fused():
		r.add(y, &samples{ycc: c, red: luma, green: cb, blue: cr})
	default:
		n := len(luma)
		s := samples{red: buffers.get(0, n), green: buffers.get(1, n), blue: buffers.get(2, n)}
		c.row(s.red, s.green, s.blue, luma, cb, cr)
		r.add(y, &s)
	}
}

// argbRow is like row for a row of pixels with blue in the lowest bits. Alpha, in the highest, is ignored.
func (r *resampler) argbRow(y int, pixels []uint32, buffers *rowBuffers) {
	if !r.needs(y) {
		return
	}
	pixels = pixels[r.across.base:r.across.end]
	if r.fused() {
		r.add(y, &samples{argb: pixels})
		return
	}
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

// fused reports whether the first pass can also convert colors, because it reads each sample once.
func (r *resampler) fused() bool {
	return r.across.words == 1 && r.channels == 3 && !r.sumFirst && !r.copying
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
	if r.down.words > 0 {
		for y >= r.down.first[r.segment+1] {
			r.finishSegment()
		}
	}
	if r.sumFirst {
		n := len(s.red)
		addLine(r, y, 0, s.red)
		if r.channels == 3 {
			addLine(r, y, n, s.green)
			addLine(r, y, 2*n, s.blue)
		}
	} else {
		start, step := r.order()
		r.across.apply(r.line, start, step, r.channels, s)
		addLine(r, y, 0, r.line)
	}
	if r.down.words == 0 {
		for r.next < r.down.axis.count && r.down.last(r.next) <= y {
			r.finishWindow()
		}
	}
}

// order returns where in line the results of a row start, and how far they are apart.
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

// addLine adds samples of row y, relative to down.base, to the sums from offset on.
func addLine[T uint8 | int32](r *resampler, y, offset int, line []T) {
	if r.down.words == 0 {
		kept := r.ring[y%r.down.depth*r.length+offset:][:len(line)]
		for i, v := range line {
			kept[i] = int32(v)
		}
		return
	}
	for w := range r.down.words {
		k := r.down.pairs[w][y]
		sums := r.sums[w][offset:][:len(line)]
		for i, v := range line {
			sums[i] += k * int64(v)
		}
	}
}

// finishSegment ends the rows to whose sums the current segment contributes: that of the result which isn't in the next
// segment is complete.
func (r *resampler) finishSegment() {
	words := r.down.words
	if i := r.segment - 2*words + 1; i >= 0 {
		out := r.result(i)
		for j, sum := range r.sums[words-1][:len(out)] {
			out[j] = clampLevel(int64(int32(sum)) >> precision)
		}
		r.deliver(i)
	}
	for w := words - 1; w >= 0; w-- {
		sums := r.sums[w]
		if w == 0 {
			for j, sum := range sums {
				high, _ := halves(sum)
				sums[j] = halfLevel<<32 + high
			}
			break
		}
		before := r.sums[w-1][:len(sums)]
		for j, sum := range sums {
			high, _ := halves(sum)
			_, low := halves(before[j])
			sums[j] = low<<32 + high
		}
	}
	r.segment++
}

// finishWindow computes the next result from the rows in the ring.
func (r *resampler) finishWindow() {
	t, i := &r.down, r.next
	r.next++
	first := t.first[i]
	shift := precision + t.fraction // first pass: to the fraction, second pass: from it
	if r.sumFirst {
		shift = precision - t.fraction
	}
	sums := r.sums[0]
	for j := range sums {
		sums[j] = 1 << (shift - 1)
	}
	for x, k := range t.coef[t.offset[i]:t.offset[i+1]] {
		line := r.ring[(first+x)%t.depth*r.length:][:len(sums)]
		for j, v := range line {
			sums[j] += int64(k) * int64(v)
		}
	}
	if r.sumFirst && t.fraction > 0 {
		for j, sum := range sums {
			r.unrounded[j] = int32(sum >> shift)
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
		return r.rounded
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
	if r.sumFirst {
		start, step := r.order()
		width := r.length / r.channels
		if r.down.fraction > 0 {
			for c := range r.channels {
				applyWindows(&r.across, r.line, start+c, step, r.unrounded[c*width:][:width], precision+r.across.fraction, true)
			}
		} else {
			s := samples{red: r.rounded[:width], gray: r.channels == 1}
			if r.channels == 3 {
				s.green, s.blue = r.rounded[width:2*width], r.rounded[2*width:]
			}
			r.across.apply(r.line, start, step, r.channels, &s)
		}
	}
	switch {
	case r.turned && r.sumFirst:
		putColumn(r, i, r.line)
	case r.turned:
		putColumn(r, i, r.rounded)
	case r.sumFirst:
		out := r.dstRow(i)
		for x, v := range r.line {
			out[x] = uint8(v)
		}
	}
}

// putColumn writes result i to its column.
func putColumn[T uint8 | int32](r *resampler, i int, line []T) {
	if r.down.reversed {
		i = r.down.axis.count - 1 - i
	}
	stride := r.plan.p.Width * r.channels
	at := r.placed.y*stride + (r.placed.x+i)*r.channels
	for len(line) > 0 {
		for c, v := range line[:r.channels] {
			r.dst[at+c] = uint8(v)
		}
		line = line[r.channels:]
		at += stride
	}
}

// end writes the rest of the result, after all rows have been added.
func (r *resampler) end() {
	if !r.copying && r.down.words > 0 {
		for r.segment < r.down.axis.count+2*r.down.words-1 {
			r.finishSegment()
		}
	}
	r.dst, r.upward = nil, false
}

// trim releases large buffers.
func (r *resampler) trim() {
	r.dst, r.upward, r.orientation = nil, false, 1
	r.across.trim()
	r.down.trim()
	for w := range r.sums {
		r.sums[w] = trimmed(r.sums[w], 8)
	}
	r.ring, r.line, r.unrounded = trimmed(r.ring, 4), trimmed(r.line, 4), trimmed(r.unrounded, 4)
	r.luma, r.rounded = trimmed(r.luma, 1), trimmed(r.rounded, 1)
}

// trimmed returns s, or nil if it's a large buffer of elements of size bytes.
func trimmed[T any](s []T, size int) []T {
	if size*cap(s) > maxScratch {
		return nil
	}
	return s
}
