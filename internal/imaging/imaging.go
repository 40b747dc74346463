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
// Sequential JPEG is decoded here altogether: by libjpeg's inverse DCT, and without the tables that
// image/jpeg makes anew for every picture. Otherwise the entropy decoders are those of the standard
// library and golang.org/x/image. What lies around them is ours, because that is where they and Pillow
// part: chroma upsampling and colour conversion (as libjpeg-turbo and libwebp do them), palettes, 16-bit
// samples, the GIF, WebP and BMP containers, and the antialiased resize.
//
// All pictures come out exactly as Pillow's but for progressive JPEG, where image/jpeg's inverse DCT
// rounds to the other side now and then: in the tests by up to 2 levels, 0.05 on average. Damaged JPEG
// data is refused, where libjpeg guesses at the missing part; so are arithmetic coding, unusual sampling
// factors, and what the standard library does not read of progressive JPEG.
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
	PreprocessingID = "rgb-32x32-bilinear-aa-v2"

	// DefaultMaxPixels is the largest width × height that a Decoder reads unless told otherwise:
	// 50 Mi pixels, which admits a 50-megapixel camera's picture (8192×6144). At the 3 to 4 bytes a
	// pixel that most decoders need, it bounds the memory for one picture to about 200 MiB. Progressive
	// JPEG, interlaced and 16-bit PNG take 8 to 28 bytes a pixel: Inspect says how much.
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

// Info is what the header of a picture says.
type Info struct {
	// Format is "jpeg", "png", "gif", "webp" or "bmp".
	Format string
	// Width and Height are the picture's size in pixels, before it is resized. Those of an animation are
	// of its canvas.
	Width, Height int
	// Memory is an upper estimate, in bytes, of what decoding the picture takes at any time, beside the
	// data and what a Decoder keeps anyway. It is made of what the header and the length of the data
	// allow, and so is far above what is used where a format may hide more in its data than most
	// pictures do: a lossless WebP may have thousands of Huffman codes.
	Memory int64
}

// Inspect reads the header of the picture in data and none of its pixels: in less than a microsecond
// for most, and without an allocation for those that are read. It lets a program decide how many
// pictures it decodes at once. The error is the one that a Decoder with that MaxPixels would return, if
// the header alone shows it.
func Inspect(data []byte, maxPixels int) (Info, error) {
	info, err := inspect(data, maxPixels)
	if err != nil {
		return Info{}, fmt.Errorf("decode image: %w", err)
	}
	return info, nil
}

func inspect(data []byte, maxPixels int) (Info, error) {
	format, err := formatOf(data)
	if err != nil {
		return Info{}, err
	}
	switch format {
	case formatJPEG:
		hdr, err := openJPEG(data, maxPixels)
		return hdr.info, err
	case formatPNG:
		hdr, err := openPNG(data, maxPixels)
		return hdr.info, err
	case formatGIF:
		hdr, err := openGIF(data, maxPixels)
		return hdr.info, err
	case formatWebP:
		f, err := openWebP(data, maxPixels)
		return f.info, err
	default:
		hdr, err := openBMP(data, maxPixels)
		return hdr.info, err
	}
}

// Decoder turns pictures into pixels. Its zero value is ready for use. It keeps tables and scratch
// buffers from one picture to the next, and so must not be used by two goroutines at once; separate
// Decoders are independent. The buffers are bounded: those of more than 1 MiB are let go, so that after a
// 640×480 JPEG they are of half a MiB together, and of 14 MiB at the very most.
type Decoder struct {
	// MaxPixels is the largest width × height that is decoded; 0 means DefaultMaxPixels.
	MaxPixels int

	jpeg   jpegDecoder
	res    resampler
	reader bytes.Reader
	rows   rowBuffers
	pixels [numPixels]uint8
}

// Decode decodes the picture in data into dst, which must hold 32·32·3 bytes: rows from the top,
// pixels from the left, red, green, blue, each 0 to 255. JPEG, PNG, GIF (first frame), WebP and BMP
// are read. data is not changed and not kept. On error, which wraps one of the package's Err values,
// the content of dst is undefined. A sequential JPEG of ordinary size is decoded without allocations.
func (d *Decoder) Decode(dst []uint8, data []byte) (Info, error) {
	if len(dst) != numPixels {
		return Info{}, fmt.Errorf("decode image: destination holds %d bytes, need %d", len(dst), numPixels)
	}
	info, err := d.decode(dst, data)
	d.reader.Reset(nil)
	d.jpeg.trim()
	d.rows.trim()
	d.res.trim()
	if err != nil {
		return Info{}, fmt.Errorf("decode image: %w", err)
	}
	return info, nil
}

// Pixels is Decode for who does not ask what the picture was.
func (d *Decoder) Pixels(dst []uint8, data []byte) error {
	_, err := d.Decode(dst, data)
	return err
}

// Tensor decodes the picture in data as Decode does and writes it to dst as ToTensor does: 3·32·32
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

// FromTensor is ToTensor's inverse, to the next level; what lies outside of [0,1] is
// cut off. Both must hold at least 3·32·32 elements, or it panics.
func FromTensor(dst []uint8, tensor []float32) {
	const plane = Size * Size
	dst = dst[:numPixels]
	for i := range plane {
		for c := range Channels {
			dst[Channels*i+c] = uint8(255*min(max(tensor[c*plane+i], 0), 1) + 0.5)
		}
	}
}

func (d *Decoder) decode(dst []uint8, data []byte) (Info, error) {
	format, err := formatOf(data)
	if err != nil {
		return Info{}, err
	}
	switch format {
	case formatJPEG:
		hdr, err := openJPEG(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return hdr.info, d.decodeJPEG(dst, &hdr, data)
	case formatPNG:
		hdr, err := openPNG(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return hdr.info, d.decodePNG(dst, &hdr, data)
	case formatGIF:
		hdr, err := openGIF(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return hdr.info, d.decodeGIF(dst, &hdr)
	case formatWebP:
		f, err := openWebP(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return f.info, d.decodeWebP(dst, &f)
	default:
		hdr, err := openBMP(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return hdr.info, d.decodeBMP(dst, &hdr, data)
	}
}

// The formats that are read.
const (
	formatJPEG = "jpeg"
	formatPNG  = "png"
	formatGIF  = "gif"
	formatWebP = "webp"
	formatBMP  = "bmp"
)

// formatOf tells a picture's format by its first bytes.
func formatOf(data []byte) (string, error) {
	switch {
	case len(data) == 0:
		return "", fmt.Errorf("%w: send a JPEG, PNG, GIF, WebP or BMP picture", ErrEmpty)
	case hasPrefix(data, "\xff\xd8\xff"):
		return formatJPEG, nil
	case hasPrefix(data, pngSignature):
		return formatPNG, nil
	case hasPrefix(data, "GIF87a"), hasPrefix(data, "GIF89a"):
		return formatGIF, nil
	case hasPrefix(data, "RIFF") && len(data) >= 12 && string(data[8:12]) == "WEBP":
		return formatWebP, nil
	case hasPrefix(data, "BM"):
		return formatBMP, nil
	}
	if name := otherFormat(data); name != "" {
		return "", fmt.Errorf("%w %q: send a JPEG, PNG, GIF, WebP or BMP picture", ErrFormat, name)
	}
	return "", fmt.Errorf("%w: the bytes do not begin like a JPEG, PNG, GIF, WebP or BMP picture", ErrFormat)
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
func admit(format string, width, height int64, maxPixels int) error {
	limit := int64(maxPixels)
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

// memory is the estimate for a picture of the given size, of which a decoder of ours or of a library
// holds the given number of bytes. To that come rows, resampling coefficients, and what the libraries
// use whatever the size; an eighth is what the allocator may round up, and lost tables of compress/flate.
func memory(width, height int, held int64) int64 {
	const fixed = 128 << 10
	scratch := 8*int64(width+16) + 8*int64(width+height)
	return held + held/8 + scratch + scratch/8 + fixed
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
