package imaging

import (
	"encoding/binary"
	"math/bits"
)

// vp8Reader is the boolean decoder of a partition. Its range is normalized before a bit is read, not after.
type vp8Reader struct {
	data  []byte // not yet in value
	value uint64 // from the highest bit
	size  uint32 // of the range, from 1 to 255
	spare int    // number of bits in value, less 8
	ended bool   // whether bits were read after the end, which are zero
}

func (r *vp8Reader) begin(data []byte) { *r = vp8Reader{data: data, size: 255, spare: -8} }

// vp8Shift has the number of bits by which a range is scaled to at least 128.
var vp8Shift = func() (t [256]uint8) {
	for i := range t {
		t[i] = uint8(bits.LeadingZeros8(uint8(i)))
	}
	return t
}()

// vp8Normalize scales a range to at least 128.
func vp8Normalize(value uint64, size uint32, spare int) (uint64, uint32, int) {
	n := vp8Shift[uint8(size)]
	return value << (n & 63), size << (n & 31), spare - int(n)
}

// fill adds data to a value with fewer than 8 bits. It's rare, so that inlining would only lengthen the loops.
//
//go:noinline
func (r *vp8Reader) fill(value uint64, spare int) (uint64, int) {
	have := spare + 8
	if len(r.data) >= 8 {
		value |= binary.BigEndian.Uint64(r.data) >> 8 << 8 >> (have & 63)
		r.data = r.data[7:]
		return value, spare + 56
	}
	if len(r.data) == 0 {
		r.ended = true
		return value, spare + 56
	}
	value |= uint64(r.data[0]) << 56 >> (have & 63)
	r.data = r.data[1:]
	return value, spare + 8
}

// bit reads a bit that is false with a probability of prob/256.
func (r *vp8Reader) bit(prob uint8) bool {
	value, size, spare := vp8Normalize(r.value, r.size, r.spare)
	if spare < 0 {
		value, spare = r.fill(value, spare)
	}
	r.spare = spare
	split := 1 + (size-1)*uint32(prob)>>8
	if at := uint64(split) << 56; value >= at {
		r.value, r.size = value-at, size-split
		return true
	}
	r.value, r.size = value, split
	return false
}

// literal reads n bits, the highest first.
func (r *vp8Reader) literal(n int) (v uint32) {
	for range n {
		v <<= 1
		if r.bit(128) {
			v |= 1
		}
	}
	return v
}

// optional reads a bit, which is whether a number of n bits and its sign follow. Otherwise the number is 0.
func (r *vp8Reader) optional(n int) int32 {
	if !r.bit(128) {
		return 0
	}
	v := int32(r.literal(n))
	if r.bit(128) {
		return -v
	}
	return v
}

// vp8Zigzag has the places of coefficients in the order in which they are coded.
var vp8Zigzag = [16]uint8{0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15}

// vp8Extra has the probabilities of the bits that follow the tokens for large coefficients.
var vp8Extra = [4][]uint8{
	{173, 148, 140},
	{176, 155, 140, 135},
	{180, 157, 141, 134, 130},
	{254, 254, 243, 230, 196, 177, 153, 140, 133, 130, 129},
}

// block reads the coefficients of a 4×4 block from position n, and multiplies them with the step sizes of DC and
// AC. It returns the position after the last one, or n if the block has none. near is the number of neighbors (above and
// left) that have coefficients.
func (r *vp8Reader) block(probs *[17][3][11]uint8, near uint8, n int, steps *[2]int32, out *[16]int16) int {
	value, size, spare := r.value, r.size, r.spare
	p := &probs[n][near]
	step := steps[min(n, 1)]
	for n < 16 {
		// Is this the end?
		value, size, spare = vp8Normalize(value, size, spare)
		if spare < 0 {
			value, spare = r.fill(value, spare)
		}
		split := 1 + (size-1)*uint32(p[0])>>8
		at := uint64(split) << 56
		if value < at {
			size = split
			break
		}
		value, size = value-at, size-split
		for { // Is the coefficient zero?
			value, size, spare = vp8Normalize(value, size, spare)
			if spare < 0 {
				value, spare = r.fill(value, spare)
			}
			split = 1 + (size-1)*uint32(p[1])>>8
			at = uint64(split) << 56
			if value >= at {
				value, size = value-at, size-split
				break
			}
			size = split
			n++
			p = &probs[n][0]
			step = steps[1]
			if n == 16 {
				r.value, r.size, r.spare = value, size, spare
				return 16
			}
		}
		// Is it larger than one?
		value, size, spare = vp8Normalize(value, size, spare)
		if spare < 0 {
			value, spare = r.fill(value, spare)
		}
		split = 1 + (size-1)*uint32(p[2])>>8
		at = uint64(split) << 56
		v := int32(1)
		next := &probs[n+1]
		if value < at {
			size = split
			p = &next[1]
		} else {
			value, size, spare = vp8Normalize(value-at, size-split, spare)
			if spare < 0 {
				value, spare = r.fill(value, spare)
			}
			split = 1 + (size-1)*uint32(p[3])>>8
			at = uint64(split) << 56
			if value >= at {
				r.value, r.size, r.spare = value-at, size-split, spare
				v = r.large(p)
				value, size, spare = r.value, r.size, r.spare
			} else {
				value, size, spare = vp8Normalize(value, split, spare)
				if spare < 0 {
					value, spare = r.fill(value, spare)
				}
				split = 1 + (size-1)*uint32(p[4])>>8
				at = uint64(split) << 56
				if value < at {
					size = split
					v = 2
				} else {
					value, size, spare = vp8Normalize(value-at, size-split, spare)
					if spare < 0 {
						value, spare = r.fill(value, spare)
					}
					split = 1 + (size-1)*uint32(p[5])>>8
					at = uint64(split) << 56
					if value < at {
						size = split
						v = 3
					} else {
						value, size = value-at, size-split
						v = 4
					}
				}
			}
			p = &next[2]
		}
		// The sign is as likely as not, so avoid a branch.
		value, size, spare = vp8Normalize(value, size, spare)
		if spare < 0 {
			value, spare = r.fill(value, spare)
		}
		split = (size + 1) >> 1
		at = uint64(split) << 56
		_, positive := bits.Sub64(value, at, 0)
		mask := positive - 1
		value -= at & mask
		size = split + (size-2*split)&uint32(mask)
		out[vp8Zigzag[n&15]&15] = int16((v*step ^ int32(mask)) - int32(mask))
		step = steps[1]
		n++
	}
	r.value, r.size, r.spare = value, size, spare
	return n
}

// large reads the absolute value of a coefficient of at least 5.
func (r *vp8Reader) large(p *[11]uint8) int32 {
	if !r.bit(p[6]) {
		if !r.bit(p[7]) {
			return 5 + r.extra(159)
		}
		return 7 + 2*r.extra(165) + r.extra(145)
	}
	category := 2 * r.extra(p[8])
	category += r.extra(p[9+category>>1])
	v := int32(0)
	for _, prob := range vp8Extra[category] {
		v = 2*v + r.extra(prob)
	}
	return v + 3 + 8<<category
}

func (r *vp8Reader) extra(prob uint8) int32 {
	if r.bit(prob) {
		return 1
	}
	return 0
}
