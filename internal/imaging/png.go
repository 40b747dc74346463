package imaging

import (
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"
	"io"
)

const pngSignature = "\x89PNG\r\n\x1a\n"

// pngHeader holds the information in the chunks of a PNG.
type pngHeader struct {
	width, height uint32
	depth, color  uint8
	interlaced    bool
	ihdr          []byte // the whole chunk
	palette       []byte
	data          []byte // from the first IDAT chunk
	info          Info   // set by openPNG
}

// Color types.
const (
	pngGray      = 0
	pngRGB       = 2
	pngPalette   = 3
	pngGrayAlpha = 4
	pngRGBA      = 6
)

// readPNGHeader reads the IHDR chunk.
func readPNGHeader(data []byte) (hdr pngHeader, err error) {
	at := len(pngSignature)
	if len(data) < at+8+13+4 {
		return hdr, broken("PNG", "truncated after %d bytes, within the header", len(data))
	}
	if string(data[at:at+8]) != "\x00\x00\x00\x0dIHDR" {
		return hdr, broken("PNG", "the first chunk isn't IHDR")
	}
	hdr.ihdr = data[at : at+8+13+4]
	body := hdr.ihdr[8:]
	hdr.width, hdr.height = binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
	hdr.depth, hdr.color, hdr.interlaced = body[8], body[9], body[12] != 0
	if crc32.ChecksumIEEE(hdr.ihdr[4:21]) != binary.BigEndian.Uint32(hdr.ihdr[21:]) {
		return hdr, broken("PNG", "wrong checksum of the header")
	}
	valid := false
	switch hdr.color {
	case pngGray:
		valid = hdr.depth == 1 || hdr.depth == 2 || hdr.depth == 4 || hdr.depth == 8 || hdr.depth == 16
	case pngPalette:
		valid = hdr.depth == 1 || hdr.depth == 2 || hdr.depth == 4 || hdr.depth == 8
	case pngRGB, pngGrayAlpha, pngRGBA:
		valid = hdr.depth == 8 || hdr.depth == 16
	}
	if !valid {
		return hdr, broken("PNG", "invalid combination of color type %d and %d bits per sample", hdr.color, hdr.depth)
	}
	return hdr, nil
}

// pngChunk is a chunk of a PNG.
type pngChunk struct {
	head []byte // length and kind
	body []byte // shorter than announced if truncated
	crc  []byte // nil if truncated
}

func (c *pngChunk) is(kind string) bool { return string(c.head[4:8]) == kind }

// nextPNGChunk returns the first chunk of data and the rest. ok is false if there is no chunk.
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

// readChunks finds the palette and the image data, and returns the number of data bytes. Like Pillow, it
// checks the checksums of the chunks before the data, relies on zlib's checksum for the data, and ignores
// everything after it.
func (hdr *pngHeader) readChunks(data []byte) (dataBytes int64, err error) {
	rest := data[len(pngSignature)+len(hdr.ihdr):]
	for {
		c, next, ok := nextPNGChunk(rest)
		switch {
		case !ok, c.is("IEND"), dataBytes > 0 && !c.is("IDAT"):
			return dataBytes, nil
		case c.is("IDAT"): // even if truncated, it may be sufficient
			if dataBytes == 0 {
				hdr.data = rest
			}
			dataBytes += int64(len(c.body))
		case c.crc == nil:
			return 0, broken("PNG", "truncated after %d bytes, within a %q chunk", len(data), c.head[4:])
		case crc32.ChecksumIEEE(rest[4:8+len(c.body)]) != binary.BigEndian.Uint32(c.crc):
			return 0, broken("PNG", "wrong checksum of the %q chunk", c.head[4:])
		case c.is("PLTE"):
			hdr.palette = c.body
		}
		rest = next
	}
}

// pngStream is a PNG for image/png that has only the required chunks. Chunks that Pillow ignores are left
// out, so that they may be corrupt. Transparency is left out because it's dropped anyway. The palette has
// full length, because this package maps the indices itself. All checksums are correct.
type pngStream struct {
	parts [][]byte // parts of the current chunk to be read
	data  []byte   // remaining chunks
	ended bool
}

func (hdr *pngHeader) stream() *pngStream {
	s := &pngStream{parts: [][]byte{[]byte(pngSignature), hdr.ihdr}, data: hdr.data}
	if hdr.color == pngPalette {
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

// minData returns the smallest possible size of the compressed data: the ratio of deflate is at most 1032 to
// 1. Checking it prevents a few bytes that claim to be a huge image from using much memory.
func (hdr *pngHeader) minData() int64 {
	samples := map[uint8]int64{pngGray: 1, pngRGB: 3, pngPalette: 1, pngGrayAlpha: 2, pngRGBA: 4}[hdr.color]
	row := (int64(hdr.width)*samples*int64(hdr.depth) + 7) / 8
	return row * int64(hdr.height) / 1032
}

// openPNG reads the header and rejects images that can't be decoded or are too large.
func openPNG(data []byte, maxPixels int) (pngHeader, error) {
	hdr, err := readPNGHeader(data)
	if hdr.ihdr != nil { // the size was read: ErrTooLarge takes precedence
		if err := admit("PNG", int64(hdr.width), int64(hdr.height), maxPixels); err != nil {
			return hdr, err
		}
	}
	if err != nil {
		return hdr, err
	}
	w, h := int(hdr.width), int(hdr.height)
	hdr.info = Info{Format: formatPNG, Width: w, Height: h, Memory: memory(w, h, hdr.held())}
	return hdr, nil
}

// held returns the number of bytes that image/png holds for pixels: the image and two rows, and for an
// interlaced image also the seven reduced images.
func (hdr *pngHeader) held() int64 {
	pixel := int64(1)
	switch {
	case hdr.color == pngGray:
		pixel = int64(hdr.depth+7) / 8
	case hdr.color != pngPalette:
		pixel = 4 * int64(hdr.depth) / 8
	}
	pixels := pixel * int64(hdr.width) * int64(hdr.height)
	rows := 2 * (pixel*int64(hdr.width) + 1)
	if hdr.interlaced {
		return 2*pixels + 4*rows
	}
	return pixels + rows
}

func (d *Decoder) decodePNG(dst []uint8, hdr *pngHeader, data []byte) error {
	width, height := int(hdr.width), int(hdr.height)
	dataBytes, err := hdr.readChunks(data)
	if err != nil {
		return err
	}
	if dataBytes == 0 || dataBytes < hdr.minData() {
		return broken("PNG", "truncated: %d bytes of data can't hold %d×%d pixels", dataBytes, width, height)
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
		// Pillow reads 16-bit gray into 32-bit integers, and its conversion to RGB clips them at 255
		// instead of scaling: only levels 0 to 255 of 65,535 are kept, all others become white. This
		// is reproduced because the model is trained on Pillow's results.
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
	case *image.RGBA64: // the high byte of each sample, like RGB;16B in Pillow
		split(img.Pix, img.Stride, 8, 2, 4)
	case *image.NRGBA64:
		split(img.Pix, img.Stride, 8, 2, 4)
	default:
		return broken("PNG", "unexpected color model %T", img)
	}
	d.res.end()
	return nil
}
