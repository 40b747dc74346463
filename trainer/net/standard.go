package net

import (
	"slices"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
)

// standard is the layout of the ONNX operator set, [batch, channels, height,
// width]: it runs wherever ONNX does.
type standard struct {
	g     *onnx.Graph
	batch int64
}

func (standard) name() string { return "standard" }

func (l standard) input() pictures {
	return pictures{
		l.g.Input("pictures", onnx.Float32, l.batch, imaging.Channels, imaging.Size, imaging.Size),
		imaging.Channels, imaging.Size,
	}
}

func (l standard) fill(dst []float32, pictures [][]uint8, flip []bool) {
	const plane = imaging.Size * imaging.Size
	for i, picture := range pictures {
		out := dst[i*imaging.Channels*plane:][:imaging.Channels*plane]
		imaging.ToTensor(out, picture)
		if flip == nil || !flip[i] {
			continue
		}
		for row := range slices.Chunk(out, imaging.Size) {
			slices.Reverse(row)
		}
	}
}

// like gives the value the shape of pictures with the given channels and side.
func (l standard) like(v onnx.Value, channels, side int64) pictures {
	return pictures{l.g.Reshape(v, l.batch, channels, side, side), channels, side}
}

// perChannel shapes a vector so that it scales channels.
func (l standard) perChannel(v onnx.Value) onnx.Value {
	return l.g.Reshape(v, 1, v.Size(), 1, 1)
}

func (l standard) conv(x pictures, w onnx.Value) pictures {
	y := l.g.Conv(x.value, w, onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
	return pictures{y, w.Dim(0), x.side}
}

func (l standard) moments(y pictures) (mean, meanSquare onnx.Value) {
	return l.g.ReduceMean(y.value, 0, 2, 3), l.g.ReduceMean(l.g.Mul(y.value, y.value), 0, 2, 3)
}

func (l standard) pool(y pictures) pictures {
	p := l.g.MaxPool(y.value, onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
	return pictures{p, y.channels, y.side / 2}
}

func (l standard) affine(p pictures, scale, shift onnx.Value, slope float64) pictures {
	z := l.g.Add(l.g.Mul(p.value, l.perChannel(scale)), l.perChannel(shift))
	p.value = l.g.LeakyRelu(z, slope)
	return p
}

func (l standard) leakyGrad(dh, h pictures, slope float64) pictures {
	dh.value = l.g.Mul(dh.value, leakyMask(l.g, h.value, slope))
	return dh
}

func (l standard) sums(dz, p pictures) (sum, product onnx.Value) {
	return l.g.ReduceSum(dz.value, 0, 2, 3), l.g.ReduceSum(l.g.Mul(dz.value, p.value), 0, 2, 3)
}

// twice is the matrix that repeats each number of a row of n and then the
// whole row: a row of p times twice is two rows of p doubled in both directions.
// The product is exact, and a matrix product is several times faster than any
// operator that broadcasts in the innermost dimensions.
func (l standard) twice(n int64) onnx.Value {
	m := make([]float32, n*4*n)
	for i := range n {
		for _, j := range []int64{2 * i, 2*i + 1, 2*n + 2*i, 2*n + 2*i + 1} {
			m[i*4*n+j] = 1
		}
	}
	return l.g.Const(m, n, 4*n)
}

func (l standard) unpool(dz, p, y pictures, k1, k0 onnx.Value) pictures {
	g, half := l.g, p.side
	twice := l.twice(half)
	rows := func(v onnx.Value, width int64) onnx.Value { return g.Reshape(v, v.Size()/width, width) }
	up := func(v onnx.Value) onnx.Value { return g.MatMul(rows(v, half), twice) }
	squares := rows(y.value, 4*half)
	maxima := g.Float(g.Equal(squares, up(p.value)))
	count := g.Gemm(maxima, twice, false, true)
	share := g.Div(rows(dz.value, half), count)
	spread := l.like(g.Mul(maxima, up(share)), y.channels, y.side)
	dense := g.Add(g.Mul(y.value, l.perChannel(k1)), l.perChannel(k0))
	return pictures{g.Add(spread.value, dense), y.channels, y.side}
}

func (l standard) convInput(dy pictures, w onnx.Value) pictures {
	dx := l.g.Conv(dy.value, backwardKernel(l.g, w), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
	return pictures{dx, w.Dim(1), dy.side}
}

// backwardKernel turns the kernels of w [out,in,3,3] by half a turn and changes
// in for out: a convolution with it hands gradients back.
func backwardKernel(g *onnx.Graph, w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	turned := g.Gather(g.Reshape(w, out, in, 9), 2, 8, 7, 6, 5, 4, 3, 2, 1, 0)
	return g.Reshape(g.Transpose(turned, 1, 0, 2), in, out, 3, 3)
}

// convWeight lays the nine shifted copies of the padded pictures side by side,
// so that the sum over pixels is a matrix product for each picture.
func (l standard) convWeight(x, dy pictures) onnx.Value {
	g, n := l.g, x.side
	padded := g.Pad(x.value, []int64{0, 0, 1, 1}, []int64{0, 0, 1, 1})
	var patches []onnx.Value
	for ky := range int64(3) {
		rows := g.Slice(padded, 2, ky, ky+n)
		for kx := range int64(3) {
			shifted := g.Slice(rows, 3, kx, kx+n)
			patches = append(patches, g.Reshape(shifted, l.batch, 1, x.channels, n*n))
		}
	}
	all := g.Reshape(g.Concat(1, patches...), l.batch, 9*x.channels, n*n)
	// [batch, 9·in, pixels] · [batch, pixels, out], summed over the batch.
	each := g.MatMul(all, g.Transpose(g.Reshape(dy.value, l.batch, dy.channels, n*n), 0, 2, 1))
	dw := g.Reshape(g.ReduceSum(each, 0), 9, x.channels, dy.channels)
	return g.Reshape(g.Transpose(dw, 2, 1, 0), dy.channels, x.channels, 3, 3)
}

func (l standard) flatten(h pictures) onnx.Value { return l.g.Flatten(h.value) }

func (l standard) unflatten(d onnx.Value, like pictures) pictures {
	return l.like(d, like.channels, like.side)
}
