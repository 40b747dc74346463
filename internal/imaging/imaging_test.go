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

// fixtureNamed is one of the fixtures.
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

// patched is data with the bytes at offset replaced.
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

// pngOf is a PNG whose header announces the size and whose data are the given bytes.
func pngOf(width, height int, depth, colour byte, data []byte) []byte {
	header := slices.Concat(be32(width), be32(height), []byte{depth, colour, 0, 0, 0})
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

// checkKind checks that err is of the one kind and of no other.
func checkKind(t *testing.T, err, kind error) {
	t.Helper()
	for _, k := range kinds {
		if wanted := errors.Is(k, kind); errors.Is(err, k) != wanted {
			t.Errorf("error %q: is it %q? %v", err, k, errors.Is(err, k))
		}
	}
}

func TestHugePicturesAreRefusedByTheirHeader(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want error
		says string
	}{
		{"PNG of 60,000×60,000", pngOf(60000, 60000, 8, 2, nil), ErrTooLarge, "60000×60000"},
		{"PNG of 1 bit a pixel", pngOf(60000, 60000, 1, 0, nil), ErrTooLarge, "60000×60000"},
		{"PNG whose sides overflow", pngOf(1<<31-1, 1<<31-1, 16, 6, nil), ErrTooLarge, "2147483647×2147483647"},
		{"PNG of one endless row", pngOf(50_000_000, 1, 8, 0, nil), ErrTooLarge, "no side"},
		{"PNG cut off after the header", pngOf(60000, 60000, 8, 2, nil)[:33], ErrTooLarge, "60000×60000"},
		{"PNG that claims more than its data can hold", pngOf(7000, 7000, 8, 2, make([]byte, 1000)), ErrBroken, "cut off"},
		{"JPEG of 65,000×65,000", jpegOf(0xc0, 65000, 65000, 3), ErrTooLarge, "65000×65000"},
		{"JPEG cut off after the frame header", jpegOf(0xc0, 65000, 65000, 3)[:21], ErrTooLarge, "65000×65000"},
		{"progressive JPEG of 65,000×65,000", jpegOf(0xc2, 65000, 65000, 3), ErrTooLarge, "65000×65000"},
		{"JPEG that claims more than its data can hold", jpegOf(0xc0, 7000, 7000, 3), ErrBroken, "cut off"},
		{"progressive JPEG that claims more than its data can hold", jpegOf(0xc2, 7000, 7000, 3), ErrBroken, "cut off"},
		{"GIF of 60,000×60,000", gifOf(60000, 60000, 0, 0, 1, 1), ErrTooLarge, "60000×60000"},
		{"GIF cut off after the screen descriptor", gifOf(60000, 60000, 0, 0, 1, 1)[:13], ErrTooLarge, "60000×60000"},
		{"GIF whose frame is larger than its screen", gifOf(1, 1, 0, 0, 60000, 60000), ErrTooLarge, "60000×60000"},
		{"GIF whose frame begins far outside", gifOf(1, 1, 65000, 65000, 1, 1), ErrTooLarge, "65001×65001"},
		{"WebP with a huge canvas", riffOf(vp8x(1<<24, 1<<24), vp8Of(16, 16)), ErrTooLarge, "16777216×16777216"},
		{"WebP with a huge canvas and nothing else", riffOf(vp8x(1<<24, 1<<24)), ErrTooLarge, "16777216×16777216"},
		{"WebP whose frame is larger than its canvas", riffOf(vp8x(16, 16), vp8Of(16383, 16383)), ErrBroken, "16383×16383"},
		{"WebP whose lossless frame is larger than its canvas", riffOf(vp8x(16, 16), vp8lOf(16384, 16384)), ErrBroken, "16384×16384"},
		{"lossy WebP of 16,383×16,383", riffOf(vp8Of(16383, 16383)), ErrTooLarge, "16383×16383"},
		{"lossless WebP of 16,384×16,384", riffOf(vp8lOf(16384, 16384)), ErrTooLarge, "16384×16384"},
		{"BMP of 60,000×60,000", bmpOf(60000, 60000, 24, 0), ErrTooLarge, "60000×60000"},
		{"BMP of 60,000×60,000 from the top", bmpOf(60000, -60000, 24, 0), ErrTooLarge, "60000×60000"},
		{"BMP of the greatest height", bmpOf(60000, -1<<31, 24, 0), ErrTooLarge, "60000×2147483648"},
		{"run-length encoded BMP of 60,000×60,000", bmpOf(60000, 60000, 8, 1), ErrTooLarge, "60000×60000"},
		{"BMP that claims more than its data can hold", bmpOf(7000, 7000, 24, 0), ErrBroken, "147000000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			dst := make([]uint8, numPixels)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := d.Pixels(dst, c.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("it was decoded")
			}
			checkKind(t, err, c.want)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 100<<10 {
				t.Errorf("refusing it allocated %d bytes", used)
			}
			if _, early := Inspect(c.data, 0); early != nil && early.Error() != err.Error() || early == nil && errors.Is(c.want, ErrTooLarge) {
				t.Errorf("Inspect says %v", early)
			}
		})
	}
}

func TestMaxPixelsIsTheLargestSizeDecoded(t *testing.T) {
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

func TestErrorsSayWhatIsWrong(t *testing.T) {
	jpeg := fixtureNamed(t, "jpeg-444-32x32.jpg").data
	sof := bytes.Index(jpeg, []byte("\xff\xc0"))
	webp := fixtureNamed(t, "webp-lossy-32x32.webp").data
	for _, c := range []struct {
		name string
		data []byte
		want error
		says string
	}{
		{"nothing", nil, ErrEmpty, "send a JPEG"},
		{"no bytes", []byte{}, ErrEmpty, "send a JPEG"},
		{"text", []byte("hello, world"), ErrFormat, "do not begin like"},
		{"zeros", make([]byte, 100), ErrFormat, "do not begin like"},
		{"a TIFF", []byte("II*\x00rest"), ErrFormat, `"tiff"`},
		{"an AVIF", []byte("\x00\x00\x00\x20ftypavif"), ErrFormat, `"avif"`},
		{"a PDF", []byte("%PDF-1.7"), ErrFormat, `"pdf"`},
		{"other data in RIFF", []byte("RIFF\x10\x00\x00\x00WAVEfmt "), ErrFormat, "do not begin like"},
		{"two bytes of a JPEG", jpeg[:2], ErrFormat, "do not begin like"},
		{"three bytes of a JPEG", jpeg[:3], ErrBroken, "ends after 3 bytes"},
		{"a JPEG that ends at once", []byte("\xff\xd8\xff\xd9"), ErrBroken, "without any picture"},
		{"half a JPEG", jpeg[:len(jpeg)/2], ErrBroken, "32×32"},
		{"a JPEG without its end marker", jpeg[:len(jpeg)-2], ErrBroken, "32×32"},
		{"a JPEG of no width", patched(jpeg, sof+7, 0, 0), ErrBroken, "0×32"},
		{"a JPEG of no height", patched(jpeg, sof+5, 0, 0), ErrBroken, "32×0"},
		{"an arithmetic-coded JPEG", patched(jpeg, sof+1, 0xc9), ErrFormat, "arithmetic"},
		{"a progressive arithmetic-coded JPEG", patched(jpeg, sof+1, 0xca), ErrFormat, "arithmetic"},
		{"a lossless JPEG", patched(jpeg, sof+1, 0xc3), ErrFormat, "lossless"},
		{"a hierarchical JPEG", patched(jpeg, sof+1, 0xc5), ErrFormat, "hierarchical"},
		{"a JPEG of 12 bits", patched(jpeg, sof+4, 12), ErrFormat, "12 bits"},
		{"a JPEG with two components", jpegOf(0xc0, 8, 8, 2), ErrFormat, "2 colour components"},
		{"a JPEG with odd sampling", patched(jpeg, sof+11, 0x31), ErrFormat, "subsampling"},
		{"a JPEG without Huffman tables", jpegOf(0xc0, 8, 8, 1), ErrBroken, "8×8"},
		{"half a PNG", fixtureNamed(t, "png-64x64.png").data[:6000], ErrBroken, "64×64"},
		{"a PNG without data", pngOf(10, 10, 8, 2, nil), ErrBroken, "cut off"},
		{"a PNG of no width", pngOf(0, 10, 8, 2, nil), ErrBroken, "0×10"},
		{"a PNG of garbage", pngOf(10, 10, 8, 2, make([]byte, 50)), ErrBroken, "10×10"},
		{"a PNG of an unknown colour type", pngOf(10, 10, 8, 5, make([]byte, 50)), ErrBroken, "colour type 5"},
		{"a PNG of 3 bits", pngOf(10, 10, 3, 0, make([]byte, 50)), ErrBroken, "3 bits"},
		{"a PNG with a wrong header checksum", patched(pngOf(10, 10, 8, 2, nil), 30, 1), ErrBroken, "checksum"},
		{"a PNG with one wrong byte in its data", patched(fixtureNamed(t, "png-64x64.png").data, 6000, 1, 2, 3), ErrBroken, "64×64"},
		{"a PNG signature", []byte(pngSignature), ErrBroken, "within the header"},
		{"half a GIF", fixtureNamed(t, "gif-256-colours.gif").data[:2000], ErrBroken, "61×50"},
		{"a GIF without a frame", []byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"), ErrBroken, "without any frame"},
		{"a GIF of no size", gifOf(0, 0, 0, 0, 0, 0), ErrBroken, "0×0"},
		{"a GIF signature", []byte("GIF89a"), ErrBroken, "ends after 6 bytes"},
		{"half a WebP", webp[:len(webp)/2], ErrBroken, "are there"},
		{"a WebP signature", []byte("RIFF\x04\x00\x00\x00WEBP"), ErrBroken, "before the first frame"},
		{"a WebP of no size", riffOf(vp8Of(0, 0)), ErrBroken, "0×0"},
		{"a WebP of garbage", riffOf(vp8Of(32, 32)), ErrBroken, "32×32"},
		{"a lossless WebP of garbage", riffOf(vp8lOf(32, 32)), ErrBroken, "32×32"},
		{"a WebP animation without canvas", riffOf(riffChunk("ANMF", make([]byte, 50))), ErrBroken, "first frame"},
		{"half a BMP", fixtureNamed(t, "bmp-24.bmp").data[:2000], ErrBroken, "45×37"},
		{"a BMP of no width", bmpOf(0, 10, 24, 0), ErrBroken, "0×10"},
		{"a BMP of negative width", bmpOf(-10, 10, 24, 0), ErrBroken, "-10×10"},
		{"a BMP signature", []byte("BM"), ErrBroken, "within the header"},
		{"a BMP holding a JPEG", bmpOf(10, 10, 24, 4), ErrFormat, "compression 4"},
		{"a BMP of 2 bits", bmpOf(10, 10, 2, 0), ErrFormat, "2 bits"},
		{"a BMP with strange masks", bmpOf(10, 10, 16, 3), ErrFormat, "bit masks"},
		{"a run-length encoded BMP that ends early", bmpOf(10, 10, 8, 1), ErrBroken, "10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			err := d.Pixels(make([]uint8, numPixels), c.data)
			if err == nil {
				t.Fatal("it was decoded")
			}
			checkKind(t, err, c.want)
			if !strings.HasPrefix(err.Error(), "decode image: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
			if err := d.Tensor(make([]float32, numPixels), c.data); !errors.Is(err, c.want) {
				t.Errorf("Tensor says %v", err)
			}
			if _, early := Inspect(c.data, 0); early != nil && early.Error() != err.Error() {
				t.Errorf("Inspect says %v", early)
			}
		})
	}
}

func TestEveryTruncationIsRefusedOrChangesNothing(t *testing.T) {
	var d Decoder
	got := make([]uint8, numPixels)
	for _, f := range readFixtures(t) {
		if len(f.data) > 20_000 {
			continue // the same kind, only slower
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
					t.Errorf("%s: its first %d of %d bytes give another picture", f.name, n, len(f.data))
				}
				continue
			}
			if !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
				t.Errorf("%s, %d bytes: error of no kind: %v", f.name, n, err)
			}
		}
	}
}

func TestADestinationOfTheWrongLengthIsRefused(t *testing.T) {
	data := fixtureNamed(t, "png-32x32.png").data
	var d Decoder
	if err := d.Pixels(make([]uint8, numPixels-1), data); err == nil {
		t.Error("Pixels took a short destination")
	}
	if err := d.Tensor(make([]float32, numPixels+1), data); err == nil {
		t.Error("Tensor took a long destination")
	}
}

func TestAPictureOfTheResultsSizeIsNotResampled(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, Size, Size))
	want := make([]uint8, 0, numPixels)
	for i := range Size * Size {
		c := color.NRGBA{uint8(i * 7), uint8(i * 13), uint8(i >> 2), uint8(i)}
		img.SetNRGBA(i%Size, i/Size, c)
		want = append(want, c.R, c.G, c.B) // whatever the alpha
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
		t.Error("the pixels are not the file's")
	}
}

func TestTensorIsChannelsFirstAndScaledToOne(t *testing.T) {
	f := fixtureNamed(t, "png-rgb-8.png")
	var d Decoder
	got := make([]float32, numPixels)
	if err := d.Tensor(got, f.data); err != nil {
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

func TestAnUnchangedColourStaysItselfAtEverySize(t *testing.T) {
	var r resampler
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

func TestRowsMayComeInAnyOrder(t *testing.T) {
	const w, h = 50, 77
	rows := make([]byte, w*h)
	for i := range rows {
		rows[i] = byte(i * i >> 3)
	}
	forward, backward := make([]uint8, numPixels), make([]uint8, numPixels)
	var r resampler
	r.begin(forward, w, h)
	for y := range h {
		r.row(y, rows[y*w:][:w], rows[y*w:][:w], rows[y*w:][:w])
	}
	r.end()
	r.begin(backward, w, h)
	for y := h - 1; y >= 0; y-- {
		r.row(y, rows[y*w:][:w], rows[y*w:][:w], rows[y*w:][:w])
	}
	r.end()
	if !bytes.Equal(forward, backward) {
		t.Error("the order of the rows changes the result")
	}
}

func TestDecodersAreIndependent(t *testing.T) {
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
				} else if dev := deviate(got, f.want); dev.max > tolerance(f.name).max {
					t.Errorf("%s: deviates by %d levels", f.name, dev.max)
				}
			}
		})
	}
	group.Wait()
}

func TestAJPEGIsDecodedWithoutAllocations(t *testing.T) {
	for _, data := range [][]byte{fixtureNamed(t, "jpeg-420-32x32.jpg").data, photo(t, 640, 480)} {
		var d Decoder
		dst := make([]float32, numPixels)
		if n := testing.AllocsPerRun(20, func() {
			if err := d.Tensor(dst, data); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%d bytes: %v allocations", len(data), n)
		}
	}
}

func TestScratchOfAHugePictureIsLetGo(t *testing.T) {
	var wide bytes.Buffer
	if err := png.Encode(&wide, image.NewGray(image.Rect(0, 0, maxSide, 2))); err != nil {
		t.Fatal(err)
	}
	var d Decoder
	for _, data := range [][]byte{wide.Bytes(), blankJPEG(markerSOF0, 3000, 2000, 0x22, 0x11, 0x11)} {
		if err := d.Pixels(make([]uint8, numPixels), data); err != nil {
			t.Fatal(err)
		}
		kept := 8 * (cap(d.res.horizontal.pairs) + cap(d.res.vertical.pairs))
		for _, b := range slices.Concat(d.rows.buf[:], d.jpeg.samples[:]) {
			kept += cap(b)
		}
		for _, c := range d.jpeg.components {
			kept += cap(c.pix)
		}
		if kept > 4*maxScratch {
			t.Errorf("it keeps %d bytes", kept)
		}
	}
}
