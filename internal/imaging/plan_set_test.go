package imaging

import (
	"image"
	"math"
	"slices"
	"testing"
)

// TestDecoder_SetPlan checks that a decoder that changes its plan decodes like one of that plan, also if only the filter differs.
func TestDecoder_SetPlan(t *testing.T) {
	img := image.NewRGBA(image.Rect(0, 0, 90, 70))
	for i := range img.Pix {
		img.Pix[i] = uint8(i * i >> 7)
	}
	data := EncodePNG(img)
	var shared Decoder
	for range 2 {
		for _, change := range []func(*Preprocessing){
			func(*Preprocessing) {}, func(p *Preprocessing) { p.Filter = Nearest }, func(p *Preprocessing) { p.Filter = Lanczos },
			func(p *Preprocessing) { p.Width, p.Color = 48, Gray }, func(p *Preprocessing) { p.Antialias = false },
		} {
			p := Square(40)
			change(&p)
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			want, got := make([]uint8, plan.Len()), make([]uint8, plan.Len())
			if err := plan.NewDecoder(0).Pixels(want, data); err != nil {
				t.Fatal(err)
			}
			shared.SetPlan(plan)
			if err := shared.Pixels(got, data); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: other pixels than those of a new decoder (%v)", p.ID(), err)
			}
		}
	}
}

func TestPlan_Range(t *testing.T) {
	for _, test := range []struct {
		change          func(*Preprocessing)
		lowest, highest float32
	}{
		{func(*Preprocessing) {}, 0, 1},
		{func(p *Preprocessing) { p.Scale = 1 }, 0, 255},
		{func(p *Preprocessing) { p.Type, p.Scale = Uint8, 1 }, 0, 255},
		{func(p *Preprocessing) { p.Mean, p.Std = []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225} }, -2.1179, 2.64},
		{func(p *Preprocessing) { p.Color, p.Mean, p.Std = Gray, []float64{0.5}, []float64{0.5} }, -1, 1},
	} {
		p := Square(8)
		test.change(&p)
		plan, err := p.Compile()
		if err != nil {
			t.Fatal(err)
		}
		lowest, highest := plan.Range()
		if math.Abs(float64(lowest-test.lowest)) > 1e-3 || math.Abs(float64(highest-test.highest)) > 1e-3 {
			t.Errorf("%+v: range %g to %g, want %g to %g", p, lowest, highest, test.lowest, test.highest)
		}
	}
}
