package net

import (
	"math"
	"slices"
	"testing"

	"fakeart/internal/imaging"
	"fakeart/internal/ort"
)

// What the tests compute with is drawn by a small generator of integers, which
// testdata/make_fixtures.py has as well: so PyTorch and this package start from
// the same weights and pictures without a file of them.

// draw gives n integers of 24 bits of the stream: splitmix64 from the state
// stream·0xD1B54A32D192ED03, of which the upper 24 bits are kept.
func draw(stream, n int) []uint32 {
	out := make([]uint32, n)
	state := uint64(stream) * 0xD1B54A32D192ED03
	for i := range out {
		state += 0x9E3779B97F4A7C15
		z := state
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		out[i] = uint32((z ^ z>>31) >> 40)
	}
	return out
}

// unit is a draw as a number in [0, 1).
func unit(d uint32) float64 { return float64(d) / (1 << 24) }

// The streams of a seed, 10,000 of them.
const (
	streamWeights  = 0    // + index of the parameter
	streamSigns    = 100  // + index of the parameter
	streamStats    = 200  // mean, variance
	streamLabels   = 300  // of all pictures
	streamDropout  = 400  // + number of the step, from 0
	streamPictures = 1000 // + 2·number of the picture: areas, noise
)

func stream(seed, which int) int { return 10000*seed + which }

// drawWeights gives a network's weights: kernels and biases uniform within
// ±1/√(inputs), γ within 0.5 and 1.5, negative in about one of four channels,
// β within ±0.2. Running statistics are those that training starts with.
func drawWeights(n *Network, seed int) Weights {
	w := n.Init(0)
	for k, p := range n.params {
		data := w.Params[p.Offset : p.Offset+p.Size]
		signs := draw(stream(seed, streamSigns+k), p.Size)
		for i, d := range draw(stream(seed, streamWeights+k), p.Size) {
			u := unit(d)
			switch p.init {
			case initUniform:
				u = (2*u - 1) / math.Sqrt(float64(p.fanIn))
			case initOne:
				u += 0.5
				if signs[i]&3 == 0 {
					u = -u
				}
			case initZero:
				u = 0.2 * (2*u - 1)
			}
			data[i] = float32(u)
		}
	}
	return w
}

// drawStats replaces the running statistics: means within ±0.2, variances
// within 0.5 and 1.5.
func drawStats(w Weights, seed int) Weights {
	w = w.Clone()
	for i, d := range draw(stream(seed, streamStats), len(w.Mean)) {
		w.Mean[i] = float32(0.2 * (2*unit(d) - 1))
	}
	for i, d := range draw(stream(seed, streamStats+1), len(w.Var)) {
		w.Var[i] = float32(0.5 + unit(d))
	}
	return w
}

// drawPictures gives the seed's pictures from number first on: areas of 4×4
// pixels with noise, and in those labelled 1 a faint grid, so that there is
// something to learn, but not in twenty steps. The noise keeps two pixels of a
// pool from being equal.
func drawPictures(seed, first, count int) (pictures [][]uint8, labels []uint8) {
	const side, colors = imaging.Size, imaging.Channels
	all := draw(stream(seed, streamLabels), first+count)
	for i := first; i < first+count; i++ {
		label := uint8(all[i] & 1)
		areas := draw(stream(seed, streamPictures+2*i), side/4*side/4*colors)
		noise := draw(stream(seed, streamPictures+2*i+1), pixels)
		picture := make([]uint8, pixels)
		for row := range side {
			for column := range side {
				for c := range colors {
					at := (row*side+column)*colors + c
					picture[at] = uint8(areas[(row/4*side/4+column/4)*colors+c]&127) + uint8(noise[at]&63) +
						6*label*uint8((row+column)&1)
				}
			}
		}
		pictures, labels = append(pictures, picture), append(labels, label)
	}
	return pictures, labels
}

// drawDropout tells for each of n numbers whether a step drops it, three of ten.
func drawDropout(seed, step, n int) []bool {
	out := make([]bool, n)
	for i, d := range draw(stream(seed, streamDropout+step), n) {
		out[i] = uint64(d)*10 < 3<<24
	}
	return out
}

const keep = 0.7 // what drawDropout leaves

// example is a batch, as the reference and the trainer take it.
type example struct {
	pictures [][]uint8
	labels   []uint8
	dropped  []bool // nil without dropout
}

// drawExample gives the seed's batch of size pictures from number first on.
func drawExample(n *Network, seed, first, size, step int) example {
	e := example{}
	e.pictures, e.labels = drawPictures(seed, first, size)
	if n.dense[0].dropout {
		e.dropped = drawDropout(seed, step, size*int(n.dense[0].out))
	}
	return e
}

// fill puts the example into a batch.
func (e example) fill(t testing.TB, b *Batch) {
	t.Helper()
	next := 0
	drop := func() bool {
		next++
		return e.dropped[next-1]
	}
	if err := b.Fill(e.pictures, e.labels, nil, keep, drop); err != nil {
		t.Fatal(err)
	}
	if next != len(e.dropped) {
		t.Fatalf("dropout was asked for %d of %d numbers", next, len(e.dropped))
	}
}

// tiny is as small as a network gets that every layout takes: 16 channels are
// whole blocks wherever there are any.
var tiny = Config{Channels: []int{16, 16}, Dense: []int{16}, Slope: 0.01, Dropout: 0.3}

// cifake is the network that the project trains.
var cifake = Config{Channels: []int{32, 64, 128}, Dense: []int{256, 128}, Slope: 0.01, Dropout: 0.3}

var adam = Optimizer{Name: "adam", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}

func newNetwork(t testing.TB, c Config) *Network {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eachLayout runs a test in both layouts. Where the library has no blocked
// layout, that half says so and is skipped.
func eachLayout(t *testing.T, test func(t *testing.T, layout string)) {
	t.Helper()
	for _, layout := range []string{LayoutStandard, LayoutBlocked} {
		t.Run(layout, func(t *testing.T) {
			if layout == LayoutBlocked {
				needBlocked(t)
			}
			test(t, layout)
		})
	}
}

func needBlocked(t testing.TB) {
	t.Helper()
	if err := ort.Init(); err != nil {
		t.Fatal(err)
	}
	if block, err := probeBlock(); err != nil || 16%block != 0 {
		t.Skipf("ONNX Runtime has no blocked layout here that 16 channels fit: blocks of %d, %v", block, err)
	}
}

// newTrainer gives a trainer whose gradients can be looked at; the test closes it.
func newTrainer(t testing.TB, n *Network, w Weights, layout string, o Optimizer) *Trainer {
	t.Helper()
	tr, err := NewTrainer(n, w, TrainerOptions{Optimizer: o, Layout: layout, Threads: 2, gradients: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// outcome is all that a step tells.
type outcome struct {
	loss             float64
	correct          int
	gradient, logits []float64
	mean, variance   []float64 // of the batch, biased
}

// learn makes a step and reports it.
func learn(t testing.TB, tr *Trainer, e example, lr float64) outcome {
	t.Helper()
	b, err := tr.NewBatch(len(e.pictures))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	e.fill(t, b)
	r, err := tr.Step(b, lr)
	if err != nil {
		t.Fatal(err)
	}
	p := tr.programs[len(e.pictures)]
	return outcome{r.Loss, r.Correct, wide(p.gradient), wide(p.logit), wide(p.mean), wide(p.variance)}
}

func wide(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

func largest(x []float64) float64 {
	m := 0.0
	for _, v := range x {
		m = max(m, math.Abs(v))
	}
	return m
}

// sameGradient holds each parameter's gradient to its largest element.
func sameGradient(t testing.TB, n *Network, got, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != n.size || len(want) != n.size {
		t.Fatalf("%d and %d numbers, the network has %d", len(got), len(want), n.size)
	}
	for _, p := range n.params {
		close64(t, "gradient of "+p.Name, got[p.Offset:p.Offset+p.Size], want[p.Offset:p.Offset+p.Size], tolerance)
	}
}

// close64 compares numbers, to a tolerance relative to the largest of those wanted.
func close64(t testing.TB, what string, got, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	scale := largest(want)
	worst, at := 0.0, 0
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= worst) { // NaN too
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*scale) {
		t.Errorf("%s: number %d is %g, want %g: off by %.2g of the largest, %g", what, at, got[at], want[at], worst/scale, scale)
	}
}

func closeTo(t testing.TB, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*math.Abs(want)) {
		t.Errorf("%s is %.9g, want %.9g: off by a relative %.2g", what, got, want, math.Abs(got-want)/math.Abs(want))
	}
}

func sameBytes(t testing.TB, what string, got, want []float32) {
	t.Helper()
	bits := func(x []float32) []uint32 {
		out := make([]uint32, len(x))
		for i, v := range x {
			out[i] = math.Float32bits(v)
		}
		return out
	}
	if !slices.Equal(bits(got), bits(want)) {
		t.Errorf("%s differ in their bits", what)
	}
}

func sameState(t testing.TB, got, want State) {
	t.Helper()
	sameBytes(t, "weights", got.Weights.Params, want.Weights.Params)
	sameBytes(t, "running means", got.Weights.Mean, want.Weights.Mean)
	sameBytes(t, "running variances", got.Weights.Var, want.Weights.Var)
	if len(got.Optimizer) != len(want.Optimizer) || got.Step != want.Step {
		t.Fatalf("%d optimizer vectors after %d steps, want %d after %d", len(got.Optimizer), got.Step, len(want.Optimizer), want.Step)
	}
	for i := range got.Optimizer {
		sameBytes(t, "optimizer vectors", got.Optimizer[i], want.Optimizer[i])
	}
}
