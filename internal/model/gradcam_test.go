package model

import (
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// explainingGraph returns testGraph with the output gradcam, three times the mean over the colors.
func explainingGraph() *onnxpb.ModelProto {
	m := testGraph()
	g := m.Graph
	g.Node = append(g.Node,
		&onnxpb.NodeProto{Name: proto.String("mean"), OpType: proto.String("ReduceMean"), Input: []string{"input"}, Output: []string{"colors"}, Attribute: []*onnxpb.AttributeProto{
			{Name: proto.String("axes"), Type: onnxpb.AttributeProto_INTS.Enum(), Ints: []int64{1}},
			{Name: proto.String("keepdims"), Type: onnxpb.AttributeProto_INT.Enum(), I: proto.Int64(0)},
		}},
		&onnxpb.NodeProto{Name: proto.String("weigh"), OpType: proto.String("Mul"), Input: []string{"colors", "three"}, Output: []string{"gradcam"}},
	)
	g.Initializer = append(g.Initializer, tensor("three", []float32{3}, 1))
	g.Output = append(g.Output, value("gradcam", onnxpb.TensorProto_FLOAT, "batch", testSize, testSize))
	return m
}

// explainingMetadata returns the metadata for explainingGraph.
func explainingMetadata() Metadata {
	md := testMetadata()
	md.CAM, md.CAMKind = "gradcam", CAMOfSecond
	return md
}

func parsed(t *testing.T, graph *onnxpb.ModelProto, md Metadata) *File {
	t.Helper()
	data, err := Marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNewExplainer(t *testing.T) {
	f := parsed(t, explainingGraph(), explainingMetadata())
	if !f.HasCAM() {
		t.Fatal("HasCAM() = false")
	}
	s, err := f.NewExplainer(2, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	plain, err := f.NewSession(2, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	const imageSize, area = channels * testSize * testSize, testSize * testSize
	in := s.Input().Float32
	for i := range in {
		in[i] = float32(i%imageSize) / imageSize * float32(1+i/imageSize)
	}
	plain.Input().Copy(s.Input())
	for n := 2; n > 0; n-- {
		clear(s.CAM())
		if err := s.Run(n); err != nil {
			t.Fatal(err)
		}
		if err := plain.Run(n); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			for j := range area {
				want := 0.0
				for c := range channels {
					want += float64(in[i*imageSize+c*area+j])
				}
				if got := float64(s.CAM()[i*area+j]); math.Abs(got-want) > 1e-5 {
					t.Fatalf("batch %d, image %d, pixel %d: %g, want %g", n, i, j, got, want)
				}
			}
		}
		if n == 1 && s.CAM()[area] != 0 {
			t.Error("a batch of one wrote after its end")
		}
	}
	if plain.CAM() != nil || !slices.Equal(plain.Scores(), s.Scores()) || !slices.Equal(plain.Embeddings(), s.Embeddings()) {
		t.Errorf("session: logits %v, embeddings %v; explainer: logits %v, embeddings %v; want the same", plain.Scores(), plain.Embeddings(), s.Scores(), s.Embeddings())
	}
}

func TestNewSession_withoutGradCAMNodes(t *testing.T) {
	graph := explainingGraph()
	graph.Graph.Node[4].OpType = proto.String("Mull") // unknown operator
	f := parsed(t, graph, explainingMetadata())
	s, err := f.NewSession(1, ort.Options{Threads: 1})
	if err != nil {
		t.Fatalf("NewSession used a node of gradcam: %v", err)
	}
	_ = s.Close()
	_, err = f.NewExplainer(1, ort.Options{Threads: 1})
	checkError(t, err, f.Digest, "Mull")
}

func TestNewExplainer_noGradCAM(t *testing.T) {
	f := parsed(t, testGraph(), testMetadata())
	if f.HasCAM() {
		t.Error("HasCAM() = true")
	}
	s, err := f.NewExplainer(1, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(1); err != nil || s.CAM() != nil || s.Scores()[0] != -5 {
		t.Errorf("error %v, CAM() = %v, logit %g", err, s.CAM(), s.Scores()[0])
	}
}

// The weights must not be held twice.
func TestFile_memory(t *testing.T) {
	data, err := Marshal(explainingGraph(), explainingMetadata())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.data) + len(f.cam); n > len(data)+16 {
		t.Errorf("a file of %d bytes is held as %d bytes", len(data), n)
	}
}
