package imaging

import (
	"bytes"
	"image/color"
	"slices"
	"sync"
	"testing"
)

func TestEncodePNG(t *testing.T) {
	pixels := make([]uint8, numPixels)
	for i := range pixels {
		pixels[i] = uint8(i*i/3 + i)
	}
	want := EncodePNG(ToImage(pixels, Size, Channels))
	got := make([]uint8, numPixels)
	if err := new(Decoder).Pixels(got, want); err != nil || !slices.Equal(got, pixels) {
		t.Errorf("decoding the PNG gives different pixels (error %v)", err)
	}
	// Reused buffers must not affect the output, even with concurrent use.
	var group sync.WaitGroup
	for n := 1; n <= 8; n++ {
		group.Go(func() {
			EncodePNG(ToImage(pixels[:3*n*8], 8, 3))
			if !bytes.Equal(EncodePNG(ToImage(pixels, Size, Channels)), want) {
				t.Error("the same image gives different bytes")
			}
		})
	}
	group.Wait()
	if img := ToImage(pixels[:3*6*2], 6, 3); img.Rect.Dx() != 6 || img.Rect.Dy() != 2 {
		t.Errorf("ToImage: bounds %v, want 6×2", img.Rect)
	}
	img := ToImage([]uint8{10, 20, 30, 40, 50, 60}, 3, 1)
	if img.Rect.Dx() != 3 || img.Rect.Dy() != 2 || img.NRGBAAt(1, 1) != (color.NRGBA{50, 50, 50, 255}) {
		t.Errorf("ToImage of gray pixels: bounds %v, pixel %v", img.Rect, img.NRGBAAt(1, 1))
	}
}

func TestToImage_incompleteRows(t *testing.T) {
	for _, test := range []struct{ bytes, width, channels int }{{0, 1, 3}, {3, 0, 3}, {10, 3, 3}, {9, 2, 3}, {3, 2, 1}, {12, 2, 2}, {12, 2, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("ToImage doesn't panic for %+v", test)
				}
			}()
			ToImage(make([]uint8, test.bytes), test.width, test.channels)
		}()
	}
}

func TestPlan_Pixels_clamps(t *testing.T) {
	tensor, pixels := make([]float32, numPixels), make([]uint8, numPixels)
	tensor[0], tensor[1] = -1, 7
	if defaultPlan().Pixels(pixels, Tensor{Float32: tensor}); pixels[0] != 0 || pixels[3] != 255 {
		t.Errorf("Pixels = %v…, want 0 and 255 for values out of range", pixels[:6])
	}
}

func BenchmarkEncodePNG(b *testing.B) {
	pixels := make([]uint8, numPixels)
	for i := range pixels {
		pixels[i] = uint8(i * i / 3)
	}
	img := ToImage(pixels, Size, Channels)
	b.ReportAllocs()
	for b.Loop() {
		EncodePNG(img)
	}
}
