package imaging

import "math/bits"

// maxScans limits the number of scans in a JPEG. Encoders write about ten. A further scan takes only a few bytes
// of data, but the whole image must be processed for it.
const maxScans = 100

// progress holds what the scans of a progressive JPEG have contributed to a component.
type progress struct {
	coefficients []int16  // 64 per block, in zigzag order; undefined where the mask is 0
	masks        []uint64 // per block: bit k is set if coefficient k isn't zero; bit 0 may be set for zero
	bits         [64]int8 // number of low bits that are missing from each coefficient; -1: all
}

// band is what a scan of a progressive JPEG contributes: a range of coefficients, and some of their bits.
type band struct {
	first, last   int // coefficients, in zigzag order
	before, shift int // number of low bits that are missing before (0: all) and after the scan
}

// check reports whether a scan of n components can contain the band, by the rules of libjpeg.
func (b *band) check(n int) error {
	if b.first == 0 && b.last != 0 || b.first > b.last || b.last > 63 || b.first > 0 && n > 1 ||
		b.before != 0 && b.shift != b.before-1 || b.shift > 13 {
		return errJPEGProgression
	}
	return nil
}

// beginProgress prepares component i.
func (d *jpegDecoder) beginProgress(hdr *jpegHeader, i int) {
	wide, high := hdr.units()
	size := 64 * wide * hdr.h[i] * high * hdr.v[i]
	if cap(d.coefficients[i]) < size {
		d.coefficients[i] = make([]int16, size)
	}
	if cap(d.masks[i]) < size/64 {
		d.masks[i] = make([]uint64, size/64)
	}
	p := &d.components[i].progress
	p.coefficients, p.masks = d.coefficients[i][:size], d.masks[i][:size/64]
	clear(p.masks)
	for k := range p.bits {
		p.bits[k] = -1
	}
}

// progressiveDC decodes the DC coefficients, or a further bit of them, in the units first to last-1 of a scan
// with the given number of units across.
func (r *bitReader) progressiveDC(scan []*jpegComponent, b *band, wide, first, last int) error {
	for _, c := range scan {
		c.before = 0
	}
	for unit := first; unit < last; unit++ {
		x, y := unit%wide, unit/wide
		for _, c := range scan {
			for j := range c.down {
				index := (y*c.down+j)*c.wide + x*c.across
				for i := index; i < index+c.across; i++ {
					if r.n < 32 {
						r.at, r.bits, r.n = fill(r.data, r.at, r.bits, r.n)
					}
					value := &c.progress.coefficients[64*i]
					if b.before > 0 {
						*value &= -int16(c.progress.masks[i] & 1)
						*value |= int16(r.bits >> 63 << b.shift)
						r.bits <<= 1
						r.n--
					} else {
						size, length := c.dc.symbol(r.bits)
						if length == 0 {
							return fault(r.n, errJPEGCode)
						}
						if size > 16 {
							return fault(r.n-length, errJPEGDifference)
						}
						r.bits <<= uint(length) & 63
						c.before += extend(r.bits, size)
						r.bits <<= uint(size) & 63
						r.n -= length + size
						*value = int16(c.before << b.shift)
					}
					c.progress.masks[i] |= 1
				}
			}
		}
		if r.n < 0 {
			return errJPEGShort
		}
	}
	return nil
}

// progressiveAC decodes the high bits of AC coefficients in the blocks first to last-1 of a component.
func (r *bitReader) progressiveAC(c *jpegComponent, b *band, wide, first, last int) error {
	data, at, bits, n := r.data, r.at, r.bits, r.n
	shift, end := uint(b.shift), b.last
	for number := first; number < last; number++ {
		index := number/wide*c.wide + number%wide
		values := (*[64]int16)(c.progress.coefficients[64*index:])
		mask := c.progress.masks[index]
		for k := b.first; k <= end; k++ {
			if n < 32 {
				at, bits, n = fill(data, at, bits, n)
			}
			e := c.ac.fast[bits>>(64-fastBits)]
			if e>>16 == 0 { // the table entry has no coefficient
				symbol, length := int(e>>8&255), int(e&255)
				if length == 0 {
					if symbol, length = c.ac.long(bits); length == 0 {
						return fault(n, errJPEGCode)
					}
				}
				run, size := symbol>>4, symbol&15
				if size == 0 {
					bits <<= uint(length) & 63
					n -= length
					if run < 15 { // the band ends here, and is empty in the next blocks
						number += 1<<run - 1 + int(bits>>1>>(63-uint(run)))
						bits <<= uint(run)
						n -= run
						break
					}
					k += 15 // 16 zeros, with the loop's k++
					continue
				}
				value := extend(bits<<(uint(length)&63), size)
				e = value<<16 | int32(run<<8|length+size)
			}
			bits <<= uint(e) & 63
			n -= int(e & 63)
			k += int(e >> 8 & 15)
			if k > end {
				return fault(n, errJPEGBlock)
			}
			if v := int16(e >> 16 << shift); v != 0 {
				values[k&63] = v
				mask |= 1 << (uint(k) & 63)
			}
		}
		c.progress.masks[index] = mask
		if n < 0 {
			return errJPEGShort
		}
	}
	r.at, r.bits, r.n = at, bits, n
	return nil
}

// refineAC decodes a further bit of AC coefficients in the blocks first to last-1 of a component.
func (r *bitReader) refineAC(c *jpegComponent, b *band, wide, first, last int) error {
	data, at, buffer, n := r.data, r.at, r.bits, r.n
	one := int16(1) << b.shift
	inBand := uint64(2)<<uint(b.last) - uint64(1)<<uint(b.first)
	empty := 0 // blocks without new coefficients, including the current one
	for number := first; number < last; number++ {
		index := number/wide*c.wide + number%wide
		mask := c.progress.masks[index]
		old := mask & inBand // coefficients that aren't zero before this scan
		if empty > 0 && old == 0 {
			empty--
			continue
		}
		values := (*[64]int16)(c.progress.coefficients[64*index:])
		k := b.first
		for empty == 0 && k <= b.last {
			if n < 32 {
				at, buffer, n = fill(data, at, buffer, n)
			}
			var run int
			var value int16
			if e := c.ac.fast[buffer>>(64-fastBits)]; e>>16 != 0 { // a symbol and the bits after it
				if value = int16(e >> 16); value != 1 && value != -1 {
					return fault(n, errJPEGCode)
				}
				value <<= b.shift
				run = int(e >> 8 & 15)
				buffer <<= uint(e) & 63
				n -= int(e & 63)
			} else {
				symbol, length := int(e>>8&255), int(e&255)
				if length == 0 {
					if symbol, length = c.ac.long(buffer); length == 0 {
						return fault(n, errJPEGCode)
					}
				}
				buffer <<= uint(length) & 63
				n -= length
				run = symbol >> 4
				switch {
				case symbol == 0xf0: // 16 zeros
				case symbol&15 == 0:
					empty = 1<<run + int(buffer>>1>>(63-uint(run)))
					buffer <<= uint(run)
					n -= run
					continue
				case symbol&15 == 1:
					value = one
					if buffer>>63 == 0 {
						value = -one
					}
					buffer <<= 1
					n--
				default:
					return fault(n, errJPEGCode)
				}
			}
			// Skip run zeros, and refine the coefficients between them.
			for {
				zeros := bits.TrailingZeros64(old >> uint(k))
				if zeros > run {
					k += run
					break
				}
				run -= zeros
				k += zeros
				if n < 1 {
					at, buffer, n = fill(data, at, buffer, n)
				}
				values[k&63] = refined(values[k&63], one, buffer)
				buffer <<= 1
				n--
				k++
			}
			if k > b.last {
				return fault(n, errJPEGBlock)
			}
			if value != 0 {
				values[k&63] = value
				mask |= 1 << (uint(k) & 63)
			}
			k++
		}
		if empty > 0 {
			for rest := old >> uint(k) << uint(k); rest != 0; rest &= rest - 1 {
				if n < 1 {
					at, buffer, n = fill(data, at, buffer, n)
				}
				at := bits.TrailingZeros64(rest) & 63
				values[at] = refined(values[at], one, buffer)
				buffer <<= 1
				n--
			}
			empty--
		}
		c.progress.masks[index] = mask
		if n < 0 {
			return errJPEGShort
		}
	}
	r.at, r.bits, r.n = at, buffer, n
	return nil
}

// refined adds bit one to the absolute value of a coefficient if the top bit of buffer is set, and the coefficient
// doesn't have the bit yet, as in libjpeg. It does so without branches, which would be mispredicted.
func refined(value, one int16, buffer uint64) int16 {
	sign := value >> 15
	missing := one &^ value // 0 if the coefficient has the bit
	return value + (missing^sign-sign)&int16(int64(buffer)>>63)
}

// finishProgress transforms all blocks to samples, from top to bottom.
func (d *jpegDecoder) finishProgress(hdr *jpegHeader, show func(planes *[4]plane, end int)) {
	_, units := hdr.units()
	smooth := d.smoothable(hdr)
	_, height := hdr.reduced()
	for unit := range units {
		for i := range hdr.components {
			c := &d.components[i]
			wide, high := c.blocks()
			used := usedCoefficients[c.size]
			for y := unit * c.v; y < min((unit+1)*c.v, high); y++ {
				for x := range wide {
					last := c.progress.dequantize(&d.block, &c.quant, y*c.wide+x, used)
					if smooth {
						last = max(last, c.smooth(&d.block, units, x, y))
					}
					d.block.samples(last, c.size, c.block(y, x), c.stride)
				}
			}
		}
		show(&d.planes, min(hdr.full*hdr.vmax*(unit+1), height+1)-1) // the last row needs the one below
	}
}

// dequantize writes the used coefficients of a block to b, which must be all zero. last is the index, in zigzag
// order, of the last one that isn't zero.
func (p *progress) dequantize(b *block, quant *[64]int32, index int, used uint64) (last int) {
	mask := p.masks[index] & used
	values := (*[64]int16)(p.coefficients[64*index:])
	last = 63 - bits.LeadingZeros64(mask|1)
	for ; mask != 0; mask &= mask - 1 {
		k := bits.TrailingZeros64(mask) & 63
		b[zigzag[k]&63] = int32(int16(int32(values[k]) * quant[k])) // 16 bits, as in libjpeg
	}
	return last
}
