package imaging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fixtureNamed returns the fixture with the given name.
func fixtureNamed(t testing.TB, name string) fixture {
	t.Helper()
	for _, f := range readFixtures(t) {
		if f.name == name {
			return f
		}
	}
	t.Fatalf("no fixture %q", name)
	return fixture{}
}

// patched returns a copy of data with the bytes at offset replaced.
func patched(data []byte, offset int, with ...byte) []byte {
	data = slices.Clone(data)
	copy(data[offset:], with)
	return data
}

func le16(v int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(v)) }
func le24(v int) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16)} }
func le32(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }
func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
func be32(v int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }

func pngChunkOf(kind string, body []byte) []byte {
	out := append(be32(len(body)), kind...)
	out = append(out, body...)
	return append(out, be32(int(crc32.ChecksumIEEE(out[4:])))...)
}

// pngOf returns a PNG with the given size in its header and the given bytes as data.
func pngOf(width, height int, depth, color byte, data []byte) []byte {
	header := slices.Concat(be32(width), be32(height), []byte{depth, color, 0, 0, 0})
	return slices.Concat([]byte(pngSignature), pngChunkOf("IHDR", header), pngChunkOf("IDAT", data), pngChunkOf("IEND", nil))
}

func jpegOf(marker byte, width, height, components int) []byte {
	frame := slices.Concat([]byte{8}, be16(height), be16(width), []byte{byte(components)})
	scan := []byte{byte(components)}
	for c := range components {
		frame = append(frame, byte(c+1), 0x11, 0)
		scan = append(scan, byte(c+1), 0)
	}
	scan = append(scan, 0, 63, 0)
	return slices.Concat([]byte("\xff\xd8\xff"), []byte{marker}, be16(len(frame)+2), frame,
		[]byte("\xff\xda"), be16(len(scan)+2), scan, []byte("\x00\x00\xff\xd9"))
}

func gifOf(screenWidth, screenHeight, left, top, width, height int) []byte {
	return slices.Concat([]byte("GIF89a"), le16(screenWidth), le16(screenHeight), []byte{0, 0, 0, ','},
		le16(left), le16(top), le16(width), le16(height), []byte{0, 2, 1, 0x44, 0, ';'})
}

func riffOf(chunks ...[]byte) []byte {
	body := append([]byte("WEBP"), slices.Concat(chunks...)...)
	return slices.Concat([]byte("RIFF"), le32(len(body)), body)
}

func riffChunk(kind string, body []byte) []byte {
	return slices.Concat([]byte(kind), le32(len(body)), body, make([]byte, len(body)&1))
}

func vp8x(width, height int) []byte {
	return riffChunk("VP8X", slices.Concat([]byte{0, 0, 0, 0}, le24(width-1), le24(height-1)))
}

func vp8Of(width, height int) []byte {
	return riffChunk("VP8 ", slices.Concat([]byte{0x10, 0, 0, 0x9d, 1, 0x2a}, le16(width), le16(height), make([]byte, 10)))
}

func vp8lOf(width, height int) []byte {
	return riffChunk("VP8L", append([]byte{0x2f}, le32(width-1|(height-1)<<14)...))
}

func bmpOf(width, height, bits, compression int) []byte {
	return slices.Concat([]byte("BM"), le32(0), le32(0), le32(54), le32(40), le32(width), le32(height),
		le16(1), le16(bits), le32(compression), make([]byte, 20), make([]byte, 100))
}

var kinds = []error{ErrEmpty, ErrFormat, ErrTooLarge, ErrBroken}

// checkKind checks that err wraps the given Err value and no other.
func checkKind(t *testing.T, err, kind error) {
	t.Helper()
	for _, k := range kinds {
		if wanted := errors.Is(k, kind); errors.Is(err, k) != wanted {
			t.Errorf("errors.Is(%q, %q) = %v, want %v", err, k, errors.Is(err, k), wanted)
		}
	}
}

func TestDecode_hugeImages(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want error
		text string
	}{
		{"PNG of 60,000×60,000", pngOf(60000, 60000, 8, 2, nil), ErrTooLarge, "60000×60000"},
		{"PNG of 1 bit per pixel", pngOf(60000, 60000, 1, 0, nil), ErrTooLarge, "60000×60000"},
		{"PNG with overflowing size", pngOf(1<<31-1, 1<<31-1, 16, 6, nil), ErrTooLarge, "2147483647×2147483647"},
		{"PNG of one long row", pngOf(50_000_000, 1, 8, 0, nil), ErrTooLarge, "per side"},
		{"PNG truncated after the header", pngOf(60000, 60000, 8, 2, nil)[:33], ErrTooLarge, "60000×60000"},
		{"PNG with too little data", pngOf(7000, 7000, 8, 2, make([]byte, 1000)), ErrBroken, "truncated"},
		{"JPEG of 65,000×65,000", jpegOf(0xc0, 65000, 65000, 3), ErrTooLarge, "65000×65000"},
		{"JPEG truncated after the frame header", jpegOf(0xc0, 65000, 65000, 3)[:21], ErrTooLarge, "65000×65000"},
		{"progressive JPEG of 65,000×65,000", jpegOf(0xc2, 65000, 65000, 3), ErrTooLarge, "65000×65000"},
		{"JPEG with too little data", jpegOf(0xc0, 7000, 7000, 3), ErrBroken, "truncated"},
		{"progressive JPEG with too little data", jpegOf(0xc2, 7000, 7000, 3), ErrBroken, "truncated"},
		{"GIF of 60,000×60,000", gifOf(60000, 60000, 0, 0, 1, 1), ErrTooLarge, "60000×60000"},
		{"GIF truncated after the screen descriptor", gifOf(60000, 60000, 0, 0, 1, 1)[:13], ErrTooLarge, "60000×60000"},
		{"GIF frame larger than screen", gifOf(1, 1, 0, 0, 60000, 60000), ErrTooLarge, "60000×60000"},
		{"GIF frame outside of screen", gifOf(1, 1, 65000, 65000, 1, 1), ErrTooLarge, "65001×65001"},
		{"WebP with a huge canvas", riffOf(vp8x(1<<24, 1<<24), vp8Of(16, 16)), ErrTooLarge, "16777216×16777216"},
		{"WebP with a huge canvas and no frame", riffOf(vp8x(1<<24, 1<<24)), ErrTooLarge, "16777216×16777216"},
		{"WebP frame larger than canvas", riffOf(vp8x(16, 16), vp8Of(16383, 16383)), ErrBroken, "16383×16383"},
		{"lossless WebP frame larger than canvas", riffOf(vp8x(16, 16), vp8lOf(16384, 16384)), ErrBroken, "16384×16384"},
		{"lossy WebP of 16,383×16,383", riffOf(vp8Of(16383, 16383)), ErrTooLarge, "16383×16383"},
		{"lossless WebP of 16,384×16,384", riffOf(vp8lOf(16384, 16384)), ErrTooLarge, "16384×16384"},
		{"BMP of 60,000×60,000", bmpOf(60000, 60000, 24, 0), ErrTooLarge, "60000×60000"},
		{"top-down BMP of 60,000×60,000", bmpOf(60000, -60000, 24, 0), ErrTooLarge, "60000×60000"},
		{"BMP of maximum height", bmpOf(60000, -1<<31, 24, 0), ErrTooLarge, "60000×2147483648"},
		{"run-length encoded BMP of 60,000×60,000", bmpOf(60000, 60000, 8, 1), ErrTooLarge, "60000×60000"},
		{"BMP with too little data", bmpOf(7000, 7000, 24, 0), ErrBroken, "147000000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			dst := make([]uint8, numPixels)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := d.Pixels(dst, c.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("no error")
			}
			checkKind(t, err, c.want)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 100<<10 {
				t.Errorf("allocated %d bytes, want at most 100 KiB", used)
			}
			if _, early := Inspect(c.data, 0); early != nil && early.Error() != err.Error() || early == nil && errors.Is(c.want, ErrTooLarge) {
				t.Errorf("Inspect: error %v, want %v", early, err)
			}
		})
	}
}

func TestDecoder_MaxPixels(t *testing.T) {
	data := fixtureNamed(t, "png-64x64.png").data
	dst := make([]uint8, numPixels)
	for _, c := range []struct {
		limit int
		want  error
	}{{0, nil}, {64 * 64, nil}, {64*64 - 1, ErrTooLarge}, {1, ErrTooLarge}} {
		d := Decoder{MaxPixels: c.limit}
		if err := d.Pixels(dst, data); !errors.Is(err, c.want) {
			t.Errorf("limit %d: got %v, want %v", c.limit, err, c.want)
		}
	}
}

func TestDecode_errors(t *testing.T) {
	jpeg := fixtureNamed(t, "jpeg-444-32x32.jpg").data
	sof := bytes.Index(jpeg, []byte("\xff\xc0"))
	webp := fixtureNamed(t, "webp-lossy-32x32.webp").data
	for _, c := range []struct {
		name string
		data []byte
		want error
		text string
	}{
		{"nil", nil, ErrEmpty, "send a JPEG"},
		{"empty", []byte{}, ErrEmpty, "send a JPEG"},
		{"text", []byte("hello, world"), ErrFormat, "isn't a JPEG"},
		{"zeros", make([]byte, 100), ErrFormat, "isn't a JPEG"},
		{"TIFF", []byte("II*\x00rest"), ErrBroken, "TIFF: truncated after 8 bytes"},
		{"AVIF", []byte("\x00\x00\x00\x20ftypavif"), ErrBroken, "AVIF: truncated after 12 bytes"},
		{"PDF", []byte("%PDF-1.7"), ErrFormat, "PDF files"},
		{"RIFF without WebP", []byte("RIFF\x10\x00\x00\x00WAVEfmt "), ErrFormat, "isn't a JPEG"},
		{"2 bytes of a JPEG", jpeg[:2], ErrFormat, "isn't a JPEG"},
		{"3 bytes of a JPEG", jpeg[:3], ErrBroken, "truncated after 3 bytes"},
		{"JPEG without segments", []byte("\xff\xd8\xff\xd9"), ErrBroken, "no image data"},
		{"truncated JPEG", jpeg[:len(jpeg)/2], ErrBroken, "32×32"},
		{"JPEG without its last byte of data", jpeg[:len(jpeg)-3], ErrBroken, "32×32"},
		{"JPEG of width 0", patched(jpeg, sof+7, 0, 0), ErrBroken, "0×32"},
		{"JPEG of height 0", patched(jpeg, sof+5, 0, 0), ErrBroken, "32×0"},
		{"arithmetic-coded JPEG", patched(jpeg, sof+1, 0xc9), ErrFormat, "arithmetic"},
		{"JPEG with arithmetic conditioning", slices.Insert(slices.Clone(jpeg), 2, 0xff, 0xcc, 0, 4, 0, 0), ErrFormat, "arithmetic"},
		{"JPEG-LS", patched(jpeg, sof+1, 0xf7), ErrFormat, "JPEG-LS"},
		{"progressive arithmetic-coded JPEG", patched(jpeg, sof+1, 0xca), ErrFormat, "arithmetic"},
		{"lossless JPEG", patched(jpeg, sof+1, 0xc3), ErrFormat, "lossless"},
		{"hierarchical JPEG", patched(jpeg, sof+1, 0xc5), ErrFormat, "hierarchical"},
		{"12-bit JPEG", patched(jpeg, sof+4, 12), ErrFormat, "12 bits"},
		{"JPEG with 2 components", jpegOf(0xc0, 8, 8, 2), ErrFormat, "2 color components"},
		{"JPEG with subsampling by a fraction", patched(jpeg, sof+11, 0x31, 0, 2, 0x21), ErrFormat, "subsampling by a fraction (3:2 across"},
		{"JPEG without Huffman tables", jpegOf(0xc0, 8, 8, 1), ErrBroken, "8×8"},
		{"truncated PNG", fixtureNamed(t, "png-64x64.png").data[:6000], ErrBroken, "64×64"},
		{"PNG without data", pngOf(10, 10, 8, 2, nil), ErrBroken, "truncated"},
		{"PNG of width 0", pngOf(0, 10, 8, 2, nil), ErrBroken, "0×10"},
		{"PNG with garbage data", pngOf(10, 10, 8, 2, make([]byte, 50)), ErrBroken, "10×10"},
		{"PNG with unknown color type", pngOf(10, 10, 8, 5, make([]byte, 50)), ErrBroken, "color type 5"},
		{"3-bit PNG", pngOf(10, 10, 3, 0, make([]byte, 50)), ErrBroken, "3 bits"},
		{"PNG with wrong header checksum", patched(pngOf(10, 10, 8, 2, nil), 30, 1), ErrBroken, "checksum"},
		{"PNG with corrupt data", patched(fixtureNamed(t, "png-64x64.png").data, 6000, 1, 2, 3), ErrBroken, "64×64"},
		{"PNG signature only", []byte(pngSignature), ErrBroken, "within the header"},
		{"truncated GIF", fixtureNamed(t, "gif-256-colors.gif").data[:2000], ErrBroken, "61×50"},
		{"GIF without frame", []byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"), ErrBroken, "no frame"},
		{"GIF of size 0", gifOf(0, 0, 0, 0, 0, 0), ErrBroken, "0×0"},
		{"GIF signature only", []byte("GIF89a"), ErrBroken, "truncated after 6 bytes"},
		{"truncated WebP", webp[:len(webp)/2], ErrBroken, "truncated: the header announces"},
		{"WebP signature only", []byte("RIFF\x04\x00\x00\x00WEBP"), ErrBroken, "before the first frame"},
		{"WebP of size 0", riffOf(vp8Of(0, 0)), ErrBroken, "0×0"},
		{"WebP with garbage data", riffOf(vp8Of(32, 32)), ErrBroken, "32×32"},
		{"lossless WebP with garbage data", riffOf(vp8lOf(32, 32)), ErrBroken, "32×32"},
		{"WebP animation without canvas", riffOf(riffChunk("ANMF", make([]byte, 50))), ErrBroken, "first frame"},
		{"truncated BMP", fixtureNamed(t, "bmp-24.bmp").data[:2000], ErrBroken, "45×37"},
		{"BMP of width 0", bmpOf(0, 10, 24, 0), ErrBroken, "0×10"},
		{"BMP of negative width", bmpOf(-10, 10, 24, 0), ErrBroken, "-10×10"},
		{"BMP signature only", []byte("BM"), ErrBroken, "within the header"},
		{"BMP with JPEG compression", bmpOf(10, 10, 24, 4), ErrFormat, "compression 4"},
		{"2-bit BMP", bmpOf(10, 10, 2, 0), ErrFormat, "2 bits"},
		{"BMP with unusual masks", bmpOf(10, 10, 16, 3), ErrFormat, "bit masks"},
		{"truncated run-length encoded BMP", bmpOf(10, 10, 8, 1), ErrBroken, "10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			err := d.Pixels(make([]uint8, numPixels), c.data)
			if err == nil {
				t.Fatal("no error")
			}
			checkKind(t, err, c.want)
			if !strings.HasPrefix(err.Error(), "decode image: ") || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
			if err := d.Tensor(Tensor{Float32: make([]float32, numPixels)}, c.data); !errors.Is(err, c.want) {
				t.Errorf("Tensor: error %v, want %v", err, c.want)
			}
			if _, early := Inspect(c.data, 0); early != nil && early.Error() != err.Error() {
				t.Errorf("Inspect: error %v, want %v", early, err)
			}
		})
	}
}

func TestDecode_truncated(t *testing.T) {
	var d Decoder
	got := make([]uint8, numPixels)
	for _, f := range readFixtures(t) {
		if len(f.data) > 20_000 {
			continue // slower, but no new cases
		}
		want := make([]uint8, numPixels)
		if err := d.Pixels(want, f.data); err != nil {
			t.Fatal(err)
		}
		step := max(1, len(f.data)/8)
		for n := len(f.data) - 1; n >= 0; n -= step {
			err := d.Pixels(got, f.data[:n])
			if err == nil {
				if !bytes.Equal(got, want) {
					t.Errorf("%s: the first %d of %d bytes decode to a different image", f.name, n, len(f.data))
				}
				continue
			}
			if !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
				t.Errorf("%s, %d bytes: error doesn't wrap an Err value: %v", f.name, n, err)
			}
		}
	}
}

func TestDecode_wrongDestinationLength(t *testing.T) {
	data := fixtureNamed(t, "png-32x32.png").data
	var d Decoder
	if err := d.Pixels(make([]uint8, numPixels-1), data); err == nil {
		t.Error("Pixels accepted a short destination")
	}
	if err := d.Tensor(Tensor{Float32: make([]float32, numPixels+1)}, data); err == nil {
		t.Error("Tensor accepted a long destination")
	}
}

func TestDecode_32x32(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, Size, Size))
	want := make([]uint8, 0, numPixels)
	for i := range Size * Size {
		c := color.NRGBA{uint8(i * 7), uint8(i * 13), uint8(i >> 2), uint8(i)}
		img.SetNRGBA(i%Size, i/Size, c)
		want = append(want, c.R, c.G, c.B) // regardless of alpha
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	var d Decoder
	got := make([]uint8, numPixels)
	if err := d.Pixels(got, buf.Bytes()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the pixels differ from those of the file")
	}
}

func TestTensor_layout(t *testing.T) {
	f := fixtureNamed(t, "png-rgb-8.png")
	var d Decoder
	got := make([]float32, numPixels)
	if err := d.Tensor(Tensor{Float32: got}, f.data); err != nil {
		t.Fatal(err)
	}
	for y := range Size {
		for x := range Size {
			for c := range Channels {
				want := float32(f.want[(y*Size+x)*Channels+c]) / 255
				if v := got[c*Size*Size+y*Size+x]; v != want {
					t.Fatalf("channel %d, row %d, column %d: got %v, want %v", c, y, x, v, want)
				}
			}
		}
	}
}

func TestResampler_constantColor(t *testing.T) {
	r := resampler{plan: defaultPlan()}
	dst := make([]uint8, numPixels)
	for _, size := range [][2]int{{1, 1}, {2, 3}, {31, 33}, {32, 31}, {33, 32}, {100, 7}, {7, 4000}, {5000, 2}} {
		w, h := size[0], size[1]
		red, green, blue := bytes.Repeat([]byte{255}, w), bytes.Repeat([]byte{128}, w), bytes.Repeat([]byte{1}, w)
		r.begin(dst, w, h)
		for y := range h {
			r.row(y, red, green, blue)
		}
		r.end()
		for i := 0; i < numPixels; i += 3 {
			if dst[i] != 255 || dst[i+1] != 128 || dst[i+2] != 1 {
				t.Fatalf("%d×%d: pixel %d is %v", w, h, i/3, dst[i:i+3])
			}
		}
	}
}

func TestResampler_rowOrder(t *testing.T) {
	const w, h = 50, 77
	rows := make([]byte, w*h)
	for i := range rows {
		rows[i] = byte(i * i >> 3)
	}
	forward, backward := make([]uint8, numPixels), make([]uint8, numPixels)
	r := resampler{plan: defaultPlan()}
	r.begin(forward, w, h)
	for y := range h {
		r.row(y, rows[y*w:][:w], rows[y*w:][:w], rows[y*w:][:w])
	}
	r.end()
	r.upward = true
	r.begin(backward, w, h)
	for y := h - 1; y >= 0; y-- {
		r.row(y, rows[y*w:][:w], rows[y*w:][:w], rows[y*w:][:w])
	}
	r.end()
	if !bytes.Equal(forward, backward) {
		t.Error("the order of the rows changes the result")
	}
}

func TestDecoder_concurrent(t *testing.T) {
	fixtures := readFixtures(t)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			var d Decoder
			got := make([]uint8, numPixels)
			for i := range 100 {
				f := fixtures[(i*7+worker*31)%len(fixtures)]
				if err := d.Pixels(got, f.data); err != nil {
					t.Errorf("%s: %v", f.name, err)
				} else if dev := deviate(got, f.want); dev.max > 0 {
					t.Errorf("%s: differs from Pillow by %d levels", f.name, dev.max)
				}
			}
		})
	}
	group.Wait()
}

func TestTensor_allocations(t *testing.T) {
	for _, data := range [][]byte{
		fixtureNamed(t, "jpeg-420-32x32.jpg").data, fixtureNamed(t, "jpeg-progressive-420.jpg").data, photo(t, 640, 480),
	} {
		var d Decoder
		dst := make([]float32, numPixels)
		if n := testing.AllocsPerRun(20, func() {
			if err := d.Tensor(Tensor{Float32: dst}, data); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%d bytes: %v allocations", len(data), n)
		}
	}
}

func TestDecoder_releasesLargeBuffers(t *testing.T) {
	var wide bytes.Buffer
	if err := png.Encode(&wide, image.NewGray(image.Rect(0, 0, maxSide, 2))); err != nil {
		t.Fatal(err)
	}
	var d Decoder
	for _, data := range [][]byte{
		wide.Bytes(), blankJPEG(markerSOF0, 3000, 2000, 0x22, 0x11, 0x11), blankJPEG(markerSOF2, 3000, 2000, 0x22, 0x11, 0x11),
	} {
		if err := d.Pixels(make([]uint8, numPixels), data); err != nil {
			t.Fatal(err)
		}
		kept := 4*(cap(d.res.across.coef)+cap(d.res.down.coef)) + cap(d.res.ring)
		for i := range d.jpeg.masks {
			kept += 2*cap(d.jpeg.coefficients[i]) + 8*cap(d.jpeg.masks[i])
		}
		for _, b := range slices.Concat(d.rows.buf[:], d.jpeg.samples[:]) {
			kept += cap(b)
		}
		for _, p := range d.jpeg.planes {
			kept += cap(p.pix)
		}
		if kept > 6*maxScratch {
			t.Errorf("the Decoder keeps %d bytes, want at most %d", kept, 6*maxScratch)
		}
	}
}
