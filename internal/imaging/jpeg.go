package imaging

import (
	"encoding/binary"
	"slices"
)

// jpegHeader is what stands before a JPEG's first scan.
type jpegHeader struct {
	width, height int
	components    int
	ids           [4]uint8
	h, v          [4]int   // sampling factors; the first component has the greatest
	quant         [4]uint8 // numbers of the quantisation tables
	progressive   bool
	jfif          bool // a JFIF marker was seen
	adobe         int  // colour transform of the Adobe marker, -1 without one
	scan          int  // offset of the first scan's marker
	info          Info // of openJPEG
}

// The markers that are told apart (T.81, table B.1).
const (
	markerSOF0  = 0xc0 // frame header, baseline
	markerSOF1  = 0xc1 // frame header, extended sequential
	markerSOF2  = 0xc2 // frame header, progressive
	markerDHT   = 0xc4 // Huffman tables
	markerRST0  = 0xd0 // the first of eight restart markers
	markerEOI   = 0xd9 // end of the picture
	markerSOS   = 0xda // header of a scan
	markerDQT   = 0xdb // quantisation tables
	markerDRI   = 0xdd // restart interval
	markerAPP0  = 0xe0 // the first of sixteen for applications: JFIF
	markerAPP14 = 0xee // Adobe
	markerCOM   = 0xfe // comment
)

// jpegSegment is a marker and what belongs to it.
type jpegSegment struct {
	marker     uint8 // 0: there is no further one
	start, end int   // offsets of the marker and of what follows
	body       []byte
}

// nextJPEGSegment finds the next segment at or after an offset. As every decoder, it tolerates junk
// between segments, fill bytes before a marker, and restart markers that are left over.
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
		if s.marker == 0 && at == s.start+2 || s.marker >= markerRST0 && s.marker < markerRST0+8 {
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
		return s, broken("JPEG", "the segment at byte %d has a length of %d bytes", s.start, length)
	case m < markerSOF0:
		return s, broken("JPEG", "the segment at byte %d is of the unknown kind %#02x", s.start, m)
	case m == 0xc8, m == 0xcc, m == 0xd8, m == 0xdc, // reserved, arithmetic coding, a picture within, its height
		m > markerDRI && m < markerAPP0, m > 0xef && m != markerCOM: // hierarchical coding, and reserved
		return s, unsupported("JPEG", "a segment of kind %#02x at byte %d; save it as a baseline JPEG", m, s.start)
	case at+length > len(data):
		return s, broken("JPEG", "the segment at byte %d runs past the end of the data", s.start)
	}
	s.end = at + length
	s.body = data[at+2 : s.end]
	return s, nil
}

// readJPEGHeader walks the segments up to the first scan.
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
			return hdr, broken("JPEG", "the data ends after %d bytes, before the first scan", len(data))
		case m == markerEOI:
			return hdr, broken("JPEG", "it ends without any picture data")
		case m == markerSOS:
			if hdr.components == 0 {
				return hdr, broken("JPEG", "a scan comes before the frame header")
			}
			hdr.scan = s.start
			return hdr, nil
		case m == markerAPP0:
			if len(s.body) >= 5 {
				hdr.jfif = string(s.body[:5]) == "JFIF\x00"
			}
		case m == markerAPP14:
			if len(s.body) >= 12 && string(s.body[:5]) == "Adobe" {
				hdr.adobe = int(s.body[11])
			}
		case m >= markerSOF0 && m <= 0xcf && m != markerDHT:
			if hdr.components != 0 {
				return hdr, broken("JPEG", "it has more than one frame header")
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
		return broken("JPEG", "its frame header has the wrong length")
	}
	if body[0] != 8 {
		return unsupported("JPEG", "%d bits a sample; save it with 8", body[0])
	}
	hdr.height = int(binary.BigEndian.Uint16(body[1:]))
	hdr.width = int(binary.BigEndian.Uint16(body[3:]))
	hdr.components = int(body[5])
	if n := hdr.components; n != 1 && n != 3 && n != 4 {
		hdr.components = 0
		return unsupported("JPEG", "%d colour components", n)
	}
	for i := range hdr.components {
		c := body[6+3*i:]
		hdr.ids[i], hdr.h[i], hdr.v[i], hdr.quant[i] = c[0], int(c[1]>>4), int(c[1]&15), c[2]
		if slices.Contains(hdr.ids[:i], c[0]) || c[2] > 3 {
			return broken("JPEG", "component %d of its frame header is damaged", i)
		}
		if hdr.h[i] < 1 || hdr.h[i] > 4 || hdr.v[i] < 1 || hdr.v[i] > 4 {
			return broken("JPEG", "sampling factors %d×%d of component %d", hdr.h[i], hdr.v[i], i)
		}
	}
	if !hdr.usual() {
		return unsupported("JPEG", "unusual subsampling; save it with 4:2:0 or 4:4:4")
	}
	if hdr.components == 1 { // its factors mean nothing
		hdr.h[0], hdr.v[0] = 1, 1
	}
	return nil
}

// usual tells whether the sampling factors are those of one of the usual schemes, which are all that
// image/jpeg reads: in colour, two components of equal factors that divide the first one's.
func (hdr *jpegHeader) usual() bool {
	h, v := &hdr.h, &hdr.v
	for i := range hdr.components {
		if h[i] == 3 || v[i] == 3 {
			return false
		}
	}
	switch hdr.components {
	case 3:
		return v[0] != 4 && h[0]%h[1] == 0 && v[0]%v[1] == 0 && h[1] == h[2] && v[1] == v[2]
	case 4:
		return h[0] == v[0] && h[0] <= 2 && h[1] == 1 && v[1] == 1 && h[2] == 1 && v[2] == 1 && h[3] == h[0] && v[3] == v[0]
	}
	return true
}

// units is the number of units, across and down, in which scans of several components are coded: as
// many blocks of each component as its factors say.
func (hdr *jpegHeader) units() (wide, high int) {
	w, h := 8*hdr.h[0], 8*hdr.v[0]
	return (hdr.width + w - 1) / w, (hdr.height + h - 1) / h
}

// ycc tells whether the first three components are YCbCr, by the rules of libjpeg's
// default_decompress_parms.
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

// minBytes is the least that the scans of such a picture can take: every block has one code for its
// DC coefficient and, unless progressive, one for the end of its AC coefficients, each of a bit or
// more. It keeps a few bytes that claim to be a huge picture from costing memory.
func (hdr *jpegHeader) minBytes() int {
	blocks := 0
	for i := range hdr.components {
		w := (hdr.width*hdr.h[i] + hdr.h[0] - 1) / hdr.h[0]
		h := (hdr.height*hdr.v[i] + hdr.v[0] - 1) / hdr.v[0]
		blocks += ((w + 7) / 8) * ((h + 7) / 8)
	}
	if hdr.progressive {
		return blocks / 8
	}
	return blocks / 4
}

// damaged reports what is wrong behind the header.
func (hdr *jpegHeader) damaged(cause error) error {
	return brokenBy("JPEG", hdr.width, hdr.height, cause)
}

// openJPEG reads the header and refuses what cannot or shall not be decoded.
func openJPEG(data []byte, maxPixels int) (jpegHeader, error) {
	hdr, err := readJPEGHeader(data)
	if hdr.components > 0 { // too large is too large, whatever else is wrong
		if err := admit("JPEG", int64(hdr.width), int64(hdr.height), maxPixels); err != nil {
			return hdr, err
		}
	}
	if err != nil {
		return hdr, err
	}
	if len(data)-hdr.scan < hdr.minBytes() {
		return hdr, broken("JPEG", "%d bytes cannot hold %d×%d pixels; it is cut off", len(data), hdr.width, hdr.height)
	}
	hdr.info = Info{formatJPEG, hdr.width, hdr.height, memory(hdr.width, hdr.height, hdr.held())}
	return hdr, nil
}

// held is how many bytes decoding holds in proportion to the size.
func (hdr *jpegHeader) held() int64 {
	unitsWide, unitsHigh := hdr.units()
	samples := int64(0)
	for i := range hdr.components {
		samples += int64(64*hdr.h[i]*hdr.v[i]) * int64(unitsWide) * int64(unitsHigh)
	}
	switch {
	case !hdr.progressive:
		return samples
	case hdr.components < 4:
		return 5 * samples // image/jpeg keeps all coefficients, each in four bytes
	default: // it also interleaves the samples, and they are taken apart again
		return 5*samples + 8*int64(hdr.width)*int64(hdr.height)
	}
}

func (d *Decoder) decodeJPEG(dst []uint8, hdr *jpegHeader, data []byte) error {
	var planes [4]plane
	var err error
	if hdr.progressive {
		planes, err = d.progressivePlanes(hdr, data)
	} else {
		planes, err = d.jpeg.decode(hdr, data)
	}
	if err != nil {
		return err
	}
	d.res.begin(dst, hdr.width, hdr.height)
	d.jpegRows(hdr, &planes)
	d.res.end()
	return nil
}

// jpegRows upsamples, converts and hands on every row of a picture of one, three or four planes.
func (d *Decoder) jpegRows(hdr *jpegHeader, planes *[4]plane) {
	w, ycc := hdr.width, hdr.ycc()
	r, g, b := d.rows.get(0, w), d.rows.get(1, w), d.rows.get(2, w)
	var s [4][]uint8
	for y := range hdr.height {
		for c := range hdr.components {
			s[c] = planes[c].row(y, &d.rows, 3+c)[:w]
		}
		switch {
		case hdr.components == 1:
			d.res.row(y, s[0], s[0], s[0])
		case hdr.components == 3 && ycc && d.res.copying:
			yccPixels(d.res.line(y), s[0], s[1], s[2])
		case hdr.components == 3 && ycc:
			yccRow(r, g, b, s[0], s[1], s[2])
			d.res.row(y, r, g, b)
		case hdr.components == 3:
			d.res.row(y, s[0], s[1], s[2])
		case ycc:
			yccRow(r, g, b, s[0], s[1], s[2])
			// libjpeg turns YCCK into CMYK by inverting the RGB: here both inversions cancel.
			for x := range w {
				k := s[3][x]
				r[x], g[x], b[x] = underInk(255-r[x], k), underInk(255-g[x], k), underInk(255-b[x], k)
			}
			d.res.row(y, r, g, b)
		default:
			for x := range w {
				k := s[3][x]
				r[x], g[x], b[x] = underInk(s[0][x], k), underInk(s[1][x], k), underInk(s[2][x], k)
			}
			d.res.row(y, r, g, b)
		}
	}
}

// underInk is Pillow's conversion of a CMYK sample to RGB (cmyk2rgb in Convert.c) for samples as they
// are in the file: Pillow takes every CMYK JPEG to be inverted, as Adobe writes it, so that 255 is no
// ink.
func underInk(ink, black uint8) uint8 {
	t := int(255-ink)*int(black) + 128
	return uint8(max(int(black)-(t>>8+t)>>8, 0))
}
