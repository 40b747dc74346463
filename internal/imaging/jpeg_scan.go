package imaging

import (
	"encoding/binary"
	"errors"
	"slices"
)

// This file decodes the tables and scans of a JPEG with Huffman coding (ITU-T T.81). The results equal those of
// libjpeg-turbo for every file that it reads without a warning. Where libjpeg-turbo warns and makes up data, this
// decoder reports an error. It also rejects invalid symbols, blocks with too many coefficients, and components
// without data, which libjpeg-turbo ignores.

// Errors in the data after the header.
var (
	errJPEGNoEnd       = errors.New("the data ends before the last scan")
	errJPEGFrames      = errors.New("more than one frame header")
	errJPEGTable       = errors.New("invalid table")
	errJPEGRestarts    = errors.New("invalid restart interval")
	errJPEGScan        = errors.New("invalid scan header")
	errJPEGProgression = errors.New("invalid range of coefficients or bits in a scan header")
	errJPEGNoTable     = errors.New("a scan refers to a missing table")
	errJPEGNoScan      = errors.New("a component has no scan")
	errJPEGTwoScans    = errors.New("a component has more than one scan")
	errJPEGNoRestart   = errors.New("missing restart marker")
	errJPEGShort       = errors.New("the data ends before the last block")
	errJPEGCode        = errors.New("invalid Huffman code")
	errJPEGBlock       = errors.New("a block has more than 64 coefficients")
	errJPEGDifference  = errors.New("a DC difference has more than 16 bits")
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

// jpegDecoder decodes JPEGs into planes of samples. It reuses tables and buffers.
type jpegDecoder struct {
	huffman      [2][4]huffman // DC and AC
	hasHuffman   [2][4]bool    // whether the current image has defined the table
	quant        [4][64]int32  // in zigzag order
	hasQuant     [4]bool
	restart      int // units between restart markers; 0: no restart markers
	scans        int // scans read so far
	components   [4]jpegComponent
	planes       [4]plane
	samples      [4][]uint8
	coefficients [4][]int16  // progressive only
	masks        [4][]uint64 // progressive only
	block        block
}

// jpegComponent is a component of the image and the state of its current scan.
type jpegComponent struct {
	*plane
	h, v         int // blocks across and down per unit in scans of several components
	wide         int // blocks across, including those that pad the last unit
	scanned      bool
	across, down int    // blocks across and down per unit in the current scan
	offset       [4]int // in pix, of the rows of blocks in the current row of units
	quant        [64]int32
	dc, ac       *huffman
	before       int32 // DC coefficient of the previous block
	progress     progress
}

// decode decodes an image. It calls show when rows of the image are complete, with the planes and the number of
// these rows. At the end of the data, it may return an error nevertheless.
func (d *jpegDecoder) decode(hdr *jpegHeader, data []byte, show func(planes *[4]plane, end int)) error {
	d.hasHuffman, d.hasQuant, d.restart, d.scans = [2][4]bool{}, [4]bool{}, 0, 0
	d.block = block{} // the previous image may have ended within a block
	for i := range hdr.components {
		wide, high := hdr.blocks(i)
		size := hdr.size[i]
		n := size * size * wide * high
		if cap(d.samples[i]) < n {
			d.samples[i] = make([]uint8, n)
		}
		width, height := hdr.reduced()
		hr, vr := hdr.hmax*hdr.full/(hdr.h[i]*size), hdr.vmax*hdr.full/(hdr.v[i]*size)
		d.planes[i] = newPlane(d.samples[i][:n], size*wide, width, height, hr, vr)
		d.planes[i].size, d.planes[i].plain = size, hdr.full == 1
		d.components[i] = jpegComponent{plane: &d.planes[i], h: hdr.h[i], v: hdr.v[i], wide: wide}
		if hdr.progressive {
			d.beginProgress(hdr, i)
		}
	}

	frames := 0
	for at := 2; ; {
		s, err := nextJPEGSegment(data, at)
		if err != nil {
			return err
		}
		at = s.end
		switch m := s.marker; {
		case m == 0 && !d.complete(hdr):
			err = errJPEGNoEnd
		case m == 0, m == markerEOI: // some cameras don't write the end marker
			if err = d.finish(hdr, show); err == nil {
				return nil
			}
		case m == markerDHT:
			err = d.defineHuffman(s.body)
		case m >= markerSOF0 && m <= 0xcf: // readJPEGHeader has read the first one
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
			if d.scans++; d.scans > maxScans {
				return unsupported("JPEG", "more than %d scans; save it as a baseline JPEG", maxScans)
			}
			at, err = d.scan(hdr, data, s, show)
		}
		if errors.Is(err, errJPEGDifference) {
			return unsupported("JPEG", "more than 8 bits per sample: %v", err)
		}
		if err != nil {
			return hdr.corrupt(err)
		}
	}
}

// complete reports whether no further scan is necessary.
func (d *jpegDecoder) complete(hdr *jpegHeader) bool {
	for i := range hdr.components {
		c := &d.components[i]
		if !c.scanned || hdr.progressive && c.progress.bits != [64]int8{} {
			return false
		}
	}
	return true
}

// finish shows the rows after the last scan.
func (d *jpegDecoder) finish(hdr *jpegHeader, show func(planes *[4]plane, end int)) error {
	for i := range hdr.components {
		if !d.components[i].scanned {
			return errJPEGNoScan
		}
	}
	if hdr.progressive {
		d.finishProgress(hdr, show)
	}
	_, height := hdr.reduced()
	show(&d.planes, height)
	return nil
}

// defineHuffman reads the Huffman tables in a DHT segment.
func (d *jpegDecoder) defineHuffman(body []byte) error {
	for len(body) > 0 {
		if len(body) < 17 {
			return errJPEGTable
		}
		class, number := body[0]>>4, body[0]&15
		if class > 1 || number > 3 {
			return errJPEGTable
		}
		counts := (*[16]uint8)(body[1:])
		n := 0
		for _, c := range counts {
			n += int(c)
		}
		if n > 256 || len(body) < 17+n {
			return errJPEGTable
		}
		d.huffman[class][number].define(counts, body[17:17+n], class == 1)
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

// table returns a Huffman table that a scan uses. standard allows the standard's table in place of a missing one.
func (d *jpegDecoder) table(class int, number uint8, standard bool) (*huffman, error) {
	if number > 3 {
		return nil, errJPEGNoTable
	}
	h := &d.huffman[class][number]
	if !d.hasHuffman[class][number] {
		if !standard || number > 1 {
			return nil, errJPEGNoTable
		}
		spec := []byte(standardTables[class][number])
		h.define((*[16]uint8)(spec), spec[16:], class == 1)
		d.hasHuffman[class][number] = true
	}
	if h.length == 0 {
		return nil, errJPEGTable
	}
	return h, nil
}

// begin reads the header of a scan and returns its components.
func (d *jpegDecoder) begin(hdr *jpegHeader, body []byte) (scan [4]*jpegComponent, n int, err error) {
	if len(body) < 1 {
		return scan, 0, errJPEGScan
	}
	n = int(body[0])
	if n < 1 || n > hdr.components || len(body) != 4+2*n {
		return scan, 0, errJPEGScan
	}
	blocks := 0
	for i := range n {
		// Some files use one identifier for several components, in the order of the frame header.
		j := 0
		for j < hdr.components && (hdr.ids[j] != body[1+2*i] || slices.Contains(scan[:i], &d.components[j])) {
			j++
		}
		if j == hdr.components {
			return scan, 0, errJPEGScan
		}
		c := &d.components[j]
		scan[i] = c
		if !c.scanned {
			if !d.hasQuant[hdr.quant[j]] {
				return scan, 0, errJPEGNoTable
			}
			c.quant = d.quant[hdr.quant[j]]
		} else if !hdr.progressive {
			return scan, 0, errJPEGTwoScans
		}
		c.scanned, c.across, c.down = true, c.h, c.v
		blocks += c.h * c.v
	}
	if n == 1 {
		scan[0].across, scan[0].down = 1, 1
	} else if blocks > 10 {
		return scan, 0, errJPEGScan
	}
	return scan, n, nil
}

// scan decodes the scan with header s, and returns the offset from which to search the next marker.
func (d *jpegDecoder) scan(hdr *jpegHeader, data []byte, s jpegSegment, show func(planes *[4]plane, end int)) (end int, err error) {
	components, n, err := d.begin(hdr, s.body)
	if err != nil {
		return 0, err
	}
	scan, tables, rest := components[:n], s.body[1:1+2*n], s.body[1+2*n:]
	band := band{last: 63}
	if hdr.progressive {
		band.first, band.last, band.before, band.shift = int(rest[0]), int(rest[1]), int(rest[2]>>4), int(rest[2]&15)
		if err := band.check(n); err != nil {
			return 0, err
		}
	}
	for i, c := range scan {
		if band.first == 0 && band.before == 0 {
			if c.dc, err = d.table(0, tables[2*i+1]>>4, !hdr.progressive); err != nil {
				return 0, err
			}
		}
		if band.last > 0 {
			if c.ac, err = d.table(1, tables[2*i+1]&15, !hdr.progressive); err != nil {
				return 0, err
			}
			if c.size == 1 && !hdr.progressive {
				c.ac.makeSkip()
			}
		}
		if hdr.progressive {
			for k := band.first; k <= band.last; k++ {
				c.progress.bits[k] = int8(band.shift)
			}
		}
	}

	wide, high := hdr.units()
	if n == 1 { // a unit is a single block, and blocks outside of the image are omitted
		wide, high = scan[0].blocks()
	}
	units := wide * high
	interval := units
	if d.restart > 0 {
		interval = d.restart
	}
	r := bitReader{data: data, at: s.end}
	for first := 0; first < units; first += interval {
		if first > 0 && !r.restart(markerRST0+uint8(first/interval-1)&7) {
			return 0, errJPEGNoRestart
		}
		last := min(first+interval, units)
		switch {
		case !hdr.progressive:
			err = d.sequential(hdr, &r, scan, wide, first, last, show)
		case band.last == 0:
			err = r.progressiveDC(scan, &band, wide, first, last)
		case band.before == 0:
			err = r.progressiveAC(scan[0], &band, wide, first, last)
		default:
			err = r.refineAC(scan[0], &band, wide, first, last)
		}
		if err != nil {
			return 0, err
		}
	}
	return r.at, nil
}

// sequential decodes the units first to last-1 of a scan with the given number of units across.
func (d *jpegDecoder) sequential(
	hdr *jpegHeader, r *bitReader, scan []*jpegComponent, wide, first, last int, show func(planes *[4]plane, end int),
) error {
	for _, c := range scan {
		c.before = 0
	}
	_, height := hdr.reduced()
	x, y := first%wide, first/wide
	place := func() {
		for _, c := range scan {
			for j := range c.down {
				c.offset[j] = c.rowOffset(y*c.down + j)
			}
		}
	}
	place()
	for range last - first {
		for _, c := range scan {
			for j := range c.down {
				for i := range c.across {
					var last int
					var err error
					if c.size == 1 {
						err = r.skipBlock(&d.block, c)
					} else {
						last, err = r.block(&d.block, c)
					}
					if err != nil {
						return err
					}
					d.block.samples(last, c.size, c.pix[c.offset[j]+c.size*(x*c.across+i):], c.stride)
				}
			}
		}
		if x++; x == wide {
			x, y = 0, y+1
			place()
			if hdr.streamed { // the last row needs the one below
				show(&d.planes, min(scan[0].size*scan[0].down*scan[0].vr*y, height+1)-1)
			}
		}
	}
	return nil
}

// block decodes the next block of the component into b, which must be all zero. last is the index, in zigzag
// order, of the last coefficient that isn't zero.
func (r *bitReader) block(b *block, c *jpegComponent) (last int, err error) {
	data, at, bits, n := r.data, r.at, r.bits, r.n
	quant := &c.quant

	if n < 32 {
		at, bits, n = fill(data, at, bits, n)
	}
	size, length := c.dc.symbol(bits)
	if length == 0 {
		return 0, fault(n, errJPEGCode)
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

// skipBlock decodes the DC coefficient of the next block of the component into b, and reads the others.
func (r *bitReader) skipBlock(b *block, c *jpegComponent) error {
	data, at, bits, n := r.data, r.at, r.bits, r.n
	if n < 32 {
		at, bits, n = fill(data, at, bits, n)
	}
	size, length := c.dc.symbol(bits)
	if length == 0 {
		return fault(n, errJPEGCode)
	}
	if size > 16 {
		return fault(n-length, errJPEGDifference)
	}
	bits <<= uint(length) & 63
	c.before += extend(bits, size)
	bits <<= uint(size) & 63
	n -= length + size
	b[0] = int32(int16(c.before * c.quant[0]))

	ac := c.ac
	skip := (*[1 << fastBits]uint32)(ac.skip)
	for k := 1; k < 64; {
		if n < 32 {
			if at, bits, n = fill(data, at, bits, n); n <= 0 {
				return errJPEGShort
			}
		}
		e := skip[bits>>(64-fastBits)]
		if next := k + int(e>>8&255); e != 0 && next < 64 {
			bits <<= e & 63
			n -= int(e & 63)
			if e>>16 != 0 {
				break
			}
			k = next
			continue
		}
		symbol, length := ac.acSymbol(bits)
		if length == 0 {
			return fault(n, errJPEGCode)
		}
		size := symbol & 15
		bits <<= uint(length+size) & 63
		n -= length + size
		if symbol == 0 {
			break
		}
		if size == 0 && symbol != 0xf0 {
			return fault(n, errJPEGCode)
		}
		if k += symbol>>4 + 1; k > 64 && size > 0 {
			return errJPEGBlock
		}
	}
	if n < 0 {
		return errJPEGShort
	}
	r.at, r.bits, r.n = at, bits, n
	return nil
}

// fault returns err, or errJPEGShort if n shows that bits past the end of the data were used.
func fault(n int, err error) error {
	if n < 0 {
		return errJPEGShort
	}
	return err
}

// blocks returns the number of blocks across and down that hold samples of the image.
func (c *jpegComponent) blocks() (wide, high int) {
	return (c.width + c.size - 1) / c.size, (c.height + c.size - 1) / c.size
}

// trim releases large buffers.
func (d *jpegDecoder) trim() {
	d.planes = [4]plane{}
	for i := range d.samples {
		d.components[i] = jpegComponent{}
		if cap(d.samples[i]) > maxScratch {
			d.samples[i] = nil
		}
		if 2*cap(d.coefficients[i]) > maxScratch {
			d.coefficients[i] = nil
		}
		if 8*cap(d.masks[i]) > maxScratch {
			d.masks[i] = nil
		}
	}
}
