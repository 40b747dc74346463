package imaging

import (
	"bytes"
	"errors"
	"image"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/HugoSmits86/nativewebp"
	"golang.org/x/image/vp8l"
)

// compareVP8L compares our decoder of lossless WebPs with golang.org/x/image/vp8l. Unlike that, ours and libwebp
// reject Huffman codes with too many symbols, and invalid ones of groups that no tile uses.
func compareVP8L(t *testing.T, d *vp8lDecoder, data []byte) (err error) {
	t.Helper()
	width, height, err := webpFrameSize("VP8L", data)
	if err != nil || width*height > 1<<16 {
		return err
	}
	img, errWant := vp8l.Decode(bytes.NewReader(data))
	var got []uint8
	err = d.run(data, width, height, func(_ int, argb []uint32) {
		for _, p := range argb {
			got = append(got, uint8(p>>16), uint8(p>>8), uint8(p), uint8(p>>24))
		}
	})
	d.trim()
	if (err == nil) != (errWant == nil) && !errors.Is(err, errVP8LCode) {
		t.Fatalf("%d×%d: error %v, want %v", width, height, err, errWant)
	}
	if err == nil && !bytes.Equal(got, img.(*image.NRGBA).Pix) {
		t.Fatalf("%d×%d: the pixels differ", width, height)
	}
	return err
}

// losslessFixtures returns the first frames of all lossless WebPs.
func losslessFixtures(tb testing.TB) (frames [][]byte) {
	for _, fixture := range readFixtures(tb) {
		if format, err := formatOf(fixture.data); err != nil || format != formatWebP {
			continue
		}
		if f, err := readWebP(fixture.data); err == nil && f.lossless {
			frames = append(frames, f.data)
		}
	}
	return frames
}

func TestVP8L(t *testing.T) {
	var d vp8lDecoder
	frames := losslessFixtures(t)
	if len(frames) < 5 {
		t.Fatalf("%d fixtures, want at least 5", len(frames))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []image.Point{{1, 1}, {1, 9}, {2, 3}, {7, 1}, {33, 17}, {64, 64}, {130, 67}, {257, 31}} {
		for _, colors := range []int{1, 2, 4, 16, 200, 0} {
			for _, step := range []int{0, 3} { // noise or a gradient
				img := image.NewNRGBA(image.Rectangle{Max: size})
				for i := range img.Pix {
					img.Pix[i] = uint8(rng.Uint32())
					if step > 0 {
						img.Pix[i] = uint8(step*(i/4%size.X+i%4) + rng.IntN(2))
					}
				}
				for i := range size.X * size.Y {
					if colors > 0 {
						c := 4 * (int(img.Pix[4*i]) % min(colors, size.X*size.Y))
						copy(img.Pix[4*i:], []uint8{uint8(c * 7), uint8(c * 13), uint8(c / 4), 255})
					}
				}
				frames = append(frames, encodeVP8L(t, img), randomVP8L(rng, size.X, size.Y, false))
				_ = compareVP8L(t, &d, randomVP8L(rng, size.X, size.Y, true))
			}
		}
	}
	for _, frame := range frames {
		if err := compareVP8L(t, &d, frame); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			bad := slices.Clone(frame)
			bad[5+rng.IntN(len(bad)-5)] ^= 1 << rng.IntN(8)
			_ = compareVP8L(t, &d, bad)
			_ = compareVP8L(t, &d, frame[:5+rng.IntN(len(frame)-4)])
		}
	}
}

// randomVP8L returns a valid image with transforms in any order, several groups of codes, and random pixels. Each code
// has two symbols. With references, some of which are invalid, it also has a color cache.
func randomVP8L(rng *rand.Rand, width, height int, references bool) []byte {
	var stream []byte // a bit each
	put := func(value, count int) {
		for i := range count {
			stream = append(stream, uint8(value>>i&1))
		}
	}
	codes := func() {
		for _, most := range []int{256, 256, 256, 256, 40} {
			put(0b111, 3) // two symbols, the first of 8 bits
			put(rng.IntN(most), 8)
			put(rng.IntN(most), 8)
		}
	}
	pixels := func(count int) {
		for range 4 * count {
			put(rng.IntN(2), 1)
		}
	}
	put(0x2f, 8)
	put(width-1, 14)
	put(height-1, 14)
	put(0, 4)
	w := width
	for _, kind := range rng.Perm(4)[:rng.IntN(5)] {
		put(1, 1)
		put(kind, 2)
		tileBits, colors := rng.IntN(4), 1+rng.IntN(40)
		switch kind {
		case vp8lPredictor, vp8lCrossColor:
			put(tileBits, 3)
			put(0, 1)
			codes()
			pixels(vp8lTiles(w, uint(tileBits+2)) * vp8lTiles(height, uint(tileBits+2)))
		case vp8lPalette:
			put(colors-1, 8)
			put(0, 1)
			codes()
			pixels(colors)
			switch {
			case colors <= 2:
				w = (w + 7) / 8
			case colors <= 4:
				w = (w + 3) / 4
			case colors <= 16:
				w = (w + 1) / 2
			}
		}
	}
	put(0, 1)
	if references {
		put(0b00111, 5) // a color cache of 3 bits
	} else {
		put(0, 1)
	}
	put(1, 1) // groups
	put(0, 3)
	put(0, 1)
	groups := 0
	for i := range vp8lNumCodes { // green has two groups, and all other colors are 0
		if i > 0 {
			put(0b0001, 4)
			continue
		}
		groups = 1 + rng.IntN(4)
		put(0b111, 3)
		put(groups-1, 8)
		put(0, 8)
	}
	used := 0
	for range vp8lTiles(w, 2) * vp8lTiles(height, 2) {
		bit := rng.IntN(2)
		put(bit, 1)
		if bit == 0 {
			used = groups - 1
		}
	}
	for range used + 1 {
		if !references {
			codes()
			continue
		}
		put(0, 1) // a code with lengths, for two literals, a reference and a pixel of the cache
		put(1, 4) // five lengths of the code for lengths: 0 and 2 take a bit each
		for _, length := range []int{0, 0, 1, 0, 1} {
			put(length, 3)
		}
		put(0, 1)
		symbols := []int{rng.IntN(100), 100 + rng.IntN(156), 256 + rng.IntN(8), 280 + rng.IntN(8)}
		for i := range 288 {
			put(0, 1)
			if slices.Contains(symbols, i) {
				stream[len(stream)-1] = 1
			}
		}
		for _, most := range []int{256, 256, 256, 8} {
			put(0b111, 3)
			put(1, 8)
			put(rng.IntN(most), 8)
		}
	}
	pixels(width * height)
	data := make([]byte, (len(stream)+7)/8)
	for i, bit := range stream {
		data[i/8] |= bit << (i % 8)
	}
	return data
}

func encodeVP8L(t *testing.T, img image.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := nativewebp.Encode(&out, img, nil); err != nil {
		t.Fatal(err)
	}
	f, err := readWebP(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f.data
}

// FuzzVP8L compares our decoder of lossless WebPs with golang.org/x/image/vp8l.
func FuzzVP8L(f *testing.F) {
	for _, frame := range losslessFixtures(f) {
		f.Add(frame)
	}
	var d vp8lDecoder
	f.Fuzz(func(t *testing.T, data []byte) { _ = compareVP8L(t, &d, data) })
}
