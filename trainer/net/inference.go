package net

import (
	"math"
	"slices"

	"fakeart/internal/onnx"
)

// Names of the exported model's input and outputs.
const (
	inputName     = "input"
	logitName     = "logit"  // of a network with one output
	logitsName    = "logits" // of all others
	embeddingName = "embedding"
	gradCAMName   = "gradcam"
)

// OutputName returns the name of the output with the logits in exported graphs: `logit` for two
// classes, otherwise `logits`.
func (n *Network) OutputName() string {
	if n.Outputs() == 1 {
		return logitName
	}
	return logitsName
}

// images declares the input of an exported graph.
func (n *Network) images(g *onnx.Graph) onnx.Value {
	return g.Input(inputName, onnx.Float32, onnx.Batch, colors, int64(n.config.Size), int64(n.config.Size))
}

// Inference returns the graph of the model that is served. Its input is `input` [batch,3,H,W] in
// [0,1]. Its outputs are, for two classes, `logit` [batch,1], the logit of class 1, otherwise
// `logits` [batch,C]; `embedding` [batch,E], the output of the last hidden layer; and `gradcam`
// [batch,H,W], the evidence at each pixel for class 1 if there are two classes, otherwise for the
// class with the largest logit. Each batch norm is folded into its convolution, dropout is omitted, and only standard operators are used, in the
// order that ONNX Runtime fuses best. The nodes that only `gradcam` needs come last; the nodes
// before them are the same graph that would be exported without it.
func (n *Network) Inference(w Weights) (*onnx.Graph, error) {
	if err := n.check(w); err != nil {
		return nil, err
	}
	g := onnx.NewGraph("cifake_cnn")
	h := n.images(g)
	h, last := n.convolutions(g, h, func(b block, x onnx.Value) onnx.Value {
		kernel, bias := n.folded(b, w)
		return g.Conv(x, g.Param(b.name+".conv.weight", kernel, b.out, b.in, 3, 3),
			onnx.Window{Pads: [4]int64{1, 1, 1, 1}}, g.Param(b.name+".conv.bias", bias, b.out))
	})
	tapes := n.denseLayers(g, w, h)
	g.Output(embeddingName, tapes[len(tapes)-1].x)
	g.Output(n.OutputName(), tapes[len(tapes)-1].h)
	gradient := n.gradient(g, tapes)
	g.In(gradCAMName, func() { g.Output(gradCAMName, n.gradCAM(g, last, gradient)) })
	return g, g.Err()
}

// convolutions adds the blocks to the graph. norm adds the convolution and the batch norm of a block.
// It returns the inputs of the dense layers, and the output of the last block before its pool.
func (n *Network) convolutions(g *onnx.Graph, x onnx.Value, norm func(b block, x onnx.Value) onnx.Value) (h, last onnx.Value) {
	h = x
	outputs := make([]onnx.Value, len(n.blocks))
	for i, b := range n.blocks {
		g.In(b.name, func() {
			y := norm(b, h)
			if b.shortcut != none {
				y = g.Add(y, outputs[b.shortcut])
			}
			last = g.LeakyRelu(y, b.slope)
			h = last
			if b.pool {
				h = g.MaxPool(last, onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
			}
		})
		outputs[i] = h
	}
	if n.config.GlobalPool {
		return g.ReduceMean(h, 2, 3), last
	}
	return g.Flatten(h), last
}

// gradient adds the gradient of the explained logit, the only one or the largest, with respect to the
// inputs of the dense layers. Going backward, each dense layer multiplies by the slope of its leaky
// ReLU and then by its weights.
func (n *Network) gradient(g *onnx.Graph, tapes []servedDense) onnx.Value {
	last := tapes[len(tapes)-1]
	d := last.weight // the gradient of the only logit; the same for every image
	if n.Outputs() > 1 {
		g.In(gradCAMName, func() { d = g.Rows(last.weight, g.ArgMax(last.h)) })
	}
	for i, t := range slices.Backward(tapes[:len(tapes)-1]) {
		g.In(gradCAMName+"/"+n.dense[i].name, func() {
			d = g.Gemm(g.Mul(leakyMask(g, t.h, n.dense[i].slope), d), t.weight, false, false)
		})
	}
	return d
}

// gradCAM adds Σₖ αₖ·Aₖ, enlarged to the size of the image: A is the output of the last block before
// the pool, and αₖ is the mean over all positions of the gradient of the logit with respect to Aₖ. The
// argument gradient is that of the inputs of the dense layers. It has the same sum: a max pool passes
// each gradient to one of its inputs, and a mean distributes it.
func (n *Network) gradCAM(g *onnx.Graph, a, gradient onnx.Value) onnx.Value {
	size, channels, area := int64(n.config.Size), a.Dim(1), a.Dim(2)*a.Dim(3)
	sum := gradient
	if !n.config.GlobalPool {
		sum = g.ReduceSum(g.Reshape(gradient, onnx.Batch, channels, int64(n.side*n.side)), 2)
	}
	alpha := g.Mul(sum, g.Scalar(1/float64(area)))
	if alpha.Dim(0) == onnx.Batch {
		alpha = g.Reshape(alpha, onnx.Batch, 1, channels)
	}
	evidence := g.MatMul(alpha, g.Reshape(a, onnx.Batch, channels, area))
	evidence = g.Resize(g.Reshape(evidence, onnx.Batch, 1, a.Dim(2), a.Dim(3)), size, size)
	return g.Reshape(evidence, onnx.Batch, size, size)
}

// Unfused returns the network in evaluation mode, layer by layer as it is trained, with nothing
// folded: batch norms use the running statistics. It has the input of [Network.Inference] and the
// output with the logits. Use it to verify an exported model.
func (n *Network) Unfused(w Weights) (*onnx.Graph, error) {
	if err := n.check(w); err != nil {
		return nil, err
	}
	g := onnx.NewGraph("unfused")
	h := n.images(g)
	h, _ = n.convolutions(g, h, func(b block, x onnx.Value) onnx.Value {
		channels := func(name string, data []float32) onnx.Value { return g.Param(b.name+"."+name, data, b.out, 1, 1) }
		mean, variance := n.statistics(b, w)
		y := g.Conv(x, g.Param(b.name+".weight", n.tensor(b.weight, w), b.out, b.in, 3, 3), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
		root := g.Sqrt(g.Add(channels("variance", variance), g.Scalar(BatchNormEpsilon)))
		y = g.Div(g.Sub(y, channels("mean", mean)), root)
		return g.Add(g.Mul(y, channels("gamma", n.tensor(b.gamma, w))), channels("beta", n.tensor(b.beta, w)))
	})
	tapes := n.denseLayers(g, w, h)
	g.Output(n.OutputName(), tapes[len(tapes)-1].h)
	return g, g.Err()
}

// servedDense is a dense layer in an exported graph: its input, weights and output.
type servedDense struct{ x, weight, h onnx.Value }

// denseLayers adds the dense layers to the graph. The output of the last one is the logit.
func (n *Network) denseLayers(g *onnx.Graph, w Weights, h onnx.Value) []servedDense {
	tapes := make([]servedDense, len(n.dense))
	for i, d := range n.dense {
		t := servedDense{x: h}
		g.In(d.name, func() {
			t.weight = g.Param(d.name+".weight", n.tensor(d.weight, w), d.out, d.in)
			h = g.Gemm(h, t.weight, false, true, g.Param(d.name+".bias", n.tensor(d.bias, w), d.out))
			if d.activate {
				h = g.LeakyRelu(h, d.slope)
			}
		})
		t.h = h
		tapes[i] = t
	}
	return tapes
}

func (n *Network) tensor(i int, w Weights) []float32 {
	p := n.params[i]
	return w.Params[p.Offset : p.Offset+p.Size]
}

func (n *Network) statistics(b block, w Weights) (mean, variance []float32) {
	end := b.stats + int(b.out)
	return w.Mean[b.stats:end], w.Var[b.stats:end]
}

// affine returns what the batch norm of a block does in evaluation: it multiplies by γ·r and adds β −
// γ·r·μ, with r = 1/√(v+ε).
func (n *Network) affine(b block, w Weights) (scale, shift []float64) {
	mean, variance := n.statistics(b, w)
	gamma, beta := n.tensor(b.gamma, w), n.tensor(b.beta, w)
	for o := range mean {
		s := float64(gamma[o]) / math.Sqrt(float64(variance[o])+BatchNormEpsilon)
		scale, shift = append(scale, s), append(shift, float64(beta[o])-s*float64(mean[o]))
	}
	return scale, shift
}

// folded returns the convolution of the block with its batch norm folded in: weights γ·r·W and bias
// β − γ·r·μ. It computes in float64.
func (n *Network) folded(b block, w Weights) (kernel, bias []float32) {
	weight := n.tensor(b.weight, w)
	scale, shift := n.affine(b, w)
	kernel = make([]float32, len(weight))
	each := len(weight) / int(b.out)
	for i, v := range weight {
		kernel[i] = float32(scale[i/each] * float64(v))
	}
	return kernel, float32s(shift)
}
