package imaging

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"image"
	colors "image/color/palette"
	"image/gif"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var sizeInName = regexp.MustCompile(`(\d+)x(\d+)(-interlaced)?\.\w+$`)

func TestDecode_info(t *testing.T) {
	formats := map[string]string{".jpg": "jpeg", ".png": "png", ".gif": "gif", ".webp": "webp", ".bmp": "bmp"}
	var d Decoder
	dst := make([]uint8, numPixels)
	for _, f := range readFixtures(t) {
		info, err := d.Decode(dst, f.data)
		if err != nil {
			t.Fatal(err)
		}
		if want := formats[filepath.Ext(f.name)]; info.Format != want {
			t.Errorf("%s: format %q, want %q", f.name, info.Format, want)
		}
		if m := sizeInName.FindStringSubmatch(f.name); m != nil && !strings.HasPrefix(f.name, "jpeg-gray-sampling") {
			if got := []string{strconv.Itoa(info.Width), strconv.Itoa(info.Height)}; !slices.Equal(got, m[1:3]) {
				t.Errorf("%s: size %v", f.name, got)
			}
		}
		if early, err := Inspect(f.data, 0); err != nil || early != info {
			t.Errorf("%s: Inspect = %+v, %v, want Decode's %+v", f.name, early, err, info)
		}
	}
	for _, c := range []struct {
		name          string
		width, height int
	}{
		{"jpeg-cmyk.jpg", 43, 39},
		{"jpeg-exif-rotated.jpg", 48, 24},
		{"gif-256-colors.gif", 61, 50},
		{"bmp-24-top-down.bmp", 45, 37},
	} {
		if info, err := d.Decode(dst, fixtureNamed(t, c.name).data); err != nil || info.Width != c.width || info.Height != c.height {
			t.Errorf("%s: %+v, %v", c.name, info, err)
		}
	}
}

func TestDecode_noInfoOnError(t *testing.T) {
	data := fixtureNamed(t, "jpeg-420-32x32.jpg").data
	var d Decoder
	if info, err := d.Decode(make([]uint8, numPixels), data[:len(data)-10]); err == nil || info != (Info{}) {
		t.Errorf("Decode = %+v, %v, want a zero Info and an error", info, err)
	}
	if info, err := Inspect(data, 100); err == nil || info != (Info{}) {
		t.Errorf("Inspect = %+v, %v, want a zero Info and an error", info, err)
	}
}

func TestInspect_allocations(t *testing.T) {
	for _, f := range readFixtures(t) {
		if n := testing.AllocsPerRun(5, func() {
			if _, err := Inspect(f.data, 0); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", f.name, n)
		}
	}
}

// blankPNG returns a PNG whose data are all zero.
func blankPNG(t *testing.T, width, height int, depth, color byte, interlaced bool) []byte {
	t.Helper()
	channels := map[byte]int{pngGray: 1, pngRGB: 3, pngPalette: 1, pngGrayAlpha: 2, pngRGBA: 4}[color]
	row := func(width int) int { return 1 + (width*channels*int(depth)+7)/8 }
	size := row(width) * height
	if interlaced {
		size = 0
		for _, p := range [][4]int{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}} {
			if w, h := (width-p[0]+p[2]-1)/p[2], (height-p[1]+p[3]-1)/p[3]; w > 0 && h > 0 {
				size += row(w) * h
			}
		}
	}
	var data bytes.Buffer
	z := zlib.NewWriter(&data)
	if _, err := z.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	header := slices.Concat(be32(width), be32(height), []byte{depth, color, 0, 0, 0})
	if interlaced {
		header[12] = 1
	}
	return slices.Concat([]byte(pngSignature), pngChunkOf("IHDR", header), pngChunkOf("IDAT", data.Bytes()), pngChunkOf("IEND", nil))
}

// blankWebP returns a lossless WebP of one color, or with a palette of two colors.
func blankWebP(width, height int, indexed bool) []byte {
	var bits []byte
	put := func(b string) { bits = append(bits, b...) }
	codes := strings.Repeat("1000", 5) // five codes with the single symbol 0
	if indexed {
		put("1" + "11" + "10000000") // color indexing transform with two colors
		put("0" + codes)             // the palette, as an image without color cache
	}
	put("0" + "0" + "0" + codes) // no more transforms, no color cache, one group
	data := append([]byte{0x2f}, le32(width-1|(height-1)<<14)...)
	for chunk := range slices.Chunk(bits, 8) {
		b := byte(0)
		for i, bit := range chunk {
			b |= (bit - '0') << i
		}
		data = append(data, b)
	}
	return riffOf(riffChunk("VP8L", data))
}

func TestInfo_Memory(t *testing.T) {
	const w, h = 501, 403
	type testImage struct {
		name string
		data []byte
	}
	var images []testImage
	for _, size := range [][2]int{{w, h}, {5, 9000}, {9000, 5}} {
		for _, sampling := range []string{"\x11", "\x11\x11\x11", "\x22\x11\x11", "\x42\x11\x11", "\x11\x11\x11\x11", "\x22\x11\x11\x22"} {
			for marker, kind := range map[byte]string{markerSOF0: "sequential", markerSOF2: "progressive"} {
				images = append(images, testImage{
					fmt.Sprintf("%s JPEG of %v, sampling %x", kind, size, sampling),
					blankJPEG(marker, size[0], size[1], []byte(sampling)...),
				})
			}
		}
		for _, kind := range [][2]byte{{1, pngGray}, {8, pngGray}, {16, pngGray}, {8, pngRGB}, {16, pngRGB}, {4, pngPalette}, {8, pngGrayAlpha}, {16, pngGrayAlpha}, {8, pngRGBA}, {16, pngRGBA}} {
			for _, interlaced := range []bool{false, true} {
				images = append(images, testImage{
					fmt.Sprintf("PNG of %v, %d bits, color type %d, interlaced %v", size, kind[0], kind[1], interlaced),
					blankPNG(t, size[0], size[1], kind[0], kind[1], interlaced),
				})
			}
		}
		var encoded bytes.Buffer
		if err := gif.Encode(&encoded, image.NewPaletted(image.Rect(0, 0, size[0], size[1]), colors.Plan9), nil); err != nil {
			t.Fatal(err)
		}
		images = append(images, testImage{fmt.Sprintf("GIF of %v", size), encoded.Bytes()},
			testImage{fmt.Sprintf("BMP of %v", size), append(bmpOf(size[0], size[1], 24, 0), make([]byte, (3*size[0]+3)*size[1])...)})
	}
	images = append(images,
		testImage{"lossy WebP", riffOf(vp8Of(w, h))},
		testImage{"lossy WebP with a large partition size", patched(riffOf(vp8Of(w, h)), 20, 0xf0, 0xff, 0xff)},
		testImage{"lossless WebP", blankWebP(w, h, false)},
		testImage{"lossless WebP of two colors", blankWebP(w, h, true)},
	)
	for _, f := range readFixtures(t) {
		images = append(images, testImage{f.name, f.data})
	}
	dst := make([]uint8, numPixels)
	for _, p := range images {
		info, err := Inspect(p.data, 0)
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		var d Decoder
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = d.Pixels(dst, p.data)
		runtime.ReadMemStats(&after)
		if err != nil && !strings.HasPrefix(p.name, "lossy") { // only the header is valid
			t.Errorf("%s: %v", p.name, err)
		}
		used := int64(after.TotalAlloc - before.TotalAlloc)
		t.Logf("%-50s used %9d, estimate %9d", p.name, used, info.Memory)
		if used > info.Memory {
			t.Errorf("%s: allocated %d bytes, more than the estimate of %d", p.name, used, info.Memory)
		}
		// The estimate for a lossless WebP is much larger.
		if info.Memory > 2*used+(1<<20) && !strings.Contains(p.name, "lossless") {
			t.Errorf("%s: allocated only %d bytes, far below the estimate of %d", p.name, used, info.Memory)
		}
	}
}
