package explain

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
)

const size, channels = 32, 3

// linearModel is a Session whose logit is the sum of weight·red over all pixels, so that its
// evidence is where the weights aren't zero.
type linearModel struct {
	weight  []float32
	batch   int
	gradCAM []float32
	fails   error

	input, scores []float32
	runs          []int
}

// described returns the model of a linearModel: its score is the logit of the second of two classes.
func described(t *testing.T, change func(*model.Metadata)) Model {
	t.Helper()
	md := &model.Metadata{Classes: []string{"REAL", "FAKE"}, Columns: 1, OutputKind: model.Logits, CAMKind: model.CAMOfSecond}
	if change != nil {
		change(md)
	}
	plan, err := imaging.Square(size).Compile()
	if err != nil {
		t.Fatal(err)
	}
	return Model{md, plan, size, size}
}

func (b *linearModel) Input() imaging.Tensor {
	if b.input == nil {
		b.input, b.scores = make([]float32, b.batch*channels*size*size), make([]float32, b.batch)
	}
	return imaging.Tensor{Float32: b.input}
}

func (b *linearModel) Batch() int { return b.batch }

func (b *linearModel) Run(n int) error {
	b.runs = append(b.runs, n)
	for i := range n {
		sum := 0.0
		for j, w := range b.weight {
			sum += float64(w * b.input[i*channels*size*size+j])
		}
		b.scores[i] = float32(sum)
	}
	return b.fails
}

func (b *linearModel) Scores() []float32 { return b.scores }
func (b *linearModel) CAM() []float32    { return b.gradCAM }

// spots returns a black image with red squares of 8×8 pixels at the given top left corners.
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

func TestMap_Occlusion(t *testing.T) {
	// Red is evidence for FAKE in the left half, and for REAL in the right half.
	sides := weights(func(x, _ int) float32 {
		if x < size/2 {
			return 1
		}
		return -1
	})
	image := spots([2]int{4, 8}, [2]int{20, 4})
	for _, c := range []struct {
		class int
		x, y  int
	}{{1, 4, 8}, {0, 20, 4}} {
		for _, batch := range []int{1, 7, 8, 64} {
			m := make([]float32, size*size)
			s := &linearModel{weight: sides, batch: batch}
			if err := Map(m, Occlusion, s, described(t, nil), imaging.Tensor{Float32: image}, c.class); err != nil {
				t.Fatal(err)
			}
			greatest := float32(0)
			for y := c.y; y < c.y+8; y++ {
				greatest = max(greatest, slices.Max(m[y*size+c.x:][:8]))
			}
			if greatest != 1 {
				t.Errorf("class %v, batches of %d: maximum in the square at %d,%d = %g, want 1", c.class, batch, c.x, c.y, greatest)
			}
			if v := m[30*size+c.x+4]; v != 0 {
				t.Errorf("class %v: value far below the square = %g, want 0", c.class, v)
			}
			total := 0
			for _, n := range s.runs {
				total += n
				if n > batch {
					t.Errorf("Run(%d), want at most %d", n, batch)
				}
			}
			if total != 37 || len(s.runs) != (37+batch-1)/batch {
				t.Errorf("batches %v, want 37 images: 36 patch positions and the original", s.runs)
			}
		}
	}
}

func TestMap_NoEvidence(t *testing.T) {
	s := &linearModel{weight: weights(func(int, int) float32 { return 1 }), batch: 8}
	m := make([]float32, size*size)
	m[0] = 7 // must be overwritten
	if err := Map(m, Occlusion, s, described(t, nil), imaging.Tensor{Float32: make([]float32, channels*size*size)}, 1); err != nil || slices.Max(m) != 0 || slices.Min(m) != 0 {
		t.Errorf("occlusion map of a plain image from %g to %g, error %v, want all 0", slices.Min(m), slices.Max(m), err)
	}
	s.gradCAM = make([]float32, 8*size*size)
	for i := range s.gradCAM {
		s.gradCAM[i] = -1
	}
	if err := Map(m, GradCAM, s, described(t, nil), imaging.Tensor{Float32: make([]float32, channels*size*size)}, 1); err != nil || slices.Max(m) != 0 {
		t.Errorf("evidence for REAL = %g in a map for FAKE, error %v, want 0", slices.Max(m), err)
	}
}

func TestMap_GradCAM(t *testing.T) {
	evidence := make([]float32, 2*size*size)
	evidence[5], evidence[6], evidence[7], evidence[size*size] = 4, 1, -2, 100 // the last one belongs to another image
	for _, c := range []struct {
		class int
		want  [3]float32
	}{{1, [3]float32{1, 0.25, 0}}, {0, [3]float32{0, 0, 1}}} {
		s := &linearModel{weight: make([]float32, size*size), batch: 2, gradCAM: evidence}
		m := make([]float32, size*size)
		if err := Map(m, GradCAM, s, described(t, nil), imaging.Tensor{Float32: spots()}, c.class); err != nil {
			t.Fatal(err)
		}
		if got := [3]float32(m[5:8]); got != c.want || !slices.Equal(s.runs, []int{1}) {
			t.Errorf("class %v: got %v after runs of %v, want %v", c.class, got, s.runs, c.want)
		}
	}
}

func TestMap_Errors(t *testing.T) {
	nan := make([]float32, size*size)
	nan[9] = float32(math.NaN())
	failure := errors.New("the session fails")
	for _, c := range []struct {
		name   string
		method Method
		s      *linearModel
		want   string
	}{
		{"model without Grad-CAM", GradCAM, &linearModel{}, ErrNoGradCAM.Error()},
		{"unknown method", "lime", &linearModel{}, `unknown method "lime"`},
		{"NaN in Grad-CAM", GradCAM, &linearModel{gradCAM: nan}, "pixel 9 is NaN"},
		{"infinite logits", Occlusion, &linearModel{weight: []float32{float32(math.Inf(1))}}, "weights are corrupt"},
		{"session error with occlusion", Occlusion, &linearModel{fails: failure}, failure.Error()},
		{"session error with Grad-CAM", GradCAM, &linearModel{fails: failure, gradCAM: nan}, failure.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.batch = 4
			err := Map(make([]float32, size*size), c.method, c.s, described(t, nil), imaging.Tensor{Float32: spots()}, 1)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Map: error %v, want %q", err, c.want)
			}
		})
	}
}

// A map of each class is smaller than the image: the class's map is taken and enlarged.
func TestMap_EachClass(t *testing.T) {
	of := described(t, func(md *model.Metadata) {
		md.Classes, md.Columns, md.CAMKind = []string{"cat", "dog", "owl"}, 3, model.CAMOfEach
	})
	of.CAMWidth, of.CAMHeight = 2, 2
	s := &linearModel{weight: make([]float32, size*size), batch: 1, gradCAM: []float32{9, 9, 9, 9, 0, 1, 0, 0, 9, 9, 9, 9}}
	m := make([]float32, size*size)
	if err := Map(m, GradCAM, s, of, imaging.Tensor{Float32: spots()}, 1); err != nil {
		t.Fatal(err)
	}
	// The value 1 is in the upper right quarter, and falls off linearly between the centers of the quarters.
	if m[size-1] != 1 || m[0] != 0 || m[size*size-1] != 0 {
		t.Errorf("corners %g, %g and %g; want 1 only at the upper right", m[0], m[size-1], m[size*size-1])
	}
	if middle := m[size/2]; math.Abs(float64(middle)-0.53) > 0.01 {
		t.Errorf("value %g in the middle of the upper edge, want about one half", middle)
	}
}

// Occlusion explains one class of several, whatever the model's outputs are.
func TestScore(t *testing.T) {
	odds := func(p float64) float32 { return float32(math.Log(p / (1 - p))) }
	for _, c := range []struct {
		name   string
		md     model.Metadata
		scores []float32
		class  int
		want   float32
	}{
		{"first class of one logit", model.Metadata{Columns: 1, OutputKind: model.Logits}, []float32{2}, 0, -2},
		{"second class of one logit", model.Metadata{Columns: 1, OutputKind: model.Logits}, []float32{2}, 1, 2},
		{"logits", model.Metadata{Columns: 3, OutputKind: model.Logits}, []float32{1, 5, 3}, 2, 3},
		{"one probability", model.Metadata{Columns: 1, OutputKind: model.Probabilities}, []float32{0.75}, 0, -odds(0.75)},
		{"probabilities", model.Metadata{Columns: 2, OutputKind: model.Probabilities}, []float32{0.25, 0.75}, 1, float32(math.Log(0.75))},
		{"probability 0", model.Metadata{Columns: 2, OutputKind: model.Probabilities}, []float32{0, 1}, 0, float32(math.Log(1e-12))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := score(&c.md, c.scores, c.class); math.Abs(float64(got-c.want)) > 1e-5 {
				t.Errorf("score %g, want %g", got, c.want)
			}
		})
	}
}

// Patches scale with the image and cover all of it.
func TestStarts(t *testing.T) {
	for n := 1; n <= 300; n++ {
		positions, length := starts(n, patch, stride)
		end := 0
		for _, at := range positions {
			if at > end {
				t.Fatalf("%d pixels: a gap before the patch at %d", n, at)
			}
			end = at + length
		}
		if end != n || len(positions) > 12 {
			t.Errorf("%d pixels: %d patches up to %d", n, len(positions), end)
		}
	}
	if positions, length := starts(224, patch, stride); len(positions) != 6 || length != 84 {
		t.Errorf("224 pixels: %d patches of %d, want 6 of 84", len(positions), length)
	}
}
