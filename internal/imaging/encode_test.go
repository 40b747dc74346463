package imaging

import (
	"bytes"
	"slices"
	"sync"
	"testing"
)

func TestEncodePNG(t *testing.T) {
	pixels := make([]uint8, numPixels)
	for i := range pixels {
		pixels[i] = uint8(i*i/3 + i)
	}
	want := EncodePNG(ToImage(pixels, Size))
	got := make([]uint8, numPixels)
	if err := new(Decoder).Pixels(got, want); err != nil || !slices.Equal(got, pixels) {
		t.Errorf("decoding the PNG gives different pixels (error %v)", err)
	}
	tensor, back := make([]float32, numPixels), make([]uint8, numPixels)
	ToTensor(tensor, pixels)
	if FromTensor(back, tensor); !slices.Equal(back, pixels) {
		t.Error("FromTensor(ToTensor(pixels)) differs from pixels")
	}
	// Reused buffers must not affect the output, even with concurrent use.
	var group sync.WaitGroup
	for n := 1; n <= 8; n++ {
		group.Go(func() {
			EncodePNG(ToImage(pixels[:3*n*8], 8))
			if !bytes.Equal(EncodePNG(ToImage(pixels, Size)), want) {
				t.Error("the same image gives different bytes")
			}
		})
	}
	group.Wait()
	if img := ToImage(pixels[:3*6*2], 6); img.Rect.Dx() != 6 || img.Rect.Dy() != 2 {
		t.Errorf("ToImage: bounds %v, want 6×2", img.Rect)
	}
}

func TestToImage_incompleteRows(t *testing.T) {
	for _, test := range []struct{ bytes, width int }{{0, 1}, {3, 0}, {10, 3}, {9, 2}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("ToImage with %d bytes and width %d doesn't panic", test.bytes, test.width)
				}
			}()
			ToImage(make([]uint8, test.bytes), test.width)
		}()
	}
}

func TestFromTensor_clamps(t *testing.T) {
	tensor, pixels := make([]float32, numPixels), make([]uint8, numPixels)
	tensor[0], tensor[1] = -1, 7
	if FromTensor(pixels, tensor); pixels[0] != 0 || pixels[3] != 255 {
		t.Errorf("FromTensor = %v…, want 0 and 255 for values out of range", pixels[:6])
	}
}

func BenchmarkEncodePNG(b *testing.B) {
	pixels := make([]uint8, numPixels)
	for i := range pixels {
		pixels[i] = uint8(i * i / 3)
	}
	img := ToImage(pixels, Size)
	b.ReportAllocs()
	for b.Loop() {
		EncodePNG(img)
	}
}
