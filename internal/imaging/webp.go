package imaging

import "encoding/binary"

// golang.org/x/image/webp holds a whole image, rejects animations, of which Pillow decodes the first frame, and decodes
// the alpha channel, which is dropped. So the container is read here, lossy frames in vp8.go and lossless ones in vp8l.go.

// webpFrame is the first frame of a WebP file.
type webpFrame struct {
	canvasWidth, canvasHeight int
	left, top                 int
	width, height             int
	lossless                  bool
	data                      []byte
	info                      Info // set by openWebP
}

func readWebP(data []byte) (f webpFrame, err error) {
	cut := func() error { return broken("WebP", "truncated after %d bytes, before the first frame", len(data)) }
	size := int64(binary.LittleEndian.Uint32(data[4:]))
	if size < 4 || size+8 > int64(len(data)) {
		return f, broken("WebP", "truncated: the header announces %d bytes, got %d", size+8, len(data))
	}
	data = data[:8+size]
	chunks := data[12:]
	extended, animated := false, false
	for len(chunks) >= 8 {
		kind := string(chunks[:4])
		length := int64(binary.LittleEndian.Uint32(chunks[4:]))
		if length > int64(len(chunks))-8 {
			return f, cut()
		}
		body := chunks[8 : 8+length]
		chunks = chunks[min(8+length+length&1, int64(len(chunks))):]
		switch kind {
		case "VP8X":
			if len(body) < 10 || extended || animated {
				return f, broken("WebP", "invalid extended header")
			}
			extended = true
			f.canvasWidth, f.canvasHeight = 1+uint24(body[4:]), 1+uint24(body[7:])
		case "ANMF":
			if len(body) < 16 || !extended || animated {
				return f, broken("WebP", "invalid header of the first frame")
			}
			// This chunk contains the chunks of the first frame. All others are ignored.
			animated = true
			f.left, f.top = 2*uint24(body), 2*uint24(body[3:])
			f.width, f.height = 1+uint24(body[6:]), 1+uint24(body[9:])
			if f.left+f.width > f.canvasWidth || f.top+f.height > f.canvasHeight {
				return f, broken("WebP", "the first frame exceeds the canvas")
			}
			chunks = body[16:]
		case "VP8 ", "VP8L":
			f.lossless = kind == "VP8L"
			f.data = body
			width, height, err := webpFrameSize(kind, body)
			if err != nil {
				return f, err
			}
			if !extended {
				f.canvasWidth, f.canvasHeight = width, height
			}
			if !animated {
				f.width, f.height = f.canvasWidth, f.canvasHeight
			}
			if width != f.width || height != f.height {
				return f, broken("WebP", "the frame has %d×%d pixels, but the header announces %d×%d", width, height, f.width, f.height)
			}
			return f, nil
		}
	}
	return f, cut()
}

func webpFrameSize(kind string, body []byte) (width, height int, err error) {
	if kind == "VP8L" {
		if len(body) < 5 || body[0] != 0x2f || body[4]>>5 != 0 {
			return 0, 0, broken("WebP", "invalid lossless header")
		}
		bits := binary.LittleEndian.Uint32(body[1:])
		return 1 + int(bits&0x3fff), 1 + int(bits>>14&0x3fff), nil
	}
	if len(body) < 10 || body[0]&1 != 0 || string(body[3:6]) != "\x9d\x01\x2a" {
		return 0, 0, broken("WebP", "invalid lossy header")
	}
	return int(binary.LittleEndian.Uint16(body[6:]) & 0x3fff), int(binary.LittleEndian.Uint16(body[8:]) & 0x3fff), nil
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// openWebP reads the headers and rejects images that can't be decoded or are too large.
func openWebP(data []byte, maxPixels int) (webpFrame, error) {
	f, err := readWebP(data)
	if f.canvasWidth > 0 { // the size was read: ErrTooLarge takes precedence
		if err := admit("WebP", int64(f.canvasWidth), int64(f.canvasHeight), maxPixels); err != nil {
			return f, err
		}
	}
	if err != nil {
		return f, err
	}
	if err := admit("WebP", int64(f.width), int64(f.height), maxPixels); err != nil {
		return f, err
	}
	held := lossyMemory(&f)
	if f.lossless {
		held = losslessMemory(&f)
	}
	w, h := f.canvasWidth, f.canvasHeight
	f.info = Info{Format: formatWebP, Width: w, Height: h, Memory: memory(w, held)}
	return f, nil
}

// lossyMemory returns the number of bytes that vp8Decoder holds: a few rows.
func lossyMemory(f *webpFrame) int64 { return vp8Memory(f.width) }

// losslessMemory returns the maximum number of bytes that vp8lDecoder allocates.
func losslessMemory(f *webpFrame) int64 {
	const (
		perGroup  = 192 + 4*(vp8lNumCodes+2)<<vp8lRootBits                // the first tables, and that of whole pixels
		perSecond = 4 * (2704 + 3*630 + 410 - vp8lNumCodes<<vp8lRootBits) // second tables, as zlib's enough.c has it
		perBit    = 3 * 4 << (vp8lMaxLength - vp8lRootBits - 3)           // a second table of 128 entries has 8 symbols or more
	)
	bits := 8 * int64(len(f.data))
	tiles := int64((f.width+3)/4) * int64((f.height+3)/4)
	groups := min(vp8lMaxGroups, tiles, bits/20+1) // a group takes at least 20 bits
	seconds := min(groups*perSecond, perBit*bits)  // two bits can encode six symbols
	tables := groups*perGroup + seconds
	// Tables are allocated in chunks, whose rest can be too small for the largest table. A pixel per tile is for the
	// groups and two transforms each.
	return 4*int64(f.width)*int64(f.height) + 3*4*tiles + 4*4*int64(f.width+1) + tables + tables/4 + 2*4*vp8lChunk
}

func (d *Decoder) decodeWebP(dst []uint8, f *webpFrame) error {
	w := f.canvasWidth
	r, g, b := d.rows.get(0, w), d.rows.get(1, w), d.rows.get(2, w)
	clear(r)
	clear(g)
	clear(b)
	d.res.begin(dst, w, f.canvasHeight)
	for y := range f.top { // an animation's canvas is black around its frame
		d.res.row(y, r, g, b)
	}
	wide := f.width == w
	fr, fg, fb := r[f.left:][:f.width], g[f.left:][:f.width], b[f.left:][:f.width]
	if f.lossless {
		err := d.vp8l.run(f.data, f.width, f.height, func(y int, argb []uint32) {
			if wide {
				d.res.argbRow(f.top+y, argb, &d.rows)
				return
			}
			splitARGB(fr, fg, fb, argb)
			d.res.row(f.top+y, r, g, b)
		})
		if err != nil {
			return brokenBy("WebP", f.width, f.height, err)
		}
	} else {
		dec := &d.vp8
		if err := dec.begin(f.data, f.width, f.height); err != nil {
			return brokenBy("WebP", f.width, f.height, err)
		}
		cw := (f.width + 1) / 2
		u, v := d.rows.get(3, (cw+3)&^3*2), d.rows.get(4, (cw+3)&^3*2)
		lastChroma := (f.height+1)/2 - 1
		y := 0
		for row := range dec.high {
			if err := dec.row(row); err != nil {
				return brokenBy("WebP", f.width, f.height, err)
			}
			for ; y < dec.ready(row+1, f.height); y++ {
				near := y / 2
				far := min(max(near-1+y%2*2, 0), lastChroma)
				nearU, nearV := dec.chromaLines(near)
				farU, farV := dec.chromaLines(far)
				webpUpsample(u, nearU[:cw], farU[:cw])
				webpUpsample(v, nearV[:cw], farV[:cw])
				luma := dec.lumaLine(y)[:f.width]
				if wide {
					d.res.yccRow(f.top+y, webpColors, luma, u, v, &d.rows)
					continue
				}
				webpColors.row(fr, fg, fb, luma, u, v)
				d.res.row(f.top+y, r, g, b)
			}
		}
	}
	if f.top+f.height < f.canvasHeight {
		clear(r)
		clear(g)
		clear(b)
		for y := f.top + f.height; y < f.canvasHeight; y++ {
			d.res.row(y, r, g, b)
		}
	}
	d.res.end()
	return nil
}
