package net

import (
	"slices"

	"fakeart/internal/onnx"
)

// standard is the layout of the ONNX operator set, [batch, channels, height, width]. It runs on
// every platform that ONNX Runtime supports.
type standard struct {
	g     *onnx.Graph
	size  int64 // width and height of the input images
	batch int64
	made  map[string]onnx.Value // patches by the name of the feature maps
}

func (l standard) input() featureMaps {
	return featureMaps{l.g.Input("images", onnx.Float32, l.batch, colors, l.size, l.size), colors, l.size}
}

func (l standard) fill(dst []float32, images [][]uint8, flip []bool) {
	size := int(l.size)
	area := size * size
	for i, image := range images {
		out := dst[i*colors*area:][:colors*area]
		for c := range colors {
			plane := out[c*area:][:area]
			for j := range plane {
				plane[j] = levels[image[colors*j+c]]
			}
		}
		if flip == nil || !flip[i] {
			continue
		}
		for row := range slices.Chunk(out, size) {
			slices.Reverse(row)
		}
	}
}

// like reshapes v to feature maps with the given channels and side.
func (l standard) like(v onnx.Value, channels, side int64) featureMaps {
	return featureMaps{l.g.Reshape(v, l.batch, channels, side, side), channels, side}
}

// scale returns scale·x + shift per channel. A convolution needs one pass over the data where Mul
// and Add would need two.
func (l standard) scale(x, scale, shift onnx.Value) onnx.Value {
	channels := x.Dim(1)
	return l.g.Conv(x, l.g.Reshape(scale, channels, 1, 1, 1), onnx.Window{Group: channels}, shift)
}

// conv multiplies the weights with the patches of each image. convWeight reuses the patches.
func (l standard) conv(x featureMaps, w onnx.Value) featureMaps {
	out := w.Dim(0)
	kernel := l.g.Reshape(l.g.Transpose(l.g.Reshape(w, out, x.channels, 9), 0, 2, 1), out, 9*x.channels)
	return l.like(l.g.MatMul(kernel, l.patches(x)), out, x.side)
}

// patches returns the 3×3 neighborhood of each pixel (im2col): the nine shifted copies of the
// padded images, concatenated to [batch, 9·channels, pixels].
func (l standard) patches(x featureMaps) onnx.Value {
	if p, ok := l.made[x.value.Name()]; ok {
		return p
	}
	g, n := l.g, x.side
	padded := g.Pad(x.value, []int64{0, 0, 1, 1}, []int64{0, 0, 1, 1})
	var columns []onnx.Value
	for kx := range int64(3) {
		columns = append(columns, g.Reshape(g.Slice(padded, 3, kx, kx+n), l.batch, 1, x.channels, (n+2)*n))
	}
	var patches []onnx.Value
	for ky := range int64(3) {
		for kx := range 3 {
			patches = append(patches, g.Slice(columns[kx], 3, ky*n, (ky+n)*n))
		}
	}
	p := g.Reshape(g.Concat(1, patches...), l.batch, 9*x.channels, n*n)
	l.made[x.value.Name()] = p
	return p
}

func (l standard) moments(y featureMaps) (mean, meanSquare onnx.Value) {
	return l.g.ReduceMean(y.value, 0, 2, 3), l.g.ReduceMean(l.g.Mul(y.value, y.value), 0, 2, 3)
}

func (l standard) pool(y featureMaps) featureMaps {
	p := l.g.MaxPool(y.value, onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
	return featureMaps{p, y.channels, y.side / 2}
}

func (l standard) affine(p featureMaps, scale, shift onnx.Value, add featureMaps, slope float64) featureMaps {
	z := l.plusValue(l.scale(p.value, scale, shift), add)
	p.value = l.g.LeakyRelu(z, slope)
	return p
}

func (l standard) leakyGrad(dh, h featureMaps, slope float64) featureMaps {
	dh.value = l.g.Mul(dh.value, leakyMask(l.g, h.value, slope))
	return dh
}

func (l standard) sums(dz, p featureMaps) (sum, product onnx.Value) {
	return l.g.ReduceSum(dz.value, 0, 2, 3), l.g.ReduceSum(l.g.Mul(dz.value, p.value), 0, 2, 3)
}

// twice returns the [n, 4n] matrix that repeats each element of a row of n and then the whole row.
// Multiplying the rows of p by it doubles p in both directions: one row of p becomes two rows of
// the result. The product is exact, and a matrix product is several times faster than any operator
// that broadcasts along the innermost dimensions.
func (l standard) twice(n int64) onnx.Value {
	m := make([]float32, n*4*n)
	for i := range n {
		for _, j := range []int64{2 * i, 2*i + 1, 2*n + 2*i, 2*n + 2*i + 1} {
			m[i*4*n+j] = 1
		}
	}
	return l.g.Const(m, n, 4*n)
}

func (l standard) unpool(dz, p, y featureMaps, k1, k0 onnx.Value) featureMaps {
	g, half := l.g, p.side
	twice := l.twice(half)
	rows := func(v onnx.Value, width int64) onnx.Value { return g.Reshape(v, v.Size()/width, width) }
	up := func(v onnx.Value) onnx.Value { return g.MatMul(rows(v, half), twice) }
	squares := rows(y.value, 4*half)
	maxima := g.Float(g.Equal(squares, up(p.value)))
	count := g.Gemm(maxima, twice, false, true)
	share := g.Div(rows(dz.value, half), count)
	spread := l.like(g.Mul(maxima, up(share)), y.channels, y.side)
	dense := l.scale(y.value, k1, k0)
	return featureMaps{g.Add(spread.value, dense), y.channels, y.side}
}

// plusValue returns v + add. add may be the zero value.
func (l standard) plusValue(v onnx.Value, add featureMaps) onnx.Value {
	if add.channels == 0 {
		return v
	}
	return l.g.Add(v, add.value)
}

func (l standard) plus(dz, y featureMaps, k1, k0 onnx.Value) featureMaps {
	y.value = l.plusValue(l.scale(y.value, k1, k0), dz)
	return y
}

func (l standard) convInput(dy featureMaps, w onnx.Value, add featureMaps) featureMaps {
	dx := l.g.Conv(dy.value, backwardKernel(l.g, w), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
	return featureMaps{l.plusValue(dx, add), w.Dim(1), dy.side}
}

// backwardKernel rotates the kernels of w [out,in,3,3] by 180° and swaps in and out. A convolution
// with the result propagates gradients back.
func backwardKernel(g *onnx.Graph, w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	turned := g.Gather(g.Reshape(w, out, in, 9), 2, 8, 7, 6, 5, 4, 3, 2, 1, 0)
	return g.Reshape(g.Transpose(turned, 1, 0, 2), in, out, 3, 3)
}

// convWeight computes one matrix product per image and sums them over the batch.
func (l standard) convWeight(x, dy featureMaps) onnx.Value {
	g, n := l.g, x.side
	// [batch, 9·in, pixels] · [batch, pixels, out]
	each := g.MatMul(l.patches(x), g.Transpose(g.Reshape(dy.value, l.batch, dy.channels, n*n), 0, 2, 1))
	ones := make([]float32, l.batch)
	for i := range ones {
		ones[i] = 1
	}
	dw := g.MatMul(g.Const(ones, 1, l.batch), g.Reshape(each, l.batch, 9*x.channels*dy.channels))
	dw = g.Reshape(dw, 9, x.channels, dy.channels)
	return g.Reshape(g.Transpose(dw, 2, 1, 0), dy.channels, x.channels, 3, 3)
}

func (l standard) flatten(h featureMaps) onnx.Value { return l.g.Flatten(h.value) }

func (l standard) unflatten(d onnx.Value, like featureMaps) featureMaps {
	return l.like(d, like.channels, like.side)
}
