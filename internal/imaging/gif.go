package imaging

import (
	"encoding/binary"
	"errors"
)

// GIF is decoded here because image/gif rejects files that Pillow reads (a frame larger than the screen, no
// palette, indices beyond the palette, unknown extensions, unusual code sizes), and because it holds a whole
// frame in memory where a row is enough.

// gifHeader holds everything before the pixels of the first frame.
type gifHeader struct {
	width, height           int // of the screen, extended to contain the frame
	left, top               int
	frameWidth, frameHeight int
	interlaced              bool
	colors                  []byte
	background              uint8
	codeSize                int
	data                    []byte
	info                    Info // set by openGIF
}

func readGIFHeader(data []byte) (hdr gifHeader, err error) {
	cut := func() (gifHeader, error) {
		return hdr, broken("GIF", "truncated after %d bytes, before the first frame", len(data))
	}
	if len(data) < 13 {
		return cut()
	}
	le := binary.LittleEndian
	hdr.width, hdr.height = int(le.Uint16(data[6:])), int(le.Uint16(data[8:]))
	at := 13
	if flags := data[10]; flags&0x80 != 0 {
		n := 3 * (2 << (flags & 7))
		if at+n > len(data) {
			return cut()
		}
		hdr.colors = data[at : at+n]
		at += n
	}

	for {
		if at >= len(data) {
			return cut()
		}
		kind := data[at]
		at++
		if kind == ';' {
			return hdr, broken("GIF", "no frame")
		}
		if kind == ',' {
			break
		}
		if kind != '!' {
			continue // like Pillow, skip unknown bytes
		}
		if at >= len(data) {
			return cut()
		}
		label := data[at]
		at++
		for first := true; ; first = false {
			if at >= len(data) {
				return cut()
			}
			n := int(data[at])
			at++
			if n == 0 {
				break
			}
			if at+n > len(data) {
				return cut()
			}
			if block := data[at : at+n]; first && label == 0xf9 && n >= 4 && block[0]&1 != 0 {
				hdr.background = block[3] // pixels outside of the frame have the transparent index
			}
			at += n
		}
	}
	if at+9 > len(data) {
		return cut()
	}
	hdr.left, hdr.top = int(le.Uint16(data[at:])), int(le.Uint16(data[at+2:]))
	hdr.frameWidth, hdr.frameHeight = int(le.Uint16(data[at+4:])), int(le.Uint16(data[at+6:]))
	flags := data[at+8]
	at += 9
	// As in Pillow, a frame that exceeds the screen extends it.
	hdr.width, hdr.height = max(hdr.width, hdr.left+hdr.frameWidth), max(hdr.height, hdr.top+hdr.frameHeight)
	hdr.interlaced = flags&0x40 != 0
	if flags&0x80 != 0 {
		n := 3 * (2 << (flags & 7))
		if at+n > len(data) {
			return cut()
		}
		hdr.colors = data[at : at+n]
		at += n
	}
	if at >= len(data) {
		return cut()
	}
	hdr.codeSize = int(data[at])
	hdr.data = data[at+1:]
	if hdr.codeSize > gifBits {
		return hdr, broken("GIF", "invalid code size of %d bits", hdr.codeSize)
	}
	return hdr, nil
}

// openGIF reads the header and rejects images that can't be decoded or are too large.
func openGIF(data []byte, maxPixels int) (gifHeader, error) {
	hdr, err := readGIFHeader(data)
	if err == nil || hdr.width > 0 && hdr.height > 0 { // ErrTooLarge takes precedence
		if err := admit("GIF", int64(hdr.width), int64(hdr.height), maxPixels); err != nil {
			return hdr, err
		}
	}
	held := int64(0)
	if hdr.interlaced {
		held = int64(hdr.frameWidth) * int64(hdr.frameHeight)
	}
	hdr.info = Info{Format: formatGIF, Width: hdr.width, Height: hdr.height, Memory: memory(hdr.width, held)}
	return hdr, err
}

// decodeGIF decodes the first frame.
func (d *Decoder) decodeGIF(dst []uint8, hdr *gifHeader) error {
	width, height := hdr.width, hdr.height
	frame := &d.lzw
	frame.begin(hdr.data, hdr.codeSize)
	defer frame.begin(nil, 0)

	pal := makePalette(hdr.colors, 3, 0, 2)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	index := d.rows.get(3, width)
	for x := range index {
		index[x] = hdr.background
	}
	d.res.begin(dst, width, height)
	var rows []uint8
	if hdr.interlaced {
		rows = make([]uint8, hdr.frameWidth*hdr.frameHeight)
		y, step, pass := 0, 8, 0
		for range hdr.frameHeight {
			if err := frame.read(rows[y*hdr.frameWidth:][:hdr.frameWidth]); err != nil {
				return brokenBy("GIF", width, height, err)
			}
			y += step
			for y >= hdr.frameHeight && pass < 3 {
				pass++
				y, step = 8>>pass, 16>>pass
			}
		}
	}
	pal.row(r, g, b, index)
	for y := range height {
		line := y - hdr.top
		if line >= 0 && line < hdr.frameHeight {
			inside := index[hdr.left : hdr.left+hdr.frameWidth]
			if hdr.interlaced {
				copy(inside, rows[line*hdr.frameWidth:])
			} else if err := frame.read(inside); err != nil {
				return brokenBy("GIF", width, height, err)
			}
			pal.row(r, g, b, index)
		} else if line == hdr.frameHeight {
			for x := range index {
				index[x] = hdr.background
			}
			pal.row(r, g, b, index)
		}
		d.res.row(y, r, g, b)
	}
	d.res.end()
	return nil
}

// Errors in the data of a frame.
var (
	errGIFShort = errors.New("the data ends before the last pixel")
	errGIFCode  = errors.New("invalid code")
)

// gifBits is the length in bits of the longest codes.
const gifBits = 12

// gifReader decodes the indices of a frame. It does what Pillow does (GifDecode.c), which accepts more than
// compress/lzw: minimum code sizes up to 12 bits, of which an index keeps the lowest 8, and one of 1 bit, with
// codes that never become longer than 2 bits.
type gifReader struct {
	data []byte
	left int // bytes left in the current block: a length byte, and up to 255 bytes
	bits uint32
	n    int // number of bits

	minimum uint // code size of the indices
	size    uint // current code size
	next    int  // next code to be defined
	last    int  // previous code, or -1 after a clear code
	first   uint8
	prefix  [1 << gifBits]uint16
	suffix  [1 << gifBits]uint8

	out [1<<gifBits + 1]uint8 // indices of the previous code, at the end
	at  int                   // offset of the first one that wasn't read yet
}

// begin prepares reading a frame.
func (z *gifReader) begin(data []byte, minimum int) {
	z.data, z.left, z.bits, z.n, z.at = data, 0, 0, 0, len(z.out)
	z.minimum = uint(minimum)
	z.clear()
}

func (z *gifReader) clear() { z.size, z.next, z.last = z.minimum+1, 1<<z.minimum+2, -1 }

// read fills p with the next indices.
func (z *gifReader) read(p []uint8) error {
	for len(p) > 0 {
		n := copy(p, z.out[z.at:])
		z.at += n
		if p = p[n:]; len(p) > 0 {
			if err := z.code(); err != nil {
				return err
			}
		}
	}
	return nil
}

// code reads the next code. All indices of the previous one must have been read.
func (z *gifReader) code() error {
	for z.n < int(z.size) {
		for z.left == 0 {
			if len(z.data) == 0 || z.data[0] == 0 {
				return errGIFShort
			}
			z.left, z.data = int(z.data[0]), z.data[1:]
		}
		if len(z.data) == 0 {
			return errGIFShort
		}
		z.bits |= uint32(z.data[0]) << z.n
		z.n += 8
		z.left, z.data = z.left-1, z.data[1:]
	}
	code := int(z.bits & (1<<z.size - 1))
	z.bits >>= z.size
	z.n -= int(z.size)

	end := 1<<z.minimum + 1
	c := code
	switch {
	case code == end-1:
		z.clear()
		return nil
	case code == end:
		return errGIFShort
	case z.last < 0:
		if code > end {
			return errGIFCode
		}
		z.put(uint8(code))
		z.first, z.last = uint8(code), code
		return nil
	case code > z.next:
		return errGIFCode
	case code == z.next: // the code that is defined below
		z.put(z.first)
		c = z.last
	}
	for c >= end {
		if c >= len(z.prefix) {
			return errGIFCode
		}
		z.put(z.suffix[c])
		c = int(z.prefix[c])
	}
	z.first = uint8(c)
	z.put(z.first)
	if z.next < len(z.prefix) {
		z.suffix[z.next], z.prefix[z.next] = z.first, uint16(z.last)
		if z.next == 1<<z.size-1 && z.size < gifBits {
			z.size++
		}
		z.next++
	}
	z.last = code
	return nil
}

// put inserts an index before those in out.
func (z *gifReader) put(index uint8) {
	z.at--
	z.out[z.at] = index
}
