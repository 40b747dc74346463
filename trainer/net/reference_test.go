package net

import (
	"math"
	"slices"

	"fakeart/internal/imaging"
)

// reference is a simple, slow implementation of the network in float64, layer by layer:
// convolution, batch norm, leaky ReLU and pool, each with its textbook gradient. It shares no
// formula with the graphs, which fold and reorder these operations. A pool distributes its gradient
// equally among all maxima. For a channel with γ = 0, where all pixels are tied, it computes the
// limit for γ → 0 from above.
type reference struct {
	n      *Network
	params []float64
	// Statistics to use, as in evaluation mode; nil for those of the batch.
	mean, variance []float64
}

func newReference(n *Network, w Weights) *reference {
	return &reference{n: n, params: wide(w.Params)}
}

func (r *reference) param(i int) []float64 {
	p := r.n.params[i]
	return r.params[p.Offset : p.Offset+p.Size]
}

// maps are feature maps [batch, channels, side, side].
type maps struct {
	batch, channels, side int
	data                  []float64
}

func newMaps(batch, channels, side int) maps {
	return maps{batch, channels, side, make([]float64, batch*channels*side*side)}
}

func (m maps) plane(b, c int) []float64 {
	area := m.side * m.side
	return m.data[(b*m.channels+c)*area:][:area]
}

// span returns the range of columns i for which i+shift is a column as well.
func span(side, shift int) (from, to int) { return max(0, -shift), min(side, side-shift) }

// eachTap calls f for each tap of the 3×3 kernels and each row: the row of the output that starts
// at to, and the row of the input that starts at from.
func eachTap(out, in maps, f func(b, o, i, tap, to, from, length int)) {
	side := in.side
	for b := range in.batch {
		for o := range out.channels {
			for i := range in.channels {
				for tap := range 9 {
					dy, dx := tap/3-1, tap%3-1
					top, bottom := span(side, dy)
					left, right := span(side, dx)
					for row := top; row < bottom; row++ {
						f(b, o, i, tap, row*side+left, (row+dy)*side+left+dx, right-left)
					}
				}
			}
		}
	}
}

// blockState holds the values of the forward pass of a block that the backward pass needs, and that
// tests use to measure the distance to the nearest kink.
type blockState struct {
	x, y, normed, h maps
	mean, variance  []float64
	shares          maps // weight of each pixel in the maximum of its square
}

func (r *reference) block(l block, x maps) blockState {
	t := blockState{x: x, y: newMaps(x.batch, int(l.out), x.side)}
	w, gamma, beta := r.param(l.weight), r.param(l.gamma), r.param(l.beta)
	eachTap(t.y, x, func(b, o, i, tap, to, from, length int) {
		k := w[(o*x.channels+i)*9+tap]
		y, in := t.y.plane(b, o)[to:][:length], x.plane(b, i)[from:][:length]
		for j := range y {
			y[j] += k * in[j]
		}
	})
	count := float64(x.batch * x.side * x.side)
	t.normed = newMaps(x.batch, int(l.out), x.side)
	t.shares = newMaps(x.batch, int(l.out), x.side)
	t.h = newMaps(x.batch, int(l.out), x.side/2)
	for c := range int(l.out) {
		var mean, variance float64
		if r.mean != nil {
			mean, variance = r.mean[l.stats+c], r.variance[l.stats+c]
		} else {
			for b := range x.batch {
				for _, v := range t.y.plane(b, c) {
					mean += v / count
				}
			}
			for b := range x.batch {
				for _, v := range t.y.plane(b, c) {
					variance += (v - mean) * (v - mean) / count
				}
			}
		}
		t.mean, t.variance = append(t.mean, mean), append(t.variance, variance)
		root := 1 / math.Sqrt(variance+BatchNormEpsilon)
		sign := 1.0
		if gamma[c] < 0 {
			sign = -1
		}
		for b := range x.batch {
			y, normed := t.y.plane(b, c), t.normed.plane(b, c)
			for j, v := range y {
				normed[j] = (v - mean) * root
			}
			for j := range t.h.plane(b, c) {
				square := r.square(x.side, j)
				top, maxima := math.Inf(-1), 0.0
				for _, at := range square {
					top = max(top, sign*y[at])
				}
				for _, at := range square {
					if sign*y[at] == top {
						maxima++
					}
				}
				for _, at := range square {
					if sign*y[at] == top {
						t.shares.plane(b, c)[at] = 1 / maxima
						z := gamma[c]*normed[at] + beta[c]
						t.h.plane(b, c)[j] = r.leaky(z)
					}
				}
			}
		}
	}
	return t
}

// square returns the indices of the four pixels that pooled pixel j is computed from.
func (r *reference) square(side, j int) [4]int {
	at := 2*(j/(side/2))*side + 2*(j%(side/2))
	return [4]int{at, at + 1, at + side, at + side + 1}
}

func (r *reference) leaky(z float64) float64 {
	if z > 0 {
		return z
	}
	return z * r.n.config.Slope
}

func (r *reference) leakyGrad(h float64) float64 {
	if h > 0 {
		return 1
	}
	return r.n.config.Slope
}

// blockBackward adds the gradients of the parameters to grads and returns the gradient with respect to
// the input.
func (r *reference) blockBackward(l block, t blockState, dh maps, grads []float64) maps {
	gamma := r.param(l.gamma)
	grad := func(i int) []float64 {
		p := r.n.params[i]
		return grads[p.Offset : p.Offset+p.Size]
	}
	dGamma, dBeta, dW := grad(l.gamma), grad(l.beta), grad(l.weight)
	dy := newMaps(t.y.batch, t.y.channels, t.y.side)
	count := float64(t.y.batch * t.y.side * t.y.side)
	for c := range t.y.channels {
		for b := range t.y.batch {
			normed, shares, dz := t.normed.plane(b, c), t.shares.plane(b, c), dy.plane(b, c)
			for j, d := range dh.plane(b, c) {
				d *= r.leakyGrad(t.h.plane(b, c)[j])
				for _, at := range r.square(t.y.side, j) {
					dz[at] = d * shares[at]
					dBeta[c] += dz[at]
					dGamma[c] += dz[at] * normed[at]
				}
			}
		}
		scale := gamma[c] / math.Sqrt(t.variance[c]+BatchNormEpsilon)
		for b := range t.y.batch {
			normed, d := t.normed.plane(b, c), dy.plane(b, c)
			for j := range d {
				d[j] = scale * (d[j] - dBeta[c]/count - normed[j]*dGamma[c]/count)
			}
		}
	}
	dx, w := newMaps(t.x.batch, t.x.channels, t.x.side), r.param(l.weight)
	eachTap(dy, t.x, func(b, o, i, tap, to, from, length int) {
		at := (o*t.x.channels+i)*9 + tap
		k, sum := w[at], 0.0
		d, in, back := dy.plane(b, o)[to:][:length], t.x.plane(b, i)[from:][:length], dx.plane(b, i)[from:][:length]
		for j := range d {
			sum += d[j] * in[j]
			back[j] += d[j] * k
		}
		dW[at] += sum
	})
	return dx
}

// referenceOutcome is the outcome of a step, and values that only the reference computes.
type referenceOutcome struct {
	outcome
	embedding []float64
	// kink is the distance of the batch to the nearest place where a rounding error selects another
	// branch: the smallest distance between a maximum and the next value of its square, and between
	// any value and the zero of the leaky ReLU, each in standard deviations of its channel. Exact
	// ties do not count.
	kink float64
}

// run computes the outcome of a batch, and its gradient if backward is true.
func (r *reference) run(e testBatch, backward bool) referenceOutcome {
	n, batch := r.n, len(e.images)
	x := newMaps(batch, imaging.Channels, imaging.Size)
	for b, image := range e.images {
		for j, v := range image {
			x.plane(b, j%imaging.Channels)[j/imaging.Channels] = float64(float32(v) / 255)
		}
	}
	a := referenceOutcome{kink: math.Inf(1)}
	blocks := make([]blockState, len(n.blocks))
	for i, l := range n.blocks {
		blocks[i] = r.block(l, x)
		x = blocks[i].h
		a.mean, a.variance = append(a.mean, blocks[i].mean...), append(a.variance, blocks[i].variance...)
		a.kink = min(a.kink, r.kink(l, blocks[i]))
	}
	hidden := [][]float64{x.data}
	for i, l := range n.dense {
		w, bias, in := r.param(l.weight), r.param(l.bias), hidden[i]
		h := make([]float64, batch*int(l.out))
		for b := range batch {
			row := in[b*int(l.in):][:l.in]
			for o := range int(l.out) {
				z := bias[o]
				for j, v := range row {
					z += v * w[o*int(l.in)+j]
				}
				if l.activate {
					a.kink = min(a.kink, math.Abs(z))
					z = r.leaky(z)
				}
				if l.dropout && e.dropped != nil {
					z *= e.mask(b*int(l.out) + o)
				}
				h[b*int(l.out)+o] = z
			}
		}
		hidden = append(hidden, h)
	}
	a.embedding, a.logits = hidden[len(hidden)-2], hidden[len(hidden)-1]
	d := make([]float64, batch)
	for b, logit := range a.logits {
		t := float64(e.labels[b])
		a.loss += (max(logit, 0) + math.Log1p(math.Exp(-math.Abs(logit))) - t*logit) / float64(batch)
		d[b] = (1/(1+math.Exp(-logit)) - t) / float64(batch)
		if (logit > 0) == (t > 0) {
			a.correct++
		}
	}
	if !backward {
		return a
	}
	a.gradient = make([]float64, n.size)
	for i, l := range slices.Backward(n.dense) {
		w, in, h := r.param(l.weight), hidden[i], hidden[i+1]
		dW, dBias := a.gradient[n.params[l.weight].Offset:], a.gradient[n.params[l.bias].Offset:]
		dIn := make([]float64, len(in))
		for b := range batch {
			row, back := in[b*int(l.in):][:l.in], dIn[b*int(l.in):][:l.in]
			for o := range int(l.out) {
				dz := d[b*int(l.out)+o]
				if l.dropout && e.dropped != nil {
					dz *= e.mask(b*int(l.out) + o)
				}
				if l.activate {
					// Elements that dropout set to zero have no gradient, whatever their sign was.
					dz *= r.leakyGrad(h[b*int(l.out)+o])
				}
				dBias[o] += dz
				for j, v := range row {
					dW[o*int(l.in)+j] += dz * v
					back[j] += dz * w[o*int(l.in)+j]
				}
			}
		}
		d = dIn
	}
	dx := maps{batch, x.channels, x.side, d}
	for i, l := range slices.Backward(n.blocks) {
		dx = r.blockBackward(l, blocks[i], dx, a.gradient)
	}
	return a
}

// mask returns the factor by which dropout scales element i.
func (e testBatch) mask(i int) float64 {
	if e.dropped[i] {
		return 0
	}
	return float64(float32(1 / keep))
}

// kink returns referenceOutcome.kink for one block.
func (r *reference) kink(l block, t blockState) float64 {
	nearest := math.Inf(1)
	gamma := r.param(l.gamma)
	for c := range t.h.channels {
		for b := range t.h.batch {
			normed := t.normed.plane(b, c)
			for j, h := range t.h.plane(b, c) {
				square := r.square(t.y.side, j)
				top := square[0]
				for _, at := range square {
					if t.shares.plane(b, c)[at] > 0 {
						top = at
					}
				}
				for _, at := range square {
					if t.shares.plane(b, c)[at] == 0 {
						nearest = min(nearest, math.Abs(normed[top]-normed[at]))
					}
				}
				if h < 0 && r.n.config.Slope > 0 {
					h /= r.n.config.Slope
				}
				if gamma[c] != 0 {
					nearest = min(nearest, math.Abs(h/gamma[c]))
				}
			}
		}
	}
	return nearest
}
