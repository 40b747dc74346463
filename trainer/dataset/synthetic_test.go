package dataset

import (
	"image"
	"image/color"
	"image/png"
	"os"
	"testing"
)

// TestContactSheet draws pictures of both classes into the PNG file that FAKEART_CONTACT_SHEET
// names: REAL in the upper half, FAKE in the lower, for the eyes of whoever changes the drawing.
func TestContactSheet(t *testing.T) {
	path := os.Getenv("FAKEART_CONTACT_SHEET")
	if path == "" {
		t.Skip("set FAKEART_CONTACT_SHEET to a file name to get a contact sheet")
	}
	const columns, rows, scale, pitch = 16, 5, 3, 34
	sheet := image.NewRGBA(image.Rect(0, 0, columns*pitch*scale, 2*rows*pitch*scale))
	var d drawing
	pixels := make([]byte, pictureBytes)
	for i := range 2 * columns * rows {
		class := uint8(i / (columns * rows))
		d.draw(pixels, 420, 0, class, i)
		for y := range 32 * scale {
			for x := range 32 * scale {
				p := 3 * ((y/scale)*32 + x/scale)
				sheet.SetRGBA(i%columns*pitch*scale+x, i/columns*pitch*scale+y,
					color.RGBA{pixels[p], pixels[p+1], pixels[p+2], 255})
			}
		}
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, sheet); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkDraw(b *testing.B) {
	var d drawing
	pixels := make([]byte, pictureBytes)
	for i := 0; b.Loop(); i++ {
		d.draw(pixels, 1, 0, uint8(i%2), i)
	}
}
