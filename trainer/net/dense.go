package net

import "fakeart/internal/onnx"

// dense is a layer h = leaky(x·Wᵀ + b). The last layer of the network has no leaky ReLU. The first
// hidden layer is followed by dropout.
type dense struct {
	name              string
	in, out           int64
	slope             float64
	activate, dropout bool
	weight, bias      int
}

// denseTape holds the values of the forward pass that the backward pass needs.
type denseTape struct {
	x, h   onnx.Value // h is the output before dropout
	result onnx.Value
	mask   onnx.Value
}

// forward adds the forward pass of the layer to the graph. If the layer has dropout, its output is
// multiplied by mask [batch, out]: 0 for dropped elements, 1/(1−dropout) for the others.
func (d dense) forward(g *onnx.Graph, params []onnx.Value, x, mask onnx.Value) denseTape {
	t := denseTape{x: x, mask: mask}
	t.h = g.Gemm(x, params[d.weight], false, true, params[d.bias])
	if d.activate {
		t.h = g.LeakyRelu(t.h, d.slope)
	}
	t.result = t.h
	if d.dropout {
		t.result = g.Mul(t.h, mask)
	}
	return t
}

// backward adds the backward pass of the layer to the graph, for the gradient dh with respect to
// its output. With dz the gradient before the leaky ReLU, dW = dzᵀ·x, db = Σdz, dx = dz·W. It
// writes the gradients of the parameters to grads and returns dx.
func (d dense) backward(g *onnx.Graph, params []onnx.Value, t denseTape, dh onnx.Value, grads []onnx.Value) (dx onnx.Value) {
	if d.dropout {
		dh = g.Mul(dh, t.mask)
	}
	dz := dh
	if d.activate {
		dz = g.Mul(dh, leakyMask(g, t.h, d.slope))
	}
	grads[d.weight] = g.Gemm(dz, t.x, true, false)
	grads[d.bias] = g.ReduceSum(dz, 0)
	return g.Gemm(dz, params[d.weight], false, false)
}

// steep is a factor so large that multiplying any value that occurs in training by it saturates a
// clip or a hard sigmoid.
const steep = 1e30

// leakyMask returns 1 where h > 0 and slope elsewhere. Clip takes half the time of Less and Where.
func leakyMask(g *onnx.Graph, h onnx.Value, slope float64) onnx.Value {
	return g.Clip(g.Mul(h, g.Scalar(steep)), slope, 1)
}
