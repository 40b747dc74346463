package net

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/imaging"
)

// rules are the optimizers as PyTorch documents them, in float64, one weight at
// a time.
type rules struct {
	Optimizer
	first, second []float64
}

func (r *rules) update(params, gradient []float64, step int, lr float64) {
	for i, g := range gradient {
		g += r.WeightDecay * params[i]
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
	{"adam with weight decay", Optimizer{Name: "adam", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: 0.1}, 1e-3},
	{"adam with other constants", Optimizer{Name: "adam", Beta1: 0.5, Beta2: 0.9, Epsilon: 1e-2}, 1e-2},
	{"sgd without momentum", Optimizer{Name: "sgd"}, 0.1},
	{"sgd with momentum", Optimizer{Name: "sgd", Momentum: 0.9}, 0.05},
	{"sgd with Nesterov momentum", Optimizer{Name: "sgd", Momentum: 0.9, Nesterov: true}, 0.05},
	{"sgd with Nesterov momentum and weight decay", Optimizer{Name: "sgd", Momentum: 0.9, Nesterov: true, WeightDecay: 0.1}, 0.05},
}

func TestOptimizersFollowTheirRules(t *testing.T) {
	n := newNetwork(t, tiny)
	for _, o := range optimizers {
		t.Run(o.name, func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				w := drawWeights(n, 1)
				tr := newTrainer(t, n, w, layout, o.Optimizer)
				r := &rules{o.Optimizer, make([]float64, n.size), make([]float64, n.size)}
				params := wide(w.Params)
				for step := 1; step <= 6; step++ {
					// The rate changes from step to step, as a schedule makes it.
					lr := o.lr / float64(step)
					got := learn(t, tr, drawExample(n, 1, 3*step, 3, step), lr)
					r.update(params, got.gradient, step, lr)
					now := wide(tr.State().Weights.Params)
					for i := range params {
						// The last digit of the weight, and four of the step that it makes: where
						// gradient and decay cancel, Adam makes a full step of what is left.
						if allowed := 2e-7*math.Abs(params[i]) + 1e-4*o.lr; !(math.Abs(now[i]-params[i]) <= allowed) {
							t.Fatalf("weight %d after step %d is %.9g, want %.9g", i, step, now[i], params[i])
						}
					}
				}
			})
		})
	}
}

func TestRunningStatisticsFollowTheBatches(t *testing.T) {
	n := newNetwork(t, tiny)
	eachLayout(t, func(t *testing.T, layout string) {
		w := drawStats(drawWeights(n, 1), 1)
		tr := newTrainer(t, n, w, layout, adam)
		mean, variance := wide(w.Mean), wide(w.Var)
		for step, batch := range []int{5, 1} {
			got := learn(t, tr, drawExample(n, 1, step, batch, step), 0)
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

// steps makes the given steps, counted from 1, of a run that any trainer makes
// the same: with a last, smaller batch in each epoch of three.
func steps(t *testing.T, n *Network, tr *Trainer, from, to int) {
	t.Helper()
	for step := from; step <= to; step++ {
		batch := 4
		if step%3 == 0 {
			batch = 3
		}
		learn(t, tr, drawExample(n, 1, 4*(step%3), batch, step), 1e-3)
	}
}

func TestTwoRunsGiveTheSameBits(t *testing.T) {
	n := newNetwork(t, tiny)
	for _, o := range []Optimizer{optimizers[0].Optimizer, optimizers[6].Optimizer} {
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

func TestARestoredStateGoesOnBitForBit(t *testing.T) {
	n := newNetwork(t, tiny)
	for _, o := range []Optimizer{optimizers[1].Optimizer, optimizers[6].Optimizer} {
		t.Run(o.Name, func(t *testing.T) {
			eachLayout(t, func(t *testing.T, layout string) {
				through := newTrainer(t, n, n.Init(1), layout, o)
				steps(t, n, through, 1, 4)
				saved := through.State()
				if saved.Step != 4 {
					t.Errorf("the state is of step %d, want 4", saved.Step)
				}
				steps(t, n, through, 5, 9)
				want := through.State()

				fresh := newTrainer(t, n, n.Init(2), layout, o)
				if err := fresh.Restore(saved); err != nil {
					t.Fatal(err)
				}
				sameState(t, fresh.State(), saved)
				steps(t, n, fresh, 5, 9)
				sameState(t, fresh.State(), want)

				// And one that has learnt something else in the meantime; what was saved is
				// a copy that none of these steps has touched.
				if err := through.Restore(saved); err != nil {
					t.Fatal(err)
				}
				steps(t, n, through, 5, 9)
				sameState(t, through.State(), want)
			})
		})
	}
}

func TestTheTrainerCopiesWhatItIsGiven(t *testing.T) {
	n := newNetwork(t, tiny)
	w := n.Init(1)
	tr := newTrainer(t, n, w, LayoutStandard, adam)
	before := w.Clone()
	steps(t, n, tr, 1, 2)
	sameBytes(t, "the caller's weights", w.Params, before.Params)
	sameBytes(t, "the caller's statistics", append(w.Mean, w.Var...), append(before.Mean, before.Var...))
	s := tr.State()
	if slices.Equal(s.Weights.Params, before.Params) {
		t.Error("two steps changed nothing")
	}
	s.Weights.Params[0], s.Optimizer[0][0], s.Weights.Mean[0] = 9, 9, 9
	if now := tr.State(); now.Weights.Params[0] == 9 || now.Optimizer[0][0] == 9 || now.Weights.Mean[0] == 9 {
		t.Error("writing to a state changes the trainer")
	}
}

func TestRestoreRefusesWhatIsNotItsOwn(t *testing.T) {
	n := newNetwork(t, tiny)
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	steps(t, n, tr, 1, 2)
	before := tr.State()
	for _, c := range []struct {
		name   string
		change func(s *State)
		want   string
	}{
		{"weights of another network", func(s *State) { s.Weights.Params = s.Weights.Params[1:] }, "needed"},
		{"statistics of another network", func(s *State) { s.Weights.Var = s.Weights.Var[1:] }, "needed"},
		{"the state of another optimizer", func(s *State) { s.Optimizer = s.Optimizer[1:] }, "1 optimizer vectors given, adam has 2"},
		{"a vector cut short", func(s *State) { s.Optimizer[1] = s.Optimizer[1][1:] }, "an optimizer vector has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tr.State()
			c.change(&s)
			s.Step = 99
			if err := tr.Restore(s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
			sameState(t, tr.State(), before)
		})
	}
	if _, err := NewTrainer(n, Weights{}, TrainerOptions{Optimizer: adam, Layout: LayoutStandard}); err == nil {
		t.Error("a trainer without weights is no error")
	}
}

func TestAWeightsOnlyStateStartsTheOptimizerAfresh(t *testing.T) {
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

func TestALossThatIsNotFiniteLeavesTheWeights(t *testing.T) {
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
				if got := learn(t, tr, drawExample(n, 1, 0, 2, 0), 1e-3); !math.IsNaN(got.loss) && !math.IsInf(got.loss, 0) {
					t.Fatalf("the loss is %v", got.loss)
				}
				sameState(t, tr.State(), s)
			})
		})
	}
}

func TestTrainersThatCannotBeAreRefused(t *testing.T) {
	odd := newNetwork(t, Config{Channels: []int{3}, Dense: []int{4}})
	for _, c := range []struct {
		name    string
		options TrainerOptions
		want    string
	}{
		{"an unknown optimizer", TrainerOptions{Optimizer: Optimizer{Name: "adamw"}, Layout: LayoutStandard}, `optimizer "adamw" is unknown: adam and sgd are there`},
		{"an unknown layout", TrainerOptions{Optimizer: adam, Layout: "nhwc"}, `layout "nhwc" is unknown: auto, standard and blocked are there`},
		{"channels that are no whole blocks", TrainerOptions{Optimizer: adam, Layout: LayoutBlocked}, "layout=standard works everywhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, err := NewTrainer(odd, odd.Init(1), c.options)
			if tr != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("trainer %v, error %v, want one that says %q", tr, err, c.want)
			}
		})
	}
	tr, err := NewTrainer(odd, odd.Init(1), TrainerOptions{Optimizer: adam, Layout: LayoutAuto})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tr.Close() }()
	if tr.Layout() != LayoutStandard {
		t.Errorf("auto takes the %s layout for 3 channels", tr.Layout())
	}
	if _, err := tr.NewBatch(0); err == nil {
		t.Error("a batch of nothing is no error")
	}
}

func TestAutoTakesTheBlockedLayoutWhereItCan(t *testing.T) {
	needBlocked(t)
	n := newNetwork(t, tiny)
	if tr := newTrainer(t, n, n.Init(1), LayoutAuto, adam); tr.Layout() != LayoutBlocked {
		t.Errorf("auto takes the %s layout", tr.Layout())
	}
}

// An odd network trains in the standard layout, whatever its numbers.
func TestTheStandardLayoutTakesAnyNumbers(t *testing.T) {
	n := newNetwork(t, Config{Channels: []int{3, 5}, Dense: []int{7, 1}, Slope: 0.1, Dropout: 0.3})
	w := drawWeights(n, 1)
	e := drawExample(n, 1, 0, 3, 0)
	want := newReference(n, w).run(e, true)
	if want.kink < roundings {
		t.Fatalf("the batch comes as close as %.2g to a kink: take another seed", want.kink)
	}
	sameOutcome(t, n, learn(t, newTrainer(t, n, w, LayoutStandard, adam), e, 0), want, 1e-4)
}

func TestFillRefusesWrongInput(t *testing.T) {
	n := newNetwork(t, tiny)
	never := func() bool { return false }
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	b, err := tr.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	picture := make([]uint8, pixels)
	two := [][]uint8{picture, picture}
	for _, c := range []struct {
		name     string
		pictures [][]uint8
		labels   []uint8
		flip     []bool
		keep     float64
		drop     func() bool
		want     string
	}{
		{"too few pictures", two[:1], []uint8{0, 1}, nil, keep, never, "fill batch: 1 pictures and 2 labels for a batch of 2"},
		{"too many labels", two, []uint8{0, 1, 1}, nil, keep, never, "fill batch: 2 pictures and 3 labels for a batch of 2"},
		{"a picture of another size", [][]uint8{picture, picture[:100]}, []uint8{0, 1}, nil, keep, never, "fill batch: picture 1 has 100 bytes, not 3072"},
		{"no picture", [][]uint8{nil, picture}, []uint8{0, 1}, nil, keep, never, "fill batch: picture 0 has 0 bytes, not 3072"},
		{"a label that is no class", two, []uint8{0, 2}, nil, keep, never, "fill batch: label 1 is 2, not 0 or 1"},
		{"too few flips", two, []uint8{0, 1}, []bool{true}, keep, never, "fill batch: 1 flips for a batch of 2"},
		{"nothing kept", two, []uint8{0, 1}, nil, 0, never, "fill batch: keep 0 of the numbers"},
		{"more than all kept", two, []uint8{0, 1}, nil, 1.5, never, "fill batch: keep 1.5 of the numbers"},
		{"nobody who drops", two, []uint8{0, 1}, nil, keep, nil, "fill batch: dropout needs a draw"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := b.Fill(c.pictures, c.labels, c.flip, c.keep, c.drop)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if err := b.Fill(two, []uint8{0, 1}, []bool{true, false}, keep, never); err != nil {
		t.Errorf("a right batch: %v", err)
	}
	plain := newNetwork(t, Config{Channels: []int{3}, Dense: []int{4}})
	without := newTrainer(t, plain, plain.Init(1), LayoutStandard, adam)
	d, err := without.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Fill(two, []uint8{0, 1}, nil, 1, nil); err != nil {
		t.Errorf("without dropout nobody needs to draw: %v", err)
	}
}

// What a batch holds is only visible through the step: so a flipped batch must
// learn exactly what a batch of mirrored pictures does.
func TestAFlipMirrorsThePictures(t *testing.T) {
	n := newNetwork(t, tiny)
	mirrored := func(picture []uint8) []uint8 {
		out := make([]uint8, len(picture))
		for row := range imaging.Size {
			for column := range imaging.Size {
				copy(out[(row*imaging.Size+column)*3:][:3], picture[(row*imaging.Size+imaging.Size-1-column)*3:][:3])
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
		e := drawExample(n, 1, 0, 3, 0)
		fill := func(pictures [][]uint8, flip []bool) []float32 {
			t.Helper()
			if err := b.Fill(pictures, e.labels, flip, 1, func() bool { return false }); err != nil {
				t.Fatal(err)
			}
			return slices.Clone(b.pictures)
		}
		plain := fill(e.pictures, nil)
		flipped := fill(e.pictures, []bool{true, false, true})
		want := fill([][]uint8{mirrored(e.pictures[0]), e.pictures[1], mirrored(e.pictures[2])}, nil)
		sameBytes(t, "flipped and mirrored pictures", flipped, want)
		if slices.Equal(plain, flipped) {
			t.Error("flipping changes nothing")
		}
		// The batch is used again and again: nothing of the flipped one may stay.
		sameBytes(t, "pictures after a flip", fill(e.pictures, []bool{false, false, false}), plain)
	})
}

func TestDropoutScalesWhatItKeeps(t *testing.T) {
	n := newNetwork(t, tiny)
	tr := newTrainer(t, n, n.Init(1), LayoutStandard, adam)
	b, err := tr.NewBatch(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	e := drawExample(n, 1, 0, 2, 0)
	e.fill(t, b)
	for i, v := range b.dropout {
		want := float32(1 / keep)
		if e.dropped[i] {
			want = 0
		}
		if v != want {
			t.Fatalf("number %d is scaled by %v, want %v", i, v, want)
		}
	}
}
