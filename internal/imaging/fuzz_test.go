package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
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
	checkReduced(t, data, limit)
	// Add the Decoder itself and the libraries' short-lived tables, which can be thousands of times
	// larger than the data that defines them.
	if most := uint64(header.Memory) + 1<<20 + 8<<10*uint64(len(data)); used > most {
		t.Fatalf("allocated %d bytes for %d bytes of data, want at most %d", used, len(data), most)
	}
}

// checkReduced checks that a reduced-size decoder accepts the JPEGs that a decoder of the full size accepts, and needs no
// more memory than Info.Memory.
func checkReduced(t *testing.T, data []byte, limit int) {
	t.Helper()
	if format, _ := formatOf(data); format != formatJPEG {
		return
	}
	p := Square(1 << (len(data) % 5))
	p.JPEG = DCTScaledJPEG
	plan, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	first, second := make([]uint8, plan.Len()), make([]uint8, plan.Len())
	header, _ := plan.Inspect(data, limit)
	reusedReduced.plan, reusedReduced.MaxPixels = plan, limit
	_, err1 := reusedReduced.Decode(first, data)
	start := allocated()
	info, err2 := plan.NewDecoder(limit).Decode(second, data)
	used := allocated() - start
	if fmt.Sprint(err1) != fmt.Sprint(err2) || err1 == nil && !bytes.Equal(first, second) {
		t.Fatalf("reduced size: a reused Decoder and a new one differ; errors %v and %v", err1, err2)
	}
	if err2 == nil && header != info {
		t.Fatalf("reduced size: Inspect = %+v, want Decode's %+v", header, info)
	}
	full := Decoder{MaxPixels: limit}
	if err := full.Pixels(make([]uint8, numPixels), data); (err == nil) != (err2 == nil) {
		t.Fatalf("error %v at the reduced size, %v at the full size", err2, err)
	}
	if most := uint64(info.Memory) + 1<<20 + 8<<10*uint64(len(data)); err2 == nil && used > most {
		t.Fatalf("reduced size: allocated %d bytes for %d bytes of data, want at most %d", used, len(data), most)
	}
}

var reusedReduced Decoder // in checkReduced

// FuzzJPEG compares our decoder of sequential JPEGs with image/jpeg, and with itself at a reduced size.
func FuzzJPEG(f *testing.F) {
	for _, fixture := range jpegFixtures(f) {
		if len(fixture.data) < 3000 {
			f.Add(fixture.data)
		}
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, data []byte) {
		compareWithStandardLibrary(t, &d, data)
		checkReduced(t, data, 1<<16)
	})
}

// FuzzPlan is like FuzzDecode for the random plan of a seed.
func FuzzPlan(f *testing.F) {
	for i, fixture := range slices.Concat(readFixtures(f), heifFixtures(f)) {
		if len(fixture.data) < 5000 && heifFormat(fixture.data) == "" {
			f.Add(fixture.data, uint64(i))
		}
	}
	names, err := filepath.Glob("testdata/plans/turned-*")
	if err != nil || len(names) == 0 {
		f.Fatalf("%d images, %v", len(names), err)
	}
	for i, name := range names {
		f.Add(readFile(f, name), uint64(100+i))
	}
	const limit = 1 << 16
	var d Decoder // reused for all plans
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		if heifFormat(data) != "" {
			t.Skip("HEIC and AVIF take seconds to decode; FuzzHEIF covers them")
		}
		p := randomPlan(rand.New(rand.NewPCG(seed, 1)))
		plan, err := p.Compile()
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		first, second := make([]uint8, plan.Len()), make([]uint8, plan.Len())
		header, early := plan.Inspect(data, limit)
		d.plan, d.MaxPixels = plan, limit
		_, err1 := d.Decode(first, data)
		start := allocated()
		info, err2 := plan.NewDecoder(limit).Decode(second, data)
		used := allocated() - start
		if fmt.Sprint(err1) != fmt.Sprint(err2) || err1 == nil && !bytes.Equal(first, second) {
			t.Fatalf("%+v: a reused Decoder and a new one differ; errors %v and %v", p, err1, err2)
		}
		if err2 == nil && (header != info || early != nil) {
			t.Fatalf("%+v: Inspect = %+v, %v, want Decode's %+v", p, header, early, info)
		}
		if _, err := (&Decoder{MaxPixels: limit}).Decode(make([]uint8, numPixels), data); (err == nil) != (err2 == nil) {
			t.Fatalf("%+v: error %v, but %v with the default plan", p, err2, err)
		}
		if most := uint64(info.Memory) + 1<<20 + 8<<10*uint64(len(data)); err2 == nil && used > most {
			t.Fatalf("%+v: allocated %d bytes for %d bytes of data, want at most %d", p, used, len(data), most)
		}
	})
}
