// Package net defines the classifier's convolutional network: its forward and backward passes, its
// training step and its export, all as ONNX graphs that ONNX Runtime executes.
//
// [New] validates a [Config] and returns the [Network]. To train it, create a [Trainer] with
// [NewTrainer] and call [Trainer.Step] for each [Batch]. To export trained [Weights] for serving,
// call [Network.Inference].
//
// The network is a chain of convolution blocks (block.go), some of which have shortcuts, and dense
// layers (dense.go). Each defines its forward pass and, next to it, its backward pass. Together with the loss and an optimizer they
// form one graph, the training step (step.go). The math is written once, in terms of a layout
// (layout.go), which defines how images are arranged in memory: standard.go uses only the standard
// ONNX operators; blocked.go uses the memory layout in which ONNX Runtime computes convolutions
// fastest.
package net

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// colors is the number of color channels of an image: red, green and blue.
const colors = 3

const (
	// BatchNormEpsilon is added to the variance before its square root is taken.
	BatchNormEpsilon = 1e-5
	// BatchNormMomentum is the weight of a batch in the running statistics.
	BatchNormMomentum = 0.1
)

// MaxClasses is the largest number of classes of a network.
const MaxClasses = 10_000

// Config is the architecture of a network: a chain of blocks, each a 3×3 convolution, batch norm, leaky
// ReLU and 2×2 max pool, followed by dense layers. With Stem, Residual and GlobalPool it is a small
// residual network.
type Config struct {
	// Size is the width and height of the input images in pixels. It must be divisible by two once
	// per block.
	Size int
	// Classes is the number of classes, 2 to MaxClasses. A network for two classes has one output, the
	// logit of class 1. A network for more classes has one output per class.
	Classes int
	// Stem, if not 0, is the number of output channels of a block without pool before the others.
	Stem int
	// Channels is the number of output channels of each block. Every block halves the width and
	// height of its input.
	Channels []int
	// Residual is the number of residual units after each block; nil means none. A unit is two blocks
	// without pool, and its input is added to the output of the second one before the leaky ReLU.
	Residual []int
	// GlobalPool averages the output of the last block or unit over all positions, so that the dense
	// layers have one input per channel instead of one per position and channel.
	GlobalPool bool
	// Dense is the width of each hidden dense layer. The output of the last one is the embedding of
	// the image. With GlobalPool it may be empty; the embedding is then the averages.
	Dense []int
	// Slope is the slope of the leaky ReLUs for negative values, 0 ≤ Slope < 1.
	Slope float64
	// Dropout is the fraction of the outputs of the first hidden dense layer, or of the averages if
	// the network has no such layer, that a training step sets to zero, 0 ≤ Dropout < 1.
	Dropout float64
}

// Param is one trained tensor. It occupies Size elements of [Weights].Params, starting at Offset.
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

// Network is a validated architecture. It is immutable, so it is safe for concurrent use.
type Network struct {
	config Config
	blocks []block
	dense  []dense
	params []Param
	size   int
	stats  int
	// side is the width and height of the output of the last block.
	side int
}

// New returns the network with architecture c, or an error if c is invalid.
func New(c Config) (*Network, error) {
	n := &Network{config: c}
	if len(c.Channels) == 0 || len(c.Dense) == 0 && !c.GlobalPool {
		return nil, fmt.Errorf("network: channels %v and dense %v each need at least one element", c.Channels, c.Dense)
	}
	if c.Residual != nil && len(c.Residual) != len(c.Channels) {
		return nil, fmt.Errorf("network: residual %v needs one element for each of the %d blocks", c.Residual, len(c.Channels))
	}
	fraction := func(x float64) bool { return x >= 0 && x < 1 } // false for NaN
	if !fraction(c.Slope) || !fraction(c.Dropout) {
		return nil, fmt.Errorf("network: slope %v and dropout %v must be at least 0 and less than 1", c.Slope, c.Dropout)
	}
	if c.Size < 2 {
		return nil, fmt.Errorf("network: size is %d, want at least 2", c.Size)
	}
	if c.Classes < 2 || c.Classes > MaxClasses {
		return nil, fmt.Errorf("network: %d classes, want 2 to %d", c.Classes, MaxClasses)
	}
	if most := bits.TrailingZeros(uint(c.Size)); len(c.Channels) > most {
		return nil, fmt.Errorf("network: channels %[2]v: cannot halve an image of %[1]d×%[1]d pixels %[3]d times\n"+
			"hint: shorten model.channels to length %[4]d, or prepare the dataset with a dataset.size that is divisible by %[5]d", c.Size, c.Channels, len(c.Channels), most, int64(1)<<min(len(c.Channels), 62))
	}
	n.side = c.Size
	if c.Stem != 0 {
		if err := n.block("stem", c.Stem, false, none); err != nil {
			return nil, err
		}
	}
	for i, out := range c.Channels {
		name := fmt.Sprintf("block%d", i+1)
		if err := n.block(name, out, true, none); err != nil {
			return nil, err
		}
		units := 0
		if c.Residual != nil {
			units = c.Residual[i]
		}
		if units < 0 || units > maxUnits {
			return nil, fmt.Errorf("network: %s has %d residual units, want 0 to %d", name, units, maxUnits)
		}
		for u := range units {
			name, input := fmt.Sprintf("%s.unit%d", name, u+1), len(n.blocks)-1
			// These cannot fail: the number of channels is the same.
			_ = n.block(name+".first", out, false, none)
			_ = n.block(name+".second", out, false, input)
		}
	}
	width := n.features()
	for i, out := range append(slices.Clone(c.Dense), n.Outputs()) {
		name := fmt.Sprintf("dense%d", i+1)
		if out < 1 {
			return nil, fmt.Errorf("network: %s has width %d, want at least 1", name, out)
		}
		n.dense = append(n.dense, dense{
			name: name, in: int64(width), out: int64(out), slope: c.Slope,
			activate: i < len(c.Dense), dropout: i == 0 && len(c.Dense) > 0 && c.Dropout > 0,
			weight: n.add(name+".weight", width, initUniform, out, width),
			bias:   n.add(name+".bias", width, initUniform, out),
		})
		width = out
	}
	return n, nil
}

const (
	// none is the index of no block.
	none = -1
	// maxUnits is the largest number of residual units after a block.
	maxUnits = 100
)

// block appends a block. If shortcut isn't none, it is the index of the block whose output is added.
func (n *Network) block(name string, out int, pool bool, shortcut int) error {
	if out < 1 {
		return fmt.Errorf("network: %s has %d channels, want at least 1", name, out)
	}
	in := colors
	if len(n.blocks) > 0 {
		in = int(n.blocks[len(n.blocks)-1].out)
	}
	n.blocks = append(n.blocks, block{
		name: name, in: int64(in), out: int64(out), side: int64(n.side), first: len(n.blocks) == 0,
		pool: pool, shortcut: shortcut, slope: n.config.Slope,
		weight: n.add(name+".conv.weight", 9*in, initUniform, out, in, 3, 3),
		gamma:  n.add(name+".norm.weight", 0, initOne, out),
		beta:   n.add(name+".norm.bias", 0, initZero, out),
		stats:  n.stats,
	})
	n.stats += out
	if pool {
		n.side /= 2
	}
	return nil
}

// features returns the number of inputs of the first dense layer.
func (n *Network) features() int {
	channels := int(n.blocks[len(n.blocks)-1].out)
	if n.config.GlobalPool {
		return channels
	}
	return channels * n.side * n.side
}

// dropped returns the number of values per image to which dropout applies.
func (n *Network) dropped() int64 {
	switch {
	case n.config.Dropout == 0:
		return 0
	case len(n.config.Dense) == 0:
		return int64(n.features())
	}
	return n.dense[0].out
}

// add appends a tensor to the parameter vector and returns its index in params.
func (n *Network) add(name string, fanIn int, init initializer, shape ...int) int {
	p := Param{Name: name, Offset: n.size, Size: 1, fanIn: fanIn, init: init}
	for _, d := range shape {
		p.Shape = append(p.Shape, int64(d))
		p.Size *= d
	}
	n.size += p.Size
	n.params = append(n.params, p)
	return len(n.params) - 1
}

// Params returns the trained tensors in the order of [Weights].Params. Shapes follow PyTorch:
// convolutions are [out,in,3,3], dense layers [out,in].
func (n *Network) Params() []Param { return slices.Clone(n.params) }

// Size returns the number of trained weights.
func (n *Network) Size() int { return n.size }

// Embedding returns the width of the embedding, the input of the last dense layer.
func (n *Network) Embedding() int { return int(n.dense[len(n.dense)-1].in) }

// Outputs returns the number of outputs: 1 for two classes, otherwise the number of classes.
func (n *Network) Outputs() int {
	if n.config.Classes == 2 {
		return 1
	}
	return n.config.Classes
}

// pixels returns the number of bytes of an input image.
func (n *Network) pixels() int { return n.config.Size * n.config.Size * colors }

// Weights is everything that training changes in a network.
type Weights struct {
	// Params is the concatenation of all trained tensors. [Network.Params] lists them.
	Params []float32
	// Mean and Var are the running statistics of the batch norms, concatenated in the order of the
	// blocks. Var is unbiased.
	Mean, Var []float32
}

// Clone returns a deep copy of the weights.
func (w Weights) Clone() Weights {
	return Weights{slices.Clone(w.Params), slices.Clone(w.Mean), slices.Clone(w.Var)}
}

// Init returns the initial weights, drawn like PyTorch does by default: uniform within ±1/√(inputs
// of the layer), except that batch norms have scale 1 and shift 0. The same seed gives the same
// weights on every machine.
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

// check returns an error unless w has the dimensions of this network.
func (n *Network) check(w Weights) error {
	if len(w.Params) != n.size || len(w.Mean) != n.stats || len(w.Var) != n.stats {
		return fmt.Errorf("network: weights have %d parameters, %d means and %d variances, want %d, %d and %d",
			len(w.Params), len(w.Mean), len(w.Var), n.size, n.stats, n.stats)
	}
	return nil
}
