package imaging

import (
	"encoding/binary"
	"errors"
	"image"
	"image/jpeg"
	"io"
)

// jpegHeader is what stands before a JPEG's first scan.
type jpegHeader struct {
	width, height int
	components    int
	ids           [4]uint8
	h, v          [4]int // sampling factors
	progressive   bool
	jfif          bool // a JFIF marker was seen
	adobe         int  // colour transform of the Adobe marker, -1 without one
	scan          int  // offset of the first scan's marker
}

// readJPEGHeader walks the markers up to the first scan as image/jpeg does.
func readJPEGHeader(data []byte) (jpegHeader, error) {
	hdr := jpegHeader{adobe: -1}
	for at := 2; ; {
		// Junk between segments and fill bytes before a marker are tolerated, as by every decoder.
		for at < len(data) && data[at] != 0xff {
			at++
		}
		start := at
		for at < len(data) && data[at] == 0xff {
			at++
		}
		if at >= len(data) {
			return hdr, broken("JPEG", "the data ends after %d bytes, before the first scan", len(data))
		}
		marker := data[at]
		at++
		if marker == 0 || marker >= 0xd0 && marker <= 0xd7 {
			continue
		}
		if marker == 0xd9 {
			return hdr, broken("JPEG", "it ends without any picture data")
		}
		if at+2 > len(data) {
			return hdr, broken("JPEG", "the data ends after %d bytes, before the first scan", len(data))
		}
		length := int(binary.BigEndian.Uint16(data[at:]))
		if length < 2 || at+length > len(data) {
			return hdr, broken("JPEG", "the segment at byte %d runs past the end of the data", start)
		}
		body := data[at+2 : at+length]
		at += length
		switch {
		case marker == 0xda:
			if hdr.components == 0 {
				return hdr, broken("JPEG", "a scan comes before the frame header")
			}
			hdr.scan = start
			return hdr, nil
		case marker == 0xe0:
			if len(body) >= 5 {
				hdr.jfif = string(body[:5]) == "JFIF\x00"
			}
		case marker == 0xee:
			if len(body) >= 12 && string(body[:5]) == "Adobe" {
				hdr.adobe = int(body[11])
			}
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			if hdr.components != 0 {
				return hdr, broken("JPEG", "it has more than one frame header")
			}
			if err := hdr.frame(marker, body); err != nil {
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
	case marker > 0xc2:
		return unsupported("JPEG", "hierarchical coding; save it as a baseline or progressive JPEG")
	}
	hdr.progressive = marker == 0xc2
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
		hdr.ids[i], hdr.h[i], hdr.v[i] = c[0], int(c[1]>>4), int(c[1]&15)
		if hdr.h[i] < 1 || hdr.h[i] > 4 || hdr.v[i] < 1 || hdr.v[i] > 4 {
			return broken("JPEG", "sampling factors %d×%d of component %d", hdr.h[i], hdr.v[i], i)
		}
	}
	return nil
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

// Segments that tell image/jpeg to leave the colours alone: with a JFIF marker it hands out the
// three planes of an RGB picture instead of converting them, and with Adobe's transform 0 the four
// planes of a YCCK one.
var (
	jfifSegment  = []byte("\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
	adobeSegment = []byte("\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00")
)

// jpegReader is the file as image/jpeg shall see it.
func (d *Decoder) jpegReader(hdr *jpegHeader, data []byte) io.Reader {
	switch {
	case hdr.components == 3 && !hdr.jfif && (hdr.adobe == 0 || string(hdr.ids[:3]) == "RGB"):
		return splice(data[:hdr.scan], jfifSegment, data[hdr.scan:])
	case hdr.components == 4 && hdr.adobe != 0:
		return splice(data[:hdr.scan], adobeSegment, data[hdr.scan:])
	}
	d.reader.Reset(data) // the hot path: no allocation
	return &d.reader
}

func (d *Decoder) decodeJPEG(dst []uint8, data []byte) error {
	hdr, err := readJPEGHeader(data)
	if hdr.components > 0 { // too large is too large, whatever else is wrong
		if err := d.admit("JPEG", int64(hdr.width), int64(hdr.height)); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if len(data)-hdr.scan < hdr.minBytes() {
		return broken("JPEG", "%d bytes cannot hold %d×%d pixels; it is cut off", len(data), hdr.width, hdr.height)
	}

	img, err := jpeg.Decode(d.jpegReader(&hdr, data))
	if err != nil {
		var feature jpeg.UnsupportedError
		if errors.As(err, &feature) {
			return unsupported("JPEG", "a feature that is not read (%v); save it as a baseline JPEG", err)
		}
		return brokenBy("JPEG", hdr.width, hdr.height, err)
	}

	d.res.begin(dst, hdr.width, hdr.height)
	switch img := img.(type) {
	case *image.Gray:
		for y := range hdr.height {
			row := img.Pix[y*img.Stride:][:hdr.width]
			d.res.row(y, row, row, row)
		}
	case *image.YCbCr:
		hr, vr := hdr.h[0]/hdr.h[1], hdr.v[0]/hdr.v[1]
		d.jpegRows(&hdr, [4]plane{
			newPlane(img.Y, img.YStride, hdr.width, hdr.height, 1, 1),
			newPlane(img.Cb, img.CStride, hdr.width, hdr.height, hr, vr),
			newPlane(img.Cr, img.CStride, hdr.width, hdr.height, hr, vr),
		})
	case *image.CMYK:
		d.jpegRows(&hdr, cmykPlanes(&hdr, img))
	default:
		return broken("JPEG", "unexpected colour model %T", img)
	}
	d.res.end()
	return nil
}

// cmykPlanes takes the four planes out of the interleaved picture that image/jpeg makes of them by
// repeating the subsampled ones and inverting all.
func cmykPlanes(hdr *jpegHeader, img *image.CMYK) (planes [4]plane) {
	for c := range planes {
		hr, vr := hdr.h[0]/hdr.h[c], hdr.v[0]/hdr.v[c]
		p := newPlane(nil, 0, hdr.width, hdr.height, hr, vr)
		p.stride = p.width
		p.pix = make([]uint8, p.width*p.height)
		for y := range p.height {
			out := p.pix[y*p.stride:][:p.width]
			in := img.Pix[y*vr*img.Stride+c:]
			for x := range out {
				out[x] = 255 - in[4*x*hr]
			}
		}
		planes[c] = p
	}
	return planes
}

// jpegRows upsamples, converts and hands on every row of a picture of three or four planes.
func (d *Decoder) jpegRows(hdr *jpegHeader, planes [4]plane) {
	w := hdr.width
	r, g, b := d.rows.get(0, w), d.rows.get(1, w), d.rows.get(2, w)
	ycc := hdr.ycc()
	var s [4][]uint8
	for y := range hdr.height {
		for c := range hdr.components {
			s[c] = planes[c].row(y, &d.rows, 3+c)[:w]
		}
		switch {
		case hdr.components == 3 && ycc:
			yccRow(r, g, b, s[0], s[1], s[2])
			d.res.row(y, r, g, b)
		case hdr.components == 3:
			d.res.row(y, s[0], s[1], s[2])
		default:
			if ycc {
				yccRow(r, g, b, s[0], s[1], s[2])
				// libjpeg turns YCCK into CMYK by inverting the RGB: here both inversions cancel.
				for x := range w {
					k := s[3][x]
					r[x], g[x], b[x] = underInk(255-r[x], k), underInk(255-g[x], k), underInk(255-b[x], k)
				}
			} else {
				for x := range w {
					k := s[3][x]
					r[x], g[x], b[x] = underInk(s[0][x], k), underInk(s[1][x], k), underInk(s[2][x], k)
				}
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
