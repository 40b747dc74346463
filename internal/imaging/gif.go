package imaging

import (
	"compress/lzw"
	"encoding/binary"
	"errors"
	"io"
)

// GIF is decoded here because image/gif rejects files that Pillow reads (a frame larger than the screen, no
// palette, indices beyond the palette, unknown extensions), and because it holds a whole frame in memory
// where a row is enough.

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
	if hdr.codeSize < 1 || hdr.codeSize > 8 {
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
	hdr.info = Info{Format: formatGIF, Width: hdr.width, Height: hdr.height, Memory: memory(hdr.width, hdr.height, 0)}
	return hdr, err
}

// decodeGIF decodes the first frame.
func (d *Decoder) decodeGIF(dst []uint8, hdr *gifHeader) error {
	width, height := hdr.width, hdr.height
	frame := lzw.NewReader(&subBlocks{data: hdr.data}, lzw.LSB, hdr.codeSize)
	defer frame.Close()

	pal := makePalette(hdr.colors, 3, 0, 2)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	index := d.rows.get(3, width)
	for x := range index {
		index[x] = hdr.background
	}
	d.res.begin(dst, width, height)
	pal.row(r, g, b, index)
	for y := range height {
		if y < hdr.top || y >= hdr.top+hdr.frameHeight {
			d.res.row(y, r, g, b)
		}
	}
	y, step, pass := 0, 1, 0
	if hdr.interlaced {
		step = 8
	}
	for range hdr.frameHeight {
		if _, err := io.ReadFull(frame, index[hdr.left:hdr.left+hdr.frameWidth]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return brokenBy("GIF", width, height, err)
		}
		pal.row(r, g, b, index)
		d.res.row(hdr.top+y, r, g, b)
		y += step
		for hdr.interlaced && y >= hdr.frameHeight && pass < 3 {
			pass++
			y, step = 8>>pass, 16>>pass
		}
	}
	d.res.end()
	return nil
}

// subBlocks reads GIF data blocks: each consists of a length byte and up to 255 bytes, and a length of
// zero ends the data.
type subBlocks struct {
	data []byte
	left int // bytes left in the current block
}

// ReadByte implements io.ByteReader, so that compress/lzw doesn't add a buffer.
func (s *subBlocks) ReadByte() (byte, error) {
	if s.left == 0 {
		if len(s.data) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		s.left = int(s.data[0])
		if s.left == 0 {
			return 0, io.EOF
		}
		s.data = s.data[1:]
	}
	if len(s.data) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	b := s.data[0]
	s.data = s.data[1:]
	s.left--
	return b, nil
}

// Read implements io.Reader; compress/lzw only asks for single bytes.
func (s *subBlocks) Read(p []byte) (int, error) {
	for i := range p {
		b, err := s.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = b
	}
	return len(p), nil
}
