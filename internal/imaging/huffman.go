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

	// skip is indexed like fast, and holds what to do to skip as many AC coefficients as possible: the number of bits in
	// byte 0, the number of coefficients in byte 1, and whether the block then ends in byte 2. An entry is
	// 0 if the next symbol needs another table or is invalid. It's only computed for reduced images.
	skip    []uint32
	skipped bool // skip is up to date
}

// standardTables holds the codes of annex K.3, as in a DHT segment: DC and AC, luma and chroma. A sequential JPEG
// without Huffman tables, such as a frame of Motion JPEG from a webcam, uses these.
var standardTables = [2][2]string{
	{
		"\x00\x01\x05\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00" +
			"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b",
		"\x00\x03\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00" +
			"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b",
	},
	{
		"\x00\x02\x01\x03\x03\x02\x04\x03\x05\x05\x04\x04\x00\x00\x01\x7d" +
			"\x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08\x23\x42\xb1\xc1" +
			"\x15\x52\xd1\xf0\x24\x33\x62\x72\x82\x09\x0a\x16\x17\x18\x19\x1a\x25\x26\x27\x28\x29\x2a\x34\x35\x36\x37\x38\x39" +
			"\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75" +
			"\x76\x77\x78\x79\x7a\x83\x84\x85\x86\x87\x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7" +
			"\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8" +
			"\xd9\xda\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
		"\x00\x02\x01\x02\x04\x04\x03\x04\x07\x05\x04\x04\x00\x01\x02\x77" +
			"\x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91\xa1\xb1\xc1\x09" +
			"\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\xe1\x25\xf1\x17\x18\x19\x1a\x26\x27\x28\x29\x2a\x35\x36\x37\x38" +
			"\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74" +
			"\x75\x76\x77\x78\x79\x7a\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5" +
			"\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6" +
			"\xd7\xd8\xd9\xda\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
	},
}

// define builds the tables for a code. coefficients is true for codes of AC coefficients. define returns
// false if there are more codes than their lengths allow.
func (h *huffman) define(counts *[16]uint8, symbols []uint8, coefficients bool) bool {
	length := len(counts) + len(symbols)
	if h.length == length && [16]uint8(h.spec[:16]) == *counts && string(h.spec[16:length]) == string(symbols) {
		return true
	}
	h.length, h.skipped = 0, false
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

// makeSkip computes skip.
func (h *huffman) makeSkip() {
	if h.skipped {
		return
	}
	h.skipped = true
	if h.skip == nil {
		h.skip = make([]uint32, 1<<fastBits)
	}
	for index := range h.skip {
		bits, count, end := 0, 0, 0
		for end == 0 && bits < fastBits {
			e := int(h.fast[index<<bits&(1<<fastBits-1)])
			symbol, length := e>>8&255, e&255
			switch {
			case length == 0, bits+length > fastBits: // the index doesn't determine the symbol
				end = -1
			case e>>16 != 0:
				bits, count = bits+length, count+symbol+1 // the symbol is the number of zeros
			case symbol == 0:
				bits, end = bits+length, 1
			case symbol&15 == 0 && symbol != 0xf0:
				end = -1
			default:
				bits, count = bits+length+symbol&15, count+symbol>>4+1
			}
		}
		h.skip[index] = uint32(max(end, 0)<<16 | count<<8 | bits)
	}
}

// acSymbol decodes the next symbol of AC coefficients at the top of bits. length is that of the code, or 0 if there is
// no such code.
func (h *huffman) acSymbol(bits uint64) (symbol, length int) {
	next := int32(bits >> 48)
	for l := 1; l <= 16; l++ {
		if next < h.limit[l] {
			return int(h.spec[16+h.offset[l]+next>>(16-l)]), l
		}
	}
	return 0, 0
}

// symbol decodes a code that isn't followed by a coefficient at the top of bits. It returns a length of 0 if
// there is no such code.
func (h *huffman) symbol(bits uint64) (symbol, length int) {
	if e := h.fast[bits>>(64-fastBits)]; e != 0 {
		return int(e >> 8 & 255), int(e & 255)
	}
	return h.long(bits)
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
	bits uint64 // bits read from data but not used yet, from the top
	n    int    // number of these bits; negative if bits past the end of the data were used
}

// fill returns the state of a bitReader with at least 56 bits, unless a marker or the end of the data comes first.
// It takes the fields instead of a bitReader so that they stay in registers.
func fill(data []byte, at int, bits uint64, n int) (int, uint64, int) {
	if at+8 <= len(data) {
		next := binary.BigEndian.Uint64(data[at:])
		if next&^(next+0x0101010101010101)&0x8080808080808080 == 0 { // none of the bytes is 0xff
			read := (63 - n) >> 3
			return at + read, bits | next>>(uint(n)&63), n + 8*read // bits after n are those of the next byte
		}
	}
	for n <= 56 && at < len(data) {
		b := data[at]
		if b == 0xff {
			zero := at + 1
			for zero < len(data) && data[zero] == 0xff { // fill bytes
				zero++
			}
			if zero == len(data) || data[zero] != 0 {
				break
			}
			at = zero
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
