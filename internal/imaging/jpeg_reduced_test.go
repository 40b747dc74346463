package imaging

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sbinet/npyio/npz"
)

// decodeReduced decodes a JPEG at its size divided by divisor.
func decodeReduced(t testing.TB, data []byte, divisor int) []uint8 {
	t.Helper()
	hdr, err := openJPEG(data, 0)
	if err != nil {
		t.Fatal(err)
	}
	hdr.reduce(divisor)
	p := Square(1)
	p.Width, p.Height = hdr.reduced()
	plan, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	d := plan.NewDecoder(0)
	d.res.plan = plan
	dst := make([]uint8, plan.Len())
	if err := d.decodeJPEG(dst, &hdr, data); err != nil {
		t.Fatal(err)
	}
	return dst
}

// TestReducedJPEG_equalsPillow compares with the pixels of Pillow's draft mode in testdata/draft.npz.
func TestReducedJPEG_equalsPillow(t *testing.T) { eachKernel(t, testReducedJPEG) }

func testReducedJPEG(t *testing.T) {
	expected, err := npz.Open("testdata/draft.npz")
	if err != nil {
		t.Fatal(err)
	}
	defer expected.Close()
	tested := 0
	p := Default()
	p.Width, p.Height, p.JPEG = 12, 9, DCTScaledJPEG
	plan, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	d := plan.NewDecoder(0)
	for _, f := range jpegFixtures(t) {
		var want []uint8
		if expected.Read(f.name+"/12×9.npy", &want) == nil {
			tested++
			t.Run(f.name+"/12×9", func(t *testing.T) {
				got := make([]uint8, plan.Len())
				if err := d.Pixels(got, f.data); err != nil {
					t.Fatal(err)
				}
				checkPixels(t, got, want)
			})
		}
		for _, divisor := range []int{2, 4, 8} {
			key := fmt.Sprintf("%s/%d", f.name, divisor)
			var want []uint8
			if err := expected.Read(key+".npy", &want); err != nil {
				continue // the image is too small
			}
			tested++
			t.Run(key, func(t *testing.T) {
				got := decodeReduced(t, f.data, divisor)
				if len(got) != len(want) {
					t.Fatalf("%d bytes, want %d", len(got), len(want))
				}
				checkPixels(t, got, want)
			})
		}
	}
	if tested != len(expected.Keys()) || tested == 0 {
		t.Errorf("%d of %d results compared; run testdata/make_draft_fixtures.py", tested, len(expected.Keys()))
	}
}

func TestPlanDivisor(t *testing.T) {
	for _, c := range []struct {
		name          string
		change        func(p *Preprocessing)
		width, height int
		orientation   int
		want          int
	}{
		{"smaller", nil, 20, 20, 1, 1},
		{"equal", nil, 32, 32, 1, 1},
		{"just below two times", nil, 63, 64, 1, 1},
		{"two times", nil, 64, 64, 1, 2},
		{"longer side decides nothing", nil, 4000, 64, 1, 2},
		{"seven times", nil, 255, 255, 1, 4},
		{"eight times", nil, 256, 256, 1, 8},
		{"a hundred times", nil, 3200, 3200, 1, 8},
		{"full size", func(p *Preprocessing) { p.JPEG = FullJPEG }, 3200, 3200, 1, 1},
		{"turned", func(p *Preprocessing) { p.Width, p.Orientation = 128, ApplyOrientation }, 128, 512, 6, 4},
		{"not turned", func(p *Preprocessing) { p.Width = 128 }, 128, 512, 6, 1},
		{"shortest edge", func(p *Preprocessing) { p.Fit, p.Resize, p.Crop = ShortestEdge, 64, Down }, 4000, 128, 1, 2},
		{"contain", func(p *Preprocessing) { p.Fit = Contain }, 256, 64, 1, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default()
			p.JPEG = DCTScaledJPEG
			if c.change != nil {
				c.change(&p)
			}
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.divisor(&Info{Format: formatJPEG, Width: c.width, Height: c.height, Orientation: c.orientation}); got != c.want {
				t.Errorf("divisor %d, want %d", got, c.want)
			}
			if got := plan.divisor(&Info{Format: formatPNG, Width: c.width, Height: c.height, Orientation: c.orientation}); got != 1 {
				t.Errorf("divisor %d for a PNG, want 1", got)
			}
		})
	}
}

// TestReducedJPEG_turned checks that the orientation applies to the reduced image.
func TestReducedJPEG_turned(t *testing.T) {
	data := fixtureNamed(t, "jpeg-exif-rotated.jpg").data
	info, err := Inspect(data, 0)
	if err != nil || info.Orientation < 5 {
		t.Fatalf("%+v, %v: want a turned image", info, err)
	}
	p := Square(4)
	p.JPEG, p.Orientation = DCTScaledJPEG, ApplyOrientation
	reduced, full := p, p
	full.JPEG = FullJPEG
	var got [2][]uint8
	for i, p := range []Preprocessing{reduced, full} {
		plan, err := p.Compile()
		if err != nil {
			t.Fatal(err)
		}
		got[i] = make([]uint8, plan.Len())
		if err := plan.NewDecoder(0).Pixels(got[i], data); err != nil {
			t.Fatal(err)
		}
	}
	if dev := deviate(got[0], got[1]); dev.mean > 6 || bytes.Equal(got[0], got[1]) {
		t.Errorf("the reduced image differs from the full one by %.1f levels on average, want more than 0, at most 6", dev.mean)
	}
}
