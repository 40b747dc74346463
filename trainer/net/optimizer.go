package net

import (
	"fmt"
	"math"

	"fakeart/internal/onnx"
)

// Optimizer computes new weights from gradients, with the update rules of PyTorch.
type Optimizer struct {
	// Name is "adam" or "sgd".
	Name string
	// WeightDecay times the weight is added to each gradient.
	WeightDecay float64
	// Beta1, Beta2 and Epsilon are the parameters of Adam.
	Beta1, Beta2, Epsilon float64
	// Momentum is the momentum of SGD; Nesterov enables Nesterov momentum.
	Momentum float64
	Nesterov bool
}

// slots returns the number of state values per weight.
func (o Optimizer) slots() int {
	if o.Name == "adam" {
		return 2
	}
	return 1
}

func (o Optimizer) check() error {
	if o.Name != "adam" && o.Name != "sgd" {
		return fmt.Errorf("unknown optimizer %q\nhint: use adam or sgd", o.Name)
	}
	return nil
}

// update adds one optimizer step to the graph, and returns the new weights followed by the new
// state. rate and epsilon are the values that scalars returns for the step.
//
// Adam's moments are stored divided by 1−β1 and 1−β2, and all factors that are the same for every
// weight are combined into rate and epsilon: with m' and v' the stored moments, the update is p −
// rate·m'/(√v' + epsilon).
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

// scalars returns the two inputs of the graph that change from step to step. step counts from 1.
func (o Optimizer) scalars(step int, lr float64) (rate, epsilon float32) {
	if o.Name == "sgd" {
		return float32(lr), 0
	}
	t := float64(step)
	// √v̂ = root·√v', including the bias correction.
	root := math.Sqrt((1 - o.Beta2) / (1 - math.Pow(o.Beta2, t)))
	return float32(lr * (1 - o.Beta1) / (1 - math.Pow(o.Beta1, t)) / root), float32(o.Epsilon / root)
}
