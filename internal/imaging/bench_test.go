package imaging

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"testing"
)

// photo is a JPEG with 4:2:0 chroma, as image/jpeg writes it.
func photo(tb testing.TB, width, height int) []byte {
	tb.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			noise := rng.IntN(16)
			img.SetRGBA(x, y, color.RGBA{uint8(x/3 + noise), uint8(y/2 + noise), uint8((x + y) / 4), 255})
		}
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, nil); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func benchmarkTensor(b *testing.B, data []byte) {
	var d Decoder
	dst := make([]float32, numPixels)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Tensor(dst, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTensor32x32JPEG(b *testing.B)   { benchmarkTensor(b, photo(b, 32, 32)) }
func BenchmarkTensor640x480JPEG(b *testing.B) { benchmarkTensor(b, photo(b, 640, 480)) }

// The share of the above that is the standard library's.
func benchmarkJPEGDecode(b *testing.B, data []byte) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := jpeg.Decode(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStandardLibrary32x32JPEG(b *testing.B)   { benchmarkJPEGDecode(b, photo(b, 32, 32)) }
func BenchmarkStandardLibrary640x480JPEG(b *testing.B) { benchmarkJPEGDecode(b, photo(b, 640, 480)) }

func BenchmarkResample640x480(b *testing.B) {
	const width, height = 640, 480
	var row [3][width]uint8
	for c := range row {
		for x := range row[c] {
			row[c][x] = uint8(x * (c + 1))
		}
	}
	var r resampler
	dst := make([]uint8, numPixels)
	b.ReportAllocs()
	for b.Loop() {
		r.begin(dst, width, height)
		for y := range height {
			r.row(y, row[0][:], row[1][:], row[2][:])
		}
		r.end()
	}
}

func BenchmarkUpsampleAndConvert640x480(b *testing.B) {
	const width, height = 640, 480
	luma, chroma := make([]uint8, width*height), make([]uint8, width*height/4)
	for i := range luma {
		luma[i] = uint8(i * 7)
	}
	for i := range chroma {
		chroma[i] = uint8(i * 5)
	}
	planes := [3]plane{
		newPlane(luma, width, width, height, 1, 1),
		newPlane(chroma, width/2, width, height, 2, 2),
		newPlane(chroma, width/2, width, height, 2, 2),
	}
	var rows rowBuffers
	r, g, bl := rows.get(0, width), rows.get(1, width), rows.get(2, width)
	b.ReportAllocs()
	for b.Loop() {
		for y := range height {
			yccRow(r, g, bl, planes[0].row(y, &rows, 3), planes[1].row(y, &rows, 4), planes[2].row(y, &rows, 5))
		}
	}
}

func BenchmarkToTensor(b *testing.B) {
	pixels, dst := make([]uint8, numPixels), make([]float32, numPixels)
	b.ReportAllocs()
	for b.Loop() {
		ToTensor(dst, pixels)
	}
}
