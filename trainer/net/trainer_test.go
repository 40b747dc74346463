package net

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// updateRules are the update updateRules as documented by PyTorch, in float64, one weight at a time.
type updateRules struct {
	Optimizer
	first, second []float64
	kernels       []bool // whether a weight belongs to a convolution or dense layer, and isn't a bias
}

func (r *updateRules) update(params, gradient []float64, step int, lr float64) {
	for i, g := range gradient {
		switch decay := r.WeightDecay; {
		case r.DecayKernelsOnly && !r.kernels[i]:
		case r.Name == "adamw":
			params[i] *= 1 - lr*decay
		default:
			g += decay * params[i]
		}
		if r.Name == "sgd" {
			r.first[i] = r.Momentum*r.first[i] + g
			if r.Nesterov {
				g += r.Momentum * r.first[i]
			} else {
				g = r.first[i]
			}
			params[i] -= lr * g
			continue
		}
		t := float64(step)
		r.first[i] = r.Beta1*r.first[i] + (1-r.Beta1)*g
		r.second[i] = r.Beta2*r.second[i] + (1-r.Beta2)*g*g
		m := r.first[i] / (1 - math.Pow(r.Beta1, t))
		v := r.second[i] / (1 - math.Pow(r.Beta2, t))
		params[i] -= lr * m / (math.Sqrt(v) + r.Epsilon)
	}
}

var optimizers = []struct {
	name string
	Optimizer
	lr float64
}{
	{"adam", adam, 1e-3},
	{"adam_weight_decay", Optimizer{Name: "adam", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: 0.1}, 1e-3},
	{"adam_other_constants", Optimizer{Name: "adam", Beta1: 0.5, Beta2: 0.9, Epsilon: 1e-2}, 1e-2},
	{"adam_weight_decay_kernels_only", Optimizer{Name: "adam", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: 0.1, DecayKernelsOnly: true}, 1e-3},
	{"adamw", Optimizer{Name: "adamw", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: 0.5}, 1e-2},
	{"adamw_kernels_only", Optimizer{Name: "adamw", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: 0.5, DecayKernelsOnly: true}, 1e-2},
	{"adamw_without_decay", Optimizer{Name: "adamw", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}, 1e-3},
	{"sgd", Optimizer{Name: "sgd"}, 0.1},
	{"sgd_weight_decay_kernels_only", Optimizer{Name: "sgd", WeightDecay: 0.1, DecayKernelsOnly: true}, 0.05},
	{"sgd_momentum", Optimizer{Name: "sgd", Momentum: 0.9}, 0.05},
	{"sgd_nesterov", Optimizer{Name: "sgd", Momentum: 0.9, Nesterov: true}, 0.05},
	{"sgd_nesterov_weight_decay", Optimizer{Name: "sgd", Momentum: 0.9, Nesterov: true, WeightDecay: 0.1}, 0.05},
}

func TestStep_Optimizers(t *testing.T) {
	n := newNetwork(t, tiny)
	var kernels []bool
	for _, p := range n.params {
		kernel := strings.HasSuffix(p.Name, ".weight") && !strings.Contains(p.Name, "norm")
		kernels = append(kernels, slices.Repeat([]bool{kernel}, p.Size)...)
	}
	for _, o := range optimizers {
		t.Run(o.name, func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				w := drawWeights(n, 1)
				tr := newTrainer(t, n, w, layout, o.Optimizer)
				r := &updateRules{o.Optimizer, make([]float64, n.size), make([]float64, n.size), kernels}
				params := wide(w.Params)
				for step := 1; step <= 6; step++ {
					// The learning rate changes from step to step, like with a schedule.
					lr := o.lr / float64(step)
					got := learn(t, tr, drawBatch(n, 1, 3*step, 3, step), lr)
					r.update(params, got.gradient, step, lr)
					now := wide(tr.State().Weights.Params)
					for i := range params {
						// Allow one unit in the last digit of the weight and four digits of the
						// step: where gradient and decay cancel, Adam makes a full step from the
						// remainder.
						if allowed := 2e-7*math.Abs(params[i]) + 1e-4*o.lr; !(math.Abs(now[i]-params[i]) <= allowed) {
							t.Fatalf("weight %d after step %d = %.9g, want %.9g", i, step, now[i], params[i])
						}
					}
				}
			})
		})
	}
}

func TestStep_RunningStatistics(t *testing.T) {
	n := newNetwork(t, tiny)
	eachLayout(t, func(t *testing.T, layout string) {
		w := drawStats(drawWeights(n, 1), 1)
		tr := newTrainer(t, n, w, layout, adam)
		mean, variance := wide(w.Mean), wide(w.Var)
		for step, batch := range []int{5, 1} {
			got := learn(t, tr, drawBatch(n, 1, step, batch, step), 0)
			for _, l := range n.blocks {
				m := float64(batch) * float64(l.side*l.side)
				for c := l.stats; c < l.stats+int(l.out); c++ {
					mean[c] = 0.9*mean[c] + 0.1*got.mean[c]
					variance[c] = 0.9*variance[c] + 0.1*got.variance[c]*m/(m-1)
				}
			}
		}
		close64(t, "running means", wide(tr.State().Weights.Mean), mean, 1e-6)
		close64(t, "running variances", wide(tr.State().Weights.Var), variance, 1e-6)
	})
}

// steps runs steps from to to, counted from 1, of a fixed training run. Every third batch is
// smaller, like the last of an epoch.
func steps(t *testing.T, n *Network, tr *Trainer, from, to int) {
	t.Helper()
	for step := from; step <= to; step++ {
		batch := 4
		if step%3 == 0 {
			batch = 3
		}
		learn(t, tr, drawBatch(n, 1, 4*(step%3), batch, step), 1e-3)
	}
}

func TestStep_Deterministic(t *testing.T) {
	for name, config := range map[string]Config{"tiny": tiny, "residual": residual} {
		t.Run(name, func(t *testing.T) { testStepDeterministic(t, newNetwork(t, config)) })
	}
}

func testStepDeterministic(t *testing.T, n *Network) {
	for _, o := range []Optimizer{optimizers[0].Optimizer, optimizers[4].Optimizer, optimizers[len(optimizers)-1].Optimizer} {
		t.Run(o.Name, func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				a, b := newTrainer(t, n, n.Init(1), layout, o), newTrainer(t, n, n.Init(1), layout, o)
				steps(t, n, a, 1, 7)
				steps(t, n, b, 1, 7)
				sameState(t, b.State(), a.State())
			})
		})
	}
}

func TestRestore_ContinuesBitForBit(t *testing.T) {
	n := newNetwork(t, tiny)
	for _, o := range []Optimizer{optimizers[1].Optimizer, optimizers[5].Optimizer, optimizers[len(optimizers)-1].Optimizer} {
		t.Run(o.Name, func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				original := newTrainer(t, n, n.Init(1), layout, o)
				steps(t, n, original, 1, 4)
				saved := original.State()
				if saved.Step != 4 {
					t.Errorf("State().Step = %d, want 4", saved.Step)
				}
				steps(t, n, original, 5, 9)
				want := original.State()

				fresh := newTrainer(t, n, n.Init(2), layout, o)
				if err := fresh.Restore(saved); err != nil {
					t.Fatal(err)
				}
				sameState(t, fresh.State(), saved)
				steps(t, n, fresh, 5, 9)
				sameState(t, fresh.State(), want)

				// And a trainer that has made other steps in between. The saved state is a copy, so
				// these steps have not changed it.
				if err := original.Restore(saved); err != nil {
					t.Fatal(err)
				}
				steps(t, n, original, 5, 9)
				sameState(t, original.State(), want)
			})
		})
	}
}

func TestTrainer_Average(t *testing.T) {
	n := newNetwork(t, tiny)
	const decay = 0.3 // reached after two steps
	o := TrainerOptions{Optimizer: adam, Layout: LayoutStandard, Average: decay}
	tr := newTrainerWith(t, n, n.Init(1), o)
	sameBits(t, "the average before the first step", tr.Averaged().Params, n.Init(1).Params)
	vector := func(w Weights) []float64 { return wide(slices.Concat(w.Params, w.Mean, w.Var)) }
	want := vector(n.Init(1))
	for step := 1; step <= 5; step++ {
		steps(t, n, tr, step, step)
		d := min(decay, float64(1+step)/float64(10+step))
		for i, v := range vector(tr.State().Weights) {
			want[i] = d*want[i] + (1-d)*v
		}
		close64(t, fmt.Sprintf("average after step %d", step), vector(tr.Averaged()), want, 1e-6)
	}
	if slices.Equal(tr.Averaged().Params, tr.State().Weights.Params) {
		t.Error("the average is the current weights")
	}
	// A resumed run has the same average.
	saved := tr.State()
	steps(t, n, tr, 6, 8)
	resumed := newTrainerWith(t, n, n.Init(2), o)
	if err := resumed.Restore(saved); err != nil {
		t.Fatal(err)
	}
	saved.Average.Params[0] = 9 // a copy
	steps(t, n, resumed, 6, 8)
	sameState(t, resumed.State(), tr.State())
	// The weights are the same as without an average.
	plain := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	steps(t, n, plain, 1, 8)
	sameBits(t, "weights with and without an average", tr.State().Weights.Params, plain.State().Weights.Params)
	sameBits(t, "the average without one", plain.Averaged().Params, plain.State().Weights.Params)
	if plain.State().Average.Params != nil {
		t.Error("State().Average has elements without an average")
	}
	// A state without an average starts one.
	if err := resumed.Restore(plain.State()); err != nil {
		t.Fatal(err)
	}
	sameBits(t, "the average of a state without one", resumed.Averaged().Params, plain.State().Weights.Params)
}

func TestTrainer_CopiesWeights(t *testing.T) {
	n := newNetwork(t, tiny)
	w := n.Init(1)
	tr := newTrainer(t, n, w, LayoutStandard, adam)
	before := w.Clone()
	steps(t, n, tr, 1, 2)
	sameBits(t, "the caller's weights", w.Params, before.Params)
	sameBits(t, "the caller's statistics", append(w.Mean, w.Var...), append(before.Mean, before.Var...))
	s := tr.State()
	if slices.Equal(s.Weights.Params, before.Params) {
		t.Error("two steps did not change the weights")
	}
	s.Weights.Params[0], s.Optimizer[0][0], s.Weights.Mean[0] = 9, 9, 9
	if now := tr.State(); now.Weights.Params[0] == 9 || now.Optimizer[0][0] == 9 || now.Weights.Mean[0] == 9 {
		t.Error("State does not return a copy")
	}
}

func TestRestore_WrongDimensions(t *testing.T) {
	n := newNetwork(t, tiny)
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	steps(t, n, tr, 1, 2)
	before := tr.State()
	for _, c := range []struct {
		name   string
		change func(s *State)
		want   string
	}{
		{"weights", func(s *State) { s.Weights.Params = s.Weights.Params[1:] }, "network: weights have"},
		{"statistics", func(s *State) { s.Weights.Var = s.Weights.Var[1:] }, "network: weights have"},
		{"number_of_optimizer_vectors", func(s *State) { s.Optimizer = s.Optimizer[1:] }, "1 optimizer vectors, want 2 for adam"},
		{"average", func(s *State) { s.Average.Params = []float32{1} }, "network: weights have"},
		{"length_of_optimizer_vector", func(s *State) { s.Optimizer[1] = s.Optimizer[1][1:] }, "optimizer vector has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tr.State()
			c.change(&s)
			s.Step = 99
			if err := tr.Restore(s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Restore error = %v, want %q", err, c.want)
			}
			sameState(t, tr.State(), before)
		})
	}
	if _, err := NewTrainer(n, Weights{}, TrainerOptions{Optimizer: adam, Layout: LayoutStandard}); err == nil {
		t.Error("NewTrainer(Weights{}) error = nil, want an error")
	}
}

func TestRestore_WithoutOptimizerState(t *testing.T) {
	n := newNetwork(t, tiny)
	a, b := newTrainer(t, n, n.Init(1), LayoutStandard, adam), newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	steps(t, n, a, 1, 3)
	if err := a.Restore(State{Weights: n.Init(1)}); err != nil {
		t.Fatal(err)
	}
	steps(t, n, a, 1, 3)
	steps(t, n, b, 1, 3)
	sameState(t, a.State(), b.State())
}

func TestStep_NonFiniteLoss(t *testing.T) {
	n := newNetwork(t, tiny)
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				tr := newTrainer(t, n, n.Init(1), layout, adam)
				steps(t, n, tr, 1, 1)
				s := tr.State()
				p := n.params[n.dense[0].bias]
				for i := range p.Size {
					s.Weights.Params[p.Offset+i] = float32(bad)
				}
				if err := tr.Restore(s); err != nil {
					t.Fatal(err)
				}
				if got := learn(t, tr, drawBatch(n, 1, 0, 2, 0), 1e-3); !math.IsNaN(got.loss) && !math.IsInf(got.loss, 0) {
					t.Fatalf("loss = %v, want NaN or infinity", got.loss)
				}
				sameState(t, tr.State(), s)
			})
		})
	}
}

func TestNewTrainer_InvalidOptions(t *testing.T) {
	odd := newNetwork(t, Config{Size: 32, Classes: 2, Channels: []int{3}, Dense: []int{4}})
	for _, c := range []struct {
		name    string
		options TrainerOptions
		want    string
	}{
		{"unknown_optimizer", TrainerOptions{Optimizer: Optimizer{Name: "lion"}, Layout: LayoutStandard}, `unknown optimizer "lion"` + "\nhint: use adam, adamw or sgd"},
		{"average_one", TrainerOptions{Optimizer: adam, Layout: LayoutStandard, Average: 1}, "the decay of the average is 1, want at least 0 and less than 1"},
		{"average_NaN", TrainerOptions{Optimizer: adam, Layout: LayoutStandard, Average: math.NaN()}, "the decay of the average is NaN"},
		{"unknown_layout", TrainerOptions{Optimizer: adam, Layout: "nhwc"}, `unknown layout "nhwc"` + "\nhint: use auto, standard or blocked"},
		{"channels_not_whole_blocks", TrainerOptions{Optimizer: adam, Layout: LayoutBlocked}, "hint: set experiment.layout=standard"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, err := NewTrainer(odd, odd.Init(1), c.options)
			if tr != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("NewTrainer = %v, %v; want error %q", tr, err, c.want)
			}
		})
	}
	tr, err := NewTrainer(odd, odd.Init(1), TrainerOptions{Optimizer: adam, Layout: LayoutAuto})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tr.Close() }()
	if tr.Layout() != LayoutStandard {
		t.Errorf("layout for 3 channels = %s, want standard", tr.Layout())
	}
	if _, err := tr.NewBatch(0); err == nil {
		t.Error("NewBatch(0) error = nil, want an error")
	}
}

func TestNewTrainer_AutoSelectsBlockedLayout(t *testing.T) {
	needBlocked(t)
	n := newNetwork(t, tiny)
	if tr := newTrainer(t, n, n.Init(1), LayoutAuto, adam); tr.Layout() != LayoutBlocked {
		t.Errorf("layout = %s, want blocked", tr.Layout())
	}
}

// The standard layout supports any number of channels and any width.
func TestStep_OddDimensions(t *testing.T) {
	n := newNetwork(t, Config{Size: 32, Classes: 2, Channels: []int{3, 5}, Dense: []int{7, 1}, Slope: 0.1, Dropout: 0.3})
	w := drawWeights(n, 1)
	e := drawBatch(n, 1, 0, 3, 0)
	want := newReference(n, w).run(e, true)
	if want.kink < roundings {
		t.Fatalf("the batch is %.2g from a kink: use another seed", want.kink)
	}
	sameOutcome(t, n, learn(t, newTrainer(t, n, w, LayoutStandard, adam), e, 0), want, 1e-4)
}

func TestFill_InvalidInput(t *testing.T) {
	n := newNetwork(t, tiny)
	never := func() bool { return false }
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	b, err := tr.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	image := make([]uint8, n.pixels())
	two := [][]uint8{image, image}
	valid := Samples{Images: two, Labels: []uint16{0, 1}, Flip: []bool{true, false}, Keep: keep, Drop: never}
	nan := float32(math.NaN())
	for _, c := range []struct {
		name   string
		change func(s *Samples)
		want   string
	}{
		{"too_few_images", func(s *Samples) { s.Images = two[:1] }, "1 images and 2 labels, want 2"},
		{"too_many_labels", func(s *Samples) { s.Labels = []uint16{0, 1, 1} }, "2 images and 3 labels, want 2"},
		{"wrong_image_size", func(s *Samples) { s.Images = [][]uint8{image, image[:100]} }, "image 1 has 100 bytes, want 3072"},
		{"nil_image", func(s *Samples) { s.Images = [][]uint8{nil, image} }, "image 0 has 0 bytes, want 3072"},
		{"unknown_label", func(s *Samples) { s.Labels = []uint16{0, 2} }, "label 1 is 2, want 0 to 1"},
		{"labels_and_soft", func(s *Samples) { s.Soft = [][]float32{{0, 1}, {1, 0}} }, "both labels and soft targets are set"},
		{"no_targets", func(s *Samples) { s.Labels = nil }, "2 images and 0 labels, want 2"},
		{"soft_too_short", func(s *Samples) { s.Labels, s.Soft = nil, [][]float32{{0, 1}, {1}} }, "soft target 1 has 1 elements with the sum 1"},
		{"soft_sum", func(s *Samples) { s.Labels, s.Soft = nil, [][]float32{{0.5, 0.6}, {1, 0}} }, "soft target 0 has 2 elements with the sum 1.1"},
		{"soft_negative", func(s *Samples) { s.Labels, s.Soft = nil, [][]float32{{-1, 2}, {1, 0}} }, "soft target 0 has 2 elements with the sum NaN"},
		{"soft_NaN", func(s *Samples) { s.Labels, s.Soft = nil, [][]float32{{nan, 1}, {1, 0}} }, "soft target 0 has 2 elements with the sum NaN"},
		{"too_few_weights", func(s *Samples) { s.Weights = []float32{1} }, "1 weights, want 2"},
		{"weight_negative", func(s *Samples) { s.Weights = []float32{1, -1} }, "weight 1 is -1, want at least 0"},
		{"weight_NaN", func(s *Samples) { s.Weights = []float32{nan, 1} }, "weight 0 is NaN"},
		{"weights_zero", func(s *Samples) { s.Weights = []float32{0, 0} }, "all weights are zero"},
		{"too_few_flips", func(s *Samples) { s.Flip = []bool{true} }, "1 flips, want 2"},
		{"keep_zero", func(s *Samples) { s.Keep = 0 }, "keep is 0"},
		{"keep_above_one", func(s *Samples) { s.Keep = 1.5 }, "keep is 1.5"},
		{"nil_drop", func(s *Samples) { s.Drop = nil }, "the network has dropout, but drop is nil"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := valid
			c.change(&s)
			if err := b.Fill(s); err == nil || !strings.HasPrefix(err.Error(), "fill batch: "+c.want) {
				t.Errorf("Fill error = %v, want %q", err, c.want)
			}
		})
	}
	if err := b.Fill(valid); err != nil {
		t.Errorf("Fill with valid input: %v", err)
	}
	plain := newNetwork(t, Config{Size: 32, Classes: 2, Channels: []int{3}, Dense: []int{4}})
	without := newTrainer(t, plain, plain.Init(1), LayoutStandard, adam)
	d, err := without.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Fill(Samples{Images: two, Labels: []uint16{0, 1}}); err != nil {
		t.Errorf("Fill without dropout and drop: %v", err)
	}
}

// Filling a batch with flips must give the same input tensor as filling it with mirrored images.
func TestFill_Flip(t *testing.T) {
	n := newNetwork(t, tiny)
	mirrored := func(image []uint8) []uint8 {
		out := make([]uint8, len(image))
		size := n.config.Size
		for row := range size {
			for column := range size {
				copy(out[(row*size+column)*3:][:3], image[(row*size+size-1-column)*3:][:3])
			}
		}
		return out
	}
	eachLayout(t, func(t *testing.T, layout string) {
		tr := newTrainer(t, n, n.Init(1), layout, adam)
		b, err := tr.NewBatch(3)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		e := drawBatch(n, 1, 0, 3, 0)
		fill := func(images [][]uint8, flip []bool) []float32 {
			t.Helper()
			s := Samples{Images: images, Labels: e.labels, Flip: flip, Keep: 1, Drop: func() bool { return false }}
			if err := b.Fill(s); err != nil {
				t.Fatal(err)
			}
			return slices.Clone(b.images)
		}
		plain := fill(e.images, nil)
		flipped := fill(e.images, []bool{true, false, true})
		want := fill([][]uint8{mirrored(e.images[0]), e.images[1], mirrored(e.images[2])}, nil)
		sameBits(t, "flipped and mirrored images", flipped, want)
		if slices.Equal(plain, flipped) {
			t.Error("flips did not change the input tensor")
		}
		// Batches are reused: nothing of the flipped contents may remain.
		sameBits(t, "images after a flip", fill(e.images, []bool{false, false, false}), plain)
	})
}

func TestFill_DropoutMask(t *testing.T) {
	n := newNetwork(t, tiny)
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	b, err := tr.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	e := drawBatch(n, 1, 0, 2, 0)
	e.fill(t, b)
	for i, v := range b.dropout {
		want := float32(1 / keep)
		if e.dropped[i] {
			want = 0
		}
		if v != want {
			t.Fatalf("element %d is scaled by %v, want %v", i, v, want)
		}
	}
}
