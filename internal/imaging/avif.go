package imaging

import (
	"context"
	"encoding/binary"
	"math"
)

// checkAV1 is like checkHEVC for AV1.
func checkAV1(items []heifItem, f *heifFile, maxPixels int) error {
	work := int64(0)
	for _, item := range items {
		coded, frames := int64(0), int64(0)
		for rest := item.data; len(rest) > 0; {
			kind, body, next, ok := nextOBU(rest)
			if !ok {
				return broken("AVIF", "truncated image data")
			}
			rest = next
			switch kind {
			case obuSequenceHeader:
				width, height, ok := av1Size(body)
				if !ok || !f.grid && (width != f.width || height != f.height) {
					return broken("AVIF", "invalid parameters of the image data")
				}
				coded = max(coded, int64(width)*int64(height))
			case obuFrameHeader, obuFrame:
				frames++
			}
		}
		work += coded * frames
	}
	if limit := pixelLimit(maxPixels); work > decodingWork*limit {
		return unsupported("AVIF", "image data for %d pixels, %d at most are decoded", work, decodingWork*limit)
	}
	return nil
}

// Kinds of open bitstream units.
const (
	obuSequenceHeader = 1
	obuFrameHeader    = 3
	obuFrame          = 6
)

// nextOBU returns the kind and the content of the first unit of AV1 data, and the data after it.
func nextOBU(data []byte) (kind int, body, rest []byte, ok bool) {
	p := fields{data: data}
	head := p.take(1)
	if head&4 != 0 {
		p.take(1)
	}
	size := uint64(len(p.data))
	if head&2 != 0 {
		size = 0
		for shift := 0; ; shift += 7 {
			b := p.take(1)
			size |= b & 0x7f << shift
			if b < 0x80 {
				break
			}
			if shift > 35 {
				return 0, nil, nil, false
			}
		}
	}
	body = p.skip(size)
	return int(head >> 3 & 15), body, p.data, !p.short
}

// av1Size returns the size of the largest frames that a sequence header allows.
func av1Size(header []byte) (width, height int, ok bool) {
	b := syntaxReader{data: header}
	b.bits(4) // profile, and whether it is a still image
	if reduced := b.flag(); reduced {
		b.bits(5)
	} else {
		decoderModel, delayBits := false, 0
		if b.flag() { // timing
			b.bits(64)
			if b.flag() {
				b.golomb(math.MaxUint32 - 1)
			}
			if decoderModel = b.flag(); decoderModel {
				delayBits = int(b.bits(5)) + 1
				b.bits(32 + 10)
			}
		}
		initialDelay := b.flag()
		for range b.bits(5) + 1 {
			b.bits(12)
			if level := b.bits(5); level > 7 {
				b.bits(1)
			}
			if decoderModel && b.flag() {
				b.bits(2*delayBits + 1)
			}
			if initialDelay && b.flag() {
				b.bits(4)
			}
		}
	}
	widthBits, heightBits := int(b.bits(4))+1, int(b.bits(4))+1
	width, height = int(b.bits(widthBits))+1, int(b.bits(heightBits))+1
	return width, height, !b.short
}

// avifMemory returns the memory in bytes of libavif's instance: the file, and per pixel the decoded image, its
// copies in libavif, and RGBA twice.
func avifMemory(f *heifFile) int64 {
	perPixel := int64(24)
	if f.deep {
		perPixel = 40
	}
	pixels := int64(f.width+128) * int64(f.height+128)
	return (6<<20 + int64(len(f.data)) + perPixel*pixels + 0xffff) &^ 0xffff
}

func (d *Decoder) decodeAVIF(ctx context.Context, dst []uint8, f *heifFile) error {
	items, err := f.parts("AVIF", "av01", "av1C")
	if err != nil {
		return err
	}
	if err := checkAV1(items, f, d.MaxPixels); err != nil {
		return err
	}
	run, err := libavif.start(ctx, avifMemory(f))
	if err != nil {
		return err
	}
	defer run.close()
	width, height := f.info.Width, f.info.Height
	fail := func(cause error) error { return brokenBy("AVIF", width, height, cause) }
	in, file, err := run.allocate(len(f.data))
	if err != nil {
		return fail(err)
	}
	copy(file, f.data)
	prepareHEIF(file, "avif", items)
	// Addresses of the width, the height, the bits per sample, and the number and duration of the frames.
	header, values, err := run.allocate(4*4 + 8)
	if err != nil {
		return fail(err)
	}
	if _, err := run.call("decode", in, uint32(len(file)), 1, 0, header, header+4, header+8, header+12, 0, 0); err != nil {
		return fail(err)
	}
	memory := run.module.Memory()
	value := func(i uint32) int { v, _ := memory.ReadUint32Le(header + 4*i); return int(v) }
	if value(0) != width || value(1) != height {
		return broken("AVIF", "%d×%d pixels, but the header announces %d×%d", value(0), value(1), width, height)
	}
	sample := 1
	if value(2) > 8 {
		sample = 2
	}
	size := 4 * sample * width * height
	out, _, err := run.allocate(size)
	if err != nil {
		return fail(err)
	}
	// The program doesn't report that decoding failed, but then it doesn't write the duration either.
	duration := values[16:]
	binary.LittleEndian.PutUint64(duration, math.MaxUint64)
	if _, err := run.call("decode", in, uint32(len(file)), 0, 0, header, header+4, header+8, header+12, header+16, out); err != nil {
		return fail(err)
	}
	if binary.LittleEndian.Uint64(duration) == math.MaxUint64 {
		return fail(errInvalid)
	}
	pixels, ok := memory.Read(out, uint32(size))
	if !ok {
		return fail(errNoMemory)
	}
	d.res.begin(dst, width, height)
	r, g, b := d.rows.get(0, width), d.rows.get(1, width), d.rows.get(2, width)
	high := sample - 1 // offset of a sample's high byte
	for y := range height {
		row := pixels[y*width*4*sample:][:width*4*sample]
		for x := range width {
			pixel := row[x*4*sample:]
			r[x], g[x], b[x] = pixel[high], pixel[sample+high], pixel[2*sample+high]
		}
		d.res.row(y, r, g, b)
	}
	d.res.end()
	return nil
}
