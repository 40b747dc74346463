package net

import (
	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
)

// blocked is the layout in which ONNX Runtime computes convolutions fastest:
// b channels side by side (onnx.Blocked). The batch is cut into groups, and the
// pictures of a group lie interleaved by rows: the data are
//
//	[group, channels/b, row, picture of the group, column, b]
//
// A group is then one tall picture to a convolution whose kernel takes every
// n-th row, n being the number of pictures of a group, and one wide picture to
// a pool, which looks at two rows at a time. What it is for is the gradient of
// the weights: there a group's gradient dy, as it lies, is the kernel of a
// convolution, so that nothing needs to be transposed (convWeight).
//
// The pictures that come in lie as [group, row, picture, column, colour], with a
// black column at either side.
type blocked struct {
	g      *onnx.Graph
	ops    onnx.Blocked
	block  int64
	groups int64
	each   int64 // pictures a group
}

const (
	paddedRow = (imaging.Size + 2) * imaging.Channels

	// maxGroups keeps the groups below any block size: as channels of a
	// convolution they must be fewer than a block, or whole blocks. Fewer groups
	// leave cores idle, more cost partial sums; eight was the fastest.
	maxGroups = 8
)

// levels is what the one preprocessing makes of each level of a colour.
var levels = func() (table [256]float32) {
	picture := make([]uint8, imaging.Size*imaging.Size*imaging.Channels)
	tensor := make([]float32, len(picture))
	for level := range table {
		picture[level*imaging.Channels] = uint8(level)
	}
	imaging.ToTensor(tensor, picture)
	copy(table[:], tensor) // red, the first plane
	return table
}()

// newBlocked lays out a batch of the given size in blocks of b channels.
func newBlocked(g *onnx.Graph, batch, b int64) blocked {
	groups := int64(1)
	for n := int64(2); n <= min(maxGroups, b-1); n++ {
		if batch%n == 0 {
			groups = n
		}
	}
	return blocked{g, g.Blocked(b), b, groups, batch / groups}
}

func (blocked) name() string { return "blocked" }

func (l blocked) input() pictures {
	return pictures{
		l.g.Input("pictures", onnx.Float32, l.groups, 1, imaging.Size*l.each, paddedRow),
		imaging.Channels, imaging.Size,
	}
}

// isInput tells the pictures that come in, which are not blocked.
func isInput(x pictures) bool { return x.channels == imaging.Channels }

func (l blocked) fill(dst []float32, pictures [][]uint8, flip []bool) {
	const row = imaging.Size * imaging.Channels
	for i, picture := range pictures {
		group, place := int64(i)/l.each, int64(i)%l.each
		flipped := flip != nil && flip[i]
		for h := range int64(imaging.Size) {
			out := dst[((group*imaging.Size+h)*l.each+place)*paddedRow+imaging.Channels:][:row]
			in := picture[h*row:][:row]
			if !flipped {
				for j, p := range in {
					out[j] = levels[p]
				}
				continue
			}
			for j := 0; j < row; j += imaging.Channels {
				k := row - imaging.Channels - j
				out[j], out[j+1], out[j+2] = levels[in[k]], levels[in[k+1]], levels[in[k+2]]
			}
		}
	}
}

// none leaves out the bias or the summand of a convolution.
var none onnx.Value

// shaped gives blocked data the shape of tall pictures, the one in which they
// are handed on.
func (l blocked) shaped(v onnx.Value, channels, side int64) pictures {
	return pictures{l.g.Reshape(v, l.groups, channels, side*l.each, side), channels, side}
}

// wide is the view in which two neighbouring rows belong to the same pictures.
func (l blocked) wide(x pictures) onnx.Value {
	return l.g.Reshape(x.value, l.groups, x.channels, x.side, l.each*x.side)
}

// rows3 is the window of a 3×3 kernel over tall pictures.
func (l blocked) rows3() onnx.Window {
	return onnx.Window{Dilations: [2]int64{l.each, 1}, Pads: [4]int64{l.each, 1, l.each, 1}}
}

// The weights' own order, [out,in,3,3], is changed by ReorderInput, which moves
// out or in into the innermost place, and Gather, which then moves whole rows
// of a block: both share the work among the threads, as Transpose does not.

// rows is v as rows of one block each.
func (l blocked) rows(v onnx.Value) onnx.Value { return l.g.Reshape(v, v.Size()/l.block, l.block) }

// outInnermost gives weights [out,in,3,3] as rows [out/b, in, 3, 3] of b(out).
func (l blocked) outInnermost(w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	return l.rows(l.ops.ReorderInput(l.g.Reshape(w, out/l.block, l.block, in*3, 3)))
}

// kernel orders weights as blocked convolutions read them, [out/b, in/b, 3, 3,
// b(in), b(out)].
func (l blocked) kernel(w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	var order []int64
	for o := range out / l.block {
		for i := int64(0); i < in; i += l.block {
			for k := range int64(9) {
				for j := range l.block {
					order = append(order, (o*in+i+j)*9+k)
				}
			}
		}
	}
	return l.g.Reshape(l.g.Gather(l.outInnermost(w), 0, order...), out, in, 3, 3)
}

// backwardKernel is the kernel of w with in and out exchanged and turned by half
// a turn, [in/b, out/b, 3, 3, b(out), b(in)].
func (l blocked) backwardKernel(w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	rows := l.rows(l.ops.ReorderInput(w)) // [out, in/b, 3, 3] of b(in)
	var order []int64
	for i := range in / l.block {
		for o := int64(0); o < out; o += l.block {
			for k := range int64(9) {
				for j := range l.block {
					order = append(order, ((o+j)*(in/l.block)+i)*9+8-k)
				}
			}
		}
	}
	return l.g.Reshape(l.g.Gather(rows, 0, order...), in, out, 3, 3)
}

// inputKernel orders the first block's weights for pictures whose colours lie
// side by side: three columns of a kernel are nine of one channel.
func (l blocked) inputKernel(w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	var order []int64
	for o := range out / l.block {
		for k := range int64(9) {
			for i := range in {
				order = append(order, (o*in+i)*9+k)
			}
		}
	}
	return l.g.Reshape(l.g.Gather(l.outInnermost(w), 0, order...), out, 1, 3, 3*in)
}

func (l blocked) conv(x pictures, w onnx.Value) pictures {
	if !isInput(x) {
		return pictures{l.ops.Conv(x.value, l.kernel(w), l.rows3(), none, none), w.Dim(0), x.side}
	}
	win := onnx.Window{
		Strides: [2]int64{1, imaging.Channels}, Dilations: [2]int64{l.each, 1}, Pads: [4]int64{l.each, 0, l.each, 0},
	}
	return pictures{l.ops.Conv(x.value, l.inputKernel(w), win, none, none), w.Dim(0), x.side}
}

// stripSize bounds how many numbers one accumulator sums up. Over all of a
// group's, 16,000 in the first block of a batch of 128, float32 lost three of
// its seven digits where pictures are flat; strips of this size cost no time
// that could be measured.
const stripSize = 512

// strip cuts the channels of x into strips of neighbouring rows, each of which
// counts as a channel.
func (l blocked) strip(x pictures) (value onnx.Value, strips int64) {
	strips = 1
	for strips < x.side && l.each*x.side*x.side/strips > stripSize {
		strips *= 2
	}
	return l.g.Reshape(x.value, 1, l.groups*x.channels*strips, x.side*l.each/strips, x.side), strips
}

// overStrips reduces what was computed for each strip to one number a channel.
func (l blocked) overStrips(v onnx.Value, strips int64, reduce func(onnx.Value, ...int64) onnx.Value) onnx.Value {
	channels := v.Size() / strips / l.groups
	each := l.g.Reshape(v, l.groups, channels/l.block, strips, l.block)
	return l.g.Reshape(reduce(each, 0, 2), channels)
}

// dots is Σ a·b for each channel: a convolution of a channel with itself or
// another one as its kernel, which reads both once and writes next to nothing.
func (l blocked) dots(a, b pictures) onnx.Value {
	image, strips := l.strip(a)
	kernel, _ := l.strip(b)
	kernel = l.g.Reshape(kernel, kernel.Dim(1), 1, kernel.Dim(2), kernel.Dim(3))
	dots := l.ops.Conv(image, kernel, onnx.Window{Group: kernel.Dim(0)}, none, none)
	return l.overStrips(dots, strips, l.g.ReduceSum)
}

// means is the mean of each channel over the batch.
func (l blocked) means(x pictures) onnx.Value {
	image, strips := l.strip(x)
	return l.overStrips(l.ops.GlobalAveragePool(image), strips, l.g.ReduceMean)
}

// count is the number of numbers a channel.
func (l blocked) count(x pictures) float64 {
	return float64(l.groups * l.each * x.side * x.side)
}

func (l blocked) moments(y pictures) (mean, meanSquare onnx.Value) {
	return l.means(y), l.g.Mul(l.dots(y, y), l.g.Scalar(1/l.count(y)))
}

func (l blocked) pool(y pictures) pictures {
	p := l.ops.MaxPool(l.wide(y), onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
	return l.shaped(p, y.channels, y.side/2)
}

// scale is act(scale·x + shift + sum), channel by channel, in one pass.
func (l blocked) scale(x, scale, shift, sum onnx.Value, act ...onnx.Activation) onnx.Value {
	kernel := l.g.Reshape(scale, x.Dim(1), 1, 1, 1)
	return l.ops.Conv(x, kernel, onnx.Window{Group: x.Dim(1)}, shift, sum, act...)
}

// all is a vector with the same number for each channel.
func (l blocked) all(x float64, channels int64) onnx.Value {
	v := make([]float32, channels)
	for i := range v {
		v[i] = float32(x)
	}
	return l.g.Const(v, channels)
}

func (l blocked) affine(p pictures, scale, shift onnx.Value, slope float64) pictures {
	p.value = l.scale(p.value, scale, shift, none, onnx.LeakyReluActivation(slope))
	return p
}

func (l blocked) leakyGrad(dh, h pictures, slope float64) pictures {
	mask := l.scale(h.value, l.all(steep, h.channels), none, none, onnx.ClipActivation(slope, 1))
	dh.value = l.g.Mul(dh.value, mask)
	return dh
}

func (l blocked) sums(dz, p pictures) (sum, product onnx.Value) {
	return l.g.Mul(l.means(dz), l.g.Scalar(l.count(dz))), l.dots(dz, p)
}

func (l blocked) unpool(dz, p, y pictures, k1, k0 onnx.Value) pictures {
	g := l.g
	wide := l.wide(y)
	// 1 where the maximum minus y is zero, 0 where it is more.
	up := l.ops.Upsample(l.wide(p), 2, 2)
	maxima := l.scale(wide, l.all(-1, y.channels), none, up, onnx.HardSigmoidActivation(-steep, 1))
	count := l.ops.Conv(maxima, l.ones2x2(y.channels), onnx.Window{Strides: [2]int64{2, 2}, Group: y.channels}, none, none)
	// A share is repeated along its row by Upsample, and over both rows by the
	// product's broadcasting, which needs no memory.
	pairs := func(v onnx.Value, rows int64) onnx.Value {
		width := l.each * y.side * l.block
		return g.Reshape(v, v.Size()/width/rows, rows, width)
	}
	share := l.ops.Upsample(g.Div(l.wide(dz), count), 1, 2)
	spread := g.Reshape(g.Mul(pairs(maxima, 2), pairs(share, 1)), wide.Shape()...)
	return l.shaped(l.scale(wide, k1, k0, spread), y.channels, y.side)
}

// ones2x2 is a kernel that sums the four numbers of each square of a channel.
func (l blocked) ones2x2(channels int64) onnx.Value {
	return l.g.Reshape(l.all(1, 4*channels), channels, 1, 2, 2)
}

func (l blocked) convInput(dy pictures, w onnx.Value) pictures {
	dx := l.ops.Conv(dy.value, l.backwardKernel(w), l.rows3(), none, none)
	return pictures{dx, w.Dim(1), dy.side}
}

// convWeight correlates the pictures with dy by a convolution of each group of
// its own: the group's pictures, channels last, are one channel of rows in
// which a pixel's channels are neighbours; dy is the kernel, as large as they
// are, which moves by one picture row (that is a group's number of rows) and
// by one pixel (that is all channels): nine times in·out results, summed over
// the groups.
func (l blocked) convWeight(x, dy pictures) onnx.Value {
	g, in, out := l.g, x.channels, dy.channels
	rows := l.groups * x.side * l.each
	image := x.value
	if !isInput(x) {
		last := g.Reshape(l.ops.ReorderOutputLast(x.value), rows, x.side*in)
		image = g.Pad(last, []int64{0, in}, []int64{0, in})
	}
	image = g.Reshape(image, 1, l.groups, rows/l.groups, (x.side+2)*in)
	kernel := g.Reshape(dy.value, l.groups*out, 1, rows/l.groups, x.side)
	win := onnx.Window{
		Strides: [2]int64{l.each, 1}, Dilations: [2]int64{1, in}, Pads: [4]int64{l.each, 0, l.each, 0}, Group: l.groups,
	}
	parts := l.ops.Conv(image, kernel, win, none, none)
	// A product with ones sums the groups in a third of ReduceSum's time.
	ones := g.Reshape(l.all(1, l.groups), 1, l.groups)
	sum := l.rows(g.MatMul(ones, g.Reshape(parts, l.groups, 9*in*out))) // [out/b, 3, 3, in] of b(out)
	var order []int64
	for o := range out / l.block {
		for i := range in {
			for k := range int64(9) {
				order = append(order, (o*9+k)*in+i)
			}
		}
	}
	ordered := g.Reshape(g.Gather(sum, 0, order...), out/l.block, l.block, in*3, 3)
	return g.Reshape(l.ops.ReorderOutput(ordered), out, in, 3, 3)
}

// picturesFirst moves whole rows of pictures between [group, channels/b, row,
// picture] and [group, picture, channels/b, row]; h says how many there are.
func (l blocked) picturesFirst(v onnx.Value, h pictures, first bool) onnx.Value {
	count := h.channels / l.block * h.side
	order := make([]int64, 0, l.groups*l.each*count)
	for group := range l.groups {
		start := group * l.each * count
		outer, inner := count, l.each
		if first {
			outer, inner = inner, outer
		}
		for i := range outer {
			for j := range inner {
				order = append(order, start+j*outer+i)
			}
		}
	}
	rows := l.g.Reshape(v, int64(len(order)), h.side*l.block)
	return l.g.Gather(rows, 0, order...)
}

func (l blocked) flatten(h pictures) onnx.Value {
	batch := l.groups * l.each
	each := l.g.Reshape(l.picturesFirst(h.value, h, true), batch, h.channels, h.side, h.side)
	return l.g.Flatten(l.ops.ReorderOutput(each))
}

func (l blocked) unflatten(d onnx.Value, like pictures) pictures {
	each := l.ops.ReorderInput(l.g.Reshape(d, l.groups*l.each, like.channels, like.side, like.side))
	return l.shaped(l.picturesFirst(each, like, false), like.channels, like.side)
}
