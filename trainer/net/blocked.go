package net

import "fakeart/internal/onnx"

// blocked is the layout in which ONNX Runtime computes convolutions fastest: blocks of b channels
// are contiguous in memory (onnx.Blocked). The batch is divided into groups, and the images of a
// group are interleaved by rows:
//
//	[group, channels/b, row, image of the group, column, b]
//
// With n images per group, a group is one tall image to a convolution whose kernel uses every n-th
// row, and one wide image to a pool, which reads two rows at a time. The purpose is the gradient of
// the weights: the gradient dy of a group can be used as the kernel of a convolution without moving
// any data (convWeight).
//
// The input images are laid out as [group, row, image, column, color], with a black column on
// either side.
type blocked struct {
	g      *onnx.Graph
	ops    onnx.Blocked
	size   int64 // width and height of the input images
	block  int64
	groups int64
	each   int64 // images per group
}

// maxGroups keeps the number of groups below any block size: as channels of a convolution they must
// be either fewer than a block or whole blocks. Fewer groups leave cores idle, more groups need more
// partial sums; eight was the fastest.
const maxGroups = 8

// newBlocked returns the layout for batches of the given number of images of size×size pixels and
// blocks of b channels.
func newBlocked(g *onnx.Graph, size, batch, b int64) blocked {
	groups := int64(1)
	for n := int64(2); n <= min(maxGroups, b-1); n++ {
		if batch%n == 0 {
			groups = n
		}
	}
	return blocked{g, g.Blocked(b), size, b, groups, batch / groups}
}

// paddedRow returns the number of values of an image row of the input.
func (l blocked) paddedRow() int64 { return (l.size + 2) * colors }

func (l blocked) input() featureMaps {
	return featureMaps{
		l.g.Input("images", onnx.Float32, l.groups, 1, l.size*l.each, l.paddedRow()),
		colors, l.size,
	}
}

// isInput reports whether x is the input of the network, which is not blocked.
func isInput(x featureMaps) bool { return x.channels == colors }

func (l blocked) fill(dst []float32, images [][]uint8, flip []bool) {
	row := l.size * colors
	for i, image := range images {
		group, place := int64(i)/l.each, int64(i)%l.each
		flipped := flip != nil && flip[i]
		for h := range l.size {
			out := dst[((group*l.size+h)*l.each+place)*l.paddedRow()+colors:][:row]
			in := image[h*row:][:row]
			if !flipped {
				for j, p := range in {
					out[j] = levels[p]
				}
				continue
			}
			for j := int64(0); j < row; j += colors {
				k := row - colors - j
				out[j], out[j+1], out[j+2] = levels[in[k]], levels[in[k+1]], levels[in[k+2]]
			}
		}
	}
}

// omit omits the optional bias or summand of a convolution.
var omit onnx.Value

// shaped reshapes blocked data to tall images, the shape that all operations take and return.
func (l blocked) shaped(v onnx.Value, channels, side int64) featureMaps {
	return featureMaps{l.g.Reshape(v, l.groups, channels, side*l.each, side), channels, side}
}

// wide reshapes x so that adjacent rows belong to the same images.
func (l blocked) wide(x featureMaps) onnx.Value {
	return l.g.Reshape(x.value, l.groups, x.channels, x.side, l.each*x.side)
}

// rows3 is the window of a 3×3 kernel over tall images.
func (l blocked) rows3() onnx.Window {
	return onnx.Window{Dilations: [2]int64{l.each, 1}, Pads: [4]int64{l.each, 1, l.each, 1}}
}

// Weights [out,in,3,3] are reordered by ReorderInput, which makes out or in the innermost
// dimension, and then by Gather, which moves whole rows of one block. Unlike Transpose, both
// distribute the work among threads.

// rows reshapes v to rows of one block each.
func (l blocked) rows(v onnx.Value) onnx.Value { return l.g.Reshape(v, v.Size()/l.block, l.block) }

// outInnermost reorders weights [out,in,3,3] to rows [out/b, in, 3, 3] of b(out).
func (l blocked) outInnermost(w onnx.Value) onnx.Value {
	out, in := w.Dim(0), w.Dim(1)
	return l.rows(l.ops.ReorderInput(l.g.Reshape(w, out/l.block, l.block, in*3, 3)))
}

// kernel reorders weights to the order that blocked convolutions read: [out/b, in/b, 3, 3, b(in),
// b(out)].
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

// backwardKernel returns the kernels of w rotated by 180°, with in and out swapped: [in/b, out/b,
// 3, 3, b(out), b(in)].
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

// inputKernel reorders the weights of the first block for images whose colors are contiguous: a
// kernel of three columns and three colors becomes one of nine columns and one channel.
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

func (l blocked) conv(x featureMaps, w onnx.Value) featureMaps {
	if !isInput(x) {
		return featureMaps{l.ops.Conv(x.value, l.kernel(w), l.rows3(), omit, omit), w.Dim(0), x.side}
	}
	win := onnx.Window{
		Strides: [2]int64{1, colors}, Dilations: [2]int64{l.each, 1}, Pads: [4]int64{l.each, 0, l.each, 0},
	}
	return featureMaps{l.ops.Conv(x.value, l.inputKernel(w), win, omit, omit), w.Dim(0), x.side}
}

// stripSize bounds how many values one accumulator sums. Without it, sums over all values of a
// group (16,000 in the first block for a batch of 128) lost three of the seven digits of float32
// where images are flat. Strips of this size have no measurable cost.
const stripSize = 512

// strip divides each channel of x into strips of adjacent rows, each of which becomes a channel.
func (l blocked) strip(x featureMaps) (value onnx.Value, strips int64) {
	strips = 1
	for strips < x.side && l.each*x.side*x.side/strips > stripSize && x.side*l.each%(2*strips) == 0 {
		strips *= 2
	}
	return l.g.Reshape(x.value, 1, l.groups*x.channels*strips, x.side*l.each/strips, x.side), strips
}

// overStrips reduces a value per strip to one value per channel.
func (l blocked) overStrips(v onnx.Value, strips int64, reduce func(onnx.Value, ...int64) onnx.Value) onnx.Value {
	channels := v.Size() / strips / l.groups
	each := l.g.Reshape(v, l.groups, channels/l.block, strips, l.block)
	return l.g.Reshape(reduce(each, 0, 2), channels)
}

// dots returns Σ a·b for each channel. It convolves each channel of a with the same channel of b as
// the kernel, which reads both once and writes almost nothing.
func (l blocked) dots(a, b featureMaps) onnx.Value {
	image, strips := l.strip(a)
	kernel, _ := l.strip(b)
	kernel = l.g.Reshape(kernel, kernel.Dim(1), 1, kernel.Dim(2), kernel.Dim(3))
	dots := l.ops.Conv(image, kernel, onnx.Window{Group: kernel.Dim(0)}, omit, omit)
	return l.overStrips(dots, strips, l.g.ReduceSum)
}

// means returns the mean of each channel over the batch.
func (l blocked) means(x featureMaps) onnx.Value {
	image, strips := l.strip(x)
	return l.overStrips(l.ops.GlobalAveragePool(image), strips, l.g.ReduceMean)
}

// count returns the number of elements per channel.
func (l blocked) count(x featureMaps) float64 {
	return float64(l.groups * l.each * x.side * x.side)
}

func (l blocked) moments(y featureMaps) (mean, meanSquare onnx.Value) {
	return l.means(y), l.g.Mul(l.dots(y, y), l.g.Scalar(1/l.count(y)))
}

func (l blocked) pool(y featureMaps) featureMaps {
	p := l.ops.MaxPool(l.wide(y), onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
	return l.shaped(p, y.channels, y.side/2)
}

// scale returns act(scale·x + shift + sum) per channel, in one pass over the data.
func (l blocked) scale(x, scale, shift, sum onnx.Value, act ...onnx.Activation) onnx.Value {
	kernel := l.g.Reshape(scale, x.Dim(1), 1, 1, 1)
	return l.ops.Conv(x, kernel, onnx.Window{Group: x.Dim(1)}, shift, sum, act...)
}

// all is a vector with the value x for each channel.
func (l blocked) all(x float64, channels int64) onnx.Value {
	v := make([]float32, channels)
	for i := range v {
		v[i] = float32(x)
	}
	return l.g.Const(v, channels)
}

func (l blocked) affine(p featureMaps, scale, shift onnx.Value, add featureMaps, slope float64) featureMaps {
	p.value = l.scale(p.value, scale, shift, add.value, onnx.LeakyReluActivation(slope))
	return p
}

func (l blocked) leakyGrad(dh, h featureMaps, slope float64) featureMaps {
	mask := l.scale(h.value, l.all(steep, h.channels), omit, omit, onnx.ClipActivation(slope, 1))
	dh.value = l.g.Mul(dh.value, mask)
	return dh
}

func (l blocked) sums(dz, p featureMaps) (sum, product onnx.Value) {
	return l.g.Mul(l.means(dz), l.g.Scalar(l.count(dz))), l.dots(dz, p)
}

func (l blocked) unpool(dz, p, y featureMaps, k1, k0 onnx.Value) featureMaps {
	g := l.g
	wide := l.wide(y)
	// 1 where the maximum minus y is zero, 0 where it is positive.
	up := l.ops.Upsample(l.wide(p), 2, 2)
	maxima := l.scale(wide, l.all(-1, y.channels), omit, up, onnx.HardSigmoidActivation(-steep, 1))
	count := l.ops.Conv(maxima, l.ones2x2(y.channels), onnx.Window{Strides: [2]int64{2, 2}, Group: y.channels}, omit, omit)
	// Upsample repeats each share along its row; broadcasting in the product repeats it for both
	// rows without using memory.
	pairs := func(v onnx.Value, rows int64) onnx.Value {
		width := l.each * y.side * l.block
		return g.Reshape(v, v.Size()/width/rows, rows, width)
	}
	share := l.ops.Upsample(g.Div(l.wide(dz), count), 1, 2)
	spread := g.Reshape(g.Mul(pairs(maxima, 2), pairs(share, 1)), wide.Shape()...)
	return l.shaped(l.scale(wide, k1, k0, spread), y.channels, y.side)
}

// ones2x2 is a kernel that sums each 2×2 square of a channel.
func (l blocked) ones2x2(channels int64) onnx.Value {
	return l.g.Reshape(l.all(1, 4*channels), channels, 1, 2, 2)
}

func (l blocked) plus(dz, y featureMaps, k1, k0 onnx.Value) featureMaps {
	y.value = l.scale(y.value, k1, k0, dz.value)
	return y
}

func (l blocked) convInput(dy featureMaps, w onnx.Value, add featureMaps) featureMaps {
	dx := l.ops.Conv(dy.value, l.backwardKernel(w), l.rows3(), omit, add.value)
	return featureMaps{dx, w.Dim(1), dy.side}
}

// convWeight correlates the images with dy, with one convolution per group. The images of the
// group, channels last, are one channel of rows in which the channels of a pixel are adjacent. dy
// is the kernel, which is as large as the images. It moves by one image row (one row of each image
// in the group) and by one pixel (all its channels). This gives nine times in·out results per
// group, which are summed over the groups. Large images are divided into bands of rows, which are
// summed as well.
func (l blocked) convWeight(x, dy featureMaps) onnx.Value {
	g, in, out := l.g, x.channels, dy.channels
	height := x.side * l.each // of a group
	image := x.value
	if !isInput(x) {
		last := g.Reshape(l.ops.ReorderOutputLast(x.value), l.groups*height, x.side*in)
		image = g.Pad(last, []int64{0, in}, []int64{0, in})
	}
	image = g.Reshape(image, 1, l.groups, height, (x.side+2)*in)
	bands := int64(1)
	if !isInput(x) {
		bands = l.bands(dy)
	}
	rows := height / bands
	whole := g.Reshape(dy.value, l.groups*out/l.block, height*x.side*l.block)
	var parts []onnx.Value
	for i := range bands {
		part, kernel := image, whole
		pads := [4]int64{l.each, 0, l.each, 0}
		if bands > 1 {
			// The neighboring rows of a band belong to its images.
			from, to := max(i*rows-l.each, 0), min((i+1)*rows+l.each, height)
			part = g.Slice(image, 2, from, to)
			kernel = g.Slice(whole, 1, i*rows*x.side*l.block, (i+1)*rows*x.side*l.block)
			if i > 0 {
				pads[0] = 0
			}
			if i < bands-1 {
				pads[2] = 0
			}
		}
		kernel = g.Reshape(kernel, l.groups*out, 1, rows, x.side)
		win := onnx.Window{Strides: [2]int64{l.each, 1}, Dilations: [2]int64{1, in}, Pads: pads, Group: l.groups}
		parts = append(parts, g.Reshape(l.ops.Conv(part, kernel, win, omit, omit), l.groups, 9*in*out))
	}
	all := parts[0]
	if bands > 1 {
		all = g.Concat(0, parts...)
	}
	// Summing the groups with a matrix product takes a third of the time of ReduceSum.
	ones := g.Reshape(l.all(1, l.groups*bands), 1, l.groups*bands)
	sum := l.rows(g.MatMul(ones, all)) // [out/b, 3, 3, in] of b(out)
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

// convWeight reads the kernel of a group several times, so it should fit into a core's cache. If the
// images have at least bandedSide rows, convWeight divides them into bands for which the kernel has at
// most bandSize bytes; for smaller images that gains little. Variables, so that tests can change them.
var bandedSide, bandSize int64 = 32, 512 << 10

// bands returns into how many bands of rows convWeight divides the images.
func (l blocked) bands(dy featureMaps) int64 {
	bands, size := int64(1), 4*l.each*dy.side*dy.side*dy.channels
	if dy.side < bandedSide {
		return 1
	}
	for dy.side%(2*bands) == 0 && size/bands > bandSize {
		bands *= 2
	}
	return bands
}

// imagesFirst reorders whole image rows from [group, channels/b, row, image] to [group, image,
// channels/b, row] if first is true, and back otherwise. h gives the dimensions.
func (l blocked) imagesFirst(v onnx.Value, h featureMaps, first bool) onnx.Value {
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

func (l blocked) flatten(h featureMaps) onnx.Value {
	batch := l.groups * l.each
	each := l.g.Reshape(l.imagesFirst(h.value, h, true), batch, h.channels, h.side, h.side)
	return l.g.Flatten(l.ops.ReorderOutput(each))
}

func (l blocked) unflatten(d onnx.Value, like featureMaps) featureMaps {
	each := l.ops.ReorderInput(l.g.Reshape(d, l.groups*l.each, like.channels, like.side, like.side))
	return l.shaped(l.imagesFirst(each, like, false), like.channels, like.side)
}
