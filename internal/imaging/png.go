package imaging

import (
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"
)

const pngSignature = "\x89PNG\r\n\x1a\n"

// pngHeader is what a PNG's chunks say before its data is inflated.
type pngHeader struct {
	width, height uint32
	depth, colour uint8
	ihdr          []byte // the whole chunk
	palette       []byte
	data          [][]byte // the contents of the IDAT chunks
	dataBytes     int64
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
	hdr.depth, hdr.colour = body[8], body[9]
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

// readChunks finds the palette and the picture's data. As Pillow, it checks the checksums of what comes
// before the data, leaves the data to zlib's own, and does not look beyond.
func (hdr *pngHeader) readChunks(data []byte) error {
	for at := len(pngSignature) + len(hdr.ihdr); at+8 <= len(data); {
		length := int64(binary.BigEndian.Uint32(data[at:]))
		kind := string(data[at+4 : at+8])
		if kind != "IDAT" && hdr.dataBytes > 0 {
			return nil
		}
		rest := data[at+8:]
		if length > int64(len(rest)) {
			if kind != "IDAT" {
				return broken("PNG", "the data ends after %d bytes, within a %q chunk", len(data), kind)
			}
			length = int64(len(rest)) // what is there may be enough
		}
		body := rest[:length]
		if kind != "IDAT" && (length+4 > int64(len(rest)) ||
			crc32.ChecksumIEEE(data[at+4:at+8+int(length)]) != binary.BigEndian.Uint32(rest[length:])) {
			return broken("PNG", "its %q chunk has the wrong checksum", kind)
		}
		switch kind {
		case "IDAT":
			hdr.data = append(hdr.data, body)
			hdr.dataBytes += length
		case "PLTE":
			hdr.palette = body
		case "IEND":
			return nil
		}
		at += 8 + int(length) + 4
	}
	return nil
}

// stream is the picture as image/png shall see it: only the chunks that matter, so that damage in
// the others, which Pillow does not look at, does no harm; without transparency, which is dropped
// anyway; with a palette of full length, since the indices are looked up here.
func (hdr *pngHeader) stream() *splicer {
	parts := make([][]byte, 0, 4+3*len(hdr.data))
	parts = append(parts, []byte(pngSignature), hdr.ihdr)
	if hdr.colour == pngPalette {
		parts = appendChunk(parts, "PLTE", make([]byte, 3<<hdr.depth))
	}
	for _, body := range hdr.data {
		parts = appendChunk(parts, "IDAT", body)
	}
	parts = appendChunk(parts, "IEND", nil)
	return splice(parts...)
}

func appendChunk(parts [][]byte, kind string, body []byte) [][]byte {
	head := make([]byte, 8, 12)
	binary.BigEndian.PutUint32(head, uint32(len(body)))
	copy(head[4:], kind)
	crc := crc32.Update(crc32.ChecksumIEEE(head[4:8]), crc32.IEEETable, body)
	return append(parts, head, body, binary.BigEndian.AppendUint32(nil, crc))
}

// minData is the least that deflate can make of the picture's bytes: it never packs tighter than
// 1032 to 1. It keeps a few bytes that claim to be a huge picture from costing memory.
func (hdr *pngHeader) minData() int64 {
	samples := map[uint8]int64{pngGrey: 1, pngRGB: 3, pngPalette: 1, pngGreyAlpha: 2, pngRGBA: 4}[hdr.colour]
	row := (int64(hdr.width)*samples*int64(hdr.depth) + 7) / 8
	return row * int64(hdr.height) / 1032
}

func (d *Decoder) decodePNG(dst []uint8, data []byte) error {
	hdr, err := readPNGHeader(data)
	if hdr.ihdr != nil { // too large is too large, whatever else is wrong
		if err := d.admit("PNG", int64(hdr.width), int64(hdr.height)); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	width, height := int(hdr.width), int(hdr.height)
	if err := hdr.readChunks(data); err != nil {
		return err
	}
	if hdr.dataBytes == 0 || hdr.dataBytes < hdr.minData() {
		return broken("PNG", "%d bytes of data cannot hold %d×%d pixels; it is cut off", hdr.dataBytes, width, height)
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
