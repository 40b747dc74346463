package imaging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sbinet/npyio/npz"
)

// TestPlan_equalsPillow compares with the pixels written by testdata/make_plan_fixtures.py: those of Pillow, or of OpenCV
// without antialiasing.
func TestPlan_equalsPillow(t *testing.T) { eachKernel(t, testPlanFixtures) }

func testPlanFixtures(t *testing.T) {
	var cases []struct {
		Image         string
		Preprocessing json.RawMessage
	}
	if err := json.Unmarshal(readFile(t, "testdata/plans/cases.json"), &cases); err != nil {
		t.Fatal(err)
	}
	expected, err := npz.Open("testdata/plans/expected.npz")
	if err != nil {
		t.Fatal(err)
	}
	defer expected.Close()
	if len(cases) == 0 || len(cases) != len(expected.Keys()) {
		t.Fatalf("%d cases, but %d expected results; run testdata/make_plan_fixtures.py", len(cases), len(expected.Keys()))
	}
	for i, c := range cases {
		t.Run(fmt.Sprintf("%03d/%s", i, c.Image), func(t *testing.T) {
			p := Default()
			if err := json.Unmarshal(c.Preprocessing, &p); err != nil {
				t.Fatal(err)
			}
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			data := readFile(t, "testdata/plans/"+c.Image)
			got := make([]uint8, plan.Len())
			if err := plan.NewDecoder(0).Pixels(got, data); err != nil {
				t.Fatal(err)
			}
			var want []uint8
			if err := expected.Read(fmt.Sprintf("%03d.npy", i), &want); err != nil {
				t.Fatal(err)
			}
			tolerance := 0
			if !p.Antialias && p.Filter != Nearest {
				tolerance = 1 // OpenCV's coefficients have 11 bits
			}
			if len(got) != len(want) {
				t.Fatalf("%d bytes, want %d", len(got), len(want))
			}
			if dev := deviate(got, want); dev.max > tolerance {
				t.Errorf("%s: differs by up to %d levels, %.3f on average", c.Preprocessing, dev.max, dev.mean)
			}
		})
	}
}

// randomPlan returns the settings of a random plan. Sizes are up to 70 pixels per side.
func randomPlan(rng *rand.Rand) Preprocessing {
	p := Square(1)
	pick := func(n int) int { return rng.IntN(n) }
	p.Width, p.Height = 1+pick(70), 1+pick(70)
	p.Color = []Color{RGB, BGR, Gray}[pick(3)]
	p.Type = []Type{Float32, Uint8}[pick(2)]
	p.Layout = []Layout{NCHW, NHWC}[pick(2)]
	p.Orientation = []Orientation{IgnoreOrientation, ApplyOrientation}[pick(2)]
	p.JPEG = []JPEGScale{FullJPEG, DCTScaledJPEG}[pick(2)]
	p.Filter = []Filter{Nearest, Bilinear, Bicubic, Lanczos}[pick(4)]
	p.Antialias = pick(3) > 0
	p.Passes = []Passes{HorizontalFirst, Pillow13Passes}[pick(2)]
	p.Fit = []Fit{Stretch, ShortestEdge, Contain}[pick(3)]
	if p.Fit == ShortestEdge || p.Fit == Stretch && pick(2) == 0 {
		p.Resize, p.Crop = 1+pick(90), []Rounding{HalfEven, Down}[pick(2)]
		if pick(3) == 0 {
			p.ResizeHeight = 1 + pick(90)
		}
	}
	p.Padding = [3]uint8{uint8(pick(256)), uint8(pick(256)), uint8(pick(256))}
	if p.Type == Uint8 {
		p.Scale = 1
	}
	return p
}

// resample passes an image, given as planes, to the resampler of a plan.
func resample(t testing.TB, p Preprocessing, planes [3][]uint8, width, orientation int, upward bool) []uint8 {
	t.Helper()
	plan, err := p.Compile()
	if err != nil {
		t.Fatalf("%+v: %v", p, err)
	}
	r := resampler{plan: plan, orientation: orientation, upward: upward}
	dst := make([]uint8, plan.Len())
	height := len(planes[0]) / width
	r.begin(dst, width, height)
	for i := range height {
		y := i
		if upward {
			y = height - 1 - i
		}
		r.row(y, planes[0][y*width:][:width], planes[1][y*width:][:width], planes[2][y*width:][:width])
	}
	r.end()
	return dst
}

// turnPlane turns a plane as a viewer turns an image with that EXIF orientation.
func turnPlane(plane []uint8, width, orientation int) (out []uint8, outWidth int) {
	height := len(plane) / width
	outWidth, outHeight := width, height
	if orientation > 4 {
		outWidth, outHeight = height, width
	}
	for y := range outHeight {
		for x := range outWidth {
			var at int
			switch orientation {
			case 1:
				at = y*width + x
			case 2:
				at = y*width + width - 1 - x
			case 3:
				at = (height-1-y)*width + width - 1 - x
			case 4:
				at = (height-1-y)*width + x
			case 5:
				at = x*width + y
			case 6:
				at = (height-1-x)*width + y
			case 7:
				at = (height-1-x)*width + width - 1 - y
			case 8:
				at = x*width + width - 1 - y
			}
			out = append(out, plane[at])
		}
	}
	return out, outWidth
}

// TestResampler_properties checks, for random plans and images, that an orientation is the same as turning the image first,
// that a fit is the same as resizing and then cropping or padding, and that gray is the same as converting first.
func TestResampler_properties(t *testing.T) { eachKernel(t, testProperties) }

func testProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	for range 1500 {
		p := randomPlan(rng)
		width, height := 1+rng.IntN(150), 1+rng.IntN(150)
		var planes, turned [3][]uint8
		orientation := 1 + rng.IntN(8)
		var w int
		for c := range planes {
			planes[c] = noise(rng, width*height)
			turned[c], w = turnPlane(planes[c], width, orientation)
		}
		h := len(turned[0]) / w
		got := resample(t, p, planes, width, orientation, rng.IntN(2) == 1)
		describe := fmt.Sprintf("%d×%d, orientation %d, %+v", width, height, orientation, p)
		if want := resample(t, p, turned, w, 1, false); !bytes.Equal(got, want) {
			t.Fatalf("%s: differs from the turned image", describe)
		}
		if p.Color == Gray {
			var gray [3][]uint8
			for i := range turned[0] {
				gray[0] = append(gray[0], luma(turned[0][i], turned[1][i], turned[2][i]))
			}
			gray[1], gray[2] = gray[0], gray[0]
			if want := resample(t, p, gray, w, 1, false); !bytes.Equal(got, want) {
				t.Fatalf("%s: differs from the gray image", describe)
			}
		}
		columns, rows := p.axes(w, h)
		whole := p
		whole.Fit, whole.Resize, whole.ResizeHeight, whole.Crop = Stretch, 0, 0, ""
		if whole.Width, whole.Height = p.resized(w, h); whole.Width > maxInputSide || whole.Height > maxInputSide {
			continue
		}
		resized := resample(t, whole, turned, w, 1, false)
		n := p.Channels()
		padding := p.Padding[:n]
		if n == 1 {
			padding = []uint8{luma(p.Padding[0], p.Padding[1], p.Padding[2])}
		}
		for y := range p.Height {
			for x := range p.Width {
				fromX, fromY := x-columns.place+columns.first, y-rows.place+rows.first
				want := padding
				if x >= columns.place && x < columns.place+columns.count && y >= rows.place && y < rows.place+rows.count {
					want = resized[(fromY*whole.Width+fromX)*n:][:n]
				}
				if at := got[(y*p.Width+x)*n:][:n]; !bytes.Equal(at, want) {
					t.Fatalf("%s: pixel %d, %d is %v, want %v", describe, x, y, at, want)
				}
			}
		}
	}
}

// TestPlan_extremeSizes checks that very long images don't fail.
func TestPlan_extremeSizes(t *testing.T) {
	rng := rand.New(rand.NewPCG(33, 34))
	for range 60 {
		p := randomPlan(rng)
		n := 1 + rng.IntN(1<<17)
		plane := noise(rng, n)
		for _, width := range []int{1, n} {
			resample(t, p, [3][]uint8{plane, plane, plane}, width, 1+rng.IntN(8), false)
		}
	}
}

// TestPlan_stretchAndCrop compares the crop of a stretched image with the center of the stretched image.
func TestPlan_stretchAndCrop(t *testing.T) {
	whole := Square(40)
	whole.Height = 44
	cropped := Square(32)
	cropped.Resize, cropped.ResizeHeight, cropped.Crop = 40, 44, HalfEven
	if id := cropped.ID(); id != "rgb-32x32-stretch40x44-bilinear-aa-v3" {
		t.Errorf("ID = %q", id)
	}
	for _, f := range readFixtures(t) {
		var pixels [2][]uint8
		for i, p := range []Preprocessing{whole, cropped} {
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			pixels[i] = make([]uint8, plan.Len())
			if err := plan.NewDecoder(0).Pixels(pixels[i], f.data); err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
		}
		for y := range 32 {
			if row := pixels[0][3*((y+6)*40+4):]; !bytes.Equal(pixels[1][3*32*y:][:3*32], row[:3*32]) {
				t.Fatalf("%s: row %d differs", f.name, y)
			}
		}
	}
}

// TestPlan_concurrent checks that Decoders of one plan don't share state.
func TestPlan_concurrent(t *testing.T) {
	p := Square(24)
	p.Filter, p.Fit, p.Resize, p.Crop = Bicubic, ShortestEdge, 30, HalfEven
	plan, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	fixtures := readFixtures(t)
	want := make([][]uint8, len(fixtures))
	for i, f := range fixtures {
		want[i] = make([]uint8, plan.Len())
		if err := plan.NewDecoder(0).Pixels(want[i], f.data); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			d := plan.NewDecoder(0)
			got := make([]uint8, plan.Len())
			for i, f := range fixtures {
				if err := d.Pixels(got, f.data); err != nil || !bytes.Equal(got, want[i]) {
					t.Errorf("%s: %v, or other pixels", f.name, err)
				}
			}
		})
	}
	group.Wait()
}

// TestDecoder_Tensor checks type, layout and order of channels.
func TestDecoder_Tensor(t *testing.T) {
	f := fixtureNamed(t, "png-32x32.png") // 32×32 pixels
	for _, c := range []struct {
		name string
		set  func(p *Preprocessing)
		at   func(x, y, c int) int
		in   func(v uint8, c int) float32
	}{
		{"nchw", func(*Preprocessing) {}, func(x, y, c int) int { return (c*32+y)*32 + x }, func(v uint8, _ int) float32 { return float32(v) / 255 }},
		{"nhwc", func(p *Preprocessing) { p.Layout = NHWC }, func(x, y, c int) int { return (y*32+x)*3 + c }, func(v uint8, _ int) float32 { return float32(v) / 255 }},
		{"bgr_nchw", func(p *Preprocessing) { p.Color = BGR }, func(x, y, c int) int { return ((2-c)*32+y)*32 + x }, func(v uint8, _ int) float32 { return float32(v) / 255 }},
		{"caffe", func(p *Preprocessing) {
			p.Color, p.Layout, p.Scale, p.Mean = BGR, NHWC, 1, []float64{103.939, 116.779, 123.68}
		}, func(x, y, c int) int { return (y*32+x)*3 + 2 - c }, func(v uint8, c int) float32 {
			return float32(v) - []float32{123.68, 116.779, 103.939}[c]
		}},
		{"imagenet", func(p *Preprocessing) {
			p.Mean, p.Std = []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
		}, func(x, y, c int) int { return (c*32+y)*32 + x }, func(v uint8, c int) float32 {
			return (float32(v)/255 - []float32{0.485, 0.456, 0.406}[c]) / []float32{0.229, 0.224, 0.225}[c]
		}},
		{"uint8", func(p *Preprocessing) { p.Type, p.Layout, p.Scale = Uint8, NHWC, 1 }, func(x, y, c int) int { return (y*32+x)*3 + c }, func(v uint8, _ int) float32 { return float32(v) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default()
			c.set(&p)
			plan, err := p.Compile()
			if err != nil {
				t.Fatal(err)
			}
			tensor := plan.NewTensor(2).Slice(plan.Len(), 2*plan.Len())
			d := plan.NewDecoder(0)
			if err := d.Tensor(tensor, f.data); err != nil {
				t.Fatal(err)
			}
			for i, v := range f.want {
				x, y, channel := i/3%32, i/96, i%3
				at := c.at(x, y, channel)
				var got float32
				if tensor.Uint8 != nil {
					got = float32(tensor.Uint8[at])
				} else {
					got = tensor.Float32[at]
				}
				if want := c.in(v, channel); got != want {
					t.Fatalf("pixel %d, %d, channel %d: %v, want %v", x, y, channel, got, want)
				}
			}
			back := make([]uint8, plan.Len())
			if plan.Pixels(back, tensor); !bytes.Equal(back, f.want) {
				t.Error("Plan.Pixels isn't the inverse of Fill")
			}
			if err := d.Tensor(tensor.Slice(0, 5), f.data); err == nil {
				t.Error("no error for a short tensor")
			}
			other := Tensor{Uint8: make([]uint8, plan.Len())}
			if p.Type == Uint8 {
				other = Tensor{Float32: make([]float32, plan.Len())}
			}
			if err := d.Tensor(other, f.data); err == nil {
				t.Error("no error for a tensor of the other type")
			}
		})
	}
}

// TestPlan_memory checks that Plan.memory bounds what the resampler allocates, and isn't far above it.
func TestPlan_memory(t *testing.T) { eachKernel(t, testPlanMemory) }

func testPlanMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(35, 36))
	for range 150 {
		p := randomPlan(rng)
		scale := 1 + rng.IntN(5)
		p.Width, p.Height, p.Resize, p.ResizeHeight = scale*p.Width, scale*p.Height, scale*p.Resize, scale*p.ResizeHeight
		width, height := 1+rng.IntN(1000), 1+rng.IntN(1000)
		switch rng.IntN(4) {
		case 0:
			width = 1 + rng.IntN(20_000)
			height = 1 + rng.IntN(20)
		case 1:
			width = 1 + rng.IntN(20)
			height = 1 + rng.IntN(20_000)
		}
		plan, err := p.Compile()
		if err != nil {
			t.Fatal(err)
		}
		info := Info{Width: width, Height: height, Orientation: 1 + rng.IntN(8)}
		dst, red, green, blue := make([]uint8, plan.Len()), make([]uint8, width), make([]uint8, width), make([]uint8, width)
		run := func() uint64 {
			start := allocated()
			r := resampler{plan: plan, orientation: 1}
			if p.Orientation == ApplyOrientation {
				r.orientation = info.Orientation
			}
			r.begin(dst, width, height)
			for y := range height {
				r.row(y, red, green, blue)
			}
			r.end()
			return allocated() - start
		}
		used, most := run(), uint64(plan.memory(&info))
		for range 20 { // other goroutines allocate as well
			if used <= most {
				break
			}
			used = min(used, run())
		}
		if used > most {
			t.Errorf("%d×%d, orientation %d, %+v: allocated %d bytes, more than the estimate of %d", width, height, info.Orientation, p, used, most)
		}
		if most > 4*used+1<<18 {
			t.Errorf("%d×%d, orientation %d, %+v: allocated only %d bytes, far below the estimate of %d", width, height, info.Orientation, p, used, most)
		}
	}
}
