package imaging

import (
	"bytes"
	"image"

	"golang.org/x/image/tiff"
)

// tiffHeader is the directory of the first page of a TIFF.
type tiffHeader struct {
	dir           directory
	width, height int
	info          Info
}

// Tags.
const (
	tiffWidth        = 256
	tiffHeight       = 257
	tiffBits         = 258
	tiffCompression  = 259
	tiffColors       = 262
	tiffFillOrder    = 266
	tiffSamples      = 277
	tiffRowsPerStrip = 278
	tiffPlanar       = 284
	tiffPredictor    = 317
	tiffTileWidth    = 322
	tiffTileHeight   = 323
	tiffSubImages    = 330
	tiffExtraSamples = 338
	tiffSampleFormat = 339
	tiffDNGVersion   = 50706
)

// rawFormat returns the name of a camera's raw format that is based on TIFF, or "".
func rawFormat(data []byte) string {
	dir, ok := openDirectory(data)
	switch {
	case !ok:
		return ""
	case len(data) >= 10 && string(data[8:10]) == "CR":
		return "camera raw (CR2)"
	case dir.value(tiffDNGVersion, 0) != 0:
		return "camera raw (DNG)"
	}
	if _, n := dir.values(tiffSubImages); n > 0 && dir.value(254, 0)&1 == 1 { // the first page is a preview
		return "camera raw (based on TIFF)"
	}
	return ""
}

// openTIFF reads the directory and rejects images that can't be decoded or are too large.
func openTIFF(data []byte, maxPixels int) (hdr tiffHeader, err error) {
	dir, ok := openDirectory(data)
	if !ok {
		return hdr, broken("TIFF", "truncated after %d bytes, before the end of the directory", len(data))
	}
	hdr.dir = dir
	width, height := dir.value(tiffWidth, 0), dir.value(tiffHeight, 0)
	if err := admit("TIFF", int64(width), int64(height), maxPixels); err != nil {
		return hdr, err
	}
	hdr.width, hdr.height = int(width), int(height)
	if err := hdr.check(); err != nil {
		return hdr, err
	}
	held, err := hdr.held(int64(len(data)))
	if err != nil {
		return hdr, err
	}
	hdr.info = Info{Format: formatTIFF, Width: hdr.width, Height: hdr.height, Memory: memory(hdr.width, held), Orientation: dir.orientation()}
	return hdr, nil
}

// check rejects variants that golang.org/x/image/tiff doesn't read, and those that it reads wrong.
func (hdr *tiffHeader) check() error {
	dir := &hdr.dir
	samples := dir.value(tiffSamples, 1)
	switch colors := dir.value(tiffColors, 99); colors {
	case 0, 1, 3:
		if samples != 1 {
			return unsupported("TIFF", "%d samples per pixel in grayscale or palette colors", samples)
		}
	case 2:
		extra, n := dir.values(tiffExtraSamples)
		if samples != 3 && (samples != 4 || n == 0 || extra[0] != 1 && extra[0] != 2) {
			return unsupported("TIFF", "%d samples per pixel", samples)
		}
	case 5:
		return unsupported("TIFF", "CMYK colors")
	case 6:
		return unsupported("TIFF", "YCbCr colors")
	case 8, 9, 10:
		return unsupported("TIFF", "Lab colors")
	default:
		return unsupported("TIFF", "color model %d", colors)
	}
	bits, n := dir.values(tiffBits)
	if n == 0 {
		bits[0], n = 1, 1
	}
	if n != int(samples) {
		return broken("TIFF", "%d samples per pixel, but the number of bits of %d", samples, n)
	}
	for _, b := range bits[:n] {
		if b != bits[0] || b != 1 && b != 8 && b != 16 {
			return unsupported("TIFF", "%d bits per sample", b)
		}
	}
	switch compression := dir.value(tiffCompression, 1); compression {
	case 0, 1, 3, 4, 5, 8, 32773, 32946:
		if fax := compression == 3 || compression == 4; fax && bits[0] != 1 || fax && samples != 1 {
			return broken("TIFF", "fax compression of colors")
		} else if !fax && dir.value(tiffFillOrder, 1) != 1 {
			return unsupported("TIFF", "reversed bits")
		}
	case 2:
		return unsupported("TIFF", "CCITT RLE compression")
	case 6, 7:
		return unsupported("TIFF", "JPEG compression")
	case 34887:
		return unsupported("TIFF", "LERC compression")
	case 34925:
		return unsupported("TIFF", "LZMA compression")
	case 50000:
		return unsupported("TIFF", "Zstandard compression")
	case 50001:
		return unsupported("TIFF", "WebP compression")
	default:
		return unsupported("TIFF", "compression %d", compression)
	}
	if formats, n := dir.values(tiffSampleFormat); n > 0 && formats[0] != 1 {
		return unsupported("TIFF", "signed or floating-point samples")
	}
	if dir.value(tiffPlanar, 1) != 1 && samples > 1 {
		return unsupported("TIFF", "separate color planes")
	}
	if predictor := dir.value(tiffPredictor, 1); predictor > 2 || predictor == 2 && bits[0] == 1 {
		return unsupported("TIFF", "predictor %d", predictor)
	}
	return nil
}

// held returns the number of bytes that golang.org/x/image/tiff holds: the image, and the data of a strip or
// tile, which it inflates to at most 8 bytes per pixel in a buffer that grows.
func (hdr *tiffHeader) held(size int64) (int64, error) {
	dir := &hdr.dir
	w, h := int64(hdr.width), int64(hdr.height)
	pixel := int64(1)
	if dir.value(tiffColors, 0) == 2 {
		pixel = 4
	}
	bits := int64(dir.value(tiffBits, 1))
	if bits == 16 {
		pixel *= 2
	}
	ratio := int64(1) // of the compression, at most
	switch dir.value(tiffCompression, 1) {
	case 5, 8, 32946: // LZW and Deflate
		ratio = 1400
	case 32773: // PackBits
		ratio = 64
	case 3, 4: // a few bits for a white row
		ratio = w
	}
	if size < w*h*int64(dir.value(tiffSamples, 1))*bits/8/ratio {
		return 0, broken("TIFF", "truncated: %d bytes can't hold %d×%d pixels", size, w, h)
	}
	blockWidth, blockHeight := w, min(h, int64(dir.value(tiffRowsPerStrip, uint32(h))))
	if dir.value(tiffTileWidth, 0) > 0 {
		blockWidth, blockHeight = int64(dir.value(tiffTileWidth, 0)), int64(dir.value(tiffTileHeight, 0))
	}
	if blockHeight == 0 {
		blockHeight = h
	}
	if blockWidth > max(w+16, 1024) || blockHeight > max(h+16, 1024) {
		return 0, broken("TIFF", "tiles of %d×%d pixels", blockWidth, blockHeight)
	}
	block := min(8*blockWidth*blockHeight, ratio*size)
	return pixel*w*h + 4*block + 64<<10, nil
}

func (d *Decoder) decodeTIFF(dst []uint8, hdr *tiffHeader, data []byte) error {
	width, height := hdr.width, hdr.height
	img, err := tiff.Decode(bytes.NewReader(data))
	if err != nil {
		return brokenBy("TIFF", width, height, err)
	}
	d.res.begin(dst, width, height)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	// split converts samples of size bytes, of which it keeps the high byte.
	split := func(pix []uint8, stride, size int, premultiplied bool) {
		for y := range height {
			row := pix[y*stride:]
			for x := range width {
				p := row[4*size*x:]
				r[x], g[x], b[x] = p[0], p[size], p[2*size]
				if alpha := p[3*size]; premultiplied && alpha != 0 && alpha != 255 {
					r[x], g[x], b[x] = unmultiply(r[x], alpha), unmultiply(g[x], alpha), unmultiply(b[x], alpha)
				}
			}
			d.res.row(y, r, g, b)
		}
	}
	switch img := img.(type) {
	case *image.Gray:
		// The library takes a white run for white even if the colors say that it's black.
		compression := hdr.dir.value(tiffCompression, 1)
		inverted := (compression == 3 || compression == 4) && hdr.dir.value(tiffColors, 0) == 1
		for y := range height {
			row := img.Pix[y*img.Stride:][:width]
			if inverted {
				for x := range row {
					row[x] = ^row[x]
				}
			}
			d.res.row(y, row, row, row)
		}
	case *image.Gray16: // as for PNG
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
		var p palette
		for i, c := range img.Palette {
			red, green, blue, _ := c.RGBA()
			p.r[i], p.g[i], p.b[i] = uint8(red>>8), uint8(green>>8), uint8(blue>>8)
		}
		for y := range height {
			p.row(r, g, b, img.Pix[y*img.Stride:][:width])
			d.res.row(y, r, g, b)
		}
	case *image.RGBA:
		split(img.Pix, img.Stride, 1, true)
	case *image.NRGBA:
		split(img.Pix, img.Stride, 1, false)
	case *image.RGBA64:
		split(img.Pix, img.Stride, 2, true)
	case *image.NRGBA64:
		split(img.Pix, img.Stride, 2, false)
	}
	d.res.end()
	return nil
}

// unmultiply returns a level without the factor alpha/255.
func unmultiply(level, alpha uint8) uint8 { return uint8(min(int(level)*255/int(alpha), 255)) }
