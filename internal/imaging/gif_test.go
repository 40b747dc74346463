package imaging

import (
	"bytes"
	"testing"
)

func TestDecode_incompleteGIF(t *testing.T) {
	plain := fixtureNamed(t, "gif-plain.gif")
	var d Decoder
	got := make([]uint8, numPixels)
	if err := d.Pixels(got, plain.data[:len(plain.data)-1]); err != nil || !bytes.Equal(got, plain.want) {
		t.Errorf("without trailer: error %v, or other pixels", err)
	}
	one := fixtureNamed(t, "gif-code-size-1.gif").data
	size := len(one) - 11 // the code size, before a block of 7 bytes
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"code size of 13 bits", patched(one, size, 13)},
		{"end code before the last pixel", patched(one, size+2, 0x0e)},
		{"code that isn't defined", patched(one, size, 2, 7, 0x74)},
		{"code after a clear code", patched(one, size, 2, 7, 0x34)},
		{"block without data", patched(one, size+1, 0)},
		{"block beyond the data", patched(one, size+1, 200)[:size+4]},
	} {
		if err := d.Pixels(got, c.data); err == nil {
			t.Errorf("%s: no error", c.name)
		} else {
			checkKind(t, err, ErrBroken)
		}
	}
}
