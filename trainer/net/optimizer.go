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

// update adds one update of the flat vector p by its gradient to the graph.
// rate is what scalars gives for the step.
func (o Optimizer) update(g *onnx.Graph, p, grad onnx.Value, state []onnx.Value, rate, second onnx.Value) (onnx.Value, []onnx.Value) {
	if o.WeightDecay != 0 {
		grad = g.Add(grad, g.Mul(p, g.Scalar(o.WeightDecay)))
	}
	mix := func(old onnx.Value, keep float64, now onnx.Value, add float64) onnx.Value {
		return g.Add(g.Mul(old, g.Scalar(keep)), g.Mul(now, g.Scalar(add)))
	}
	if o.Name == "sgd" {
		buffer := g.Add(g.Mul(state[0], g.Scalar(o.Momentum)), grad)
		direction := buffer
		if o.Nesterov {
			direction = g.Add(grad, g.Mul(buffer, g.Scalar(o.Momentum)))
		}
		return g.Sub(p, g.Mul(direction, rate)), []onnx.Value{buffer}
	}
	m := mix(state[0], o.Beta1, grad, 1-o.Beta1)
	v := mix(state[1], o.Beta2, g.Mul(grad, grad), 1-o.Beta2)
	root := g.Add(g.Mul(g.Sqrt(v), second), g.Scalar(o.Epsilon))
	return g.Sub(p, g.Mul(g.Div(m, root), rate)), []onnx.Value{m, v}
}

// scalars are the two numbers that change from step to step (counted from 1):
// the rate, and for Adam what corrects the second moment's bias.
func (o Optimizer) scalars(step int, lr float64) (rate, second float32) {
	if o.Name == "sgd" {
		return float32(lr), 1
	}
	t := float64(step)
	return float32(lr / (1 - math.Pow(o.Beta1, t))), float32(1 / math.Sqrt(1-math.Pow(o.Beta2, t)))
}
