// Package imaging turns the bytes of a picture into the network's input.
//
// It reproduces, to the level, what the original project's loader did with Pillow 9.4:
//
//	Image.open(file).convert("RGB").resize((32, 32), Image.BILINEAR)
//
// Trainer and server both decode through this package, so that a picture means the same numbers in
// both. Alpha is dropped and not blended, EXIF rotation and colour profiles are ignored, the first
// frame of an animation is taken, and a picture that is 32×32 already is not resampled.
//
// The entropy decoders are those of the standard library and golang.org/x/image. What lies around
// them is ours, because that is where they and Pillow part: chroma upsampling and colour conversion
// (as libjpeg-turbo and libwebp do them), palettes, 16-bit samples, the GIF, WebP and BMP containers,
// and the antialiased resize.
//
// Lossless pictures and WebP come out exactly as Pillow's. JPEG differs where Go's inverse DCT rounds
// to the other side: in the tests by up to 3 levels, 0.04 on average. Damaged JPEG data is refused, where
// libjpeg guesses at the missing part; so are arithmetic coding, unusual sampling factors, and restart
// markers in separate scans of subsampled components, which the standard library does not read.
package imaging

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	// Size is the width and height in pixels of the network's input.
	Size = 32
	// Channels is the number of colour channels of the network's input: red, green, blue.
	Channels = 3
	// PreprocessingID names what this package does to a picture. It is written into model files and
	// data manifests; it changes whenever the pixels that Decoder yields change.
	PreprocessingID = "rgb-32x32-bilinear-aa-v1"

	// DefaultMaxPixels is the largest width × height that a Decoder reads unless told otherwise:
	// 50 Mi pixels, which admits a 50-megapixel camera's picture (8192×6144). At the 3 to 4 bytes a
	// pixel that most decoders need, it bounds the memory for one picture to about 200 MiB
	// (progressive JPEG and 16-bit PNG may take up to four times that).
	DefaultMaxPixels = 50 << 20

	// maxSide bounds width and height by themselves: the resize keeps two coefficients a column and
	// a row, so that a line of 50 million pixels would cost as much as a whole photograph.
	maxSide = 1 << 20

	// maxScratch is the size in bytes above which a scratch buffer is not kept for the next picture.
	maxScratch = 1 << 20

	numPixels = Size * Size * Channels
)

// The kinds of failure, for errors.Is. The errors that Decoder returns wrap one of them and say what
// was wrong with which format.
var (
	// ErrEmpty means that there were no bytes at all.
	ErrEmpty = errors.New("no image data")
	// ErrFormat means that the bytes are not of a format, or of a variant of one, that is read here.
	ErrFormat = errors.New("unsupported image format")
	// ErrTooLarge means that the header announces more pixels than Decoder.MaxPixels (or a side
	// longer than 1,048,576). No pixel was decoded.
	ErrTooLarge = errors.New("image too large")
	// ErrBroken means that the format was recognised but that header or data are damaged or cut off.
	ErrBroken = errors.New("broken image")
)

// Decoder turns pictures into pixels. Its zero value is ready for use. It keeps scratch buffers from
// one picture to the next (bounded: those of a huge picture are let go), and so must not be used by
// two goroutines at once; separate Decoders are independent.
type Decoder struct {
	// MaxPixels is the largest width × height that is decoded; 0 means DefaultMaxPixels.
	MaxPixels int

	res    resampler
	reader bytes.Reader
	rows   rowBuffers
	pixels [numPixels]uint8
}

// Pixels decodes the picture in data into dst, which must hold 32·32·3 bytes: rows from the top,
// pixels from the left, red, green, blue, each 0 to 255. JPEG, PNG, GIF (first frame), WebP and BMP
// are read. data is not changed and not kept. On error, which wraps one of the package's Err values,
// the content of dst is undefined.
func (d *Decoder) Pixels(dst []uint8, data []byte) error {
	if len(dst) != numPixels {
		return fmt.Errorf("decode image: destination holds %d bytes, need %d", len(dst), numPixels)
	}
	err := d.decode(dst, data)
	d.reader.Reset(nil)
	d.rows.trim()
	d.res.trim()
	if err != nil {
		return fmt.Errorf("decode image: %w", err)
	}
	return nil
}

// Tensor decodes the picture in data as Pixels does and writes it to dst as ToTensor does: 3·32·32
// values in [0,1], channels first.
func (d *Decoder) Tensor(dst []float32, data []byte) error {
	if len(dst) != numPixels {
		return fmt.Errorf("decode image: destination holds %d values, need %d", len(dst), numPixels)
	}
	if err := d.Pixels(d.pixels[:], data); err != nil {
		return err
	}
	ToTensor(dst, d.pixels[:])
	return nil
}

// unit holds i/255 for each level, rounded once as PyTorch's ToTensor rounds.
var unit = func() (t [256]float32) {
	for i := range t {
		t[i] = float32(i) / 255
	}
	return t
}()

// ToTensor rearranges one 32×32 picture from pixels (height, width, channel; 0 to 255) to dst
// (channel, height, width; [0,1] = level/255). Both must hold at least 3·32·32 elements, or it
// panics.
func ToTensor(dst []float32, pixels []uint8) {
	const plane = Size * Size
	r, g, b := dst[:plane], dst[plane:2*plane], dst[2*plane:3*plane]
	pixels = pixels[:numPixels]
	for i := range plane {
		p := pixels[3*i : 3*i+3 : 3*i+3]
		r[i], g[i], b[i] = unit[p[0]], unit[p[1]], unit[p[2]]
	}
}

func (d *Decoder) decode(dst []uint8, data []byte) error {
	switch {
	case len(data) == 0:
		return fmt.Errorf("%w: send a JPEG, PNG, GIF, WebP or BMP picture", ErrEmpty)
	case hasPrefix(data, "\xff\xd8\xff"):
		return d.decodeJPEG(dst, data)
	case hasPrefix(data, pngSignature):
		return d.decodePNG(dst, data)
	case hasPrefix(data, "GIF87a"), hasPrefix(data, "GIF89a"):
		return d.decodeGIF(dst, data)
	case hasPrefix(data, "RIFF") && len(data) >= 12 && string(data[8:12]) == "WEBP":
		return d.decodeWebP(dst, data)
	case hasPrefix(data, "BM"):
		return d.decodeBMP(dst, data)
	}
	if name := otherFormat(data); name != "" {
		return fmt.Errorf("%w %q: send a JPEG, PNG, GIF, WebP or BMP picture", ErrFormat, name)
	}
	return fmt.Errorf("%w: the bytes do not begin like a JPEG, PNG, GIF, WebP or BMP picture", ErrFormat)
}

func hasPrefix(data []byte, prefix string) bool {
	return len(data) >= len(prefix) && string(data[:len(prefix)]) == prefix
}

// otherFormat names common formats that are not read, for the error message.
func otherFormat(data []byte) string {
	for _, f := range []struct {
		at          int
		magic, name string
	}{
		{0, "II*\x00", "tiff"},
		{0, "MM\x00*", "tiff"},
		{4, "ftypavif", "avif"},
		{4, "ftypheic", "heic"},
		{4, "ftypmif1", "heif"},
		{0, "\x00\x00\x00\x0cjP  ", "jpeg2000"},
		{0, "\xff\x4f\xff\x51", "jpeg2000"},
		{0, "\x00\x00\x00\x0cJXL ", "jpegxl"},
		{0, "\xff\x0a", "jpegxl"},
		{0, "8BPS", "photoshop"},
		{0, "\x00\x00\x01\x00", "ico"},
		{0, "%PDF-", "pdf"},
		{0, "<svg", "svg"},
	} {
		if len(data) > f.at && hasPrefix(data[f.at:], f.magic) {
			return f.name
		}
	}
	return ""
}

// admit refuses a picture of the given size before anything is allocated for it.
func (d *Decoder) admit(format string, width, height int64) error {
	limit := int64(d.MaxPixels)
	if limit <= 0 {
		limit = DefaultMaxPixels
	}
	switch {
	case width <= 0 || height <= 0:
		return broken(format, "its header gives a size of %d×%d", width, height)
	case width > limit || height > limit || width*height > limit:
		return fmt.Errorf("%w: the %s picture has %d×%d pixels, at most %d are read; scale it down",
			ErrTooLarge, format, width, height, limit)
	case width > maxSide || height > maxSide:
		return fmt.Errorf("%w: the %s picture has %d×%d pixels, no side may be longer than %d; scale it down",
			ErrTooLarge, format, width, height, maxSide)
	}
	return nil
}

// broken reports damaged data of a known format.
func broken(format, message string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrBroken, format, fmt.Sprintf(message, args...))
}

// brokenBy reports data of a known format that a library's decoder refused.
func brokenBy(format string, width, height int, cause error) error {
	return fmt.Errorf("%w: the %s of %d×%d pixels is cut off or damaged, send it whole: %w",
		ErrBroken, format, width, height, cause)
}

// unsupported reports a variant of a known format that is not read.
func unsupported(format, message string, args ...any) error {
	return fmt.Errorf("%w: %s with %s", ErrFormat, format, fmt.Sprintf(message, args...))
}

// rowBuffers is scratch for one row of the picture in several planes.
type rowBuffers struct{ buf [8][]uint8 }

// get returns the i-th buffer with length n; its content is whatever was there.
func (r *rowBuffers) get(i, n int) []uint8 {
	if cap(r.buf[i]) < n {
		r.buf[i] = make([]uint8, n)
	}
	return r.buf[i][:n]
}

func (r *rowBuffers) trim() {
	for i := range r.buf {
		if cap(r.buf[i]) > maxScratch {
			r.buf[i] = nil
		}
	}
}
