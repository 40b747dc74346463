package imaging

import (
	"bytes"
	"errors"
	"image"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// blankJPEG returns a gray JPEG of the given size with one bit per DC coefficient and, unless progressive, one bit
// for the end of each block. sampling holds the sampling factors of each component.
func blankJPEG(marker byte, width, height int, sampling ...byte) []byte {
	segment := func(marker byte, body ...byte) []byte {
		return slices.Concat([]byte{0xff, marker}, be16(len(body)+2), body)
	}
	frame := slices.Concat([]byte{8}, be16(height), be16(width), []byte{byte(len(sampling))})
	scan := []byte{byte(len(sampling))}
	wide, high, blocks := 8*int(sampling[0]>>4), 8*int(sampling[0]&15), 0
	for i, factors := range sampling {
		frame = append(frame, byte(i+1), factors, 0)
		scan = append(scan, byte(i+1), 0)
		blocks += int(factors>>4) * int(factors&15)
	}
	if len(sampling) == 1 {
		wide, high, blocks = 8, 8, 1
	}
	blocks *= (width + wide - 1) / wide * ((height + high - 1) / high)
	bits, spectrum := 2*blocks, []byte{0, 63, 0}
	if marker == markerSOF2 {
		bits, spectrum = blocks, []byte{0, 0, 0}
	}
	ones := append([]byte{1}, make([]byte, 15)...) // a single code of one bit
	return slices.Concat([]byte{0xff, 0xd8},
		segment(markerDQT, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...),
		segment(marker, frame...),
		segment(markerDHT, slices.Concat([]byte{0x00}, ones, []byte{0}, []byte{0x10}, ones, []byte{0})...),
		segment(markerSOS, append(scan, spectrum...)...),
		make([]byte, (bits+7)/8), []byte{0xff, markerEOI})
}

// stricter lists the errors for faults that image/jpeg accepts: overlapping codes, missing tables, invalid symbols,
// blocks without an end, components without data or with several scans.
var stricter = []error{errJPEGTable, errJPEGNoTable, errJPEGCode, errJPEGBlock, errJPEGNoScan, errJPEGTwoScans}

// laxer lists the errors of image/jpeg for data that libjpeg accepts without a warning, except for a missing end marker.
var laxer = []string{
	"luma/chroma subsampling ratio", "total sampling factors too large", "repeated component identifier",
	"bad Th value", "bad Td value", "bad Ta value", "Huffman table has zero length", "uninitialized Huffman table",
	"missing 0xff00 sequence", "unknown marker", "unexpected EOF",
}

// standardPlanes decodes the planes of a JPEG of one or three components with image/jpeg.
func standardPlanes(hdr *jpegHeader, data []byte) (planes [4]plane, err error) {
	if hdr.components == 3 { // with a JFIF marker, image/jpeg doesn't convert RGB
		jfif := []byte("\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
		data = slices.Concat(data[:hdr.scan], jfif, data[hdr.scan:])
	}
	img, err := jpeg.Decode(bytes.NewReader(data))
	switch img := img.(type) {
	case *image.Gray:
		planes[0] = newPlane(img.Pix, img.Stride, hdr.width, hdr.height, 1, 1)
	case *image.YCbCr:
		hr, vr := hdr.hmax/hdr.h[1], hdr.vmax/hdr.v[1]
		planes[0] = newPlane(img.Y, img.YStride, hdr.width, hdr.height, 1, 1)
		planes[1] = newPlane(img.Cb, img.CStride, hdr.width, hdr.height, hr, vr)
		planes[2] = newPlane(img.Cr, img.CStride, hdr.width, hdr.height, hr, vr)
	}
	return planes, err
}

// misreadByStandardLibrary reports whether an image has scans that image/jpeg misreads: in a scan of one of several
// components, it counts the blocks of all components instead of those of the scan.
func misreadByStandardLibrary(hdr *jpegHeader, data []byte) bool {
	if hdr.components == 1 || hdr.hmax == 1 && hdr.vmax == 1 {
		return false
	}
	restarts, single := false, false
	for at := 2; ; {
		s, err := nextJPEGSegment(data, at)
		if err != nil || s.marker == 0 || s.marker == markerEOI {
			return single && (restarts || hdr.h[1] > 1 || hdr.v[1] > 1)
		}
		restarts = restarts || s.marker == markerDRI
		single = single || s.marker == markerSOS && len(s.body) > 0 && s.body[0] == 1
		at = s.end
	}
}

// compareWithStandardLibrary also decodes a sequential JPEG with image/jpeg. Except for the faults above, we must reject
// what image/jpeg rejects, accept what it accepts, and agree within three levels. Blocks with samples at the limits of
// the range are skipped, because the inverse DCT of image/jpeg wraps around there.
func compareWithStandardLibrary(t *testing.T, d *Decoder, data []byte) {
	t.Helper()
	if format, _ := formatOf(data); format != formatJPEG {
		return
	}
	hdr, err := openJPEG(data, 1<<16)
	if err != nil || hdr.progressive || hdr.components == 4 || misreadByStandardLibrary(&hdr, data) {
		return
	}
	hdr.streamed = false // keep the whole image
	var got [4]plane
	err = d.jpeg.decode(&hdr, data, func(planes *[4]plane, _ int) { got = *planes })
	want, theirErr := standardPlanes(&hdr, data)
	strict := slices.ContainsFunc(stricter, func(e error) bool { return errors.Is(err, e) })
	lax := theirErr != nil && slices.ContainsFunc(laxer, func(e string) bool { return strings.Contains(theirErr.Error(), e) })
	switch {
	case err == nil && theirErr != nil && !lax:
		t.Fatalf("no error, want an error like image/jpeg: %v", theirErr)
	case err != nil && theirErr == nil && !strict:
		t.Fatalf("error %v, but image/jpeg accepts the data", err)
	case err != nil || theirErr != nil:
		return
	}
	for c := range hdr.components {
		p, q := &got[c], &want[c]
		for y := 0; y < p.height; y += 8 {
			for x := 0; x < p.width; x += 8 {
				if d := blockDeviation(p, q, x, y); d > 3 {
					t.Fatalf("component %d at column %d, row %d differs by %d from image/jpeg", c, x, y, d)
				}
			}
		}
	}
}

// blockDeviation returns the largest difference in a block, or 0 if a sample is at the limits of the range.
func blockDeviation(p, q *plane, left, top int) int {
	most := 0
	for y := top; y < min(top+8, p.height); y++ {
		a, b := p.line(y), q.line(y)
		for x := left; x < min(left+8, p.width); x++ {
			if a[x] == 0 || a[x] == 255 || b[x] == 0 || b[x] == 255 {
				return 0
			}
			d := int(a[x]) - int(b[x])
			most = max(most, d, -d)
		}
	}
	return most
}

func jpegFixtures(t testing.TB) []fixture {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(readFixtures(t)), func(f fixture) bool {
		return !strings.HasSuffix(f.name, ".jpg")
	})
}

func TestJPEG_equalsStandardLibrary(t *testing.T) {
	var d Decoder
	for _, f := range jpegFixtures(t) {
		t.Run(f.name, func(t *testing.T) { compareWithStandardLibrary(t, &d, f.data) })
	}
}

func TestJPEG_corruptLikeStandardLibrary(t *testing.T) {
	each := 150
	if testing.Short() {
		each = 20
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var d Decoder
	for _, f := range jpegFixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			for range each {
				data := corrupted(rng, f.data)
				compareWithStandardLibrary(t, &d, data)
				checkReduced(t, data, 1<<16)
			}
		})
	}
}

// corrupted returns a copy of data with a few bytes changed, duplicated, removed or moved, or with the end removed.
func corrupted(rng *rand.Rand, data []byte) []byte {
	data = slices.Clone(data)
	for range 1 + rng.IntN(3) {
		at := rng.IntN(len(data))
		end := min(at+1+rng.IntN(4), len(data))
		switch rng.IntN(8) {
		case 0:
			data[at] = byte(rng.Uint32())
		case 1:
			data[at] ^= 1 << rng.IntN(8)
		case 2:
			data[at] = []byte{0, 0xff, 0xd0, 0xd9, 0x80}[rng.IntN(5)]
		case 3:
			data = slices.Delete(data, at, end)
		case 4:
			data = slices.Insert(data, at, data[at:end]...)
		case 5:
			data = slices.Insert(data, at, 0xff, byte(0xc0+rng.IntN(64)))
		case 6:
			copy(data[rng.IntN(len(data)):], data[at:end])
		default:
			if rng.IntN(8) == 0 {
				data = data[:at]
			}
		}
		if len(data) < 4 {
			break
		}
	}
	return data
}

func TestJPEG_truncated(t *testing.T) {
	var d Decoder
	dst := make([]uint8, numPixels)
	for _, f := range jpegFixtures(t) {
		if len(f.data) > 2500 || strings.Contains(f.name, "garbage") {
			continue
		}
		complete := len(bytes.TrimSuffix(f.data[:len(f.data)-2], []byte{0xff, 0xff})) // without the end marker and fill bytes
		if strings.Contains(f.name, "only") {
			complete = len(f.data) // without the end marker, scans may be missing
		}
		for n := range len(f.data) {
			err := d.Pixels(dst, f.data[:n])
			if n < complete && err == nil {
				t.Errorf("%s: no error for the first %d of %d bytes", f.name, n, len(f.data))
			}
			if n >= complete && (err != nil || !bytes.Equal(dst, f.want)) {
				t.Errorf("%s without end marker: error %v, or other pixels", f.name, err)
			}
		}
	}
}

func TestJPEG_errors(t *testing.T) {
	f := fixtureNamed(t, "jpeg-restart.jpg").data
	quant, frame, huffman := bytes.Index(f, []byte{0xff, markerDQT}), bytes.Index(f, []byte{0xff, markerSOF0}), bytes.Index(f, []byte{0xff, markerDHT})
	interval, scan := bytes.Index(f, []byte{0xff, markerDRI}), bytes.Index(f, []byte{0xff, markerSOS})
	first := bytes.Index(f, []byte{0xff, markerRST0})
	separate := fixtureNamed(t, "jpeg-separate-scans.jpg").data
	start := bytes.Index(separate, []byte{0xff, markerSOS})
	second := start + 2 + bytes.Index(separate[start+2:], []byte{0xff, markerSOS})
	progressive := fixtureNamed(t, "jpeg-progressive-420.jpg").data
	tables, firstScan := bytes.Index(progressive, []byte{0xff, markerDHT}), bytes.Index(progressive, []byte{0xff, markerSOS})
	refinement := bytes.LastIndex(progressive, []byte{0xff, markerSOS})
	blank := blankJPEG(markerSOF0, 16, 16, 0x11)
	code := bytes.Index(blank, []byte{0xff, markerDHT}) + 5
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"restart marker out of order", patched(f, first+1, 0xd3), errJPEGNoRestart},
		{"corrupt restart marker", patched(f, first, 0x12), errJPEGNoRestart},
		{"no restart interval", patched(f, interval+1, markerCOM), nil},
		{"wrong restart interval", patched(f, interval+5, 3), nil},
		{"restart interval of 3 bytes", slices.Insert(patched(f, interval+3, 5), interval+4, 0), errJPEGRestarts},
		{"end marker within a scan", patched(f, first+1, markerEOI), errJPEGNoRestart},
		{"scan with too little data", slices.Insert(slices.Clone(f), first-5, 0xff, markerEOI), errJPEGShort},
		{"no quantization table", patched(f, quant+1, markerCOM), errJPEGNoTable},
		{"no Huffman table", patched(f, huffman+1, markerCOM), nil}, // the standard's tables don't fit
		{"missing Huffman table", patched(f, scan+6, 0x02), errJPEGNoTable},
		{"no Huffman table in a progressive image", patched(progressive, tables+1, markerCOM), errJPEGNoTable},
		{"invalid Huffman table number", patched(f, scan+6, 0x40), errJPEGNoTable},
		{"invalid Huffman table class", patched(f, huffman+4, 0x20), errJPEGTable},
		{"too many Huffman codes", patched(f, huffman+5, 3), errJPEGTable},
		{"short quantization table", patched(f, quant+3, 0x42), errJPEGTable},
		{"invalid quantization table number", patched(f, quant+4, 7), errJPEGTable},
		{"scan of an unknown component", patched(f, scan+5, 9), errJPEGScan},
		{"scan with a duplicate component", patched(f, scan+7, 1), errJPEGScan},
		{"scan of four components", patched(f, scan+4, 4), errJPEGScan},
		{"scan without components", slices.Concat(f[:scan+3], []byte{6, 0, 0, 63, 0}, f[scan+14:]), errJPEGScan},
		{"scan with too many blocks", patched(f, frame+11, 0x42, 0, 2, 0x42, 0, 3, 0x42), errJPEGScan},
		{"second frame header", slices.Insert(slices.Clone(f), len(f)-2, f[frame:huffman]...), errJPEGFrames},
		{"component without a scan", slices.Concat(separate[:second], []byte{0xff, markerEOI}), errJPEGNoScan},
		{"invalid Huffman code", patched(blank, len(blank)-3, 0x80), errJPEGCode},
		{"invalid symbol", patched(blank, code+16+18, 0x20), errJPEGCode},
		{"DC difference of 17 bits", patched(blank, code+16, 17), errJPEGDifference},
		{"two scans of a component", slices.Insert(slices.Clone(separate), second, separate[start:second]...), errJPEGTwoScans},
		{"no end marker and no last scan", separate[:second], errJPEGNoEnd},
		{"no end marker and no last bits", progressive[:refinement], errJPEGNoEnd},
		{"range of DC and AC coefficients", patched(progressive, firstScan+12, 5), errJPEGProgression},
		{"reversed range of coefficients", patched(progressive, refinement+7, 63, 1), errJPEGProgression},
		{"range beyond a block", patched(progressive, refinement+8, 64), errJPEGProgression},
		{"AC coefficients of several components", patched(progressive, firstScan+11, 1, 5), errJPEGProgression},
		{"two bits at once", patched(progressive, refinement+9, 0x20), errJPEGProgression},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			err := d.Pixels(make([]uint8, numPixels), c.data)
			if c.want == nil {
				c.want = ErrBroken
			}
			if !errors.Is(err, c.want) && !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			compareWithStandardLibrary(t, &d, c.data)
		})
	}
}

func TestJPEG_markersWithoutMeaning(t *testing.T) {
	f := fixtureNamed(t, "jpeg-restart.jpg")
	frame, end := bytes.Index(f.data, []byte{0xff, markerSOF0}), len(f.data)-2
	lines := []byte{0xff, markerDNL, 0, 4, f.data[frame+5], f.data[frame+6]}
	for _, c := range []struct {
		name string
		data []byte
		ok   bool
	}{
		{"height after the first scan", slices.Insert(patched(f.data, frame+5, 0, 0), end, lines...), true},
		{"height twice", slices.Insert(slices.Clone(f.data), end, lines...), true},
		{"no height", patched(f.data, frame+5, 0, 0), false},
		{"height 0 twice", slices.Insert(patched(f.data, frame+5, 0, 0), end, 0xff, markerDNL, 0, 4, 0, 0), false},
		{"TEM", slices.Insert(slices.Clone(f.data), frame, 0xff, markerTEM), true},
		{"fill bytes", slices.Insert(slices.Clone(f.data), frame, 0xff, 0xff, 0xff), true},
		{"garbage after the end", append(slices.Clone(f.data), f.data...), true},
	} {
		var d Decoder
		got := make([]uint8, numPixels)
		err := d.Pixels(got, c.data)
		if c.ok && (err != nil || !bytes.Equal(got, f.want)) {
			t.Errorf("%s: error %v, or other pixels", c.name, err)
		} else if !c.ok {
			checkKind(t, err, ErrBroken)
		}
	}
}

func TestJPEG_tooManyScans(t *testing.T) {
	data := blankJPEG(markerSOF2, 16, 16, 0x11)
	scan := bytes.Index(data, []byte{0xff, markerSOS})
	body := data[scan : len(data)-2]
	var d Decoder
	dst := make([]uint8, numPixels)
	for n, want := range map[int]error{1: nil, maxScans: nil, maxScans + 1: ErrFormat} {
		many := slices.Concat(data[:scan], bytes.Repeat(body, n), data[len(data)-2:])
		if err := d.Pixels(dst, many); !errors.Is(err, want) {
			t.Errorf("%d scans: got %v, want %v", n, err, want)
		}
	}
}

func TestJPEG_tablesNotReused(t *testing.T) {
	f, progressive := fixtureNamed(t, "jpeg-444-32x32.jpg").data, fixtureNamed(t, "jpeg-progressive-444-32x32.jpg").data
	var d Decoder
	dst := make([]uint8, numPixels)
	for _, c := range []struct {
		data   []byte
		marker byte
	}{{f, markerDQT}, {progressive, markerDQT}, {progressive, markerDHT}} {
		without := patched(c.data, bytes.Index(c.data, []byte{0xff, c.marker})+1, markerCOM)
		for _, data := range [][]byte{c.data, without, c.data} {
			err := d.Pixels(dst, data)
			if complete := &data[0] == &c.data[0]; complete && err != nil || !complete && !errors.Is(err, errJPEGNoTable) {
				t.Errorf("complete %v: error %v without segment %#x", complete, err, c.marker)
			}
		}
	}
}

// exactInverse computes the inverse DCT by its definition.
func exactInverse(b *block) (samples [64]float64) {
	scale := func(k int) float64 {
		if k == 0 {
			return math.Sqrt(0.125)
		}
		return 0.5
	}
	var basis [8][8]float64
	for k := range 8 {
		for n := range 8 {
			basis[k][n] = scale(k) * math.Cos(float64(2*n+1)*float64(k)*math.Pi/16)
		}
	}
	for y := range 8 {
		for x := range 8 {
			sum := 128.0
			for v := range 8 {
				for u := range 8 {
					sum += float64(b[8*v+u]) * basis[v][y] * basis[u][x]
				}
			}
			samples[8*y+x] = min(max(sum, 0), 255)
		}
	}
	return samples
}

func TestInverseDCT(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, last := range []int{0, 1, 5, 9, 10, 30, 63} {
		for round := range 200 {
			var b block
			for k := range last + 1 {
				if k == 0 || k == last || rng.IntN(3) == 0 {
					b[zigzag[k]] = int32(rng.IntN(2001)-1000) >> (round % 8)
				}
			}
			want := exactInverse(&b)
			full := b
			var got, plain [64]uint8
			b.inverse(last, got[:], 8)
			full.inverse(63, plain[:], 8)
			if got != plain {
				t.Fatalf("inverse(%d) = \n%v, want as without shortcut\n%v", last, got, plain)
			}
			if b != (block{}) || full != (block{}) {
				t.Fatal("inverse didn't clear the block")
			}
			for i, g := range got {
				if math.Abs(float64(g)-want[i]) > 1 {
					t.Fatalf("inverse(%d): sample %d = %d, want %.2f", last, i, g, want[i])
				}
			}
		}
	}
}

func TestHuffman_codeLengths(t *testing.T) {
	// One code of each length, 0, 10, 110 and so on.
	counts, symbols := [16]uint8{}, []uint8{}
	for l := range 16 {
		counts[l] = 1
		symbols = append(symbols, uint8(0x11*l))
	}
	var h huffman
	if !h.define(&counts, symbols, false) {
		t.Fatal("define = false for a valid code")
	}
	for l := 1; l <= 16; l++ {
		bits := ^uint64(0) << (65 - l) // l-1 ones, then zeros
		symbol, length := int(h.fast[bits>>(64-fastBits)]>>8), int(h.fast[bits>>(64-fastBits)]&255)
		if l > fastBits {
			if length != 0 {
				t.Errorf("code of %d bits found in the table for %d bits", l, fastBits)
			}
			symbol, length = h.long(bits)
		}
		if symbol != 0x11*(l-1) || length != l {
			t.Errorf("code of %d bits: symbol %#x of %d bits", l, symbol, length)
		}
	}
	if _, length := h.long(^uint64(0)); length != 0 {
		t.Error("sixteen ones decode to a symbol")
	}
	counts[0] = 3
	if h.define(&counts, append(symbols, 1, 2), false) {
		t.Error("define = true for three codes of one bit")
	}
}
