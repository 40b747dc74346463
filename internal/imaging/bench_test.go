package imaging

import (
	"archive/zip"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// photo returns a JPEG with 4:2:0 chroma, written by image/jpeg.
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
		if err := d.Tensor(Tensor{Float32: dst}, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTensor32x32JPEG(b *testing.B)   { benchmarkTensor(b, photo(b, 32, 32)) }
func BenchmarkTensor640x480JPEG(b *testing.B) { benchmarkTensor(b, photo(b, 640, 480)) }

// BenchmarkTensorFixtures measures small images of other formats.
func BenchmarkTensorFixtures(b *testing.B) {
	for _, name := range []string{
		"jpeg-420-32x32.jpg", "jpeg-444-32x32.jpg", "jpeg-progressive-444-32x32.jpg", "png-32x32.png", "webp-lossy-32x32.webp", "bmp-24-32x32.bmp",
	} {
		b.Run(name, func(b *testing.B) { benchmarkTensor(b, fixtureNamed(b, name).data) })
	}
}

// BenchmarkTensorCIFAKE measures realistic input for the server: the test images of the CIFAKE archive, one per
// operation.
func BenchmarkTensorCIFAKE(b *testing.B) {
	root := os.Getenv("FAKEART_DATA")
	if root == "" {
		b.Skip("FAKEART_DATA is not set")
	}
	archive, err := zip.OpenReader(filepath.Join(root, "cifake-layout.zip"))
	if err != nil {
		b.Fatal(err)
	}
	defer archive.Close()
	names, err := fs.Glob(archive, "test/*/*.jpg")
	if err != nil || len(names) == 0 {
		b.Fatalf("%d images, %v", len(names), err)
	}
	data := make([][]byte, len(names))
	for i, name := range names {
		if data[i], err = fs.ReadFile(archive, name); err != nil {
			b.Fatal(err)
		}
	}
	var d Decoder
	dst := make([]float32, numPixels)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := d.Tensor(Tensor{Float32: dst}, data[i%len(data)]); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkStandardLibrary measures image/jpeg alone, for comparison.
func benchmarkStandardLibrary(b *testing.B, data []byte) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := jpeg.Decode(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStandardLibrary32x32JPEG(b *testing.B) { benchmarkStandardLibrary(b, photo(b, 32, 32)) }

func BenchmarkStandardLibrary640x480JPEG(b *testing.B) {
	benchmarkStandardLibrary(b, photo(b, 640, 480))
}

// BenchmarkInverseDCT measures blocks with only the DC coefficient, with coefficients in a corner, and with all.
func BenchmarkInverseDCT(b *testing.B) {
	var samples [64]uint8
	for _, last := range []int{0, onlyCorner, 63} {
		b.Run(strconv.Itoa(last), func(b *testing.B) {
			for b.Loop() {
				var coefficients block
				for k := range last + 1 {
					coefficients[zigzag[k]] = int32(40 - k)
				}
				coefficients.inverse(last, samples[:], 8)
			}
		})
	}
}

func BenchmarkInspect(b *testing.B) {
	for _, name := range []string{"jpeg-420-32x32.jpg", "jpeg-exif-rotated.jpg", "png-32x32.png", "gif-plain.gif", "webp-lossy-32x32.webp", "bmp-24.bmp"} {
		data := fixtureNamed(b, name).data
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Inspect(data, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStats(b *testing.B) {
	pixels := fixtureNamed(b, "jpeg-420-32x32.jpg").want
	b.ReportAllocs()
	for b.Loop() {
		StatsOf(pixels, Size, Channels)
	}
}

// BenchmarkTensor224 prepares JPEGs for the plans of usual networks of 224×224 pixels.
func BenchmarkTensor224(b *testing.B) {
	for _, size := range [][2]int{{640, 480}, {4000, 3000}} {
		data := photo(b, size[0], size[1])
		for _, scale := range []JPEGScale{FullJPEG, DCTScaledJPEG} {
			for _, filter := range []Filter{Bilinear, Bicubic} {
				b.Run(fmt.Sprintf("%dx%d-%s-%s", size[0], size[1], filter, scale), func(b *testing.B) {
					p := Square(224)
					p.Fit, p.Filter, p.JPEG, p.Resize, p.Crop = ShortestEdge, filter, scale, 256, HalfEven
					p.Mean, p.Std = []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
					plan, err := p.Compile()
					if err != nil {
						b.Fatal(err)
					}
					d, tensor := plan.NewDecoder(0), plan.NewTensor(1)
					b.ReportAllocs()
					for b.Loop() {
						if err := d.Tensor(tensor, data); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkResample resizes 640×480 pixels for the plans of usual networks.
func BenchmarkResample(b *testing.B) {
	crop := func(filter Filter, size int) Preprocessing {
		p := Square(224)
		p.Fit, p.Filter, p.Resize, p.Crop = ShortestEdge, filter, size, HalfEven
		return p
	}
	opencv := Square(224)
	opencv.Antialias = false
	gray := Square(224)
	gray.Color = Gray
	for _, c := range []struct {
		name        string
		p           Preprocessing
		orientation int
	}{
		{"32", Default(), 1},
		{"224-stretch", Square(224), 1},
		{"224-gray", gray, 1},
		{"224-opencv", opencv, 1},
		{"224-bilinear", crop(Bilinear, 256), 1},
		{"224-bicubic", crop(Bicubic, 256), 1},
		{"224-lanczos", crop(Lanczos, 256), 1},
		{"224-bilinear-turned", crop(Bilinear, 256), 6},
		{"224-bicubic-turned", crop(Bicubic, 256), 6},
	} {
		b.Run(c.name, func(b *testing.B) {
			const width, height = 640, 480
			var row [3][width]uint8
			for i := range row {
				for x := range row[i] {
					row[i][x] = uint8(x * (i + 1))
				}
			}
			plan, err := c.p.Compile()
			if err != nil {
				b.Fatal(err)
			}
			r := resampler{plan: plan, orientation: c.orientation}
			var buffers rowBuffers
			dst := make([]uint8, plan.Len())
			for _, ycc := range []bool{false, true} {
				b.Run(fmt.Sprintf("ycc=%v", ycc), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						r.begin(dst, width, height)
						for y := range height {
							if ycc {
								r.yccRow(y, jpegColors, row[0][:], row[1][:], row[2][:], &buffers)
							} else {
								r.row(y, row[0][:], row[1][:], row[2][:])
							}
						}
						r.end()
					}
				})
			}
		})
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
			jpegColors.row(r, g, bl, planes[0].row(y, &rows, 3), planes[1].row(y, &rows, 4), planes[2].row(y, &rows, 5))
		}
	}
}

func BenchmarkFill(b *testing.B) {
	pixels, dst := make([]uint8, numPixels), make([]float32, numPixels)
	b.ReportAllocs()
	for b.Loop() {
		defaultPlan().Fill(Tensor{Float32: dst}, pixels)
	}
}
