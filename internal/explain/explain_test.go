package explain

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

const size, channels = 32, 3

// bright is a model whose logit is the sum of weight·red over the pixels: it looks
// wherever its weights are not zero.
type bright struct {
	weight  []float32
	batch   int
	gradCAM []float32
	fails   error

	input, logits []float32
	runs          []int
}

func (b *bright) Input() []float32 {
	if b.input == nil {
		b.input, b.logits = make([]float32, b.batch*channels*size*size), make([]float32, b.batch)
	}
	return b.input
}

func (b *bright) Run(n int) error {
	b.runs = append(b.runs, n)
	for i := range n {
		sum := 0.0
		for j, w := range b.weight {
			sum += float64(w * b.input[i*channels*size*size+j])
		}
		b.logits[i] = float32(sum)
	}
	return b.fails
}

func (b *bright) Logits() []float32  { return b.logits }
func (b *bright) GradCAM() []float32 { return b.gradCAM }

// spots is a picture that is black but for red squares of 8 pixels with these corners.
func spots(corners ...[2]int) []float32 {
	p := make([]float32, channels*size*size)
	for _, c := range corners {
		for y := range 8 {
			for x := range 8 {
				p[(c[1]+y)*size+c[0]+x] = 1
			}
		}
	}
	return p
}

func weights(f func(x, y int) float32) []float32 {
	w := make([]float32, size*size)
	for i := range w {
		w[i] = f(i%size, i/size)
	}
	return w
}

func TestOcclusionFindsWhatTheVerdictComesFrom(t *testing.T) {
	// Left of the middle red speaks for FAKE, right of it for REAL.
	sides := weights(func(x, _ int) float32 {
		if x < size/2 {
			return 1
		}
		return -1
	})
	picture := spots([2]int{4, 8}, [2]int{20, 4})
	for _, c := range []struct {
		fake bool
		x, y int
	}{{true, 4, 8}, {false, 20, 4}} {
		for _, batch := range []int{1, 7, 8, 64} {
			m := make([]float32, size*size)
			s := &bright{weight: sides, batch: batch}
			if err := Map(m, Occlusion, s, picture, c.fake); err != nil {
				t.Fatal(err)
			}
			greatest := float32(0)
			for y := c.y; y < c.y+8; y++ {
				greatest = max(greatest, slices.Max(m[y*size+c.x:][:8]))
			}
			if greatest != 1 {
				t.Errorf("fake %v, batches of %d: the square at %d,%d has %g at most", c.fake, batch, c.x, c.y, greatest)
			}
			if v := m[30*size+c.x+4]; v != 0 {
				t.Errorf("fake %v: far below the square the map is %g", c.fake, v)
			}
			total := 0
			for _, n := range s.runs {
				total += n
				if n > batch {
					t.Errorf("a batch of %d, at most %d fit", n, batch)
				}
			}
			if total != 37 || len(s.runs) != (37+batch-1)/batch {
				t.Errorf("batches %v for 36 places and the picture itself", s.runs)
			}
		}
	}
}

func TestAMapIsZeroWhereNothingSpokeForTheVerdict(t *testing.T) {
	s := &bright{weight: weights(func(int, int) float32 { return 1 }), batch: 8}
	m := make([]float32, size*size)
	m[0] = 7 // left from before
	if err := Map(m, Occlusion, s, make([]float32, channels*size*size), true); err != nil || slices.Max(m) != 0 || slices.Min(m) != 0 {
		t.Errorf("a plain picture has a map from %g to %g, %v", slices.Min(m), slices.Max(m), err)
	}
	s.gradCAM = make([]float32, 8*size*size)
	for i := range s.gradCAM {
		s.gradCAM[i] = -1
	}
	if err := Map(m, GradCAM, s, make([]float32, channels*size*size), true); err != nil || slices.Max(m) != 0 {
		t.Errorf("what speaks for REAL is %g in a map of FAKE, %v", slices.Max(m), err)
	}
}

func TestGradCAMShowsTheVerdictsSide(t *testing.T) {
	evidence := make([]float32, 2*size*size)
	evidence[5], evidence[6], evidence[7], evidence[size*size] = 4, 1, -2, 100 // the last is another picture's
	for _, c := range []struct {
		fake bool
		want [3]float32
	}{{true, [3]float32{1, 0.25, 0}}, {false, [3]float32{0, 0, 1}}} {
		s := &bright{weight: make([]float32, size*size), batch: 2, gradCAM: evidence}
		m := make([]float32, size*size)
		if err := Map(m, GradCAM, s, spots(), c.fake); err != nil {
			t.Fatal(err)
		}
		if got := [3]float32(m[5:8]); got != c.want || !slices.Equal(s.runs, []int{1}) {
			t.Errorf("fake %v: %v after runs of %v, want %v", c.fake, got, s.runs, c.want)
		}
	}
}

func TestMapRefuses(t *testing.T) {
	damaged := make([]float32, size*size)
	damaged[9] = float32(math.NaN())
	failure := errors.New("the session fails")
	for _, c := range []struct {
		name   string
		method Method
		s      *bright
		want   string
	}{
		{"a model without Grad-CAM", GradCAM, &bright{}, ErrNoGradCAM.Error()},
		{"a method that does not exist", "lime", &bright{}, `no method "lime"`},
		{"evidence that is no number", GradCAM, &bright{gradCAM: damaged}, "pixel 9 is NaN"},
		{"logits that are no numbers", Occlusion, &bright{weight: []float32{float32(math.Inf(1))}}, "no finite number"},
		{"a session that fails", Occlusion, &bright{fails: failure}, failure.Error()},
		{"a session that fails for Grad-CAM", GradCAM, &bright{fails: failure, gradCAM: damaged}, failure.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.batch = 4
			err := Map(make([]float32, size*size), c.method, c.s, spots(), true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}
