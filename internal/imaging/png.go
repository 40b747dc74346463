package imaging

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zlib"
)

// PNG is decoded here because image/png holds the whole image where a row is enough, inflates a third slower than
// github.com/klauspost/compress, and rejects files that Pillow reads (corrupt chunks that it ignores, surplus data).

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

// pngData reads the data of the IDAT chunks.
type pngData struct {
	body []byte // rest of the current chunk
	rest []byte // following chunks
}

// Read implements io.Reader.
func (d *pngData) Read(p []byte) (int, error) {
	for len(d.body) == 0 {
		c, rest, ok := nextPNGChunk(d.rest)
		if !ok || !c.is("IDAT") {
			return 0, io.EOF
		}
		d.body, d.rest = c.body, rest
	}
	n := copy(p, d.body)
	d.body = d.body[n:]
	return n, nil
}

// pngReader inflates and unfilters rows. It reuses the buffers of previous images.
type pngReader struct {
	data   pngData
	buffer *bufio.Reader // the zlib reader is fastest with this type
	zlib   io.ReadCloser
	row    []byte // the current row, after its filter type
	above  []byte // the row above
}

// begin starts reading the data of an image.
func (r *pngReader) begin(chunks []byte) (err error) {
	r.data = pngData{rest: chunks}
	if r.buffer == nil {
		r.buffer = bufio.NewReader(nil)
	}
	r.buffer.Reset(&r.data)
	if r.zlib == nil {
		r.zlib, err = zlib.NewReader(r.buffer)
		return err
	}
	return r.zlib.(zlib.Resetter).Reset(r.buffer, nil)
}

// beginPass starts an image, or a pass of an interlaced image, with rows of the given number of bytes.
func (r *pngReader) beginPass(length int) {
	if cap(r.row) <= length {
		r.row, r.above = make([]byte, length+1), make([]byte, length+1)
	}
	r.row, r.above = r.row[:length+1], r.above[:length+1]
	clear(r.row) // the row above the first
}

var errPNGFilter = errors.New("invalid filter type")

// next returns the next row. pixel is the number of bytes per pixel, at least 1.
func (r *pngReader) next(pixel int) ([]byte, error) {
	r.row, r.above = r.above, r.row
	if _, err := io.ReadFull(r.zlib, r.row); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	row, above := r.row[1:], r.above[1:]
	switch r.row[0] {
	case 0:
	case 1: // left
		for i := pixel; i < len(row); i++ {
			row[i] += row[i-pixel]
		}
	case 2: // above
		for i, v := range above[:len(row)] {
			row[i] += v
		}
	case 3: // average
		for i := range min(pixel, len(row)) {
			row[i] += above[i] / 2
		}
		for i := pixel; i < len(row); i++ {
			row[i] += uint8((int(row[i-pixel]) + int(above[i])) / 2)
		}
	case 4:
		switch pixel {
		case 3:
			unfilterPaeth3(row, above)
		case 4:
			unfilterPaeth4(row, above)
		default:
			for i := range min(pixel, len(row)) {
				row[i] += above[i]
			}
			for i := pixel; i < len(row); i++ {
				row[i] += uint8(paeth(int(row[i-pixel]), int(above[i]), int(above[i-pixel])))
			}
		}
	default:
		return nil, errPNGFilter
	}
	return row, nil
}

// end verifies the checksum of the data. Surplus data are ignored.
func (r *pngReader) end() error {
	n, err := io.ReadFull(r.zlib, r.above[:1])
	if n == 0 && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// trim releases the data and large buffers.
func (r *pngReader) trim() {
	r.data = pngData{}
	if cap(r.row) > maxScratch {
		r.row, r.above = nil, nil
	}
}

// paeth returns which of left, above and corner is closest to left + above - corner; of equally close ones, the first.
// It does so without branches, which would be mispredicted.
func paeth(left, above, corner int) int {
	low, high := min(left, above), max(left, above)
	limit := 3*corner - left - above
	if high <= limit {
		corner = low
	}
	if limit <= low {
		corner = high
	}
	return corner
}

// unfilterPaeth3 computes three bytes at once: each depends on the result for the previous pixel.
func unfilterPaeth3(row, above []byte) {
	var a0, a1, a2, c0, c1, c2 int
	above = above[:len(row)]
	for len(row) >= 3 && len(above) >= 3 {
		b0, b1, b2 := int(above[0]), int(above[1]), int(above[2])
		a0 = (int(row[0]) + paeth(a0, b0, c0)) & 255
		a1 = (int(row[1]) + paeth(a1, b1, c1)) & 255
		a2 = (int(row[2]) + paeth(a2, b2, c2)) & 255
		row[0], row[1], row[2] = uint8(a0), uint8(a1), uint8(a2)
		c0, c1, c2 = b0, b1, b2
		row, above = row[3:], above[3:]
	}
}

// unfilterPaeth4 is like unfilterPaeth3 for four bytes.
func unfilterPaeth4(row, above []byte) {
	var a0, a1, a2, a3, c0, c1, c2, c3 int
	above = above[:len(row)]
	for len(row) >= 4 && len(above) >= 4 {
		b0, b1, b2, b3 := int(above[0]), int(above[1]), int(above[2]), int(above[3])
		a0 = (int(row[0]) + paeth(a0, b0, c0)) & 255
		a1 = (int(row[1]) + paeth(a1, b1, c1)) & 255
		a2 = (int(row[2]) + paeth(a2, b2, c2)) & 255
		a3 = (int(row[3]) + paeth(a3, b3, c3)) & 255
		row[0], row[1], row[2], row[3] = uint8(a0), uint8(a1), uint8(a2), uint8(a3)
		c0, c1, c2, c3 = b0, b1, b2, b3
		row, above = row[4:], above[4:]
	}
}

// minData returns the smallest possible size of the compressed data: the ratio of deflate is at most 1032 to
// 1. Checking it prevents a few bytes that claim to be a huge image from using much memory.
func (hdr *pngHeader) minData() int64 {
	return int64(hdr.rowBytes(int(hdr.width))) * int64(hdr.height) / 1032
}

// bits returns the number of bits per pixel.
func (hdr *pngHeader) bits() int {
	return int(hdr.depth) * [...]int{pngGray: 1, pngRGB: 3, pngPalette: 1, pngGrayAlpha: 2, pngRGBA: 4}[hdr.color]
}

// rowBytes returns the number of bytes in a row of the given width.
func (hdr *pngHeader) rowBytes(width int) int { return (width*hdr.bits() + 7) / 8 }

// planes returns the number of planes that unpack returns.
func (hdr *pngHeader) planes() int {
	if hdr.color == pngRGB || hdr.color == pngRGBA {
		return 3
	}
	return 1
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
	hdr.info = Info{Format: formatPNG, Width: w, Height: h, Memory: memory(w, hdr.held())}
	return hdr, nil
}

// held returns the number of bytes that decoding holds: two rows, the window and tables of the zlib reader, and an
// interlaced image.
func (hdr *pngHeader) held() int64 {
	held := 2*int64(hdr.rowBytes(int(hdr.width))+1) + 64<<10
	if hdr.interlaced {
		held += int64(hdr.planes()) * int64(hdr.width) * int64(hdr.height)
	}
	return held
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
	if err := d.png.begin(hdr.data); err != nil {
		return brokenBy("PNG", width, height, err)
	}
	d.res.begin(dst, width, height)
	if hdr.interlaced {
		err = d.interlacedPNG(hdr)
	} else {
		err = d.plainPNG(hdr)
	}
	if err == nil {
		err = d.png.end()
	}
	if err != nil {
		return brokenBy("PNG", width, height, err)
	}
	d.res.end()
	return nil
}

func (d *Decoder) plainPNG(hdr *pngHeader) error {
	width, height := int(hdr.width), int(hdr.height)
	var planes [3][]uint8
	for i := range hdr.planes() {
		planes[i] = d.rows.get(i, width)
	}
	show := d.pngRow(hdr)
	d.png.beginPass(hdr.rowBytes(width))
	for y := range height {
		row, err := d.png.next(max(hdr.bits()/8, 1))
		if err != nil {
			return err
		}
		hdr.unpack(&planes, row)
		show(y, &planes)
	}
	return nil
}

// interlacedPNG assembles the image from its seven passes.
func (d *Decoder) interlacedPNG(hdr *pngHeader) error {
	width, height := int(hdr.width), int(hdr.height)
	image := make([]uint8, hdr.planes()*width*height)
	var planes [3][]uint8
	for _, p := range [7]struct{ x, y, dx, dy int }{
		{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2},
	} {
		columns := (width - p.x + p.dx - 1) / p.dx
		if width <= p.x {
			continue // the pass has no rows either
		}
		for i := range hdr.planes() {
			planes[i] = d.rows.get(i, columns)
		}
		d.png.beginPass(hdr.rowBytes(columns))
		for y := p.y; y < height; y += p.dy {
			row, err := d.png.next(max(hdr.bits()/8, 1))
			if err != nil {
				return err
			}
			hdr.unpack(&planes, row)
			for i := range hdr.planes() {
				line := image[(i*height+y)*width:][:width]
				for x, v := range planes[i] {
					line[p.x+x*p.dx] = v
				}
			}
		}
	}
	show := d.pngRow(hdr)
	for y := range height {
		for i := range hdr.planes() {
			planes[i] = image[(i*height+y)*width:][:width]
		}
		show(y, &planes)
	}
	return nil
}

// pngRow returns a function that passes a row to the resampler.
func (d *Decoder) pngRow(hdr *pngHeader) func(y int, planes *[3][]uint8) {
	switch {
	case hdr.color == pngPalette:
		pal := makePalette(hdr.palette, 3, 0, 2)
		w := int(hdr.width)
		r, g, b := d.rows.get(3, w), d.rows.get(4, w), d.rows.get(5, w)
		return func(y int, planes *[3][]uint8) {
			pal.row(r, g, b, planes[0])
			d.res.row(y, r, g, b)
		}
	case hdr.planes() == 1:
		return func(y int, planes *[3][]uint8) { d.res.row(y, planes[0], planes[0], planes[0]) }
	}
	return func(y int, planes *[3][]uint8) { d.res.row(y, planes[0], planes[1], planes[2]) }
}

// unpack splits a row into planes of 8 bits: red, green and blue, or indices of the palette, or gray. Alpha is
// dropped. Of 16 bits, the upper 8 are kept, except for gray.
func (hdr *pngHeader) unpack(planes *[3][]uint8, row []byte) {
	first := planes[0]
	step := hdr.bits() / 8
	switch {
	case hdr.planes() == 3:
		g, b := planes[1][:len(first)], planes[2][:len(first)]
		green := int(hdr.depth) / 8
		blue := 2 * green
		row = row[:step*len(first)]
		for x := range first {
			p := row[x*step : x*step+step]
			first[x], g[x], b[x] = p[0], p[green], p[blue]
		}
	case hdr.color == pngGray && hdr.depth == 16:
		// Pillow reads 16-bit gray into 32-bit integers, and its conversion to RGB clips them at 255
		// instead of scaling: only levels 0 to 255 of 65,535 are kept, all others become white. This
		// is reproduced because the model is trained on Pillow's results.
		for x := range first {
			first[x] = row[2*x+1]
			if row[2*x] != 0 {
				first[x] = 255
			}
		}
	case step > 0:
		for x := range first {
			first[x] = row[x*step]
		}
	default:
		depth := int(hdr.depth)
		scale := uint8(1)
		if hdr.color == pngGray {
			scale = 255 / (1<<depth - 1)
		}
		for x := range first {
			first[x] = row[x*depth/8] >> (8 - depth - x*depth%8) & (1<<depth - 1) * scale
		}
	}
}
