package net

import (
	"fmt"
	"math"

	"fakeart/internal/onnx"
)

// Optimizer turns gradients into new weights, by PyTorch's rules.
type Optimizer struct {
	// Name is "adam" or "sgd".
	Name string
	// WeightDecay is added to each gradient, times the weight.
	WeightDecay float64
	// Beta1, Beta2 and Epsilon are Adam's.
	Beta1, Beta2, Epsilon float64
	// Momentum is that of SGD; Nesterov looks ahead along it.
	Momentum float64
	Nesterov bool
}

// slots is how many numbers the optimizer keeps for each weight.
func (o Optimizer) slots() int {
	if o.Name == "adam" {
		return 2
	}
	return 1
}

func (o Optimizer) check() error {
	if o.Name != "adam" && o.Name != "sgd" {
		return fmt.Errorf("optimizer %q is unknown: adam and sgd are there", o.Name)
	}
	return nil
}

// update adds one update of the weights p by their gradient to the graph, and
// gives the new weights and the new state. rate and epsilon are what scalars
// gives for the step.
//
// Adam's moments are kept divided by 1−β1 and 1−β2, and all factors that are
// the same for every weight are drawn together into rate and epsilon: with m'
// and v' the kept moments, the update is p − rate·m'/(√v' + epsilon).
func (o Optimizer) update(g *onnx.Graph, p, grad onnx.Value, state []onnx.Value, rate, epsilon onnx.Value) []onnx.Value {
	if o.WeightDecay != 0 {
		grad = g.Add(grad, g.Mul(p, g.Scalar(o.WeightDecay)))
	}
	decayed := func(old onnx.Value, by float64, now onnx.Value) onnx.Value {
		return g.Add(g.Mul(old, g.Scalar(by)), now)
	}
	if o.Name == "sgd" {
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

// scalars are the two numbers that change from step to step, counted from 1.
func (o Optimizer) scalars(step int, lr float64) (rate, epsilon float32) {
	if o.Name == "sgd" {
		return float32(lr), 0
	}
	t := float64(step)
	// √v̂ = root·√v', the bias correction included.
	root := math.Sqrt((1 - o.Beta2) / (1 - math.Pow(o.Beta2, t)))
	return float32(lr * (1 - o.Beta1) / (1 - math.Pow(o.Beta1, t)) / root), float32(o.Epsilon / root)
}
