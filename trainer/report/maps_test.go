package report

import (
	"encoding/base64"
	"errors"
	"fmt"
	"image/png"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/imaging"
)

// luma is how light a colour is.
func luma(rgb []uint8) float64 {
	return 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
}

func TestThePageShowsWhereTheModelLooked(t *testing.T) {
	// Right: 0 and 2 surely REAL, 3, 5 and 7 FAKE. Wrong: 1 called REAL, 4 and 6 called FAKE.
	r := example(t, []float32{-4, -2, -5, 4, 1, 5, 3, 6}, []uint8{0, 1, 0, 1, 0, 1, 0, 1})
	asked := map[int]bool{}
	r.Explain = func(pixels []uint8, fake bool) ([]float32, error) {
		index := -1
		for i := range r.Split.Labels {
			if &r.Split.Image(i)[0] == &pixels[0] {
				index = i
			}
		}
		asked[index] = fake
		values := make([]float32, imaging.Size*imaging.Size)
		values[index] = 1 // one pixel, which is the picture's number
		return values, nil
	}
	page := html(t, r)
	for i, z := range r.Logits {
		if fake, ok := asked[i]; !ok || fake != (z > 0) {
			t.Errorf("picture %d, logit %g: the map asked for is of FAKE: %v (%v)", i, z, fake, ok)
		}
	}
	found := regexp.MustCompile(`alt="Picture (\d+), (\w+) called (\w+)"><img src="data:image/png;base64,([^"]+)" [^>]*alt="What spoke for (\w+) in it"`).FindAllStringSubmatch(page, -1)
	var order []string
	for _, f := range found {
		order = append(order, f[1])
		if f[3] != f[5] {
			t.Errorf("the map beside a picture called %s is of %s", f[3], f[5])
		}
		var index int
		if _, err := fmt.Sscan(f[1], &index); err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(strings.ReplaceAll(f[4], "&#43;", "+"))))
		if err != nil {
			t.Fatal(err)
		}
		for i := range imaging.Size * imaging.Size {
			red, green, blue, _ := img.At(i%imaging.Size, i/imaging.Size).RGBA()
			if grey := red == green && green == blue; grey == (i == index) {
				t.Errorf("picture %d, pixel %d: %d %d %d", index, i, red>>8, green>>8, blue>>8)
			}
		}
	}
	// The mistakes first, then what is right, each the surest first.
	if want := []string{"6", "4", "1", "2", "0", "7", "5", "3"}; !slices.Equal(order, want) {
		t.Errorf("pictures %v, want %v", order, want)
	}
	for _, words := range []string{"what spoke for its verdict", "nothing there", "most of all", "The surest of those that are right"} {
		if !strings.Contains(page, words) {
			t.Errorf("the page does not say %q", words)
		}
	}
}

func TestAModelThatDoesNotExplainItselfHasNoMaps(t *testing.T) {
	logits, labels := scores(100, 2)
	if page := html(t, example(t, logits, labels)); strings.Contains(page, "spoke") || strings.Contains(page, "The surest of those") {
		t.Error("the page speaks of maps")
	}
}

func TestAnExplanationThatFailsFailsThePage(t *testing.T) {
	logits, labels := scores(100, 2)
	r := example(t, logits, labels)
	failure := errors.New("out of order")
	r.Explain = func([]uint8, bool) ([]float32, error) { return nil, failure }
	if _, err := render(r); !errors.Is(err, failure) || !strings.Contains(err.Error(), "explain picture ") {
		t.Errorf("error %v", err)
	}
}

// Printed in grey, or seen by who cannot tell the colours, the scale still rises.
func TestTheColoursOfTheMapsRiseInLightness(t *testing.T) {
	last := 0.0
	for i := range 101 {
		rgb := make([]uint8, 3)
		heat(rgb, float64(i)/100, 0)
		if l := luma(rgb); l < last {
			t.Errorf("at %g the colour has the lightness %.1f, before %.1f", float64(i)/100, l, last)
		} else {
			last = l
		}
	}
}
