package onnx_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	ortgo "github.com/yalue/onnxruntime_go"

	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// feed is an input of a graph and its data.
type feed struct {
	name  string
	shape []int64
	data  []float32
}

// counting returns an input with the data 0, 1, 2, …
func counting(name string, shape ...int64) feed {
	f := feed{name, shape, make([]float32, size(shape))}
	for i := range f.data {
		f.data[i] = float32(i)
	}
	return f
}

func size(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// result is the name and the shape of an output.
type result struct {
	name  string
	shape []int64
}

// run runs the graph with ONNX Runtime and returns the outputs. ONNX Runtime fails if the outputs don't have
// the given shapes, so each run also checks the shapes computed by this package.
func run(t *testing.T, g *onnx.Graph, in []feed, out ...result) [][]float32 {
	t.Helper()
	got, err := tryRun(t, g, in, out...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func tryRun(t *testing.T, g *onnx.Graph, in []feed, out ...result) ([][]float32, error) {
	t.Helper()
	model, err := g.Marshal()
	if err != nil {
		return nil, err
	}
	if err := ort.Init(); err != nil {
		return nil, err
	}
	var inputs, outputs []ort.Binding
	results := make([][]float32, len(out))
	for _, f := range in {
		v, err := ortgo.NewTensor(ortgo.NewShape(f.shape...), f.data)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", f.name, err)
		}
		defer func() { _ = v.Destroy() }()
		inputs = append(inputs, ort.Binding{Name: f.name, Value: v})
	}
	for i, r := range out {
		v, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(r.shape...))
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", r.name, err)
		}
		defer func() { _ = v.Destroy() }()
		// Detect values that aren't written.
		for j := range v.GetData() {
			v.GetData()[j] = -987654
		}
		outputs = append(outputs, ort.Binding{Name: r.name, Value: v})
		results[i] = v.GetData()
	}
	s, err := ort.NewSession(model, inputs, outputs, ort.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(); err != nil {
		return nil, err
	}
	for i := range results {
		results[i] = slices.Clone(results[i])
	}
	return results, nil
}

// near compares values with a relative or absolute tolerance of 1e-5.
func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values %v, want %d: %v", what, len(got), got, len(want), want)
	}
	for i := range got {
		g, w := float64(got[i]), float64(want[i])
		if !(math.Abs(g-w) <= 1e-5*max(1, math.Abs(w))) { // also catches NaN
			t.Fatalf("%s: value %d is %v, want %v\ngot  %v\nwant %v", what, i, g, w, got, want)
		}
	}
}
