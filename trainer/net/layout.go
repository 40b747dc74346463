package net

import (
	"fakeart/internal/onnx"
)

// pictures is a batch of feature maps in a graph. How the value's data lie is
// the layout's business.
type pictures struct {
	value          onnx.Value
	channels, side int64
}

// layout is how a batch of pictures lies in memory, and with it how each piece
// of a block's mathematics is computed. Vectors have one number a channel.
type layout interface {
	// name is what the user calls the layout.
	name() string
	// input declares the graph's input, the pictures.
	input() pictures
	// fill writes pictures (HWC, RGB) as the input takes them, scaled to [0,1].
	// dst has inputShape's size and was filled by nothing else before.
	fill(dst []float32, pictures [][]uint8, flip []bool)
	// conv is the 3×3 convolution, padded by 1, with weights [out,in,3,3].
	conv(x pictures, w onnx.Value) pictures
	// moments are the mean of each channel, and of its square.
	moments(y pictures) (mean, meanSquare onnx.Value)
	// pool takes the maximum of each 2×2 square.
	pool(y pictures) pictures
	// affine is leaky(scale·p + shift).
	affine(p pictures, scale, shift onnx.Value, slope float64) pictures
	// leakyGrad is dh where h > 0 and slope·dh elsewhere.
	leakyGrad(dh, h pictures, slope float64) pictures
	// sums are Σdz and Σdz·p of each channel.
	sums(dz, p pictures) (sum, product onnx.Value)
	// unpool gives each number of dz back to the maxima of its 2×2 square in y,
	// in equal shares, and adds k1·y + k0.
	unpool(dz, p, y pictures, k1, k0 onnx.Value) pictures
	// convInput is the gradient of conv by its input, for the gradient dy by its
	// result.
	convInput(dy pictures, w onnx.Value) pictures
	// convWeight is the gradient of conv by its weights.
	convWeight(x, dy pictures) onnx.Value
	// flatten gives [batch, channels·side·side], in the order of the standard
	// layout; unflatten is the way back, to pictures like those given.
	flatten(h pictures) onnx.Value
	unflatten(d onnx.Value, like pictures) pictures
}
