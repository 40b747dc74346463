package imaging

// The functions below transform a block to fewer samples: they are those of jidctred.c in libjpeg, with the constants
// of idct.go. Some coefficients of high frequencies are ignored.

const (
	c0211 = 1730  // 0.211164243
	c0509 = 4176  // 0.509795579
	c0601 = 4926  // 0.601344887
	c0720 = 5906  // 0.720959822
	c0850 = 6967  // 0.850430095
	c1061 = 8697  // 1.061594337
	c1272 = 10426 // 1.272758580
	c1451 = 11893 // 1.451774981
	c2172 = 17799 // 2.172734803
	c3624 = 29692 // 3.624509785
)

// usedCoefficients has a bit for each coefficient, in zigzag order, that affects a block of size×size samples.
var usedCoefficients = func() (used [9]uint64) {
	ignored := [9][]uint8{1: {1, 2, 3, 4, 5, 6, 7}, 2: {2, 4, 6}, 4: {4}, 8: {}}
	for _, size := range []int{1, 2, 4, 8} {
		for k, at := range zigzag {
			used[size] |= 1 << k
			for _, i := range ignored[size] {
				if at/8 == i || at%8 == i {
					used[size] &^= 1 << k
				}
			}
		}
	}
	return used
}()

// samples transforms b to size×size samples: 8, 4, 2 or 1. Otherwise it's like inverse.
func (b *block) samples(last, size int, dst []uint8, stride int) {
	switch {
	case size == 8:
		b.inverse(last, dst, stride)
		return
	case last == 0:
		v := uint8(limited((b[0]+4)>>3 + 128))
		for y := range size {
			row := dst[y*stride:][:size]
			for x := range row {
				row[x] = v
			}
		}
		b[0] = 0
		return
	case avx2 && size > 1:
		_ = dst[(size-1)*stride+size-1]
		if size == 4 {
			inverse4AVX2((*[64]int32)(b), &dst[0], stride)
		} else {
			inverse2AVX2((*[64]int32)(b), &dst[0], stride)
		}
		return
	case size == 4:
		b.inverse4(dst, stride)
	case size == 2:
		b.inverse2(dst, stride)
	default:
		dst[0] = uint8(limited((b[0]+4)>>3 + 128))
	}
	*b = block{}
}

// inverse4 transforms b to 4×4 samples.
func (b *block) inverse4(dst []uint8, stride int) {
	const round = 1 << columnBits
	for x := range 8 {
		c0, c1, c2, c3 := b[x], b[8+x], b[16+x], b[24+x]
		c5, c6, c7 := b[40+x], b[48+x], b[56+x]
		if c1|c2|c3|c5|c6|c7 == 0 {
			mean := c0 << passBits
			b[x], b[8+x], b[16+x], b[24+x] = mean, mean, mean, mean
			continue
		}
		s, p := c0<<(dctBits+1)+round, c2*c1847-c6*c0765
		e0, e1 := s+p, s-p
		o0 := c1*c2562 + c3*c0899 - c5*c0601 - c7*c0509
		o1 := c1*c1061 - c3*c2172 + c5*c1451 - c7*c0211
		b[x], b[24+x] = (e0+o0)>>(columnBits+1), (e0-o0)>>(columnBits+1)
		b[8+x], b[16+x] = (e1+o1)>>(columnBits+1), (e1-o1)>>(columnBits+1)
	}
	for y := range 4 {
		c := b[8*y:][:8]
		s, p := c[0]<<(dctBits+1)+1<<rowBits+128<<(rowBits+1), c[2]*c1847-c[6]*c0765
		e0, e1 := s+p, s-p
		o0 := c[1]*c2562 + c[3]*c0899 - c[5]*c0601 - c[7]*c0509
		o1 := c[1]*c1061 - c[3]*c2172 + c[5]*c1451 - c[7]*c0211
		row := dst[y*stride:][:4]
		row[0], row[3] = uint8(limited((e0+o0)>>(rowBits+1))), uint8(limited((e0-o0)>>(rowBits+1)))
		row[1], row[2] = uint8(limited((e1+o1)>>(rowBits+1))), uint8(limited((e1-o1)>>(rowBits+1)))
	}
}

// inverse2 transforms b to 2×2 samples.
func (b *block) inverse2(dst []uint8, stride int) {
	var top, bottom [8]int32
	for _, x := range [5]int{0, 1, 3, 5, 7} {
		s := b[x]<<(dctBits+2) + 1<<(columnBits+1)
		o := b[8+x]*c3624 - b[24+x]*c1272 + b[40+x]*c0850 - b[56+x]*c0720
		top[x], bottom[x] = (s+o)>>(columnBits+2), (s-o)>>(columnBits+2)
	}
	for y, c := range [2]*[8]int32{&top, &bottom} {
		s := c[0]<<(dctBits+2) + 1<<(rowBits+1) + 128<<(rowBits+2)
		o := c[1]*c3624 - c[3]*c1272 + c[5]*c0850 - c[7]*c0720
		row := dst[y*stride:][:2]
		row[0], row[1] = uint8(limited((s+o)>>(rowBits+2))), uint8(limited((s-o)>>(rowBits+2)))
	}
}
