package imaging

import (
	"encoding/binary"
	"errors"
	"slices"
)

// This file decodes sequential JPEG with Huffman coding (ITU-T T.81). image/jpeg, which is used for
// progressive JPEG, has a different inverse DCT than libjpeg, and allocates and computes its tables for each
// image, which takes a large part of the time for a small one. This decoder rejects everything that
// image/jpeg rejects, and also faults for which image/jpeg makes up data: overlapping codes, missing tables,
// invalid symbols, blocks without an end, components without data.

// Errors in the data after the header.
var (
	errJPEGNoEnd      = errors.New("missing end marker")
	errJPEGFrames     = errors.New("more than one frame header")
	errJPEGTable      = errors.New("invalid table")
	errJPEGRestarts   = errors.New("invalid restart interval")
	errJPEGScan       = errors.New("invalid scan header")
	errJPEGNoTable    = errors.New("a scan refers to a missing table")
	errJPEGNoScan     = errors.New("a component has no scan")
	errJPEGNoRestart  = errors.New("missing restart marker")
	errJPEGShort      = errors.New("the data ends before the last block")
	errJPEGCode       = errors.New("invalid Huffman code")
	errJPEGBlock      = errors.New("a block has more than 64 coefficients")
	errJPEGDifference = errors.New("a DC difference has more than 16 bits")
)

// zigzag maps the index of a coefficient in the file (zigzag order) to its index in a block.
var zigzag = [64]uint8{
	0, 1, 8, 16, 9, 2, 3, 10,
	17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34,
	27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36,
	29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46,
	53, 60, 61, 54, 47, 55, 62, 63,
}

// jpegDecoder decodes sequential JPEGs into planes of samples. It reuses tables and buffers.
type jpegDecoder struct {
	huffman    [2][4]huffman // DC and AC
	hasHuffman [2][4]bool    // whether the current image has defined the table
	quant      [4][64]int32  // in zigzag order
	hasQuant   [4]bool
	restart    int // units between restart markers; 0: no restart markers
	components [4]jpegComponent
	samples    [4][]uint8
	block      block
}

// jpegComponent is a component of the image and the state of its current scan.
type jpegComponent struct {
	plane
	h, v         int // blocks across and down per unit in scans of several components
	scanned      bool
	across, down int // blocks across and down per unit in the current scan
	quant        *[64]int32
	dc, ac       *huffman
	before       int32 // DC coefficient of the previous block
}

// decode returns the decoded planes of an image. They are valid until the next call.
func (d *jpegDecoder) decode(hdr *jpegHeader, data []byte) (planes [4]plane, err error) {
	d.hasHuffman, d.hasQuant, d.restart = [2][4]bool{}, [4]bool{}, 0
	d.block = block{} // the previous image may have ended within a block
	unitsWide, unitsHigh := hdr.units()
	for i := range hdr.components {
		h, v := hdr.h[i], hdr.v[i]
		stride := 8 * h * unitsWide
		size := stride * 8 * v * unitsHigh
		if cap(d.samples[i]) < size {
			d.samples[i] = make([]uint8, size)
		}
		planes[i] = newPlane(d.samples[i][:size], stride, hdr.width, hdr.height, hdr.h[0]/h, hdr.v[0]/v)
		d.components[i] = jpegComponent{plane: planes[i], h: h, v: v}
	}

	frames, baseline := 0, false
	for at := 2; ; {
		s, err := nextJPEGSegment(data, at)
		if err != nil {
			return planes, err
		}
		at = s.end
		switch m := s.marker; {
		case m == 0:
			err = errJPEGNoEnd
		case m == markerEOI:
			for i := range hdr.components {
				if !d.components[i].scanned {
					return planes, hdr.corrupt(errJPEGNoScan)
				}
			}
			return planes, nil
		case m == markerDHT:
			err = d.defineHuffman(s.body, baseline)
		case m >= markerSOF0 && m <= 0xcf: // readJPEGHeader has read the first one
			baseline = m == markerSOF0
			if frames++; frames > 1 {
				err = errJPEGFrames
			}
		case m == markerDQT:
			err = d.defineQuant(s.body)
		case m == markerDRI:
			if len(s.body) != 2 {
				err = errJPEGRestarts
				break
			}
			d.restart = int(binary.BigEndian.Uint16(s.body))
		case m == markerSOS:
			at, err = d.scan(hdr, data, s, baseline)
		}
		if errors.Is(err, errJPEGDifference) {
			return planes, unsupported("JPEG", "more than 8 bits per sample: %v", err)
		}
		if err != nil {
			return planes, hdr.corrupt(err)
		}
	}
}

// defineHuffman reads the Huffman tables in a DHT segment.
func (d *jpegDecoder) defineHuffman(body []byte, baseline bool) error {
	for len(body) > 0 {
		if len(body) < 17 {
			return errJPEGTable
		}
		class, number := body[0]>>4, body[0]&15
		if class > 1 || number > 3 || baseline && number > 1 {
			return errJPEGTable
		}
		counts := (*[16]uint8)(body[1:])
		n := 0
		for _, c := range counts {
			n += int(c)
		}
		if n == 0 || n > 256 || len(body) < 17+n ||
			!d.huffman[class][number].define(counts, body[17:17+n], class == 1) {
			return errJPEGTable
		}
		d.hasHuffman[class][number] = true
		body = body[17+n:]
	}
	return nil
}

// defineQuant reads the quantization tables in a DQT segment.
func (d *jpegDecoder) defineQuant(body []byte) error {
	for len(body) > 0 {
		wide, number := body[0]>>4, body[0]&15
		body = body[1:]
		if wide > 1 || number > 3 || len(body) < 64<<wide {
			return errJPEGTable
		}
		for i := range d.quant[number] {
			if wide == 1 {
				d.quant[number][i] = int32(binary.BigEndian.Uint16(body[2*i:]))
			} else {
				d.quant[number][i] = int32(body[i])
			}
		}
		d.hasQuant[number] = true
		body = body[64<<wide:]
	}
	return nil
}

// begin reads the header of a scan and returns its components.
func (d *jpegDecoder) begin(hdr *jpegHeader, body []byte, baseline bool) (scan [4]*jpegComponent, n int, err error) {
	if len(body) < 1 {
		return scan, 0, errJPEGScan
	}
	n = int(body[0])
	if n < 1 || n > hdr.components || len(body) != 4+2*n {
		return scan, 0, errJPEGScan
	}
	blocks := 0
	for i := range n {
		id, dc, ac := body[1+2*i], body[2+2*i]>>4, body[2+2*i]&15
		if dc > 3 || ac > 3 || baseline && (dc > 1 || ac > 1) {
			return scan, 0, errJPEGScan
		}
		for j := range hdr.components {
			if hdr.ids[j] == id {
				scan[i] = &d.components[j]
				if !d.hasHuffman[0][dc] || !d.hasHuffman[1][ac] || !d.hasQuant[hdr.quant[j]] {
					return scan, 0, errJPEGNoTable
				}
				scan[i].quant = &d.quant[hdr.quant[j]]
			}
		}
		c := scan[i]
		if c == nil || slices.Contains(scan[:i], c) {
			return scan, 0, errJPEGScan
		}
		c.scanned, c.across, c.down, c.before = true, c.h, c.v, 0
		c.dc, c.ac = &d.huffman[0][dc], &d.huffman[1][ac]
		blocks += c.h * c.v
	}
	if hdr.components > 1 && blocks > 10 {
		return scan, 0, errJPEGScan
	}
	if n == 1 {
		scan[0].across, scan[0].down = 1, 1
	}
	return scan, n, nil
}

// scan decodes the scan with header s, and returns the offset from which to search the next marker.
func (d *jpegDecoder) scan(hdr *jpegHeader, data []byte, s jpegSegment, baseline bool) (end int, err error) {
	components, n, err := d.begin(hdr, s.body, baseline)
	if err != nil {
		return 0, err
	}
	scan := components[:n]
	wide, high := hdr.units()
	if n == 1 { // a unit is a single block, and blocks outside of the image are omitted
		wide, high = (scan[0].width+7)/8, (scan[0].height+7)/8
	}

	r := bitReader{data: data, at: s.end}
	for unit := range wide * high {
		if d.restart > 0 && unit > 0 && unit%d.restart == 0 {
			if !r.restart(markerRST0 + uint8(unit/d.restart-1)&7) {
				return 0, errJPEGNoRestart
			}
			for _, c := range scan {
				c.before = 0
			}
		}
		x, y := unit%wide, unit/wide
		for _, c := range scan {
			for j := range c.down {
				for i := range c.across {
					last, err := r.block(&d.block, c)
					if err != nil {
						return 0, err
					}
					column, row := 8*(x*c.across+i), 8*(y*c.down+j)
					d.block.inverse(last, c.pix[row*c.stride+column:], c.stride)
				}
			}
		}
	}
	return r.at, nil
}

// block decodes the next block of the component into b, which must be all zero. last is the index, in zigzag
// order, of the last coefficient that isn't zero.
func (r *bitReader) block(b *block, c *jpegComponent) (last int, err error) {
	data, at, bits, n := r.data, r.at, r.bits, r.n
	quant := c.quant

	if n < 32 {
		at, bits, n = fill(data, at, bits, n)
	}
	e := c.dc.fast[bits>>(64-fastBits)]
	size, length := int(e>>8&255), int(e&255)
	if length == 0 {
		if size, length = c.dc.long(bits); length == 0 {
			return 0, fault(n, errJPEGCode)
		}
	}
	if size > 16 {
		return 0, fault(n-length, errJPEGDifference)
	}
	bits <<= uint(length) & 63
	c.before += extend(bits, size)
	bits <<= uint(size) & 63
	n -= length + size
	b[0] = int32(int16(c.before * quant[0]))

	ac := c.ac
	for k := 1; k < 64; k++ {
		if n < 32 {
			if at, bits, n = fill(data, at, bits, n); n <= 0 {
				return 0, errJPEGShort
			}
		}
		e := ac.fast[bits>>(64-fastBits)]
		if e>>16 == 0 { // the table entry has no coefficient
			symbol, length := int(e>>8&255), int(e&255)
			if length == 0 {
				if symbol, length = ac.long(bits); length == 0 {
					return 0, fault(n, errJPEGCode)
				}
			}
			size := symbol & 15
			if size == 0 {
				bits <<= uint(length) & 63
				n -= length
				if symbol == 0 {
					break
				}
				if symbol != 0xf0 {
					return 0, fault(n, errJPEGCode)
				}
				k += 15 // 16 zeros, with the loop's k++
				continue
			}
			value := extend(bits<<(uint(length)&63), size)
			e = value<<16 | int32(symbol>>4<<8|length+size)
		}
		bits <<= uint(e) & 63
		n -= int(e & 63)
		k += int(e >> 8 & 15)
		if k > 63 {
			return 0, errJPEGBlock
		}
		// As in libjpeg, products have 16 bits. This only matters for corrupt data.
		b[zigzag[k]&63] = int32(int16(e >> 16 * quant[k]))
		last = k
	}
	if n < 0 {
		return 0, errJPEGShort
	}
	r.at, r.bits, r.n = at, bits, n
	return last, nil
}

// fault returns err, or errJPEGShort if n shows that bits past the end of the data were used.
func fault(n int, err error) error {
	if n < 0 {
		return errJPEGShort
	}
	return err
}

// trim releases large buffers.
func (d *jpegDecoder) trim() {
	for i := range d.samples {
		d.components[i] = jpegComponent{}
		if cap(d.samples[i]) > maxScratch {
			d.samples[i] = nil
		}
	}
}
