package onnx

import "slices"

// ONNX Runtime's own convolution layout, in which b channels (16 with AVX-512)
// lie side by side: [N, C/b, H, W, b]. Tensors in it are declared with the
// plain shape [N,C,H,W]; only the order of their data differs. The operators
// are internal to the library (domain com.microsoft.nchwc, version 1; schemas
// in onnxruntime/core/graph/contrib_ops/nchwc_schema_defs.cc), exist on the
// CPU only, and are checked for at start by whoever uses them.
const nchwcDomain = "com.microsoft.nchwc"

// Activation is what a blocked convolution applies to its result.
type Activation struct {
	name   string
	params []float32
}

// LeakyReluActivation is x where x > 0 and slope*x elsewhere.
func LeakyReluActivation(slope float64) Activation {
	return Activation{"LeakyRelu", []float32{float32(slope)}}
}

// ClipActivation limits to [low, high].
func ClipActivation(low, high float64) Activation {
	return Activation{"Clip", []float32{float32(low), float32(high)}}
}

// HardSigmoidActivation is alpha*x + beta limited to [0, 1].
func HardSigmoidActivation(alpha, beta float64) Activation {
	return Activation{"HardSigmoid", []float32{float32(alpha), float32(beta)}}
}

// Blocked gives the operators of ONNX Runtime's blocked layout.
type Blocked struct {
	g     *Graph
	block int64
}

// Blocked uses the operators of the blocked layout with blocks of b channels.
func (g *Graph) Blocked(b int64) Blocked {
	g.nchwc = true
	if b < 1 {
		g.Fail("blocks of %d channels", b)
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
	n.check(channels%b.block == 0, "%d channels are not whole blocks of %d", channels, b.block)
}

// Conv is a convolution whose result is blocked. x is blocked, or plain when
// it has fewer channels a group than a block; w [M,C/group,kh,kw] has its data
// in the order [M/b, C/b, kh, kw, b(C), b(M)], or [M/b, C, kh, kw, b] for
// fewer channels than a block. bias has shape [M]; sum, of the result's shape,
// is added before the activation. The zero Value leaves bias or sum out.
func (b Blocked) Conv(x, w Value, win Window, bias, sum Value, act ...Activation) Value {
	in := []Value{x, w}
	if bias.name != "" {
		in = append(in, bias)
	}
	n := b.node("Conv", in...)
	shape := n.convShape(&win)
	if !n.failed {
		b.whole(n, shape[1])
		n.check(x.shape[1] < b.block || x.shape[1]%b.block == 0, "%d channels are not whole blocks of %d", x.shape[1], b.block)
	}
	if sum.name != "" {
		n.check(n.failed || slices.Equal(sum.shape, shape), "%s cannot be added to %v", sum, shape)
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

// MaxPool takes the maximum in each window of the blocked x.
func (b Blocked) MaxPool(x Value, win Window) Value {
	return b.pool("MaxPool", x, win)
}

// AveragePool takes the mean in each window of the blocked x.
func (b Blocked) AveragePool(x Value, win Window) Value {
	return b.pool("AveragePool", x, win)
}

func (b Blocked) pool(op string, x Value, win Window) Value {
	n := b.node(op, x)
	b.whole(n, x.Dim(1))
	shape := n.poolShape(&win)
	return n.out(Float32, shape, win.attrs())
}

// GlobalAveragePool is the mean of each channel of the blocked x: [N,C,1,1].
func (b Blocked) GlobalAveragePool(x Value) Value {
	n := b.node("GlobalAveragePool", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(1), 1, 1}, nil)
}

// Upsample repeats each pixel of the blocked x, rows and columns times.
func (b Blocked) Upsample(x Value, rows, columns int64) Value {
	n := b.node("Upsample", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(1), x.Dim(2) * rows, x.Dim(3) * columns},
		attrs{"scales": []int64{1, 1, rows, columns}, "mode": "nearest"})
}

// ReorderInput takes the plain x [N,C,H,W] into the blocked layout.
func (b Blocked) ReorderInput(x Value) Value {
	n := b.node("ReorderInput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, x.shape, nil)
}

// ReorderOutput takes the blocked x back to the plain [N,C,H,W].
func (b Blocked) ReorderOutput(x Value) Value {
	n := b.node("ReorderOutput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, x.shape, attrs{"channels": x.Dim(1)})
}

// ReorderOutputLast takes the blocked x to channels last: [N,H,W,C].
func (b Blocked) ReorderOutputLast(x Value) Value {
	n := b.node("ReorderOutput", x)
	b.whole(n, x.Dim(1))
	return n.out(Float32, []int64{x.Dim(0), x.Dim(2), x.Dim(3), x.Dim(1)},
		attrs{"channels": x.Dim(1), "channels_last": int64(1)})
}
