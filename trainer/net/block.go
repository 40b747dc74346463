package net

import "fakeart/internal/onnx"

// block is convolution 3×3, batch norm, leaky ReLU, max pool 2×2.
//
// With s = sign(γ) (1 at zero), y = conv(x, s·W), its mean μ and variance v over
// the batch, r = 1/√(v+ε) and a = |γ|·r, the block's result is
//
//	h = leaky(a·p + (β − μ·a)),  p = maxpool(y)
//
// which equals maxpool(leaky(norm(conv(x, W)))): the sign in the weights makes
// the affine part increasing, and an increasing function may change places with
// a maximum. So all but the convolution and the statistics costs a quarter.
type block struct {
	name                string
	in, out             int64
	side                int64 // of the picture that comes in
	first               bool  // nothing before it learns
	slope               float64
	weight, gamma, beta int // indices of its parameters
	stats               int // where its statistics stand among all blocks'
}

// blockTape is what backward needs of forward.
type blockTape struct {
	x, y, p, h     pictures
	weight         onnx.Value // s·W
	sign, a, r, mu onnx.Value
	mean, variance onnx.Value // of conv(x, W), biased variance
	count          float64    // numbers a channel
}

// forward adds the block to the graph.
func (b block) forward(g *onnx.Graph, l layout, params []onnx.Value, x pictures, batch int64) blockTape {
	t := blockTape{x: x, count: float64(batch * b.side * b.side)}
	gamma, beta := params[b.gamma], params[b.beta]
	t.sign = g.Where(g.Less(gamma, g.Scalar(0)), g.Scalar(-1), g.Scalar(1))
	t.weight = g.Mul(params[b.weight], b.perKernel(g, t.sign))
	t.y = l.conv(x, t.weight)
	mu, square := l.moments(t.y)
	t.mu = mu
	// Rounding may leave a variance of nothing slightly negative.
	t.variance = g.Clip(g.Sub(square, g.Mul(mu, mu)), 0, 1e30)
	t.mean = g.Mul(t.sign, mu)
	t.r = g.Reciprocal(g.Sqrt(g.Add(t.variance, g.Scalar(BatchNormEpsilon))))
	t.a = g.Mul(g.Abs(gamma), t.r)
	t.p = l.pool(t.y)
	t.h = l.affine(t.p, t.a, g.Sub(beta, g.Mul(mu, t.a)), b.slope)
	return t
}

// perKernel shapes a vector so that it scales whole kernels of the weights.
func (b block) perKernel(g *onnx.Graph, v onnx.Value) onnx.Value {
	return g.Reshape(v, b.out, 1, 1, 1)
}

// backward adds the block's gradients for the gradient dh by its result. With
// M numbers a channel and dz the gradient by a·p + (β − μ·a),
//
//	dβ = Σdz,  d|γ| = r·(Σdz·p − μ·Σdz),  dγ = s·d|γ|
//	dy/a = unpool(dz) + k1·y + k0,  k1 = −r·d|γ|/M,  k0 = −(Σdz − μ·r·d|γ|)/M
//	dW = s·a·(x correlated with dy/a),  dx = dy/a convolved back with a·s·W
//
// dx is zero for the first block, which has nobody to hand it to.
func (b block) backward(g *onnx.Graph, l layout, t blockTape, dh pictures, grads []onnx.Value) (dx pictures) {
	dz := l.leakyGrad(dh, t.h, b.slope)
	sum, product := l.sums(dz, t.p)
	dGamma := g.Mul(t.r, g.Sub(product, g.Mul(t.mu, sum)))
	perM := g.Scalar(-1 / t.count)
	rd := g.Mul(t.r, dGamma)
	k1 := g.Mul(rd, perM)
	k0 := g.Mul(g.Sub(sum, g.Mul(t.mu, rd)), perM)
	dy := l.unpool(dz, t.p, t.y, k1, k0)
	grads[b.beta] = sum
	grads[b.gamma] = g.Mul(t.sign, dGamma)
	grads[b.weight] = g.Mul(l.convWeight(t.x, dy), b.perKernel(g, g.Mul(t.sign, t.a)))
	if !b.first {
		dx = l.convInput(dy, g.Mul(t.weight, b.perKernel(g, t.a)))
	}
	return dx
}
