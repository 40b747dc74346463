package imaging

import (
	"context"
	"encoding/binary"
	"math"
)

// hevcConfig contains the parameters of a coded image, from a property hvcC.
type hevcConfig struct {
	lengthSize    int // bytes of the length before each NAL unit
	coded         int // pixels, including those that are cropped
	width, height int // of the decoded image
	chroma        int // 0: gray, 1: 4:2:0, 2: 4:2:2, 3: 4:4:4
	bits          int // per sample
	colors        colorRange
}

// NAL units.
const (
	nalFirstParameters = 32 // the first of three kinds of parameter sets
	nalSPS             = 33
	nalLastParameters  = 34
)

// readHEVCConfig reads a property hvcC, which must have one sequence parameter set.
func readHEVCConfig(config []byte) (c hevcConfig, ok bool) {
	p := fields{data: config}
	p.skip(21)
	c.lengthSize = int(p.take(1)&3) + 1
	found := 0
	for arrays := p.take(1); arrays > 0; arrays-- {
		kind := p.take(1) & 63
		for n := p.take(2); n > 0 && !p.short; n-- {
			unit := p.skip(p.take(2))
			if len(unit) < 2 || uint64(unit[0]>>1&63) != kind || kind < nalFirstParameters {
				return c, false
			}
			if kind == nalSPS {
				found++
				if !c.readSPS(unit[2:]) {
					return c, false
				}
			}
		}
	}
	return c, found == 1 && !p.short
}

// syntaxReader reads the syntax elements of a NAL unit. After the end, it returns zeros and short is true.
type syntaxReader struct {
	data  []byte
	at    int // in bits
	short bool
}

func (b *syntaxReader) bits(n int) (v uint32) {
	for range n {
		v <<= 1
		if b.at>>3 >= len(b.data) {
			b.short = true
		} else {
			v |= uint32(b.data[b.at>>3]>>(7-b.at&7)) & 1
		}
		b.at++
	}
	return v
}

func (b *syntaxReader) flag() bool { return b.bits(1) == 1 }

// golomb reads an Exp-Golomb code. The result is at most limit, or short is true.
func (b *syntaxReader) golomb(limit uint32) uint32 {
	zeros := 0
	for !b.short && zeros < 32 && b.bits(1) == 0 {
		zeros++
	}
	v := uint64(1)<<zeros - 1 + uint64(b.bits(zeros))
	if v > uint64(limit) {
		b.short, b.at, v = true, math.MaxInt32, 0
	}
	return uint32(v)
}

// readSPS reads a sequence parameter set (ITU-T H.265, 7.3.2.2) without its first two bytes.
func (c *hevcConfig) readSPS(unit []byte) bool {
	raw := make([]byte, 0, len(unit))
	for i, v := range unit { // 00 00 03 stands for 00 00
		if v != 3 || i < 2 || unit[i-1] != 0 || unit[i-2] != 0 {
			raw = append(raw, v)
		}
	}
	b := syntaxReader{data: raw}
	b.bits(4)
	layers := int(b.bits(3))
	b.bits(1 + 96)
	var present [8][2]bool
	for i := range layers {
		present[i] = [2]bool{b.flag(), b.flag()}
	}
	if layers > 0 {
		b.bits(2 * (8 - layers))
	}
	for i := range layers {
		if present[i][0] {
			b.bits(88)
		}
		if present[i][1] {
			b.bits(8)
		}
	}
	b.golomb(15)
	c.chroma = int(b.golomb(3))
	separate := c.chroma == 3 && b.flag()
	width, height := int(b.golomb(1<<16)), int(b.golomb(1<<16))
	c.coded, c.width, c.height = width*height, width, height
	if b.flag() {
		across, down := 1, 1
		if c.chroma == 1 || c.chroma == 2 {
			across = 2
		}
		if c.chroma == 1 {
			down = 2
		}
		c.width -= across * int(b.golomb(1<<16)+b.golomb(1<<16))
		c.height -= down * int(b.golomb(1<<16)+b.golomb(1<<16))
	}
	c.bits = 8 + int(max(b.golomb(8), b.golomb(8)))
	pocBits := int(b.golomb(12)) + 4
	first := layers
	if b.flag() {
		first = 0
	}
	for range layers + 1 - first {
		b.golomb(math.MaxUint32 - 1)
		b.golomb(math.MaxUint32 - 1)
		b.golomb(math.MaxUint32 - 1)
	}
	for range 6 {
		b.golomb(math.MaxUint32 - 1) // sizes of blocks
	}
	if b.flag() { // scaling lists, and whether they aren't the default ones
		if b.flag() {
			skipScalingLists(&b)
		}
	}
	b.bits(2)
	if b.flag() { // PCM
		b.bits(8)
		b.golomb(math.MaxUint32 - 1)
		b.golomb(math.MaxUint32 - 1)
		b.bits(1)
	}
	skipReferenceSets(&b)
	if b.flag() {
		for range b.golomb(32) {
			b.bits(pocBits + 1)
		}
	}
	b.bits(2)
	if b.flag() {
		c.colors.readVUI(&b)
	}
	return !b.short && c.width > 0 && c.height > 0 && !separate
}

func skipScalingLists(b *syntaxReader) {
	for size := range 4 {
		step := 1
		if size == 3 {
			step = 3
		}
		for matrix := 0; matrix < 6; matrix += step {
			if !b.flag() {
				b.golomb(math.MaxUint32 - 1)
				continue
			}
			n := min(64, 1<<(4+2*size))
			if size > 1 {
				n++
			}
			for range n {
				b.golomb(math.MaxUint32 - 1)
			}
		}
	}
}

// skipReferenceSets skips the sets of reference images. A still image may have them.
func skipReferenceSets(b *syntaxReader) {
	previous := 0
	for i := range b.golomb(64) {
		if i > 0 && b.flag() {
			b.bits(1)
			b.golomb(math.MaxUint32 - 1)
			used := 0
			for range previous + 1 {
				if kept := b.flag(); kept {
					used++
				} else if b.flag() {
					used++
				}
			}
			previous = used
			continue
		}
		previous = int(b.golomb(16) + b.golomb(16))
		for range previous {
			b.golomb(math.MaxUint32 - 1)
			b.bits(1)
		}
	}
}

// colorRange determines how to convert YCbCr to RGB. The values are those of ITU-T H.273.
type colorRange struct {
	known  bool
	matrix int
	full   bool
}

// readVUI reads the start of a video usability information.
func (c *colorRange) readVUI(b *syntaxReader) {
	if b.flag() && b.bits(8) == 255 { // aspect ratio
		b.bits(32)
	}
	if b.flag() {
		b.bits(1) // overscan
	}
	if !b.flag() {
		return
	}
	b.bits(3)
	c.known, c.full, c.matrix = true, b.flag(), 2
	if b.flag() {
		b.bits(16)
		c.matrix = int(b.bits(8))
	}
}

// decodingWork limits how many pixels are decoded for an image, in relation to Decoder.MaxPixels. An image that
// stays within it can be coded in several parts, but not thousands of times.
const decodingWork = 2

// checkHEVC checks the coded images before they are decoded: each must have the size that its parameters say, and
// all together must not be far larger than the image. It returns the parameters of the first one.
func checkHEVC(items []heifItem, f *heifFile, maxPixels int) (c hevcConfig, err error) {
	work := int64(0)
	for i, item := range items {
		config, ok := readHEVCConfig(item.config)
		if !ok || !f.grid && (config.width != f.width || config.height != f.height) {
			return c, broken("HEIC", "invalid parameters of the image data")
		}
		if i == 0 {
			c = config
		}
		if config.chroma != c.chroma {
			return c, unsupported("HEIC", "tiles of several kinds")
		}
		p := fields{data: item.data}
		for len(p.data) > 0 {
			unit := p.skip(p.take(config.lengthSize))
			if len(unit) < 3 {
				return c, broken("HEIC", "truncated image data")
			}
			switch kind := unit[0] >> 1 & 63; {
			case kind < nalFirstParameters:
				work += int64(config.coded)
			case kind <= nalLastParameters:
				return c, unsupported("HEIC", "parameters within the image data")
			}
		}
	}
	if limit := pixelLimit(maxPixels); work > decodingWork*limit {
		return c, unsupported("HEIC", "image data for %d pixels, %d at most are decoded", work, decodingWork*limit)
	}
	return c, nil
}

// heicMemory returns the memory in bytes of libheif's instance: the file, and the decoded image three times,
// with 8 bits per sample or more.
func heicMemory(f *heifFile) int64 {
	sample := int64(1)
	if f.deep {
		sample = 2
	}
	pixels := int64(f.width+64) * int64(f.height+64)
	return (3<<20 + int64(len(f.data)) + 10*sample*pixels + 0xffff) &^ 0xffff
}

// Color spaces of libheif.
const (
	heifYCbCr = 0
	heifRGB   = 1
	heifGray  = 2
)

func (d *Decoder) decodeHEIC(ctx context.Context, dst []uint8, f *heifFile) error {
	items, err := f.parts("HEIC", "hvc1", "hvcC")
	if err != nil {
		return err
	}
	config, err := checkHEVC(items, f, d.MaxPixels)
	if err != nil {
		return err
	}
	if f.deep && config.chroma > 1 {
		return unsupported("HEIC", "more than 8 bits per sample and 4:2:2 or 4:4:4 chroma")
	}
	colors := config.colors
	f.properties(f.primary, func(kind, body []byte) {
		if string(kind) == "colr" && len(body) >= 11 && string(body[:4]) == "nclx" {
			colors = colorRange{true, int(binary.BigEndian.Uint16(body[8:])), body[10]>>7 == 1}
		}
	})

	run, err := libheif.start(ctx, heicMemory(f))
	if err != nil {
		return err
	}
	defer run.close()
	width, height := f.info.Width, f.info.Height
	fail := func(cause error) error { return brokenBy("HEIC", width, height, cause) }
	in, file, err := run.allocate(len(f.data))
	if err != nil {
		return fail(err)
	}
	copy(file, f.data)
	prepareHEIF(file, "heic", items)
	// Addresses of the width, the height, the color space, the subsampling, and whether alpha is premultiplied.
	header, _, err := run.allocate(5 * 4)
	if err != nil {
		return fail(err)
	}
	if _, err := run.call("decode", in, uint32(len(file)), 1, header, header+4, header+8, header+12, header+16, 0); err != nil {
		return fail(err)
	}
	memory := run.module.Memory()
	value := func(i uint32) int { v, _ := memory.ReadUint32Le(header + 4*i); return int(v) }
	if value(0) != width || value(1) != height {
		return broken("HEIC", "%d×%d pixels, but the header announces %d×%d", value(0), value(1), width, height)
	}
	space, chroma := value(2), value(3)
	stride := heifStride(width)
	chromaWidth, chromaHeight := 0, 0
	switch space {
	case heifRGB:
		stride = heifStride(4 * width)
	case heifYCbCr:
		chromaWidth, chromaHeight = width, height
		if chroma < 3 {
			chromaWidth = (width + 1) / 2
		}
		if chroma < 2 {
			chromaHeight = (height + 1) / 2
		}
	}
	chromaStride := heifStride(chromaWidth)
	size := stride*height + 2*chromaStride*chromaHeight
	out, _, err := run.allocate(size)
	if err != nil {
		return fail(err)
	}
	if _, err := run.call("decode", in, uint32(len(file)), 0, header, header+4, header+8, header+12, header+16, out); err != nil {
		return fail(err)
	}
	pixels, ok := memory.Read(out, uint32(size))
	if !ok {
		return fail(errNoMemory)
	}
	d.res.begin(dst, width, height)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	convert := newConversion(colors)
	for y := range height {
		row := pixels[y*stride:]
		switch space {
		case heifRGB:
			for x := range width {
				r[x], g[x], b[x] = row[4*x], row[4*x+1], row[4*x+2]
			}
		case heifGray:
			copy(r, row[:width])
			copy(g, row[:width])
			copy(b, row[:width])
		default:
			at := y
			if chromaHeight < height {
				at /= 2
			}
			cb := pixels[stride*height+at*chromaStride:][:chromaWidth]
			cr := pixels[stride*height+(chromaHeight+at)*chromaStride:][:chromaWidth]
			convert.row(r, g, b, row[:width], cb, cr, chroma < 3)
		}
		d.res.row(y, r, g, b)
	}
	d.res.end()
	return nil
}

// heifStride returns the distance in bytes of the rows of a plane of libheif.
func heifStride(width int) int {
	return (max(64, (width+1)&^1) + 15) &^ 15
}

// conversion converts YCbCr to RGB like libheif: with 8 fraction bits, and with the nearest chroma sample.
type conversion struct {
	full                            bool
	redCr, greenCb, greenCr, blueCb int
}

func newConversion(c colorRange) conversion {
	// Weights of red and blue in luma.
	kr, kb := 0.299, 0.114
	switch c.matrix {
	case 1:
		kr, kb = 0.2126, 0.0722
	case 4:
		kr, kb = 0.30, 0.11
	case 7:
		kr, kb = 0.212, 0.087
	case 9, 10:
		kr, kb = 0.2627, 0.0593
	}
	fix := func(v float64) int { return int(math.Round(256 * v)) }
	kg := 1 - kr - kb
	return conversion{
		full: c.full || !c.known, redCr: fix(2 * (1 - kr)), blueCb: fix(2 * (1 - kb)),
		greenCb: fix(-2 * kb * (1 - kb) / kg), greenCr: fix(-2 * kr * (1 - kr) / kg),
	}
}

func (c *conversion) row(r, g, b, luma, cb, cr []uint8, halved bool) {
	shift := 0
	if halved {
		shift = 1
	}
	for x, l := range luma {
		y, u, v := int(l), int(cb[x>>shift])-128, int(cr[x>>shift])-128
		if !c.full {
			y, u, v = clip8(((y-16)*298+128)>>8), u*255/224, v*255/224
		}
		r[x] = uint8(clip8(y + (c.redCr*v+128)>>8))
		g[x] = uint8(clip8(y + (c.greenCb*u+c.greenCr*v+128)>>8))
		b[x] = uint8(clip8(y + (c.blueCb*u+128)>>8))
	}
}

func clip8(v int) int { return min(max(v, 0), 255) }
