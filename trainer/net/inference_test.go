package net

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	ortgo "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// tensorOf returns images as the input of the exported model.
func tensorOf(n *Network, images [][]uint8) []float32 {
	pixels := n.pixels()
	out := make([]float32, len(images)*pixels)
	for i, p := range images {
		for j, v := range p {
			out[i*pixels+j%colors*(pixels/colors)+j/colors] = float32(v) / 255
		}
	}
	return out
}

// predict runs a graph on images and returns the named outputs.
func predict(t testing.TB, n *Network, g *onnx.Graph, images [][]uint8, outputs ...string) [][]float64 {
	t.Helper()
	data, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	batch := int64(len(images))
	tensor := func(shape ...int64) ([]float32, ortgo.Value) {
		data, v, err := newTensor(shape...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Destroy() })
		return data, v
	}
	size := int64(n.config.Size)
	input, value := tensor(batch, colors, size, size)
	copy(input, tensorOf(n, images))
	results := make([][]float32, len(outputs))
	out := make([]ort.Binding, len(outputs))
	for i, name := range outputs {
		width := int64(n.Outputs())
		switch name {
		case "embedding":
			width = int64(n.Embedding())
		case gradCAMName:
			out[i].Name = name
			results[i], out[i].Value = tensor(batch, size, size)
			continue
		}
		out[i].Name = name
		results[i], out[i].Value = tensor(batch, width)
	}
	s, err := ort.NewSession(data, []ort.Binding{{Name: "input", Value: value}}, out, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	wider := make([][]float64, len(results))
	for i := range results {
		wider[i] = wide(results[i])
	}
	return wider
}

// graphs returns the exported graph and the unfused graph for the weights.
func graphs(t testing.TB, n *Network, w Weights) (inference, unfused *onnx.Graph) {
	t.Helper()
	inference, err := n.Inference(w)
	if err != nil {
		t.Fatal(err)
	}
	if unfused, err = n.Unfused(w); err != nil {
		t.Fatal(err)
	}
	return inference, unfused
}

func TestInference_MatchesReference(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		change func(n *Network, w Weights)
	}{
		{name: "small", config: tiny},
		{name: "residual", config: residual},
		{name: "stem_hidden_layer_two_classes", config: Config{
			Size: 24, Classes: 2, Stem: 3, Channels: []int{4, 5}, Residual: []int{0, 2}, GlobalPool: true, Dense: []int{6}, Slope: 0.1,
		}},
		{name: "three_classes", config: Config{Size: 20, Classes: 3, Channels: []int{4, 5}, Dense: []int{7}, Slope: 0.1}},
		{name: "odd_dimensions", config: Config{Size: 32, Classes: 2, Channels: []int{3, 5, 2}, Dense: []int{7, 1}, Slope: 0.3}},
		{name: "gamma_zero_or_negative", config: tiny, change: func(n *Network, w Weights) {
			for i := range 8 {
				w.Params[n.params[n.blocks[0].gamma].Offset+i] = -0.3 * float32(i)
			}
		}},
		{name: "tiny_variances", config: tiny, change: func(_ *Network, w Weights) {
			w.Var[0], w.Var[1], w.Var[20] = 0, 1e-7, 1e-4
		}},
		{name: "initial_weights", config: tiny, change: func(n *Network, w Weights) {
			init := n.Init(420)
			copy(w.Params, init.Params)
			copy(w.Mean, init.Mean)
			copy(w.Var, init.Var)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawStats(drawWeights(n, 1), 1)
			if c.change != nil {
				c.change(n, w)
			}
			inference, unfused := graphs(t, n, w)
			for _, batch := range []int{3, 1} {
				e := testBatch{}
				e.images, e.labels = drawImages(n, 1, 0, batch)
				r := newReference(n, w)
				r.mean, r.variance = wide(w.Mean), wide(w.Var)
				want := r.run(e, false)
				got := predict(t, n, inference, e.images, n.OutputName(), "embedding")
				close64(t, "logits", got[0], want.logits, 1e-5)
				close64(t, "embeddings", got[1], want.embedding, 1e-5)
				close64(t, "logits of the unfused graph", predict(t, n, unfused, e.images, n.OutputName())[0], want.logits, 1e-5)
			}
		})
	}
}

func TestInference_MatchesPyTorch(t *testing.T) {
	for _, c := range []struct {
		file        string
		config      Config
		count, rows int // number of images; number of images with known embeddings
	}{{"small.npz", small, 24, 24}, {"cifake.npz", cifake, 32, 4}} {
		t.Run(c.file, func(t *testing.T) {
			f := openFixture(t, c.file)
			n := newNetwork(t, c.config)
			seed := f.seed("seed")
			inference, unfused := graphs(t, n, drawStats(drawWeights(n, seed), seed))
			images, _ := drawImages(n, seed, 0, c.count)
			want := f.float32s("eval_logit")
			got := predict(t, n, inference, images, "logit", "embedding")
			close64(t, "logits", got[0], want, 1e-4)
			close64(t, "embeddings", got[1][:c.rows*n.Embedding()], f.float32s("eval_embedding"), 1e-4)
			close64(t, "logits of the unfused graph", predict(t, n, unfused, images, "logit")[0], want, 1e-4)
		})
	}
}

// The exported weights give the same logits as the training step, if the running statistics are
// those of the batch.
func TestInference_MatchesTrainingStep(t *testing.T) {
	for name, config := range map[string]Config{"tiny": tiny, "residual": residual} {
		t.Run(name, func(t *testing.T) { testInferenceMatchesTrainingStep(t, config) })
	}
}

func testInferenceMatchesTrainingStep(t *testing.T, config Config) {
	config.Dropout = 0
	n := newNetwork(t, config)
	eachLayout(t, func(t *testing.T, layout string) {
		tr := newTrainer(t, n, n.Init(1), layout, adam)
		e := drawBatch(n, 1, 0, 8, 0)
		for step := range 3 {
			learn(t, tr, drawBatch(n, 1, 8, 8, step), 1e-3)
		}
		w := tr.State().Weights
		last := learn(t, tr, e, 0)
		for i := range w.Mean {
			w.Mean[i], w.Var[i] = float32(last.mean[i]), float32(last.variance[i])
		}
		inference, _ := graphs(t, n, w)
		close64(t, "logits", predict(t, n, inference, e.images, n.OutputName())[0], last.logits, 1e-5)
	})
}

func TestInference_Deterministic(t *testing.T) {
	n := newNetwork(t, cifake)
	w := drawStats(drawWeights(n, 1), 1)
	marshal := func() []byte {
		t.Helper()
		g, _ := graphs(t, n, w)
		data, err := g.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if !bytes.Equal(marshal(), marshal()) {
		t.Error("two exports of the same weights differ")
	}
	g, _ := graphs(t, n, w)
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.GetOpsetImport()) != 1 || m.GetOpsetImport()[0].GetDomain() != "" {
		t.Errorf("opset imports = %v, want only the standard operators", m.GetOpsetImport())
	}
	var outputs []string
	for _, o := range m.GetGraph().GetOutput() {
		outputs = append(outputs, o.GetName())
		dims := o.GetType().GetTensorType().GetShape().GetDim()
		if len(dims) < 2 || dims[0].GetDimParam() != "batch" {
			t.Errorf("output %s has shape %v, want [batch, …]", o.GetName(), dims)
		}
	}
	slices.Sort(outputs)
	if !slices.Equal(outputs, []string{"embedding", "gradcam", "logit"}) || len(m.GetGraph().GetInput()) != 1 {
		t.Errorf("outputs %v and %d inputs, want [embedding gradcam logit] and 1", outputs, len(m.GetGraph().GetInput()))
	}
	// The graph copies the weights: changing them afterwards has no effect.
	before := proto.Size(m)
	w.Params[0] = 99
	after, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(after, marshal()) || len(after) != before {
		t.Error("the graph does not copy the weights")
	}
}

func TestInference_WeightsOfOtherNetwork(t *testing.T) {
	n, other := newNetwork(t, tiny), newNetwork(t, small)
	if _, err := n.Inference(other.Init(1)); err == nil || !strings.HasPrefix(err.Error(), "network: ") {
		t.Errorf("Inference error = %v, want prefix %q", err, "network: ")
	}
	if _, err := n.Unfused(Weights{}); err == nil {
		t.Error("Unfused(Weights{}) error = nil, want an error")
	}
}

func TestInference_RunsInNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	check := exec.Command(node, "-e", "require('onnxruntime-node')")
	check.Dir = "testdata"
	if out, err := check.CombinedOutput(); err != nil {
		t.Skipf("onnxruntime-node is not installed (npm ci --ignore-scripts): %.200s", out)
	}
	n := newNetwork(t, cifake)
	g, _ := graphs(t, n, drawStats(drawWeights(n, 1), 1))
	model, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const batch = 3
	images, _ := drawImages(n, 1, 0, batch)
	input, err := binary.Append(nil, binary.LittleEndian, tensorOf(n, images))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "model.onnx"), filepath.Join(dir, "input.f32")}
	for i, data := range [][]byte{model, input} {
		if err := os.WriteFile(files[i], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.Command(node, filepath.Join("testdata", "run.js"), files[0], files[1], strconv.Itoa(batch))
	var stderr bytes.Buffer
	run.Stderr = &stderr
	out, err := run.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, stderr.String())
	}
	var got struct {
		Inputs  []string
		Outputs map[string]struct {
			Shape []int
			Data  []float64
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("parse %s: %v", out, err)
	}
	if !slices.Equal(got.Inputs, []string{"input"}) || len(got.Outputs) != 3 {
		t.Errorf("inputs %v and %d outputs, want [input] and 3", got.Inputs, len(got.Outputs))
	}
	names := []string{"logit", "embedding", "gradcam"}
	want := predict(t, n, g, images, names...)
	for i, name := range names {
		o, shape := got.Outputs[name], []int{batch, len(want[i]) / batch}
		if name == "gradcam" {
			shape = []int{batch, n.config.Size, n.config.Size}
		}
		if !slices.Equal(o.Shape, shape) {
			t.Errorf("%s has shape %v, want %v", name, o.Shape, shape)
		}
		close64(t, name, o.Data, want[i], 1e-5)
	}
}
