package imaging

import (
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"
	"io"
)

const pngSignature = "\x89PNG\r\n\x1a\n"

// pngHeader is what a PNG's chunks say before its data is inflated.
type pngHeader struct {
	width, height uint32
	depth, colour uint8
	interlaced    bool
	ihdr          []byte // the whole chunk
	palette       []byte
	data          []byte // from the first IDAT chunk on
	info          Info   // of openPNG
}

const (
	pngGrey      = 0
	pngRGB       = 2
	pngPalette   = 3
	pngGreyAlpha = 4
	pngRGBA      = 6
)

// readPNGHeader reads the chunk IHDR alone.
func readPNGHeader(data []byte) (hdr pngHeader, err error) {
	at := len(pngSignature)
	if len(data) < at+8+13+4 {
		return hdr, broken("PNG", "the data ends after %d bytes, within the header", len(data))
	}
	if string(data[at:at+8]) != "\x00\x00\x00\x0dIHDR" {
		return hdr, broken("PNG", "it does not begin with a header chunk")
	}
	hdr.ihdr = data[at : at+8+13+4]
	body := hdr.ihdr[8:]
	hdr.width, hdr.height = binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
	hdr.depth, hdr.colour, hdr.interlaced = body[8], body[9], body[12] != 0
	if crc32.ChecksumIEEE(hdr.ihdr[4:21]) != binary.BigEndian.Uint32(hdr.ihdr[21:]) {
		return hdr, broken("PNG", "its header has the wrong checksum")
	}
	valid := false
	switch hdr.colour {
	case pngGrey:
		valid = hdr.depth == 1 || hdr.depth == 2 || hdr.depth == 4 || hdr.depth == 8 || hdr.depth == 16
	case pngPalette:
		valid = hdr.depth == 1 || hdr.depth == 2 || hdr.depth == 4 || hdr.depth == 8
	case pngRGB, pngGreyAlpha, pngRGBA:
		valid = hdr.depth == 8 || hdr.depth == 16
	}
	if !valid {
		return hdr, broken("PNG", "colour type %d with %d bits a sample does not exist", hdr.colour, hdr.depth)
	}
	return hdr, nil
}

// pngChunk is a chunk of a PNG.
type pngChunk struct {
	head []byte // length and kind
	body []byte // what is there of it
	crc  []byte // nil if it is cut off
}

func (c *pngChunk) is(kind string) bool { return string(c.head[4:8]) == kind }

// nextPNGChunk cuts off the first chunk of data; false means that there is none.
func nextPNGChunk(data []byte) (c pngChunk, rest []byte, ok bool) {
	if len(data) < 8 {
		return c, nil, false
	}
	length := int64(binary.BigEndian.Uint32(data))
	c.head, data = data[:8], data[8:]
	if length+4 > int64(len(data)) {
		c.body = data[:min(length, int64(len(data)))]
		return c, nil, true
	}
	c.body, c.crc = data[:length], data[length:length+4]
	return c, data[length+4:], true
}

// readChunks finds the palette and the picture's data, and tells how many bytes of it there are. As
// Pillow, it checks the checksums of what comes before the data, leaves the data to zlib's own, and does
// not look beyond.
func (hdr *pngHeader) readChunks(data []byte) (dataBytes int64, err error) {
	rest := data[len(pngSignature)+len(hdr.ihdr):]
	for {
		c, next, ok := nextPNGChunk(rest)
		switch {
		case !ok, c.is("IEND"), dataBytes > 0 && !c.is("IDAT"):
			return dataBytes, nil
		case c.is("IDAT"): // if it is cut off, what is there may be enough
			if dataBytes == 0 {
				hdr.data = rest
			}
			dataBytes += int64(len(c.body))
		case c.crc == nil:
			return 0, broken("PNG", "the data ends after %d bytes, within a %q chunk", len(data), c.head[4:])
		case crc32.ChecksumIEEE(rest[4:8+len(c.body)]) != binary.BigEndian.Uint32(c.crc):
			return 0, broken("PNG", "its %q chunk has the wrong checksum", c.head[4:])
		case c.is("PLTE"):
			hdr.palette = c.body
		}
		rest = next
	}
}

// pngStream is the picture as image/png shall see it: only the chunks that matter, so that damage in
// the others, which Pillow does not look at, does no harm; without transparency, which is dropped
// anyway; with a palette of full length, since the indices are looked up here; and with checksums that
// are right.
type pngStream struct {
	parts [][]byte // to be read next
	data  []byte   // chunks to come
	ended bool
}

func (hdr *pngHeader) stream() *pngStream {
	s := &pngStream{parts: [][]byte{[]byte(pngSignature), hdr.ihdr}, data: hdr.data}
	if hdr.colour == pngPalette {
		s.chunk("PLTE", make([]byte, 3<<hdr.depth))
	}
	return s
}

func (s *pngStream) chunk(kind string, body []byte) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	head = append(head, kind...)
	crc := crc32.Update(crc32.ChecksumIEEE(head[4:]), crc32.IEEETable, body)
	s.parts = append(s.parts, head, body, binary.BigEndian.AppendUint32(nil, crc))
}

// Read implements io.Reader.
func (s *pngStream) Read(p []byte) (int, error) {
	for len(s.parts) > 0 && len(s.parts[0]) == 0 {
		s.parts = s.parts[1:]
	}
	if len(s.parts) == 0 {
		c, rest, ok := nextPNGChunk(s.data)
		s.parts, s.data = s.parts[:0], rest
		switch {
		case ok && c.is("IDAT"):
			s.chunk("IDAT", c.body)
		case s.ended:
			return 0, io.EOF
		default:
			s.data, s.ended = nil, true
			s.chunk("IEND", nil)
		}
	}
	n := copy(p, s.parts[0])
	s.parts[0] = s.parts[0][n:]
	return n, nil
}

// minData is the least that deflate can make of the picture's bytes: it never packs tighter than
// 1032 to 1. It keeps a few bytes that claim to be a huge picture from costing memory.
func (hdr *pngHeader) minData() int64 {
	samples := map[uint8]int64{pngGrey: 1, pngRGB: 3, pngPalette: 1, pngGreyAlpha: 2, pngRGBA: 4}[hdr.colour]
	row := (int64(hdr.width)*samples*int64(hdr.depth) + 7) / 8
	return row * int64(hdr.height) / 1032
}

// openPNG reads the header and refuses what cannot or shall not be decoded.
func openPNG(data []byte, maxPixels int) (pngHeader, error) {
	hdr, err := readPNGHeader(data)
	if hdr.ihdr != nil { // too large is too large, whatever else is wrong
		if err := admit("PNG", int64(hdr.width), int64(hdr.height), maxPixels); err != nil {
			return hdr, err
		}
	}
	if err != nil {
		return hdr, err
	}
	w, h := int(hdr.width), int(hdr.height)
	hdr.info = Info{formatPNG, w, h, memory(w, h, hdr.held())}
	return hdr, nil
}

// held is how many bytes image/png holds in proportion to the size: the picture and two rows; of an
// interlaced picture, the seven that it consists of as well.
func (hdr *pngHeader) held() int64 {
	pixel := int64(1)
	switch {
	case hdr.colour == pngGrey:
		pixel = int64(hdr.depth+7) / 8
	case hdr.colour != pngPalette:
		pixel = 4 * int64(hdr.depth) / 8
	}
	picture := pixel * int64(hdr.width) * int64(hdr.height)
	rows := 2 * (pixel*int64(hdr.width) + 1)
	if hdr.interlaced {
		return 2*picture + 4*rows
	}
	return picture + rows
}

func (d *Decoder) decodePNG(dst []uint8, hdr *pngHeader, data []byte) error {
	width, height := int(hdr.width), int(hdr.height)
	dataBytes, err := hdr.readChunks(data)
	if err != nil {
		return err
	}
	if dataBytes == 0 || dataBytes < hdr.minData() {
		return broken("PNG", "%d bytes of data cannot hold %d×%d pixels; it is cut off", dataBytes, width, height)
	}
	img, err := png.Decode(hdr.stream())
	if err != nil {
		return brokenBy("PNG", width, height, err)
	}

	d.res.begin(dst, width, height)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	split := func(pix []uint8, stride, step, green, blue int) {
		for y := range height {
			row := pix[y*stride:][:width*step]
			for x := range width {
				r[x], g[x], b[x] = row[x*step], row[x*step+green], row[x*step+blue]
			}
			d.res.row(y, r, g, b)
		}
	}
	switch img := img.(type) {
	case *image.Gray:
		for y := range height {
			row := img.Pix[y*img.Stride:][:width]
			d.res.row(y, row, row, row)
		}
	case *image.Gray16:
		// Pillow reads 16-bit grey into 32-bit integers, and its conversion to RGB clips them at 255
		// instead of scaling: only levels 0 to 255 of 65,535 survive, all else is white. So be it:
		// the model is trained on what Pillow makes.
		for y := range height {
			row := img.Pix[y*img.Stride:][:2*width]
			for x := range width {
				r[x] = row[2*x+1]
				if row[2*x] != 0 {
					r[x] = 255
				}
			}
			d.res.row(y, r, r, r)
		}
	case *image.Paletted:
		pal := makePalette(hdr.palette, 3, 0, 2)
		for y := range height {
			pal.row(r, g, b, img.Pix[y*img.Stride:][:width])
			d.res.row(y, r, g, b)
		}
	case *image.RGBA:
		split(img.Pix, img.Stride, 4, 1, 2)
	case *image.NRGBA:
		split(img.Pix, img.Stride, 4, 1, 2)
	case *image.RGBA64: // the high byte of each sample, as Pillow's RGB;16B
		split(img.Pix, img.Stride, 8, 2, 4)
	case *image.NRGBA64:
		split(img.Pix, img.Stride, 8, 2, 4)
	default:
		return broken("PNG", "unexpected colour model %T", img)
	}
	d.res.end()
	return nil
}
