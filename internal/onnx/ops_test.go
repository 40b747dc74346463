package onnx_test

import (
	"math"
	"slices"
	"testing"

	"fakeart/internal/onnx"
)

// operators lists test cases that are run with ONNX Runtime. build gets the inputs in the order of in.
var operators = []struct {
	name  string
	in    []feed
	build func(g *onnx.Graph, in []onnx.Value) onnx.Value
	shape []int64
	want  []float32
}{
	{
		"Conv is a cross-correlation",
		[]feed{counting("x", 1, 1, 3, 3), {"w", []int64{1, 1, 2, 2}, []float32{1, 0, 0, 10}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{}) },
		[]int64{1, 1, 2, 2},
		[]float32{40, 51, 73, 84},
	},
	{
		"Conv with padding and bias",
		[]feed{counting("x", 1, 1, 2, 2), {"w", []int64{1, 1, 2, 2}, []float32{1, 1, 1, 1}}, {"b", []int64{1}, []float32{100}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Conv(in[0], in[1], onnx.Window{Pads: [4]int64{1, 0, 0, 2}}, in[2])
		},
		[]int64{1, 1, 2, 3},
		[]float32{101, 101, 100, 106, 104, 100},
	},
	{
		"Conv with several channels",
		[]feed{counting("x", 1, 2, 1, 2), {"w", []int64{3, 2, 1, 1}, []float32{1, 0, 0, 1, 1, 1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{}) },
		[]int64{1, 3, 1, 2},
		[]float32{0, 1, 2, 3, 2, 4},
	},
	{
		"Conv with groups",
		[]feed{counting("x", 1, 2, 1, 2), {"w", []int64{2, 1, 1, 1}, []float32{10, 100}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{Group: 2}) },
		[]int64{1, 2, 1, 2},
		[]float32{0, 10, 200, 300},
	},
	{
		"Conv with strides and dilations",
		[]feed{counting("x", 1, 1, 5, 4), {"w", []int64{1, 1, 2, 2}, []float32{1, 100, 0, 0}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Conv(in[0], in[1], onnx.Window{Strides: [2]int64{2, 1}, Dilations: [2]int64{1, 3}})
		},
		[]int64{1, 1, 2, 1},
		[]float32{300, 1108},
	},
	{
		"MaxPool",
		[]feed{counting("x", 1, 1, 4, 4)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.MaxPool(in[0], onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		},
		[]int64{1, 1, 2, 2},
		[]float32{5, 7, 13, 15},
	},
	{
		"MaxPool of an odd size",
		[]feed{counting("x", 1, 1, 3, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.MaxPool(in[0], onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		},
		[]int64{1, 1, 1, 1},
		[]float32{4},
	},
	{
		"Gemm",
		[]feed{counting("a", 2, 3), counting("b", 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], false, false) },
		[]int64{2, 2},
		[]float32{10, 13, 28, 40},
	},
	{
		"Gemm with transB and bias",
		[]feed{counting("a", 2, 3), counting("b", 2, 3), {"c", []int64{2}, []float32{100, 200}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], false, true, in[2]) },
		[]int64{2, 2},
		[]float32{105, 214, 114, 250},
	},
	{
		"Gemm with transA",
		[]feed{counting("a", 3, 2), counting("b", 3, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], true, false) },
		[]int64{2, 1},
		[]float32{10, 13},
	},
	{
		"Gemm with transA and transB",
		[]feed{counting("a", 3, 2), counting("b", 1, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], true, true) },
		[]int64{2, 1},
		[]float32{10, 13},
	},
	{
		"MatMul of batches",
		[]feed{counting("a", 2, 1, 2), counting("b", 2, 2, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.MatMul(in[0], in[1]) },
		[]int64{2, 1, 1},
		[]float32{1, 2*2 + 3*3},
	},
	{
		"Add with broadcast row",
		[]feed{counting("a", 2, 2), {"b", []int64{2}, []float32{10, 20}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Add(in[0], in[1]) },
		[]int64{2, 2},
		[]float32{10, 21, 12, 23},
	},
	{
		"Sub with both operands broadcast",
		[]feed{counting("a", 2, 1), counting("b", 1, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sub(in[0], in[1]) },
		[]int64{2, 3},
		[]float32{0, -1, -2, 1, 0, -1},
	},
	{
		"Mul with first operand of lower rank",
		[]feed{{"a", []int64{2}, []float32{10, 20}}, counting("b", 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Mul(in[0], in[1]) },
		[]int64{2, 2},
		[]float32{0, 20, 20, 60},
	},
	{
		"Div",
		[]feed{{"a", []int64{2}, []float32{1, 9}}, {"b", []int64{2}, []float32{4, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Div(in[0], in[1]) },
		[]int64{2},
		[]float32{0.25, 3},
	},
	{
		"Less and Float",
		[]feed{counting("a", 3), {"b", []int64{1}, []float32{1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Float(g.Less(in[0], in[1])) },
		[]int64{3},
		[]float32{1, 0, 0},
	},
	{
		"Equal",
		[]feed{counting("a", 3), {"b", []int64{1}, []float32{1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Float(g.Equal(in[0], in[1])) },
		[]int64{3},
		[]float32{0, 1, 0},
	},
	{
		"Where",
		[]feed{counting("a", 3), {"b", []int64{3}, []float32{7, 8, 9}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Where(g.Less(in[0], g.Scalar(2)), in[1], g.Scalar(-1))
		},
		[]int64{3},
		[]float32{7, 8, -1},
	},
	{
		"Clip",
		[]feed{{"x", []int64{4}, []float32{-5, 0.5, 1, 7}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Clip(in[0], 0, 1) },
		[]int64{4},
		[]float32{0, 0.5, 1, 1},
	},
	{
		"Abs",
		[]feed{{"x", []int64{2}, []float32{-2, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Abs(in[0]) },
		[]int64{2},
		[]float32{2, 3},
	},
	{
		"Neg",
		[]feed{{"x", []int64{2}, []float32{-2, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Neg(in[0]) },
		[]int64{2},
		[]float32{2, -3},
	},
	{
		"Sqrt",
		[]feed{{"x", []int64{2}, []float32{0, 9}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sqrt(in[0]) },
		[]int64{2},
		[]float32{0, 3},
	},
	{
		"Reciprocal",
		[]feed{{"x", []int64{2}, []float32{2, -4}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Reciprocal(in[0]) },
		[]int64{2},
		[]float32{0.5, -0.25},
	},
	{
		"Sigmoid of large values",
		[]feed{{"x", []int64{4}, []float32{0, -200, 200, float32(math.Log(3))}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sigmoid(in[0]) },
		[]int64{4},
		[]float32{0.5, 0, 1, 0.75},
	},
	{
		"Softplus of large values",
		[]feed{{"x", []int64{3}, []float32{0, -200, 200}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Softplus(in[0]) },
		[]int64{3},
		[]float32{float32(math.Ln2), 0, 200},
	},
	{
		"LeakyRelu",
		[]feed{{"x", []int64{3}, []float32{-2, 0, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.LeakyRelu(in[0], 0.25) },
		[]int64{3},
		[]float32{-0.5, 0, 3},
	},
	{
		"LeakyRelu with slope 0",
		[]feed{{"x", []int64{3}, []float32{-2, 0, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.LeakyRelu(in[0], 0) },
		[]int64{3},
		[]float32{0, 0, 3},
	},
	{
		"Reshape",
		[]feed{counting("x", 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Reshape(in[0], 3, 1, 2) },
		[]int64{3, 1, 2},
		[]float32{0, 1, 2, 3, 4, 5},
	},
	{
		"Resize",
		[]feed{counting("x", 1, 1, 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Resize(in[0], 4, 2) },
		[]int64{1, 1, 4, 2},
		[]float32{0, 1, 0.5, 1.5, 1.5, 2.5, 2, 3},
	},
	{
		"Flatten",
		[]feed{counting("x", 2, 1, 2, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Flatten(in[0]) },
		[]int64{2, 2},
		[]float32{0, 1, 2, 3},
	},
	{
		"Transpose",
		[]feed{counting("x", 1, 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Transpose(in[0], 2, 0, 1) },
		[]int64{3, 1, 2},
		[]float32{0, 3, 1, 4, 2, 5},
	},
	{
		"Concat along an inner axis",
		[]feed{counting("a", 2, 1), counting("b", 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Concat(1, in...) },
		[]int64{2, 3},
		[]float32{0, 0, 1, 1, 2, 3},
	},
	{
		"Split",
		[]feed{counting("x", 5)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			parts := g.Split(in[0], 1, 3, 1)
			return g.Concat(0, parts[2], parts[1], parts[0])
		},
		[]int64{5},
		[]float32{4, 1, 2, 3, 0},
	},
	{
		"Slice",
		[]feed{counting("x", 2, 4)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Slice(in[0], 1, 1, 3) },
		[]int64{2, 2},
		[]float32{1, 2, 5, 6},
	},
	{
		"Gather with repeated indices",
		[]feed{counting("x", 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gather(in[0], 1, 2, 0, 0) },
		[]int64{2, 3},
		[]float32{2, 0, 0, 5, 3, 3},
	},
	{
		"Pad",
		[]feed{counting("x", 1, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Pad(in[0], []int64{0, 2}, []int64{1, 1}) },
		[]int64{2, 5},
		[]float32{0, 0, 0, 1, 0, 0, 0, 0, 0, 0},
	},
	{
		"ReduceSum",
		[]feed{counting("x", 2, 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.ReduceSum(in[0], 0, 2) },
		[]int64{3},
		[]float32{0 + 1 + 6 + 7, 2 + 3 + 8 + 9, 4 + 5 + 10 + 11},
	},
	{
		"ReduceMean",
		[]feed{counting("x", 2, 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.ReduceMean(in[0], 1) },
		[]int64{2, 2},
		[]float32{2, 3, 8, 9},
	},
	{
		"Const",
		[]feed{counting("x", 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Add(in[0], g.Const([]float32{1, 2, 3, 4, 5, 6}, 2, 3))
		},
		[]int64{2, 3},
		[]float32{1, 2, 3, 4, 5, 6},
	},
}

func TestOperators(t *testing.T) {
	for _, c := range operators {
		t.Run(c.name, func(t *testing.T) {
			g := onnx.NewGraph("one")
			in := make([]onnx.Value, len(c.in))
			for i, f := range c.in {
				in[i] = g.Input(f.name, onnx.Float32, f.shape...)
			}
			v := c.build(g, in)
			g.Output("y", v)
			if err := g.Err(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(v.Shape(), c.shape) || v.DType() != onnx.Float32 {
				t.Fatalf("got %s, want float%v", v, c.shape)
			}
			near(t, c.name, run(t, g, c.in, result{"y", c.shape})[0], c.want)
		})
	}
}

func TestGraph_batchSizes(t *testing.T) {
	g := onnx.NewGraph("any")
	x := g.Input("x", onnx.Float32, onnx.Batch, 1, 2, 2)
	y := g.Conv(x, g.Param("w", []float32{1, 2, 3, 4}, 1, 1, 2, 2), onnx.Window{})
	y = g.Gemm(g.Flatten(y), g.Param("dense", []float32{1, -1}, 2, 1), false, true)
	if want := []int64{onnx.Batch, 2}; !slices.Equal(y.Shape(), want) {
		t.Fatalf("got %s, want shape %v", y, want)
	}
	g.Output("y", y)
	for _, batch := range []int64{1, 3} {
		got := run(t, g, []feed{counting("x", batch, 1, 2, 2)}, result{"y", []int64{batch, 2}})[0]
		var want []float32
		for i := range batch {
			v := float32(20 + 40*i)
			want = append(want, v, -v)
		}
		near(t, "y", got, want)
	}
}

// TestOperators_shapes checks only shapes and types. x is [batch,4,6,6].
func TestOperators_shapes(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(g *onnx.Graph, x onnx.Value) onnx.Value
		want  string
	}{
		{"Input", func(_ *onnx.Graph, x onnx.Value) onnx.Value { return x }, "x float[batch,4,6,6]"},
		{"Conv", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Conv(x, g.Const(make([]float32, 7*4*9), 7, 4, 3, 3), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
		}, "Conv:0 float[batch,7,6,6]"},
		{"MaxPool", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.MaxPool(x, onnx.Window{Kernel: [2]int64{3, 2}, Strides: [2]int64{1, 2}})
		}, "MaxPool:0 float[batch,4,4,3]"},
		{"Mul", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Mul(x, g.Scalar(2)) }, "Mul:0 float[batch,4,6,6]"},
		{"Less", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Less(x, g.Scalar(2)) }, "Less:0 bool[batch,4,6,6]"},
		{"Equal", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Equal(x, x) }, "Equal:0 bool[batch,4,6,6]"},
		{"Float", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Float(g.Equal(x, x)) }, "Cast:0 float[batch,4,6,6]"},
		{"Where", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Where(g.Less(x, x), g.Scalar(1), g.Scalar(2))
		}, "Where:0 float[batch,4,6,6]"},
		{"Flatten", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Flatten(x) }, "Flatten:0 float[batch,144]"},
		{"Transpose", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Transpose(x, 1, 0, 3, 2) }, "Transpose:0 float[4,batch,6,6]"},
		{"Slice", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Slice(x, 1, 0, 2) }, "Slice:0 float[batch,2,6,6]"},
		{"Gather", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Gather(x, 3, 5) }, "Gather:0 float[batch,4,6,1]"},
		{"Pad", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Pad(x, []int64{0, 0, 1, 1}, []int64{0, 0, 1, 0})
		}, "Pad:0 float[batch,4,8,7]"},
		{"Concat", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Concat(1, x, x, x) }, "Concat:0 float[batch,12,6,6]"},
		{"ReduceSum", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.ReduceSum(x, 0) }, "ReduceSum:0 float[4,6,6]"},
		{"ReduceMean", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.ReduceMean(x, 2, 3) }, "ReduceMean:0 float[batch,4]"},
		{"Gemm", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Gemm(g.Flatten(x), g.Flatten(x), true, false)
		}, "Gemm:0 float[144,144]"},
		{"Reshape to the same shape", func(g *onnx.Graph, _ onnx.Value) onnx.Value {
			return g.Reshape(g.Input("v", onnx.Float32, 2, 3), 2, 3)
		}, "v float[2,3]"},
		{"Param", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Param("w", make([]float32, 6), 3, 2) }, "w float[3,2]"},
		{"Ints", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Ints(1, 2) }, "const int64[2]"},
		{"Gather of Ints", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Gather(g.Ints(1, 2), 0, 1) }, "Gather:0 int64[1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := onnx.NewGraph("shapes")
			v := c.build(g, g.Input("x", onnx.Float32, onnx.Batch, 4, 6, 6))
			if err := g.Err(); err != nil {
				t.Fatal(err)
			}
			if v.String() != c.want {
				t.Errorf("got %s, want %s", v, c.want)
			}
		})
	}
}
