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
)

// luma returns the lightness of a color.
func luma(rgb []uint8) float64 {
	return 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
}

func TestWrite_Maps(t *testing.T) {
	// Correct: 0 and 2 (REAL), 3, 5 and 7 (FAKE). Errors: 1 (predicted REAL), 4 and 6 (predicted FAKE).
	r := example(t, []float32{-4, -2, -5, 4, 1, 5, 3, 6}, []uint16{0, 1, 0, 1, 0, 1, 0, 1})
	explained := map[int]int{} // image index to the class that was explained
	r.Explain = func(pixels []uint8, class int) ([]float32, error) {
		index := -1
		for i := range r.Split.Labels {
			if &r.Split.Image(i)[0] == &pixels[0] {
				index = i
			}
		}
		explained[index] = class
		values := make([]float32, 32*32)
		values[index] = 1 // the pixel at the index of the image
		return values, nil
	}
	page := html(t, r)
	for i, z := range r.Scores {
		if class, ok := explained[i]; !ok || (class == 1) != (z > 0) {
			t.Errorf("image %d, logit %g: explained class %d (explained at all: %v)", i, z, class, ok)
		}
	}
	found := regexp.MustCompile(`alt="Image (\d+), (\w+) classified as (\w+)"><img src="data:image/png;base64,([^"]+)" [^>]*alt="Class-activation map for (\w+)"`).FindAllStringSubmatch(page, -1)
	var order []string
	for _, f := range found {
		order = append(order, f[1])
		if f[3] != f[5] {
			t.Errorf("the map next to an image classified as %s is for %s", f[3], f[5])
		}
		var index int
		if _, err := fmt.Sscan(f[1], &index); err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(strings.ReplaceAll(f[4], "&#43;", "+"))))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 32 * 32 {
			red, green, blue, _ := img.At(i%32, i/32).RGBA()
			if gray := red == green && green == blue; gray == (i == index) {
				t.Errorf("image %d, pixel %d: color %d %d %d", index, i, red>>8, green>>8, blue>>8)
			}
		}
	}
	// Errors come first, then correct predictions, each by decreasing confidence.
	if want := []string{"6", "4", "1", "2", "0", "7", "5", "3"}; !slices.Equal(order, want) {
		t.Errorf("images %v, want %v", order, want)
	}
	for _, words := range []string{"evidence for the predicted class", "no evidence", "most evidence", "Most confident correct predictions"} {
		if !strings.Contains(page, words) {
			t.Errorf("the report lacks %q", words)
		}
	}
}

func TestWrite_NoMaps(t *testing.T) {
	logits, labels := scores(100, 2)
	if page := html(t, example(t, logits, labels)); strings.Contains(page, "Class-activation map") || strings.Contains(page, "evidence for") || strings.Contains(page, "Most confident correct") {
		t.Error("the report of a model without explanations has maps")
	}
}

func TestWrite_ExplainError(t *testing.T) {
	logits, labels := scores(100, 2)
	r := example(t, logits, labels)
	failure := errors.New("out of order")
	r.Explain = func([]uint8, int) ([]float32, error) { return nil, failure }
	if _, err := render(r); !errors.Is(err, failure) || !strings.Contains(err.Error(), "explain image ") {
		t.Errorf("error = %v, want the one of Explain", err)
	}
}

// The scale must also work in grayscale and for color-blind readers.
func TestHeat_LightnessIncreases(t *testing.T) {
	last := 0.0
	for i := range 101 {
		rgb := make([]uint8, 3)
		heat(rgb, float64(i)/100, 0)
		if l := luma(rgb); l < last {
			t.Errorf("lightness at %g is %.1f, below the previous %.1f", float64(i)/100, l, last)
		} else {
			last = l
		}
	}
}
