package net

import (
	"math"
	"strings"
	"testing"
)

// clearOfKinks returns the first seed whose weights and batch stay clear of every kink, with the weights,
// the batch after change, and what the reference computes for it.
func clearOfKinks(t *testing.T, n *Network, loss Loss, batch int, change func(e *testBatch)) (Weights, testBatch, referenceOutcome) {
	t.Helper()
	for seed := 1; seed < 200; seed++ {
		w := drawWeights(n, seed)
		e := drawBatch(n, seed, 0, batch, 0)
		if change != nil {
			change(&e)
		}
		r := newReference(n, w)
		r.loss = loss
		if r.run(e, false).kink >= roundings {
			return w, e, r.run(e, true)
		}
	}
	t.Fatal("no seed stays clear of every kink")
	return Weights{}, testBatch{}, referenceOutcome{}
}

// mixed sets soft targets: each image is a mixture of its own class and the next image's.
func mixed(classes int) func(e *testBatch) {
	return func(e *testBatch) {
		for i, label := range e.labels {
			q := make([]float32, classes)
			share := float32(i%5) / 8
			q[label] += 1 - share
			q[e.labels[(i+1)%len(e.labels)]] += share
			e.soft = append(e.soft, q)
		}
	}
}

func weighted(e *testBatch) {
	for i := range e.labels {
		e.weights = append(e.weights, float32(i%4)/2)
	}
}

func TestStep_LossesMatchReference(t *testing.T) {
	weights := []float64{0.5, 2, 1, 0.1, 4}
	for _, classes := range []int{2, 5} {
		for _, c := range []struct {
			name   string
			loss   Loss
			change func(e *testBatch)
		}{
			{"plain", Loss{}, nil},
			{"class_weights", Loss{ClassWeights: weights[:classes]}, nil},
			{"label_smoothing", Loss{LabelSmoothing: 0.1}, nil},
			{"class_weights_label_smoothing", Loss{weights[:classes], 0.2}, nil},
			{"soft", Loss{}, mixed(classes)},
			{"soft_class_weights_label_smoothing", Loss{weights[:classes], 0.2}, mixed(classes)},
			{"image_weights", Loss{}, weighted},
			{"image_and_class_weights", Loss{weights[:classes], 0.2}, weighted},
		} {
			t.Run(map[int]string{2: "two_classes/", 5: "five_classes/"}[classes]+c.name, func(t *testing.T) {
				config := tiny
				config.Classes, config.Size = classes, 12
				n := newNetwork(t, config)
				w, e, want := clearOfKinks(t, n, c.loss, 6, c.change)
				eachLayout(t, func(t *testing.T, layout string) {
					tr := newTrainerWith(t, n, w, TrainerOptions{Optimizer: adam, Loss: c.loss, Layout: layout})
					sameOutcome(t, n, learn(t, tr, e, 0), want, 1e-4)
				})
			})
		}
	}
}

// The loss and its gradient stay finite and exact for logits far from zero.
func TestStep_LargeLogits(t *testing.T) {
	for _, classes := range []int{2, 3} {
		config := tiny
		config.Classes, config.Dropout = classes, 0
		n := newNetwork(t, config)
		w := drawWeights(n, 1)
		last := n.params[n.dense[len(n.dense)-1].bias]
		w.Params[last.Offset] = 1e4
		e := drawBatch(n, 1, 0, 4, 0)
		want := newReference(n, w).run(e, true)
		if want.loss < 1000 {
			t.Fatalf("loss = %v, want a large one", want.loss)
		}
		got := learn(t, newTrainer(t, n, w, LayoutStandard, adam), e, 0)
		closeTo(t, "loss", got.loss, want.loss, 1e-5)
		close64(t, "gradient of the last bias", got.gradient[last.Offset:][:last.Size], want.gradient[last.Offset:][:last.Size], 1e-4)
	}
}

// A network for two classes with one output is the network with two outputs whose first is zero.
func TestLoss_TwoClassesMatchSoftmax(t *testing.T) {
	loss := Loss{[]float64{0.5, 3}, 0.1}
	q := []float64{0.25, 0.75}
	factor := loss.target(q)
	z := 0.7
	p := 1 / (1 + math.Exp(-z))
	binary := factor * (math.Log1p(math.Exp(z)) - q[1]*z)
	softmax := -0.5*(0.9*0.25+0.05)*math.Log(1-p) - 3*(0.9*0.75+0.05)*math.Log(p)
	if math.Abs(binary-softmax) > 1e-12 {
		t.Errorf("loss of one output = %v, of two = %v", binary, softmax)
	}
}

func TestNewTrainer_InvalidLoss(t *testing.T) {
	config := tiny
	config.Classes = 3
	n := newNetwork(t, config)
	for _, c := range []struct {
		name string
		loss Loss
		want string
	}{
		{"too_few_weights", Loss{ClassWeights: []float64{1, 2}}, "loss: 2 class weights, expected one for each of the 3 classes"},
		{"weight_zero", Loss{ClassWeights: []float64{1, 0, 1}}, "loss: the weight of class 1 is 0, expected a number above 0"},
		{"weight_NaN", Loss{ClassWeights: []float64{1, 1, math.NaN()}}, "loss: the weight of class 2 is NaN"},
		{"weight_infinite", Loss{ClassWeights: []float64{math.Inf(1), 1, 1}}, "loss: the weight of class 0 is +Inf"},
		{"smoothing_one", Loss{LabelSmoothing: 1}, "loss: label smoothing is 1, want at least 0 and less than 1"},
		{"smoothing_negative", Loss{LabelSmoothing: -0.1}, "loss: label smoothing is -0.1"},
		{"smoothing_NaN", Loss{LabelSmoothing: math.NaN()}, "loss: label smoothing is NaN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, err := NewTrainer(n, n.Init(1), TrainerOptions{Optimizer: adam, Loss: c.loss, Layout: LayoutStandard})
			if tr != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("NewTrainer = %v, %v; want error %q", tr, err, c.want)
			}
		})
	}
}
