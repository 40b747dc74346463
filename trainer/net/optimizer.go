package net

import (
	"fmt"
	"math"
	"slices"

	"fakeart/internal/onnx"
)

// Names of optimizers.
const (
	Adam  = "adam"
	AdamW = "adamw"
	SGD   = "sgd"
)

// Optimizer computes new weights from gradients, with the update rules of PyTorch.
type Optimizer struct {
	// Name is Adam, AdamW or SGD.
	Name string
	// WeightDecay makes weights smaller, at least 0. Adam and SGD add WeightDecay times the weight to
	// each gradient. AdamW multiplies each weight by 1 − learning rate · WeightDecay instead.
	WeightDecay float64
	// DecayKernelsOnly restricts WeightDecay to the weights of convolutions and dense layers, which
	// excludes biases and batch norms.
	DecayKernelsOnly bool
	// Beta1, Beta2 and Epsilon are the parameters of Adam and AdamW.
	Beta1, Beta2, Epsilon float64
	// Momentum is the momentum of SGD; Nesterov enables Nesterov momentum.
	Momentum float64
	Nesterov bool
}

// slots returns the number of state values per weight.
func (o Optimizer) slots() int {
	if o.Name == SGD {
		return 1
	}
	return 2
}

func (o Optimizer) check() error {
	switch o.Name {
	case Adam, AdamW, SGD:
		return nil
	}
	return fmt.Errorf("unknown optimizer %q\nhint: use adam, adamw or sgd", o.Name)
}

// decoupled reports whether a decay that changes with the learning rate is an input of the graph.
func (o Optimizer) decoupled() bool { return o.Name == AdamW }

// decayed returns a constant vector that is by for each weight that decays and 0 for the others, or a
// scalar if all decay.
func (o Optimizer) decayed(g *onnx.Graph, params []Param, by float64) onnx.Value {
	if !o.DecayKernelsOnly {
		return g.Scalar(by)
	}
	var factors []float32
	for _, p := range params {
		factor := float32(by)
		if len(p.Shape) == 1 {
			factor = 0
		}
		factors = append(factors, slices.Repeat([]float32{factor}, p.Size)...)
	}
	return g.Const(factors, int64(len(factors)))
}

// stepScalars are the values of an optimizer step that are the same for all weights.
type stepScalars struct{ rate, epsilon, decay float32 }

// update adds one optimizer step to the graph, and returns the new weights followed by the new
// state. rate, epsilon and decay are the values that scalars returns for the step; decay is only used
// if o is decoupled. params lists the weights in the vector p.
//
// Adam's moments are stored divided by 1−β1 and 1−β2, and all factors that are the same for every
// weight are combined into rate and epsilon: with m' and v' the stored moments, the update is p −
// rate·m'/(√v' + epsilon).
func (o Optimizer) update(g *onnx.Graph, params []Param, p, grad onnx.Value, state []onnx.Value, rate, epsilon, decay onnx.Value) []onnx.Value {
	switch {
	case o.decoupled():
		p = g.Sub(p, g.Mul(p, g.Mul(o.decayed(g, params, 1), decay)))
	case o.WeightDecay != 0:
		grad = g.Add(grad, g.Mul(p, o.decayed(g, params, o.WeightDecay)))
	}
	decayed := func(old onnx.Value, by float64, now onnx.Value) onnx.Value {
		return g.Add(g.Mul(old, g.Scalar(by)), now)
	}
	if o.Name == SGD {
		buffer := decayed(state[0], o.Momentum, grad)
		direction := buffer
		if o.Nesterov {
			direction = decayed(buffer, o.Momentum, grad)
		}
		return []onnx.Value{g.Sub(p, g.Mul(direction, rate)), buffer}
	}
	m := decayed(state[0], o.Beta1, grad)
	v := decayed(state[1], o.Beta2, g.Mul(grad, grad))
	step := g.Div(m, g.Add(g.Sqrt(v), epsilon))
	return []onnx.Value{g.Sub(p, g.Mul(step, rate)), m, v}
}

// scalars returns the inputs of the graph that change from step to step. step counts from 1.
func (o Optimizer) scalars(step int, lr float64) stepScalars {
	if o.Name == SGD {
		return stepScalars{rate: float32(lr)}
	}
	t := float64(step)
	// √v̂ = root·√v', including the bias correction.
	root := math.Sqrt((1 - o.Beta2) / (1 - math.Pow(o.Beta2, t)))
	return stepScalars{
		rate:    float32(lr * (1 - o.Beta1) / (1 - math.Pow(o.Beta1, t)) / root),
		epsilon: float32(o.Epsilon / root),
		decay:   float32(lr * o.WeightDecay),
	}
}
