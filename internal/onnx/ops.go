package onnx

import "slices"

// Window describes how the kernel of a convolution or a pool moves over an image. Kernel, Strides
// and Dilations are in the order height, width. Pads are in the order top, left, bottom, right. The
// zero values mean stride 1, dilation 1, no padding and one group.
type Window struct {
	Kernel, Strides, Dilations [2]int64
	Pads                       [4]int64
	Group                      int64
}

func (w Window) defaults() Window {
	for i := range 2 {
		w.Strides[i] = max(w.Strides[i], 1)
		w.Dilations[i] = max(w.Dilations[i], 1)
	}
	w.Group = max(w.Group, 1)
	return w
}

// size returns the output size along an axis (0: height, 1: width) for the given input size.
func (w Window) size(in, axis int64) int64 {
	span := (w.Kernel[axis]-1)*w.Dilations[axis] + 1
	padded := in + w.Pads[axis] + w.Pads[axis+2]
	if padded < span {
		return 0
	}
	return (padded-span)/w.Strides[axis] + 1
}

func (w Window) attrs() attrs {
	return attrs{
		"kernel_shape": w.Kernel[:], "strides": w.Strides[:], "dilations": w.Dilations[:],
		"pads": w.Pads[:],
	}
}

// Conv returns the convolution of x [N,C,H,W] with w [M,C/group,kh,kw], plus an optional bias [M].
// The size of the kernel is that of w.
func (g *Graph) Conv(x, w Value, win Window, bias ...Value) Value {
	n := g.node("Conv", append([]Value{x, w}, bias...)...)
	n.dtype(Float32)
	shape := n.convShape(&win)
	a := win.attrs()
	a["group"] = win.Group
	return n.out(Float32, shape, a)
}

// convShape checks the inputs of a convolution and returns the shape of its result.
func (n *node) convShape(win *Window) []int64 {
	n.rank(0, 4)
	n.rank(1, 4)
	if n.failed {
		return nil
	}
	x, w := n.inputs[0].shape, n.inputs[1].shape
	win.Kernel = [2]int64{w[2], w[3]}
	*win = win.defaults()
	n.spatial(x, *win)
	n.check(x[1] == w[1]*win.Group, "%d channels don't match weights for %d channels in %d groups", x[1], w[1], win.Group)
	n.check(w[0]%win.Group == 0, "%d output channels aren't a multiple of %d groups", w[0], win.Group)
	if len(n.inputs) > 2 {
		n.check(slices.Equal(n.inputs[2].shape, w[:1]), "the bias must have shape [%d]", w[0])
	}
	return []int64{x[0], w[0], win.size(x[2], 0), win.size(x[3], 1)}
}

// MaxPool returns the maximum of each window of x [N,C,H,W].
func (g *Graph) MaxPool(x Value, win Window) Value {
	n := g.node("MaxPool", x)
	n.dtype(Float32)
	shape := n.poolShape(&win)
	return n.out(Float32, shape, win.attrs())
}

// poolShape checks the input and the window of a pool and returns the shape of its result.
func (n *node) poolShape(win *Window) []int64 {
	n.rank(0, 4)
	if n.failed {
		return nil
	}
	*win = win.defaults()
	for i := range 2 {
		n.check(win.Kernel[i] > 0 && win.Pads[i] < win.Kernel[i] && win.Pads[i+2] < win.Kernel[i],
			"invalid window %v with pads %v", win.Kernel, win.Pads)
	}
	x := n.inputs[0].shape
	n.spatial(x, *win)
	return []int64{x[0], x[1], win.size(x[2], 0), win.size(x[3], 1)}
}

// spatial checks the shape that a window moves over.
func (n *node) spatial(x []int64, win Window) {
	n.check(x[2] != Batch && x[3] != Batch, "the batch must be the first dimension")
	n.check(min(win.Pads[0], win.Pads[1], win.Pads[2], win.Pads[3]) >= 0, "pads %v are negative", win.Pads)
}

// broadcast returns the shape of an elementwise operation on both inputs, by NumPy's rules.
func (n *node) broadcast() []int64 {
	if n.failed {
		return nil
	}
	a, b := n.inputs[0].shape, n.inputs[1].shape
	if len(a) < len(b) {
		a, b = b, a
	}
	out := slices.Clone(a)
	for i := range b {
		j := len(a) - len(b) + i
		switch {
		case a[j] == b[i] || b[i] == 1:
		case a[j] == 1:
			out[j] = b[i]
		default:
			n.failf("the shapes can't be broadcast")
		}
	}
	return out
}

func (g *Graph) binary(op string, a, b Value, result DType) Value {
	n := g.node(op, a, b)
	n.dtype(Float32)
	return n.out(result, n.broadcast(), nil)
}

// Add returns a + b, with broadcasting.
func (g *Graph) Add(a, b Value) Value { return g.binary("Add", a, b, Float32) }

// Sub returns a - b, with broadcasting.
func (g *Graph) Sub(a, b Value) Value { return g.binary("Sub", a, b, Float32) }

// Mul returns a * b, with broadcasting.
func (g *Graph) Mul(a, b Value) Value { return g.binary("Mul", a, b, Float32) }

// Div returns a / b, with broadcasting.
func (g *Graph) Div(a, b Value) Value { return g.binary("Div", a, b, Float32) }

// Equal returns the booleans a = b, with broadcasting.
func (g *Graph) Equal(a, b Value) Value { return g.binary("Equal", a, b, Bool) }

// Less returns the booleans a < b, with broadcasting.
func (g *Graph) Less(a, b Value) Value { return g.binary("Less", a, b, Bool) }

func (g *Graph) unary(op string, x Value, a attrs) Value {
	n := g.node(op, x)
	n.dtype(Float32)
	return n.out(Float32, x.shape, a)
}

// Abs returns |x|.
func (g *Graph) Abs(x Value) Value { return g.unary("Abs", x, nil) }

// Neg returns -x.
func (g *Graph) Neg(x Value) Value { return g.unary("Neg", x, nil) }

// Sqrt returns the square root of x.
func (g *Graph) Sqrt(x Value) Value { return g.unary("Sqrt", x, nil) }

// Reciprocal returns 1/x.
func (g *Graph) Reciprocal(x Value) Value { return g.unary("Reciprocal", x, nil) }

// Sigmoid returns 1/(1+exp(-x)).
func (g *Graph) Sigmoid(x Value) Value { return g.unary("Sigmoid", x, nil) }

// Softplus returns log(1+exp(x)).
func (g *Graph) Softplus(x Value) Value { return g.unary("Softplus", x, nil) }

// Softmax returns exp(x)/Σexp(x), with the sum over the last dimension.
func (g *Graph) Softmax(x Value) Value { return g.unary("Softmax", x, attrs{"axis": int64(-1)}) }

// LogSoftmax returns the logarithm of Softmax.
func (g *Graph) LogSoftmax(x Value) Value { return g.unary("LogSoftmax", x, attrs{"axis": int64(-1)}) }

// ArgMax returns the index of the largest element along the last dimension, which it removes. If
// several are largest, it returns the first index.
func (g *Graph) ArgMax(x Value) Value {
	n := g.node("ArgMax", x)
	n.dtype(Float32)
	n.check(len(x.shape) > 1, "must have at least rank 2")
	n.check(x.Dim(-1) != Batch, "the batch must be the first dimension")
	if n.failed {
		return Value{}
	}
	return n.out(Int64, slices.Clone(x.shape[:len(x.shape)-1]), attrs{"axis": int64(-1), "keepdims": int64(0)})
}

// Rows returns rows of the matrix x: row i of the result is the row of x whose index is element i of
// the vector indices.
func (g *Graph) Rows(x, indices Value) Value {
	n := g.node("Gather", x, indices)
	n.rank(0, 2)
	n.rank(1, 1)
	n.check(indices.dtype == Int64, "%s isn't %s", indices, Int64)
	n.check(x.Dim(0) != Batch, "can't select images of a batch")
	if n.failed {
		return Value{}
	}
	return n.out(x.dtype, []int64{indices.shape[0], x.shape[1]}, attrs{"axis": int64(0)})
}

// LeakyRelu returns x where x > 0, and slope*x elsewhere.
func (g *Graph) LeakyRelu(x Value, slope float64) Value {
	return g.unary("LeakyRelu", x, attrs{"alpha": float32(slope)})
}

// Clip clamps x to [low, high].
func (g *Graph) Clip(x Value, low, high float64) Value {
	// Clip requires scalars of rank 0, unlike all other operators here.
	bound := func(b float64) Value { return g.Const([]float32{float32(b)}) }
	n := g.node("Clip", x, bound(low), bound(high))
	n.dtype(Float32)
	return n.out(Float32, x.shape, nil)
}

// Float converts booleans to 1 and 0.
func (g *Graph) Float(x Value) Value {
	n := g.node("Cast", x)
	n.dtype(Bool)
	return n.out(Float32, x.shape, attrs{"to": int64(Float32)})
}

// Where returns a where cond is true, and b elsewhere. a and b have the shape of cond or [1].
func (g *Graph) Where(cond, a, b Value) Value {
	n := g.node("Where", cond, a, b)
	for _, v := range []Value{a, b} {
		n.check(v.dtype == Float32, "%s isn't float", v)
		n.check(slices.Equal(v.shape, cond.shape) || slices.Equal(v.shape, []int64{1}), "%s must have the shape of the condition", v)
	}
	n.check(cond.dtype == Bool, "the condition isn't bool")
	return n.out(Float32, cond.shape, nil)
}

// Reshape returns x with another shape of the same size, without moving data. A batch dimension must
// stay the first dimension.
func (g *Graph) Reshape(x Value, shape ...int64) Value {
	to := Value{shape: shape}
	if x.name != "" && slices.Equal(x.shape, shape) {
		return x
	}
	// In ONNX, -1 (Batch) is a dimension inferred from the others.
	n := g.node("Reshape", x, g.Ints(shape...))
	n.check(to.Size() == x.Size() && slices.Index(shape, Batch) == slices.Index(x.shape, Batch) && slices.Index(shape, Batch) <= 0,
		"can't be reshaped to %v", shape)
	return n.out(x.dtype, shape, nil)
}

// Resize enlarges each plane of x [N,C,H,W] to height×width, which must be multiples of H and W, by
// linear interpolation between the centers of pixels.
func (g *Graph) Resize(x Value, height, width int64) Value {
	h, w := x.Dim(2), x.Dim(3)
	scale := func(to, from int64) float32 { return float32(to) / float32(max(from, 1)) }
	n := g.node("Resize", x, g.Const([]float32{1, 1, scale(height, h), scale(width, w)}, 4))
	n.check(x.dtype == Float32, "%s isn't %s", x, Float32)
	n.rank(0, 4)
	n.check(n.failed || height >= h && width >= w && height%h == 0 && width%w == 0, "can't be enlarged to %d×%d", height, width)
	if n.failed {
		return Value{}
	}
	v := n.out(Float32, []int64{x.shape[0], x.shape[1], height, width}, attrs{"mode": "linear", "coordinate_transformation_mode": "half_pixel"})
	if g.err == nil {
		// Omit the optional second input of ONNX's operator (roi), which linear resizing ignores.
		last := g.pb.Node[len(g.pb.Node)-1]
		last.Input = slices.Insert(last.Input, 1, "")
	}
	return v
}

// Flatten reshapes x [N,...] to a matrix with N rows.
func (g *Graph) Flatten(x Value) Value {
	n := g.node("Flatten", x)
	n.check(len(x.shape) > 1, "must have at least rank 2")
	if n.failed {
		return Value{}
	}
	rest := Value{shape: x.shape[1:]}
	n.check(!slices.Contains(rest.shape, Batch), "the batch must be the first dimension")
	return n.out(x.dtype, []int64{x.shape[0], rest.Size()}, attrs{"axis": int64(1)})
}

// Transpose permutes the dimensions of x: dimension i of the result is dimension perm[i] of x.
func (g *Graph) Transpose(x Value, perm ...int64) Value {
	n := g.node("Transpose", x)
	seen := make([]bool, len(x.shape))
	shape := make([]int64, 0, len(perm))
	n.check(len(perm) == len(x.shape), "%v isn't a permutation of its dimensions", perm)
	for _, p := range perm {
		if n.failed || p < 0 || p >= int64(len(seen)) || seen[p] {
			n.failf("%v isn't a permutation of its dimensions", perm)
			return Value{}
		}
		seen[p] = true
		shape = append(shape, x.shape[p])
	}
	return n.out(x.dtype, shape, attrs{"perm": perm})
}

// Concat concatenates tensors along an axis.
func (g *Graph) Concat(axis int, xs ...Value) Value {
	n := g.node("Concat", xs...)
	n.check(len(xs) > 0 && axis >= 0 && axis < len(xs[0].shape), "has no axis %d", axis)
	if n.failed {
		return Value{}
	}
	shape := slices.Clone(xs[0].shape)
	n.check(shape[axis] != Batch || len(xs) == 1, "can't concatenate along the batch")
	for _, x := range xs[1:] {
		n.check(x.dtype == xs[0].dtype && len(x.shape) == len(shape), "%s differs in element type or rank", x)
		n.check(n.failed || x.shape[axis] != Batch, "can't concatenate along the batch")
		for i := range shape {
			n.check(n.failed || i == axis || x.shape[i] == shape[i], "%s differs in dimension %d", x, i)
		}
		if !n.failed {
			shape[axis] += x.shape[axis]
		}
	}
	return n.out(xs[0].dtype, shape, attrs{"axis": int64(axis)})
}

// Split splits a vector into parts of the given lengths.
func (g *Graph) Split(x Value, lengths ...int64) []Value {
	n := g.node("Split", x, g.Ints(lengths...))
	n.rank(0, 1)
	var sum int64
	results := make([]Value, len(lengths))
	for i, l := range lengths {
		n.check(l > 0, "a part has %d elements", l)
		sum += l
		results[i] = Value{dtype: x.dtype, shape: []int64{l}}
	}
	n.check(n.failed || sum == x.shape[0], "the parts have %d elements in total", sum)
	return n.outs(attrs{"axis": int64(0)}, results...)
}

// Slice returns the elements start ≤ i < end along one axis.
func (g *Graph) Slice(x Value, axis int, start, end int64) Value {
	n := g.node("Slice", x, g.Ints(start), g.Ints(end), g.Ints(int64(axis)))
	n.check(axis >= 0 && axis < len(x.shape), "has no axis %d", axis)
	if n.failed {
		return Value{}
	}
	n.check(start >= 0 && start < end && end <= x.shape[axis], "has no elements %d to %d in dimension %d", start, end, axis)
	shape := slices.Clone(x.shape)
	shape[axis] = end - start
	return n.out(x.dtype, shape, nil)
}

// Gather returns the elements with the given indices along one axis.
func (g *Graph) Gather(x Value, axis int, indices ...int64) Value {
	n := g.node("Gather", x, g.Ints(indices...))
	n.check(axis >= 0 && axis < len(x.shape), "has no axis %d", axis)
	for _, i := range indices {
		n.check(n.failed || i >= 0 && i < x.shape[axis], "has no element %d in dimension %d", i, axis)
	}
	if n.failed {
		return Value{}
	}
	shape := slices.Clone(x.shape)
	shape[axis] = int64(len(indices))
	return n.out(x.dtype, shape, attrs{"axis": int64(axis)})
}

// Pad pads x with zeros: before[i] and after[i] elements along dimension i.
func (g *Graph) Pad(x Value, before, after []int64) Value {
	n := g.node("Pad", x, g.Ints(append(slices.Clone(before), after...)...))
	n.check(len(before) == len(x.shape) && len(after) == len(x.shape), "needs one padding per dimension")
	if n.failed {
		return Value{}
	}
	shape := slices.Clone(x.shape)
	for i := range shape {
		n.check(before[i] >= 0 && after[i] >= 0, "can't pad by a negative number")
		n.check(shape[i] != Batch || before[i]+after[i] == 0, "can't pad the batch")
		shape[i] += before[i] + after[i]
	}
	return n.out(x.dtype, shape, attrs{"mode": "constant"})
}

// ReduceSum returns the sum over the given axes, and removes them.
func (g *Graph) ReduceSum(x Value, axes ...int64) Value {
	n := g.node("ReduceSum", x, g.Ints(axes...))
	n.check(x.dtype != Bool, "%s can't be summed", x)
	return n.out(x.dtype, n.without(axes), attrs{"keepdims": int64(0)})
}

// ReduceMean returns the mean over the given axes, and removes them.
func (g *Graph) ReduceMean(x Value, axes ...int64) Value {
	n := g.node("ReduceMean", x)
	n.dtype(Float32)
	return n.out(x.dtype, n.without(axes), attrs{"keepdims": int64(0), "axes": axes})
}

func (n *node) without(axes []int64) []int64 {
	var shape []int64
	for i, d := range n.inputs[0].shape {
		if !slices.Contains(axes, int64(i)) {
			shape = append(shape, d)
		}
	}
	// In ONNX, an empty list means all axes.
	n.check(len(axes) > 0 && len(shape)+len(axes) == len(n.inputs[0].shape), "has no axes %v", axes)
	n.check(len(shape) > 0, "can't reduce all dimensions; keep at least one")
	return shape
}

// MatMul returns the product of two matrices. Leading dimensions are batch dimensions and must be
// equal, but a can be a single matrix for all matrices of b.
func (g *Graph) MatMul(a, b Value) Value {
	n := g.node("MatMul", a, b)
	n.dtype(Float32)
	r := len(b.shape)
	n.check(r > 1 && (len(a.shape) == r || len(a.shape) == 2), "both must have the same rank, at least 2")
	if n.failed {
		return Value{}
	}
	n.check(a.Dim(-1) == b.Dim(-2), "the inner dimensions differ")
	n.check(len(a.shape) == 2 || slices.Equal(a.shape[:r-2], b.shape[:r-2]), "the leading dimensions differ")
	return n.out(Float32, append(slices.Clone(b.shape[:r-2]), a.Dim(-2), b.Dim(-1)), nil)
}

// Gemm returns the product of two matrices, each optionally transposed, plus an optional c with
// shape [columns].
func (g *Graph) Gemm(a, b Value, transA, transB bool, c ...Value) Value {
	n := g.node("Gemm", append([]Value{a, b}, c...)...)
	n.dtype(Float32)
	n.rank(0, 2)
	n.rank(1, 2)
	at := attrs{}
	rows, inner := a.Dim(0), a.Dim(1)
	if transA {
		rows, inner = inner, rows
		at["transA"] = int64(1)
	}
	inner2, cols := b.Dim(0), b.Dim(1)
	if transB {
		inner2, cols = cols, inner2
		at["transB"] = int64(1)
	}
	n.check(inner == inner2, "the inner dimensions %d and %d differ", inner, inner2)
	if len(c) > 0 {
		n.check(slices.Equal(c[0].shape, []int64{cols}), "the bias must have shape [%d]", cols)
	}
	return n.out(Float32, []int64{rows, cols}, at)
}
