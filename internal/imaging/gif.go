package imaging

import (
	"compress/lzw"
	"encoding/binary"
	"errors"
	"io"
)

// The container is read here and not by image/gif, which refuses what Pillow reads (a frame larger
// than the screen, no palette, indices beyond the palette, unknown extensions), and which would hold
// a whole frame where a row is enough.

// decodeGIF decodes the first frame.
func (d *Decoder) decodeGIF(dst []uint8, data []byte) error {
	cut := func() error { return broken("GIF", "the data ends after %d bytes, before the first frame", len(data)) }
	if len(data) < 13 {
		return cut()
	}
	width, height := int(binary.LittleEndian.Uint16(data[6:])), int(binary.LittleEndian.Uint16(data[8:]))
	if width > 0 && height > 0 { // else the frame may still widen it
		if err := d.admit("GIF", int64(width), int64(height)); err != nil {
			return err
		}
	}
	at := 13
	var colours []byte
	if flags := data[10]; flags&0x80 != 0 {
		n := 3 * (2 << (flags & 7))
		if at+n > len(data) {
			return cut()
		}
		colours = data[at : at+n]
		at += n
	}

	background := uint8(0)
	for {
		if at >= len(data) {
			return cut()
		}
		kind := data[at]
		at++
		if kind == ';' {
			return broken("GIF", "it ends without any frame")
		}
		if kind == ',' {
			break
		}
		if kind != '!' {
			continue // Pillow skips what it does not know byte by byte
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
				background = block[3] // what the frame does not cover is transparent
			}
			at += n
		}
	}
	if at+9 > len(data) {
		return cut()
	}
	left, top := int(binary.LittleEndian.Uint16(data[at:])), int(binary.LittleEndian.Uint16(data[at+2:]))
	frameWidth, frameHeight := int(binary.LittleEndian.Uint16(data[at+4:])), int(binary.LittleEndian.Uint16(data[at+6:]))
	flags := data[at+8]
	at += 9
	// As in Pillow, a frame that is larger than the screen widens it.
	width, height = max(width, left+frameWidth), max(height, top+frameHeight)
	if err := d.admit("GIF", int64(width), int64(height)); err != nil {
		return err
	}
	if flags&0x80 != 0 {
		n := 3 * (2 << (flags & 7))
		if at+n > len(data) {
			return cut()
		}
		colours = data[at : at+n]
		at += n
	}
	if at >= len(data) {
		return cut()
	}
	codeSize := int(data[at])
	at++
	if codeSize < 1 || codeSize > 8 {
		return broken("GIF", "a code size of %d bits", codeSize)
	}
	frame := lzw.NewReader(&subBlocks{data: data[at:]}, lzw.LSB, codeSize)
	defer frame.Close()

	pal := makePalette(colours, 3, 0, 2)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	index := d.rows.get(3, width)
	for x := range index {
		index[x] = background
	}
	d.res.begin(dst, width, height)
	pal.row(r, g, b, index)
	for y := range height {
		if y < top || y >= top+frameHeight {
			d.res.row(y, r, g, b)
		}
	}
	interlaced := flags&0x40 != 0
	y, step, pass := 0, 1, 0
	if interlaced {
		step = 8
	}
	for range frameHeight {
		if _, err := io.ReadFull(frame, index[left:left+frameWidth]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return brokenBy("GIF", width, height, err)
		}
		pal.row(r, g, b, index)
		d.res.row(top+y, r, g, b)
		y += step
		for interlaced && y >= frameHeight && pass < 3 {
			pass++
			y, step = 8>>pass, 16>>pass
		}
	}
	d.res.end()
	return nil
}

// subBlocks reads a GIF's data: blocks of up to 255 bytes, each with its length before it, up to one
// of length zero.
type subBlocks struct {
	data []byte
	left int // in the present block
}

// ReadByte implements io.ByteReader, which keeps compress/lzw from adding a buffer.
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
