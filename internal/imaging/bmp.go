package imaging

import (
	"encoding/binary"
	"math"
)

// BMP is decoded here because golang.org/x/image/bmp rejects variants that Pillow reads: 16-bit, run-length
// encoded and OS/2 files, and files with a gap between header and pixels.

// Values of the header's compression field.
const (
	bmpRaw       = 0
	bmpRLE8      = 1
	bmpRLE4      = 2
	bmpBitfields = 3
)

type bmpHeader struct {
	width, height int64
	topDown       bool
	bits          int
	compression   uint32
	palette       []byte
	paletteSize   int                       // bytes per entry
	pixels        int64                     // offset of the pixels
	unpack        func(r, g, b, row []byte) // splits a row of 16, 24 or 32 bits per pixel
	info          Info                      // set by openBMP
}

func readBMPHeader(data []byte) (hdr bmpHeader, err error) {
	cut := func() (bmpHeader, error) {
		return hdr, broken("BMP", "truncated after %d bytes, within the header", len(data))
	}
	if len(data) < 18 {
		return cut()
	}
	le := binary.LittleEndian
	hdr.pixels = int64(le.Uint32(data[10:]))
	size := int64(le.Uint32(data[14:]))
	switch size {
	case 12, 40, 52, 56, 64, 108, 124:
	default:
		return hdr, unsupported("BMP", "a header of %d bytes", size)
	}
	at := 14 + size
	if at > int64(len(data)) {
		return cut()
	}
	h := data[14:at]
	var colors int64
	if size == 12 {
		hdr.width, hdr.height = int64(le.Uint16(h[4:])), int64(le.Uint16(h[6:]))
		hdr.bits = int(le.Uint16(h[10:]))
		hdr.paletteSize = 3
	} else {
		hdr.width, hdr.height = int64(int32(le.Uint32(h[4:]))), int64(int32(le.Uint32(h[8:])))
		if hdr.height < 0 {
			hdr.topDown, hdr.height = true, -hdr.height
		}
		hdr.bits = int(le.Uint16(h[14:]))
		hdr.compression = le.Uint32(h[16:])
		colors = int64(le.Uint32(h[32:]))
		hdr.paletteSize = 4
	}

	switch {
	case hdr.compression == bmpRaw && (hdr.bits == 1 || hdr.bits == 4 || hdr.bits == 8):
	case hdr.compression == bmpRLE8 && hdr.bits == 8:
	case hdr.compression == bmpRLE4 && hdr.bits == 4:
	case hdr.compression == bmpRaw && hdr.bits == 16:
		hdr.unpack = unpack555
	case hdr.compression == bmpRaw && hdr.bits == 24:
		hdr.unpack = unpackBGR
	case hdr.compression == bmpRaw && hdr.bits == 32:
		hdr.unpack = unpackBGRX
	case hdr.compression == bmpBitfields && (hdr.bits == 16 || hdr.bits == 24 || hdr.bits == 32):
		masks := h[min(40, size):]
		if len(masks) < 12 { // the masks follow the header
			if at+12 > int64(len(data)) {
				return cut()
			}
			masks = data[at : at+12]
			at += 12
		}
		hdr.unpack = unpackMasks(hdr.bits, le.Uint32(masks), le.Uint32(masks[4:]), le.Uint32(masks[8:]))
		if hdr.unpack == nil {
			return hdr, unsupported("BMP", "unusual bit masks; save it with 24 bits per pixel")
		}
	default:
		return hdr, unsupported("BMP", "%d bits per pixel and compression %d; save it with 24 bits per pixel, uncompressed",
			hdr.bits, hdr.compression)
	}

	if hdr.bits <= 8 {
		if colors == 0 {
			colors = 1 << hdr.bits
		}
		if colors > 1<<16 {
			return hdr, broken("BMP", "a palette of %d colors", colors)
		}
		end := min(at+colors*int64(hdr.paletteSize), int64(len(data)))
		hdr.palette = data[at:end]
		// Some writers store the offset of the palette instead of that of the pixels.
		if hdr.pixels == 14+size {
			hdr.pixels += 4 * colors
		}
		at = end
	}
	if hdr.pixels == 0 {
		hdr.pixels = at
	}
	return hdr, nil
}

// Unpack functions by byte order. X is padding or alpha.
var (
	unpackBGR  = unpackBytes(3, 2, 1, 0)
	unpackBGRX = unpackBytes(4, 2, 1, 0)
	unpackXBGR = unpackBytes(4, 3, 2, 1)
	unpackRGBX = unpackBytes(4, 0, 1, 2)
)

func unpackBytes(step, red, green, blue int) func(r, g, b, row []byte) {
	return func(r, g, b, row []byte) {
		for x := range r {
			p := row[x*step : x*step+step]
			r[x], g[x], b[x] = p[red], p[green], p[blue]
		}
	}
}

func unpack555(r, g, b, row []byte) {
	for x := range r {
		v := int(row[2*x]) | int(row[2*x+1])<<8
		r[x], g[x], b[x] = uint8(v>>10&31*255/31), uint8(v>>5&31*255/31), uint8(v&31*255/31)
	}
}

func unpack565(r, g, b, row []byte) {
	for x := range r {
		v := int(row[2*x]) | int(row[2*x+1])<<8
		r[x], g[x], b[x] = uint8(v>>11&31*255/31), uint8(v>>5&63*255/63), uint8(v&31*255/31)
	}
}

// unpackMasks returns the unpack function for the given bit masks, or nil if Pillow doesn't support them.
func unpackMasks(bits int, red, green, blue uint32) func(r, g, b, row []byte) {
	switch [4]uint32{uint32(bits), red, green, blue} {
	case [4]uint32{16, 0xf800, 0x7e0, 0x1f}:
		return unpack565
	case [4]uint32{16, 0x7c00, 0x3e0, 0x1f}:
		return unpack555
	case [4]uint32{24, 0xff0000, 0xff00, 0xff}:
		return unpackBGR
	case [4]uint32{32, 0xff0000, 0xff00, 0xff}, [4]uint32{32, 0, 0, 0}:
		return unpackBGRX
	case [4]uint32{32, 0xff000000, 0xff0000, 0xff00}:
		return unpackXBGR
	case [4]uint32{32, 0xff, 0xff00, 0xff0000}:
		return unpackRGBX
	}
	return nil
}

// openBMP reads the header and rejects images that can't be decoded or are too large.
func openBMP(data []byte, maxPixels int) (bmpHeader, error) {
	hdr, err := readBMPHeader(data)
	if hdr.paletteSize > 0 { // the size was read: ErrTooLarge takes precedence
		if err := admit("BMP", hdr.width, hdr.height, maxPixels); err != nil {
			return hdr, err
		}
	}
	if err != nil {
		return hdr, err
	}
	if hdr.pixels > int64(len(data)) {
		return hdr, broken("BMP", "pixel offset %d, but the data has only %d bytes", hdr.pixels, len(data))
	}
	w, h := int(hdr.width), int(hdr.height)
	hdr.info = Info{Format: formatBMP, Width: w, Height: h, Memory: memory(w, 0)}
	return hdr, nil
}

func (d *Decoder) decodeBMP(dst []uint8, hdr *bmpHeader, data []byte) error {
	data = data[hdr.pixels:]
	w, h := int(hdr.width), int(hdr.height)
	runLength := hdr.compression == bmpRLE8 || hdr.compression == bmpRLE4
	used := (w*hdr.bits + 7) / 8
	stride := (w*hdr.bits + 31) / 32 * 4
	// The last row's padding may be missing.
	if need := stride*(h-1) + used; !runLength && need > len(data) {
		return broken("BMP", "truncated: %d×%d pixels need %d bytes, got %d", w, h, need, len(data))
	}
	line := func(y int) int {
		if hdr.topDown {
			return y
		}
		return h - 1 - y
	}
	r, g, b := d.rows.get(0, w), d.rows.get(1, w), d.rows.get(2, w)
	d.res.upward = !hdr.topDown
	d.res.begin(dst, w, h)

	var pal *palette
	if hdr.bits <= 8 {
		pal = makePalette(hdr.palette, hdr.paletteSize, 2, 0)
	}
	if runLength {
		runs := bmpRuns{data: data, width: w, four: hdr.compression == bmpRLE4}
		index := d.rows.get(3, w)
		for y := range h {
			if !runs.row(index) {
				return broken("BMP", "truncated: the data ends in row %d of %d", y, h)
			}
			pal.row(r, g, b, index)
			d.res.row(line(y), r, g, b)
		}
		d.res.end()
		return nil
	}

	index := d.rows.get(3, w)
	for y := range h {
		row := data[y*stride:][:used]
		switch hdr.bits {
		case 1:
			for x := range w {
				index[x] = row[x>>3] >> (7 - x&7) & 1
			}
			pal.row(r, g, b, index)
		case 4:
			for x := range w {
				index[x] = row[x>>1] >> (4 - x&1*4) & 15
			}
			pal.row(r, g, b, index)
		case 8:
			pal.row(r, g, b, row)
		default:
			hdr.unpack(r, g, b, row)
		}
		d.res.row(line(y), r, g, b)
	}
	d.res.end()
	return nil
}

// bmpRuns decodes run-length encoded rows.
type bmpRuns struct {
	data  []byte
	width int
	four  bool // RLE4: two indices per byte

	at      int // offset of the next byte in data
	pending pendingRun
	blank   int // pixels of index 0 before the pending run, skipped by an end of row or a jump
}

type pendingRun struct {
	n       int  // remaining pixels
	literal bool // the pixels are in the data; otherwise, value is repeated
	value   byte
	odd     bool // RLE4: the next pixel is the low half of a byte
}

// row fills index with the next row. It returns false if the data ends before.
func (s *bmpRuns) row(index []uint8) bool {
	for x := 0; x < s.width; {
		switch {
		case s.blank > 0:
			index[x] = 0
			s.blank--
			x++
		case s.pending.n > 0:
			v, ok := s.next()
			if !ok {
				return false
			}
			index[x] = v
			x++
		case !s.code(x):
			return false
		}
	}
	return true
}

// next returns the next pixel of the pending run. It returns false if the data ends before.
func (s *bmpRuns) next() (uint8, bool) {
	p := &s.pending
	v := p.value
	if p.literal {
		if s.at >= len(s.data) {
			return 0, false
		}
		v = s.data[s.at]
	}
	p.n--
	if s.four {
		if p.odd {
			v &= 15
		} else {
			v >>= 4
		}
		p.odd = !p.odd
	}
	if p.literal && (!s.four || !p.odd || p.n == 0) {
		s.at++
	}
	if p.literal && p.n == 0 {
		s.at += s.at & 1 // literals are padded to words
	}
	return v, true
}

// code reads the next code after x pixels of the row. It returns false at the end of the data.
func (s *bmpRuns) code(x int) bool {
	if s.at+2 > len(s.data) {
		return false
	}
	n, v := int(s.data[s.at]), s.data[s.at+1]
	s.at += 2
	switch {
	case n > 0:
		s.pending = pendingRun{n: min(n, s.width-x), value: v}
	case v == 0:
		if x > 0 {
			s.blank = s.width - x
		}
	case v == 1: // the end of the image, also if rows are missing
		s.blank = math.MaxInt
	case v == 2:
		if s.at+2 > len(s.data) {
			return false
		}
		s.blank = int(s.data[s.at]) + int(s.data[s.at+1])*s.width
		s.at += 2
	default:
		s.pending = pendingRun{n: int(v), literal: true}
	}
	return true
}
