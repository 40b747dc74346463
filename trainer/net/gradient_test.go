package net

import (
	"fmt"
	"math"
	"testing"
)

// roundings is the minimum distance of a batch from every kink for float32 to take the same
// branches as float64: about ten times the rounding error of a convolution, in standard deviations
// of its output.
const roundings = 7e-6

// Gradients are compared with central differences of the loss of the reference, which do not depend
// on any derivative. They are accurate to seven digits in float64; in float32 it would be three.
func TestStep_GradientsMatchFiniteDifferences(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		batch  int
	}{
		{"two_blocks_dropout", tiny, 2},
		{"one_block_two_hidden_layers", Config{Size: 32, Classes: 2, Channels: []int{16}, Dense: []int{16, 16}, Slope: 0.2}, 2},
		{"residual", residual, 2},
		{"slope_zero", Config{Size: 32, Classes: 2, Channels: []int{16, 16}, Dense: []int{16}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawWeights(n, 1)
			e := drawBatch(n, 1, 0, c.batch, 0)
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
							t.Errorf("%s[%d]: gradient %g, finite difference %g: off by %.2g of the largest element", p.Name, at-p.Offset, gradient[at], slopes[i], d/scale)
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

// sameOutcome compares the outcome of a step, including all gradients, with the reference.
func sameOutcome(t *testing.T, n *Network, got outcome, want referenceOutcome, tolerance float64) {
	t.Helper()
	closeTo(t, "loss", got.loss, want.loss, tolerance)
	if got.correct != want.correct {
		t.Errorf("%d images correct, want %d", got.correct, want.correct)
	}
	close64(t, "logits", got.logits, want.logits, tolerance)
	close64(t, "means", got.mean, want.mean, tolerance)
	close64(t, "variances", got.variance, want.variance, tolerance)
	sameGradient(t, n, got.gradient, want.gradient, tolerance)
}

func TestStep_MatchesReference(t *testing.T) {
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
		{name: "batch_1", config: tiny, batch: 1, seed: 2},
		{name: "batch_7", config: tiny, batch: 7, seed: 2},
		{name: "batch_8", config: tiny, batch: 8, seed: 8},
		{name: "five_blocks", config: Config{
			Size: 32, Classes: 2, Channels: []int{16, 16, 16, 16, 16}, Dense: []int{16, 3}, Slope: 0.01,
		}, batch: 3, seed: 2},
		{name: "residual", config: residual, batch: 2, seed: 0},
		{name: "residual_flattened_hidden_layer", config: Config{
			Size: 8, Classes: 3, Channels: []int{16}, Residual: []int{1}, Dense: []int{16}, Slope: 0.1, Dropout: 0.3,
		}, batch: 4, seed: 0},
		{name: "stem_two_classes", config: Config{
			Size: 24, Classes: 2, Stem: 16, Channels: []int{16, 16}, Residual: []int{0, 1}, GlobalPool: true, Dense: []int{16}, Slope: 0.01,
		}, batch: 5, seed: 0},
		{name: "side_7", config: Config{Size: 14, Classes: 3, Channels: []int{16}, Dense: []int{16}}, batch: 7, seed: 0},
		{name: "side_5", config: Config{Size: 10, Classes: 4, Channels: []int{16}, Residual: []int{1}, GlobalPool: true}, batch: 9, seed: 0},
		{name: "decreasing_channels", config: Config{
			Size: 32, Classes: 2, Channels: []int{48, 16}, Dense: []int{5}, Slope: 0.01, Dropout: 0.3,
		}, batch: 2, seed: 3},
		{name: "gamma_negative", config: tiny, batch: 3, seed: 6, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				set(w, n.params[l.gamma], -0.8)
			}
		}},
		{name: "gamma_some_zero", config: tiny, batch: 3, seed: 2, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				gamma := w.Params[n.params[l.gamma].Offset:]
				gamma[0], gamma[5], gamma[7] = 0, float32(math.Copysign(0, -1)), 0
			}
		}},
		{name: "gamma_zero", config: tiny, batch: 2, seed: 2, change: func(n *Network, w Weights) {
			for _, l := range n.blocks {
				set(w, n.params[l.gamma], 0)
			}
		}},
		{name: "initial_weights", config: tiny, batch: 4, seed: 6, change: func(n *Network, w Weights) {
			copy(w.Params, n.Init(420).Params)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawWeights(n, c.seed)
			if c.change != nil {
				c.change(n, w)
			}
			e := drawBatch(n, c.seed, 0, c.batch, 0)
			want := newReference(n, w).run(e, true)
			if c.seed == 0 {
				w, e, want = clearOfKinks(t, n, Loss{}, c.batch, nil)
			}
			if want.kink < roundings {
				t.Fatalf("the batch is %.2g from a kink: use another seed", want.kink)
			}
			eachLayout(t, func(t *testing.T, layout string) {
				sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, 1e-4)
			})
		})
	}
}

// Dividing images into bands must not change gradients.
func TestStep_BandsMatchReference(t *testing.T) {
	needBlocked(t)
	side, size := bandedSide, bandSize
	t.Cleanup(func() { bandedSide, bandSize = side, size })
	n := newNetwork(t, Config{Size: 16, Classes: 3, Stem: 16, Channels: []int{16, 16}, Residual: []int{1, 0}, GlobalPool: true})
	w, e, want := clearOfKinks(t, n, Loss{}, 4, nil)
	for _, size := range []int64{1, 6 << 10, 1 << 20} { // all rows, several rows, no bands
		bandedSide, bandSize = 1, size
		sameOutcome(t, n, learn(t, newTrainer(t, n, w, LayoutBlocked, adam), e, 0), want, 1e-4)
	}
}

func TestStep_GradientAtGammaZero(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 3)
	e := drawBatch(n, 3, 0, 2, 0)
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

// flat returns an image in which most values of each pool are equal.
func flat(n *Network, kind string, number int) []uint8 {
	image := make([]uint8, n.pixels())
	for i := range image {
		row, column, c := i/96, i/3%32, i%3
		var v int
		switch kind {
		case "black":
		case "white":
			v = 255
		case "one_color":
			v = 40*c + 30*number + 17
		case "vertical_stripes":
			v = 200 * (column / (1 + number%3) % 2)
		case "horizontal_stripes":
			v = 200 * (row / (1 + number%3) % 2)
		case "checkerboard":
			v = 255 * ((row/4 + column/4 + number) % 2)
		}
		image[i] = uint8(v)
	}
	return image
}

// flatTolerance is the tolerance for images with little contrast. The variance is computed as E[y²]
// − μ². In bright images without contrast μ² is up to seventy times the variance, and sums of equal
// values all round in the same direction, so rounding affects the fourth digit.
const flatTolerance = 5e-4

func TestStep_FlatImages(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 4)
	for _, kind := range []string{"black", "white", "one_color", "vertical_stripes", "horizontal_stripes", "checkerboard"} {
		t.Run(kind, func(t *testing.T) {
			e := drawBatch(n, 4, 0, 4, 0)
			for i := range e.images {
				e.images[i] = flat(n, kind, i)
			}
			want := newReference(n, w).run(e, true)
			eachLayout(t, func(t *testing.T, layout string) {
				sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, flatTolerance)
			})
		})
	}
}

// Black and white pixels and small integer weights give values that are exact in any order of
// summation. So there are ties between pixels with different neighborhoods, and the gradient of the
// weights shows how much each of them received.
func TestStep_TiesInPool(t *testing.T) {
	n := newNetwork(t, tiny)
	w := drawWeights(n, 5)
	p := n.params[n.blocks[0].weight]
	for i, d := range draw(stream(5, 600), p.Size) {
		w.Params[p.Offset+i] = float32(int(d%3) - 1)
	}
	e := drawBatch(n, 5, 0, 4, 0)
	for i, image := range e.images {
		for j, d := range draw(stream(5, 700+i), n.pixels()/3) {
			for c := range 3 {
				image[3*j+c] = 255 * uint8(d&1)
			}
		}
	}
	r := newReference(n, w)
	want := r.run(e, true)
	if ties := r.ties(e); ties < 1000 {
		t.Fatalf("%d squares of the first pool have ties, want at least 1000", ties)
	}
	eachLayout(t, func(t *testing.T, layout string) {
		sameOutcome(t, n, learn(t, newTrainer(t, n, w, layout, adam), e, 0), want, 1e-4)
	})
}

// ties returns the number of squares of the first pool with more than one maximum.
func (r *reference) ties(e testBatch) int {
	x := newMaps(len(e.images), 3, 32)
	for b, image := range e.images {
		for j, v := range image {
			x.plane(b, j%3)[j/3] = float64(float32(v) / 255)
		}
	}
	t := r.block(r.n.blocks[0], x, maps{})
	ties := 0
	for c := range t.h.channels {
		for b := range t.h.batch {
			for j := range t.h.plane(b, c) {
				for _, at := range r.n.blocks[0].square(t.y.side, j) {
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

func TestStep_LayoutsAgree(t *testing.T) {
	needBlocked(t)
	n := newNetwork(t, tiny)
	// For each batch size, a seed whose first step stays clear of every kink.
	for _, c := range []struct{ batch, seed int }{{32, 35}, {24, 20}, {17, 18}, {7, 8}, {1, 6}} {
		t.Run(fmt.Sprintf("batch_%d", c.batch), func(t *testing.T) {
			w := drawWeights(n, c.seed)
			trainers := [2]*Trainer{newTrainer(t, n, w, LayoutStandard, adam), newTrainer(t, n, w, LayoutBlocked, adam)}
			for step := range 5 {
				e := drawBatch(n, c.seed, step*c.batch, c.batch, step)
				var got [2]outcome
				for i, tr := range trainers {
					got[i] = learn(t, tr, e, 1e-3)
				}
				// Later steps start from weights that differ by rounding: Adam makes full steps
				// even for tiny gradients, and near ties may be resolved differently.
				tolerance := 1e-3
				if step == 0 {
					if kink := newReference(n, w).run(e, false).kink; kink < roundings {
						t.Fatalf("the batch is %.2g from a kink: use another seed", kink)
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
