package net

import (
	"fmt"
	"math"
	"testing"
)

// roundings is how far a batch must stay from every kink for float32 to take
// the same branches as float64: some ten times what rounding does to a
// convolution's result, in its standard deviations.
const roundings = 7e-6

// A central difference of the reference's loss knows nothing of derivatives. In
// float64 it is good to seven digits; in float32 it would be to three.
func TestGradientsAreTheSlopesOfTheLoss(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		batch  int
	}{
		{"two blocks and dropout", tiny, 2},
		{"one block, no dropout, two hidden layers", Config{Channels: []int{16}, Dense: []int{16, 16}, Slope: 0.2}, 2},
		{"a slope of zero", Config{Channels: []int{16, 16}, Dense: []int{16}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawWeights(n, 1)
			e := drawExample(n, 1, 0, c.batch, 0)
			r := newReference(n, w)
			exact := r.run(e, true)
			var indices []int
			for k, p := range n.params {
				for _, d := range draw(stream(1, 500+k), 2) {
					indices = append(indices, p.Offset+int(d)%p.Size)
				}
			}
			slopes := make([]float64, len(indices))
			for i, at := range indices {
				const step = 1e-6
				keep := r.params[at]
				r.params[at] = keep + step
				up := r.run(e, false).loss
				r.params[at] = keep - step
				down := r.run(e, false).loss
				r.params[at] = keep
				slopes[i] = (up - down) / (2 * step)
			}
			check := func(t *testing.T, gradient []float64, tolerance float64) {
				t.Helper()
				for i, at := range indices {
					for _, p := range n.params {
						if at < p.Offset || at >= p.Offset+p.Size {
							continue
						}
						scale := largest(exact.gradient[p.Offset : p.Offset+p.Size])
						if d := math.Abs(gradient[at] - slopes[i]); !(d <= tolerance*scale) {
							t.Errorf("%s[%d]: gradient %g, slope %g: off by %.2g of the largest", p.Name, at-p.Offset, gradient[at], slopes[i], d/scale)
						}
					}
				}
			}
			t.Run("reference", func(t *testing.T) { check(t, exact.gradient, 1e-5) })
			eachLayout(t, func(t *testing.T, layout string) {
				got := learn(t, newTrainer(t, n, w, layout, adam), e, 0)
				check(t, got.gradient, 1e-4)
			})
		})
	}
}

// sameOutcome holds a step to the reference, all that it tells and all its gradients.
func sameOutcome(t *testing.T, n *Network, got outcome, want answer, tolerance float64) {
	t.Helper()
	closeTo(t, "loss", got.loss, want.loss, tolerance)
	if got.correct != want.correct {
		t.Errorf("%d pictures right, want %d", got.correct, want.correct)
	}
	close64(t, "logits", got.logits, want.logits, tolerance)
	close64(t, "means", got.mean, want.mean, tolerance)
	close64(t, "variances", got.variance, want.variance, tolerance)
	sameGradient(t, n, got.gradient, want.gradient, tolerance)
}

func TestAStepAgreesWithTheReference(t *testing.T) {
	set := func(w Weights, p Param, value float32) {
		for i := range p.Size {
			w.Params[p.Offset+i] = value
		}
	}
	for _, c := range []struct {
		name   string
		config Config
		batch  int
		seed   int
		change func(n *Network, w Weights)
	}{
		{name: "a batch of one", config: tiny, batch: 1, seed: 2},
		{name: "a batch of seven", config: tiny, batch: 7, seed: 2},
		{name: "a batch of eight", config: tiny, batch: 8, seed: 8},
		{name: "as deep as a picture can be halved, down to one pixel", config: Config{
			Channels: []int{16, 16, 16, 16, 16}, Dense: []int{16, 3}, Slope: 0.01,
		}, batch: 3, seed: 2},
		{name: "more channels at first than at last", config: Config{
			Channels: []int{48, 16}, Dense: []int{5}, Slope: 0.01, Dropout: 0.3,
		}, batch: 2, seed: 3},
		{name: "every γ negative", config: tiny, batch: 3, seed: 6, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				set(w, n.params[l.gamma], -0.8)
			}
		}},
		{name: "some γ zero, of either sign", config: tiny, batch: 3, seed: 2, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				gamma := w.Params[n.params[l.gamma].Offset:]
				gamma[0], gamma[5], gamma[7] = 0, float32(math.Copysign(0, -1)), 0
			}
		}},
		{name: "every γ zero", config: tiny, batch: 2, seed: 2, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				set(w, n.params[l.gamma], 0)
			}
		}},
		{name: "weights as training starts from them", config: tiny, batch: 4, seed: 6, change: func(n *Network, w Weights) {
			copy(w.Params, n.Init(420).Params)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawWeights(n, c.seed)
			if c.change != nil {
				c.change(n, w)
			}
			e := drawExample(n, c.seed, 0, c.batch, 0)
			want := newReference(n, w).run(e, true)
			if want.kink < roundings {
				t.Fatalf("the batch comes as close as %.2g to a kink: take another seed", want.kink)
			}
			eachLayout(t, func(t *testing.T, layout string) {
				sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, 1e-4)
			})
		})
	}
}

func TestAtGammaZeroTheGradientIsTheLimitFromAbove(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 3)
	e := drawExample(n, 3, 0, 2, 0)
	at := n.params[n.blocks[1].gamma].Offset + 4
	w.Params[at] = 0
	r := newReference(n, w)
	zero := r.run(e, true)
	const step = 1e-6
	r.params[at] = step
	slope := (r.run(e, false).loss - zero.loss) / step
	closeTo(t, "the reference's gradient", zero.gradient[at], slope, 1e-3)
	eachLayout(t, func(t *testing.T, layout string) {
		got := learn(t, newTrainer(t, n, w, layout, adam), e, 0)
		closeTo(t, "the gradient", got.gradient[at], slope, 1e-3)
	})
}

// flat gives pictures in which most numbers of a pool are equal.
func flat(kind string, number int) []uint8 {
	picture := make([]uint8, pixels)
	for i := range picture {
		row, column, c := i/96, i/3%32, i%3
		var v int
		switch kind {
		case "black":
		case "white":
			v = 255
		case "one colour":
			v = 40*c + 30*number + 17
		case "upright stripes":
			v = 200 * (column / (1 + number%3) % 2)
		case "lying stripes":
			v = 200 * (row / (1 + number%3) % 2)
		case "chequered":
			v = 255 * ((row/4 + column/4 + number) % 2)
		}
		picture[i] = uint8(v)
	}
	return picture
}

// The variance is E[y²] − μ². In bright pictures without contrast μ² is up to
// seventy times the variance, and sums of equal numbers all round the same way:
// rounding shows at the fourth digit.
const flatTolerance = 5e-4

func TestFlatPicturesLearnAsTheReferenceDoes(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 4)
	for _, kind := range []string{"black", "white", "one colour", "upright stripes", "lying stripes", "chequered"} {
		t.Run(kind, func(t *testing.T) {
			e := drawExample(n, 4, 0, 4, 0)
			for i := range e.pictures {
				e.pictures[i] = flat(kind, i)
			}
			want := newReference(n, w).run(e, true)
			eachLayout(t, func(t *testing.T, layout string) {
				sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, flatTolerance)
			})
		})
	}
}

// Black and white pixels and small whole weights make numbers that are exact in
// any order of summation: ties between pixels whose surroundings differ, so that
// the weights' gradient tells which of them were given how much.
func TestTiesInAPoolShareTheGradientEqually(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 5)
	p := n.params[n.blocks[0].weight]
	for i, d := range draw(stream(5, 600), p.Size) {
		w.Params[p.Offset+i] = float32(int(d%3) - 1)
	}
	e := drawExample(n, 5, 0, 4, 0)
	for i, picture := range e.pictures {
		for j, d := range draw(stream(5, 700+i), pixels/3) {
			for c := range 3 {
				picture[3*j+c] = 255 * uint8(d&1)
			}
		}
	}
	r := newReference(n, w)
	want := r.run(e, true)
	if ties := r.ties(e); ties < 1000 {
		t.Fatalf("only %d squares of the first pool have ties", ties)
	}
	eachLayout(t, func(t *testing.T, layout string) {
		sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, 1e-4)
	})
}

// ties counts the first pool's squares with more than one maximum.
func (r *reference) ties(e example) int {
	x := newMaps(len(e.pictures), 3, 32)
	for b, picture := range e.pictures {
		for j, v := range picture {
			x.plane(b, j%3)[j/3] = float64(float32(v) / 255)
		}
	}
	t := r.block(r.n.blocks[0], x)
	ties := 0
	for c := range t.h.channels {
		for b := range t.h.batch {
			for j := range t.h.plane(b, c) {
				for _, at := range r.square(t.y.side, j) {
					if s := t.shares.plane(b, c)[at]; s > 0 && s < 1 {
						ties++
						break
					}
				}
			}
		}
	}
	return ties
}

func TestTheLayoutsLearnTheSame(t *testing.T) {
	needBlocked(t)
	n := newNetwork(t, tiny)
	// Each batch with a seed whose first step stays clear of every kink.
	for _, c := range []struct{ batch, seed int }{{32, 35}, {24, 20}, {17, 18}, {7, 8}, {1, 6}} {
		t.Run(fmt.Sprintf("batches of %d", c.batch), func(t *testing.T) {
			w := drawWeights(n, c.seed)
			trainers := [2]*Trainer{newTrainer(t, n, w, LayoutStandard, adam), newTrainer(t, n, w, LayoutBlocked, adam)}
			for step := range 5 {
				e := drawExample(n, c.seed, step*c.batch, c.batch, step)
				var got [2]outcome
				for i, tr := range trainers {
					got[i] = learn(t, tr, e, 1e-3)
				}
				// Later steps start from weights that rounding has driven apart: Adam makes
				// full steps even of tiny gradients, and a near tie may then go either way.
				tolerance := 1e-3
				if step == 0 {
					if kink := newReference(n, w).run(e, false).kink; kink < roundings {
						t.Fatalf("the batch comes as close as %.2g to a kink: take another seed", kink)
					}
					tolerance = 2e-5
					sameGradient(t, n, got[1].gradient, got[0].gradient, tolerance)
					close64(t, "means", got[1].mean, got[0].mean, tolerance)
					close64(t, "variances", got[1].variance, got[0].variance, tolerance)
				}
				closeTo(t, fmt.Sprintf("loss of step %d", step), got[1].loss, got[0].loss, tolerance)
			}
			a, b := trainers[0].State().Weights, trainers[1].State().Weights
			close64(t, "running means", wide(b.Mean), wide(a.Mean), 1e-3)
			close64(t, "running variances", wide(b.Var), wide(a.Var), 1e-3)
		})
	}
}
