package net

import (
	"math"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
)

// The names of the served model's input and outputs.
const (
	inputName     = "input"
	logitName     = "logit"
	embeddingName = "embedding"
)

// Inference writes the network with these weights as the graph that is served:
// input `input` [batch,3,32,32] in [0,1]; outputs `logit` [batch,1] and
// `embedding` [batch,E], the last hidden layer. Each batch norm is folded into
// its convolution, dropout is gone, and only standard operators are used, in
// the order that ONNX Runtime fuses best.
func (n *Network) Inference(w Weights) (*onnx.Graph, error) {
	if err := n.check(w); err != nil {
		return nil, err
	}
	g := onnx.NewGraph("cifake_cnn")
	h := g.Input(inputName, onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size)
	for _, b := range n.blocks {
		kernel, bias := n.folded(b, w)
		g.In(b.name, func() {
			y := g.Conv(h, g.Param(b.name+".conv.weight", kernel, b.out, b.in, 3, 3),
				onnx.Window{Pads: [4]int64{1, 1, 1, 1}}, g.Param(b.name+".conv.bias", bias, b.out))
			h = g.MaxPool(g.LeakyRelu(y, b.slope), onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		})
	}
	return n.outputs(g, w, g.Flatten(h), true)
}

// Reference writes the network with these weights as it is trained, layer by
// layer and with nothing folded, in evaluation mode: the running statistics
// take the place of a batch's. It has Inference's input and the output `logit`,
// and exists to hold what is exported against it.
func (n *Network) Reference(w Weights) (*onnx.Graph, error) {
	if err := n.check(w); err != nil {
		return nil, err
	}
	g := onnx.NewGraph("reference")
	h := g.Input(inputName, onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size)
	for _, b := range n.blocks {
		channels := func(name string, data []float32) onnx.Value { return g.Param(b.name+"."+name, data, b.out, 1, 1) }
		mean, variance := n.statistics(b, w)
		g.In(b.name, func() {
			y := g.Conv(h, g.Param(b.name+".weight", n.tensor(b.weight, w), b.out, b.in, 3, 3), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
			root := g.Sqrt(g.Add(channels("variance", variance), g.Scalar(BatchNormEpsilon)))
			y = g.Div(g.Sub(y, channels("mean", mean)), root)
			y = g.Add(g.Mul(y, channels("gamma", n.tensor(b.gamma, w))), channels("beta", n.tensor(b.beta, w)))
			h = g.MaxPool(g.LeakyRelu(y, b.slope), onnx.Window{Kernel: [2]int64{2, 2}, Strides: [2]int64{2, 2}})
		})
	}
	return n.outputs(g, w, g.Flatten(h), false)
}

// outputs adds the dense layers and declares their results.
func (n *Network) outputs(g *onnx.Graph, w Weights, h onnx.Value, embedding bool) (*onnx.Graph, error) {
	for i, d := range n.dense {
		if embedding && i == len(n.dense)-1 {
			g.Output(embeddingName, h)
		}
		g.In(d.name, func() {
			h = g.Gemm(h, g.Param(d.name+".weight", n.tensor(d.weight, w), d.out, d.in), false, true,
				g.Param(d.name+".bias", n.tensor(d.bias, w), d.out))
			if d.activate {
				h = g.LeakyRelu(h, d.slope)
			}
		})
	}
	g.Output(logitName, h)
	return g, g.Err()
}

func (n *Network) tensor(i int, w Weights) []float32 {
	p := n.params[i]
	return w.Params[p.Offset : p.Offset+p.Size]
}

func (n *Network) statistics(b block, w Weights) (mean, variance []float32) {
	end := b.stats + int(b.out)
	return w.Mean[b.stats:end], w.Var[b.stats:end]
}

// folded is the block's convolution with its norm in it: weights γ·r·W and the
// bias β − γ·r·μ, r = 1/√(v+ε). The sums are made in float64.
func (n *Network) folded(b block, w Weights) (kernel, bias []float32) {
	mean, variance := n.statistics(b, w)
	weight, gamma, beta := n.tensor(b.weight, w), n.tensor(b.gamma, w), n.tensor(b.beta, w)
	kernel, bias = make([]float32, len(weight)), make([]float32, b.out)
	each := len(weight) / int(b.out)
	for o := range bias {
		scale := float64(gamma[o]) / math.Sqrt(float64(variance[o])+BatchNormEpsilon)
		bias[o] = float32(float64(beta[o]) - scale*float64(mean[o]))
		for i := o * each; i < (o+1)*each; i++ {
			kernel[i] = float32(scale * float64(weight[i]))
		}
	}
	return kernel, bias
}
