package corrupt

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// testImage returns an image with edges, a gradient and colors.
func testImage() []uint8 {
	p := make([]uint8, size*size*colors)
	for y := range size {
		for x := range size {
			at := p[(y*size+x)*colors:]
			at[0], at[1], at[2] = uint8(40+4*x), uint8(200-3*y), 90
			if (x/5+y/7)%2 == 0 {
				at[0], at[2] = 60, 150
			}
		}
	}
	return p
}

// distance returns the mean absolute difference of levels.
func distance(a, b []uint8) float64 {
	sum := 0.0
	for i := range a {
		sum += math.Abs(float64(a[i]) - float64(b[i]))
	}
	return sum / float64(len(a))
}

func apply(t *testing.T, c Corruption, severity int, seed uint64) []uint8 {
	t.Helper()
	p := testImage()
	if err := c.Apply(p, c.Amounts[severity], rand.New(rand.NewPCG(seed, 0))); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCorruptions_Severity(t *testing.T) {
	for _, c := range Corruptions {
		least, most := distance(testImage(), apply(t, c, 0, 1)), distance(testImage(), apply(t, c, Severities-1, 1))
		if least == 0 || most < 1.2*least {
			t.Errorf("%s: mean change = %.3f levels at severity 1, %.3f at 5; want at least 1.2 times as much", c.Name, least, most)
		}
	}
}

func TestCorruptions_Deterministic(t *testing.T) {
	for _, c := range Corruptions {
		first := apply(t, c, 2, 1)
		if !bytes.Equal(first, apply(t, c, 2, 1)) {
			t.Errorf("%s: the same seed gives another image", c.Name)
		}
		if same := bytes.Equal(first, apply(t, c, 2, 2)); same != (c.Name != "noise") {
			t.Errorf("%s: another seed gives the same image = %v, want true except for noise", c.Name, same)
		}
	}
}

func TestCorruptions_UniformImage(t *testing.T) {
	for _, c := range Corruptions {
		switch c.Name {
		case "noise", "brightness":
			continue // these change uniform images
		}
		p := bytes.Repeat([]uint8{100, 100, 100}, size*size)
		if err := c.Apply(p, c.Amounts[4], nil); err != nil {
			t.Fatal(err)
		}
		for _, v := range p {
			if v < 99 || v > 101 {
				t.Errorf("%s: level 100 becomes %d", c.Name, v)
				break
			}
		}
	}
}

func TestCorruptions_Amounts(t *testing.T) {
	gray := func(v uint8) []uint8 { return bytes.Repeat([]uint8{v}, size*size*colors) }
	p := gray(128)
	_ = Noise(p, 0.1, rand.New(rand.NewPCG(1, 0)))
	sum := 0.0
	for _, v := range p {
		sum += (float64(v) - 128) * (float64(v) - 128)
	}
	if deviation := math.Sqrt(sum/float64(len(p))) / 255; math.Abs(deviation-0.1) > 0.005 {
		t.Errorf("Noise(0.1): standard deviation = %.4f, want 0.1", deviation)
	}
	p = gray(0)
	p[0], p[1], p[2] = 100, 50, 0
	_ = Brightness(p, 0.2, nil)
	if p[0] != 151 || p[1] != 76 || p[2] != 0 || p[3] != 51 {
		t.Errorf("Brightness(0.2) of (100,50,0) and black = %v and %v, want (151,76,0) and (51,51,51)", p[:3], p[3:6])
	}
	p = testImage()
	_ = Contrast(p, 0.5, nil)
	if before, after := spread(testImage()), spread(p); math.Abs(after/before-0.5) > 0.01 {
		t.Errorf("Contrast(0.5): standard deviation %.2f becomes %.2f, want half", before, after)
	}
	p = testImage()
	_ = Pixelate(p, 0.5, nil)
	for i := 0; i < len(p); i += 2 * colors {
		if !bytes.Equal(p[i:][:colors], p[i+colors:][:colors]) {
			t.Fatalf("Pixelate(0.5): pixels %d and the next one differ", i/colors)
		}
	}
	want := 0
	for _, i := range []int{0, colors, size * colors, (size + 1) * colors} {
		want += int(testImage()[i])
	}
	if math.Abs(float64(p[0])-float64(want)/4) > 0.51 {
		t.Errorf("Pixelate(0.5): first square = %d, want the mean of its pixels, %d/4", p[0], want)
	}
	// A point spreads like the normal distribution: 0.159 remains in the center for σ=1.
	p = gray(0)
	p[(16*size+16)*colors] = 255
	_ = Blur(p, 1, nil)
	if got := p[(16*size+16)*colors]; got < 40 || got > 42 {
		t.Errorf("Blur(1): center of a point of 255 = %d, want 40 to 42", got)
	}
}

func spread(p []uint8) float64 {
	var sum, squares, n float64
	for i := 0; i < len(p); i += colors {
		sum, squares, n = sum+float64(p[i]), squares+float64(p[i])*float64(p[i]), n+1
	}
	return math.Sqrt(squares/n - sum*sum/n/n)
}
