package imaging

import (
	"bytes"
	"slices"
	"testing"
)

// runBMP returns an 8×4 image with the given run-length encoded data, and a palette in which index i is the gray i.
func runBMP(bits, compression int, data ...byte) []byte {
	header := bmpOf(8, 4, bits, compression)[:54]
	var palette []byte
	for i := range 1 << bits {
		palette = append(palette, byte(i), byte(i), byte(i), 0)
	}
	header[10], header[11] = byte((54+len(palette))&255), byte((54+len(palette))>>8)
	return slices.Concat(header, palette, data)
}

// rawBMP returns the same image without run-length encoding.
func rawBMP(rows ...string) []byte {
	data := bmpOf(8, 4, 24, 0)[:54]
	for _, row := range rows {
		for _, c := range row {
			v := byte(c - '0')
			data = append(data, v, v, v)
		}
	}
	return data
}

func TestDecode_runLengthBMP(t *testing.T) {
	for _, c := range []struct {
		name string
		rle8 []byte
		rle4 []byte
		rows []string // from the bottom
	}{
		{
			"jumps",
			[]byte{2, 5, 0, 2, 1, 1, 3, 6, 0, 0, 8, 7, 0, 0, 8, 4, 0, 0},
			[]byte{2, 0x55, 0, 2, 1, 1, 3, 0x66, 0, 0, 8, 0x77, 0, 0, 8, 0x44, 0, 0},
			[]string{"55000000", "00066600", "77777777", "44444444"},
		},
		{
			"end within a row",
			[]byte{8, 1, 0, 0, 3, 2, 0, 1},
			[]byte{8, 0x11, 0, 0, 3, 0x22, 0, 1},
			[]string{"11111111", "22200000", "00000000", "00000000"},
		},
		{
			"literals of odd length",
			[]byte{0, 5, 1, 2, 3, 4, 5, 0, 3, 9, 0, 0, 8, 1, 0, 0, 0, 1},
			[]byte{0, 5, 0x12, 0x34, 0x50, 0, 3, 0x99, 0, 0, 8, 0x11, 0, 0, 0, 1},
			[]string{"12345999", "11111111", "00000000", "00000000"},
		},
	} {
		var d Decoder
		want, got := make([]uint8, numPixels), make([]uint8, numPixels)
		if err := d.Pixels(want, rawBMP(c.rows...)); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"RLE8": runBMP(8, bmpRLE8, c.rle8...), "RLE4": runBMP(4, bmpRLE4, c.rle4...)} {
			if err := d.Pixels(got, data); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: error %v, or other pixels", name, c.name, err)
			}
			if err := d.Pixels(got, data[:len(data)-2]); err == nil && c.name != "jumps" {
				t.Errorf("%s, %s: no error for truncated data", name, c.name)
			}
		}
	}
}

func TestDecode_headersOfBMP(t *testing.T) {
	plain := fixtureNamed(t, "bmp-24.bmp")
	for _, extra := range []int{12, 16} { // BITMAPV2INFOHEADER and BITMAPV3INFOHEADER
		data := slices.Insert(slices.Clone(plain.data), 54, make([]byte, extra)...)
		data[10], data[14] = byte(54+extra), byte(40+extra)
		var d Decoder
		got := make([]uint8, numPixels)
		if err := d.Pixels(got, data); err != nil || !bytes.Equal(got, plain.want) {
			t.Errorf("header of %d bytes: error %v, or other pixels", 40+extra, err)
		}
	}
}
