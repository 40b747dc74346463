package net

import "fakeart/internal/onnx"

// block is a 3×3 convolution, batch norm, leaky ReLU and a 2×2 max pool, or the same without the pool.
//
// With s = sign(γ) (1 at zero), y = conv(x, s·W), its mean μ and variance v over the batch, r =
// 1/√(v+ε) and a = |γ|·r, the block computes
//
//	h = leaky(a·p + (β − μ·a)),  p = maxpool(y)
//
// which equals maxpool(leaky(norm(conv(x, W)))): multiplying the weights by s makes the affine part
// increasing, and an increasing function commutes with the maximum. So everything except the
// convolution and the statistics runs on a quarter of the elements.
//
// Without the pool, p = y. Such a block can have a shortcut: the output of an earlier block, which is
// added before the leaky ReLU.
type block struct {
	name                string
	in, out             int64
	side                int64 // of the input
	first               bool  // its input needs no gradient
	pool                bool
	shortcut            int // index of the block whose output is added, or none
	slope               float64
	weight, gamma, beta int // indices of its parameters
	stats               int // offset of its statistics in Weights.Mean and Weights.Var
}

// blockTape holds the values of the forward pass that the backward pass needs.
type blockTape struct {
	x, y, p, h     featureMaps
	weight         onnx.Value // s·W
	sign, a, r, mu onnx.Value
	mean, variance onnx.Value // of conv(x, W), biased variance
	count          float64    // elements per channel
}

// forward adds the forward pass of the block to the graph. shortcut is the zero value if the block has
// none.
func (b block) forward(g *onnx.Graph, l layout, params []onnx.Value, x, shortcut featureMaps, batch int64) blockTape {
	t := blockTape{x: x, count: float64(batch * b.side * b.side)}
	gamma, beta := params[b.gamma], params[b.beta]
	t.sign = g.Where(g.Less(gamma, g.Scalar(0)), g.Scalar(-1), g.Scalar(1))
	t.weight = g.Mul(params[b.weight], b.perKernel(g, t.sign))
	t.y = l.conv(x, t.weight)
	mu, square := l.moments(t.y)
	t.mu = mu
	// Rounding can make a variance of zero slightly negative.
	t.variance = g.Clip(g.Sub(square, g.Mul(mu, mu)), 0, 1e30)
	t.mean = g.Mul(t.sign, mu)
	t.r = g.Reciprocal(g.Sqrt(g.Add(t.variance, g.Scalar(BatchNormEpsilon))))
	t.a = g.Mul(g.Abs(gamma), t.r)
	t.p = t.y
	if b.pool {
		t.p = l.pool(t.y)
	}
	t.h = l.affine(t.p, t.a, g.Sub(beta, g.Mul(mu, t.a)), shortcut, b.slope)
	return t
}

// perKernel reshapes a vector so that it scales each kernel of the weights.
func (b block) perKernel(g *onnx.Graph, v onnx.Value) onnx.Value {
	return g.Reshape(v, b.out, 1, 1, 1)
}

// backward adds the backward pass of the block to the graph, for the gradient dh with respect to
// its output. With M elements per channel and dz the gradient with respect to a·p + (β − μ·a),
//
//	dβ = Σdz,  d|γ| = r·(Σdz·p − μ·Σdz),  dγ = s·d|γ|
//	dy/a = unpool(dz) + k1·y + k0 (without the pool dz + k1·y + k0),  k1 = −r·d|γ|/M,  k0 = −(Σdz − μ·r·d|γ|)/M
//	dW = s·a·(x correlated with dy/a),  dx = dy/a convolved back with a·s·W
//
// It writes the gradients of the parameters to grads. It returns dz, which is also the gradient with
// respect to the shortcut, and dx + add, which is the zero value for the first block. add is the
// gradient with respect to the input that comes from elsewhere, or the zero value.
func (b block) backward(g *onnx.Graph, l layout, t blockTape, dh, add featureMaps, grads []onnx.Value) (dx, dz featureMaps) {
	dz = l.leakyGrad(dh, t.h, b.slope)
	sum, product := l.sums(dz, t.p)
	dGamma := g.Mul(t.r, g.Sub(product, g.Mul(t.mu, sum)))
	perM := g.Scalar(-1 / t.count)
	rd := g.Mul(t.r, dGamma)
	k1 := g.Mul(rd, perM)
	k0 := g.Mul(g.Sub(sum, g.Mul(t.mu, rd)), perM)
	var dy featureMaps
	if b.pool {
		dy = l.unpool(dz, t.p, t.y, k1, k0)
	} else {
		dy = l.plus(dz, t.y, k1, k0)
	}
	grads[b.beta] = sum
	grads[b.gamma] = g.Mul(t.sign, dGamma)
	grads[b.weight] = g.Mul(l.convWeight(t.x, dy), b.perKernel(g, g.Mul(t.sign, t.a)))
	if !b.first {
		dx = l.convInput(dy, g.Mul(t.weight, b.perKernel(g, t.a)), add)
	}
	return dx, dz
}
