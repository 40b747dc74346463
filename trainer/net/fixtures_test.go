package net

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/sbinet/npyio/npz"
)

// The fixtures are what PyTorch makes of the same networks, weights, pictures
// and dropout; testdata/make_fixtures.py writes them.

type fixture struct {
	*npz.Reader
	t testing.TB
}

func openFixture(t testing.TB, name string) fixture {
	t.Helper()
	r, err := npz.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return fixture{r, t}
}

// numbers reads an array of float32.
func (f fixture) numbers(name string) []float64 {
	f.t.Helper()
	var data []float32
	if err := f.Read(name+".npy", &data); err != nil {
		f.t.Fatalf("read %s: %v", name, err)
	}
	return wide(data)
}

// doubles reads an array of float64.
func (f fixture) doubles(name string) []float64 {
	f.t.Helper()
	var data []float64
	if err := f.Read(name+".npy", &data); err != nil {
		f.t.Fatalf("read %s: %v", name, err)
	}
	return data
}

func (f fixture) seed(name string) int {
	f.t.Helper()
	var data []int64
	if err := f.Read(name+".npy", &data); err != nil || len(data) != 1 {
		f.t.Fatalf("read %s: %v, %v", name, data, err)
	}
	return int(data[0])
}

var pytorchOptimizers = []struct {
	Optimizer
	lr float64
}{
	{adam, 1e-3},
	{Optimizer{Name: "sgd", Momentum: 0.9, Nesterov: true, WeightDecay: 1e-4}, 0.05},
}

// The network of small.npz: of each of its gradients all numbers are known.
var small = Config{Channels: []int{16, 32, 32}, Dense: []int{32, 16}, Slope: 0.01, Dropout: 0.3}

func TestTheFirstStepIsPyTorchs(t *testing.T) {
	f := openFixture(t, "small.npz")
	n, seed := newNetwork(t, small), f.seed("seed")
	for _, batch := range []struct{ first, size int }{{0, 24}, {72, 7}} {
		t.Run(fmt.Sprintf("%d pictures", batch.size), func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				tr := newTrainer(t, n, drawWeights(n, seed), layout, adam)
				got := learn(t, tr, drawExample(n, seed, batch.first, batch.size, 0), 0)
				sameGradient(t, n, got.gradient, f.numbers(fmt.Sprintf("gradient_%d", batch.size)), 1e-4)
				w := tr.State().Weights
				close64(t, "running means", wide(w.Mean), f.numbers(fmt.Sprintf("mean_%d", batch.size)), 1e-4)
				close64(t, "running variances", wide(w.Var), f.numbers(fmt.Sprintf("var_%d", batch.size)), 1e-4)
			})
		})
	}
}

func TestTheFirstStepOfTheCIFAKENetworkIsPyTorchs(t *testing.T) {
	f := openFixture(t, "cifake.npz")
	n, seed := newNetwork(t, cifake), f.seed("seed")
	norms, maxima, samples := f.doubles("norms"), f.doubles("largest"), f.numbers("samples")
	eachLayout(t, func(t *testing.T, layout string) {
		tr := newTrainer(t, n, drawWeights(n, seed), layout, adam)
		got := learn(t, tr, drawExample(n, seed, 0, 32, 0), 0)
		const each = 32
		for k, p := range n.params {
			gradient := got.gradient[p.Offset : p.Offset+p.Size]
			norm := 0.0
			for _, v := range gradient {
				norm += v * v
			}
			closeTo(t, "norm of the gradient of "+p.Name, math.Sqrt(norm), norms[k], 1e-4)
			closeTo(t, "largest number of the gradient of "+p.Name, largest(gradient), maxima[k], 1e-4)
			for i, d := range draw(stream(seed, 500+k), each) {
				at := int(d) % p.Size
				if want := samples[each*k+i]; !(math.Abs(gradient[at]-want) <= 1e-4*maxima[k]) {
					t.Errorf("gradient of %s: number %d is %g, want %g; the largest is %g", p.Name, at, gradient[at], want, maxima[k])
				}
			}
		}
		w := tr.State().Weights
		close64(t, "running means", wide(w.Mean), f.numbers("mean"), 1e-4)
		close64(t, "running variances", wide(w.Var), f.numbers("var"), 1e-4)
	})
}

func TestTheFirstTwentyLossesArePyTorchs(t *testing.T) {
	f := openFixture(t, "small.npz")
	n := newNetwork(t, small)
	for _, o := range pytorchOptimizers {
		t.Run(o.Name, func(t *testing.T) {
			seed, want := f.seed("seed_"+o.Name), f.doubles("losses_"+o.Name)
			eachLayout(t, func(t *testing.T, layout string) {
				// Epochs with a last, smaller batch.
				batches := []struct{ first, size int }{{0, 3}, {3, 3}, {6, 3}, {9, 2}}
				tr := newTrainer(t, n, drawWeights(n, seed), layout, o.Optimizer)
				for step := range 20 {
					b := batches[step%len(batches)]
					got := learn(t, tr, drawExample(n, seed, b.first, b.size, step), o.lr)
					closeTo(t, fmt.Sprintf("loss of step %d", step+1), got.loss, want[step], 1e-4)
				}
			})
		})
	}
}

// Twenty steps of this size come close to a kink somewhere, whatever the seed,
// and there float32 and float64 part: PyTorch's own by 1e-3 at a tenth of the
// usual rate. So the later losses are held to less than the first ones.
func TestTheFirstTwentyLossesOfTheCIFAKENetworkArePyTorchs(t *testing.T) {
	f := openFixture(t, "cifake.npz")
	n, seed := newNetwork(t, cifake), f.seed("seed")
	var examples [4]example
	for i := range examples {
		examples[i] = drawExample(n, seed, 32*i, 32, 0)
	}
	for _, o := range pytorchOptimizers {
		t.Run(o.Name, func(t *testing.T) {
			want := f.doubles("losses_" + o.Name)
			eachLayout(t, func(t *testing.T, layout string) {
				tr := newTrainer(t, n, drawWeights(n, seed), layout, o.Optimizer)
				for step := range 20 {
					tolerance := 1e-4
					if step >= 5 {
						tolerance = 5e-3
					}
					e := examples[step%4]
					e.dropped = drawDropout(seed, step, len(e.dropped))
					got := learn(t, tr, e, o.lr/10)
					closeTo(t, fmt.Sprintf("loss of step %d", step+1), got.loss, want[step], tolerance)
				}
			})
		})
	}
}
