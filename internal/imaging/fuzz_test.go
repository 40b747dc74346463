package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/metrics"
	"slices"
	"testing"
)

// allocated returns the number of bytes that the program has allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzDecode checks Decoder and Inspect with arbitrary data: no panic, errors that wrap an Err value, no more
// memory than Info.Memory, and results that don't depend on previously decoded images. For HEIC and AVIF, see FuzzHEIF.
func FuzzDecode(f *testing.F) {
	for _, fixture := range slices.Concat(readFixtures(f), heifFixtures(f)) {
		if len(fixture.data) < 5000 && heifFormat(fixture.data) == "" {
			f.Add(fixture.data)
		}
	}
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		if heifFormat(data) == "" {
			checkDecode(t, data, limit)
		}
	})
}

var reused Decoder // in checkDecode

func checkDecode(t *testing.T, data []byte, limit int) {
	reused.MaxPixels = limit
	before := bytes.Clone(data)
	first, second := make([]uint8, numPixels), make([]uint8, numPixels)
	header, early := Inspect(data, limit)
	info1, err1 := reused.Decode(first, data)
	start := allocated()
	fresh := Decoder{MaxPixels: limit}
	info2, err2 := fresh.Decode(second, data)
	used := allocated() - start
	if fmt.Sprint(err1) != fmt.Sprint(err2) || info1 != info2 {
		t.Fatalf("reused Decoder: %+v, %v; new Decoder: %+v, %v", info1, err1, info2, err2)
	}
	if err1 == nil && !bytes.Equal(first, second) {
		t.Fatal("a reused and a new Decoder give different pixels")
	}
	if err1 != nil && !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err1, k) }) {
		t.Fatalf("error doesn't wrap an Err value: %v", err1)
	}
	if !bytes.Equal(before, data) {
		t.Fatal("Decode changed its input")
	}
	if early != nil && fmt.Sprint(early) != fmt.Sprint(err1) {
		t.Fatalf("Inspect: error %v, want Decode's %v", early, err1)
	}
	if err1 == nil && header != info1 {
		t.Fatalf("Inspect = %+v, want Decode's %+v", header, info1)
	}
	// Add the Decoder itself and the libraries' short-lived tables, which can be thousands of times
	// larger than the data that defines them.
	if most := uint64(header.Memory) + 1<<20 + 8<<10*uint64(len(data)); used > most {
		t.Fatalf("allocated %d bytes for %d bytes of data, want at most %d", used, len(data), most)
	}
}

// FuzzJPEG compares our decoder of sequential JPEGs with image/jpeg.
func FuzzJPEG(f *testing.F) {
	for _, fixture := range jpegFixtures(f) {
		if len(fixture.data) < 3000 {
			f.Add(fixture.data)
		}
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		compareWithStandardLibrary(t, &d, data)
	})
}
