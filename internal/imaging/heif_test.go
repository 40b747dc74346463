package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// heifFixtures are the images written by testdata/make_heif_fixtures.py: HEIC, AVIF and TIFF.
func heifFixtures(t testing.TB) []fixture {
	t.Helper()
	names, err := filepath.Glob("testdata/heif/*.rgb")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d fixtures, %v; run testdata/make_heif_fixtures.py", len(names), err)
	}
	fixtures := make([]fixture, len(names))
	for i, name := range names {
		image := strings.TrimSuffix(name, ".rgb")
		fixtures[i] = fixture{filepath.Base(image), readFile(t, image), readFile(t, name)}
	}
	return fixtures
}

func heifFixture(t testing.TB, name string) []byte {
	t.Helper()
	return readFile(t, filepath.Join("testdata/heif", name))
}

// heifTolerance is the allowed difference from Pillow: none for TIFF, a level where the conversion from YCbCr rounds
// differently, and more with subsampled chroma, which our versions of the decoders reconstruct less exactly.
func heifTolerance(name string) deviation {
	switch {
	case strings.HasSuffix(name, ".tif"):
		return deviation{}
	case name == "420.heic", name == "10-bit.heic": // by x265 4.3, which libde265 1.0.15 decodes unlike 1.1.3
		return deviation{max: 32, mean: 1}
	case strings.HasPrefix(name, "420"), strings.HasPrefix(name, "422"):
		return deviation{max: 4, mean: 0.6}
	}
	return deviation{max: 1, mean: 0.3}
}

func TestPixels_equalPillowOnHEIF(t *testing.T) {
	var d Decoder
	for _, f := range heifFixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			got := make([]uint8, numPixels)
			info, err := d.Decode(got, f.data)
			if err != nil {
				t.Fatal(err)
			}
			dev, allowed := deviate(got, f.want), heifTolerance(f.name)
			t.Logf("%+v; deviation: max %d, mean %.4f", info, dev.max, dev.mean)
			if dev.max > allowed.max || dev.mean > allowed.mean {
				t.Errorf("differs from Pillow by up to %d levels, %.3f on average; want at most %d and %.3f", dev.max, dev.mean, allowed.max, allowed.mean)
			}
			format := map[string]string{".heic": "heic", ".avif": "avif", ".tif": "tiff"}[filepath.Ext(f.name)]
			if early, err := Inspect(f.data, 0); err != nil || early != info || info.Format != format {
				t.Errorf("Inspect = %+v, %v, want Decode's %+v", early, err, info)
			}
			if n := testing.AllocsPerRun(5, func() { _, _ = Inspect(f.data, 0) }); n > 0 {
				t.Errorf("Inspect: %v allocations", n)
			}
		})
	}
}

func TestDecode_transformations(t *testing.T) {
	for name, want := range map[string][3]int{ // width, height, orientation
		"plain.heic":    {64, 128, 1},
		"rotated.heic":  {128, 64, 1}, // applied
		"mirrored.heic": {64, 128, 1},
		"cropped.heic":  {33, 21, 1},
		"grid.heic":     {200, 140, 1}, // of 256×192 pixels in tiles
		"plain.avif":    {64, 128, 1},
		"rotated.avif":  {64, 128, 6}, // not applied
		"rotated.tif":   {40, 30, 6},
		"rgb.tif":       {40, 30, 1},
	} {
		info, err := Inspect(heifFixture(t, name), 0)
		if got := [3]int{info.Width, info.Height, info.Orientation}; err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

// TestHEIF_memory checks that Info.Memory covers decoding, and that an instance can't allocate more.
func TestHEIF_memory(t *testing.T) {
	dst := make([]uint8, numPixels)
	for _, f := range heifFixtures(t) {
		var d Decoder
		if err := d.Pixels(dst, f.data); err != nil { // compiles the decoder
			t.Fatal(err)
		}
		d = Decoder{}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		info, err := d.Decode(dst, f.data)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		// WebAssembly instances also allocate tables, independent of the image.
		if used := int64(after.TotalAlloc - before.TotalAlloc); used > info.Memory+1<<20 {
			t.Errorf("%s: allocated %d bytes, more than the estimate of %d", f.name, used, info.Memory)
		}
	}
	// An instance that needs more than its memory fails.
	run, err := libheif.start(t.Context(), 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer run.close()
	if _, _, err := run.allocate(1 << 20); err != nil {
		t.Errorf("1 MiB of 2 MiB: %v", err)
	}
	if _, _, err := run.allocate(2 << 20); !errors.Is(err, errNoMemory) {
		t.Errorf("2 MiB more: %v, want %v", err, errNoMemory)
	}
}

// expiring is a context whose deadline passes at the given call of Err.
type expiring struct {
	context.Context
	calls, limit int
}

func (e *expiring) Err() error {
	if e.calls++; e.calls >= e.limit {
		return context.DeadlineExceeded
	}
	return nil
}

func TestDecodeContext(t *testing.T) {
	var d Decoder
	got := make([]uint8, numPixels)
	for _, name := range []string{"420.heic", "10-bit.heic", "420.avif"} {
		data, whole := heifFixture(t, name), &expiring{t.Context(), 0, math.MaxInt}
		if _, err := d.DecodeContext(whole, got, data); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Between these calls, the garbage collector stops all goroutines until the next one.
		if whole.calls < 5000 || whole.calls > 200_000 {
			t.Errorf("%s: %d calls of ctx.Err for 320×240 pixels; are the functions still the same?", name, whole.calls)
		}
		for _, limit := range []int{1, 10, whole.calls / 2, whole.calls - 1} {
			ctx := &expiring{t.Context(), 0, limit}
			if _, err := d.DecodeContext(ctx, got, data); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBroken) {
				t.Errorf("%s: deadline at call %d: error %v, want %v", name, limit, err, context.DeadlineExceeded)
			}
			if ctx.calls > limit+2 {
				t.Errorf("%s: %d calls of ctx.Err after the deadline", name, ctx.calls-limit)
			}
		}
		if err := d.Pixels(got, data); err != nil || deviate(got, readFile(t, "testdata/heif/"+name+".rgb")).max > heifTolerance(name).max {
			t.Errorf("%s, after an interruption: %v", name, err)
		}
	}
}

func TestHEIF_concurrent(t *testing.T) {
	data := heifFixture(t, "444.heic")
	want := readFile(t, "testdata/heif/444.heic.rgb")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			var d Decoder
			got := make([]uint8, numPixels)
			if err := d.Pixels(got, data); err != nil || deviate(got, want).max > 1 {
				t.Errorf("%v, %v", deviate(got, want), err)
			}
		})
	}
	group.Wait()
}

// replaced returns a copy of data in which the first occurrence of old is replaced.
func replaced(t *testing.T, data []byte, old, with string) []byte {
	t.Helper()
	if !bytes.Contains(data, []byte(old)) || len(old) != len(with) {
		t.Fatalf("cannot replace %q", old)
	}
	return bytes.Replace(data, []byte(old), []byte(with), 1)
}

// resized returns a copy of a HEIC or AVIF whose property ispe announces another size.
func resized(data []byte, width, height int) []byte {
	at := bytes.Index(data, []byte("ispe")) + 8
	return patched(patched(data, at, be32(width)...), at+4, be32(height)...)
}

func TestHEIF_errors(t *testing.T) {
	heic, avif, grid := heifFixture(t, "444.heic"), heifFixture(t, "444.avif"), heifFixture(t, "grid.heic")
	mdat := func(data []byte) int { return bytes.Index(data, []byte("mdat")) + 4 }
	// The first unit of the image data three thousand times, each an image of its own.
	again := func() []byte {
		at := mdat(heic)
		unit := heic[at:]
		out := slices.Concat(heic[:at], bytes.Repeat(unit, 3000))
		binary.BigEndian.PutUint32(out[at-8:], uint32(len(out)-at+8))
		iloc := bytes.Index(out, []byte("iloc")) + 4
		// Version 0 or 1, with one extent: the length is at the end of the box.
		size := int(binary.BigEndian.Uint32(out[iloc-8:]))
		binary.BigEndian.PutUint32(out[iloc-8+size-4:], uint32(len(unit)*3000))
		return out
	}()
	for _, c := range []struct {
		name string
		data []byte
		want error
		text string
	}{
		{"HEIC of 65,535×65,535", resized(heic, 65535, 65535), ErrTooLarge, "65535×65535"},
		{"AVIF of 65,535×65,535", resized(avif, 65535, 65535), ErrTooLarge, "65535×65535"},
		{"HEIC of overflowing size", resized(heic, 1<<32-1, 1<<32-1), ErrTooLarge, "4294967295"},
		{"HEIC of size 0", resized(heic, 0, 75), ErrBroken, "invalid size"},
		{"HEIC that announces a smaller image", resized(heic, 10, 10), ErrBroken, "invalid size"},
		{"AVIF that announces a smaller image", resized(avif, 10, 10), ErrBroken, "parameters"},
		{"HEIC that announces a larger image", resized(heic, 500, 500), ErrBroken, "parameters"},
		{"HEIC of thousands of pictures", again, ErrFormat, "at most"},
		{"HEIC cut after the brand", heic[:28], ErrBroken, "truncated"},
		{"HEIC cut within the brand", heic[:14], ErrBroken, "truncated"},
		{"HEIC without image data", heic[:mdat(heic)], ErrBroken, "image data"},
		{"HEIC with half of the image data", heic[:mdat(heic)+500], ErrBroken, ""},
		{"AVIF without image data", avif[:mdat(avif)], ErrBroken, "image data"},
		{"AVIF with zeros as image data", slices.Concat(avif[:mdat(avif)], make([]byte, len(avif)-mdat(avif))), ErrBroken, ""},
		{"HEIC with zeros as image data", slices.Concat(heic[:mdat(heic)], make([]byte, len(heic)-mdat(heic))), ErrBroken, ""},
		{"HEIC with JPEG data", replaced(t, heic, "hvc1", "jpeg"), ErrFormat, `"jpeg"`},
		{"HEIC with AV1 data", replaced(t, heic, "hvc1", "av01"), ErrFormat, `"av01"`},
		{"HEIC without primary image", replaced(t, heic, "pitm", "free"), ErrBroken, "missing"},
		{"HEIC without parameters", replaced(t, heic, "hvcC", "free"), ErrBroken, ""},
		{"HEIC grid without a tile", replaced(t, grid, "\x00\x00\x02\x03\x00\xc8\x00\x8c", "\x00\x00\x03\x03\x00\xc8\x00\x8c"), ErrBroken, "12 tiles, want 16"},
		{"HEIC grid of another size", replaced(t, grid, "\x00\x00\x02\x03\x00\xc8\x00\x8c", "\x00\x00\x02\x03\x00\xc9\x00\x8c"), ErrBroken, "invalid grid"},
		{"HEIC grid without references", replaced(t, grid, "dimg", "free"), ErrBroken, "0 tiles, want 12"},
		{"HEIC without locations", replaced(t, heic, "iloc", "free"), ErrBroken, "image data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decoder{MaxPixels: 1 << 20}
			err := d.Pixels(make([]uint8, numPixels), c.data)
			if err == nil {
				t.Fatal("no error")
			}
			checkKind(t, err, c.want)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
			if strings.Contains(err.Error(), "wasm") {
				t.Errorf("error %q contains a stack trace", err)
			}
		})
	}
}

func TestTIFF_errors(t *testing.T) {
	rgb := heifFixture(t, "rgb.tif")
	// set returns a copy with another value of a tag.
	set := func(data []byte, tag, value int) []byte {
		at := int(binary.LittleEndian.Uint32(data[4:])) + 2
		for ; at+12 <= len(data); at += 12 {
			if int(binary.LittleEndian.Uint16(data[at:])) == tag {
				return patched(data, at+2, slices.Concat(le16(4), le32(1), le32(value))...)
			}
		}
		t.Fatalf("no tag %d", tag)
		return nil
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
		text string
	}{
		{"60,000×60,000", set(set(rgb, 256, 60000), 257, 60000), ErrTooLarge, "60000×60000"},
		{"7,000×7,000 in a few bytes", set(set(rgb, 256, 7000), 257, 7000), ErrBroken, "truncated"},
		{"size 0", set(rgb, 256, 0), ErrBroken, "0×30"},
		{"CMYK", set(set(rgb, 262, 5), 277, 4), ErrFormat, "CMYK"},
		{"JPEG compression", set(rgb, 259, 7), ErrFormat, "JPEG compression"},
		{"unknown compression", set(rgb, 259, 65000), ErrFormat, "compression 65000"},
		{"separate planes", set(rgb, 284, 2), ErrFormat, "separate color planes"},
		{"cut in the directory", rgb[:len(rgb)-40], ErrBroken, ""},
		{"8 bytes", rgb[:8], ErrBroken, "truncated"},
		{"4 bytes", rgb[:4], ErrBroken, "truncated"},
		{"BigTIFF", []byte("II+\x00\x08\x00\x00\x00"), ErrFormat, "BigTIFF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			err := d.Pixels(make([]uint8, numPixels), c.data)
			if err == nil {
				t.Fatal("no error")
			}
			checkKind(t, err, c.want)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
		})
	}
}

func TestOtherFormats(t *testing.T) {
	ftyp := func(brand string) []byte {
		return []byte("\x00\x00\x00\x18ftyp" + brand + "\x00\x00\x00\x00" + brand + "isom")
	}
	for name, data := range map[string][]byte{
		"JPEG XL":          []byte("\xff\x0a\x00\x00"),
		"JPEG 2000":        []byte("\x00\x00\x00\x0cjP  \r\n\x87\n"),
		"Photoshop":        []byte("8BPS\x00\x01"),
		"PDF":              []byte("%PDF-1.7"),
		"SVG":              []byte("<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
		"HTML":             []byte("\n<!DOCTYPE html><html>"),
		"camera raw (CR3)": ftyp("crx "),
		"camera raw (RAF)": []byte("FUJIFILMCCD-RAW 0201"),
		"camera raw (CR2)": []byte("II*\x00\x10\x00\x00\x00CR\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"video (MP4)":      ftyp("isom"),
		"video (Matroska":  []byte("\x1aE\xdf\xa3\x01"),
		"Netpbm":           []byte("P6\n1 1\n255\n"),
		"HEIC":             ftyp("hevc"),
	} {
		_, err := Inspect(data, 0)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFormats_elsewhere checks that lists of the formats in other files are complete.
func TestFormats_elsewhere(t *testing.T) {
	page, api := string(readFile(t, "../../server/page/index.html")), string(readFile(t, "../../server/page/api.js"))
	row := string(readFile(t, "../../server/predlog/row.go"))
	names := []string{}
	for _, f := range Formats() {
		names = append(names, f.Name)
		for _, media := range f.MediaTypes {
			if !strings.Contains(page, media) {
				t.Errorf("the file input of index.html doesn't accept %s", media)
			}
		}
	}
	if list := FormatList("or"); !strings.Contains(api, list) {
		t.Errorf("api.js doesn't list %s", list)
	}
	if list := strings.Join(names, ", ") + " or tensor"; !strings.Contains(row, list) {
		t.Errorf("row.go doesn't list %s", list)
	}
	for _, name := range []string{"docs/tutorials/own-images.md", "docs/reference/api.md", "docs/how-to/data.md"} {
		text := string(readFile(t, filepath.Join("../..", name)))
		if !strings.Contains(text, FormatList("or")) && !strings.Contains(text, FormatList("and")) {
			t.Errorf("%s doesn't list %s", name, FormatList("and"))
		}
	}
}

// FuzzHEIF checks, with arbitrary data, all that happens before the programs run, which are far too slow to fuzz:
// no panic, errors that wrap an Err value, and little memory. The copy for the programs must have the same parts.
func FuzzHEIF(f *testing.F) {
	for _, fixture := range heifFixtures(f) {
		if heifFormat(fixture.data) != "" && len(fixture.data) < 16_000 {
			f.Add(fixture.data)
		}
	}
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		format := heifFormat(data)
		if format == "" {
			t.Skip("neither HEIC nor AVIF")
		}
		before := bytes.Clone(data)
		first, parts, err := checkHEIF(format, data, limit)
		used, most := uint64(math.MaxUint64), 1<<20+16*uint64(len(data))
		for try := 0; try < 3 && used > most; try++ { // other goroutines allocate as well
			start := allocated()
			_, _, _ = checkHEIF(format, data, limit)
			used = allocated() - start
		}
		if used > most {
			t.Errorf("allocated %d bytes for %d bytes of data, want at most %d", used, len(data), most)
		}
		if !bytes.Equal(before, data) {
			t.Error("the checks changed their input")
		}
		if err != nil {
			if !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
				t.Errorf("error doesn't wrap an Err value: %v", err)
			}
			return
		}
		prepareHEIF(before, format, parts)
		second, again, err := checkHEIF(format, before, limit)
		if err != nil || second.info != first.info || len(again) != len(parts) {
			t.Errorf("prepared: %+v, %d parts, %v, want %+v, %d parts", second.info, len(again), err, first.info, len(parts))
		}
	})
}

// checkHEIF does what a Decoder does before it starts a program.
func checkHEIF(format string, data []byte, maxPixels int) (f heifFile, parts []heifItem, err error) {
	f, err = openHEIF(format, data, maxPixels)
	switch {
	case err != nil:
	case format == formatHEIC:
		if parts, err = f.parts("HEIC", "hvc1", "hvcC"); err == nil {
			_, err = checkHEVC(parts, &f, maxPixels)
		}
	default:
		if parts, err = f.parts("AVIF", "av01", "av1C"); err == nil {
			err = checkAV1(parts, &f, maxPixels)
		}
	}
	return f, parts, err
}
