package imaging

import "encoding/binary"

// oriented returns info with the orientation that the file's EXIF data states. See Info.Orientation.
func oriented(info Info, data []byte) Info {
	if info.Format == "" {
		return info
	}
	var exif []byte
	switch info.Format {
	case formatJPEG:
		exif = exifOfJPEG(data)
	case formatPNG:
		exif = exifOfPNG(data)
	case formatWebP:
		exif = exifOfWebP(data)
	}
	info.Orientation = 1
	if dir, ok := openDirectory(exif); ok {
		info.Orientation = dir.orientation()
	}
	return info
}

// exifPrefix precedes EXIF data in JPEG, and in WebP by mistake of some programs.
const exifPrefix = "Exif\x00\x00"

// exifOfJPEG returns the EXIF data of the first APP1 segment that has some.
func exifOfJPEG(data []byte) []byte {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker := data[at+1]
		switch {
		case marker == 0xff: // a fill byte
			at++
			continue
		case marker == 0xda, marker == 0xd9: // start of scan, end of image
			return nil
		case marker >= 0xd0 && marker <= 0xd8, marker == 0x01:
			at += 2
			continue
		}
		end := at + 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		if end > len(data) || end < at+4 {
			return nil
		}
		if segment := data[at+4 : end]; marker == 0xe1 && hasPrefix(segment, exifPrefix) {
			return segment[len(exifPrefix):]
		}
		at = end
	}
	return nil
}

// exifOfPNG returns the content of the eXIf chunk, which can be before or after the image data.
func exifOfPNG(data []byte) []byte {
	for rest := data[len(pngSignature):]; ; {
		c, next, ok := nextPNGChunk(rest)
		if !ok || c.crc == nil {
			return nil
		}
		if c.is("eXIf") {
			return c.body
		}
		rest = next
	}
}

// exifOfWebP returns the content of the EXIF chunk, which can be before or after the image data.
func exifOfWebP(data []byte) []byte {
	for rest := data[12:]; len(rest) >= 8; {
		size := int64(binary.LittleEndian.Uint32(rest[4:]))
		if size > int64(len(rest))-8 {
			return nil
		}
		body := rest[8 : 8+size]
		if string(rest[:4]) == "EXIF" {
			if hasPrefix(body, exifPrefix) {
				body = body[len(exifPrefix):]
			}
			return body
		}
		rest = rest[min(8+size+size&1, int64(len(rest))):]
	}
	return nil
}

// directory is the first image file directory of TIFF data, which is also the format of EXIF.
type directory struct {
	data    []byte
	entries []byte // 12 bytes each
	big     bool   // byte order
}

// openDirectory returns ok = false if data isn't TIFF or is truncated before the end of the directory.
func openDirectory(data []byte) (d directory, ok bool) {
	if len(data) < 8 {
		return d, false
	}
	switch string(data[:4]) {
	case "II*\x00":
	case "MM\x00*":
		d.big = true
	default:
		return d, false
	}
	d.data = data
	at := int64(d.uint(data[4:8]))
	if at+2 > int64(len(data)) {
		return d, false
	}
	end := at + 2 + 12*int64(d.uint(data[at:at+2]))
	if end > int64(len(data)) {
		return d, false
	}
	d.entries = data[at+2 : end]
	return d, true
}

// uint returns the number of 1, 2 or 4 bytes.
func (d *directory) uint(b []byte) uint32 {
	switch {
	case len(b) == 1:
		return uint32(b[0])
	case len(b) == 2 && d.big:
		return uint32(binary.BigEndian.Uint16(b))
	case len(b) == 2:
		return uint32(binary.LittleEndian.Uint16(b))
	case d.big:
		return binary.BigEndian.Uint32(b)
	default:
		return binary.LittleEndian.Uint32(b)
	}
}

// values returns the number of values of a tag, and the first n in values. The number is 0 if the tag is
// missing or its values aren't whole numbers within the data.
func (d *directory) values(tag uint32) (values [8]uint32, n int) {
	for e := d.entries; len(e) >= 12; e = e[12:] {
		if d.uint(e[:2]) != tag {
			continue
		}
		var size int64
		switch d.uint(e[2:4]) {
		case 1:
			size = 1
		case 3:
			size = 2
		case 4:
			size = 4
		default:
			return values, 0
		}
		count := int64(d.uint(e[4:8]))
		raw := e[8:12]
		if count*size > 4 {
			at := int64(d.uint(raw))
			if at+count*size > int64(len(d.data)) {
				return values, 0
			}
			raw = d.data[at:]
		}
		for i := range min(count, int64(len(values))) {
			values[i] = d.uint(raw[i*size:][:size])
		}
		return values, int(count)
	}
	return values, 0
}

// value returns the first value of a tag, or otherwise if it's missing.
func (d *directory) value(tag, otherwise uint32) uint32 {
	if values, n := d.values(tag); n > 0 {
		return values[0]
	}
	return otherwise
}

// orientation returns the orientation, from 1 to 8.
func (d *directory) orientation() int {
	if v := d.value(0x112, 1); v >= 1 && v <= 8 {
		return int(v)
	}
	return 1
}
