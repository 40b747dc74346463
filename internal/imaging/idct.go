package imaging

import "encoding/binary"

// block holds the 64 dequantized coefficients of 8×8 samples in rows of eight. The row index is the
// vertical frequency. All coefficients are zero before a block is decoded.
type block [64]int32

// The inverse DCT is the accurate integer version of the Independent JPEG Group (jidctint.c, "islow"),
// which is the default in libjpeg and therefore in Pillow. It implements the algorithm of Loeffler,
// Ligtenberg and Moschytz ("Practical Fast 1-D DCT Algorithms with 11 Multiplications", ICASSP 1989),
// scaled by √8 in each direction, in the variant with 12 multiplications. Constants have 13 fraction bits,
// and the column pass keeps 2 bits for the row pass. Since everything before a rounding is integer
// arithmetic, regrouping terms and omitting zero terms doesn't change the result.
const (
	dctBits  = 13
	passBits = 2

	c0298 = 2446  // 0.298631336
	c0390 = 3196  // 0.390180644
	c0541 = 4433  // 0.541196100
	c0765 = 6270  // 0.765366865
	c0899 = 7373  // 0.899976223
	c1175 = 9633  // 1.175875602
	c1501 = 12299 // 1.501321110
	c1847 = 15137 // 1.847759065
	c1961 = 16069 // 1.961570560
	c2053 = 16819 // 2.053119869
	c2562 = 20995 // 2.562915447
	c3072 = 25172 // 3.072711026

	// Fraction bits dropped at the end of each pass.
	columnBits = dctBits - passBits
	rowBits    = dctBits + passBits + 3
)

// onlyCorner is the index, in zigzag order, up to which all coefficients lie in the first four rows and
// columns of a block.
const onlyCorner = 9

// inverse transforms b to 8×8 samples and writes them to rows of eight at dst[0], dst[stride] and so on. It
// clamps samples to 0…255 and clears b. Coefficients after index last, in zigzag order, must be zero.
func (b *block) inverse(last int, dst []uint8, stride int) {
	// Rounding terms, added before the shifts. The one for the rows includes the middle of the samples'
	// range. They are variables because the compiler would add constants to each result separately.
	columnRound, rowRound := int32(1<<(columnBits-1)), int32(1<<(rowBits-1)+128<<rowBits)
	switch {
	case last == 0:
		row := uint64(limited((b[0]+4)>>3+128)) * 0x0101010101010101
		for y := range 8 {
			binary.LittleEndian.PutUint64(dst[y*stride:], row)
		}
		b[0] = 0
		return
	case avx2:
		_ = dst[7*stride+7]
		inverseAVX2((*[64]int32)(b), &dst[0], stride)
		return
	case last <= onlyCorner:
		b.cornerColumns(columnRound)
		b.cornerRows(rowRound, dst, stride)
	default:
		b.columns(columnRound)
		b.rows(rowRound, dst, stride)
	}
	*b = block{}
}

// columns transforms all columns in place.
func (b *block) columns(round int32) {
	for x := range 8 {
		c0, c1, c2, c3 := b[x], b[8+x], b[16+x], b[24+x]
		c4, c5, c6, c7 := b[32+x], b[40+x], b[48+x], b[56+x]
		if c1|c2|c3|c4|c5|c6|c7 == 0 {
			mean := c0 << passBits
			b[x], b[8+x], b[16+x], b[24+x] = mean, mean, mean, mean
			b[32+x], b[40+x], b[48+x], b[56+x] = mean, mean, mean, mean
			continue
		}

		z := (c2 + c6) * c0541
		p, q := z+c2*c0765, z-c6*c1847
		s, t := (c0+c4)<<dctBits+round, (c0-c4)<<dctBits+round
		e0, e1, e2, e3 := s+p, t+q, t-q, s-p

		a, d := c7+c3, c5+c1
		z = (a + d) * c1175
		a, d = z-a*c1961, z-d*c0390
		u, v := (c7+c1)*-c0899, (c5+c3)*-c2562
		o0, o1, o2, o3 := c1*c1501+u+d, c3*c3072+v+a, c5*c2053+v+d, c7*c0298+u+a

		b[x], b[56+x] = (e0+o0)>>columnBits, (e0-o0)>>columnBits
		b[8+x], b[48+x] = (e1+o1)>>columnBits, (e1-o1)>>columnBits
		b[16+x], b[40+x] = (e2+o2)>>columnBits, (e2-o2)>>columnBits
		b[24+x], b[32+x] = (e3+o3)>>columnBits, (e3-o3)>>columnBits
	}
}

// rows transforms all rows to samples.
func (b *block) rows(round int32, dst []uint8, stride int) {
	for y := range 8 {
		c0, c1, c2, c3 := b[8*y], b[8*y+1], b[8*y+2], b[8*y+3]
		c4, c5, c6, c7 := b[8*y+4], b[8*y+5], b[8*y+6], b[8*y+7]

		z := (c2 + c6) * c0541
		p, q := z+c2*c0765, z-c6*c1847
		s, t := (c0+c4)<<dctBits+round, (c0-c4)<<dctBits+round
		e0, e1, e2, e3 := s+p, t+q, t-q, s-p

		a, d := c7+c3, c5+c1
		z = (a + d) * c1175
		a, d = z-a*c1961, z-d*c0390
		u, v := (c7+c1)*-c0899, (c5+c3)*-c2562
		o0, o1, o2, o3 := c1*c1501+u+d, c3*c3072+v+a, c5*c2053+v+d, c7*c0298+u+a

		s0, s7 := (e0+o0)>>rowBits, (e0-o0)>>rowBits
		s1, s6 := (e1+o1)>>rowBits, (e1-o1)>>rowBits
		s2, s5 := (e2+o2)>>rowBits, (e2-o2)>>rowBits
		s3, s4 := (e3+o3)>>rowBits, (e3-o3)>>rowBits
		if (s0|s1|s2|s3|s4|s5|s6|s7)&^255 != 0 {
			s0, s1, s2, s3 = limited(s0), limited(s1), limited(s2), limited(s3)
			s4, s5, s6, s7 = limited(s4), limited(s5), limited(s6), limited(s7)
		}
		left, right := uint32(s0|s1<<8|s2<<16|s3<<24), uint32(s4|s5<<8|s6<<16|s7<<24)
		binary.LittleEndian.PutUint64(dst[y*stride:], uint64(left)|uint64(right)<<32)
	}
}

// cornerColumns is like columns if only the first four rows and columns have coefficients.
func (b *block) cornerColumns(round int32) {
	for x := range 4 {
		c0, c1, c2, c3 := b[x], b[8+x], b[16+x], b[24+x]

		s := c0<<dctBits + round
		p, q := c2*(c0541+c0765), c2*c0541
		e0, e1, e2, e3 := s+p, s+q, s-q, s-p

		z := (c1 + c3) * c1175
		o0, o1 := z+c1*(c1501-c0899-c0390), z+c3*(c3072-c2562-c1961)
		o2, o3 := z-c1*c0390-c3*c2562, z-c1*c0899-c3*c1961

		b[x], b[56+x] = (e0+o0)>>columnBits, (e0-o0)>>columnBits
		b[8+x], b[48+x] = (e1+o1)>>columnBits, (e1-o1)>>columnBits
		b[16+x], b[40+x] = (e2+o2)>>columnBits, (e2-o2)>>columnBits
		b[24+x], b[32+x] = (e3+o3)>>columnBits, (e3-o3)>>columnBits
	}
}

// cornerRows is like rows if only the first four rows and columns have coefficients.
func (b *block) cornerRows(round int32, dst []uint8, stride int) {
	for y := range 8 {
		c0, c1, c2, c3 := b[8*y], b[8*y+1], b[8*y+2], b[8*y+3]

		s := c0<<dctBits + round
		p, q := c2*(c0541+c0765), c2*c0541
		e0, e1, e2, e3 := s+p, s+q, s-q, s-p

		z := (c1 + c3) * c1175
		o0, o1 := z+c1*(c1501-c0899-c0390), z+c3*(c3072-c2562-c1961)
		o2, o3 := z-c1*c0390-c3*c2562, z-c1*c0899-c3*c1961

		s0, s7 := (e0+o0)>>rowBits, (e0-o0)>>rowBits
		s1, s6 := (e1+o1)>>rowBits, (e1-o1)>>rowBits
		s2, s5 := (e2+o2)>>rowBits, (e2-o2)>>rowBits
		s3, s4 := (e3+o3)>>rowBits, (e3-o3)>>rowBits
		if (s0|s1|s2|s3|s4|s5|s6|s7)&^255 != 0 {
			s0, s1, s2, s3 = limited(s0), limited(s1), limited(s2), limited(s3)
			s4, s5, s6, s7 = limited(s4), limited(s5), limited(s6), limited(s7)
		}
		left, right := uint32(s0|s1<<8|s2<<16|s3<<24), uint32(s4|s5<<8|s6<<16|s7<<24)
		binary.LittleEndian.PutUint64(dst[y*stride:], uint64(left)|uint64(right)<<32)
	}
}

func limited(v int32) int32 { return min(max(v, 0), 255) }
