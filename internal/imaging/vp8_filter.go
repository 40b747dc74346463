package imaging

import (
	"encoding/binary"
	"math/bits"
)

// filterSimple applies the simple loop filter to the macroblock at x in the given row of macroblocks, and to the
// edges that it shares with the previous ones. blocks is whether edges within the macroblock are filtered.
func (d *vp8Decoder) filterSimple(l *vp8Limits, x, row int, blocks bool) {
	stride := 16 * d.wide
	at := row%vp8Rows*16*stride + 16*x
	if x > 0 {
		vp8SimpleColumns(d.y[at-2:], stride, l.edge+4)
	}
	if blocks {
		for i := 4; i < 16; i += 4 {
			vp8SimpleColumns(d.y[at+i-2:], stride, l.edge)
		}
	}
	if row > 0 {
		above := (row-1)%vp8Rows*16*stride + 16*x + 14*stride
		vp8SimpleRows(d.y[above:], d.y[at:], stride, l.edge+4)
	}
	if blocks {
		for i := 4; i < 16; i += 4 {
			vp8SimpleRows(d.y[at+(i-2)*stride:], d.y[at+i*stride:], stride, l.edge)
		}
	}
}

// filterNormal is like filterSimple for the normal loop filter.
func (d *vp8Decoder) filterNormal(l *vp8Limits, x, row int, blocks bool) {
	stride := 16 * d.wide
	half := stride / 2
	yAt, cAt := row%vp8Rows*16*stride+16*x, row%vp8Rows*8*half+8*x
	var n vp8Neighbors
	if x > 0 {
		n.columns(d.y[yAt-4:], stride, l, true)
		n.columns(d.y[yAt+8*stride-4:], stride, l, true)
		n.columns(d.u[cAt-4:], half, l, true)
		n.columns(d.v[cAt-4:], half, l, true)
	}
	if blocks {
		for i := 0; i < 12; i += 4 {
			n.columns(d.y[yAt+i:], stride, l, false)
			n.columns(d.y[yAt+8*stride+i:], stride, l, false)
		}
		n.columns(d.u[cAt:], half, l, false)
		n.columns(d.v[cAt:], half, l, false)
	}
	if row > 0 {
		above := (row-1)%vp8Rows*16*stride + 16*x + 12*stride
		n.rows(d.y[above:], d.y[yAt:], stride, l, true)
		n.rows(d.y[above+8:], d.y[yAt+8:], stride, l, true)
		above = (row-1)%vp8Rows*8*half + 8*x + 4*half
		n.rows(d.u[above:], d.u[cAt:], half, l, true)
		n.rows(d.v[above:], d.v[cAt:], half, l, true)
	}
	if blocks {
		for i := 0; i < 12; i += 4 {
			at := yAt + i*stride
			n.rows(d.y[at:], d.y[at+4*stride:], stride, l, false)
			n.rows(d.y[at+8:], d.y[at+4*stride+8:], stride, l, false)
		}
		n.rows(d.u[cAt:], d.u[cAt+4*half:], half, l, false)
		n.rows(d.v[cAt:], d.v[cAt+4*half:], half, l, false)
	}
}

func vp8Abs(v int32) int32 { return max(v, -v) }

// vp8Narrow returns the changes of the samples next to an edge.
func vp8Narrow(p1, p0, q0, q1 int32) (p, q int32) {
	a := 3*(q0-p0) + min(max(p1-q1, -128), 127)
	return min(max((a+3)>>3, -16), 15), min(max((a+4)>>3, -16), 15)
}

func vp8SimpleColumns(s []uint8, stride int, limit int32) {
	for i := range 16 {
		e := (*[4]uint8)(s[i*stride:])
		p1, p0, q0, q1 := int32(e[0]), int32(e[1]), int32(e[2]), int32(e[3])
		if 2*vp8Abs(p0-q0)+vp8Abs(p1-q1)>>1 <= limit {
			a, b := vp8Narrow(p1, p0, q0, q1)
			e[1], e[2] = vp8Clamp(p0+a), vp8Clamp(q0-b)
		}
	}
}

// vp8SimpleRows filters the edge below the first two rows of above.
func vp8SimpleRows(above, below []uint8, stride int, limit int32) {
	s1, s0 := (*[16]uint8)(above), (*[16]uint8)(above[stride:])
	t0, t1 := (*[16]uint8)(below), (*[16]uint8)(below[stride:])
	for i := range 16 {
		p1, p0, q0, q1 := int32(s1[i]), int32(s0[i]), int32(t0[i]), int32(t1[i])
		if 2*vp8Abs(p0-q0)+vp8Abs(p1-q1)>>1 <= limit {
			a, b := vp8Narrow(p1, p0, q0, q1)
			s0[i], t0[i] = vp8Clamp(p0+a), vp8Clamp(q0-b)
		}
	}
}

// vp8Neighbors has eight samples at each distance from an edge, four before and four after it.
type vp8Neighbors [8]uint64

// columns filters the vertical edge in the middle of an 8×8 square.
func (n *vp8Neighbors) columns(s []uint8, stride int, l *vp8Limits, wide bool) {
	s = s[:7*stride+8]
	for i := range n {
		n[i] = binary.LittleEndian.Uint64(s[i*stride:])
	}
	n.transpose()
	if n.filter(l, wide) {
		n.transpose()
		for i, v := range n {
			binary.LittleEndian.PutUint64(s[i*stride:], v)
		}
	}
}

// rows filters the horizontal edge between four rows of eight samples above and below.
func (n *vp8Neighbors) rows(above, below []uint8, stride int, l *vp8Limits, wide bool) {
	above, below = above[:3*stride+8], below[:3*stride+8]
	a0, a1, a2, a3 := (*[8]uint8)(above), (*[8]uint8)(above[stride:]), (*[8]uint8)(above[2*stride:]), (*[8]uint8)(above[3*stride:])
	b0, b1, b2, b3 := (*[8]uint8)(below), (*[8]uint8)(below[stride:]), (*[8]uint8)(below[2*stride:]), (*[8]uint8)(below[3*stride:])
	load, store := binary.LittleEndian.Uint64, binary.LittleEndian.PutUint64
	n[0], n[1], n[2], n[3] = load(a0[:]), load(a1[:]), load(a2[:]), load(a3[:])
	n[4], n[5], n[6], n[7] = load(b0[:]), load(b1[:]), load(b2[:]), load(b3[:])
	if n.filter(l, wide) {
		store(a1[:], n[1])
		store(a2[:], n[2])
		store(a3[:], n[3])
		store(b0[:], n[4])
		store(b1[:], n[5])
		store(b2[:], n[6])
	}
}

// transpose swaps rows and columns of the bytes.
func (n *vp8Neighbors) transpose() {
	a, b, c, d, e, f, g, h := n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]
	a, e = vp8Swap(a, e, 32, 0x00000000ffffffff)
	b, f = vp8Swap(b, f, 32, 0x00000000ffffffff)
	c, g = vp8Swap(c, g, 32, 0x00000000ffffffff)
	d, h = vp8Swap(d, h, 32, 0x00000000ffffffff)
	a, c = vp8Swap(a, c, 16, 0x0000ffff0000ffff)
	b, d = vp8Swap(b, d, 16, 0x0000ffff0000ffff)
	e, g = vp8Swap(e, g, 16, 0x0000ffff0000ffff)
	f, h = vp8Swap(f, h, 16, 0x0000ffff0000ffff)
	n[0], n[1] = vp8Swap(a, b, 8, 0x00ff00ff00ff00ff)
	n[2], n[3] = vp8Swap(c, d, 8, 0x00ff00ff00ff00ff)
	n[4], n[5] = vp8Swap(e, f, 8, 0x00ff00ff00ff00ff)
	n[6], n[7] = vp8Swap(g, h, 8, 0x00ff00ff00ff00ff)
}

// vp8Swap swaps the upper parts of a with the lower parts of b. The mask has the lower parts.
func vp8Swap(a, b uint64, shift int, mask uint64) (uint64, uint64) {
	t := (a>>(shift&63) ^ b) & mask
	return a ^ t<<(shift&63), b ^ t
}

const (
	vp8Ones     = 0x0101010101010101
	vp8HighBits = 0x80 * vp8Ones
)

// vp8Distance returns the absolute differences of bytes.
func vp8Distance(a, b uint64) uint64 {
	d := ((a | vp8HighBits) - b&vp8LowBits) ^ (a^b^vp8HighBits)&vp8HighBits
	negative := (^a&b | ^(a^b)&d) & vp8HighBits >> 7
	return d ^ negative*0xff + negative
}

// vp8Above sets the highest bit of each byte that exceeds a limit below 128.
func vp8Above(v uint64, limit int32) uint64 {
	return (v&vp8LowBits + uint64(127-limit)*vp8Ones | v) & vp8HighBits
}

// filter filters all eight samples, and returns whether any changed.
func (n *vp8Neighbors) filter(l *vp8Limits, wide bool) bool {
	limit := l.edge
	if wide {
		limit += 4
	}
	p1, p0, q0, q1 := n[2], n[3], n[4], n[5]
	// Twice the difference at the edge plus half of the one farther out, halved to fit into a byte.
	near := vp8Distance(p0, q0)
	far := vp8Distance(p1, q1)>>1&vp8LowBits + uint64(^limit&1)*vp8Ones
	skip := near&vp8HighBits | vp8Above(near&vp8LowBits+far>>1&vp8LowBits, limit>>1)
	if skip == vp8HighBits {
		return false
	}
	p, q := vp8Distance(p1, p0), vp8Distance(q1, q0)
	skip |= vp8Above(p, l.inner) | vp8Above(q, l.inner) |
		vp8Above(vp8Distance(n[0], n[1]), l.inner) | vp8Above(vp8Distance(n[1], p1), l.inner) |
		vp8Above(vp8Distance(n[6], q1), l.inner) | vp8Above(vp8Distance(n[7], n[6]), l.inner)
	if skip == vp8HighBits {
		return false
	}
	varies := vp8Above(p, l.variance) | vp8Above(q, l.variance)
	for todo := skip ^ vp8HighBits; todo != 0; todo &= todo - 1 {
		i := bits.TrailingZeros64(todo) - 7
		p1, p0 := int32(uint8(p1>>(i&63))), int32(uint8(p0>>(i&63)))
		q0, q1 := int32(uint8(q0>>(i&63))), int32(uint8(q1>>(i&63)))
		if varies&todo&-todo != 0 {
			a, b := vp8Narrow(p1, p0, q0, q1)
			n.set(3, i, p0+a)
			n.set(4, i, q0-b)
		} else if wide {
			p2, q2 := int32(uint8(n[1]>>(i&63))), int32(uint8(n[6]>>(i&63)))
			a := min(max(3*(q0-p0)+min(max(p1-q1, -128), 127), -128), 127)
			a1, a2, a3 := (27*a+63)>>7, (18*a+63)>>7, (9*a+63)>>7
			n.set(1, i, p2+a3)
			n.set(2, i, p1+a2)
			n.set(3, i, p0+a1)
			n.set(4, i, q0-a1)
			n.set(5, i, q1-a2)
			n.set(6, i, q2-a3)
		} else {
			a := 3 * (q0 - p0)
			a1, a2 := min(max((a+4)>>3, -16), 15), min(max((a+3)>>3, -16), 15)
			a3 := (a1 + 1) >> 1
			n.set(2, i, p1+a3)
			n.set(3, i, p0+a2)
			n.set(4, i, q0-a1)
			n.set(5, i, q1-a3)
		}
	}
	return true
}

// set sets a sample, given the position of its bits.
func (n *vp8Neighbors) set(distance, at int, v int32) {
	n[distance] = n[distance]&^(0xff<<(at&63)) | uint64(vp8Clamp(v))<<(at&63)
}
