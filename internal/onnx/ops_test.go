package onnx_test

import (
	"math"
	"slices"
	"testing"

	"fakeart/internal/onnx"
)

// operators are computed by ONNX Runtime. The inputs are declared in the order
// given, and build sees them in that order.
var operators = []struct {
	name  string
	in    []feed
	build func(g *onnx.Graph, in []onnx.Value) onnx.Value
	shape []int64
	want  []float32
}{
	{
		"a convolution correlates, without turning the kernel",
		[]feed{counting("x", 1, 1, 3, 3), {"w", []int64{1, 1, 2, 2}, []float32{1, 0, 0, 10}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{}) },
		[]int64{1, 1, 2, 2},
		[]float32{40, 51, 73, 84},
	},
	{
		"a convolution pads with zeros, top left bottom right, and adds the bias",
		[]feed{counting("x", 1, 1, 2, 2), {"w", []int64{1, 1, 2, 2}, []float32{1, 1, 1, 1}}, {"b", []int64{1}, []float32{100}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Conv(in[0], in[1], onnx.Window{Pads: [4]int64{1, 0, 0, 2}}, in[2])
		},
		[]int64{1, 1, 2, 3},
		[]float32{101, 101, 100, 106, 104, 100},
	},
	{
		"a convolution sums over channels and gives one result for each kernel",
		[]feed{counting("x", 1, 2, 1, 2), {"w", []int64{3, 2, 1, 1}, []float32{1, 0, 0, 1, 1, 1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{}) },
		[]int64{1, 3, 1, 2},
		[]float32{0, 1, 2, 3, 2, 4},
	},
	{
		"a convolution in groups keeps the groups apart",
		[]feed{counting("x", 1, 2, 1, 2), {"w", []int64{2, 1, 1, 1}, []float32{10, 100}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Conv(in[0], in[1], onnx.Window{Group: 2}) },
		[]int64{1, 2, 1, 2},
		[]float32{0, 10, 200, 300},
	},
	{
		"a convolution strides and dilates, height first",
		[]feed{counting("x", 1, 1, 5, 4), {"w", []int64{1, 1, 2, 2}, []float32{1, 100, 0, 0}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Conv(in[0], in[1], onnx.Window{Strides: [2]int64{2, 1}, Dilations: [2]int64{1, 3}})
		},
		[]int64{1, 1, 2, 1},
		[]float32{300, 1108},
	},
	{
		"a pool takes the maximum of each square",
		[]feed{counting("x", 1, 1, 4, 4)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.MaxPool(in[0], onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		},
		[]int64{1, 1, 2, 2},
		[]float32{5, 7, 13, 15},
	},
	{
		"a pool leaves out the odd row and column",
		[]feed{counting("x", 1, 1, 3, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.MaxPool(in[0], onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		},
		[]int64{1, 1, 1, 1},
		[]float32{4},
	},
	{
		"Gemm multiplies plain matrices",
		[]feed{counting("a", 2, 3), counting("b", 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], false, false) },
		[]int64{2, 2},
		[]float32{10, 13, 28, 40},
	},
	{
		"Gemm transposes the second matrix and adds the bias to each row",
		[]feed{counting("a", 2, 3), counting("b", 2, 3), {"c", []int64{2}, []float32{100, 200}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], false, true, in[2]) },
		[]int64{2, 2},
		[]float32{105, 214, 114, 250},
	},
	{
		"Gemm transposes the first matrix",
		[]feed{counting("a", 3, 2), counting("b", 3, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], true, false) },
		[]int64{2, 1},
		[]float32{10, 13},
	},
	{
		"Gemm transposes both matrices",
		[]feed{counting("a", 3, 2), counting("b", 1, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gemm(in[0], in[1], true, true) },
		[]int64{2, 1},
		[]float32{10, 13},
	},
	{
		"MatMul multiplies matrix by matrix in a batch of them",
		[]feed{counting("a", 2, 1, 2), counting("b", 2, 2, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.MatMul(in[0], in[1]) },
		[]int64{2, 1, 1},
		[]float32{1, 2*2 + 3*3},
	},
	{
		"Add broadcasts a row",
		[]feed{counting("a", 2, 2), {"b", []int64{2}, []float32{10, 20}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Add(in[0], in[1]) },
		[]int64{2, 2},
		[]float32{10, 21, 12, 23},
	},
	{
		"Sub broadcasts both sides",
		[]feed{counting("a", 2, 1), counting("b", 1, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sub(in[0], in[1]) },
		[]int64{2, 3},
		[]float32{0, -1, -2, 1, 0, -1},
	},
	{
		"Mul broadcasts the first where it has fewer dimensions",
		[]feed{{"a", []int64{2}, []float32{10, 20}}, counting("b", 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Mul(in[0], in[1]) },
		[]int64{2, 2},
		[]float32{0, 20, 20, 60},
	},
	{
		"Div divides the first by the second",
		[]feed{{"a", []int64{2}, []float32{1, 9}}, {"b", []int64{2}, []float32{4, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Div(in[0], in[1]) },
		[]int64{2},
		[]float32{0.25, 3},
	},
	{
		"Less and Float tell where a < b",
		[]feed{counting("a", 3), {"b", []int64{1}, []float32{1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Float(g.Less(in[0], in[1])) },
		[]int64{3},
		[]float32{1, 0, 0},
	},
	{
		"Equal tells where a = b",
		[]feed{counting("a", 3), {"b", []int64{1}, []float32{1}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Float(g.Equal(in[0], in[1])) },
		[]int64{3},
		[]float32{0, 1, 0},
	},
	{
		"Where chooses element by element",
		[]feed{counting("a", 3), {"b", []int64{3}, []float32{7, 8, 9}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Where(g.Less(in[0], g.Scalar(2)), in[1], g.Scalar(-1))
		},
		[]int64{3},
		[]float32{7, 8, -1},
	},
	{
		"Clip limits to both bounds",
		[]feed{{"x", []int64{4}, []float32{-5, 0.5, 1, 7}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Clip(in[0], 0, 1) },
		[]int64{4},
		[]float32{0, 0.5, 1, 1},
	},
	{
		"Abs drops the sign",
		[]feed{{"x", []int64{2}, []float32{-2, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Abs(in[0]) },
		[]int64{2},
		[]float32{2, 3},
	},
	{
		"Neg turns the sign",
		[]feed{{"x", []int64{2}, []float32{-2, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Neg(in[0]) },
		[]int64{2},
		[]float32{2, -3},
	},
	{
		"Sqrt is the root",
		[]feed{{"x", []int64{2}, []float32{0, 9}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sqrt(in[0]) },
		[]int64{2},
		[]float32{0, 3},
	},
	{
		"Reciprocal is one over x",
		[]feed{{"x", []int64{2}, []float32{2, -4}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Reciprocal(in[0]) },
		[]int64{2},
		[]float32{0.5, -0.25},
	},
	{
		"Sigmoid stays finite far out",
		[]feed{{"x", []int64{4}, []float32{0, -200, 200, float32(math.Log(3))}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Sigmoid(in[0]) },
		[]int64{4},
		[]float32{0.5, 0, 1, 0.75},
	},
	{
		"Softplus stays finite far out",
		[]feed{{"x", []int64{3}, []float32{0, -200, 200}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Softplus(in[0]) },
		[]int64{3},
		[]float32{float32(math.Ln2), 0, 200},
	},
	{
		"LeakyRelu has its slope below zero",
		[]feed{{"x", []int64{3}, []float32{-2, 0, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.LeakyRelu(in[0], 0.25) },
		[]int64{3},
		[]float32{-0.5, 0, 3},
	},
	{
		"LeakyRelu with slope zero is a ReLU, not the operator's own default",
		[]feed{{"x", []int64{3}, []float32{-2, 0, 3}}},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.LeakyRelu(in[0], 0) },
		[]int64{3},
		[]float32{0, 0, 3},
	},
	{
		"Reshape keeps the order of the numbers",
		[]feed{counting("x", 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Reshape(in[0], 3, 1, 2) },
		[]int64{3, 1, 2},
		[]float32{0, 1, 2, 3, 4, 5},
	},
	{
		"Resize enlarges between the centres of pixels, and no further at the edge",
		[]feed{counting("x", 1, 1, 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Resize(in[0], 4, 2) },
		[]int64{1, 1, 4, 2},
		[]float32{0, 1, 0.5, 1.5, 1.5, 2.5, 2, 3},
	},
	{
		"Flatten keeps the first dimension",
		[]feed{counting("x", 2, 1, 2, 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Flatten(in[0]) },
		[]int64{2, 2},
		[]float32{0, 1, 2, 3},
	},
	{
		"Transpose puts dimension perm[i] at place i",
		[]feed{counting("x", 1, 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Transpose(in[0], 2, 0, 1) },
		[]int64{3, 1, 2},
		[]float32{0, 3, 1, 4, 2, 5},
	},
	{
		"Concat joins along an inner axis",
		[]feed{counting("a", 2, 1), counting("b", 2, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Concat(1, in...) },
		[]int64{2, 3},
		[]float32{0, 0, 1, 1, 2, 3},
	},
	{
		"Split cuts in the order of the lengths",
		[]feed{counting("x", 5)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			parts := g.Split(in[0], 1, 3, 1)
			return g.Concat(0, parts[2], parts[1], parts[0])
		},
		[]int64{5},
		[]float32{4, 1, 2, 3, 0},
	},
	{
		"Slice takes a stretch of one axis",
		[]feed{counting("x", 2, 4)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Slice(in[0], 1, 1, 3) },
		[]int64{2, 2},
		[]float32{1, 2, 5, 6},
	},
	{
		"Gather takes elements in the order asked for, repeated ones too",
		[]feed{counting("x", 2, 3)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Gather(in[0], 1, 2, 0, 0) },
		[]int64{2, 3},
		[]float32{2, 0, 0, 5, 3, 3},
	},
	{
		"Pad puts zeros before and after",
		[]feed{counting("x", 1, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.Pad(in[0], []int64{0, 2}, []int64{1, 1}) },
		[]int64{2, 5},
		[]float32{0, 0, 0, 1, 0, 0, 0, 0, 0, 0},
	},
	{
		"ReduceSum drops the axes that it sums over",
		[]feed{counting("x", 2, 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.ReduceSum(in[0], 0, 2) },
		[]int64{3},
		[]float32{0 + 1 + 6 + 7, 2 + 3 + 8 + 9, 4 + 5 + 10 + 11},
	},
	{
		"ReduceMean drops the axes that it averages over",
		[]feed{counting("x", 2, 3, 2)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value { return g.ReduceMean(in[0], 1) },
		[]int64{2, 2},
		[]float32{2, 3, 8, 9},
	},
	{
		"constants keep their numbers and shapes",
		[]feed{counting("x", 1)},
		func(g *onnx.Graph, in []onnx.Value) onnx.Value {
			return g.Add(in[0], g.Const([]float32{1, 2, 3, 4, 5, 6}, 2, 3))
		},
		[]int64{2, 3},
		[]float32{1, 2, 3, 4, 5, 6},
	},
}

func TestOperatorsComputeWhatTheirMethodsPromise(t *testing.T) {
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
				t.Fatalf("the builder says %s, want float%v", v, c.shape)
			}
			near(t, c.name, run(t, g, c.in, result{"y", c.shape})[0], c.want)
		})
	}
}

func TestTheBatchIsKnownOnlyWhenAGraphRuns(t *testing.T) {
	g := onnx.NewGraph("any")
	x := g.Input("x", onnx.Float32, onnx.Batch, 1, 2, 2)
	y := g.Conv(x, g.Param("w", []float32{1, 2, 3, 4}, 1, 1, 2, 2), onnx.Window{})
	y = g.Gemm(g.Flatten(y), g.Param("dense", []float32{1, -1}, 2, 1), false, true)
	if want := []int64{onnx.Batch, 2}; !slices.Equal(y.Shape(), want) {
		t.Fatalf("the builder says %s, want %v", y, want)
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

// rules have no numbers: the shapes and types alone. x is [batch,4,6,6].
func TestShapesFollowFromTheInputs(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(g *onnx.Graph, x onnx.Value) onnx.Value
		want  string
	}{
		{"an input as it was declared", func(_ *onnx.Graph, x onnx.Value) onnx.Value { return x }, "x float[batch,4,6,6]"},
		{"a convolution keeps the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Conv(x, g.Const(make([]float32, 7*4*9), 7, 4, 3, 3), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
		}, "Conv:0 float[batch,7,6,6]"},
		{"a pool keeps the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.MaxPool(x, onnx.Window{Kernel: [2]int64{3, 2}, Strides: [2]int64{1, 2}})
		}, "MaxPool:0 float[batch,4,4,3]"},
		{"arithmetic keeps the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Mul(x, g.Scalar(2)) }, "Mul:0 float[batch,4,6,6]"},
		{"a comparison gives truth values", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Less(x, g.Scalar(2)) }, "Less:0 bool[batch,4,6,6]"},
		{"equality gives truth values", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Equal(x, x) }, "Equal:0 bool[batch,4,6,6]"},
		{"Float turns them into numbers", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Float(g.Equal(x, x)) }, "Cast:0 float[batch,4,6,6]"},
		{"Where has the condition's shape", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Where(g.Less(x, x), g.Scalar(1), g.Scalar(2))
		}, "Where:0 float[batch,4,6,6]"},
		{"Flatten joins all but the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Flatten(x) }, "Flatten:0 float[batch,144]"},
		{"Transpose moves the batch too", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Transpose(x, 1, 0, 3, 2) }, "Transpose:0 float[4,batch,6,6]"},
		{"Slice cuts another axis than the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Slice(x, 1, 0, 2) }, "Slice:0 float[batch,2,6,6]"},
		{"Gather cuts another axis than the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Gather(x, 3, 5) }, "Gather:0 float[batch,4,6,1]"},
		{"Pad widens images, not the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Pad(x, []int64{0, 0, 1, 1}, []int64{0, 0, 1, 0})
		}, "Pad:0 float[batch,4,8,7]"},
		{"Concat adds up channels", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.Concat(1, x, x, x) }, "Concat:0 float[batch,12,6,6]"},
		{"a sum over the batch drops it", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.ReduceSum(x, 0) }, "ReduceSum:0 float[4,6,6]"},
		{"a mean over images keeps the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value { return g.ReduceMean(x, 2, 3) }, "ReduceMean:0 float[batch,4]"},
		{"Gemm multiplies over the batch", func(g *onnx.Graph, x onnx.Value) onnx.Value {
			return g.Gemm(g.Flatten(x), g.Flatten(x), true, false)
		}, "Gemm:0 float[144,144]"},
		{"Reshape to the shape that is there adds no node", func(g *onnx.Graph, _ onnx.Value) onnx.Value {
			return g.Reshape(g.Input("v", onnx.Float32, 2, 3), 2, 3)
		}, "v float[2,3]"},
		{"a parameter", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Param("w", make([]float32, 6), 3, 2) }, "w float[3,2]"},
		{"integers", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Ints(1, 2) }, "const int64[2]"},
		{"integers can be reordered as well", func(g *onnx.Graph, _ onnx.Value) onnx.Value { return g.Gather(g.Ints(1, 2), 0, 1) }, "Gather:0 int64[1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := onnx.NewGraph("shapes")
			v := c.build(g, g.Input("x", onnx.Float32, onnx.Batch, 4, 6, 6))
			if err := g.Err(); err != nil {
				t.Fatal(err)
			}
			if v.String() != c.want {
				t.Errorf("%s, want %s", v, c.want)
			}
		})
	}
}
