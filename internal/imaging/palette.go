package imaging

// palette maps indices to colors.
type palette struct{ r, g, b [256]uint8 }

// makePalette reads palette entries of size bytes each. red and blue are the offsets of these samples in
// an entry; green is at offset 1. Like Pillow, it maps an index without an entry to the gray of that
// level.
func makePalette(entries []byte, size, red, blue int) *palette {
	p := new(palette)
	for i := range 256 {
		p.r[i], p.g[i], p.b[i] = uint8(i), uint8(i), uint8(i)
		if (i+1)*size <= len(entries) {
			e := entries[i*size:]
			p.r[i], p.g[i], p.b[i] = e[red], e[1], e[blue]
		}
	}
	return p
}

func (p *palette) row(r, g, b, index []uint8) {
	r, g, b = r[:len(index)], g[:len(index)], b[:len(index)]
	for x, i := range index {
		r[x], g[x], b[x] = p.r[i], p.g[i], p.b[i]
	}
}
