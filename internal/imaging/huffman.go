package imaging

import "encoding/binary"

// fastBits is the length in bits of the longest Huffman codes that a single table lookup decodes.
const fastBits = 10

// huffman is a decoding table for a Huffman code of a JPEG (ITU-T T.81, annexes C and F).
type huffman struct {
	// spec holds the number of codes of each length, followed by the symbols, as in the file. Most
	// images use the same codes: if spec hasn't changed, the tables are reused.
	spec   [16 + 256]uint8
	length int // of spec; 0 if no code is defined

	// fast is indexed by the next fastBits bits. The lowest byte of an entry is the number of bits to
	// skip, or 0 if the code is longer than fastBits. The upper half is the coefficient if that fits
	// into the bits as well; then byte 1 is the number of zeros before it. Otherwise, the upper half
	// is 0 and byte 1 is the symbol.
	fast [1 << fastBits]int32

	// Tables for longer codes. Padded with any bits to 16 bits, every code of l bits or fewer is less
	// than limit[l]. The symbol of code c of l bits is at offset[l] + c.
	limit  [17]int32
	offset [17]int32
}

// define builds the tables for a code. coefficients is true for codes of AC coefficients. define returns
// false if there are more codes than their lengths allow.
func (h *huffman) define(counts *[16]uint8, symbols []uint8, coefficients bool) bool {
	length := len(counts) + len(symbols)
	if h.length == length && [16]uint8(h.spec[:16]) == *counts && string(h.spec[16:length]) == string(symbols) {
		return true
	}
	h.length = 0
	h.fast = [1 << fastBits]int32{}
	code, index := int32(0), int32(0)
	for l := 1; l <= 16; l++ {
		code <<= 1
		h.offset[l] = index - code
		for range counts[l-1] {
			if code >= 1<<l {
				return false
			}
			if l <= fastBits {
				h.enter(code, l, symbols[index], coefficients)
			}
			code++
			index++
		}
		h.limit[l] = code << (16 - l)
	}
	copy(h.spec[:], counts[:])
	copy(h.spec[16:], symbols)
	h.length = length
	return true
}

// enter fills the entries of fast whose index starts with the code of l bits.
func (h *huffman) enter(code int32, l int, symbol uint8, coefficients bool) {
	rest := fastBits - l
	size := int(symbol & 15)
	part := h.fast[code<<rest:][:1<<rest]
	for i := range part {
		part[i] = int32(symbol)<<8 | int32(l)
		if coefficients && size > 0 && size <= rest {
			value := extend(uint64(i)<<(64-rest), size)
			part[i] = value<<16 | int32(symbol>>4)<<8 | int32(l+size)
		}
	}
}

// long decodes a code of more than fastBits bits at the top of bits. It returns a length of 0 if there is
// no such code.
func (h *huffman) long(bits uint64) (symbol, length int) {
	next := int32(bits >> 48)
	for l := fastBits + 1; l <= 16; l++ {
		if next < h.limit[l] {
			return int(h.spec[16+h.offset[l]+next>>(16-l)]), l
		}
	}
	return 0, 0
}

// extend returns the signed value of the size bits at the top of bits (RECEIVE and EXTEND of T.81,
// F.2.2.1). It's negative if the first bit is 0.
func extend(bits uint64, size int) int32 {
	negative := int32(^int64(bits) >> 63)
	return int32(bits>>(64-uint(size))) + negative&(1-1<<uint(size))
}

// bitReader reads bits of entropy-coded data.
type bitReader struct {
	data []byte
	at   int    // offset of the next byte
	bits uint64 // bits read from data but not used yet, from the top, followed by zeros
	n    int    // number of these bits; negative if bits past the end of the data were used
}

// fill returns the state of a bitReader with at least 32 bits, unless a marker or the end of the data
// comes first. It takes the fields instead of a bitReader so that they stay in registers.
func fill(data []byte, at int, bits uint64, n int) (int, uint64, int) {
	if at+4 <= len(data) {
		next := binary.BigEndian.Uint32(data[at:])
		if next&^(next+0x01010101)&0x80808080 == 0 { // none of the bytes is 0xff
			return at + 4, bits | uint64(next)<<(32-uint(n)), n + 32
		}
	}
	for n <= 56 && at < len(data) {
		b := data[at]
		if b == 0xff {
			if at+1 == len(data) || data[at+1] != 0 {
				break
			}
			at++
		}
		at++
		bits |= uint64(b) << (56 - uint(n))
		n += 8
	}
	return at, bits, n
}

// restart continues after the given restart marker. It skips data before the marker, and returns false if
// another marker comes first.
func (r *bitReader) restart(marker uint8) bool {
	r.bits, r.n = 0, 0
	for r.at+1 < len(r.data) {
		switch next := r.data[r.at+1]; {
		case r.data[r.at] != 0xff, next == 0xff:
			r.at++
		case next == 0:
			r.at += 2
		case next == marker:
			r.at += 2
			return true
		default:
			return false
		}
	}
	return false
}
