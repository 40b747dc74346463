package imaging

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Sequential JPEG with Huffman codes (ITU-T T.81) is decoded here. image/jpeg, which decodes the
// progressive ones, computes another inverse DCT than libjpeg, and allocates and computes its tables anew
// for each picture, which for a small one is much of the work. What it refuses is refused here as well. So
// are some faults for which it invents something: codes that overlap, tables that are not there, symbols
// that mean nothing, blocks that do not end, components without data.

// What can be wrong after the header.
var (
	errJPEGNoEnd      = errors.New("the end marker is missing")
	errJPEGFrames     = errors.New("it has more than one frame header")
	errJPEGTable      = errors.New("a table is damaged")
	errJPEGRestarts   = errors.New("the restart interval is damaged")
	errJPEGScan       = errors.New("a scan's header is damaged")
	errJPEGNoTable    = errors.New("a scan uses a table that is not there")
	errJPEGNoScan     = errors.New("a component is in no scan")
	errJPEGNoRestart  = errors.New("a restart marker is missing")
	errJPEGShort      = errors.New("the data ends before the last block")
	errJPEGCode       = errors.New("the data has a Huffman code that does not exist")
	errJPEGBlock      = errors.New("the data has a block of more than 64 coefficients")
	errJPEGDifference = errors.New("the data has a DC difference of more than 16 bits")
)

// zigzag is the place in a block of each coefficient in the file's order.
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

// jpegDecoder decodes sequential pictures into planes of samples. It keeps tables and buffers.
type jpegDecoder struct {
	huffman    [2][4]huffman // DC and AC
	hasHuffman [2][4]bool    // the present picture has defined it
	quant      [4][64]int32  // in the file's order
	hasQuant   [4]bool
	restart    int // units between two restart markers, 0 = there are none
	components [4]jpegComponent
	samples    [4][]uint8
	block      block
}

// jpegComponent is a component of the picture and what its present scan needs.
type jpegComponent struct {
	plane
	h, v         int // blocks across and down in a unit of several components
	scanned      bool
	across, down int // blocks in a unit of the scan
	quant        *[64]int32
	dc, ac       *huffman
	before       int32 // DC coefficient of the last block
}

// decode decodes the planes of a picture. They are valid until the next one.
func (d *jpegDecoder) decode(hdr *jpegHeader, data []byte) (planes [4]plane, err error) {
	d.hasHuffman, d.hasQuant, d.restart = [2][4]bool{}, [4]bool{}, 0
	d.block = block{} // should the last picture have ended in the middle of one
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
					return planes, hdr.damaged(errJPEGNoScan)
				}
			}
			return planes, nil
		case m == markerDHT:
			err = d.defineHuffman(s.body, baseline)
		case m >= markerSOF0 && m <= 0xcf: // read already, if it is the first one
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
			return planes, unsupported("JPEG", "more than 8 bits a sample: %v", err)
		}
		if err != nil {
			return planes, hdr.damaged(err)
		}
	}
}

// defineHuffman takes the codes in a DHT segment.
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

// defineQuant takes the tables in a DQT segment.
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

// scan decodes the scan whose header is s, and returns where the next marker is to be looked for.
func (d *jpegDecoder) scan(hdr *jpegHeader, data []byte, s jpegSegment, baseline bool) (end int, err error) {
	components, n, err := d.begin(hdr, s.body, baseline)
	if err != nil {
		return 0, err
	}
	scan := components[:n]
	wide, high := hdr.units()
	if n == 1 { // then a unit is a block, and there are none that lie outside of the picture
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

// block decodes the next block of the component into b, which is all zero. No coefficient behind last,
// by the file's order, is other than zero.
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
		if e>>16 == 0 { // no coefficient at once
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
				k += 15 // zeros, and one more
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
		// As in libjpeg, products have 16 bits. It matters to damaged data only.
		b[zigzag[k]&63] = int32(int16(e >> 16 * quant[k]))
		last = k
	}
	if n < 0 {
		return 0, errJPEGShort
	}
	r.at, r.bits, r.n = at, bits, n
	return last, nil
}

// fault is err, or that the data is too short if err comes from bits that are not in it.
func fault(n int, err error) error {
	if n < 0 {
		return errJPEGShort
	}
	return err
}

// trim lets go of what a huge picture left behind.
func (d *jpegDecoder) trim() {
	for i := range d.samples {
		d.components[i] = jpegComponent{}
		if cap(d.samples[i]) > maxScratch {
			d.samples[i] = nil
		}
	}
}
