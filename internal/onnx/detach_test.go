package onnx_test

import (
	"bytes"
	"slices"
	"testing"

	ortgo "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// withExtra returns a graph with the output y = 2·x and, if extra, the output z = 3·x+2·x, reshaped twice.
func withExtra(t *testing.T, extra bool) *onnxpb.ModelProto {
	t.Helper()
	g := onnx.NewGraph("test")
	x := g.Input("x", onnx.Float32, onnx.Batch, 2, 3)
	y := g.Mul(x, g.Scalar(2))
	if extra {
		z := g.Add(y, g.Mul(x, g.Scalar(3)))
		g.Output("y", y)
		g.Output("z", g.Reshape(g.Reshape(z, onnx.Batch, 6), onnx.Batch, 3, 2))
	} else {
		g.Output("y", y)
	}
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func marshal(t *testing.T, m *onnxpb.ModelProto) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDetach(t *testing.T) {
	m := withExtra(t, true)
	taken := onnx.Detach(m, "z")
	if taken == nil {
		t.Fatal("Detach = nil")
	}
	left := marshal(t, m)
	if !bytes.Equal(left, marshal(t, withExtra(t, false))) {
		t.Errorf("after Detach: %v, want the model without the output", m)
	}
	// The concatenation of both parts is the complete model.
	complete := slices.Concat(left, marshal(t, taken))
	in, z := []float32{1, 2, 3, 4, 5, 6}, make([]float32, 6)
	bind := func(name string, data []float32, shape ...int64) ort.Binding {
		if err := ort.Init(); err != nil {
			t.Fatal(err)
		}
		v, err := ortgo.NewTensor(ortgo.NewShape(shape...), data)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Destroy() })
		return ort.Binding{Name: name, Value: v}
	}
	s, err := ort.NewSession(complete, []ort.Binding{bind("x", in, 1, 2, 3)}, []ort.Binding{bind("z", z, 1, 3, 2)}, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	if want := []float32{5, 10, 15, 20, 25, 30}; !slices.Equal(z, want) {
		t.Errorf("z = %v, want %v", z, want)
	}
}

func TestDetach_unknownOutput(t *testing.T) {
	m := withExtra(t, true)
	before := proto.CloneOf(m)
	if taken := onnx.Detach(m, "w"); taken != nil || !proto.Equal(m, before) {
		t.Errorf("Detach = %v, want nil and an unchanged model", taken)
	}
	if taken := onnx.Detach(&onnxpb.ModelProto{}, "z"); taken != nil {
		t.Errorf("Detach from a model without a graph = %v, want nil", taken)
	}
}

func TestDetach_subgraph(t *testing.T) {
	m := withExtra(t, true)
	// The subgraph of a remaining node reads a value that otherwise only z needs.
	inner := m.Graph.Node[1].Output[0]
	m.Graph.Node = append(m.Graph.Node, &onnxpb.NodeProto{
		OpType: proto.String("If"), Output: []string{"w"},
		Attribute: []*onnxpb.AttributeProto{{G: &onnxpb.GraphProto{Node: []*onnxpb.NodeProto{{Input: []string{inner}}}}}},
	})
	m.Graph.Output = append(m.Graph.Output, &onnxpb.ValueInfoProto{Name: proto.String("w")})
	onnx.Detach(m, "z")
	if !slices.ContainsFunc(m.Graph.Node, func(n *onnxpb.NodeProto) bool { return slices.Contains(n.Output, inner) }) {
		t.Errorf("Detach removed %q", inner)
	}
}
