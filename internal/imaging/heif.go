package imaging

import (
	"encoding/binary"
	"math"
	"slices"
)

// HEIC and AVIF images are items of an ISO base media file (ISO/IEC 14496-12 and 23008-12). This file reads
// the boxes that describe the primary item, before a decoder sees the data.

// heifFile describes the primary item of a HEIC or AVIF file. The slices are contents of boxes.
type heifFile struct {
	data                               []byte
	iinf, iloc, iref, ipco, ipma, idat []byte
	primary                            uint32
	grid                               bool // the image consists of tiles, each an item
	width, height                      int  // as decoded, before rotation and cropping
	deep                               bool // more than 8 bits per sample
	orientation                        int  // EXIF orientation that the properties irot and imir stand for
	info                               Info
}

// nextBox returns the kind and the content of the first box, and the data after it. ok is false at the end and
// if the box is truncated.
func nextBox(data []byte) (kind, body, rest []byte, ok bool) {
	if len(data) < 8 {
		return nil, nil, nil, false
	}
	head, size := uint64(8), uint64(binary.BigEndian.Uint32(data))
	switch size {
	case 0: // up to the end
		size = uint64(len(data))
	case 1:
		if len(data) < 16 {
			return nil, nil, nil, false
		}
		head, size = 16, binary.BigEndian.Uint64(data[8:])
	}
	if size < head || size > uint64(len(data)) {
		return nil, nil, nil, false
	}
	return data[4:8], data[head:size], data[size:], true
}

// heifFormat returns the format that the brands of a file announce: formatHEIC, formatAVIF, or "" for a file
// of another kind. Brands that allow any codec, such as mif1, count as HEIC.
func heifFormat(data []byte) string {
	kind, body, _, ok := nextBox(data)
	if len(data) >= 12 && string(data[4:8]) == "ftyp" && !ok { // truncated
		body = data[8:12]
	} else if !ok || string(kind) != "ftyp" {
		return ""
	}
	general := false
	for i := 0; i+4 <= len(body); i += 4 {
		switch string(body[i : i+4]) {
		case "heic", "heix", "heim", "heis":
			return formatHEIC
		case "avif", "avis":
			return formatAVIF
		case "mif1", "mif2", "msf1", "hevc", "hevx", "hevm", "hevs":
			general = true
		}
		if i == 0 {
			i += 4 // the minor version
		}
	}
	if general {
		return formatHEIC
	}
	return ""
}

// openHEIF reads the boxes and rejects images that can't be decoded or are too large.
func openHEIF(format string, data []byte, maxPixels int) (heifFile, error) {
	name := displayName(format)
	f := heifFile{data: data}
	meta, err := f.readBoxes(name)
	if err != nil {
		return f, err
	}
	if err := f.readMeta(name, meta); err != nil {
		return f, err
	}
	switch item := f.itemType(f.primary); {
	case item == nil:
		return f, broken(name, "the primary image is missing")
	case string(item) == "grid":
		f.grid = true
	case string(item) == "hvc1" && format == formatHEIC, string(item) == "av01" && format == formatAVIF:
	default:
		return f, unsupported(name, "image data of type %q", item)
	}
	w, h, err := f.readProperties(name, format == formatAVIF)
	if f.width > 0 {
		for _, size := range [][2]int{{f.width, f.height}, {w, h}} {
			if err := admit(name, int64(size[0]), int64(size[1]), maxPixels); err != nil {
				return f, err
			}
		}
	}
	if err != nil {
		return f, err
	}
	held := heicMemory(&f)
	if format == formatAVIF {
		held = avifMemory(&f)
	}
	f.info = Info{Format: format, Width: w, Height: h, Memory: memory(w, held), Orientation: f.orientation}
	return f, nil
}

// readBoxes returns the content of the box that describes the items.
func (f *heifFile) readBoxes(name string) (meta []byte, err error) {
	moving := false
	for rest := f.data; ; {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			switch {
			case meta != nil:
				return meta, nil
			case moving:
				return nil, unsupported(name, "a video or an image sequence without a still image")
			}
			return nil, broken(name, "truncated after %d bytes, before the description of the image", len(f.data))
		}
		switch {
		case string(kind) == "meta" && len(body) > 4 && meta == nil:
			meta = body[4:]
		case string(kind) == "meta":
			return nil, broken(name, "invalid description of the images")
		case string(kind) == "moov":
			moving = true
		}
		rest = next
	}
}

// maxTables and maxProperties limit the description of a file, in which each tile is looked up. A phone's photo
// of 50 megapixels takes a tenth of it.
const (
	maxTables     = 128 << 10
	maxProperties = 1024
)

func (f *heifFile) readMeta(name string, meta []byte) error {
	var pitm, iprp []byte
	for rest := meta; len(rest) > 0; {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			return broken(name, "invalid description of the images")
		}
		rest = next
		var into *[]byte
		switch string(kind) {
		case "pitm":
			into = &pitm
		case "iinf":
			into = &f.iinf
		case "iloc":
			into = &f.iloc
		case "iref":
			into = &f.iref
		case "idat":
			into = &f.idat
		case "iprp":
			into = &iprp
		default:
			continue
		}
		if *into != nil || len(body) < 4 {
			return broken(name, "invalid or repeated %q box", kind)
		}
		*into = body
	}
	for rest := iprp; len(rest) > 0; {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			return broken(name, "invalid properties")
		}
		rest = next
		switch {
		case string(kind) == "ipco" && f.ipco == nil:
			f.ipco = body
		case string(kind) == "ipma" && f.ipma == nil:
			f.ipma = body
		default:
			return broken(name, "invalid or repeated %q box", kind)
		}
	}
	count := 0
	for rest, ok := f.ipco, true; ok; count++ {
		_, _, rest, ok = nextBox(rest)
	}
	if size := len(f.iinf) + len(f.iloc) + len(f.iref) + len(f.ipma); size > maxTables || count > maxProperties {
		return unsupported(name, "%d bytes of tables and %d properties", size, count)
	}
	p := fields{data: pitm}
	version := p.take(4) >> 24
	f.primary = uint32(p.take(2 + 2*min(int(version), 1)))
	if p.short {
		return broken(name, "the primary image is missing")
	}
	return nil
}

// fields reads big-endian numbers. After the end of the data, they are 0 and short is true.
type fields struct {
	data  []byte
	short bool
}

func (p *fields) take(n int) (v uint64) {
	if n > len(p.data) {
		p.data, p.short = nil, true
		return 0
	}
	for _, b := range p.data[:n] {
		v = v<<8 | uint64(b)
	}
	p.data = p.data[n:]
	return v
}

// skip returns the next n bytes.
func (p *fields) skip(n uint64) []byte {
	if n > uint64(len(p.data)) {
		p.data, p.short = nil, true
		return nil
	}
	skipped := p.data[:n]
	p.data = p.data[n:]
	return skipped
}

// items calls visit with the ID and the four letters of the type of each item.
func (f *heifFile) items(visit func(id uint32, kind []byte)) {
	p := fields{data: f.iinf}
	version := int(p.take(4) >> 24)
	p.take(2 + 2*min(version, 1))
	for rest := p.data; ; {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			return
		}
		rest = next
		e := fields{data: body}
		version := int(e.take(4) >> 24)
		if string(kind) != "infe" || version < 2 {
			continue
		}
		id := uint32(e.take(2 + 2*(min(version, 3)-2)))
		e.take(2) // protection
		if t := e.skip(4); t != nil {
			visit(id, t)
		}
	}
}

// itemType returns the four letters of an item's type, or nil if there is no such item.
func (f *heifFile) itemType(item uint32) (found []byte) {
	f.items(func(id uint32, kind []byte) {
		if id == item {
			found = kind
		}
	})
	return found
}

// properties calls visit with the properties of an item, in the order in which they apply.
func (f *heifFile) properties(item uint32, visit func(kind, body []byte)) {
	p := fields{data: f.ipma}
	head := p.take(4)
	version, wide := int(head>>24), head&1 != 0
	for n := p.take(4); n > 0 && !p.short; n-- {
		id := uint32(p.take(2 + 2*min(version, 1)))
		for k := p.take(1); k > 0; k-- {
			index := p.take(1)
			if wide {
				index = index<<8&0x7f00 | p.take(1)
			} else {
				index &= 0x7f
			}
			if id == item && index > 0 {
				f.property(index, visit)
			}
		}
		if id == item {
			return
		}
	}
}

// property calls visit with the property of the given index, from 1.
func (f *heifFile) property(index uint64, visit func(kind, body []byte)) {
	for rest := f.ipco; ; index-- {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			return
		}
		if index == 1 {
			visit(kind, body)
			return
		}
		rest = next
	}
}

// readProperties sets the size and orientation of the primary item, and returns the size of the result. Like
// libheif, a HEIC is cropped, rotated and mirrored as its properties say. Like libavif and Pillow, an AVIF
// isn't.
func (f *heifFile) readProperties(name string, avif bool) (width, height int, err error) {
	var clap []byte
	angle, mirror := 0, -1
	invalid := false
	f.properties(f.primary, func(kind, body []byte) {
		p := fields{data: body}
		switch string(kind) {
		case "ispe":
			p.take(4)
			w, h := p.take(4), p.take(4)
			invalid = invalid || p.short || f.width > 0 || w > math.MaxInt32 || h > math.MaxInt32
			f.width, f.height = int(w), int(h)
			width, height = f.width, f.height
		case "clap":
			clap = body
			if !avif {
				width, height = cropped(body, width), cropped(body[min(8, len(body)):], height)
			}
		case "irot":
			angle = int(p.take(1) & 3)
			if !avif && angle%2 == 1 {
				width, height = height, width
			}
		case "imir":
			mirror = int(p.take(1) & 1)
		}
	})
	if invalid || f.width <= 0 || f.height <= 0 || width <= 0 || height <= 0 || clap != nil && len(clap) != 32 {
		return 0, 0, broken(name, "invalid size of the image")
	}
	for rest := f.ipco; ; { // of any item: a grid doesn't have these properties, but its tiles do
		kind, body, next, ok := nextBox(rest)
		if !ok {
			break
		}
		rest = next
		f.deep = f.deep || string(kind) == "hvcC" && len(body) > 18 && (body[17]|body[18])&7 > 0 ||
			string(kind) == "av1C" && len(body) > 2 && body[2]&0x40 != 0
	}
	f.orientation = 1
	if avif {
		f.orientation = orientationOf(angle, mirror)
	}
	return width, height, nil
}

// cropped returns the rounded fraction at the start of a property clap, or 0 if it's invalid or larger than
// size.
func cropped(clap []byte, size int) int {
	p := fields{data: clap}
	n, d := p.take(4), p.take(4)
	if p.short || d == 0 || (n+d/2)/d > uint64(size) {
		return 0
	}
	return int((n + d/2) / d)
}

// orientationOf returns the EXIF orientation of an image that is rotated counterclockwise by angle·90° and
// then mirrored: not (-1), top to bottom (0), or left to right (1).
func orientationOf(angle, mirror int) int {
	return [3][4]int{{1, 8, 3, 6}, {4, 5, 2, 7}, {2, 7, 4, 5}}[mirror+1][angle]
}

// heifItem is the coded data of an item.
type heifItem struct {
	id     uint32
	config []byte // the property hvcC or av1C
	data   []byte
}

// parts returns the coded images that the primary image consists of: itself, or its tiles.
func (f *heifFile) parts(name, codec, config string) (items []heifItem, err error) {
	ids := []uint32{f.primary}
	if f.grid {
		if ids, err = f.tiles(name); err != nil {
			return nil, err
		}
	}
	items = make([]heifItem, len(ids))
	total := 0
	for i, id := range ids {
		if string(f.itemType(id)) != codec {
			return nil, unsupported(name, "tiles of type %q", f.itemType(id))
		}
		f.properties(id, func(kind, body []byte) {
			if string(kind) == config {
				items[i].config = body
			}
		})
		items[i].id, items[i].data = id, f.itemData(id)
		if total += len(items[i].data); items[i].config == nil || len(items[i].data) == 0 || total > len(f.data) {
			return nil, broken(name, "invalid image data")
		}
	}
	return items, nil
}

// maxTiles limits the tiles of an image. A phone's photo of 50 megapixels has 200.
const maxTiles = 1024

// tiles returns the items of an image that is a grid.
func (f *heifFile) tiles(name string) (ids []uint32, err error) {
	g := fields{data: f.itemData(f.primary)}
	wide := g.take(2) & 1
	rows, columns := int(g.take(1))+1, int(g.take(1))+1
	width, height := int(g.take(2+2*int(wide))), int(g.take(2+2*int(wide)))
	if g.short || width != f.width || height != f.height {
		return nil, broken(name, "invalid grid of tiles")
	}
	if rows*columns > maxTiles {
		return nil, unsupported(name, "%d tiles, the maximum is %d", rows*columns, maxTiles)
	}
	p := fields{data: f.iref}
	size := 2 + 2*min(int(p.take(4)>>24), 1)
	for rest := p.data; ; {
		kind, body, next, ok := nextBox(rest)
		if !ok {
			break
		}
		rest = next
		r := fields{data: body}
		if string(kind) != "dimg" || uint32(r.take(size)) != f.primary {
			continue
		}
		for n := r.take(2); n > 0 && !r.short; n-- {
			ids = append(ids, uint32(r.take(size)))
		}
		break
	}
	if len(ids) != rows*columns {
		return nil, broken(name, "%d tiles, want %d", len(ids), rows*columns)
	}
	return ids, nil
}

// itemData returns the data of an item, or nil if it's missing or invalid.
func (f *heifFile) itemData(item uint32) (data []byte) {
	p := fields{data: f.iloc}
	version := int(p.take(4) >> 24)
	sizes := p.take(2)
	offsetSize, lengthSize, baseSize, indexSize := int(sizes>>12), int(sizes>>8&15), int(sizes>>4&15), int(sizes&15)
	if version == 0 {
		indexSize = 0
	}
	wide := 2 + 2*(max(version, 1)-1)
	if max(offsetSize, lengthSize, baseSize, indexSize) > 8 || version > 2 {
		return nil
	}
	for n := p.take(wide); n > 0 && !p.short; n-- {
		id := uint32(p.take(wide))
		source := f.data
		if version > 0 {
			switch p.take(2) & 15 {
			case 0:
			case 1:
				source = f.idat
			default:
				source = nil
			}
		}
		p.take(2)
		base, extents := p.take(baseSize), p.take(2)
		if extents > 1 && offsetSize+lengthSize == 0 {
			return nil // they take no space in the table, so that there could be any number of them
		}
		for k := extents; k > 0 && !p.short; k-- {
			p.take(indexSize)
			e := fields{data: source}
			offset, length := base+p.take(offsetSize), p.take(lengthSize)
			if id != item {
				continue
			}
			e.skip(offset)
			if length == 0 {
				length = uint64(len(e.data))
			}
			part := e.skip(length)
			switch {
			case e.short:
				return nil
			case data == nil:
				data = part[:len(part):len(part)]
			case len(data)+len(part) > len(f.data):
				return nil
			default:
				data = append(data, part...)
			}
		}
		if id == item {
			return data
		}
	}
	return nil
}

// prepareHEIF changes a copy of the file for the decoders. The brand becomes that of a still image, because they
// reject some others. Only the parts and the primary image remain: the other items, such as alpha channels,
// thumbnails and depth maps, would be read or decoded without being used.
func prepareHEIF(data []byte, brand string, parts []heifItem) {
	f := heifFile{data: data}
	meta, err := f.readBoxes("")
	if err != nil || f.readMeta("", meta) != nil {
		return // unreachable: the file was read before
	}
	copy(data[8:], brand)
	f.items(func(id uint32, kind []byte) {
		if id != f.primary && !slices.ContainsFunc(parts, func(p heifItem) bool { return p.id == id }) {
			copy(kind, "free")
		}
	})
}
