package imaging

import "encoding/binary"

// plane is one component of a JPEG at its own resolution.
type plane struct {
	pix           []uint8
	stride        int
	window        int  // rows that pix holds: row y is at index y % window
	width, height int  // without the padding to whole blocks
	hr, vr        int  // number of columns and rows of the image per sample
	size          int  // width and height of a block
	plain         bool // upsample by repetition, as libjpeg does at 1/8 of the size
}

// newPlane returns the plane of a component of an image of the given size, subsampled by hr and vr.
func newPlane(pix []uint8, stride, width, height, hr, vr int) plane {
	return plane{pix, stride, len(pix) / stride, (width + hr - 1) / hr, (height + vr - 1) / vr, hr, vr, 8, false}
}

func (p *plane) line(y int) []uint8 {
	y = min(max(y, 0), p.height-1) // libjpeg repeats the outermost rows
	return p.pix[y%p.window*p.stride:][:p.width]
}

// block returns the samples from the block in the given row and column of blocks.
func (p *plane) block(row, column int) []uint8 {
	return p.pix[p.rowOffset(row)+p.size*column:]
}

// rowOffset returns the offset in pix of a row of blocks.
func (p *plane) rowOffset(row int) int { return p.size * row % p.window * p.stride }

// row returns row y of the image at full width (or wider). If it must be computed, it's in the i-th buffer.
// The method and the rounding are those of jdsample.c in libjpeg-turbo 2.1: a triangle filter for the
// factors 2×1, 1×2 and 2×2, and repetition for all others and for planes of at most two columns.
func (p *plane) row(y int, buffers *rowBuffers, i int) []uint8 {
	if p.hr == 1 && p.vr == 1 {
		return p.line(y)
	}
	// The triangle filters process four samples at a time.
	out := buffers.get(i, (p.width+3)&^3*p.hr)
	cur := p.line(y / p.vr)
	next := cur // the closer of the rows above and below
	if p.vr == 2 {
		next = p.line(y/2 - 1 + y%2*2)
	}
	switch {
	case p.plain:
		p.repeat(out, cur)
	case p.hr == 2 && p.vr == 1 && p.width > 2:
		triangleAcross(out, cur)
	case p.hr == 1 && p.vr == 2:
		bias := 1 + y%2
		for x, s := range cur {
			out[x] = uint8((3*int(s) + int(next[x]) + bias) >> 2)
		}
	case p.hr == 2 && p.vr == 2 && p.width > 2:
		triangleBoth(out, cur, next)
	default:
		p.repeat(out, cur)
	}
	return out
}

// repeat writes each sample as often as the image has columns per sample.
func (p *plane) repeat(out, samples []uint8) {
	for x, s := range samples {
		for j := range p.hr {
			out[x*p.hr+j] = s
		}
	}
}

// The triangle filters below process four samples at a time, each in a 16-bit lane of a word. everyLane * v
// sets all lanes to v, and lowBytes masks the lower byte of each lane.
const (
	everyLane = 0x0001000100010001
	lowBytes  = 0x00ff * everyLane
)

// fourFrom returns the samples x to x+3 of a row in lanes. It repeats the last sample after the row's end.
func fourFrom(row []uint8, x int) uint64 {
	var four uint64
	if x+4 <= len(row) {
		four = uint64(binary.LittleEndian.Uint32(row[x:]))
	} else {
		for i := range 4 {
			four |= uint64(row[min(x+i, len(row)-1)]) << (8 * i)
		}
	}
	four = (four | four<<16) & 0x0000ffff0000ffff
	return (four | four<<8) & lowBytes
}

// widen upsamples four values to eight samples, each of three quarters of the closer value and one quarter
// of the farther one. The rounding alternates to avoid a bias. The lowest lanes of left and right hold the
// values before and after the four.
func widen(left, four, right, evenBias, oddBias uint64, shift int) uint64 {
	even := (3*four + (four<<16 | left) + evenBias*everyLane) >> shift & lowBytes
	odd := (3*four + (four>>16 | right<<48) + oddBias*everyLane) >> shift & lowBytes
	return even | odd<<8
}

// kernelRow is the shortest row for which the functions with AVX2 are used. They leave the first sample of a row and up to
// sixteen of the last ones.
const kernelRow = 32

// triangleAcross implements h2v1_fancy_upsample. It writes eight samples per four, rounding up.
func triangleAcross(out, in []uint8) {
	start := 0
	four := fourFrom(in, 0)
	left := four & 0xffff
	if avx2 && len(in) >= kernelRow {
		_ = out[2*len(in)-1]
		binary.LittleEndian.PutUint64(out, widen(left, four, uint64(in[4]), 1, 2, 2))
		start = triangleAcrossAVX2(&out[0], &in[0], len(in)) &^ 3
		four, left = fourFrom(in, start), uint64(in[start-1])
	}
	for x := start; x < len(in); x += 4 {
		right := four >> 48
		if x+4 < len(in) {
			right = fourFrom(in, x+4)
		}
		binary.LittleEndian.PutUint64(out[2*x:], widen(left, four, right, 1, 2, 2))
		left, four = four>>48, right
	}
}

// triangleBoth implements h2v2_fancy_upsample, the same filter in both directions.
func triangleBoth(out, cur, next []uint8) {
	start := 0
	four := 3*fourFrom(cur, 0) + fourFrom(next, 0)
	left := four & 0xffff
	if avx2 && len(cur) >= kernelRow {
		_, _ = out[2*len(cur)-1], next[len(cur)-1]
		binary.LittleEndian.PutUint64(out, widen(left, four, 3*uint64(cur[4])+uint64(next[4]), 8, 7, 4))
		start = triangleBothAVX2(&out[0], &cur[0], &next[0], len(cur)) &^ 3
		four, left = 3*fourFrom(cur, start)+fourFrom(next, start), 3*uint64(cur[start-1])+uint64(next[start-1])
	}
	for x := start; x < len(cur); x += 4 {
		right := four >> 48
		if x+4 < len(cur) {
			right = 3*fourFrom(cur, x+4) + fourFrom(next, x+4)
		}
		binary.LittleEndian.PutUint64(out[2*x:], widen(left, four, right, 8, 7, 4))
		left, four = four>>48, right
	}
}

// webpUpsample implements libwebp's fancy upsampling (upsampling.c) for one row of one component: the weights
// 9/16, 3/16, 3/16 and 1/16, rounded in two steps. near is the chroma row that covers the row, and far the
// closest other one. Both are the same at the top and bottom edge. It writes eight samples per four.
func webpUpsample(out, near, far []uint8) {
	start := 0
	n, f := fourFrom(near, 0), fourFrom(far, 0)
	left := (3*n + f) & 0xffff
	if avx2 && len(near) >= kernelRow {
		_, _ = out[2*len(near)-1], far[len(near)-1]
		start = webpUpsampleAVX2(&out[0], &near[0], &far[0], len(near)) &^ 3
		webpWiden(out, n, f, left, uint64(near[4]), uint64(far[4]))
		n, f, left = fourFrom(near, start), fourFrom(far, start), 3*uint64(near[start-1])+uint64(far[start-1])
	}
	for x := start; x < len(near); x += 4 {
		nextN, nextF := n>>48, f>>48 // repeats the last samples at the end
		if x+4 < len(near) {
			nextN, nextF = fourFrom(near, x+4), fourFrom(far, x+4)
		}
		left = webpWiden(out[2*x:], n, f, left, nextN, nextF)
		n, f = nextN, nextF
	}
}

// webpWiden upsamples four values n to eight samples, given the values f of the farther row, and those after the
// four. left is the weighted sum of the values before the four; webpWiden returns that of the last values.
func webpWiden(out []uint8, n, f, left, nextN, nextF uint64) (last uint64) {
	outer, inner := 3*n+f, n+3*f+8*everyLane
	even := inner + (outer<<16 | left)
	odd := inner + (outer>>16 | (3*nextN+nextF)<<48)
	even = (even>>3&(0x1ff*everyLane) + n) >> 1 & lowBytes
	odd = (odd>>3&(0x1ff*everyLane) + n) >> 1 & lowBytes
	binary.LittleEndian.PutUint64(out, even|odd<<8)
	return outer >> 48
}

// colorTables converts YCbCr to RGB. It holds the term that each level adds to a sum, which computes all three
// channels at once. Each channel has a lane of eleven bits for an integer, above the bits of its fraction. A
// negative value borrows from the lanes above, which is harmless: if no bit of outsideLanes is set, all three
// values are from 0 to 255, and otherwise adding biasLanes returns what was borrowed.
type colorTables struct{ luma, cb, cr [256]uint64 }

const (
	redLane   = 6
	blueLane  = 23
	greenLane = 50

	outsideLanes = 7 << 8 * (1<<redLane | 1<<blueLane | 1<<greenLane)
	biasLanes    = 512 * (1<<redLane | 1<<blueLane | 1<<greenLane)
)

// jpegColors equals ycc_rgb_convert in libjpeg: 16 fraction bits, and one rounding per channel. The terms of red
// and blue are rounded here. Green, to which both chroma values contribute, keeps its fraction.
var jpegColors = func() *colorTables {
	const (
		half      = 1 << 15
		crToRed   = 91881  // 1.40200
		cbToGreen = 22554  // 0.34414
		crToGreen = 46802  // 0.71414
		cbToBlue  = 116130 // 1.77200
	)
	c := new(colorTables)
	for i := range 256 {
		v := i - 128
		c.luma[i] = uint64(i) * (1<<redLane | 1<<blueLane | 1<<greenLane)
		c.cr[i] = uint64((crToRed*v+half)>>16)<<redLane + uint64(half-crToGreen*v)<<(greenLane-16)
		c.cb[i] = uint64((cbToBlue*v+half)>>16)<<blueLane + uint64(-cbToGreen*v)<<(greenLane-16)
	}
	return c
}()

// webpColors equals yuv.h in libwebp: studio range (16 to 235), and six fraction bits. The conversion in
// image/color assumes full range, which is wrong for WebP.
var webpColors = func() *colorTables {
	const red, green, blue = redLane - 6, greenLane - 6, blueLane - 6
	c := new(colorTables)
	for i := range 256 {
		y := i * 19077 >> 8
		c.luma[i] = uint64(y-14234)<<red + uint64(y+8708)<<green + uint64(y-17685)<<blue
		c.cr[i] = uint64(i*26149>>8)<<red - uint64(i*13320>>8)<<green
		c.cb[i] = uint64(i*33050>>8)<<blue - uint64(i*6419>>8)<<green
	}
	return c
}()

// clamped holds v, clamped to 0…255, at index 512+v.
var clamped = func() (t [2048]uint8) {
	for i := range t {
		t[i] = uint8(min(max(i-512, 0), 255))
	}
	return t
}()

// pixel converts a pixel.
func (c *colorTables) pixel(luma, cb, cr uint8) (r, g, b uint8) {
	sum := c.luma[luma] + c.cb[cb] + c.cr[cr] + biasLanes
	return clamped[sum>>redLane&2047], clamped[sum>>greenLane&2047], clamped[sum>>blueLane&2047]
}

// row converts a row into three planes.
func (c *colorTables) row(r, g, b, luma, cb, cr []uint8) {
	n := len(luma)
	r, g, b, cb, cr = r[:n], g[:n], b[:n], cb[:n], cr[:n]
	start := 0
	if avx2 && n >= 16 {
		start = n &^ 15
		convert := jpegColorsAVX2
		if c == webpColors {
			convert = webpColorsAVX2
		}
		convert(&r[0], &g[0], &b[0], &luma[0], &cb[0], &cr[0], start)
	}
	for x := start; x < n; x++ {
		r[x], g[x], b[x] = c.pixel(luma[x], cb[x], cr[x])
	}
}

// pixels is like row but writes interleaved pixels of three bytes.
func (c *colorTables) pixels(out, luma, cb, cr []uint8) {
	n := len(luma)
	cb, cr = cb[:n], cr[:n]
	for x, l := range luma {
		_ = out[2]
		out[0], out[1], out[2] = c.pixel(l, cb[x], cr[x])
		out = out[3:]
	}
}
