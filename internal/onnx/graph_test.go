package onnx_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
)

// inputs are what the wrong graphs below are made of.
type inputs struct {
	x, y    onnx.Value // [2,4,6,6] and [batch,4,6,6]
	w       onnx.Value // [8,4,3,3]
	m, row  onnx.Value // [3,4] and [4]
	truth   onnx.Value // bool [3,4]
	numbers onnx.Value // int64 [2]
	foreign onnx.Value // of another graph, which has the same names
}

func newInputs(g *onnx.Graph) inputs {
	in := inputs{
		x: g.Input("x", onnx.Float32, 2, 4, 6, 6), y: g.Input("y", onnx.Float32, onnx.Batch, 4, 6, 6),
		w: g.Input("w", onnx.Float32, 8, 4, 3, 3),
		m: g.Input("m", onnx.Float32, 3, 4), row: g.Input("row", onnx.Float32, 4),
		numbers: g.Ints(1, 2),
		foreign: onnx.NewGraph("other").Input("m", onnx.Float32, 3, 4),
	}
	in.truth = g.Input("truth", onnx.Bool, 3, 4)
	return in
}

func TestAWrongNodeFailsWhileItIsBuilt(t *testing.T) {
	square := onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}}
	for _, c := range []struct {
		name  string
		build func(g *onnx.Graph, in inputs)
		want  string // all that follows the place
	}{
		{
			"channels that do not fit the weights", func(g *onnx.Graph, in inputs) { g.Conv(g.Slice(in.x, 1, 0, 3), in.w, onnx.Window{}) },
			"Conv(layer/Slice:0 float[2,3,6,6], w float[8,4,3,3]): 3 channels do not fit weights for 4 in 1 groups",
		},
		{
			"results that do not fit the groups", func(g *onnx.Graph, in inputs) {
				g.Conv(in.x, g.Const(make([]float32, 3*2*9), 3, 2, 3, 3), onnx.Window{Group: 2})
			},
			"Conv(x float[2,4,6,6], const_2 float[3,2,3,3]): 3 results do not fit 2 groups",
		},
		{
			"a bias of another length", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{}, in.row) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3], row float[4]): the bias should have shape [8]",
		},
		{
			"a kernel larger than the image", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{Dilations: [2]int64{3, 1}}) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): gives an empty tensor of shape [2 8 0 4]",
		},
		{
			"a convolution of a matrix", func(g *onnx.Graph, in inputs) { g.Conv(in.m, in.w, onnx.Window{}) },
			"Conv(m float[3,4], w float[8,4,3,3]): m float[3,4] should have 4 dimensions",
		},
		{
			"a convolution with flat weights", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.m, onnx.Window{}) },
			"Conv(x float[2,4,6,6], m float[3,4]): m float[3,4] should have 4 dimensions",
		},
		{
			"negative padding", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{Pads: [4]int64{0, -1, 0, 0}}) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): pads [0 -1 0 0] are negative",
		},
		{
			"a convolution over the batch", func(g *onnx.Graph, in inputs) { g.Conv(g.Transpose(in.y, 2, 1, 0, 3), in.w, onnx.Window{}) },
			"Conv(layer/Transpose:0 float[6,4,batch,6], w float[8,4,3,3]): the batch must be the first dimension",
		},
		{
			"a pool of a matrix", func(g *onnx.Graph, in inputs) { g.MaxPool(in.m, square) },
			"MaxPool(m float[3,4]): m float[3,4] should have 4 dimensions",
		},
		{
			"a pool without a kernel", func(g *onnx.Graph, in inputs) { g.MaxPool(in.x, onnx.Window{}) },
			"MaxPool(x float[2,4,6,6]): a window of [0 0] with pads [0 0 0 0]",
		},
		{
			"a pool that sees nothing but padding", func(g *onnx.Graph, in inputs) {
				g.MaxPool(in.x, onnx.Window{Kernel: [2]int64{2, 2}, Pads: [4]int64{0, 0, 2, 0}})
			},
			"MaxPool(x float[2,4,6,6]): a window of [2 2] with pads [0 0 2 0]",
		},
		{
			"a pool larger than the image", func(g *onnx.Graph, in inputs) { g.MaxPool(in.x, onnx.Window{Kernel: [2]int64{7, 1}}) },
			"MaxPool(x float[2,4,6,6]): gives an empty tensor of shape [2 4 0 6]",
		},
		{
			"shapes that do not broadcast", func(g *onnx.Graph, in inputs) { g.Add(in.m, g.Const([]float32{1, 2, 3}, 3)) },
			"Add(m float[3,4], const_2 float[3]): the shapes do not broadcast",
		},
		{
			"arithmetic with integers", func(g *onnx.Graph, in inputs) { g.Mul(in.m, in.numbers) },
			"Mul(m float[3,4], const int64[2]): const int64[2] is not float",
		},
		{
			"a root of truth values", func(g *onnx.Graph, in inputs) { g.Sqrt(in.truth) },
			"Sqrt(truth bool[3,4]): truth bool[3,4] is not float",
		},
		{
			"limits for integers", func(g *onnx.Graph, in inputs) { g.Clip(in.numbers, 0, 1) },
			"Clip(const int64[2], const_2 float[], const_3 float[]): const int64[2] is not float",
		},
		{
			"Float of a number", func(g *onnx.Graph, in inputs) { g.Float(in.m) },
			"Cast(m float[3,4]): m float[3,4] is not bool",
		},
		{
			"a condition that is a number", func(g *onnx.Graph, in inputs) { g.Where(in.m, in.m, in.m) },
			"Where(m float[3,4], m float[3,4], m float[3,4]): the condition is not bool",
		},
		{
			"a choice between integers", func(g *onnx.Graph, in inputs) { g.Where(in.truth, in.numbers, in.m) },
			"Where(truth bool[3,4], const int64[2], m float[3,4]): const int64[2] is not float",
		},
		{
			"a choice of another shape", func(g *onnx.Graph, in inputs) { g.Where(in.truth, in.m, in.row) },
			"Where(truth bool[3,4], m float[3,4], row float[4]): row float[4] should have the condition's shape",
		},
		{
			"a shape of other size", func(g *onnx.Graph, in inputs) { g.Reshape(in.m, 5, 2) },
			"Reshape(m float[3,4], const_2 int64[2]): cannot become [5 2]",
		},
		{
			"a shape with the batch elsewhere", func(g *onnx.Graph, in inputs) { g.Reshape(in.y, 144, onnx.Batch) },
			"Reshape(y float[batch,4,6,6], const_2 int64[2]): cannot become [144 -1]",
		},
		{
			"a shape that makes the batch another", func(g *onnx.Graph, in inputs) { g.Reshape(in.y, onnx.Batch, 72) },
			"Reshape(y float[batch,4,6,6], const_2 int64[2]): cannot become [-1 72]",
		},
		{
			"enlarging to no multiple", func(g *onnx.Graph, in inputs) { g.Resize(in.y, 12, 9) },
			"Resize(y float[batch,4,6,6], const_2 float[4]): cannot be enlarged to 12×9",
		},
		{
			"enlarging a matrix", func(g *onnx.Graph, in inputs) { g.Resize(in.m, 12, 12) },
			"Resize(m float[3,4], const_2 float[4]): m float[3,4] should have 4 dimensions",
		},
		{
			"a shape with negative sides", func(g *onnx.Graph, in inputs) { g.Reshape(in.m, -2, -6) },
			"Reshape(m float[3,4], const_2 int64[2]): gives an empty tensor of shape [-2 -6]",
		},
		{
			"a flat vector made flat", func(g *onnx.Graph, in inputs) { g.Flatten(in.row) },
			"Flatten(row float[4]): needs two dimensions at least",
		},
		{
			"a batch that would be made flat", func(g *onnx.Graph, in inputs) { g.Flatten(g.Transpose(in.y, 1, 0, 2, 3)) },
			"Flatten(layer/Transpose:0 float[4,batch,6,6]): the batch must be the first dimension",
		},
		{
			"an order with a dimension missing", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0) },
			"Transpose(m float[3,4]): [0] is no order of its dimensions",
		},
		{
			"an order with a dimension twice", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0, 0) },
			"Transpose(m float[3,4]): [0 0] is no order of its dimensions",
		},
		{
			"an order with a dimension that is not there", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0, 2) },
			"Transpose(m float[3,4]): [0 2] is no order of its dimensions",
		},
		{
			"nothing to join", func(g *onnx.Graph, _ inputs) { g.Concat(0) },
			"Concat(): has no axis 0",
		},
		{
			"an axis to join along that is not there", func(g *onnx.Graph, in inputs) { g.Concat(2, in.m, in.m) },
			"Concat(m float[3,4], m float[3,4]): has no axis 2",
		},
		{
			"pieces of different width joined in height", func(g *onnx.Graph, in inputs) { g.Concat(0, in.m, g.Slice(in.m, 1, 0, 2)) },
			"Concat(m float[3,4], layer/Slice:0 float[3,2]): layer/Slice:0 float[3,2] differs in dimension 1",
		},
		{
			"pieces of different type joined", func(g *onnx.Graph, in inputs) { g.Concat(0, in.m, in.truth) },
			"Concat(m float[3,4], truth bool[3,4]): truth bool[3,4] differs in kind",
		},
		{
			"batches joined", func(g *onnx.Graph, in inputs) { g.Concat(0, in.x, in.y) },
			"Concat(x float[2,4,6,6], y float[batch,4,6,6]): cannot join along the batch",
		},
		{
			"pieces that are not the whole", func(g *onnx.Graph, in inputs) { g.Split(in.row, 1, 2) },
			"Split(row float[4], const int64[2]): the pieces have 3 elements",
		},
		{
			"a piece of negative length", func(g *onnx.Graph, in inputs) { g.Split(in.row, 5, -1) },
			"Split(row float[4], const_2 int64[2]): a piece has -1 elements",
		},
		{
			"a matrix cut as a vector", func(g *onnx.Graph, in inputs) { g.Split(in.m, 1, 2) },
			"Split(m float[3,4], const int64[2]): m float[3,4] should have 1 dimensions",
		},
		{
			"a slice past the end", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 1, 2, 5) },
			"Slice(m float[3,4], const_2 int64[1], const_3 int64[1], const_4 int64[1]): has no elements 2 to 5 in dimension 1",
		},
		{
			"an empty slice", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 0, 1, 1) },
			"Slice(m float[3,4], const_2 int64[1], const_2 int64[1], const_3 int64[1]): has no elements 1 to 1 in dimension 0",
		},
		{
			"a slice of an axis that is not there", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 2, 0, 1) },
			"Slice(m float[3,4], const_2 int64[1], const_3 int64[1], const_4 int64[1]): has no axis 2",
		},
		{
			"a slice of the batch", func(g *onnx.Graph, in inputs) { g.Slice(in.y, 0, 0, 1) },
			"Slice(y float[batch,4,6,6], const_2 int64[1], const_3 int64[1], const_2 int64[1]): has no elements 0 to 1 in dimension 0",
		},
		{
			"an element that is not there", func(g *onnx.Graph, in inputs) { g.Gather(in.m, 1, 0, 4) },
			"Gather(m float[3,4], const_2 int64[2]): has no element 4 in dimension 1",
		},
		{
			"no elements at all", func(g *onnx.Graph, in inputs) { g.Gather(in.m, 1) },
			"Gather(m float[3,4], const_2 int64[0]): gives an empty tensor of shape [3 0]",
		},
		{
			"elements along an axis that is not there", func(g *onnx.Graph, in inputs) { g.Gather(in.m, -1, 0) },
			"Gather(m float[3,4], const_2 int64[1]): has no axis -1",
		},
		{
			"padding for too few dimensions", func(g *onnx.Graph, in inputs) { g.Pad(in.m, []int64{1}, []int64{1}) },
			"Pad(m float[3,4], const_2 int64[2]): needs one padding a dimension",
		},
		{
			"padding that cuts", func(g *onnx.Graph, in inputs) { g.Pad(in.m, []int64{0, -1}, []int64{0, 0}) },
			"Pad(m float[3,4], const_2 int64[4]): cannot pad by a negative number",
		},
		{
			"a padded batch", func(g *onnx.Graph, in inputs) { g.Pad(in.y, []int64{1, 0, 0, 0}, []int64{2, 0, 0, 0}) },
			"Pad(y float[batch,4,6,6], const_2 int64[8]): cannot pad the batch",
		},
		{
			"a sum over an axis that is not there", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, 2) },
			"ReduceSum(m float[3,4], const_2 int64[1]): has no axes [2]",
		},
		{
			"a sum over an axis counted from the end", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, -1) },
			"ReduceSum(m float[3,4], const_2 int64[1]): has no axes [-1]",
		},
		{
			"a sum over everything", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, 0, 1) },
			"ReduceSum(m float[3,4], const_2 int64[2]): nothing would be left: keep one dimension",
		},
		{
			"a sum over nothing, which ONNX takes for everything", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m) },
			"ReduceSum(m float[3,4], const_2 int64[0]): has no axes []",
		},
		{
			"a sum of truth values", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.truth, 0) },
			"ReduceSum(truth bool[3,4], const_2 int64[1]): truth bool[3,4] cannot be summed",
		},
		{
			"a mean over the same axis twice", func(g *onnx.Graph, in inputs) { g.ReduceMean(in.m, 1, 1) },
			"ReduceMean(m float[3,4]): has no axes [1 1]",
		},
		{
			"a mean of integers", func(g *onnx.Graph, in inputs) { g.ReduceMean(in.numbers, 0) },
			"ReduceMean(const int64[2]): const int64[2] is not float",
		},
		{
			"matrices whose inner sides differ", func(g *onnx.Graph, in inputs) { g.MatMul(in.m, in.m) },
			"MatMul(m float[3,4], m float[3,4]): the inner dimensions differ",
		},
		{
			"a matrix times a vector", func(g *onnx.Graph, in inputs) { g.MatMul(in.m, in.row) },
			"MatMul(m float[3,4], row float[4]): both need the same number of dimensions, two or more",
		},
		{
			"batches of matrices that differ", func(g *onnx.Graph, in inputs) { g.MatMul(in.x, in.y) },
			"MatMul(x float[2,4,6,6], y float[batch,4,6,6]): the leading dimensions differ",
		},
		{
			"a Gemm whose inner sides differ", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, in.m, false, false) },
			"Gemm(m float[3,4], m float[3,4]): the inner dimensions 4 and 3 differ",
		},
		{
			"a Gemm that transposes what fitted", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, g.Transpose(in.m, 1, 0), true, false) },
			"Gemm(m float[3,4], layer/Transpose:0 float[4,3]): the inner dimensions 3 and 4 differ",
		},
		{
			"a Gemm with a bias for other columns", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, in.m, false, true, in.row) },
			"Gemm(m float[3,4], m float[3,4], row float[4]): the bias should have shape [3]",
		},
		{
			"a Gemm of images", func(g *onnx.Graph, in inputs) { g.Gemm(in.x, in.m, false, true) },
			"Gemm(x float[2,4,6,6], m float[3,4]): x float[2,4,6,6] should have 2 dimensions",
		},
		{
			"a tensor that was never made", func(g *onnx.Graph, in inputs) { g.Add(in.m, onnx.Value{}) },
			"Add(m float[3,4],  undefined[]): an input is missing",
		},
		{
			"a tensor of another graph", func(g *onnx.Graph, in inputs) { g.Neg(in.foreign) },
			"Neg(m float[3,4]): m float[3,4] is of another graph",
		},
		{
			"an output of another graph", func(g *onnx.Graph, in inputs) { g.Output("out", in.foreign) },
			"m float[3,4] is of another graph",
		},
		{
			"an output that was never made", func(g *onnx.Graph, _ inputs) { g.Output("out", onnx.Value{}) },
			"a missing tensor was used",
		},
		{
			"an output under a name that is taken", func(g *onnx.Graph, in inputs) { g.Output("x", g.Neg(in.m)) },
			`the name "x" is empty or taken`,
		},
		{
			"two inputs of one name", func(g *onnx.Graph, _ inputs) { g.Input("x", onnx.Float32, 1) },
			`the name "x" is empty or taken`,
		},
		{
			"a parameter without a name", func(g *onnx.Graph, _ inputs) { g.Param("", []float32{1}, 1) },
			`the name "" is empty or taken`,
		},
		{
			"an input without room", func(g *onnx.Graph, _ inputs) { g.Input("z", onnx.Float32, 3, 0) },
			"input z float[3,0] has a dimension of size 0",
		},
		{
			"a parameter with too few numbers", func(g *onnx.Graph, _ inputs) { g.Param("p", []float32{1, 2, 3}, 2, 2) },
			"constant p float[2,2] was given 3 numbers",
		},
		{
			"a constant with the batch in its shape", func(g *onnx.Graph, _ inputs) { g.Const([]float32{1, 2}, onnx.Batch, 2) },
			"constant const_2 float[batch,2] was given 2 numbers",
		},
		{
			"blocks of no channels", func(g *onnx.Graph, _ inputs) { g.Blocked(0) },
			"blocks of 0 channels",
		},
		{
			"a blocked convolution to part of a block", func(g *onnx.Graph, in inputs) {
				g.Blocked(16).Conv(in.x, in.w, onnx.Window{}, onnx.Value{}, onnx.Value{})
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): 8 channels are not whole blocks of 16",
		},
		{
			"a blocked convolution from a block and a half", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(g.Concat(1, in.x, in.x, in.x), g.Const(make([]float32, 8*12), 8, 12, 1, 1), onnx.Window{}, onnx.Value{}, onnx.Value{})
			},
			"Conv(layer/Concat:0 float[2,12,6,6], const_2 float[8,12,1,1]): 12 channels are not whole blocks of 8",
		},
		{
			"a blocked convolution added to another shape", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(in.x, in.w, onnx.Window{}, onnx.Value{}, in.x)
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): x float[2,4,6,6] cannot be added to [2 8 4 4]",
		},
		{
			"a blocked convolution with a bias of another length", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(in.x, in.w, onnx.Window{}, in.row, onnx.Value{})
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3], row float[4]): the bias should have shape [8]",
		},
		{
			"a blocked pool of part of a block", func(g *onnx.Graph, in inputs) { g.Blocked(8).MaxPool(in.x, square) },
			"MaxPool(x float[2,4,6,6]): 4 channels are not whole blocks of 8",
		},
		{
			"a blocked mean of part of a block", func(g *onnx.Graph, in inputs) { g.Blocked(8).AveragePool(in.x, square) },
			"AveragePool(x float[2,4,6,6]): 4 channels are not whole blocks of 8",
		},
		{
			"blocked means of part of a block", func(g *onnx.Graph, in inputs) { g.Blocked(8).GlobalAveragePool(in.x) },
			"GlobalAveragePool(x float[2,4,6,6]): 4 channels are not whole blocks of 8",
		},
		{
			"blocked pixels repeated no times", func(g *onnx.Graph, in inputs) { g.Blocked(4).Upsample(in.x, 0, 2) },
			"Upsample(x float[2,4,6,6]): gives an empty tensor of shape [2 4 0 12]",
		},
		{
			"part of a block taken into the layout", func(g *onnx.Graph, in inputs) { g.Blocked(8).ReorderInput(in.x) },
			"ReorderInput(x float[2,4,6,6]): 4 channels are not whole blocks of 8",
		},
		{
			"part of a block taken out of the layout", func(g *onnx.Graph, in inputs) { g.Blocked(8).ReorderOutput(in.x) },
			"ReorderOutput(x float[2,4,6,6]): 4 channels are not whole blocks of 8",
		},
		{
			"a matrix taken into the layout", func(g *onnx.Graph, in inputs) { g.Blocked(4).ReorderInput(in.m) },
			"ReorderInput(m float[3,4]): m float[3,4] should have 4 dimensions",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := onnx.NewGraph("network")
			in := newInputs(g)
			if err := g.Err(); err != nil {
				t.Fatal(err)
			}
			g.In("layer", func() { c.build(g, in) })
			want := "build graph network: at layer: " + c.want
			if err := g.Err(); err == nil || err.Error() != want {
				t.Fatalf("error\n%v, want\n%s", err, want)
			}
			if m, err := g.Model(); m != nil || err == nil || err.Error() != want {
				t.Errorf("Model gives %v, %v", m, err)
			}
			if data, err := g.Marshal(); data != nil || err == nil || err.Error() != want {
				t.Errorf("Marshal gives %d bytes, %v", len(data), err)
			}
		})
	}
}

func TestAnErrorNamesTheWholeScopeOrTheGraph(t *testing.T) {
	g := onnx.NewGraph("network")
	g.In("block2", func() { g.In("pool", func() { g.Fail("%d is odd", 3) }) })
	if want := "build graph network: at block2/pool: 3 is odd"; g.Err().Error() != want {
		t.Errorf("error %q, want %q", g.Err(), want)
	}
	g = onnx.NewGraph("network")
	g.Fail("%d is odd", 3)
	if want := "build graph network: at network: 3 is odd"; g.Err().Error() != want {
		t.Errorf("error %q, want %q", g.Err(), want)
	}
}

func TestTheFirstMistakeIsKeptAndTheRestDoesNothing(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2, 4)
	var wrong onnx.Value
	g.In("first", func() { wrong = g.MatMul(x, x) })
	first := g.Err()
	if first == nil {
		t.Fatal("no error")
	}
	if wrong.Name() != "" || wrong.Dim(0) != 0 || wrong.Dim(-1) != 0 || len(wrong.Shape()) != 0 {
		t.Errorf("the failed node gives %v, want the zero value", wrong)
	}
	// Everything that a network may go on to do with a missing tensor, or with one
	// that is there: none of it may panic, give a tensor or replace the error.
	b := g.Blocked(8)
	win := onnx.Window{Kernel: [2]int64{2, 2}}
	for _, v := range []onnx.Value{wrong, x} {
		results := []onnx.Value{
			g.Conv(v, wrong, onnx.Window{}, wrong), g.MaxPool(v, win), g.Add(v, v), g.Less(v, v), g.Sqrt(v), g.LeakyRelu(v, 0.1),
			g.Clip(v, 0, 1), g.Float(v), g.Where(wrong, v, v), g.Reshape(v, 9), g.Resize(v, 8, 8), g.Flatten(v), g.Transpose(v, 1, 0), g.Concat(0, v, v),
			g.Slice(v, 0, 0, 1), g.Gather(v, 0, 0), g.Pad(v, []int64{0, 0}, []int64{1, 1}), g.ReduceSum(v, 0), g.ReduceMean(v, 0),
			g.MatMul(v, v), g.Gemm(v, v, true, false, v),
			b.Conv(v, wrong, onnx.Window{}, wrong, wrong), b.MaxPool(v, win), b.AveragePool(v, win), b.GlobalAveragePool(v),
			b.Upsample(v, 2, 2), b.ReorderInput(v), b.ReorderOutput(v), b.ReorderOutputLast(v),
		}
		results = append(results, g.Split(v, 1, 1)...)
		for i, r := range results {
			if r.Name() != "" {
				t.Errorf("call %d gives %s after the mistake", i, r)
			}
		}
		g.Output("out", v)
	}
	g.Fail("another mistake")
	if !errors.Is(g.Err(), first) {
		t.Errorf("the error became %v, was %v", g.Err(), first)
	}
}

func TestAGraphWithoutOutputIsRefused(t *testing.T) {
	g := onnx.NewGraph("network")
	g.Neg(g.Input("x", onnx.Float32, 1))
	if _, err := g.Model(); err == nil || err.Error() != "build graph network: at network: the graph has no output" {
		t.Errorf("error %v", err)
	}
}

func model(t *testing.T, g *onnx.Graph) *onnxpb.ModelProto {
	t.Helper()
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNamesAreUniqueAndSayTheLayer(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2)
	for range 2 {
		g.In("layer", func() {
			x = g.Neg(g.Neg(x))
			x = g.Add(x, g.Scalar(1))
		})
	}
	g.Input("const_2", onnx.Float32, 1)
	x = g.Add(x, g.Const([]float32{3, 4}, 2)) // its first choice of a name is taken
	g.Output("y", x)
	var nodes []string
	seen := map[string]bool{}
	for _, n := range model(t, g).GetGraph().GetNode() {
		nodes = append(nodes, n.GetName())
		for _, o := range n.GetOutput() {
			if seen[o] {
				t.Errorf("two tensors are named %s", o)
			}
			seen[o] = true
		}
	}
	want := []string{"layer/Neg", "layer/Neg_2", "layer/Add", "layer/Neg_3", "layer/Neg_4", "layer/Add_2", "Add"}
	if !slices.Equal(nodes, want) {
		t.Errorf("nodes %v, want %v", nodes, want)
	}
	near(t, "y", run(t, g, []feed{counting("x", 2), counting("const_2", 1)}, result{"y", []int64{2}})[0], []float32{5, 7})
}

func TestEqualConstantsAreSharedAndUnequalOnesAreNot(t *testing.T) {
	g := onnx.NewGraph("network")
	same := [][2]onnx.Value{
		{g.Scalar(1), g.Const([]float32{1}, 1)},
		{g.Ints(1, 2), g.Ints(1, 2)},
	}
	g.In("layer", func() { same = append(same, [2]onnx.Value{g.Scalar(1), same[0][0]}) })
	for _, c := range same {
		if c[0].Name() != c[1].Name() {
			t.Errorf("%s and %s are equal but two", c[0], c[1])
		}
	}
	long := make([]float32, 17)
	differ := []onnx.Value{
		g.Scalar(1), g.Scalar(2), g.Ints(1), g.Const([]float32{1}), g.Const([]float32{1, 2}, 2), g.Const([]float32{1, 2}, 1, 2),
		g.Scalar(0), g.Scalar(math.Copysign(0, -1)), g.Scalar(1e-45), g.Const(long, 17), g.Const(long, 17),
	}
	names := map[string]bool{}
	for _, v := range differ {
		if names[v.Name()] {
			t.Errorf("%s stands for two constants", v)
		}
		names[v.Name()] = true
	}
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestAConstantIsACopy(t *testing.T) {
	g := onnx.NewGraph("network")
	data, long := []float32{1, 2}, make([]float32, 20)
	p, c := g.Param("p", data, 2), g.Const(long, 20)
	data[0], long[0] = 7, 7
	g.Output("p2", p)
	g.Output("c2", c)
	g.Input("x", onnx.Float32, 1)
	got := run(t, g, []feed{counting("x", 1)}, result{"p2", []int64{2}}, result{"c2", []int64{20}})
	near(t, "p", got[0], []float32{1, 2})
	near(t, "c", got[1], make([]float32, 20))
}

func TestAnOutputTakesItsNameWithoutACopy(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2)
	a := g.Neg(x)
	b := g.Neg(a)                     // reads a before it has its name
	g.Output("a", a)                  // in the middle of the graph
	g.Output("c", g.Add(a, g.Neg(b))) // reads a after that
	g.Output("b", b)                  // at its end
	g.Output("a_again", a)            // one tensor under two names
	g.Output("x_out", x)              // an input
	g.Output("k", g.Scalar(5))        // a constant
	identities := 0
	for _, n := range model(t, g).GetGraph().GetNode() {
		if n.GetOpType() == "Identity" {
			identities++
		}
	}
	if identities != 3 {
		t.Errorf("%d copies, want 3: of a tensor under a second name, an input, a constant", identities)
	}
	v := []int64{2}
	got := run(t, g, []feed{{"x", v, []float32{1, -2}}},
		result{"a", v}, result{"b", v}, result{"c", v}, result{"a_again", v}, result{"x_out", v}, result{"k", []int64{1}})
	for i, want := range [][]float32{{-1, 2}, {1, -2}, {-2, 4}, {-1, 2}, {1, -2}, {5}} {
		near(t, "output", got[i], want)
	}
}

// everything is a graph with all operators of the ONNX operator set.
func everything() *onnx.Graph {
	g := onnx.NewGraph("everything")
	for i, c := range operators {
		in := make([]onnx.Value, len(c.in))
		name := strings.Map(func(r rune) rune {
			if r == ' ' || r == ',' {
				return '_'
			}
			return r
		}, c.name)
		for j, f := range c.in {
			in[j] = g.Input(name+"."+f.name, onnx.Float32, f.shape...)
		}
		g.In(name, func() { g.Output("y"+string(rune('a'+i/26))+string(rune('a'+i%26)), c.build(g, in)) })
	}
	return g
}

func TestTheSameGraphGivesTheSameBytes(t *testing.T) {
	first, err := everything().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := everything().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, first) {
			t.Fatal("the bytes differ")
		}
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	g := everything()
	b := g.Blocked(8)
	x := b.ReorderInput(g.Input("images", onnx.Float32, 1, 8, 2, 2))
	x = b.Conv(x, g.Param("kernel", make([]float32, 8), 8, 1, 1, 1), onnx.Window{Group: 8}, onnx.Value{}, x, onnx.ClipActivation(-1, 1))
	g.Output("blocked", b.Upsample(x, 2, 2))
	data, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var read onnxpb.ModelProto
	if err := proto.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&read, model(t, g)) {
		t.Error("the model read back differs from the one written")
	}
	if len(read.ProtoReflect().GetUnknown()) > 0 || len(read.GetGraph().ProtoReflect().GetUnknown()) > 0 {
		t.Error("the model has fields that the types do not know")
	}
	if got := read.GetOpsetImport(); len(got) != 2 || got[0].GetVersion() != onnx.OpsetVersion || got[1].GetDomain() != "com.microsoft.nchwc" {
		t.Errorf("operator sets %v", got)
	}
	if plain := model(t, everything()).GetOpsetImport(); len(plain) != 1 {
		t.Errorf("a graph of standard operators asks for %v", plain)
	}
	var conv *onnxpb.NodeProto
	for _, n := range read.GetGraph().GetNode() {
		if n.GetOpType() == "Conv" && n.GetDomain() == "com.microsoft.nchwc" {
			conv = n
		}
	}
	if want := []string{"ReorderInput:0", "kernel", "", "ReorderInput:0"}; !slices.Equal(conv.GetInput(), want) {
		t.Errorf("the blocked convolution reads %q, want %q", conv.GetInput(), want)
	}
	var attributes []string
	for _, a := range conv.GetAttribute() {
		attributes = append(attributes, a.GetName()+" "+a.GetType().String())
	}
	want := []string{
		"activation STRING", "activation_params FLOATS", "dilations INTS", "group INT", "kernel_shape INTS", "pads INTS", "strides INTS",
	}
	if !slices.Equal(attributes, want) {
		t.Errorf("attributes %v, want %v", attributes, want)
	}
}

// python is a Python that has the onnx package, or "".
func python() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import onnx").Run() == nil {
			return name
		}
	}
	return ""
}

func TestThePythonPackageAcceptsEveryOperator(t *testing.T) {
	name := python()
	if name == "" {
		t.Skip("no Python with the onnx package here (Debian: python3-onnx)")
	}
	data, err := everything().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "everything.onnx")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	script := `import onnx, sys
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model, full_check=True)
inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
print(len(model.graph.node), len(model.graph.output))`
	out, err := exec.Command(name, "-c", script, file).CombinedOutput()
	if err != nil {
		t.Fatalf("the checker refuses the model: %v\n%s", err, out)
	}
	t.Logf("nodes and outputs: %s", out)
}
