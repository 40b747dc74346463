package imaging

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// This decoder of VP8L, the lossless WebP, follows RFC 9649. golang.org/x/image/vp8l takes up to twice the time,
// because it reads byte by byte and applies each transform to the whole image, byte by byte.

const (
	vp8lRootBits   = 8 // size of the first table of a Huffman code
	vp8lMaxLength  = 15
	vp8lLiterals   = 256
	vp8lLengths    = 24
	vp8lDistances  = 40
	vp8lMaxCache   = 11                                           // bits
	vp8lAlphabet   = vp8lLiterals + vp8lLengths + 1<<vp8lMaxCache // symbols in the largest code
	vp8lMaxGroups  = 2600                                         // as in libwebp's encoder; the format has 65,536
	vp8lSubtable   = 0x80                                         // flag of an entry of the first table
	vp8lChunk      = 16 << 10                                     // entries of tables that are allocated at once
	vp8lNumCodes   = 5
	vp8lPredictor  = 0
	vp8lCrossColor = 1
	vp8lAddGreen   = 2
	vp8lPalette    = 3
)

var (
	errVP8LTruncated = errors.New("truncated")
	errVP8LCode      = errors.New("invalid Huffman code")
	errVP8LGroups    = errors.New("too many Huffman codes")
	errVP8LCache     = errors.New("invalid color cache")
	errVP8LReference = errors.New("invalid back-reference")
	errVP8LTransform = errors.New("a transform is repeated")
)

// vp8lGroup has the Huffman codes of some tiles. The first 256 entries of a code's table are found by the next 8 bits.
// An entry is symbol<<8 | length, or offset<<8 | vp8lSubtable | bits, for a second table in the same slice.
type vp8lGroup struct {
	green, red, blue, alpha, distance []uint32
	// packed has a pixel and the total length of its codes plus 1 for the next 8 bits, or zeros.
	packed []uint32
	// If the codes of red, blue and alpha have one symbol each, constant has these. Otherwise it may have alpha.
	constant                 uint32
	onlyGreen, constantAlpha bool
}

type vp8lTransform struct {
	kind  uint32
	bits  uint // of the size of tiles, or of the number of indices in a pixel
	width int  // of the rows after the inverse transform
	tiles []uint32
}

// vp8lDecoder decodes lossless WebP images. Its buffers are reused.
type vp8lDecoder struct {
	data   []byte
	pos    int // of the next byte for the window; beyond the end, zeros are read
	window uint64
	n      uint // bits in the window

	transforms []vp8lTransform
	buffers    [4][]uint32 // tiles of two transforms and of groups; the image
	rows       [4][]uint32 // two of the predictor, of other transforms, and of the palette
	groups     []vp8lGroup
	chunks     [][]uint32 // memory of tables
	used       int        // chunks in use
	free       []uint32   // rest of the last one
	mapping    [vp8lMaxGroups]int16
	palette    [256]uint32
	cache      [1 << vp8lMaxCache]uint32
	lengths    [vp8lAlphabet]uint8
	sorted     [vp8lAlphabet]uint16
}

// refill fills the window with at least 56 bits.
func (d *vp8lDecoder) refill() {
	if d.pos+8 <= len(d.data) {
		d.window |= binary.LittleEndian.Uint64(d.data[d.pos:]) << d.n
		d.pos += int(63-d.n) >> 3
		d.n |= 56
		return
	}
	d.pos, d.window, d.n = vp8lRefill(d.data, d.pos, d.window, d.n)
}

// vp8lRefill refills the window at the end of the data.
func vp8lRefill(data []byte, pos int, window uint64, n uint) (int, uint64, uint) {
	for n < 56 {
		if pos < len(data) {
			window |= uint64(data[pos]) << n
		}
		pos++
		n += 8
	}
	return pos, window, n
}

// read returns the next count bits, at most 32.
func (d *vp8lDecoder) read(count uint) uint32 {
	if d.n < count {
		d.refill()
	}
	v := uint32(d.window & (1<<count - 1))
	d.window >>= count
	d.n -= count
	return v
}

// truncated returns whether more bits were read than there are.
func (d *vp8lDecoder) truncated() bool { return 8*d.pos-int(d.n) > 8*len(d.data) }

// symbol returns the next symbol of a code.
func (d *vp8lDecoder) symbol(table []uint32) uint32 {
	if d.n < vp8lMaxLength {
		d.refill()
	}
	e := vp8lEntry(table, d.window)
	d.window >>= e & 63
	d.n -= uint(e & 63)
	return e >> 8
}

// vp8lEntry returns the entry of the code at the start of the window.
func vp8lEntry(table []uint32, window uint64) uint32 {
	e := table[uint8(window)]
	if e&vp8lSubtable != 0 {
		e = vp8lSecond(table, e, window)
	}
	return e
}

func vp8lSecond(table []uint32, e uint32, window uint64) uint32 {
	return table[e>>8+uint32(window>>vp8lRootBits)&(1<<(e&15)-1)]
}

// allocate returns a table whose content is undefined.
func (d *vp8lDecoder) allocate(n int) []uint32 {
	if len(d.free) < n {
		if d.used == len(d.chunks) {
			d.chunks = append(d.chunks, make([]uint32, vp8lChunk))
		}
		d.free = d.chunks[d.used]
		d.used++
	}
	table := d.free[:n:n]
	d.free = d.free[n:]
	return table
}

// build returns the table of the code with the given lengths, and its longest length. A code with one symbol has
// length 0.
func (d *vp8lDecoder) build(lengths []uint8) (table []uint32, longest uint, err error) {
	var count, start [vp8lMaxLength + 2]int
	for _, l := range lengths {
		count[l]++
	}
	symbols := len(lengths) - count[0]
	if symbols == 0 {
		return nil, 0, errVP8LCode
	}
	left := 1 << vp8lMaxLength
	for l := 1; l <= vp8lMaxLength; l++ {
		start[l+1] = start[l] + count[l]
		left -= count[l] << (vp8lMaxLength - l)
		if count[l] > 0 {
			longest = uint(l)
		}
	}
	if symbols > 1 && left != 0 {
		return nil, 0, errVP8LCode
	}
	sorted := d.sorted[:symbols]
	for s, l := range lengths {
		if l > 0 {
			sorted[start[l]] = uint16(s)
			start[l]++
		}
	}
	if symbols == 1 {
		table = d.allocate(1 << vp8lRootBits)
		for i := range table {
			table[i] = uint32(sorted[0]) << 8
		}
		return table, 0, nil
	}
	// The codes that share their first 8 bits follow each other, and the last is the longest.
	var width [1 << vp8lRootBits]uint8
	size, code, i := uint32(1<<vp8lRootBits), uint32(0), 0
	for l := 1; l <= vp8lMaxLength; l++ {
		code <<= 1
		if l > vp8lRootBits {
			for c := range uint32(count[l]) {
				width[(code+c)>>(l-vp8lRootBits)] = uint8(l - vp8lRootBits)
			}
		}
		code += uint32(count[l])
	}
	if longest > vp8lRootBits {
		for _, w := range width {
			if w > 0 {
				size += 1 << w
			}
		}
	}
	table = d.allocate(int(size))
	code = 0
	next := uint32(1 << vp8lRootBits)
	for l := 1; l <= vp8lMaxLength; l++ {
		code <<= 1
		for range count[l] {
			e := uint32(sorted[i])<<8 | uint32(l)
			i++
			reversed := uint32(bits.Reverse16(uint16(code << (16 - l))))
			if l <= vp8lRootBits {
				for j := reversed; j < 1<<vp8lRootBits; j += 1 << l {
					table[j] = e
				}
			} else {
				root, w := reversed&(1<<vp8lRootBits-1), uint32(width[code>>(l-vp8lRootBits)])
				if code&(1<<(l-vp8lRootBits)-1) == 0 { // the first code of the second table
					table[root] = next<<8 | vp8lSubtable | w
					next += 1 << w
				}
				offset := table[root] >> 8
				for j := reversed >> vp8lRootBits; j < 1<<w; j += 1 << (l - vp8lRootBits) {
					table[offset+j] = e
				}
			}
			code++
		}
	}
	return table, longest, nil
}

var vp8lLengthOrder = [19]uint8{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// code reads a Huffman code.
func (d *vp8lDecoder) code(alphabet int) (table []uint32, longest uint, err error) {
	lengths := d.lengths[:alphabet]
	if d.read(1) == 1 {
		two := d.read(1)
		first := d.read(1 + 7*uint(d.read(1)))
		second := first
		if two == 1 {
			second = d.read(8)
		}
		if max(first, second) >= uint32(alphabet) {
			return nil, 0, errVP8LCode
		}
		if two == 0 || first == second { // the same symbol twice takes a bit
			table = d.allocate(1 << vp8lRootBits)
			for i := range table {
				table[i] = first<<8 | two
			}
			return table, uint(two), nil
		}
		table = d.allocate(1 << vp8lRootBits)
		for i := 0; i < len(table); i += 2 {
			table[i], table[i+1] = first<<8|1, second<<8|1
		}
		return table, 1, nil
	}
	count := 4 + int(d.read(4))
	if count > len(vp8lLengthOrder) {
		return nil, 0, errVP8LCode
	}
	var codeLengths [len(vp8lLengthOrder)]uint8
	for _, i := range vp8lLengthOrder[:count] {
		codeLengths[i] = uint8(d.read(3))
	}
	free, used := d.free, d.used
	lengthTable, _, err := d.build(codeLengths[:])
	if err != nil {
		return nil, 0, err
	}
	tokens := alphabet
	if d.read(1) == 1 {
		tokens = 2 + int(d.read(2+2*uint(d.read(3))))
		if tokens > alphabet {
			return nil, 0, errVP8LCode
		}
	}
	clear(lengths)
	previous := uint8(8)
	for s := 0; s < alphabet && tokens > 0; tokens-- {
		l := d.symbol(lengthTable)
		if l <= vp8lMaxLength {
			lengths[s] = uint8(l)
			s++
			if l > 0 {
				previous = uint8(l)
			}
			continue
		}
		var value uint8
		var repeat int
		switch l {
		case 16:
			value, repeat = previous, 3+int(d.read(2))
		case 17:
			repeat = 3 + int(d.read(3))
		default:
			repeat = 11 + int(d.read(7))
		}
		if s+repeat > alphabet {
			return nil, 0, errVP8LCode
		}
		for i := range repeat {
			lengths[s+i] = value
		}
		s += repeat
	}
	d.free, d.used = free, used // of the code for lengths
	if d.truncated() {
		return nil, 0, errVP8LTruncated
	}
	return d.build(lengths)
}

// group reads the five codes of a group.
func (d *vp8lDecoder) group(g *vp8lGroup, cacheBits uint) error {
	alphabets := [vp8lNumCodes]int{vp8lLiterals + vp8lLengths, vp8lLiterals, vp8lLiterals, vp8lLiterals, vp8lDistances}
	if cacheBits > 0 {
		alphabets[0] += 1 << cacheBits
	}
	var longest [vp8lNumCodes]uint
	for i, table := range [vp8lNumCodes]*[]uint32{&g.green, &g.red, &g.blue, &g.alpha, &g.distance} {
		var err error
		if *table, longest[i], err = d.code(alphabets[i]); err != nil {
			return err
		}
	}
	g.packed, g.constant = nil, 0
	g.constantAlpha = longest[3] == 0
	g.onlyGreen = g.constantAlpha && longest[1] == 0 && longest[2] == 0
	if g.constantAlpha {
		g.constant = g.alpha[0] >> 8 << 24
	}
	if g.onlyGreen {
		g.constant |= g.red[0]>>8<<16 | g.blue[0]>>8
	}
	if longest[0]+longest[1]+longest[2]+longest[3] <= vp8lRootBits {
		g.packed = d.allocate(2 << vp8lRootBits)
		for i := range uint32(1 << vp8lRootBits) {
			e := g.green[i]
			argb, n := e&^0xff, e&63
			g.packed[2*i], g.packed[2*i+1] = 0, 0
			if e>>8 >= vp8lLiterals {
				continue
			}
			e = g.red[i>>n]
			argb, n = argb|e>>8<<16, n+e&63
			e = g.blue[i>>n]
			argb, n = argb|e>>8, n+e&63
			e = g.alpha[i>>n]
			argb, n = argb|e>>8<<24, n+e&63
			g.packed[2*i], g.packed[2*i+1] = argb, n+1
		}
	}
	return nil
}

// vp8lTiles returns the number of tiles of 1<<bits pixels that cover size pixels.
func vp8lTiles(size int, bits uint) int { return (size + 1<<bits - 1) >> bits }

// pixels returns one of the buffers with n pixels, whose content is undefined.
func (d *vp8lDecoder) pixels(buffer, n int) []uint32 {
	if cap(d.buffers[buffer]) < n {
		d.buffers[buffer] = make([]uint32, n)
	}
	return d.buffers[buffer][:n]
}

const (
	vp8lTileBuffer  = 2 // of groups
	vp8lImageBuffer = 3
)

// image reads an image of w×h pixels into a buffer. Only the main image can have more than one group of codes.
func (d *vp8lDecoder) image(buffer, w, h int) ([]uint32, error) {
	cacheBits := uint(0)
	if d.read(1) == 1 {
		cacheBits = uint(d.read(4))
		if cacheBits < 1 || cacheBits > vp8lMaxCache {
			return nil, errVP8LCache
		}
	}
	var tiles []uint32
	var tileBits uint
	numGroups, inData := 1, 1
	if buffer == vp8lImageBuffer && d.read(1) == 1 {
		tileBits = 2 + uint(d.read(3))
		var err error
		if tiles, err = d.image(vp8lTileBuffer, vp8lTiles(w, tileBits), vp8lTiles(h, tileBits)); err != nil {
			return nil, err
		}
		// Groups can be unused. Only those in use are kept: those with a positive number in mapping.
		clear(d.mapping[:])
		numGroups, inData = 0, 0
		for i, t := range tiles {
			t = t >> 8 & 0xffff
			if t >= vp8lMaxGroups {
				return nil, errVP8LGroups
			}
			if d.mapping[t] == 0 {
				numGroups++
				d.mapping[t] = int16(numGroups)
			}
			tiles[i] = uint32(d.mapping[t] - 1)
			inData = max(inData, int(t)+1)
		}
	}
	d.used, d.free = 0, nil
	if most := 8*len(d.data)/20 + 1; inData > most {
		return nil, errVP8LTruncated
	}
	if cap(d.groups) < numGroups {
		d.groups = make([]vp8lGroup, numGroups)
	}
	d.groups = d.groups[:numGroups]
	var discarded vp8lGroup
	for i := range inData {
		g, unused := &d.groups[0], tiles != nil && d.mapping[i] == 0
		if unused {
			g = &discarded
		} else if tiles != nil {
			g = &d.groups[d.mapping[i]-1]
		}
		free, used := d.free, d.used
		if err := d.group(g, cacheBits); err != nil {
			return nil, err
		}
		if unused {
			d.free, d.used = free, used
		}
	}
	dst := d.pixels(buffer, w*h)
	clear(d.cache[:1<<cacheBits])
	return dst, d.decode(dst, w, cacheBits, tiles, tileBits)
}

// parameter returns a length or a distance code.
func (d *vp8lDecoder) parameter(symbol uint32) int {
	if symbol < 4 {
		return int(symbol) + 1
	}
	extra := uint(symbol-2) >> 1
	return int((2+symbol&1)<<extra+d.read(extra)) + 1
}

// decode reads the pixels of an image.
func (d *vp8lDecoder) decode(dst []uint32, w int, cacheBits uint, tiles []uint32, tileBits uint) error {
	data := d.data
	g := &d.groups[0]
	tilesPerRow := vp8lTiles(w, tileBits)
	cache, shift, cached := d.cache[:], 32-cacheBits, 0
	x, y, p := 0, 0, 0
	for p < len(dst) {
		// Pixels up to the end of the tile in this row have the same codes.
		end := p + w - x
		if tiles == nil {
			end = len(dst)
		} else {
			g = &d.groups[tiles[(y>>tileBits)*tilesPerRow+x>>tileBits]]
			end = min(end, p+1<<tileBits-x&(1<<tileBits-1))
		}
		green, red, blue := g.green, g.red, g.blue
		packed := g.packed
		pos, window, n := d.pos, d.window, d.n
		begin := p
		for p < end {
			if uint(pos) < uint(len(data)) && len(data)-pos >= 8 {
				window |= binary.LittleEndian.Uint64(data[pos:]) << (n & 63)
				pos += int(63-n) >> 3
				n |= 56
			} else {
				pos, window, n = vp8lRefill(data, pos, window, n)
			}
			if packed != nil {
				i := 2 * uint(uint8(window))
				if size := packed[i+1]; size != 0 {
					dst[p] = packed[i]
					p++
					window >>= (size - 1) & 63
					n -= uint(size - 1)
					continue
				}
			}
			e := green[uint8(window)]
			if e&vp8lSubtable != 0 {
				e = vp8lSecond(green, e, window)
			}
			window >>= e & 63
			n -= uint(e & 63)
			if e < vp8lLiterals<<8 {
				if g.onlyGreen {
					dst[p] = g.constant | e&^0xff
					p++
					continue
				}
				argb := e &^ 0xff
				e = red[uint8(window)]
				if e&vp8lSubtable != 0 {
					e = vp8lSecond(red, e, window)
				}
				window >>= e & 63
				n -= uint(e & 63)
				argb |= e >> 8 << 16
				e = blue[uint8(window)]
				if e&vp8lSubtable != 0 {
					e = vp8lSecond(blue, e, window)
				}
				window >>= e & 63
				n -= uint(e & 63)
				argb |= e >> 8
				if g.constantAlpha {
					dst[p] = argb | g.constant
					p++
					continue
				}
				if n < vp8lMaxLength {
					pos, window, n = vp8lRefill(data, pos, window, n)
				}
				e = vp8lEntry(g.alpha, window)
				window >>= e & 63
				n -= uint(e & 63)
				dst[p] = argb | e>>8<<24
				p++
				continue
			}
			symbol := e>>8 - vp8lLiterals
			if symbol >= vp8lLengths {
				for ; cached < p; cached++ { // the cache has all previous pixels
					argb := dst[cached]
					cache[argb*0x1e35a7bd>>shift] = argb
				}
				dst[p] = cache[symbol-vp8lLengths]
				p++
				continue
			}
			d.pos, d.window, d.n = pos, window, n
			length := d.parameter(symbol)
			distance := d.parameter(d.symbol(g.distance))
			if distance > len(vp8lNear)/2 {
				distance -= len(vp8lNear) / 2
			} else {
				near := vp8lNear[2*(distance-1):]
				distance = max(int(near[1])*w+int(near[0]), 1)
			}
			pos, window, n = d.pos, d.window, d.n
			if length > len(dst)-p || distance > p {
				return errVP8LReference
			}
			if to := p + length; distance == 1 {
				argb := dst[p-1]
				for i := range dst[p:to] {
					dst[p:to][i] = argb
				}
				p = to
			} else {
				for from := p - distance; p < to; { // a reference can overlap itself
					p += copy(dst[p:to], dst[from:p])
				}
			}
		}
		d.pos, d.window, d.n = pos, window, n
		if d.truncated() {
			return errVP8LTruncated
		}
		x += p - begin
		if x >= w { // a reference can span rows
			y += x / w
			x %= w
		}
	}
	return nil
}

// vp8lNear has the pixels that the first distances stand for: how far to the left and how far above each is.
var vp8lNear = [2 * 120]int8{
	0, 1, 1, 0, 1, 1, -1, 1, 0, 2, 2, 0, 1, 2, -1, 2, 2, 1, -2, 1, 2, 2, -2, 2, 0, 3, 3, 0, 1, 3,
	-1, 3, 3, 1, -3, 1, 2, 3, -2, 3, 3, 2, -3, 2, 0, 4, 4, 0, 1, 4, -1, 4, 4, 1, -4, 1, 3, 3, -3, 3,
	2, 4, -2, 4, 4, 2, -4, 2, 0, 5, 3, 4, -3, 4, 4, 3, -4, 3, 5, 0, 1, 5, -1, 5, 5, 1, -5, 1, 2, 5,
	-2, 5, 5, 2, -5, 2, 4, 4, -4, 4, 3, 5, -3, 5, 5, 3, -5, 3, 0, 6, 6, 0, 1, 6, -1, 6, 6, 1, -6, 1,
	2, 6, -2, 6, 6, 2, -6, 2, 4, 5, -4, 5, 5, 4, -5, 4, 3, 6, -3, 6, 6, 3, -6, 3, 0, 7, 7, 0, 1, 7,
	-1, 7, 5, 5, -5, 5, 7, 1, -7, 1, 4, 6, -4, 6, 6, 4, -6, 4, 2, 7, -2, 7, 7, 2, -7, 2, 3, 7, -3, 7,
	7, 3, -7, 3, 5, 6, -5, 6, 6, 5, -6, 5, 8, 0, 4, 7, -4, 7, 7, 4, -7, 4, 8, 1, 8, 2, 6, 6, -6, 6,
	8, 3, 5, 7, -5, 7, 7, 5, -7, 5, 8, 4, 6, 7, -6, 7, 7, 6, -7, 6, 8, 5, 7, 7, -7, 7, 8, 6, 8, 7,
}

// run decodes an image of width×height pixels, and calls row with each row of ARGB pixels from the top. The data
// starts with the five bytes that webpFrameSize checked.
func (d *vp8lDecoder) run(data []byte, width, height int, row func(y int, argb []uint32)) error {
	d.data, d.pos, d.window, d.n = data, 5, 0, 0
	d.transforms = d.transforms[:0]
	seen := [4]bool{}
	w := width
	for d.read(1) == 1 {
		t := vp8lTransform{kind: d.read(2), width: w}
		if seen[t.kind] {
			return errVP8LTransform
		}
		seen[t.kind] = true
		var err error
		switch t.kind {
		case vp8lPredictor, vp8lCrossColor:
			t.bits = 2 + uint(d.read(3))
			t.tiles, err = d.image(int(t.kind), vp8lTiles(w, t.bits), vp8lTiles(height, t.bits))
		case vp8lPalette:
			colors := 1 + int(d.read(8))
			switch {
			case colors <= 2:
				t.bits = 3
			case colors <= 4:
				t.bits = 2
			case colors <= 16:
				t.bits = 1
			}
			w = vp8lTiles(w, t.bits)
			var palette []uint32
			if palette, err = d.image(vp8lTileBuffer, colors, 1); err == nil {
				clear(d.palette[:]) // other indices are transparent black
				last := uint32(0)
				for i, c := range palette {
					last = vp8lAdd(last, c)
					d.palette[i] = last
				}
			}
		}
		if err != nil {
			return err
		}
		d.transforms = append(d.transforms, t)
	}
	pixels, err := d.image(vp8lImageBuffer, w, height)
	if err != nil {
		return err
	}
	for i := range d.rows {
		if cap(d.rows[i]) < width+1 {
			d.rows[i] = make([]uint32, width+1)
		}
		d.rows[i] = d.rows[i][:width+1]
	}
	for y := range height {
		line := pixels[y*w:][:w]
		for i := len(d.transforms) - 1; i >= 0; i-- {
			line = d.inverse(&d.transforms[i], y, line)
		}
		row(y, line)
	}
	return nil
}

// inverse applies the inverse of a transform to row y. The result can be in the same memory.
func (d *vp8lDecoder) inverse(t *vp8lTransform, y int, line []uint32) []uint32 {
	tiles := t.tiles
	if tiles != nil {
		wide := vp8lTiles(t.width, t.bits)
		tiles = tiles[(y>>t.bits)*wide:][:wide]
	}
	switch t.kind {
	case vp8lPredictor:
		// The next row needs this result, which other transforms then mustn't change.
		dst, above := d.rows[y&1][:t.width+1], d.rows[1-y&1][:t.width+1]
		if y == 0 {
			last := uint32(0xff000000)
			for x, residual := range line {
				last = vp8lAdd(last, residual)
				dst[x] = last
			}
			return dst[:t.width]
		}
		dst[0] = vp8lAdd(line[0], above[0])
		above[t.width] = dst[0] // above and to the right of the last pixel
		for i, tile := range tiles {
			first, last := max(i<<t.bits, 1), min((i+1)<<t.bits, t.width)
			if first < last {
				vp8lPredict(tile>>8&15, dst[first-1:last], line[first:last], above[first-1:last+1])
			}
		}
		return dst[:t.width]
	case vp8lCrossColor:
		dst := d.rows[2][:t.width]
		for i, tile := range tiles {
			greenToRed, greenToBlue, redToBlue := int32(int8(tile)), int32(int8(tile>>8)), int32(int8(tile>>16))
			first, last := i<<t.bits, min((i+1)<<t.bits, t.width)
			part := dst[first:last]
			for x, p := range line[first:last] {
				green := int32(int8(p >> 8))
				red := p>>16 + uint32(greenToRed*green>>5)
				blue := p + uint32(greenToBlue*green>>5) + uint32(redToBlue*int32(int8(red))>>5)
				part[x] = p&0xff00ff00 | red&0xff<<16 | blue&0xff
			}
		}
		return dst
	case vp8lAddGreen:
		dst := d.rows[2][:len(line)]
		for x, p := range line {
			dst[x] = p&0xff00ff00 | (p&0xff00ff+p>>8&0xff*0x10001)&0xff00ff
		}
		return dst
	default:
		dst := d.rows[3][:t.width]
		if t.bits == 0 {
			for x, p := range line {
				dst[x] = d.palette[uint8(p>>8)]
			}
			return dst
		}
		count := 1 << t.bits
		size := 8 >> t.bits
		mask := uint32(1)<<size - 1
		for x, p := range line {
			p = p >> 8 & 0xff
			part := dst[x*count : min((x+1)*count, len(dst))]
			for i := range part {
				part[i] = d.palette[uint8(p&mask)]
				p >>= size
			}
		}
		return dst
	}
}

// trim releases the data and large buffers.
func (d *vp8lDecoder) trim() {
	d.data = nil
	clear(d.transforms[:cap(d.transforms)])
	for i := range d.buffers {
		if 4*cap(d.buffers[i]) > maxScratch {
			d.buffers[i] = nil
		}
	}
	if 4*vp8lChunk*len(d.chunks) > maxScratch {
		d.chunks = nil
		d.groups = nil
	}
	d.free = nil
	d.used = 0
}

func vp8lAdd(a, b uint32) uint32 {
	return (a&0xff00ff00+b&0xff00ff00)&0xff00ff00 | (a&0xff00ff+b&0xff00ff)&0xff00ff
}

func vp8lAverage(a, b uint32) uint32 { return a&b + (a^b)&0xfefefefe>>1 }

// vp8lPredict adds predictions to the residuals of pixels and stores them in dst[1:]. The first of dst is the pixel to
// the left, and the first of above that of the row above.
func vp8lPredict(mode uint32, dst, residuals, above []uint32) {
	n := len(residuals)
	left := dst[0]
	dst = dst[1:][:n]
	corner, top, right := above[:n], above[1:][:n], above[2:][:n]
	switch mode {
	case 0:
		for x, r := range residuals {
			dst[x] = r + 0xff000000
		}
	case 1:
		for x, r := range residuals {
			left = vp8lAdd(r, left)
			dst[x] = left
		}
	case 2:
		for x, r := range residuals {
			dst[x] = vp8lAdd(r, top[x])
		}
	case 3:
		for x, r := range residuals {
			dst[x] = vp8lAdd(r, right[x])
		}
	case 4:
		for x, r := range residuals {
			dst[x] = vp8lAdd(r, corner[x])
		}
	case 5:
		for x, r := range residuals {
			left = vp8lAdd(r, vp8lAverage(vp8lAverage(left, right[x]), top[x]))
			dst[x] = left
		}
	case 6:
		for x, r := range residuals {
			left = vp8lAdd(r, vp8lAverage(left, corner[x]))
			dst[x] = left
		}
	case 7:
		for x, r := range residuals {
			left = vp8lAdd(r, vp8lAverage(left, top[x]))
			dst[x] = left
		}
	case 8:
		for x, r := range residuals {
			dst[x] = vp8lAdd(r, vp8lAverage(corner[x], top[x]))
		}
	case 9:
		for x, r := range residuals {
			dst[x] = vp8lAdd(r, vp8lAverage(top[x], right[x]))
		}
	case 10:
		for x, r := range residuals {
			left = vp8lAdd(r, vp8lAverage(vp8lAverage(left, corner[x]), vp8lAverage(top[x], right[x])))
			dst[x] = left
		}
	case 11:
		for x, r := range residuals {
			c, t := corner[x], top[x]
			balance := 0 // the prediction's distance from the top pixel, minus that from the left one
			for shift := 0; shift < 32; shift += 8 {
				cc := int(c >> shift & 0xff)
				balance += vp8lAbs(cc-int(left>>shift&0xff)) - vp8lAbs(cc-int(t>>shift&0xff))
			}
			if balance > 0 {
				t = left
			}
			left = vp8lAdd(r, t)
			dst[x] = left
		}
	case 12:
		for x, r := range residuals {
			c, t := corner[x], top[x]
			p := vp8lClamp(int(left>>24)+int(t>>24)-int(c>>24))<<24 |
				vp8lClamp(int(left>>16&0xff)+int(t>>16&0xff)-int(c>>16&0xff))<<16 |
				vp8lClamp(int(left>>8&0xff)+int(t>>8&0xff)-int(c>>8&0xff))<<8 |
				vp8lClamp(int(left&0xff)+int(t&0xff)-int(c&0xff))
			left = vp8lAdd(r, p)
			dst[x] = left
		}
	case 13:
		for x, r := range residuals {
			c, a := corner[x], vp8lAverage(left, top[x])
			left = vp8lAdd(r, vp8lHalf(a>>24, c>>24)<<24|vp8lHalf(a>>16&0xff, c>>16&0xff)<<16|
				vp8lHalf(a>>8&0xff, c>>8&0xff)<<8|vp8lHalf(a&0xff, c&0xff))
			dst[x] = left
		}
	default: // not defined
		copy(dst, residuals)
	}
}

func vp8lHalf(a, c uint32) uint32 { return vp8lClamp(int(a) + (int(a)-int(c))/2) }

func vp8lAbs(v int) int {
	sign := v >> 63
	return (v ^ sign) - sign
}

// vp8lClamp limits v to 0 to 255.
func vp8lClamp(v int) uint32 {
	if uint(v) > 255 {
		return uint32(^v>>63) & 255
	}
	return uint32(v)
}
