package imaging

import (
	"bytes"
	"encoding/binary"
	"image"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/image/vp8"
)

// vp8Frames returns the lossy frames of the fixtures, and those of the WebP files in $FAKEART_IMAGES.
func vp8Frames(t testing.TB) map[string][]byte {
	t.Helper()
	frames := map[string][]byte{}
	add := func(name string, data []byte) {
		if format, err := formatOf(data); err != nil || format != formatWebP {
			return
		}
		if f, err := readWebP(data); err == nil && !f.lossless {
			frames[name] = f.data
		}
	}
	for _, f := range readFixtures(t) {
		add(f.name, f.data)
	}
	if folder := os.Getenv("FAKEART_IMAGES"); folder != "" {
		names, err := filepath.Glob(filepath.Join(folder, "*.webp"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			add(filepath.Base(name), readFile(t, name))
		}
	}
	return frames
}

// decodeWithXImage also returns the largest level of the loop filter before it's clamped to 63.
func decodeWithXImage(data []byte) (img *image.YCbCr, level int64, err error) {
	d := vp8.NewDecoder()
	d.Init(bytes.NewReader(data), len(data))
	if _, err := d.DecodeFrameHeader(); err != nil {
		return nil, 0, err
	}
	img, err = d.DecodeFrame()
	header := reflect.ValueOf(d).Elem().FieldByName("filterHeader")
	segments := reflect.ValueOf(d).Elem().FieldByName("segmentHeader").FieldByName("filterStrength")
	for i := range segments.Len() {
		level = max(level, segments.Index(i).Int())
	}
	level += header.FieldByName("level").Int()
	for _, name := range []string{"refLFDelta", "modeLFDelta"} {
		level += max(header.FieldByName(name).Index(0).Int(), 0)
	}
	return img, level, err
}

// outOfRange reports whether a partition starts with a value beyond its range. No encoder writes that, and
// decoders don't agree on what follows.
func outOfRange(d *vp8Decoder, data []byte) bool {
	for _, r := range d.tokens[:d.parts] {
		if len(r.data) > 0 && r.data[0] == 0xff {
			return true
		}
	}
	return data[10] == 0xff
}

// compareVP8 decodes a small frame with d and with golang.org/x/image/vp8. Both must agree.
func compareVP8(t *testing.T, d *vp8Decoder, data []byte) {
	t.Helper()
	width, height, err := webpFrameSize("VP8 ", data)
	if err != nil || width == 0 || height == 0 || width*height > 1<<16 {
		return
	}
	want, level, wantErr := decodeWithXImage(data)
	err = d.begin(data, width, height)
	if level > 127 || err == nil && outOfRange(d, data) {
		return // x/image computes the level with eight bits, and libwebp with more
	}
	done := 0
	for row := 0; err == nil && row < d.high; row++ {
		if err = d.row(row); err != nil || wantErr != nil {
			continue
		}
		for ; done < d.ready(row+1, height); done++ {
			if !bytes.Equal(d.lumaLine(done)[:width], want.Y[done*want.YStride:][:width]) {
				t.Fatalf("%d×%d: row %d of luma differs", width, height, done)
			}
			u, v := d.chromaLines(done / 2)
			at, n := done/2*want.CStride, (width+1)/2
			if !bytes.Equal(u[:n], want.Cb[at:][:n]) || !bytes.Equal(v[:n], want.Cr[at:][:n]) {
				t.Fatalf("%d×%d: row %d of chroma differs", width, height, done/2)
			}
		}
	}
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%d×%d: error %v, want %v", width, height, err, wantErr)
	}
	if err == nil && done != height {
		t.Fatalf("got %d of %d rows", done, height)
	}
}

func TestVP8_equalsXImage(t *testing.T) {
	var d vp8Decoder // reused, to detect state that leaks into the next image
	for name, data := range vp8Frames(t) {
		t.Run(name, func(t *testing.T) {
			compareVP8(t, &d, data)
			if len(data) > 20_000 {
				return
			}
			for n := 10; n < len(data); n += 1 + n/20 { // truncated
				compareVP8(t, &d, data[:n])
			}
			first := uint24(data) >> 5
			for i := range min(len(data), 120) { // other headers, modes and coefficients
				for _, at := range []int{i, 10 + first + i} {
					if at < 6 || at > 9 && at < len(data) {
						mutant := bytes.Clone(data)
						mutant[at] ^= byte(0x91 * (i + 1))
						compareVP8(t, &d, mutant)
					}
				}
			}
		})
	}
}

// TestVP8_partitionBeyondData checks that an announced size beyond the data is an error.
func TestVP8_partitionBeyondData(t *testing.T) {
	for name, data := range vp8Frames(t) {
		mutant := bytes.Clone(data)
		binary.LittleEndian.PutUint16(mutant[1:], 0xffff) // about 512 KiB
		var d vp8Decoder
		if width, height, err := webpFrameSize("VP8 ", mutant); err == nil {
			if err := d.begin(mutant, width, height); err == nil {
				t.Errorf("%s: a first partition longer than the data is accepted", name)
			}
		}
	}
}

// FuzzVP8 compares with golang.org/x/image/vp8.
func FuzzVP8(f *testing.F) {
	for _, data := range vp8Frames(f) {
		if len(data) < 5000 {
			f.Add(data)
		}
	}
	var d vp8Decoder
	f.Fuzz(func(t *testing.T, data []byte) { compareVP8(t, &d, data) })
}
