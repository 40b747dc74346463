package imaging

import (
	"encoding/binary"
	"slices"
)

// jpegHeader holds everything before the first scan of a JPEG.
type jpegHeader struct {
	width, height int
	components    int
	ids           [4]uint8
	h, v          [4]int   // sampling factors
	hmax, vmax    int      // the largest of them
	quant         [4]uint8 // numbers of the quantization tables
	progressive   bool
	jfif          bool // there is a JFIF marker
	adobe         int  // color transform of the Adobe marker, or -1 without one
	scan          int  // offset of the first scan's marker
	streamed      bool // the samples are complete from top to bottom
	// size is the width and height in samples of a component's blocks after decoding, and full that of components with
	// the largest sampling factors: 8, or less for a reduced image. See reduce.
	size [4]int
	full int
	info Info // set by openJPEG
}

// JPEG markers (T.81, table B.1).
const (
	markerTEM   = 0x01 // no data
	markerSOF0  = 0xc0 // frame header, baseline
	markerSOF1  = 0xc1 // frame header, extended sequential
	markerSOF2  = 0xc2 // frame header, progressive
	markerDHT   = 0xc4 // Huffman tables
	markerRST0  = 0xd0 // the first of eight restart markers
	markerEOI   = 0xd9 // end of the image
	markerSOS   = 0xda // header of a scan
	markerDQT   = 0xdb // quantization tables
	markerDNL   = 0xdc // number of lines, after the first scan
	markerDRI   = 0xdd // restart interval
	markerAPP0  = 0xe0 // the first of sixteen application markers: JFIF
	markerAPP14 = 0xee // Adobe
	markerCOM   = 0xfe // comment
)

// jpegSegment is a marker and its data.
type jpegSegment struct {
	marker     uint8 // 0: no more segments
	start, end int   // offsets of the marker and of the end of the segment
	body       []byte
}

// nextJPEGSegment returns the first segment at or after an offset. Like other decoders, it tolerates junk
// between segments, fill bytes before a marker, and surplus restart markers.
func nextJPEGSegment(data []byte, at int) (s jpegSegment, err error) {
	for {
		for at < len(data) && data[at] != 0xff {
			at++
		}
		s.start = at
		for at < len(data) && data[at] == 0xff {
			at++
		}
		if at >= len(data) {
			return jpegSegment{}, nil
		}
		s.marker = data[at]
		at++
		if s.marker == 0 || s.marker == markerTEM || s.marker >= markerRST0 && s.marker < markerRST0+8 {
			continue
		}
		break
	}
	s.end = at
	if s.marker == markerEOI {
		return s, nil
	}
	if at+2 > len(data) {
		return jpegSegment{}, nil
	}
	length := int(binary.BigEndian.Uint16(data[at:]))
	switch m := s.marker; {
	case length < 2:
		return s, broken("JPEG", "invalid segment length %d at byte %d", length, s.start)
	case m < markerSOF0:
		return s, broken("JPEG", "unknown marker %#02x at byte %d", m, s.start)
	case m == 0xcc:
		return s, unsupported("JPEG", "arithmetic coding; save it as a baseline or progressive JPEG")
	case m > markerDRI && m < markerAPP0:
		return s, unsupported("JPEG", "hierarchical coding; save it as a baseline or progressive JPEG")
	case m == 0xf7:
		return s, unsupported("JPEG", "lossless compression (JPEG-LS); save it as a baseline JPEG or a PNG")
	case m == 0xc8, m == 0xd8, m > 0xef && m != markerCOM: // reserved, nested image, reserved
		return s, unsupported("JPEG", "marker %#02x at byte %d; save it as a baseline JPEG", m, s.start)
	case at+length > len(data):
		return s, broken("JPEG", "truncated: the segment at byte %d exceeds the data", s.start)
	}
	s.end = at + length
	s.body = data[at+2 : s.end]
	return s, nil
}

// readJPEGHeader reads the segments before the first scan.
func readJPEGHeader(data []byte) (hdr jpegHeader, err error) {
	hdr.adobe = -1
	for at := 2; ; {
		s, err := nextJPEGSegment(data, at)
		if err != nil {
			return hdr, err
		}
		at = s.end
		switch m := s.marker; {
		case m == 0:
			return hdr, broken("JPEG", "truncated after %d bytes, before the first scan", len(data))
		case m == markerEOI:
			return hdr, broken("JPEG", "no image data before the end marker")
		case m == markerSOS:
			if hdr.components == 0 {
				return hdr, broken("JPEG", "scan before the frame header")
			}
			hdr.scan = s.start
			hdr.streamed = hdr.progressive || len(s.body) > 0 && int(s.body[0]) == hdr.components
			if hdr.height == 0 { // it follows the first scan
				if s, err := nextJPEGSegment(data, s.end); err == nil && s.marker == markerDNL && len(s.body) == 2 {
					hdr.height = int(binary.BigEndian.Uint16(s.body))
				}
			}
			return hdr, nil
		case m == markerAPP0:
			hdr.jfif = hdr.jfif || len(s.body) >= 14 && string(s.body[:5]) == "JFIF\x00" // others are JFXX
		case m == markerAPP14:
			if len(s.body) >= 12 && string(s.body[:5]) == "Adobe" {
				hdr.adobe = int(s.body[11])
			}
		case m >= markerSOF0 && m <= 0xcf && m != markerDHT:
			if hdr.components != 0 {
				return hdr, broken("JPEG", "more than one frame header")
			}
			if err := hdr.frame(m, s.body); err != nil {
				return hdr, err
			}
		}
	}
}

// frame reads the frame header.
func (hdr *jpegHeader) frame(marker uint8, body []byte) error {
	switch {
	case marker == 0xc3:
		return unsupported("JPEG", "lossless compression; save it as a baseline JPEG or a PNG")
	case marker > 0xc8:
		return unsupported("JPEG", "arithmetic coding; save it as a baseline or progressive JPEG")
	case marker > markerSOF2:
		return unsupported("JPEG", "hierarchical coding; save it as a baseline or progressive JPEG")
	}
	hdr.progressive = marker == markerSOF2
	if len(body) < 6 || len(body) != 6+3*int(body[5]) {
		return broken("JPEG", "wrong length of the frame header")
	}
	if body[0] != 8 {
		return unsupported("JPEG", "%d bits per sample; save it with 8", body[0])
	}
	hdr.height = int(binary.BigEndian.Uint16(body[1:]))
	hdr.width = int(binary.BigEndian.Uint16(body[3:]))
	hdr.components = int(body[5])
	if n := hdr.components; n != 1 && n != 3 && n != 4 {
		hdr.components = 0
		return unsupported("JPEG", "%d color components; save it with 1 (gray) or 3", n)
	}
	for i := range hdr.components {
		c := body[6+3*i:]
		hdr.ids[i], hdr.h[i], hdr.v[i], hdr.quant[i] = c[0], int(c[1]>>4), int(c[1]&15), c[2]
		if c[2] > 3 {
			return broken("JPEG", "invalid component %d in the frame header", i)
		}
		if hdr.h[i] < 1 || hdr.h[i] > 4 || hdr.v[i] < 1 || hdr.v[i] > 4 {
			return broken("JPEG", "invalid sampling factors %d×%d of component %d", hdr.h[i], hdr.v[i], i)
		}
	}
	hdr.hmax, hdr.vmax = slices.Max(hdr.h[:]), slices.Max(hdr.v[:])
	for i := range hdr.components {
		if hdr.hmax%hdr.h[i] != 0 || hdr.vmax%hdr.v[i] != 0 { // libjpeg also rejects these
			return unsupported("JPEG", "subsampling by a fraction (%d:%d across, %d:%d down); save it with 4:2:0 or 4:4:4",
				hdr.hmax, hdr.h[i], hdr.vmax, hdr.v[i])
		}
	}
	return nil
}

// units returns the number of coding units (MCUs) across and down in scans of several components. A unit
// has h·v blocks of each component.
func (hdr *jpegHeader) units() (wide, high int) {
	w, h := 8*hdr.hmax, 8*hdr.vmax
	return (hdr.width + w - 1) / w, (hdr.height + h - 1) / h
}

// ycc reports whether the first three components are YCbCr, by the rules of default_decompress_parms in
// libjpeg.
func (hdr *jpegHeader) ycc() bool {
	switch {
	case hdr.components == 4:
		return hdr.adobe > 0
	case hdr.jfif:
		return true
	case hdr.adobe >= 0:
		return hdr.adobe != 0
	}
	return string(hdr.ids[:3]) != "RGB"
}

// reduce sets the size at which the image is decoded: that of the header divided by 1, 2, 4 or 8, and rounded up. As in
// libjpeg (jpeg_calc_output_dimensions), the blocks of subsampled components are reduced less.
func (hdr *jpegHeader) reduce(divisor int) {
	hdr.full = 8 / divisor
	for i := range hdr.components {
		hdr.size[i] = hdr.full
		for n := 2 * hdr.full; n <= 8 && hdr.hmax*hdr.full%(hdr.h[i]*n) == 0 && hdr.vmax*hdr.full%(hdr.v[i]*n) == 0; n *= 2 {
			hdr.size[i] = n
		}
	}
}

// reduced returns the size in pixels at which the image is decoded.
func (hdr *jpegHeader) reduced() (width, height int) {
	return (hdr.width*hdr.full + 7) / 8, (hdr.height*hdr.full + 7) / 8
}

// minBytes returns the smallest possible size of the scans: each block has at least one bit for its DC
// coefficient and, unless progressive, one for the end of its AC coefficients. Checking it prevents a few
// bytes that claim to be a huge image from using much memory.
func (hdr *jpegHeader) minBytes() int {
	blocks := 0
	for i := range hdr.components {
		w := (hdr.width*hdr.h[i] + hdr.hmax - 1) / hdr.hmax
		h := (hdr.height*hdr.v[i] + hdr.vmax - 1) / hdr.vmax
		blocks += ((w + 7) / 8) * ((h + 7) / 8)
	}
	if hdr.progressive {
		return blocks / 8
	}
	return blocks / 4
}

// corrupt returns an error for data after the header that can't be decoded.
func (hdr *jpegHeader) corrupt(cause error) error {
	return brokenBy("JPEG", hdr.width, hdr.height, cause)
}

// openJPEG reads the header and rejects images that can't be decoded or are too large.
func openJPEG(data []byte, maxPixels int) (jpegHeader, error) {
	hdr, err := readJPEGHeader(data)
	if hdr.components > 0 { // the size was read: ErrTooLarge takes precedence
		if err := admit("JPEG", int64(hdr.width), int64(hdr.height), maxPixels); err != nil {
			return hdr, err
		}
	}
	if err != nil {
		return hdr, err
	}
	if len(data)-hdr.scan < hdr.minBytes() {
		return hdr, broken("JPEG", "truncated: %d bytes can't hold %d×%d pixels", len(data), hdr.width, hdr.height)
	}
	hdr.reduce(1)
	hdr.info = Info{Format: formatJPEG, Width: hdr.width, Height: hdr.height, Memory: memory(hdr.width, hdr.held())}
	return hdr, nil
}

// blocks returns the number of blocks across and down that are in memory at once for component i: two rows of
// units, or the whole image if its components are in separate scans.
func (hdr *jpegHeader) blocks(i int) (wide, high int) {
	wide, high = hdr.units()
	if hdr.streamed {
		high = min(high, 2)
	}
	return hdr.h[i] * wide, hdr.v[i] * high
}

// held returns the number of bytes for samples and coefficients that decoding holds.
func (hdr *jpegHeader) held() (bytes int64) {
	unitsWide, unitsHigh := hdr.units()
	for i := range hdr.components {
		wide, high := hdr.blocks(i)
		bytes += int64(hdr.size[i]*hdr.size[i]) * int64(wide) * int64(high)
		if hdr.progressive { // coefficients of two bytes, and a mask of eight bytes
			bytes += (2*64 + 8) * int64(hdr.h[i]*hdr.v[i]) * int64(unitsWide) * int64(unitsHigh)
		}
	}
	return bytes
}

func (d *Decoder) decodeJPEG(dst []uint8, hdr *jpegHeader, data []byte) error {
	width, height := hdr.reduced()
	d.res.begin(dst, width, height)
	next := 0
	err := d.jpeg.decode(hdr, data, func(planes *[4]plane, end int) {
		for ; next < end; next++ {
			d.jpegRow(hdr, planes, next)
		}
	})
	if err != nil {
		return err
	}
	d.res.end()
	return nil
}

// jpegRow upsamples and converts row y of an image of one, three or four planes, and passes it to the resampler.
func (d *Decoder) jpegRow(hdr *jpegHeader, planes *[4]plane, y int) {
	if !d.res.needs(y) {
		return
	}
	w, _ := hdr.reduced()
	var s [4][]uint8
	for c := range hdr.components {
		s[c] = planes[c].row(y, &d.rows, 3+c)[:w]
	}
	switch {
	case hdr.components == 1:
		d.res.row(y, s[0], s[0], s[0])
		return
	case hdr.components == 3 && hdr.ycc():
		d.res.yccRow(y, jpegColors, s[0], s[1], s[2], &d.rows)
		return
	case hdr.components == 3:
		d.res.row(y, s[0], s[1], s[2])
		return
	}
	r, g, b := d.rows.get(0, w), d.rows.get(1, w), d.rows.get(2, w)
	if hdr.ycc() {
		// libjpeg converts YCCK to CMYK by inverting RGB, which cancels the inversion in underInk.
		jpegColors.row(r, g, b, s[0], s[1], s[2])
		for x := range w {
			r[x], g[x], b[x] = 255-r[x], 255-g[x], 255-b[x]
		}
		s = [4][]uint8{r, g, b, s[3]}
	}
	for x := range w {
		k := s[3][x]
		r[x], g[x], b[x] = underInk(s[0][x], k), underInk(s[1][x], k), underInk(s[2][x], k)
	}
	d.res.row(y, r, g, b)
}

// underInk converts a CMYK sample from the file to RGB like Pillow (cmyk2rgb in Convert.c). Pillow assumes
// that every CMYK JPEG is inverted, as Adobe writes it: 255 means no ink.
func underInk(ink, black uint8) uint8 {
	t := int(255-ink)*int(black) + 128
	return uint8(max(int(black)-(t>>8+t)>>8, 0))
}
