// Package net is the detector's network: what it computes, how it learns, and
// how it is written down as ONNX graphs.
//
// The network is a chain of convolution blocks (block.go) and dense layers
// (dense.go); each states its forward and, beside it, its backward. Put
// together with the loss and an optimizer they make one graph, a training step
// (step.go). The graph's mathematics is written once, against a layout
// (layout.go) that knows how pictures lie in memory: standard.go needs nothing
// but the ONNX operator set, blocked.go uses the layout in which ONNX Runtime
// computes convolutions fastest. inference.go writes the same weights as the
// model that is served.
package net

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"fakeart/internal/imaging"
)

const (
	// BatchNormEpsilon is added to a variance before its root is taken.
	BatchNormEpsilon = 1e-5
	// BatchNormMomentum is the weight of a batch in the running statistics.
	BatchNormMomentum = 0.1
)

// Config is the network's shape.
type Config struct {
	// Channels has one number for each block: the channels that it gives. Each
	// block halves the picture's sides, so that at most five fit.
	Channels []int
	// Dense has the width of each hidden dense layer. The last one is the
	// picture's embedding.
	Dense []int
	// Slope is that of the leaky ReLUs for negative values, 0 ≤ Slope < 1.
	Slope float64
	// Dropout is the share of the first hidden dense layer's results that a
	// training step sets to zero, 0 ≤ Dropout < 1.
	Dropout float64
}

// Param is one tensor of trained weights: a stretch of the flat vector of them all.
type Param struct {
	Name   string
	Shape  []int64
	Offset int
	Size   int
	fanIn  int
	init   initializer
}

type initializer int

const (
	initUniform initializer = iota // ±1/√fanIn
	initOne
	initZero
)

// Network is a network's shape, worked out. It is immutable, so safe for
// concurrent use.
type Network struct {
	config Config
	blocks []block
	dense  []dense
	params []Param
	size   int
	stats  int
}

// New works out the network of the given shape, or says what is wrong with it.
func New(c Config) (*Network, error) {
	n := &Network{config: c}
	if len(c.Channels) == 0 || len(c.Dense) == 0 {
		return nil, fmt.Errorf("network: channels %v and dense %v need one number at least", c.Channels, c.Dense)
	}
	share := func(x float64) bool { return x >= 0 && x < 1 } // which NaN is not
	if !share(c.Slope) || !share(c.Dropout) {
		return nil, fmt.Errorf("network: slope %v and dropout %v must be at least 0 and below 1", c.Slope, c.Dropout)
	}
	in, side := imaging.Channels, imaging.Size
	for i, out := range c.Channels {
		if side < 2 {
			return nil, fmt.Errorf("network: channels %v: a picture of %d pixels a side cannot be halved %d times", c.Channels, imaging.Size, len(c.Channels))
		}
		name := fmt.Sprintf("block%d", i+1)
		if out < 1 {
			return nil, fmt.Errorf("network: %s has %d channels", name, out)
		}
		n.blocks = append(n.blocks, block{
			name: name, in: int64(in), out: int64(out), side: int64(side), first: i == 0, slope: c.Slope,
			weight: n.add(name+".conv.weight", 9*in, initUniform, out, in, 3, 3),
			gamma:  n.add(name+".norm.weight", 0, initOne, out),
			beta:   n.add(name+".norm.bias", 0, initZero, out),
			stats:  n.stats,
		})
		n.stats += out
		in, side = out, side/2
	}
	width := in * side * side
	for i, out := range append(slices.Clone(c.Dense), 1) {
		name := fmt.Sprintf("dense%d", i+1)
		if out < 1 {
			return nil, fmt.Errorf("network: %s has the width %d", name, out)
		}
		n.dense = append(n.dense, dense{
			name: name, in: int64(width), out: int64(out), slope: c.Slope,
			activate: i < len(c.Dense), dropout: i == 0 && c.Dropout > 0,
			weight: n.add(name+".weight", width, initUniform, out, width),
			bias:   n.add(name+".bias", width, initUniform, out),
		})
		width = out
	}
	return n, nil
}

// add appends a tensor to the flat vector and returns its index.
func (n *Network) add(name string, fanIn int, how initializer, shape ...int) int {
	p := Param{Name: name, Offset: n.size, Size: 1, fanIn: fanIn, init: how}
	for _, d := range shape {
		p.Shape = append(p.Shape, int64(d))
		p.Size *= d
	}
	n.size += p.Size
	n.params = append(n.params, p)
	return len(n.params) - 1
}

// Params lists the trained tensors in the order of the flat vector. Shapes are
// PyTorch's: convolutions [out,in,3,3], dense layers [out,in].
func (n *Network) Params() []Param { return slices.Clone(n.params) }

// Size is the number of trained weights.
func (n *Network) Size() int { return n.size }

// Embedding is the width of the last hidden layer.
func (n *Network) Embedding() int { return n.config.Dense[len(n.config.Dense)-1] }

// Weights is what training changes.
type Weights struct {
	// Params is the flat vector of all trained tensors.
	Params []float32
	// Mean and Var are the running statistics of the blocks' batch norms, one
	// block after the other. Var is unbiased.
	Mean, Var []float32
}

// Clone copies the weights.
func (w Weights) Clone() Weights {
	return Weights{slices.Clone(w.Params), slices.Clone(w.Mean), slices.Clone(w.Var)}
}

// Init draws the weights that training starts from, as PyTorch does by
// default: uniform within ±1/√(inputs of the layer), norms at one and zero.
// The same seed gives the same weights on every machine.
func (n *Network) Init(seed int64) Weights {
	w := Weights{make([]float32, n.size), make([]float32, n.stats), make([]float32, n.stats)}
	rng := rand.New(rand.NewPCG(uint64(seed), 0x696e6974))
	for _, p := range n.params {
		data := w.Params[p.Offset : p.Offset+p.Size]
		switch p.init {
		case initUniform:
			bound := 1 / math.Sqrt(float64(p.fanIn))
			for i := range data {
				data[i] = float32((2*rng.Float64() - 1) * bound)
			}
		case initOne:
			for i := range data {
				data[i] = 1
			}
		case initZero:
		}
	}
	for i := range w.Var {
		w.Var[i] = 1
	}
	return w
}

// check says whether the weights are this network's.
func (n *Network) check(w Weights) error {
	if len(w.Params) != n.size || len(w.Mean) != n.stats || len(w.Var) != n.stats {
		return fmt.Errorf("network: %d weights and %d and %d statistics given, %d and twice %d needed",
			len(w.Params), len(w.Mean), len(w.Var), n.size, n.stats)
	}
	return nil
}
