package imaging

import "encoding/binary"

// fastBits is the length in bits of the Huffman codes that a single look into a table decodes.
const fastBits = 10

// huffman decodes one of the Huffman codes of a JPEG (ITU-T T.81, annexes C and F).
type huffman struct {
	// The counts of codes by length and then the symbols, as the file gives them. Nearly all pictures
	// have the same ones, for which nothing has to be computed again.
	spec   [16 + 256]uint8
	length int // of spec, 0 before the first

	// fast tells by the next fastBits bits what they begin with. Its lowest byte is the number of bits
	// to skip, or 0 if the code is longer than fastBits. The upper half is the coefficient, where it
	// lies within these bits too: then the byte between is the number of zeros that come before it.
	// Without a coefficient that byte is the symbol.
	fast [1 << fastBits]int32

	// For longer codes: followed by anything up to 16 bits, every code of l bits or fewer is less than
	// limit[l]; code c of l bits stands for the symbol at offset[l] + c.
	limit  [17]int32
	offset [17]int32
}

// define takes the description of a code, coefficients telling whether its symbols are those of AC
// coefficients. It returns false if there are more codes than the bits allow.
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

// enter fills the part of fast that begins with the code of l bits.
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

// long decodes the code of more than fastBits bits at the top of bits. If there is none, length is 0.
func (h *huffman) long(bits uint64) (symbol, length int) {
	next := int32(bits >> 48)
	for l := fastBits + 1; l <= 16; l++ {
		if next < h.limit[l] {
			return int(h.spec[16+h.offset[l]+next>>(16-l)]), l
		}
	}
	return 0, 0
}

// extend is the value of the size bits at the top of bits (RECEIVE and EXTEND of T.81, F.2.2.1): with
// a first bit of 0 it is negative.
func extend(bits uint64, size int) int32 {
	negative := int32(^int64(bits) >> 63)
	return int32(bits>>(64-uint(size))) + negative&(1-1<<uint(size))
}

// bitReader holds a place in entropy-coded data.
type bitReader struct {
	data []byte
	at   int    // of the next byte to take
	bits uint64 // taken and not used yet, from the top; zeros behind
	n    int    // how many they are; below 0, zeros that are not in the data have been used
}

// fill returns a reader's place with 32 or more bits, unless a marker or the end of the data comes
// before. It takes no reader so that the place stays in registers.
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

// restart goes on behind the given restart marker. It skips other data before it, but no other marker.
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
