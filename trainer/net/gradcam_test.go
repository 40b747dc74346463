package net

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// tensorIn is a tensor of an exported model, whether or not it is an output. shape excludes the
// batch.
type tensorIn struct {
	name  string
	shape []int64
}

// runTensors runs an exported model on images and returns the given tensors of its graph.
func runTensors(t *testing.T, n *Network, g *onnx.Graph, images [][]uint8, tensors ...tensorIn) [][]float64 {
	t.Helper()
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	m = proto.CloneOf(m)
	batch := int64(len(images))
	var results [][]float32
	bind := func(name string, shape ...int64) ort.Binding {
		data, v, err := newTensor(append([]int64{batch}, shape...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Destroy() })
		results = append(results, data)
		return ort.Binding{Name: name, Value: v}
	}
	in := []ort.Binding{bind(inputName, colors, int64(n.config.Size), int64(n.config.Size))}
	copy(results[0], tensorOf(n, images))
	var out []ort.Binding
	for _, x := range tensors {
		out = append(out, bind(x.name, x.shape...))
		if !slices.ContainsFunc(m.Graph.Output, func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == x.name }) {
			m.Graph.Output = append(m.Graph.Output, &onnxpb.ValueInfoProto{Name: proto.String(x.name), Type: &onnxpb.TypeProto{
				Value: &onnxpb.TypeProto_TensorType{TensorType: &onnxpb.TypeProto_Tensor{ElemType: proto.Int32(int32(onnx.Float32))}},
			}})
		}
	}
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ort.NewSession(data, in, out, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	var wider [][]float64
	for _, r := range results[1:] {
		wider = append(wider, wide(r))
	}
	return wider
}

// head evaluates the model after the last pool in float64, for one image.
type head struct {
	n     *Network
	r     *reference
	x     []float64 // output of the last pool
	first []float64 // output of the first dense layer, before its leaky ReLU
	kink  float64   // smallest distance of a leaky ReLU input from zero
}

func newHead(n *Network, r *reference, x []float64) *head {
	h := &head{n: n, r: r, x: x, kink: math.Inf(1)}
	h.first = h.layer(0, x)
	h.logit(h.first)
	return h
}

// layer returns the output of dense layer i without its leaky ReLU.
func (h *head) layer(i int, x []float64) []float64 {
	d := h.n.dense[i]
	w, z := h.r.param(d.weight), slices.Clone(h.r.param(d.bias))
	for o := range z {
		for j, v := range x {
			z[o] += v * w[o*len(x)+j]
		}
	}
	return z
}

// logit computes the logit from z, the output of the first layer.
func (h *head) logit(z []float64) float64 {
	for i := range h.n.dense {
		if i > 0 {
			z = h.layer(i, z)
		}
		if h.n.dense[i].activate {
			z = slices.Clone(z)
			for o, v := range z {
				h.kink = min(h.kink, math.Abs(v))
				z[o] = h.r.leaky(v)
			}
		}
	}
	return z[0]
}

// moved returns the logit with pooled element j set to to.
func (h *head) moved(j int, to float64) float64 {
	w, z := h.r.param(h.n.dense[0].weight), slices.Clone(h.first)
	for o := range z {
		z[o] += (to - h.x[j]) * w[o*len(h.x)+j]
	}
	return h.logit(z)
}

// step is the step of the finite differences. It is too small to change the order of the values of
// a 2×2 square, and leaves eight digits of float64.
const step = 1e-8

// enlarged enlarges a square map to the size of the image, with linear interpolation between pixel
// centers.
func enlarged(m []float64, side, size int) []float64 {
	out := make([]float64, size*size)
	at := func(i int) (low, high int, part float64) {
		x := (float64(i)+0.5)*float64(side)/float64(size) - 0.5
		x = min(max(x, 0), float64(side-1))
		low = int(x)
		return low, min(low+1, side-1), x - float64(low)
	}
	for i := range out {
		y0, y1, ty := at(i / size)
		x0, x1, tx := at(i % size)
		out[i] = (1-ty)*((1-tx)*m[y0*side+x0]+tx*m[y0*side+x1]) + ty*((1-tx)*m[y1*side+x0]+tx*m[y1*side+x1])
	}
	return out
}

// The gradient in the exported graph, and the class-activation map computed from it, are compared
// with central finite differences in float64 of the model from its last convolution on, with a step
// of 1e-8. For the map, the values before the last pool are changed, and the pool is computed again
// for each.
func TestGradCAM_MatchesFiniteDifferences(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
	}{
		{"cifake", cifake},
		{"small", tiny},
		{"odd_dimensions", Config{Size: 32, Classes: 2, Channels: []int{3, 5, 2}, Dense: []int{7, 3}, Slope: 0.3}},
		{"slope_zero", Config{Size: 32, Classes: 2, Channels: []int{8, 8}, Dense: []int{16, 8}, Slope: 0}},
		{"five_blocks", Config{Size: 32, Classes: 2, Channels: []int{4, 4, 4, 4, 8}, Dense: []int{16}, Slope: 0.01}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawStats(drawWeights(n, 2), 2)
			g, _ := graphs(t, n, w)
			const batch = 2
			images, _ := drawImages(n, 2, 0, batch)
			b := n.blocks[len(n.blocks)-1]
			size, channels, side, r := c.config.Size, int(b.out), int(b.side), newReference(n, w)
			width := channels * side * side / 4
			got := runTensors(t, n, g, images,
				tensorIn{b.name + "/LeakyRelu:0", []int64{b.out, b.side, b.side}},
				tensorIn{gradCAMName + "/dense1/Gemm:0", []int64{int64(width)}},
				tensorIn{gradCAMName, []int64{int64(size), int64(size)}})
			worstGradient, worstMap := 0.0, 0.0
			for i := range batch {
				a := got[0][i*4*width:][:4*width]
				square := func(j int) []int {
					at := b.square(side, j%(width/channels))
					for k := range at {
						at[k] += j / (width / channels) * side * side
					}
					return at
				}
				pooled := make([]float64, width)
				for j := range pooled {
					pooled[j] = math.Inf(-1)
					for _, at := range square(j) {
						pooled[j] = max(pooled[j], a[at])
					}
				}
				h := newHead(n, r, pooled)
				gradient, alpha := make([]float64, width), make([]float64, channels)
				for j := range gradient {
					gradient[j] = (h.moved(j, pooled[j]+step) - h.moved(j, pooled[j]-step)) / (2 * step)
					// The same for each of the four inputs of the pool.
					for _, moving := range square(j) {
						pool := func(by float64) float64 {
							top := math.Inf(-1)
							for _, at := range square(j) {
								v := a[at]
								if at == moving {
									v += by
								}
								top = max(top, v)
							}
							return top
						}
						switch up, down := pool(step), pool(-step); {
						case up == pooled[j]+step && down == pooled[j]-step:
							alpha[j/(width/channels)] += gradient[j] / float64(side*side)
						case up != down:
							alpha[j/(width/channels)] += (h.moved(j, up) - h.moved(j, down)) / (2 * step) / float64(side*side)
						}
					}
				}
				if h.kink < 10*step {
					t.Fatalf("image %d is %g from the kink of a leaky ReLU, where the gradient is undefined; use another seed", i, h.kink)
				}
				evidence := make([]float64, side*side)
				for k, weight := range alpha {
					for j := range evidence {
						evidence[j] += weight * a[k*side*side+j]
					}
				}
				worstGradient = max(worstGradient, largestDifference(t, "gradient", got[1][i*width:][:width], gradient))
				if c.config.Slope == 0 {
					continue // four zeros in a square have four gradients, and the pool selects one
				}
				worstMap = max(worstMap, largestDifference(t, "map", got[2][i*size*size:][:size*size], enlarged(evidence, side, size)))
			}
			t.Logf("largest relative difference: %.1e of %d gradients, %.1e of the map", worstGradient, batch*width, worstMap)
		})
	}
}

// largestDifference returns the largest relative difference between elements of got and want, and
// fails the test if one exceeds 1e-3. Differences of elements smaller than a hundredth of the
// largest are relative to that hundredth: such elements are sums whose terms cancel, which float32
// does not represent more accurately.
func largestDifference(t *testing.T, what string, got, want []float64) (worst float64) {
	t.Helper()
	least := 1e-2 * largest(want)
	if least == 0 {
		t.Fatalf("%s: all elements are zero", what)
	}
	for i := range want {
		d := math.Abs(got[i]-want[i]) / max(math.Abs(want[i]), least)
		if !(d <= 1e-3) {
			t.Errorf("%s: element %d = %g, want %g", what, i, got[i], want[i])
		}
		worst = max(worst, d)
	}
	return worst
}

// Maps of networks whose last block has no pool, that average over all positions or that have more
// than two classes. The values of the last block are changed one by one, and everything after them is
// computed again in float64.
func TestGradCAM_MatchesFiniteDifferences_AllArchitectures(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
	}{
		{"residual", residual},
		{"residual_two_classes", Config{Size: 8, Classes: 2, Channels: []int{8}, Residual: []int{1}, GlobalPool: true, Slope: 0.1}},
		{"global_pool_hidden_layer", Config{Size: 16, Classes: 3, Channels: []int{8, 8}, GlobalPool: true, Dense: []int{6}, Slope: 0.1}},
		{"global_pool_hidden_layer_two_classes", Config{Size: 16, Classes: 2, Channels: []int{8, 8}, GlobalPool: true, Dense: []int{6}, Slope: 0.1}},
		{"flattened_residual", Config{Size: 12, Classes: 4, Channels: []int{6}, Residual: []int{1}, Dense: []int{5}, Slope: 0.1}},
		{"flattened", Config{Size: 24, Classes: 4, Channels: []int{5, 6}, Dense: []int{7, 5}, Slope: 0.1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			w := drawStats(drawWeights(n, 2), 2)
			g, _ := graphs(t, n, w)
			const batch = 5
			images, _ := drawImages(n, 2, 0, batch)
			// Center the logits, so that not all images have the same class.
			bias := w.Params[n.params[n.dense[len(n.dense)-1].bias].Offset:]
			for i, z := range predict(t, n, g, images, n.OutputName())[0] {
				bias[i%n.Outputs()] -= float32(z / batch)
			}
			g, _ = graphs(t, n, w)
			b := n.blocks[len(n.blocks)-1]
			size, channels, side, r := c.config.Size, int(b.out), int(b.side), newReference(n, w)
			area := side * side
			got := runTensors(t, n, g, images,
				tensorIn{b.name + "/LeakyRelu:0", []int64{b.out, b.side, b.side}},
				tensorIn{n.OutputName(), []int64{int64(n.Outputs())}},
				tensorIn{gradCAMName, []int64{int64(size), int64(size)}})
			logits := func(a []float64) []float64 {
				var features []float64
				for k := range channels {
					mean := 0.0
					for j := range n.side * n.side {
						top := math.Inf(-1)
						for _, at := range b.square(side, j) {
							top = max(top, a[k*area+at])
						}
						features = append(features, top)
						mean += top / float64(n.side*n.side)
					}
					if c.config.GlobalPool {
						features = append(features[:k], mean)
					}
				}
				h := &head{n: n, r: r}
				for i := range n.dense {
					features = h.layer(i, features)
					for o, z := range features {
						if n.dense[i].activate {
							features[o] = r.leaky(z)
						}
					}
				}
				return features
			}
			explained := map[int]bool{}
			for i := range batch {
				a := got[0][i*channels*area:][:channels*area]
				z := logits(a)
				close64(t, "logits", got[1][i*len(z):][:len(z)], z, 1e-3) // small differences of larger numbers
				class := slices.Index(z, slices.Max(z))
				explained[class] = true
				evidence := make([]float64, area)
				for k := range channels {
					alpha := 0.0
					for j := range area {
						at := k*area + j
						keep := a[at]
						a[at] = keep + step
						up := logits(a)[class]
						a[at] = keep - step
						down := logits(a)[class]
						a[at] = keep
						alpha += (up - down) / (2 * step) / float64(area)
					}
					for j := range evidence {
						evidence[j] += alpha * a[k*area+j]
					}
				}
				largestDifference(t, "map", got[2][i*size*size:][:size*size], enlarged(evidence, side, size))
			}
			if n.Outputs() > 1 && len(explained) < 2 {
				t.Errorf("all images have the same class: use another seed")
			}
		})
	}
}

func TestInference_DetachGradCAM(t *testing.T) {
	n := newNetwork(t, cifake)
	g, _ := graphs(t, n, drawStats(drawWeights(n, 1), 1))
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	taken := onnx.Detach(m, gradCAMName)
	left, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if size := proto.Size(taken); size > 4096 {
		t.Errorf("Grad-CAM takes %d bytes of the file, want at most 4096: it should share the weights", size)
	}
	var operators []string
	for _, node := range m.GetGraph().GetNode() {
		operators = append(operators, node.GetOpType())
	}
	block := []string{"Conv", "LeakyRelu", "MaxPool"}
	if want := slices.Concat(block, block, block, []string{"Flatten", "Gemm", "LeakyRelu", "Gemm", "LeakyRelu", "Gemm"}); !slices.Equal(operators, want) {
		t.Errorf("operators without Grad-CAM = %v, want %v", operators, want)
	}
	if len(m.Graph.Initializer) != 2*len(n.blocks)+2*len(n.dense) {
		t.Errorf("%d constants for %d blocks and %d dense layers, want two per block and layer", len(m.Graph.Initializer), len(n.blocks), len(n.dense))
	}
	if bytes.Equal(left, whole) {
		t.Error("Detach did not change the model")
	}
}

// Sessions with and without Grad-CAM give the same predictions to the bit: the same nodes with the
// same weights are fused in the same way.
func TestNewExplainer_SamePredictionsAsNewSession(t *testing.T) {
	n := newNetwork(t, cifake)
	for seed := range 3 {
		g, _ := graphs(t, n, drawStats(drawWeights(n, seed), seed))
		m, err := g.Model()
		if err != nil {
			t.Fatal(err)
		}
		data, err := model.Marshal(m, trained())
		if err != nil {
			t.Fatal(err)
		}
		f, err := model.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		const most = 8
		o := ort.Options{Threads: 1, DenormalsAsZero: true}
		serving, err := f.NewSession(most, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = serving.Close() }()
		explaining, err := f.NewExplainer(most, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = explaining.Close() }()
		for batch := 1; batch <= most; batch++ {
			images, _ := drawImages(n, seed, batch*most, batch)
			for _, s := range []*model.Session{serving, explaining} {
				copy(s.Input().Float32, tensorOf(n, images))
				if err := s.Run(batch); err != nil {
					t.Fatal(err)
				}
			}
			sameBits(t, "logits", explaining.Scores()[:batch], serving.Scores()[:batch])
			width := batch * n.Embedding()
			sameBits(t, "embeddings", explaining.Embeddings()[:width], serving.Embeddings()[:width])
		}
	}
}

// trained returns the metadata of a network with Grad-CAM.
func trained() model.Metadata {
	md := model.Trained(32, model.Real, model.Fake)
	md.CAM, md.CAMKind = gradCAMName, model.CAMOfSecond
	return md
}
