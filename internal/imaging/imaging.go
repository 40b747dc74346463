// Package imaging decodes images and converts them to the input of a model. [Formats] lists the formats
// that it reads.
//
// A [Preprocessing] describes the conversion, and [Preprocessing.Compile] returns a [Plan] for it. Use [Plan.NewDecoder],
// then [Decoder.Tensor] to decode an image to a tensor, or [Decoder.Decode] to get its pixels and format.
// [Plan.Inspect] reads only the header.
//
// Trainer and server both use this package, so that the same image gives the same numbers in
// training and serving. The results are those of Pillow: for [Default], those of the CIFAKE project's loader
// with Pillow 9.4:
//
//	Image.open(file).convert("RGB").resize((32, 32), Image.BILINEAR)
//
// That means: alpha is dropped, not blended. Color profiles are ignored, and EXIF orientation as well unless the plan
// applies it. Only the first frame of an animation is decoded. An image that has the size of the result isn't resampled.
//
// The results equal Pillow's. Unlike libjpeg, which guesses the missing parts, this package rejects corrupt
// JPEG data. It also rejects arithmetic coding, lossless JPEG and more than 8 bits per sample.
//
// With [DCTScaledJPEG], large JPEGs are decoded at a reduced size, with the pixels of Pillow's draft mode.
//
// JPEG, GIF, PNG, BMP and WebP have their own decoders here, which give the pixels of libjpeg-turbo, libwebp and
// Pillow row by row. Only a progressive JPEG, an interlaced PNG or GIF and a lossless WebP need memory for the whole image.
// Inflating a PNG is left to github.com/klauspost/compress, and the other formats to libraries. The steps around
// these, in which they differ from Pillow, are implemented here: palettes, 16-bit samples, containers, and the
// resize.
package imaging

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

const (
	// Size is the width and height in pixels of the network's input.
	Size = 32
	// Channels is the number of color channels of the network's input: red, green, blue.
	Channels = 3
	// PreprocessingID identifies the preprocessing that this package implements. Model files and
	// dataset manifests record it. It must change whenever the decoded pixels change.
	PreprocessingID = "rgb-32x32-bilinear-aa-v3"

	// DefaultMaxPixels is the default of Decoder.MaxPixels: 50 Mi pixels, enough for the photo of
	// a 50-megapixel camera (8192×6144). For the default plan, JPEG in one scan, PNG, GIF, BMP and lossy WebP need less than
	// 1 MiB, other JPEGs and interlaced PNG and GIF up to 9 bytes per pixel, and the other formats up to 28;
	// Info.Memory has the estimate.
	DefaultMaxPixels = 50 << 20

	// maxSide limits width and height. The resize keeps coefficients for each column and row,
	// so that a single row of 50 million pixels would need as much memory as a whole photo.
	maxSide = 1 << 20

	// maxScratch is the size in bytes of the largest scratch buffer kept for the next image.
	maxScratch = 1 << 20

	numPixels = Size * Size * Channels
)

// Errors of Plan.Inspect and Decoder wrap one of these.
var (
	// ErrEmpty is returned if the data is empty.
	ErrEmpty = errors.New("no image data")
	// ErrFormat is returned if the data has an unsupported format, or a variant of a format that
	// isn't supported.
	ErrFormat = errors.New("unsupported image format")
	// ErrTooLarge is returned if the size in the header exceeds Decoder.MaxPixels, or a side is
	// longer than 1,048,576 pixels. No pixel is decoded.
	ErrTooLarge = errors.New("image too large")
	// ErrBroken is returned if the header or the data of a supported format is corrupt or
	// truncated.
	ErrBroken = errors.New("broken image")
)

// Info describes an image, as its header does.
type Info struct {
	// Format is the Name of one of Formats.
	Format string
	// Width and Height are the size in pixels before resizing. For an animation, they are the size
	// of the canvas.
	Width, Height int
	// Memory is an upper bound, in bytes, on the memory that decoding the image needs at any time,
	// in addition to the data itself and to the buffers of the Decoder. It's computed from the header
	// and the length of the data. The actual usage can be far below for formats whose decoders may
	// need much more memory than usual: a lossless WebP can contain thousands of Huffman codes.
	Memory int64
	// Orientation is how a viewer should turn the image, as in EXIF: 1 for not at all, 2 to 8 for rotated or
	// mirrored. Decoders apply it if Preprocessing.Orientation is ApplyOrientation. It's read from EXIF in JPEG,
	// PNG, WebP and TIFF, and from the properties irot and imir in AVIF. It's 1 for HEIC, whose properties are
	// part of decoding, and if it's absent or invalid.
	Orientation int
}

// Inspect is like [Plan.Inspect] for the plan of [Default].
func Inspect(data []byte, maxPixels int) (Info, error) { return defaultPlan().Inspect(data, maxPixels) }

// Inspect reads the header of an image without decoding pixels. It usually takes less than a
// microsecond, and doesn't allocate for valid headers. Programs can use Info.Memory to limit how many
// images they decode at once. If the header alone shows that an image can't be decoded, Inspect returns
// the same error as a Decoder of the plan with that MaxPixels.
func (p *Plan) Inspect(data []byte, maxPixels int) (Info, error) {
	info, err := inspect(data, maxPixels)
	if err != nil {
		return Info{}, fmt.Errorf("decode image: %w", err)
	}
	info.Memory += p.memory(&info)
	return info, nil
}

func inspect(data []byte, maxPixels int) (info Info, err error) {
	format, err := formatOf(data)
	if err != nil {
		return Info{}, err
	}
	switch format {
	case formatJPEG:
		hdr, err := openJPEG(data, maxPixels)
		return oriented(hdr.info, data), err
	case formatPNG:
		hdr, err := openPNG(data, maxPixels)
		return oriented(hdr.info, data), err
	case formatGIF:
		hdr, err := openGIF(data, maxPixels)
		return oriented(hdr.info, data), err
	case formatWebP:
		f, err := openWebP(data, maxPixels)
		return oriented(f.info, data), err
	case formatTIFF:
		hdr, err := openTIFF(data, maxPixels)
		return hdr.info, err
	case formatHEIC, formatAVIF:
		f, err := openHEIF(format, data, maxPixels)
		return f.info, err
	default:
		hdr, err := openBMP(data, maxPixels)
		return oriented(hdr.info, data), err
	}
}

// Decoder decodes images and prepares them by a plan: that of [Plan.NewDecoder], or of [Default] for the zero value. A Decoder reuses tables and buffers and isn't
// safe for concurrent use; use one per goroutine. It releases buffers larger than 1 MiB after each image:
// it keeps about 0.2 MiB after a 640×480 JPEG, and 30 MiB at most.
type Decoder struct {
	// MaxPixels limits width × height; 0 means DefaultMaxPixels.
	MaxPixels int

	plan   *Plan // nil: that of Default
	jpeg   jpegDecoder
	lzw    gifReader
	png    pngReader
	vp8    vp8Decoder
	vp8l   vp8lDecoder
	res    resampler
	rows   rowBuffers
	pixels []uint8 // of Tensor
}

// NewDecoder returns a Decoder that prepares images by the plan. maxPixels is Decoder.MaxPixels.
func (p *Plan) NewDecoder(maxPixels int) *Decoder { return &Decoder{MaxPixels: maxPixels, plan: p} }

// SetPlan makes the Decoder prepare further images by another plan. It keeps the buffers of the previous one.
func (d *Decoder) SetPlan(p *Plan) {
	if d.plan != p {
		d.plan = p
		d.res.across.axis, d.res.down.axis = axis{}, axis{} // their coefficients depend on the plan's filter
	}
}

// Plan returns the plan by which the Decoder prepares images.
func (d *Decoder) Plan() *Plan {
	if d.plan == nil {
		d.plan = defaultPlan()
	}
	return d.plan
}

var defaultPlan = sync.OnceValue(func() *Plan {
	plan, err := Default().Compile()
	if err != nil {
		panic(err) // a constant
	}
	return plan
})

// Decode decodes the image in data and prepares its pixels by the plan: it turns, resizes and crops the image. It writes
// them to dst, which must hold [Plan.Len] bytes: rows from the top, pixels from the left, with red, green and blue
// (or gray) from 0 to 255. Decode doesn't change or keep data. Errors wrap one of the package's Err values, and leave the
// content of dst undefined. Decoding a JPEG doesn't allocate, unless it's progressive or in several scans and needs
// buffers of more than 1 MiB.
func (d *Decoder) Decode(dst []uint8, data []byte) (Info, error) {
	return d.DecodeContext(context.Background(), dst, data)
}

// DecodeContext is like Decode, but stops decoding a HEIC or AVIF, which can take seconds, when ctx is done. The
// error then wraps ctx.Err(). Other formats take far less time, and ignore ctx. ctx.Err is called often, and
// ctx.Done never.
func (d *Decoder) DecodeContext(ctx context.Context, dst []uint8, data []byte) (Info, error) {
	if plan := d.Plan(); d.res.plan != plan {
		d.res = resampler{plan: plan}
	}
	if n := d.plan.Len(); len(dst) != n {
		return Info{}, fmt.Errorf("decode image: destination holds %d bytes, need %d", len(dst), n)
	}
	info, err := d.decode(ctx, dst, data)
	d.jpeg.trim()
	d.png.trim()
	d.vp8.trim()
	d.vp8l.trim()
	d.rows.trim()
	d.res.trim()
	if err != nil {
		return Info{}, fmt.Errorf("decode image: %w", err)
	}
	info.Memory += d.plan.memory(&info)
	return info, nil
}

// Pixels is like Decode but discards the Info.
func (d *Decoder) Pixels(dst []uint8, data []byte) error {
	_, err := d.Decode(dst, data)
	return err
}

// Tensor decodes the image in data like Decode and writes the tensor of its pixels to dst, as [Plan.Fill] does. dst must
// have the plan's type, and [Plan.Len] values.
func (d *Decoder) Tensor(dst Tensor, data []byte) error {
	n := d.Plan().Len()
	if dst.Len() != n {
		return fmt.Errorf("decode image: destination holds %d values, need %d", dst.Len(), n)
	}
	if (dst.Uint8 != nil) != (d.plan.p.Type == Uint8) {
		return fmt.Errorf("decode image: destination isn't of type %s", d.plan.p.Type)
	}
	d.pixels = grown(d.pixels, n)
	if err := d.Pixels(d.pixels, data); err != nil {
		return err
	}
	d.plan.Fill(dst, d.pixels)
	return nil
}

func (d *Decoder) decode(ctx context.Context, dst []uint8, data []byte) (Info, error) {
	format, err := formatOf(data)
	if err != nil {
		return Info{}, err
	}
	// turned prepares the resampler for the orientation.
	turned := func(info Info) Info {
		if d.plan.p.Orientation == ApplyOrientation {
			d.res.orientation = info.Orientation
		}
		return info
	}
	switch format {
	case formatJPEG:
		hdr, err := openJPEG(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		info := turned(oriented(hdr.info, data))
		hdr.reduce(d.plan.divisor(&info))
		return info, d.decodeJPEG(dst, &hdr, data)
	case formatPNG:
		hdr, err := openPNG(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		info := turned(oriented(hdr.info, data))
		return info, d.decodePNG(dst, &hdr, data)
	case formatGIF:
		hdr, err := openGIF(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return oriented(hdr.info, data), d.decodeGIF(dst, &hdr)
	case formatWebP:
		f, err := openWebP(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		info := turned(oriented(f.info, data))
		return info, d.decodeWebP(dst, &f)
	case formatTIFF:
		hdr, err := openTIFF(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		info := turned(hdr.info)
		return info, d.decodeTIFF(dst, &hdr, data)
	case formatHEIC, formatAVIF:
		f, err := openHEIF(format, data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		info := turned(f.info)
		decode := d.decodeHEIC
		if format == formatAVIF {
			decode = d.decodeAVIF
		}
		if err = decode(ctx, dst, &f); err != nil && ctx.Err() != nil {
			err = ctx.Err() // the instance reports it as a failure of the program
		}
		return info, err
	default:
		hdr, err := openBMP(data, d.MaxPixels)
		if err != nil {
			return Info{}, err
		}
		return oriented(hdr.info, data), d.decodeBMP(dst, &hdr, data)
	}
}

// admit rejects an image that is too large, before anything is allocated for it.
func admit(format string, width, height int64, maxPixels int) error {
	limit := pixelLimit(maxPixels)
	switch {
	case width <= 0 || height <= 0:
		return broken(format, "invalid size %d×%d in the header", width, height)
	case width > limit || height > limit || width*height > limit:
		return fmt.Errorf("%w: the %s image has %d×%d pixels, the maximum is %d in total; scale it down",
			ErrTooLarge, format, width, height, limit)
	case width > maxSide || height > maxSide:
		return fmt.Errorf("%w: the %s image has %d×%d pixels, the maximum per side is %d; scale it down",
			ErrTooLarge, format, width, height, maxSide)
	}
	return nil
}

// pixelLimit returns the limit that Decoder.MaxPixels stands for.
func pixelLimit(maxPixels int) int64 {
	if maxPixels <= 0 {
		return DefaultMaxPixels
	}
	return int64(maxPixels)
}

// broken returns an ErrBroken for corrupt data of a known format.
func broken(format, message string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrBroken, format, fmt.Sprintf(message, args...))
}

// brokenBy returns an ErrBroken for data that a decoder rejected with the given error.
func brokenBy(format string, width, height int, cause error) error {
	return fmt.Errorf("%w: the %s image of %d×%d pixels is truncated or corrupt: %w",
		ErrBroken, format, width, height, cause)
}

// unsupported returns an ErrFormat for an unsupported variant of a known format.
func unsupported(format, message string, args ...any) error {
	return fmt.Errorf("%w: %s with %s", ErrFormat, format, fmt.Sprintf(message, args...))
}

// memory returns the value of Info.Memory for an image of the given width whose decoder holds the given
// number of bytes, without what the plan needs. It adds row buffers, and what the libraries use regardless of
// the size. The additional eighth covers the allocator's rounding and the tables of compress/flate.
func memory(width int, held int64) int64 {
	const fixed = 128 << 10
	scratch := 8 * int64(width+16)
	return held + held/8 + scratch + scratch/8 + fixed
}

// rowBuffers are scratch buffers for one row of the image in several planes.
type rowBuffers struct{ buf [8][]uint8 }

// get returns the i-th buffer with length n. Its content is undefined.
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
