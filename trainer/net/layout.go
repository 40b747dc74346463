package net

import (
	"slices"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
)

// featureMaps is a batch of feature maps in a graph. The layout defines how its data are arranged
// in memory.
type featureMaps struct {
	value          onnx.Value
	channels, side int64
}

// layout defines how a batch of feature maps is arranged in memory, and implements the operations
// of a block for that arrangement. Vectors hold one element per channel.
type layout interface {
	// input declares the input of the graph, the images.
	input() featureMaps
	// fill writes images of the size of the input (HWC, RGB), scaled to [0,1], into the buffer of the input. dst has the
	// size of the input. All calls for one dst must come from the same layout, because fill does
	// not write the padding. flip[i] mirrors image i horizontally; flip may be nil.
	fill(dst []float32, images [][]uint8, flip []bool)
	// conv is a 3×3 convolution with padding 1 and weights w [out,in,3,3].
	conv(x featureMaps, w onnx.Value) featureMaps
	// moments returns the mean and the mean square of each channel.
	moments(y featureMaps) (mean, meanSquare onnx.Value)
	// pool is a 2×2 max pool with stride 2.
	pool(y featureMaps) featureMaps
	// affine returns leaky(scale·p + shift + add). add may be the zero value.
	affine(p featureMaps, scale, shift onnx.Value, add featureMaps, slope float64) featureMaps
	// leakyGrad returns dh where h > 0 and slope·dh elsewhere.
	leakyGrad(dh, h featureMaps, slope float64) featureMaps
	// sums returns Σdz and Σdz·p of each channel.
	sums(dz, p featureMaps) (sum, product onnx.Value)
	// unpool distributes each element of dz equally among the maxima of its 2×2 square in y, and
	// adds k1·y + k0.
	unpool(dz, p, y featureMaps, k1, k0 onnx.Value) featureMaps
	// plus returns dz + k1·y + k0.
	plus(dz, y featureMaps, k1, k0 onnx.Value) featureMaps
	// convInput returns the gradient with respect to the input of conv plus add, given the gradient dy
	// with respect to its output. add may be the zero value.
	convInput(dy featureMaps, w onnx.Value, add featureMaps) featureMaps
	// convWeight returns the gradient with respect to the weights of conv.
	convWeight(x, dy featureMaps) onnx.Value
	// flatten returns [batch, channels·side·side] in the element order of the standard layout.
	// unflatten is its inverse; it returns feature maps with the dimensions of like.
	flatten(h featureMaps) onnx.Value
	unflatten(d onnx.Value, like featureMaps) featureMaps
}

// levels maps each 8-bit color level to its value after the preprocessing of all our networks,
// imaging.Square.
var levels = func() (table [256]float32) {
	plan, err := imaging.Square(1).Compile()
	if err != nil {
		panic(err)
	}
	tensor := plan.NewTensor(1)
	for level := range table {
		plan.Fill(tensor, slices.Repeat([]uint8{uint8(level)}, colors))
		table[level] = tensor.Float32[0]
	}
	return table
}()
