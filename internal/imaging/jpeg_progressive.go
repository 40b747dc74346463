package imaging

import (
	"bytes"
	"errors"
	"image"
	"image/jpeg"
	"io"
)

// maxScans limits the number of scans in a progressive JPEG. Encoders write about ten. A further scan takes
// only a few bytes of data, but image/jpeg processes the whole image for it.
const maxScans = 100

// progressivePlanes decodes the planes of a progressive JPEG with image/jpeg. Progressive images are too
// rare, and too slow to decode anyway, to be worth a decoder in this package.
func (d *Decoder) progressivePlanes(hdr *jpegHeader, data []byte) (planes [4]plane, err error) {
	if n := bytes.Count(data, []byte{0xff, markerSOS}); n > maxScans {
		return planes, unsupported("JPEG", "%d scans, more than the maximum of %d; save it as a baseline JPEG", n, maxScans)
	}
	img, err := jpeg.Decode(d.jpegReader(hdr, data))
	if err != nil {
		var feature jpeg.UnsupportedError
		if errors.As(err, &feature) {
			return planes, unsupported("JPEG", "an unsupported feature (%v); save it as a baseline JPEG", err)
		}
		return planes, hdr.corrupt(err)
	}
	switch img := img.(type) {
	case *image.Gray:
		planes[0] = newPlane(img.Pix, img.Stride, hdr.width, hdr.height, 1, 1)
	case *image.YCbCr:
		hr, vr := hdr.h[0]/hdr.h[1], hdr.v[0]/hdr.v[1]
		planes[0] = newPlane(img.Y, img.YStride, hdr.width, hdr.height, 1, 1)
		planes[1] = newPlane(img.Cb, img.CStride, hdr.width, hdr.height, hr, vr)
		planes[2] = newPlane(img.Cr, img.CStride, hdr.width, hdr.height, hr, vr)
	case *image.CMYK:
		planes = cmykPlanes(hdr, img)
	default:
		return planes, broken("JPEG", "unexpected color model %T", img)
	}
	return planes, nil
}

// Segments that keep image/jpeg from converting colors. With a JFIF marker, it returns the three planes of
// an RGB image unchanged; with Adobe's transform 0, the four planes of a YCCK image.
var (
	jfifSegment  = []byte("\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
	adobeSegment = []byte("\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00")
)

// jpegReader returns the data for image/jpeg, with one of the segments above inserted if necessary.
func (d *Decoder) jpegReader(hdr *jpegHeader, data []byte) io.Reader {
	switch {
	case hdr.components == 3 && !hdr.jfif && (hdr.adobe == 0 || string(hdr.ids[:3]) == "RGB"):
		return withSegment(data, hdr.scan, jfifSegment)
	case hdr.components == 4 && hdr.adobe != 0:
		return withSegment(data, hdr.scan, adobeSegment)
	}
	d.reader.Reset(data)
	return &d.reader
}

func withSegment(data []byte, at int, segment []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(data[:at]), bytes.NewReader(segment), bytes.NewReader(data[at:]))
}

// cmykPlanes extracts the four planes from the interleaved image that image/jpeg returns. It undoes the
// repetition of subsampled planes and the inversion of all samples.
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
