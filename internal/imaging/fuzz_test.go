package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/metrics"
	"slices"
	"testing"
)

// allocated is how many bytes the program has allocated up to now.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzDecode holds any bytes against the promises of Decoder and Inspect: no panic, no error without a
// kind, no more memory than announced, and a result that does not depend on what was decoded before.
func FuzzDecode(f *testing.F) {
	for _, fixture := range readFixtures(f) {
		if len(fixture.data) < 5000 {
			f.Add(fixture.data)
		}
	}
	const limit = 1 << 16
	reused := Decoder{MaxPixels: limit}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		first, second := make([]uint8, numPixels), make([]uint8, numPixels)
		header, early := Inspect(data, limit)
		info1, err1 := reused.Decode(first, data)
		start := allocated()
		fresh := Decoder{MaxPixels: limit}
		info2, err2 := fresh.Decode(second, data)
		used := allocated() - start
		if fmt.Sprint(err1) != fmt.Sprint(err2) || info1 != info2 {
			t.Fatalf("decoding it twice gives %+v, %v and %+v, %v", info1, err1, info2, err2)
		}
		if err1 == nil && !bytes.Equal(first, second) {
			t.Fatal("decoding it twice gives different pixels")
		}
		if err1 != nil && !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err1, k) }) {
			t.Fatalf("error of no kind: %v", err1)
		}
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if early != nil && fmt.Sprint(early) != fmt.Sprint(err1) {
			t.Fatalf("Inspect says %v, Decode %v", early, err1)
		}
		if err1 == nil && header != info1 {
			t.Fatalf("Inspect says %+v, Decode %+v", header, info1)
		}
		// The libraries' short-lived tables come on top, up to some thousand times the bytes that they
		// are made of, and so does the Decoder itself.
		if most := uint64(header.Memory) + 1<<20 + 8<<10*uint64(len(data)); used > most {
			t.Fatalf("%d bytes were allocated for %d bytes of data, expected are %d at most", used, len(data), most)
		}
	})
}

// FuzzJPEG holds our decoder of sequential JPEGs against image/jpeg.
func FuzzJPEG(f *testing.F) {
	for _, fixture := range sequentialFixtures(f) {
		if len(fixture.data) < 3000 {
			f.Add(fixture.data)
		}
	}
	var ours, theirs Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		holdAgainstStandardLibrary(t, &ours, &theirs, data)
	})
}
