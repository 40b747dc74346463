package net

import "fakeart/internal/onnx"

// dense is h = leaky(x·Wᵀ + b), without the leaky part in the network's last
// layer, and with dropout after it in the first hidden one.
type dense struct {
	name              string
	in, out           int64
	slope             float64
	activate, dropout bool
	weight, bias      int
}

// denseTape is what backward needs of forward.
type denseTape struct {
	x, h   onnx.Value // h is the result before dropout
	result onnx.Value
	mask   onnx.Value
}

// forward adds the layer to the graph. mask [batch, out] scales its result if
// the layer has dropout: 0 for what is dropped, 1/(1−dropout) for the rest.
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

// backward adds the layer's gradients for the gradient dh by its result: with
// dz that before the leaky part, dW = dzᵀ·x, db = Σdz, dx = dz·W.
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

// steep is so large that a number of any use, multiplied by it, leaves every
// bounded range.
const steep = 1e30

// leakyMask is 1 where h > 0 and slope elsewhere. Clip is half the price of
// Less and Where.
func leakyMask(g *onnx.Graph, h onnx.Value, slope float64) onnx.Value {
	return g.Clip(g.Mul(h, g.Scalar(steep)), slope, 1)
}
