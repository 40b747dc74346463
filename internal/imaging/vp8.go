package imaging

import (
	"encoding/binary"
	"errors"
)

// This file and its neighbors decode the key frames of VP8 (RFC 6386), which are the frames of a lossy WebP. The
// arithmetic is that of libwebp. Macroblocks are decoded, filtered and emitted row by row.

var (
	errVP8Truncated = errors.New("a partition ends too early")
	errVP8Header    = errors.New("invalid frame header")
)

// Modes of prediction. The first four are also those of whole macroblocks.
const (
	vp8PredictDC = iota
	vp8PredictTM
	vp8PredictVertical
	vp8PredictHorizontal
	vp8PredictLeftDown
	vp8PredictRightDown
	vp8PredictVerticalRight
	vp8PredictVerticalLeft
	vp8PredictHorizontalDown
	vp8PredictHorizontalUp
)

// vp8Column is what a macroblock leaves to the one below, before the loop filter.
type vp8Column struct {
	y     [16]uint8
	u, v  [8]uint8
	modes [4]uint8
	vp8Coded
}

// vp8Coded has bits that tell which blocks along an edge of a macroblock have coefficients: four of luma and two
// of each chroma component.
type vp8Coded struct {
	y, u, v uint8
	dc      uint8 // of the block with the DC coefficients of luma
}

// vp8Quantizer has the step sizes of a segment, of DC and AC.
type vp8Quantizer struct{ y, dc, uv [2]int32 }

// vp8Limits are the parameters of the loop filter. It's off if edge is 0.
type vp8Limits struct{ edge, inner, variance int32 }

// vp8Band has the band of each position of a coefficient. A sentinel follows.
var vp8Band = [17]uint8{0, 1, 2, 3, 6, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 0}

// vp8Rows is the number of rows of macroblocks in memory: the current one and the one above.
const vp8Rows = 2

// vp8Decoder decodes a frame. begin must be called first, and then row for each row of macroblocks.
type vp8Decoder struct {
	modes  vp8Reader // the first partition
	tokens [8]vp8Reader
	parts  int // number of partitions with tokens

	wide, high int // size in macroblocks
	segmented  bool
	mapped     bool // whether each macroblock has a segment
	mapProbs   [3]uint8
	segment    int
	simple     bool
	filtered   bool
	limits     [4][2]vp8Limits // by segment and whether 4×4 blocks are predicted
	quantizers [4]vp8Quantizer
	skips      bool
	skipProb   uint8
	probs      [4][17][3][11]uint8 // by position
	leftModes  [4]uint8
	left       vp8Coded
	blockModes [16]uint8
	columns    []vp8Column
	samples    []uint8
	y, u, v    []uint8 // windows of samples
	work       vp8Work
	coeff      [25][16]int16 // 16 blocks of luma, 4 of each chroma component, and the DC coefficients of luma
	kinds      [24]uint8     // how to transform each block
}

// Kinds of blocks.
const (
	vp8Zero = iota
	vp8OnlyDC
	vp8Full
)

// vp8Memory returns the number of bytes that the decoder holds for an image of the given width.
func vp8Memory(width int) int64 {
	const perColumn = vp8Rows*(256+2*64) + 40
	return int64(width+15) / 16 * perColumn
}

// trim releases the data and large buffers.
func (d *vp8Decoder) trim() {
	d.modes = vp8Reader{}
	d.tokens = [8]vp8Reader{}
	if cap(d.samples) > maxScratch {
		d.samples, d.y, d.u, d.v = nil, nil, nil, nil
	}
	if 40*cap(d.columns) > maxScratch {
		d.columns = nil
	}
}

// begin reads the headers of a frame of the given size, which the caller has read from the start of data.
func (d *vp8Decoder) begin(data []byte, width, height int) error {
	if len(data) < 10 {
		return errVP8Header
	}
	first := uint24(data) >> 5
	data = data[10:]
	if first > len(data) {
		return errVP8Truncated
	}
	d.modes.begin(data[:first])
	data = data[first:]
	r := &d.modes
	r.literal(2) // color space and clamping, which libwebp ignores

	var quantizer, strength [4]int32
	relative := false
	d.mapProbs = [3]uint8{255, 255, 255}
	d.mapped, d.segment = false, 0
	d.segmented = r.bit(128)
	if d.segmented {
		d.mapped = r.bit(128)
		if r.bit(128) {
			relative = !r.bit(128)
			for i := range quantizer {
				quantizer[i] = r.optional(7)
			}
			for i := range strength {
				strength[i] = r.optional(6)
			}
		}
		if d.mapped {
			for i := range d.mapProbs {
				if r.bit(128) {
					d.mapProbs[i] = uint8(r.literal(8))
				}
			}
		}
	}
	d.readFilter(strength, relative)

	d.parts = 1 << r.literal(2)
	sizes := 3 * (d.parts - 1)
	if sizes > len(data) {
		return errVP8Truncated
	}
	lengths, data := data[:sizes], data[sizes:]
	for i := range d.parts {
		n := len(data)
		if i < d.parts-1 {
			n = uint24(lengths[3*i:])
		}
		if n > len(data) {
			return errVP8Truncated
		}
		d.tokens[i].begin(data[:n])
		data = data[n:]
	}

	d.readQuantizers(quantizer, relative)
	r.bit(128) // whether to keep the probabilities for the next frame
	probs := vp8TokenProbs
	for i := range probs {
		for j := range probs[i] {
			for k := range probs[i][j] {
				for l := range probs[i][j][k] {
					if r.bit(vp8UpdateProbs[i][j][k][l]) {
						probs[i][j][k][l] = uint8(r.literal(8))
					}
				}
			}
		}
		for n, band := range vp8Band {
			d.probs[i][n] = probs[i][band]
		}
	}
	d.skips = r.bit(128)
	if d.skips {
		d.skipProb = uint8(r.literal(8))
	}
	if r.ended {
		return errVP8Truncated
	}

	d.wide, d.high = (width+15)/16, (height+15)/16
	const perColumn = vp8Rows * 128
	if n := 3 * perColumn * d.wide; cap(d.samples) < n {
		d.samples = make([]uint8, n)
	} else {
		d.samples = d.samples[:n]
	}
	n := perColumn / 2 * d.wide
	d.y, d.u, d.v = d.samples[:4*n], d.samples[4*n:5*n], d.samples[5*n:6*n]
	if cap(d.columns) < d.wide {
		d.columns = make([]vp8Column, d.wide)
	} else {
		d.columns = d.columns[:d.wide]
		clear(d.columns)
	}
	return nil
}

// readFilter reads the parameters of the loop filter.
func (d *vp8Decoder) readFilter(strength [4]int32, relative bool) {
	r := &d.modes
	d.simple = r.bit(128)
	base := int32(r.literal(6))
	sharpness := int32(r.literal(3))
	var intra, blocks int32                             // adjustments for all macroblocks, and for those with 4×4 blocks
	if adjusted := r.bit(128); adjusted && r.bit(128) { // adjustments are used, and updated
		intra = r.optional(6)
		for range 3 { // other reference frames
			r.optional(6)
		}
		blocks = r.optional(6)
		for range 3 {
			r.optional(6)
		}
	}
	d.filtered = base != 0
	for s := range d.limits {
		for i := range d.limits[s] {
			level := base
			if d.segmented {
				level = strength[s]
				if relative {
					level += base
				}
			}
			level = min(max(level+intra+int32(i)*blocks, 0), 63)
			l := &d.limits[s][i]
			if *l = (vp8Limits{}); level == 0 {
				continue
			}
			l.inner = level
			if sharpness > 0 {
				l.inner >>= 1
				if sharpness > 4 {
					l.inner >>= 1
				}
				l.inner = min(l.inner, 9-sharpness)
			}
			l.inner = max(l.inner, 1)
			l.edge = 2*level + l.inner
			switch {
			case level >= 40:
				l.variance = 2
			case level >= 15:
				l.variance = 1
			}
		}
	}
}

// readQuantizers reads the step sizes.
func (d *vp8Decoder) readQuantizers(segments [4]int32, relative bool) {
	r := &d.modes
	base := int32(r.literal(7))
	yDC, dcDC, dcAC, uvDC, uvAC := r.optional(4), r.optional(4), r.optional(4), r.optional(4), r.optional(4)
	for s := range d.quantizers {
		q := base
		if d.segmented {
			q = segments[s]
			if relative {
				q += base
			}
		}
		step := func(t *[128]uint16, delta, most int32) int32 { return int32(t[min(max(q+delta, 0), most)]) }
		d.quantizers[s] = vp8Quantizer{
			y:  [2]int32{step(&vp8DC, yDC, 127), step(&vp8AC, 0, 127)},
			dc: [2]int32{2 * step(&vp8DC, dcDC, 127), max(155*step(&vp8AC, dcAC, 127)/100, 8)},
			uv: [2]int32{step(&vp8DC, uvDC, 117), step(&vp8AC, uvAC, 127)}, // at most 132 for DC
		}
	}
}

// ready returns the number of rows of pixels that are complete after the given number of rows of macroblocks,
// except for those at the bottom of the image. The filter of the next row changes three more rows of each
// plane, and upsampling needs one row of chroma below.
func (d *vp8Decoder) ready(rows, height int) int {
	if rows == d.high {
		return height
	}
	return 16*rows - 7
}

// lumaLine returns a row of luma.
func (d *vp8Decoder) lumaLine(y int) []uint8 { return d.y[y%(16*vp8Rows)*16*d.wide:][:16*d.wide] }

// chromaLines returns a row of each chroma component.
func (d *vp8Decoder) chromaLines(y int) (u, v []uint8) {
	at, n := y%(8*vp8Rows)*8*d.wide, 8*d.wide
	return d.u[at:][:n], d.v[at:][:n]
}

// row decodes a row of macroblocks.
func (d *vp8Decoder) row(row int) error {
	tokens := &d.tokens[row%d.parts]
	d.left, d.leftModes = vp8Coded{}, [4]uint8{}
	w := &d.work
	w.beginRow(row)
	for x := range d.columns {
		c := &d.columns[x]
		if d.mapped {
			d.segment = 0
			if d.modes.bit(d.mapProbs[0]) {
				d.segment = 2
			}
			if d.modes.bit(d.mapProbs[1+d.segment/2]) {
				d.segment++
			}
		}
		skip := d.skips && d.modes.bit(d.skipProb)
		whole := d.modes.bit(145)
		mode := uint8(0)
		if whole {
			mode = d.readMode()
		} else {
			d.readBlockModes(c)
		}
		if whole {
			d.leftModes = [4]uint8{mode, mode, mode, mode}
			c.modes = d.leftModes
		}
		chroma := d.readChromaMode()
		if skip {
			dc, above := d.left.dc, c.dc
			d.left, c.vp8Coded = vp8Coded{}, vp8Coded{}
			if !whole {
				d.left.dc, c.dc = dc, above
			}
			d.kinds = [24]uint8{}
		} else {
			skip = !d.readCoefficients(tokens, c, whole)
		}

		// Predict and add the differences.
		if row > 0 {
			copy(w[vp8Y-32:][:16], c.y[:])
			copy(w[vp8U-32:][:8], c.u[:])
			copy(w[vp8V-32:][:8], c.v[:])
		}
		if whole {
			w.predict(vp8Y, 16, mode, row > 0, x > 0)
			if !skip {
				for i, kind := range d.kinds[:16] {
					w.add(vp8Y+i/4*128+i%4*4, kind, &d.coeff[i])
				}
			}
		} else {
			if row > 0 {
				next := w[vp8Y-16:][:4]
				if x+1 < d.wide {
					copy(next, d.columns[x+1].y[:4])
				} else {
					last := c.y[15]
					next[0], next[1], next[2], next[3] = last, last, last, last
				}
			}
			for i := 1; i < 4; i++ {
				copy(w[vp8Y-16+128*i:][:4], w[vp8Y-16:][:4])
			}
			w.predictBlocks(&d.blockModes, &d.kinds, &d.coeff)
		}
		w.predict(vp8U, 8, chroma, row > 0, x > 0)
		w.predict(vp8V, 8, chroma, row > 0, x > 0)
		if !skip {
			for i, kind := range d.kinds[16:20] {
				w.add(vp8U+i/2*128+i%2*4, kind, &d.coeff[16+i])
			}
			for i, kind := range d.kinds[20:24] {
				w.add(vp8V+i/2*128+i%2*4, kind, &d.coeff[20+i])
			}
		}

		// Keep the result.
		copy(c.y[:], w[vp8Y+15*32:][:16])
		copy(c.u[:], w[vp8U+7*32:][:8])
		copy(c.v[:], w[vp8V+7*32:][:8])
		yStride, cStride := 16*d.wide, 8*d.wide
		yAt, cAt := row%vp8Rows*16*yStride+16*x, row%vp8Rows*8*cStride+8*x
		for i := range 16 {
			*(*[16]uint8)(d.y[yAt+i*yStride:]) = *(*[16]uint8)(w[vp8Y+32*i:])
		}
		for i := range 8 {
			*(*[8]uint8)(d.u[cAt+i*cStride:]) = *(*[8]uint8)(w[vp8U+32*i:])
			*(*[8]uint8)(d.v[cAt+i*cStride:]) = *(*[8]uint8)(w[vp8V+32*i:])
		}
		w.shift()

		if !d.filtered {
			continue
		}
		kind := 1
		if whole {
			kind = 0
		}
		if l := &d.limits[d.segment][kind]; l.edge > 0 {
			if d.simple {
				d.filterSimple(l, x, row, !whole || !skip)
			} else {
				d.filterNormal(l, x, row, !whole || !skip)
			}
		}
	}
	if d.modes.ended || tokens.ended {
		return errVP8Truncated
	}
	return nil
}

// readMode reads the mode of the luma of a macroblock.
func (d *vp8Decoder) readMode() uint8 {
	r := &d.modes
	if r.bit(156) {
		if r.bit(128) {
			return vp8PredictTM
		}
		return vp8PredictHorizontal
	}
	if r.bit(163) {
		return vp8PredictVertical
	}
	return vp8PredictDC
}

// readChromaMode reads the mode of both chroma components.
func (d *vp8Decoder) readChromaMode() uint8 {
	r := &d.modes
	switch {
	case !r.bit(142):
		return vp8PredictDC
	case !r.bit(114):
		return vp8PredictVertical
	case !r.bit(183):
		return vp8PredictHorizontal
	}
	return vp8PredictTM
}

// vp8ModeTree is the tree of modes of a 4×4 block: the next node by bit, or a negated mode.
var vp8ModeTree = [18]int8{
	-vp8PredictDC, 2,
	-vp8PredictTM, 4,
	-vp8PredictVertical, 6,
	8, 12,
	-vp8PredictHorizontal, 10,
	-vp8PredictRightDown, -vp8PredictVerticalRight,
	-vp8PredictLeftDown, 14,
	-vp8PredictVerticalLeft, 16,
	-vp8PredictHorizontalDown, -vp8PredictHorizontalUp,
}

// readBlockModes reads the modes of the 4×4 blocks of a macroblock.
func (d *vp8Decoder) readBlockModes(c *vp8Column) {
	for i := range d.blockModes {
		probs := &vp8ModeProbs[c.modes[i%4]][d.leftModes[i/4]]
		node := int8(0)
		for {
			bit := int8(0)
			if d.modes.bit(probs[node/2]) {
				bit = 1
			}
			if node = vp8ModeTree[node+bit]; node <= 0 {
				break
			}
		}
		mode := uint8(-node)
		d.blockModes[i], c.modes[i%4], d.leftModes[i/4] = mode, mode, mode
	}
}

// readCoefficients reads the coefficients of a macroblock, and returns whether there are any.
func (d *vp8Decoder) readCoefficients(r *vp8Reader, c *vp8Column, whole bool) bool {
	clear(d.coeff[:])
	q := &d.quantizers[d.segment]
	probs, first := &d.probs[3], 0
	if whole {
		n := r.block(&d.probs[1], d.left.dc+c.dc, 0, &q.dc, &d.coeff[24])
		coded := uint8(0)
		if n > 0 {
			coded = 1
		}
		d.left.dc, c.dc = coded, coded
		d.spreadDC(n)
		probs, first = &d.probs[0], 1
	}
	kinds := uint8(0)
	above := c.vp8Coded.y
	for y := range 4 {
		left := d.left.y >> y & 1
		for x := range 4 {
			i := 4*y + x
			n := r.block(probs, left+above>>x&1, first, &q.y, &d.coeff[i])
			left = 0
			kind := uint8(vp8Zero)
			if n > first {
				left = 1
			}
			if n > 1 {
				kind = vp8Full
			} else if d.coeff[i][0] != 0 {
				kind = vp8OnlyDC
			}
			above = above&^(1<<x) | left<<x
			d.kinds[i] = kind
			kinds |= kind
		}
		d.left.y = d.left.y&^(1<<y) | left<<y
	}
	c.vp8Coded.y = above
	kinds |= d.readChroma(r, &d.left.u, &c.vp8Coded.u, 16, q)
	kinds |= d.readChroma(r, &d.left.v, &c.vp8Coded.v, 20, q)
	return kinds != 0
}

// readChroma reads the coefficients of a chroma component, the first of which is the block at.
func (d *vp8Decoder) readChroma(r *vp8Reader, left, above *uint8, at int, q *vp8Quantizer) (kinds uint8) {
	for y := range 2 {
		for x := range 2 {
			i := at + 2*y + x
			n := r.block(&d.probs[2], *left>>y&1+*above>>x&1, 0, &q.uv, &d.coeff[i])
			coded := uint8(0)
			kind := uint8(vp8Zero)
			if n > 0 {
				coded = 1
			}
			if n > 1 {
				kind = vp8Full
			} else if d.coeff[i][0] != 0 {
				kind = vp8OnlyDC
			}
			*left = *left&^(1<<y) | coded<<y
			*above = *above&^(1<<x) | coded<<x
			d.kinds[i] = kind
			kinds |= kind
		}
	}
	return kinds
}

// spreadDC transforms the DC coefficients of luma, of which the last n-1 positions aren't coded.
func (d *vp8Decoder) spreadDC(n int) {
	in := &d.coeff[24]
	if n <= 1 {
		dc := int16((int32(in[0]) + 3) >> 3)
		for i := range 16 {
			d.coeff[i][0] = dc
		}
		return
	}
	var m [16]int32
	for i := range 4 {
		a, b := int32(in[i])+int32(in[12+i]), int32(in[4+i])+int32(in[8+i])
		c, e := int32(in[4+i])-int32(in[8+i]), int32(in[i])-int32(in[12+i])
		m[i], m[4+i], m[8+i], m[12+i] = a+b, e+c, a-b, e-c
	}
	for i := range 4 {
		dc := m[4*i] + 3
		a, b := dc+m[4*i+3], m[4*i+1]+m[4*i+2]
		c, e := m[4*i+1]-m[4*i+2], dc-m[4*i+3]
		d.coeff[4*i][0], d.coeff[4*i+1][0] = int16((a+b)>>3), int16((e+c)>>3)
		d.coeff[4*i+2][0], d.coeff[4*i+3][0] = int16((a-b)>>3), int16((e-c)>>3)
	}
}

// vp8Work holds the samples of a macroblock and its neighbors, in rows of 32 bytes.
type vp8Work [26 * 32]uint8

// Positions of the planes in vp8Work.
const (
	vp8Y = 32 + 8
	vp8U = 18*32 + 8
	vp8V = 18*32 + 24
)

// beginRow sets the neighbors of the first macroblock of a row.
func (w *vp8Work) beginRow(row int) {
	for i := range 17 {
		w[vp8Y-33+32*i] = 129
	}
	for i := range 9 {
		w[vp8U-33+32*i], w[vp8V-33+32*i] = 129, 129
	}
	if row == 0 {
		for i := -1; i < 20; i++ {
			w[vp8Y-32+i] = 127
		}
		for i := -1; i < 8; i++ {
			w[vp8U-32+i], w[vp8V-32+i] = 127, 127
		}
	}
}

// shift makes the macroblock the left neighbor.
func (w *vp8Work) shift() {
	for i := range 17 {
		w[vp8Y-33+32*i] = w[vp8Y-33+16+32*i]
	}
	for i := range 9 {
		w[vp8U-33+32*i] = w[vp8U-33+8+32*i]
		w[vp8V-33+32*i] = w[vp8V-33+8+32*i]
	}
}

// predict predicts a square of a plane.
func (w *vp8Work) predict(at, size int, mode uint8, above, left bool) {
	top := w[at-32:][:size]
	switch mode {
	case vp8PredictDC:
		sum, shift := 0, 2
		if size == 16 {
			shift = 3
		}
		if above {
			for _, s := range top {
				sum += int(s)
			}
		}
		if left {
			for i := range size {
				sum += int(w[at-1+32*i])
			}
		}
		switch {
		case above && left:
			sum = (sum + size) >> (shift + 2)
		case above || left:
			sum = (sum + size/2) >> (shift + 1)
		default:
			sum = 128
		}
		v := uint64(sum) * 0x0101010101010101
		for i := range size {
			for j := 0; j < size; j += 8 {
				binary.LittleEndian.PutUint64(w[at+32*i+j:], v)
			}
		}
	case vp8PredictTM:
		corner := int(w[at-33])
		for i := range size {
			row := w[at+32*i-1:][:size+1]
			delta := int(row[0]) - corner
			row = row[1:]
			for j, s := range top {
				row[j] = vp8Clamp(int32(int(s) + delta))
			}
		}
	case vp8PredictVertical:
		for i := range size {
			copy(w[at+32*i:][:size], top)
		}
	case vp8PredictHorizontal:
		for i := range size {
			v := uint64(w[at+32*i-1]) * 0x0101010101010101
			for j := 0; j < size; j += 8 {
				binary.LittleEndian.PutUint64(w[at+32*i+j:], v)
			}
		}
	}
}

// predictBlocks predicts each block of luma from the previous ones, and adds the differences.
func (w *vp8Work) predictBlocks(modes *[16]uint8, kinds *[24]uint8, coeff *[25][16]int16) {
	for i, mode := range modes {
		at := vp8Y + i/4*128 + i%4*4
		w.predictBlock(at, mode)
		w.add(at, kinds[i], &coeff[i])
	}
}

const vp8LowBits = 0x7f7f7f7f7f7f7f7f

// vp8Average2 averages bytes, rounding up.
func vp8Average2(a, b uint64) uint64 { return (a | b) - (a^b)>>1&vp8LowBits }

// vp8Average3 returns (a+2b+c+2)/4 of bytes.
func vp8Average3(a, b, c uint64) uint64 { return vp8Average2(a&c+(a^c)>>1&vp8LowBits, b) }

// vp8Interleave interleaves the lower four bytes of a and b.
func vp8Interleave(a, b uint64) uint64 {
	spread := func(x uint64) uint64 {
		x = (x | x<<16) & 0x0000ffff0000ffff
		return (x | x<<8) & 0x00ff00ff00ff00ff
	}
	return spread(a&0xffffffff) | spread(b&0xffffffff)<<8
}

// predictBlock predicts a 4×4 block.
func (w *vp8Work) predictBlock(at int, mode uint8) {
	p := (*[133]uint8)(w[at-33:])
	top := binary.LittleEndian.Uint64(p[0:8])                                         // from the corner
	left := uint64(p[128]) | uint64(p[96])<<8 | uint64(p[64])<<16 | uint64(p[32])<<24 // from the bottom
	edge, edge1, edge2 := left|top<<32, left>>8|top<<24, left>>16|top<<16
	var r0, r1, r2, r3 uint64
	switch mode {
	case vp8PredictDC:
		sum := int(p[1]) + int(p[2]) + int(p[3]) + int(p[4]) + int(p[32]) + int(p[64]) + int(p[96]) + int(p[128])
		r0 = uint64((sum+4)>>3) * 0x01010101
		r1, r2, r3 = r0, r0, r0
	case vp8PredictTM:
		for i := range 4 {
			q := (*[5]uint8)(p[32+32*i:])
			delta := int32(q[0]) - int32(p[0])
			q[1], q[2] = vp8Clamp(int32(p[1])+delta), vp8Clamp(int32(p[2])+delta)
			q[3], q[4] = vp8Clamp(int32(p[3])+delta), vp8Clamp(int32(p[4])+delta)
		}
		return
	case vp8PredictVertical:
		r0 = vp8Average3(top, top>>8, top>>16)
		r1, r2, r3 = r0, r0, r0
	case vp8PredictHorizontal:
		down := left<<8 | left&0xff // the last sample is repeated
		three := vp8Average3(down, left, edge1)
		r3, r2, r1, r0 = three&0xff*0x01010101, three>>8&0xff*0x01010101, three>>16&0xff*0x01010101, three>>24&0xff*0x01010101
	case vp8PredictLeftDown:
		above := binary.LittleEndian.Uint64(p[1:9])
		r0 = vp8Average3(above, above>>8|above>>56<<56, above>>16|above>>56<<48)
		r1, r2, r3 = r0>>8, r0>>16, r0>>24
	case vp8PredictRightDown:
		r3 = vp8Average3(edge, edge1, edge2)
		r2, r1, r0 = r3>>8, r3>>16, r3>>24
	case vp8PredictVerticalRight:
		three := vp8Average3(edge1, edge2, left>>24|top<<8)
		r0, r1 = vp8Average2(top, top>>8), three>>16
		r2, r3 = r0<<8|three>>8&0xff, r1<<8|three&0xff
	case vp8PredictVerticalLeft:
		above := binary.LittleEndian.Uint64(p[1:9])
		r0, r1 = vp8Average2(above, above>>8), vp8Average3(above, above>>8, above>>16)
		r2, r3 = r0>>8&0xffffff|r1>>32<<24, r1>>8&0xffffff|r1>>40<<24
	case vp8PredictHorizontalDown:
		three := vp8Average3(edge, edge1, edge2)
		r3 = vp8Interleave(vp8Average2(edge, edge1), three)
		r2, r1, r0 = r3>>16, r3>>32, r3>>48|three>>32<<16
	case vp8PredictHorizontalUp:
		last := uint64(p[128])
		down := uint64(p[32]) | uint64(p[64])<<8 | uint64(p[96])<<16 | last*0x0101010101000000
		r0 = vp8Interleave(vp8Average2(down, down>>8), vp8Average3(down, down>>8, down>>16))
		r1, r2, r3 = r0>>16, r0>>32, last*0x01010101
	}
	binary.LittleEndian.PutUint32(p[33:37], uint32(r0))
	binary.LittleEndian.PutUint32(p[65:69], uint32(r1))
	binary.LittleEndian.PutUint32(p[97:101], uint32(r2))
	binary.LittleEndian.PutUint32(p[129:133], uint32(r3))
}

func vp8Clamp(v int32) uint8 { return uint8(min(max(v, 0), 255)) }

// add transforms the coefficients of a 4×4 block and adds the result.
func (w *vp8Work) add(at int, kind uint8, in *[16]int16) {
	switch kind {
	case vp8Zero:
		return
	case vp8OnlyDC:
		dc := (int32(in[0]) + 4) >> 3
		p := (*[100]uint8)(w[at:])
		for i := range 4 {
			q := (*[4]uint8)(p[32*i:])
			q[0], q[1] = vp8Clamp(int32(q[0])+dc), vp8Clamp(int32(q[1])+dc)
			q[2], q[3] = vp8Clamp(int32(q[2])+dc), vp8Clamp(int32(q[3])+dc)
		}
		return
	}
	a0, a1, a2, a3 := vp8Butterfly(int32(in[0]), int32(in[4]), int32(in[8]), int32(in[12]))
	b0, b1, b2, b3 := vp8Butterfly(int32(in[1]), int32(in[5]), int32(in[9]), int32(in[13]))
	c0, c1, c2, c3 := vp8Butterfly(int32(in[2]), int32(in[6]), int32(in[10]), int32(in[14]))
	d0, d1, d2, d3 := vp8Butterfly(int32(in[3]), int32(in[7]), int32(in[11]), int32(in[15]))
	p := (*[100]uint8)(w[at:])
	vp8AddRow((*[4]uint8)(p[0:]), a0, b0, c0, d0)
	vp8AddRow((*[4]uint8)(p[32:]), a1, b1, c1, d1)
	vp8AddRow((*[4]uint8)(p[64:]), a2, b2, c2, d2)
	vp8AddRow((*[4]uint8)(p[96:]), a3, b3, c3, d3)
}

// vp8Butterfly is the inverse DCT of four values.
func vp8Butterfly(s0, s1, s2, s3 int32) (r0, r1, r2, r3 int32) {
	const (
		cos = 85627 // √2·cos(π/8), with 16 fraction bits
		sin = 35468 // √2·sin(π/8)
	)
	a, b := s0+s2, s0-s2
	c, d := s1*sin>>16-s3*cos>>16, s1*cos>>16+s3*sin>>16
	return a + d, b + c, b - c, a - d
}

func vp8AddRow(q *[4]uint8, s0, s1, s2, s3 int32) {
	s0, s1, s2, s3 = vp8Butterfly(s0+4, s1, s2, s3)
	q[0], q[1] = vp8Clamp(int32(q[0])+s0>>3), vp8Clamp(int32(q[1])+s1>>3)
	q[2], q[3] = vp8Clamp(int32(q[2])+s2>>3), vp8Clamp(int32(q[3])+s3>>3)
}
