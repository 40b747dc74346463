package onnx_test

import (
	"slices"
	"testing"

	"fakeart/internal/onnx"
)

// blockSize determines ONNX Runtime's block size on this machine from the position of the second channel
// of a counting tensor.
func blockSize(t *testing.T) int64 {
	t.Helper()
	g := onnx.NewGraph("probe")
	g.Output("y", g.Blocked(1).ReorderInput(g.Input("x", onnx.Float32, 1, 64, 1, 2)))
	got, err := tryRun(t, g, []feed{counting("x", 1, 64, 1, 2)}, result{"y", []int64{1, 64, 1, 2}})
	if err != nil {
		t.Skipf("ONNX Runtime has no blocked layout on this machine: %v", err)
	}
	for i, v := range got[0] {
		if v == 1 && i > 1 {
			return int64(i)
		}
	}
	t.Skip("ONNX Runtime's layout is not blocked on this machine")
	return 0
}

// wave returns an input with pseudo-random values, so that mixed-up elements are detected.
func wave(name string, shape ...int64) feed {
	f := counting(name, shape...)
	state := uint32(12345)
	for _, r := range name {
		state = state*31 + uint32(r)
	}
	for i := range f.data {
		state = state*1664525 + 1013904223
		f.data[i] = float32(state>>8)/(1<<23) - 1
	}
	return f
}

// ordered converts weights [M,C,kh,kw] to the order of blocked convolutions.
func ordered(g *onnx.Graph, w onnx.Value, b int64) onnx.Value {
	m, c, kh, kw := w.Dim(0), w.Dim(1), w.Dim(2), w.Dim(3)
	k := g.Reshape(w, m/b, b, c*kh*kw)
	if c < b {
		return g.Reshape(g.Transpose(k, 0, 2, 1), m, c, kh, kw)
	}
	k = g.Reshape(w, m/b, b, c/b, b, kh*kw)
	return g.Reshape(g.Transpose(k, 0, 2, 4, 3, 1), m, c, kh, kw)
}

// TestBlocked compares each blocked operator with the standard one in the same graph.
func TestBlocked(t *testing.T) {
	b := blockSize(t)
	c := 2 * b
	same := onnx.Window{Pads: [4]int64{1, 1, 1, 1}}
	halves := onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}}
	shape := []int64{2, c, 6, 4}
	var none onnx.Value
	for _, tc := range []struct {
		name  string
		in    []feed
		build func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (plain, blocked onnx.Value)
	}{
		{
			"ReorderInput and ReorderOutput",
			[]feed{wave("x", shape...)},
			func(_ *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				return in[0], l.ReorderOutput(l.ReorderInput(in[0]))
			},
		},
		{
			"ReorderOutputLast",
			[]feed{wave("x", shape...)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				return g.Transpose(in[0], 0, 2, 3, 1), l.ReorderOutputLast(l.ReorderInput(in[0]))
			},
		},
		{
			"Conv",
			[]feed{wave("x", shape...), wave("w", b, c, 3, 3)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				y := l.Conv(l.ReorderInput(in[0]), ordered(g, in[1], b), same, none, none)
				return g.Conv(in[0], in[1], same), l.ReorderOutput(y)
			},
		},
		{
			"Conv with fewer channels than a block",
			[]feed{wave("x", 2, 3, 6, 4), wave("w", c, 3, 3, 3)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				y := l.Conv(in[0], ordered(g, in[1], b), same, none, none)
				return g.Conv(in[0], in[1], same), l.ReorderOutput(y)
			},
		},
		{
			"Conv with bias, sum and activation",
			[]feed{wave("x", shape...), wave("w", b, c, 1, 1), wave("bias", b), wave("sum", 2, b, 6, 4)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				y := l.Conv(l.ReorderInput(in[0]), ordered(g, in[1], b), onnx.Window{}, in[2], l.ReorderInput(in[3]), onnx.LeakyReluActivation(0.25))
				return g.LeakyRelu(g.Add(g.Conv(in[0], in[1], onnx.Window{}, in[2]), in[3]), 0.25), l.ReorderOutput(y)
			},
		},
		{
			"Conv with sum and without bias",
			[]feed{wave("x", shape...), wave("w", b, c, 1, 1), wave("sum", 2, b, 6, 4)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				y := l.Conv(l.ReorderInput(in[0]), ordered(g, in[1], b), onnx.Window{}, none, l.ReorderInput(in[2]), onnx.ClipActivation(-0.5, 0.25))
				return g.Clip(g.Add(g.Conv(in[0], in[1], onnx.Window{}), in[2]), -0.5, 0.25), l.ReorderOutput(y)
			},
		},
		{
			"Conv with group per channel and hard sigmoid",
			[]feed{wave("x", shape...), wave("scale", c, 1, 1, 1), wave("shift", c)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				win := onnx.Window{Group: c}
				y := l.Conv(l.ReorderInput(in[0]), in[1], win, in[2], none, onnx.HardSigmoidActivation(2, 0.5))
				z := g.Add(g.Mul(g.Conv(in[0], in[1], win, in[2]), g.Scalar(2)), g.Scalar(0.5))
				return g.Clip(z, 0, 1), l.ReorderOutput(y)
			},
		},
		{
			"MaxPool",
			[]feed{wave("x", shape...)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				return g.MaxPool(in[0], halves), l.ReorderOutput(l.MaxPool(l.ReorderInput(in[0]), halves))
			},
		},
		{
			"AveragePool",
			[]feed{wave("x", shape...)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				squares := g.Reshape(in[0], 2*c, 3, 2, 2, 2)
				return g.Reshape(g.ReduceMean(squares, 2, 4), 2, c, 3, 2), l.ReorderOutput(l.AveragePool(l.ReorderInput(in[0]), halves))
			},
		},
		{
			"GlobalAveragePool",
			[]feed{wave("x", shape...)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				return g.Reshape(g.ReduceMean(in[0], 2, 3), 2, c, 1, 1), l.ReorderOutput(l.GlobalAveragePool(l.ReorderInput(in[0])))
			},
		},
		{
			"Upsample",
			[]feed{wave("x", shape...)},
			func(g *onnx.Graph, l onnx.Blocked, in []onnx.Value) (onnx.Value, onnx.Value) {
				rows := g.Gather(in[0], 2, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
				return g.Gather(rows, 3, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3), l.ReorderOutput(l.Upsample(l.ReorderInput(in[0]), 2, 3))
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := onnx.NewGraph("two")
			in := make([]onnx.Value, len(tc.in))
			for i, f := range tc.in {
				in[i] = g.Input(f.name, onnx.Float32, f.shape...)
			}
			plain, blocked := tc.build(g, g.Blocked(b), in)
			g.Output("plain", plain)
			g.Output("blocked", blocked)
			if err := g.Err(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(plain.Shape(), blocked.Shape()) {
				t.Fatalf("%s, want the shape of %s", blocked, plain)
			}
			got := run(t, g, tc.in, result{"plain", plain.Shape()}, result{"blocked", plain.Shape()})
			near(t, tc.name, got[1], got[0])
		})
	}
}
