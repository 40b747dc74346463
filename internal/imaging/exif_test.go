package imaging

import (
	"fmt"
	"slices"
	"testing"
)

// exifOf returns EXIF data with an orientation, stored as a number of the given type.
func exifOf(bigEndian bool, kind, orientation int) []byte {
	if bigEndian {
		value := slices.Concat(be16(orientation), be16(0))
		return slices.Concat([]byte("MM\x00*"), be32(8), be16(1), be16(0x112), be16(kind), be32(1), value, be32(0))
	}
	return slices.Concat([]byte("II*\x00"), le32(8), le16(1), le16(0x112), le16(kind), le32(1), le32(orientation), le32(0))
}

func TestInfo_Orientation(t *testing.T) {
	jpeg, png := fixtureNamed(t, "jpeg-444-32x32.jpg").data, fixtureNamed(t, "png-32x32.png").data
	webp := fixtureNamed(t, "webp-lossy-32x32.webp").data
	app1 := func(content []byte) []byte { return slices.Concat([]byte("\xff\xe1"), be16(len(content)+2), content) }
	jpegWith := func(segments ...[]byte) []byte { return slices.Concat(jpeg[:2], slices.Concat(segments...), jpeg[2:]) }
	exif := func(data []byte) []byte { return app1(append([]byte(exifPrefix), data...)) }
	pngWith := func(data []byte, at int) []byte {
		return slices.Insert(slices.Clone(png), at, pngChunkOf("eXIf", data)...)
	}
	webpWith := func(data []byte) []byte { return riffOf(vp8x(32, 32), webp[12:], riffChunk("EXIF", data)) }
	six := exifOf(false, 3, 6)
	type variant struct {
		name string
		data []byte
		want int
	}
	variants := []variant{
		{"JPEG without EXIF", jpeg, 1},
		{"JPEG, big-endian", jpegWith(exif(exifOf(true, 3, 8))), 8},
		{"JPEG, 32-bit value", jpegWith(exif(exifOf(false, 4, 3))), 3},
		{"JPEG, EXIF after XMP", jpegWith(app1([]byte("http://ns.adobe.com/xap/1.0/\x00<x/>")), exif(six)), 6},
		{"JPEG, fill byte", jpegWith([]byte("\xff"), exif(six)), 6},
		{"JPEG, orientation 0", jpegWith(exif(exifOf(false, 3, 0))), 1},
		{"JPEG, orientation 9", jpegWith(exif(exifOf(false, 3, 9))), 1},
		{"JPEG, text as orientation", jpegWith(exif(exifOf(false, 2, 6))), 1},
		{"JPEG, directory outside of the data", jpegWith(exif([]byte("II*\x00\xff\xff\xff\x7f"))), 1},
		{"JPEG, cut directory", jpegWith(exif(six[:12])), 1},
		{"JPEG, empty EXIF", jpegWith(exif(nil)), 1},
		{"PNG without EXIF", png, 1},
		{"PNG, before the data", pngWith(six, 33), 6},
		{"PNG, after the data", pngWith(six, len(png)-12), 6},
		{"WebP without EXIF", webp, 1},
		{"WebP", webpWith(six), 6},
		{"WebP, with JPEG's prefix", webpWith(append([]byte(exifPrefix), six...)), 6},
		{"GIF", fixtureNamed(t, "gif-plain.gif").data, 1},
		{"BMP", fixtureNamed(t, "bmp-24.bmp").data, 1},
	}
	for orientation := 1; orientation <= 8; orientation++ {
		variants = append(variants, variant{fmt.Sprintf("JPEG %d", orientation), jpegWith(exif(exifOf(false, 3, orientation))), orientation})
	}
	plain := make([]uint8, numPixels)
	for _, v := range variants {
		info, err := Inspect(v.data, 0)
		if err != nil || info.Orientation != v.want {
			t.Errorf("%s: orientation %d, %v, want %d", v.name, info.Orientation, err, v.want)
		}
		var d Decoder
		if decoded, err := d.Decode(plain, v.data); err != nil || decoded != info {
			t.Errorf("%s: Decode = %+v, %v, want Inspect's %+v", v.name, decoded, err, info)
		}
	}
}
