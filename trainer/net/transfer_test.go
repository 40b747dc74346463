package net

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// exported returns the graph of Inference as it is read back from a file.
func exported(t *testing.T, n *Network, w Weights) *onnxpb.ModelProto {
	t.Helper()
	g, err := n.Inference(w)
	if err != nil {
		t.Fatal(err)
	}
	data, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m := &onnxpb.ModelProto{}
	if err := proto.Unmarshal(data, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWeightsFrom_SameModelFile(t *testing.T) {
	for name, config := range map[string]Config{"cifake": cifake, "residual": residual} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, config)
			m := exported(t, n, drawStats(drawWeights(n, 1), 1))
			w, newLayer, err := n.WeightsFrom(m, 1)
			if err != nil || newLayer {
				t.Fatalf("WeightsFrom = new layer %v, %v; want false, nil", newLayer, err)
			}
			if again := exported(t, n, w); !proto.Equal(again, m) {
				t.Error("the weights of a model file give another model file")
			}
		})
	}
}

func TestWeightsFrom_OtherNumberOfClasses(t *testing.T) {
	config := residual
	n := newNetwork(t, config)
	config.Classes = 7
	other := newNetwork(t, config)
	from := exported(t, n, drawStats(drawWeights(n, 1), 1))
	w, newLayer, err := other.WeightsFrom(from, 3)
	if err != nil || !newLayer {
		t.Fatalf("WeightsFrom = new layer %v, %v; want true, nil", newLayer, err)
	}
	got := exported(t, other, w)
	tensor := func(m *onnxpb.ModelProto, name string) *onnxpb.TensorProto {
		for _, x := range m.Graph.Initializer {
			if x.GetName() == name {
				return x
			}
		}
		t.Fatalf("no tensor %s", name)
		return nil
	}
	for _, b := range n.blocks {
		if name := b.name + ".conv.weight"; !proto.Equal(tensor(got, name), tensor(from, name)) {
			t.Errorf("%s differs", name)
		}
	}
	if !proto.Equal(tensor(got, "dense1.weight"), tensor(exported(t, other, other.Init(3)), "dense1.weight")) {
		t.Error("the new last layer doesn't have the initial weights of the seed")
	}
}

func TestWeightsFrom_InvalidModel(t *testing.T) {
	n := newNetwork(t, residual)
	for _, c := range []struct {
		name   string
		change func(m *onnxpb.ModelProto)
		want   string
	}{
		{"empty", func(m *onnxpb.ModelProto) { m.Graph = nil }, "stem.conv.weight: there is no such tensor"},
		{"renamed", func(m *onnxpb.ModelProto) { m.Graph.Initializer[3].Name = proto.String("x") }, "there is no such tensor"},
		{"float16", func(m *onnxpb.ModelProto) {
			m.Graph.Initializer[0].DataType = proto.Int32(int32(onnxpb.TensorProto_FLOAT16))
		}, "the elements are float16, want float"},
		{"other_channels", func(m *onnxpb.ModelProto) { m.Graph.Initializer[0].Dims[0] = 8 }, "stem.conv.weight: the shape is [8 3 3 3], want [16 3 3 3]"},
		{"truncated", func(m *onnxpb.ModelProto) {
			m.Graph.Initializer[0].RawData = m.Graph.Initializer[0].RawData[:10]
		}, "it has 2 elements, want 432"},
		{"other_embedding", func(m *onnxpb.ModelProto) {
			for _, x := range m.Graph.Initializer {
				if x.GetName() == "dense1.weight" {
					x.Dims[1] = 8
				}
			}
		}, "dense1.weight: the shape is [5 8], want [5 32]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := exported(t, n, n.Init(1))
			c.change(m)
			_, _, err := n.WeightsFrom(m, 1)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "\nhint: ") {
				t.Errorf("WeightsFrom error = %v, want %q and a hint", err, c.want)
			}
		})
	}
}

// Calibrated weights give the outputs of the model file in evaluation, and in training on images with
// the same statistics.
func TestCalibrate(t *testing.T) {
	for name, config := range map[string]Config{
		"tiny": {Size: 32, Classes: 2, Channels: []int{16, 16}, Dense: []int{16}, Slope: 0.01}, "residual": residual,
	} {
		t.Run(name, func(t *testing.T) {
			config.Dropout = 0
			n := newNetwork(t, config)
			original := drawStats(drawWeights(n, 1), 1)
			inference, _ := graphs(t, n, original)
			e := drawBatch(n, 1, 0, calibrationBatch, 0)
			want := predict(t, n, inference, e.images, n.OutputName())[0]
			w, _, err := n.WeightsFrom(exported(t, n, original), 1)
			if err != nil {
				t.Fatal(err)
			}
			training := func(w Weights) []float64 {
				return learn(t, newTrainer(t, n, w, LayoutStandard, adam), e, 0).logits
			}
			if raw := training(w); math.Abs(raw[0]-want[0]) < 1e-2*largest(want) {
				t.Fatalf("logit in training = %v before the calibration, want another one than in evaluation, %v", raw[0], want[0])
			}
			if w, err = n.Calibrate(w, e.images); err != nil {
				t.Fatal(err)
			}
			inference, _ = graphs(t, n, w)
			close64(t, "logits in evaluation", predict(t, n, inference, e.images, n.OutputName())[0], want, 1e-5)
			close64(t, "logits in training", training(w), want, 1e-3)
		})
	}
}

func TestCalibrate_InvalidInput(t *testing.T) {
	n := newNetwork(t, tiny)
	image := make([]uint8, n.pixels())
	for _, c := range []struct {
		name   string
		w      Weights
		images [][]uint8
		want   string
	}{
		{"weights", Weights{}, [][]uint8{image}, "network: weights have"},
		{"no_images", n.Init(1), nil, "calibrate batch norms: there are no images"},
		{"image_size", n.Init(1), [][]uint8{image, image[1:]}, "calibrate batch norms: image 1 has 3071 bytes, want 3072"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := n.Calibrate(c.w, c.images); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("Calibrate error = %v, want %q", err, c.want)
			}
		})
	}
	// A single black image has channels without variance.
	w, err := n.Calibrate(n.Init(1), [][]uint8{image})
	if err != nil {
		t.Fatal(err)
	}
	if w.Var[0] != 0 || math.IsNaN(largest(wide(w.Params))) {
		t.Errorf("variance of the first channel = %v, want 0; largest weight %v", w.Var[0], largest(wide(w.Params)))
	}
}
