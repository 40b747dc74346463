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

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// tensorOf gives pictures as the served model takes them.
func tensorOf(pictures [][]uint8) []float32 {
	out := make([]float32, len(pictures)*pixels)
	for i, p := range pictures {
		imaging.ToTensor(out[i*pixels:][:pixels], p)
	}
	return out
}

// predict runs a graph on pictures and gives its outputs of the named widths.
func predict(t testing.TB, n *Network, g *onnx.Graph, pictures [][]uint8, outputs ...string) [][]float64 {
	t.Helper()
	data, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	batch := int64(len(pictures))
	tensor := func(shape ...int64) ([]float32, ortgo.Value) {
		data, v, err := newTensor(shape...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Destroy() })
		return data, v
	}
	input, value := tensor(batch, imaging.Channels, imaging.Size, imaging.Size)
	copy(input, tensorOf(pictures))
	results := make([][]float32, len(outputs))
	out := make([]ort.Binding, len(outputs))
	for i, name := range outputs {
		width := int64(1)
		switch name {
		case "embedding":
			width = int64(n.Embedding())
		case gradCAMName:
			out[i].Name = name
			results[i], out[i].Value = tensor(batch, imaging.Size, imaging.Size)
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

// graphs gives both graphs of the weights.
func graphs(t testing.TB, n *Network, w Weights) (inference, evaluation *onnx.Graph) {
	t.Helper()
	inference, err := n.Inference(w)
	if err != nil {
		t.Fatal(err)
	}
	if evaluation, err = n.Unfused(w); err != nil {
		t.Fatal(err)
	}
	return inference, evaluation
}

func TestTheServedModelComputesWhatWasTrained(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		change func(n *Network, w Weights)
	}{
		{name: "a small network", config: tiny},
		{name: "one of odd numbers", config: Config{Channels: []int{3, 5, 2}, Dense: []int{7, 1}, Slope: 0.3}},
		{name: "γ zero and negative", config: tiny, change: func(n *Network, w Weights) {
			for i := range 8 {
				w.Params[n.params[n.blocks[0].gamma].Offset+i] = -0.3 * float32(i)
			}
		}},
		{name: "channels that hardly vary", config: tiny, change: func(_ *Network, w Weights) {
			w.Var[0], w.Var[1], w.Var[20] = 0, 1e-7, 1e-4
		}},
		{name: "weights as training starts from them", config: tiny, change: func(n *Network, w Weights) {
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
			inference, evaluation := graphs(t, n, w)
			for _, batch := range []int{3, 1} {
				e := example{}
				e.pictures, e.labels = drawPictures(1, 0, batch)
				r := newReference(n, w)
				r.mean, r.variance = wide(w.Mean), wide(w.Var)
				want := r.run(e, false)
				got := predict(t, n, inference, e.pictures, "logit", "embedding")
				close64(t, "logits", got[0], want.logits, 1e-5)
				close64(t, "embeddings", got[1], want.embedding, 1e-5)
				close64(t, "logits of the evaluation graph", predict(t, n, evaluation, e.pictures, "logit")[0], want.logits, 1e-5)
			}
		})
	}
}

func TestTheServedModelIsPyTorchs(t *testing.T) {
	for _, c := range []struct {
		file        string
		config      Config
		count, rows int // pictures, and of how many the embedding is known
	}{{"small.npz", small, 24, 24}, {"cifake.npz", cifake, 32, 4}} {
		t.Run(c.file, func(t *testing.T) {
			f := openFixture(t, c.file)
			n := newNetwork(t, c.config)
			seed := f.seed("seed")
			inference, evaluation := graphs(t, n, drawStats(drawWeights(n, seed), seed))
			pictures, _ := drawPictures(seed, 0, c.count)
			want := f.numbers("eval_logit")
			got := predict(t, n, inference, pictures, "logit", "embedding")
			close64(t, "logits", got[0], want, 1e-4)
			close64(t, "embeddings", got[1][:c.rows*n.Embedding()], f.numbers("eval_embedding"), 1e-4)
			close64(t, "logits of the evaluation graph", predict(t, n, evaluation, pictures, "logit")[0], want, 1e-4)
		})
	}
}

// A trainer's weights, exported, judge a batch as the trainer's own step does
// once the running statistics are that batch's.
func TestTrainedWeightsAreExportedWithTheirStatistics(t *testing.T) {
	config := tiny
	config.Dropout = 0
	n := newNetwork(t, config)
	eachLayout(t, func(t *testing.T, layout string) {
		tr := newTrainer(t, n, n.Init(1), layout, adam)
		e := drawExample(n, 1, 0, 8, 0)
		for step := range 3 {
			learn(t, tr, drawExample(n, 1, 8, 8, step), 1e-3)
		}
		w := tr.State().Weights
		last := learn(t, tr, e, 0)
		for i := range w.Mean {
			w.Mean[i], w.Var[i] = float32(last.mean[i]), float32(last.variance[i])
		}
		inference, _ := graphs(t, n, w)
		close64(t, "logits", predict(t, n, inference, e.pictures, "logit")[0], last.logits, 1e-5)
	})
}

func TestTheServedModelIsCanonical(t *testing.T) {
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
		t.Error("the same weights give two models")
	}
	g, _ := graphs(t, n, w)
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.GetOpsetImport()) != 1 || m.GetOpsetImport()[0].GetDomain() != "" {
		t.Errorf("the model needs %v, want the standard operators alone", m.GetOpsetImport())
	}
	var outputs []string
	for _, o := range m.GetGraph().GetOutput() {
		outputs = append(outputs, o.GetName())
		dims := o.GetType().GetTensorType().GetShape().GetDim()
		if len(dims) < 2 || dims[0].GetDimParam() != "batch" {
			t.Errorf("output %s has the shape %v", o.GetName(), dims)
		}
	}
	slices.Sort(outputs)
	if !slices.Equal(outputs, []string{"embedding", "gradcam", "logit"}) || len(m.GetGraph().GetInput()) != 1 {
		t.Errorf("outputs %v and %d inputs", outputs, len(m.GetGraph().GetInput()))
	}
	// The weights went in as they were: changing them afterwards changes nothing.
	before := proto.Size(m)
	w.Params[0] = 99
	after, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(after, marshal()) || len(after) != before {
		t.Error("the graph holds on to the weights that it was given")
	}
}

func TestForeignWeightsAreNotExported(t *testing.T) {
	n, other := newNetwork(t, tiny), newNetwork(t, small)
	if _, err := n.Inference(other.Init(1)); err == nil || !strings.HasPrefix(err.Error(), "network: ") {
		t.Errorf("error %v", err)
	}
	if _, err := n.Unfused(Weights{}); err == nil {
		t.Error("no weights are no error")
	}
}

func TestNodeReadsTheServedModel(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node here")
	}
	check := exec.Command(node, "-e", "require('onnxruntime-node')")
	check.Dir = "testdata"
	if out, err := check.CombinedOutput(); err != nil {
		t.Skipf("node has no onnxruntime-node here (npm ci --ignore-scripts): %.200s", out)
	}
	n := newNetwork(t, cifake)
	g, _ := graphs(t, n, drawStats(drawWeights(n, 1), 1))
	model, err := g.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const batch = 3
	pictures, _ := drawPictures(1, 0, batch)
	input, err := binary.Append(nil, binary.LittleEndian, tensorOf(pictures))
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
		t.Fatalf("%v in %s", err, out)
	}
	if !slices.Equal(got.Inputs, []string{"input"}) || len(got.Outputs) != 3 {
		t.Errorf("inputs %v and %d outputs", got.Inputs, len(got.Outputs))
	}
	names := []string{"logit", "embedding", "gradcam"}
	want := predict(t, n, g, pictures, names...)
	for i, name := range names {
		o, shape := got.Outputs[name], []int{batch, len(want[i]) / batch}
		if name == "gradcam" {
			shape = []int{batch, imaging.Size, imaging.Size}
		}
		if !slices.Equal(o.Shape, shape) {
			t.Errorf("%s has the shape %v", name, o.Shape)
		}
		close64(t, name, o.Data, want[i], 1e-5)
	}
}
