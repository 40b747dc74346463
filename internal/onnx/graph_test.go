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

// inputs holds values for building invalid graphs.
type inputs struct {
	x, y    onnx.Value // [2,4,6,6] and [batch,4,6,6]
	w       onnx.Value // [8,4,3,3]
	m, row  onnx.Value // [3,4] and [4]
	truth   onnx.Value // bool [3,4]
	numbers onnx.Value // int64 [2]
	foreign onnx.Value // belongs to another graph with the same names
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

func TestGraph_errors(t *testing.T) {
	square := onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}}
	for _, c := range []struct {
		name  string
		build func(g *onnx.Graph, in inputs)
		want  string // error text after the scope
	}{
		{
			"Conv with wrong channels", func(g *onnx.Graph, in inputs) { g.Conv(g.Slice(in.x, 1, 0, 3), in.w, onnx.Window{}) },
			"Conv(layer/Slice:0 float[2,3,6,6], w float[8,4,3,3]): 3 channels don't match weights for 4 channels in 1 groups",
		},
		{
			"Conv with wrong groups", func(g *onnx.Graph, in inputs) {
				g.Conv(in.x, g.Const(make([]float32, 3*2*9), 3, 2, 3, 3), onnx.Window{Group: 2})
			},
			"Conv(x float[2,4,6,6], const_2 float[3,2,3,3]): 3 output channels aren't a multiple of 2 groups",
		},
		{
			"Conv with wrong bias", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{}, in.row) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3], row float[4]): the bias must have shape [8]",
		},
		{
			"Conv kernel larger than the image", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{Dilations: [2]int64{3, 1}}) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): the result has the empty shape [2 8 0 4]",
		},
		{
			"Conv of a matrix", func(g *onnx.Graph, in inputs) { g.Conv(in.m, in.w, onnx.Window{}) },
			"Conv(m float[3,4], w float[8,4,3,3]): m float[3,4] must have rank 4",
		},
		{
			"Conv with a weight matrix", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.m, onnx.Window{}) },
			"Conv(x float[2,4,6,6], m float[3,4]): m float[3,4] must have rank 4",
		},
		{
			"Conv with negative padding", func(g *onnx.Graph, in inputs) { g.Conv(in.x, in.w, onnx.Window{Pads: [4]int64{0, -1, 0, 0}}) },
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): pads [0 -1 0 0] are negative",
		},
		{
			"Conv over the batch", func(g *onnx.Graph, in inputs) { g.Conv(g.Transpose(in.y, 2, 1, 0, 3), in.w, onnx.Window{}) },
			"Conv(layer/Transpose:0 float[6,4,batch,6], w float[8,4,3,3]): the batch must be the first dimension",
		},
		{
			"MaxPool of a matrix", func(g *onnx.Graph, in inputs) { g.MaxPool(in.m, square) },
			"MaxPool(m float[3,4]): m float[3,4] must have rank 4",
		},
		{
			"MaxPool without kernel", func(g *onnx.Graph, in inputs) { g.MaxPool(in.x, onnx.Window{}) },
			"MaxPool(x float[2,4,6,6]): invalid window [0 0] with pads [0 0 0 0]",
		},
		{
			"MaxPool of padding only", func(g *onnx.Graph, in inputs) {
				g.MaxPool(in.x, onnx.Window{Kernel: [2]int64{2, 2}, Pads: [4]int64{0, 0, 2, 0}})
			},
			"MaxPool(x float[2,4,6,6]): invalid window [2 2] with pads [0 0 2 0]",
		},
		{
			"MaxPool kernel larger than the image", func(g *onnx.Graph, in inputs) { g.MaxPool(in.x, onnx.Window{Kernel: [2]int64{7, 1}}) },
			"MaxPool(x float[2,4,6,6]): the result has the empty shape [2 4 0 6]",
		},
		{
			"Add of incompatible shapes", func(g *onnx.Graph, in inputs) { g.Add(in.m, g.Const([]float32{1, 2, 3}, 3)) },
			"Add(m float[3,4], const_2 float[3]): the shapes can't be broadcast",
		},
		{
			"Mul of integers", func(g *onnx.Graph, in inputs) { g.Mul(in.m, in.numbers) },
			"Mul(m float[3,4], const int64[2]): const int64[2] isn't float",
		},
		{
			"Sqrt of booleans", func(g *onnx.Graph, in inputs) { g.Sqrt(in.truth) },
			"Sqrt(truth bool[3,4]): truth bool[3,4] isn't float",
		},
		{
			"Clip of integers", func(g *onnx.Graph, in inputs) { g.Clip(in.numbers, 0, 1) },
			"Clip(const int64[2], const_2 float[], const_3 float[]): const int64[2] isn't float",
		},
		{
			"Float of a float", func(g *onnx.Graph, in inputs) { g.Float(in.m) },
			"Cast(m float[3,4]): m float[3,4] isn't bool",
		},
		{
			"Where with float condition", func(g *onnx.Graph, in inputs) { g.Where(in.m, in.m, in.m) },
			"Where(m float[3,4], m float[3,4], m float[3,4]): the condition isn't bool",
		},
		{
			"Where of integers", func(g *onnx.Graph, in inputs) { g.Where(in.truth, in.numbers, in.m) },
			"Where(truth bool[3,4], const int64[2], m float[3,4]): const int64[2] isn't float",
		},
		{
			"Where of another shape", func(g *onnx.Graph, in inputs) { g.Where(in.truth, in.m, in.row) },
			"Where(truth bool[3,4], m float[3,4], row float[4]): row float[4] must have the shape of the condition",
		},
		{
			"Reshape to another size", func(g *onnx.Graph, in inputs) { g.Reshape(in.m, 5, 2) },
			"Reshape(m float[3,4], const_2 int64[2]): can't be reshaped to [5 2]",
		},
		{
			"Reshape that moves the batch", func(g *onnx.Graph, in inputs) { g.Reshape(in.y, 144, onnx.Batch) },
			"Reshape(y float[batch,4,6,6], const_2 int64[2]): can't be reshaped to [144 -1]",
		},
		{
			"Reshape that changes the batch size", func(g *onnx.Graph, in inputs) { g.Reshape(in.y, onnx.Batch, 72) },
			"Reshape(y float[batch,4,6,6], const_2 int64[2]): can't be reshaped to [-1 72]",
		},
		{
			"Resize by a fraction", func(g *onnx.Graph, in inputs) { g.Resize(in.y, 12, 9) },
			"Resize(y float[batch,4,6,6], const_2 float[4]): can't be enlarged to 12×9",
		},
		{
			"Resize of a matrix", func(g *onnx.Graph, in inputs) { g.Resize(in.m, 12, 12) },
			"Resize(m float[3,4], const_2 float[4]): m float[3,4] must have rank 4",
		},
		{
			"Reshape to negative dimensions", func(g *onnx.Graph, in inputs) { g.Reshape(in.m, -2, -6) },
			"Reshape(m float[3,4], const_2 int64[2]): the result has the empty shape [-2 -6]",
		},
		{
			"Flatten of a vector", func(g *onnx.Graph, in inputs) { g.Flatten(in.row) },
			"Flatten(row float[4]): must have at least rank 2",
		},
		{
			"Flatten of the batch", func(g *onnx.Graph, in inputs) { g.Flatten(g.Transpose(in.y, 1, 0, 2, 3)) },
			"Flatten(layer/Transpose:0 float[4,batch,6,6]): the batch must be the first dimension",
		},
		{
			"Transpose with missing dimension", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0) },
			"Transpose(m float[3,4]): [0] isn't a permutation of its dimensions",
		},
		{
			"Transpose with duplicate dimension", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0, 0) },
			"Transpose(m float[3,4]): [0 0] isn't a permutation of its dimensions",
		},
		{
			"Transpose with unknown dimension", func(g *onnx.Graph, in inputs) { g.Transpose(in.m, 0, 2) },
			"Transpose(m float[3,4]): [0 2] isn't a permutation of its dimensions",
		},
		{
			"Concat of nothing", func(g *onnx.Graph, _ inputs) { g.Concat(0) },
			"Concat(): has no axis 0",
		},
		{
			"Concat along unknown axis", func(g *onnx.Graph, in inputs) { g.Concat(2, in.m, in.m) },
			"Concat(m float[3,4], m float[3,4]): has no axis 2",
		},
		{
			"Concat of different widths", func(g *onnx.Graph, in inputs) { g.Concat(0, in.m, g.Slice(in.m, 1, 0, 2)) },
			"Concat(m float[3,4], layer/Slice:0 float[3,2]): layer/Slice:0 float[3,2] differs in dimension 1",
		},
		{
			"Concat of different types", func(g *onnx.Graph, in inputs) { g.Concat(0, in.m, in.truth) },
			"Concat(m float[3,4], truth bool[3,4]): truth bool[3,4] differs in element type or rank",
		},
		{
			"Concat of batches", func(g *onnx.Graph, in inputs) { g.Concat(0, in.x, in.y) },
			"Concat(x float[2,4,6,6], y float[batch,4,6,6]): can't concatenate along the batch",
		},
		{
			"Split with wrong total length", func(g *onnx.Graph, in inputs) { g.Split(in.row, 1, 2) },
			"Split(row float[4], const int64[2]): the parts have 3 elements in total",
		},
		{
			"Split with negative length", func(g *onnx.Graph, in inputs) { g.Split(in.row, 5, -1) },
			"Split(row float[4], const_2 int64[2]): a part has -1 elements",
		},
		{
			"Split of a matrix", func(g *onnx.Graph, in inputs) { g.Split(in.m, 1, 2) },
			"Split(m float[3,4], const int64[2]): m float[3,4] must have rank 1",
		},
		{
			"Slice past the end", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 1, 2, 5) },
			"Slice(m float[3,4], const_2 int64[1], const_3 int64[1], const_4 int64[1]): has no elements 2 to 5 in dimension 1",
		},
		{
			"empty Slice", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 0, 1, 1) },
			"Slice(m float[3,4], const_2 int64[1], const_2 int64[1], const_3 int64[1]): has no elements 1 to 1 in dimension 0",
		},
		{
			"Slice along unknown axis", func(g *onnx.Graph, in inputs) { g.Slice(in.m, 2, 0, 1) },
			"Slice(m float[3,4], const_2 int64[1], const_3 int64[1], const_4 int64[1]): has no axis 2",
		},
		{
			"Slice of the batch", func(g *onnx.Graph, in inputs) { g.Slice(in.y, 0, 0, 1) },
			"Slice(y float[batch,4,6,6], const_2 int64[1], const_3 int64[1], const_2 int64[1]): has no elements 0 to 1 in dimension 0",
		},
		{
			"Gather of unknown element", func(g *onnx.Graph, in inputs) { g.Gather(in.m, 1, 0, 4) },
			"Gather(m float[3,4], const_2 int64[2]): has no element 4 in dimension 1",
		},
		{
			"Gather without indices", func(g *onnx.Graph, in inputs) { g.Gather(in.m, 1) },
			"Gather(m float[3,4], const_2 int64[0]): the result has the empty shape [3 0]",
		},
		{
			"Gather along unknown axis", func(g *onnx.Graph, in inputs) { g.Gather(in.m, -1, 0) },
			"Gather(m float[3,4], const_2 int64[1]): has no axis -1",
		},
		{
			"Pad with too few dimensions", func(g *onnx.Graph, in inputs) { g.Pad(in.m, []int64{1}, []int64{1}) },
			"Pad(m float[3,4], const_2 int64[2]): needs one padding per dimension",
		},
		{
			"Pad by negative number", func(g *onnx.Graph, in inputs) { g.Pad(in.m, []int64{0, -1}, []int64{0, 0}) },
			"Pad(m float[3,4], const_2 int64[4]): can't pad by a negative number",
		},
		{
			"Pad of the batch", func(g *onnx.Graph, in inputs) { g.Pad(in.y, []int64{1, 0, 0, 0}, []int64{2, 0, 0, 0}) },
			"Pad(y float[batch,4,6,6], const_2 int64[8]): can't pad the batch",
		},
		{
			"ReduceSum over unknown axis", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, 2) },
			"ReduceSum(m float[3,4], const_2 int64[1]): has no axes [2]",
		},
		{
			"ReduceSum over negative axis", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, -1) },
			"ReduceSum(m float[3,4], const_2 int64[1]): has no axes [-1]",
		},
		{
			"ReduceSum over all axes", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m, 0, 1) },
			"ReduceSum(m float[3,4], const_2 int64[2]): can't reduce all dimensions; keep at least one",
		},
		{
			"ReduceSum without axes", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.m) },
			"ReduceSum(m float[3,4], const_2 int64[0]): has no axes []",
		},
		{
			"ReduceSum of booleans", func(g *onnx.Graph, in inputs) { g.ReduceSum(in.truth, 0) },
			"ReduceSum(truth bool[3,4], const_2 int64[1]): truth bool[3,4] can't be summed",
		},
		{
			"ReduceMean over duplicate axis", func(g *onnx.Graph, in inputs) { g.ReduceMean(in.m, 1, 1) },
			"ReduceMean(m float[3,4]): has no axes [1 1]",
		},
		{
			"ReduceMean of integers", func(g *onnx.Graph, in inputs) { g.ReduceMean(in.numbers, 0) },
			"ReduceMean(const int64[2]): const int64[2] isn't float",
		},
		{
			"MatMul with different inner dimensions", func(g *onnx.Graph, in inputs) { g.MatMul(in.m, in.m) },
			"MatMul(m float[3,4], m float[3,4]): the inner dimensions differ",
		},
		{
			"MatMul of matrix and vector", func(g *onnx.Graph, in inputs) { g.MatMul(in.m, in.row) },
			"MatMul(m float[3,4], row float[4]): both must have the same rank, at least 2",
		},
		{
			"MatMul of different batches", func(g *onnx.Graph, in inputs) { g.MatMul(in.x, in.y) },
			"MatMul(x float[2,4,6,6], y float[batch,4,6,6]): the leading dimensions differ",
		},
		{
			"Gemm with different inner dimensions", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, in.m, false, false) },
			"Gemm(m float[3,4], m float[3,4]): the inner dimensions 4 and 3 differ",
		},
		{
			"Gemm with wrong transposition", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, g.Transpose(in.m, 1, 0), true, false) },
			"Gemm(m float[3,4], layer/Transpose:0 float[4,3]): the inner dimensions 3 and 4 differ",
		},
		{
			"Gemm with wrong bias", func(g *onnx.Graph, in inputs) { g.Gemm(in.m, in.m, false, true, in.row) },
			"Gemm(m float[3,4], m float[3,4], row float[4]): the bias must have shape [3]",
		},
		{
			"Gemm of images", func(g *onnx.Graph, in inputs) { g.Gemm(in.x, in.m, false, true) },
			"Gemm(x float[2,4,6,6], m float[3,4]): x float[2,4,6,6] must have rank 2",
		},
		{
			"zero Value as input", func(g *onnx.Graph, in inputs) { g.Add(in.m, onnx.Value{}) },
			"Add(m float[3,4],  undefined[]): an input is missing",
		},
		{
			"input of another graph", func(g *onnx.Graph, in inputs) { g.Neg(in.foreign) },
			"Neg(m float[3,4]): m float[3,4] belongs to another graph",
		},
		{
			"output of another graph", func(g *onnx.Graph, in inputs) { g.Output("out", in.foreign) },
			"m float[3,4] belongs to another graph",
		},
		{
			"zero Value as output", func(g *onnx.Graph, _ inputs) { g.Output("out", onnx.Value{}) },
			"the output is missing",
		},
		{
			"duplicate output name", func(g *onnx.Graph, in inputs) { g.Output("x", g.Neg(in.m)) },
			`the name "x" is empty or already used`,
		},
		{
			"duplicate input name", func(g *onnx.Graph, _ inputs) { g.Input("x", onnx.Float32, 1) },
			`the name "x" is empty or already used`,
		},
		{
			"Param without name", func(g *onnx.Graph, _ inputs) { g.Param("", []float32{1}, 1) },
			`the name "" is empty or already used`,
		},
		{
			"Input with dimension 0", func(g *onnx.Graph, _ inputs) { g.Input("z", onnx.Float32, 3, 0) },
			"input z float[3,0] has a dimension of size 0",
		},
		{
			"Param with too few values", func(g *onnx.Graph, _ inputs) { g.Param("p", []float32{1, 2, 3}, 2, 2) },
			"constant p float[2,2] has 3 values",
		},
		{
			"Const with batch dimension", func(g *onnx.Graph, _ inputs) { g.Const([]float32{1, 2}, onnx.Batch, 2) },
			"constant const_2 float[batch,2] has 2 values",
		},
		{
			"Blocked with block size 0", func(g *onnx.Graph, _ inputs) { g.Blocked(0) },
			"invalid block size 0",
		},
		{
			"blocked Conv with wrong output channels", func(g *onnx.Graph, in inputs) {
				g.Blocked(16).Conv(in.x, in.w, onnx.Window{}, onnx.Value{}, onnx.Value{})
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): 8 channels aren't a multiple of the block size 16",
		},
		{
			"a blocked convolution from a block and a half", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(g.Concat(1, in.x, in.x, in.x), g.Const(make([]float32, 8*12), 8, 12, 1, 1), onnx.Window{}, onnx.Value{}, onnx.Value{})
			},
			"Conv(layer/Concat:0 float[2,12,6,6], const_2 float[8,12,1,1]): 12 channels aren't a multiple of the block size 8",
		},
		{
			"a blocked convolution added to another shape", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(in.x, in.w, onnx.Window{}, onnx.Value{}, in.x)
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3]): x float[2,4,6,6] can't be added to shape [2 8 4 4]",
		},
		{
			"a blocked convolution with a bias of another length", func(g *onnx.Graph, in inputs) {
				g.Blocked(8).Conv(in.x, in.w, onnx.Window{}, in.row, onnx.Value{})
			},
			"Conv(x float[2,4,6,6], w float[8,4,3,3], row float[4]): the bias must have shape [8]",
		},
		{
			"blocked MaxPool with wrong channels", func(g *onnx.Graph, in inputs) { g.Blocked(8).MaxPool(in.x, square) },
			"MaxPool(x float[2,4,6,6]): 4 channels aren't a multiple of the block size 8",
		},
		{
			"blocked AveragePool with wrong channels", func(g *onnx.Graph, in inputs) { g.Blocked(8).AveragePool(in.x, square) },
			"AveragePool(x float[2,4,6,6]): 4 channels aren't a multiple of the block size 8",
		},
		{
			"blocked GlobalAveragePool with wrong channels", func(g *onnx.Graph, in inputs) { g.Blocked(8).GlobalAveragePool(in.x) },
			"GlobalAveragePool(x float[2,4,6,6]): 4 channels aren't a multiple of the block size 8",
		},
		{
			"blocked Upsample by 0", func(g *onnx.Graph, in inputs) { g.Blocked(4).Upsample(in.x, 0, 2) },
			"Upsample(x float[2,4,6,6]): the result has the empty shape [2 4 0 12]",
		},
		{
			"ReorderInput with wrong channels", func(g *onnx.Graph, in inputs) { g.Blocked(8).ReorderInput(in.x) },
			"ReorderInput(x float[2,4,6,6]): 4 channels aren't a multiple of the block size 8",
		},
		{
			"ReorderOutput with wrong channels", func(g *onnx.Graph, in inputs) { g.Blocked(8).ReorderOutput(in.x) },
			"ReorderOutput(x float[2,4,6,6]): 4 channels aren't a multiple of the block size 8",
		},
		{
			"ReorderInput of a matrix", func(g *onnx.Graph, in inputs) { g.Blocked(4).ReorderInput(in.m) },
			"ReorderInput(m float[3,4]): m float[3,4] must have rank 4",
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
				t.Errorf("Model() = %v, %v, want the same error", m, err)
			}
			if data, err := g.Marshal(); data != nil || err == nil || err.Error() != want {
				t.Errorf("Marshal() = %d bytes, %v, want the same error", len(data), err)
			}
		})
	}
}

func TestGraph_Fail(t *testing.T) {
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

func TestGraph_keepsFirstError(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2, 4)
	var wrong onnx.Value
	g.In("first", func() { wrong = g.MatMul(x, x) })
	first := g.Err()
	if first == nil {
		t.Fatal("no error")
	}
	if wrong.Name() != "" || wrong.Dim(0) != 0 || wrong.Dim(-1) != 0 || len(wrong.Shape()) != 0 {
		t.Errorf("MatMul = %v after an error, want the zero Value", wrong)
	}
	// No operation on a zero or a valid Value may panic, return a tensor or replace the error.
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
				t.Errorf("call %d returned %s after an error", i, r)
			}
		}
		g.Output("out", v)
	}
	g.Fail("another error")
	if !errors.Is(g.Err(), first) {
		t.Errorf("Err() = %v, want the first error: %v", g.Err(), first)
	}
}

func TestGraph_Model_noOutput(t *testing.T) {
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

func TestGraph_nodeNames(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2)
	for range 2 {
		g.In("layer", func() {
			x = g.Neg(g.Neg(x))
			x = g.Add(x, g.Scalar(1))
		})
	}
	g.Input("const_2", onnx.Float32, 1)
	x = g.Add(x, g.Const([]float32{3, 4}, 2)) // const_2 is already used
	g.Output("y", x)
	var nodes []string
	seen := map[string]bool{}
	for _, n := range model(t, g).GetGraph().GetNode() {
		nodes = append(nodes, n.GetName())
		for _, o := range n.GetOutput() {
			if seen[o] {
				t.Errorf("duplicate tensor name %s", o)
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

func TestGraph_Const_sharing(t *testing.T) {
	g := onnx.NewGraph("network")
	same := [][2]onnx.Value{
		{g.Scalar(1), g.Const([]float32{1}, 1)},
		{g.Ints(1, 2), g.Ints(1, 2)},
	}
	g.In("layer", func() { same = append(same, [2]onnx.Value{g.Scalar(1), same[0][0]}) })
	for _, c := range same {
		if c[0].Name() != c[1].Name() {
			t.Errorf("equal constants %s and %s aren't shared", c[0], c[1])
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
			t.Errorf("%s is shared by different constants", v)
		}
		names[v.Name()] = true
	}
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestGraph_Const_copiesData(t *testing.T) {
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

func TestGraph_Output(t *testing.T) {
	g := onnx.NewGraph("network")
	x := g.Input("x", onnx.Float32, 2)
	a := g.Neg(x)
	b := g.Neg(a)                     // reads a before it's renamed
	g.Output("a", a)                  // an inner node
	g.Output("c", g.Add(a, g.Neg(b))) // reads a after it's renamed
	g.Output("b", b)                  // the last node
	g.Output("a_again", a)            // the same tensor under a second name
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

// everything returns a graph with all standard operators.
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

func TestGraph_Marshal_deterministic(t *testing.T) {
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

func TestGraph_Marshal_roundTrip(t *testing.T) {
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
		t.Error("the parsed model differs from the original")
	}
	if len(read.ProtoReflect().GetUnknown()) > 0 || len(read.GetGraph().ProtoReflect().GetUnknown()) > 0 {
		t.Error("the model has unknown fields")
	}
	if got := read.GetOpsetImport(); len(got) != 2 || got[0].GetVersion() != onnx.OpsetVersion || got[1].GetDomain() != "com.microsoft.nchwc" {
		t.Errorf("operator sets %v", got)
	}
	if plain := model(t, everything()).GetOpsetImport(); len(plain) != 1 {
		t.Errorf("operator sets of a graph with standard operators: %v", plain)
	}
	var conv *onnxpb.NodeProto
	for _, n := range read.GetGraph().GetNode() {
		if n.GetOpType() == "Conv" && n.GetDomain() == "com.microsoft.nchwc" {
			conv = n
		}
	}
	if want := []string{"ReorderInput:0", "kernel", "", "ReorderInput:0"}; !slices.Equal(conv.GetInput(), want) {
		t.Errorf("inputs of the blocked convolution: %q, want %q", conv.GetInput(), want)
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

// python returns a Python that has the onnx package, or "".
func python() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import onnx").Run() == nil {
			return name
		}
	}
	return ""
}

func TestGraph_Marshal_pythonChecker(t *testing.T) {
	name := python()
	if name == "" {
		t.Skip("no Python with the onnx package (Debian: python3-onnx)")
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
		t.Fatalf("the checker rejects the model: %v\n%s", err, out)
	}
	t.Logf("nodes and outputs: %s", out)
}
