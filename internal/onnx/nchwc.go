package onnx

import "slices"

// nchwcDomain is the domain of the operators for ONNX Runtime's blocked convolution layout. In this
// layout, blocks of b channels (16 with AVX-512) are contiguous: [N, C/b, H, W, b]. Tensors are
// declared with the plain shape [N,C,H,W]; only the order of the data differs. The operators are
// internal to the library (version 1; schemas in
// onnxruntime/core/graph/contrib_ops/nchwc_schema_defs.cc) and only exist on the CPU. Programs must
// check at startup whether they are available.
const nchwcDomain = "com.microsoft.nchwc"

// Activation is an activation function that a blocked convolution applies to its result.
type Activation struct {
	name   string
	params []float32
}

// LeakyReluActivation returns the activation x if x > 0, and slope*x otherwise.
func LeakyReluActivation(slope float64) Activation {
	return Activation{"LeakyRelu", []float32{float32(slope)}}
}

// ClipActivation returns the activation that clamps x to [low, high].
func ClipActivation(low, high float64) Activation {
	return Activation{"Clip", []float32{float32(low), float32(high)}}
}

// HardSigmoidActivation returns the activation alpha*x + beta, clamped to [0, 1].
func HardSigmoidActivation(alpha, beta float64) Activation {
	return Activation{"HardSigmoid", []float32{float32(alpha), float32(beta)}}
}

// Blocked has the operators for ONNX Runtime's blocked layout. Create it with [Graph.Blocked].
type Blocked struct {
	g     *Graph
	block int64
}

// Blocked returns the operators for the blocked layout with b channels per block.
func (g *Graph) Blocked(b int64) Blocked {
	g.nchwc = true
	if b < 1 {
		g.Fail("invalid block size %d", b)
	}
	return Blocked{g, b}
}

func (b Blocked) node(op string, inputs ...Value) *node {
	n := b.g.node(op, inputs...)
	n.domain = nchwcDomain
	n.dtype(Float32)
	n.rank(0, 4)
	return n
}

func (b Blocked) whole(n *node, channels int64) {
	n.check(channels%b.block == 0, "%d channels aren't a multiple of the block size %d", channels, b.block)
}

// Conv returns the convolution of x with w, in the blocked layout. x is blocked, or plain if it has
// fewer channels per group than a block. The data of w, of shape [M,C/group,kh,kw], is in the order
// [M/b, C/b, kh, kw, b(C), b(M)], or [M/b, C, kh, kw, b] for fewer channels than a block. bias has
// shape [M]. sum has the shape of the result and is added before the activation. bias and sum are
// optional: pass the zero Value to omit them.
func (b Blocked) Conv(x, w Value, win Window, bias, sum Value, act ...Activation) Value {
	in := []Value{x, w}
	if bias.name != "" {
		in = append(in, bias)
	}
	n := b.node("Conv", in...)
	shape := n.convShape(&win)
	if !n.failed {
		b.whole(n, shape[1])
		n.check(x.shape[1] < b.block || x.shape[1]%b.block == 0, "%d channels aren't a multiple of the block size %d", x.shape[1], b.block)
	}
	if sum.name != "" {
		n.check(n.failed || slices.Equal(sum.shape, shape), "%s can't be added to shape %v", sum, shape)
		if bias.name == "" {
			n.inputs = append(n.inputs, Value{})
		}
		n.inputs = append(n.inputs, sum)
	}
	a := win.attrs()
	a["group"] = win.Group
	for _, f := range act {
		a["activation"], a["activation_params"] = f.name, f.params
	}
	return n.out(Float32, shape, a)
}

// MaxPool returns the maximum of each window of the blocked x.
func (b Blocked) MaxPool(x Value, win Window) Value {
	return b.pool("MaxPool", x, win)
}

// AveragePool returns the mean of each window of the blocked x.
func (b Blocked) AveragePool(x Value, win Window) Value {
	return b.pool("AveragePool", x, win)
}

func (b Blocked) pool(op string, x Value, win Window) Value {
	n := b.node(op, x)
	b.whole(n, x.Dim(1))
	shape := n.poolShape(&win)
	return n.out(Float32, shape, win.attrs())
}

// GlobalAveragePool returns the mean of each channel of the blocked x, with shape [N,C,1,1].
func (b Blocked) GlobalAveragePool(x Value) Value {
	n := b.node("GlobalAveragePool", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(1), 1, 1}, nil)
}

// Upsample repeats each pixel of the blocked x, rows times vertically and columns times
// horizontally.
func (b Blocked) Upsample(x Value, rows, columns int64) Value {
	n := b.node("Upsample", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(1), x.Dim(2) * rows, x.Dim(3) * columns},
		attrs{"scales": []int64{1, 1, rows, columns}, "mode": "nearest"})
}

// ReorderInput converts the plain x [N,C,H,W] to the blocked layout.
func (b Blocked) ReorderInput(x Value) Value {
	n := b.node("ReorderInput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, x.shape, nil)
}

// ReorderOutput converts the blocked x to the plain layout [N,C,H,W].
func (b Blocked) ReorderOutput(x Value) Value {
	n := b.node("ReorderOutput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, x.shape, attrs{"channels": x.Dim(1)})
}

// ReorderOutputLast converts the blocked x to channels last, [N,H,W,C].
func (b Blocked) ReorderOutputLast(x Value) Value {
	n := b.node("ReorderOutput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(2), x.Dim(3), x.Dim(1)},
		attrs{"channels": x.Dim(1), "channels_last": int64(1)})
}
