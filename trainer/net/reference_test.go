package net

import (
	"math"
	"slices"
)

// reference is a simple, slow implementation of the network in float64, layer by layer:
// convolution, batch norm, leaky ReLU and pool, each with its textbook gradient. It shares no
// formula with the graphs, which fold and reorder these operations. A pool distributes its gradient
// equally among all maxima. For a channel with γ = 0, where all pixels are tied, it computes the
// limit for γ → 0 from above.
type reference struct {
	n      *Network
	params []float64
	loss   Loss
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
	z               maps // h before the leaky ReLU
	mean, variance  []float64
	shares          maps // weight of each pixel in the maximum of its square
}

// block computes a block. shortcut is only used if the block has one.
func (r *reference) block(l block, x, shortcut maps) blockState {
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
	t.h = newMaps(x.batch, int(l.out), x.side)
	if l.pool {
		t.h = newMaps(x.batch, int(l.out), x.side/2)
	}
	t.z = newMaps(x.batch, int(l.out), t.h.side)
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
				square := l.square(x.side, j)
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
						if l.shortcut != none {
							z += shortcut.plane(b, c)[at]
						}
						t.z.plane(b, c)[j] = z
						t.h.plane(b, c)[j] = r.leaky(z)
					}
				}
			}
		}
	}
	return t
}

// square returns the indices of the four pixels that pooled pixel j is computed from, or j without a
// pool.
func (l block) square(side, j int) []int {
	if !l.pool {
		return []int{j}
	}
	at := 2*(j/(side/2))*side + 2*(j%(side/2))
	return []int{at, at + 1, at + side, at + side + 1}
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

// blockBackward adds the gradients of the parameters to grads and returns the gradients with respect
// to the input and to the shortcut.
func (r *reference) blockBackward(l block, t blockState, dh maps, grads []float64) (dx, shortcut maps) {
	gamma := r.param(l.gamma)
	grad := func(i int) []float64 {
		p := r.n.params[i]
		return grads[p.Offset : p.Offset+p.Size]
	}
	dGamma, dBeta, dW := grad(l.gamma), grad(l.beta), grad(l.weight)
	dy := newMaps(t.y.batch, t.y.channels, t.y.side)
	shortcut = newMaps(dh.batch, dh.channels, dh.side)
	count := float64(t.y.batch * t.y.side * t.y.side)
	for c := range t.y.channels {
		for b := range t.y.batch {
			normed, shares, dz := t.normed.plane(b, c), t.shares.plane(b, c), dy.plane(b, c)
			for j, d := range dh.plane(b, c) {
				d *= r.leakyGrad(t.h.plane(b, c)[j])
				shortcut.plane(b, c)[j] = d
				for _, at := range l.square(t.y.side, j) {
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
	dx = newMaps(t.x.batch, t.x.channels, t.x.side)
	w := r.param(l.weight)
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
	return dx, shortcut
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
	x := newMaps(batch, colors, n.config.Size)
	for b, image := range e.images {
		for j, v := range image {
			x.plane(b, j%colors)[j/colors] = float64(float32(v) / 255)
		}
	}
	a := referenceOutcome{kink: math.Inf(1)}
	blocks := make([]blockState, len(n.blocks))
	for i, l := range n.blocks {
		var shortcut maps
		if l.shortcut != none {
			shortcut = blocks[l.shortcut].h
		}
		blocks[i] = r.block(l, x, shortcut)
		x = blocks[i].h
		a.mean, a.variance = append(a.mean, blocks[i].mean...), append(a.variance, blocks[i].variance...)
		a.kink = min(a.kink, r.kink(l, blocks[i]))
	}
	features := x.data
	if n.config.GlobalPool {
		features = make([]float64, batch*x.channels)
		for i := range features {
			for _, v := range x.plane(i/x.channels, i%x.channels) {
				features[i] += v / float64(x.side*x.side)
			}
		}
	}
	if n.dropsFeatures() && e.dropped != nil {
		for i := range features {
			features[i] *= e.mask(i)
		}
	}
	hidden := [][]float64{features}
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
	d := r.crossEntropy(&a, e)
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
	if n.dropsFeatures() && e.dropped != nil {
		for i := range d {
			d[i] *= e.mask(i)
		}
	}
	dx := maps{batch, x.channels, x.side, d}
	if n.config.GlobalPool {
		dx = newMaps(batch, x.channels, x.side)
		for i := range dx.data {
			dx.data[i] = d[i/(x.side*x.side)] / float64(x.side*x.side)
		}
	}
	shortcuts := map[int]maps{}
	for i, l := range slices.Backward(n.blocks) {
		for j, v := range shortcuts[i].data {
			dx.data[j] += v
		}
		var shortcut maps
		dx, shortcut = r.blockBackward(l, blocks[i], dx, a.gradient)
		if l.shortcut != none {
			shortcuts[l.shortcut] = shortcut
		}
	}
	return a
}

// crossEntropy sets the loss and the number of correct images, and returns the gradient of the loss
// with respect to the logits. It is written like PyTorch's documentation of CrossEntropyLoss: for
// labels y and label smoothing ε, Σ w[y]·((1−ε)·nll) / Σ w[y] + Σ ε/C·Σ w[c]·(−log p[c]) / Σ w[y]. A
// single logit z stands for the two logits 0 and z.
func (r *reference) crossEntropy(a *referenceOutcome, e testBatch) (d []float64) {
	batch, outputs, classes := len(e.images), r.n.Outputs(), r.n.config.Classes
	weight := func(c int) float64 {
		if r.loss.ClassWeights == nil {
			return 1
		}
		return r.loss.ClassWeights[c]
	}
	of := func(b int) float64 {
		if e.weights == nil {
			return 1
		}
		return float64(e.weights[b])
	}
	total := 0.0
	for b := range batch {
		if e.soft != nil {
			total += of(b)
		} else {
			total += of(b) * weight(int(e.labels[b]))
		}
	}
	d = make([]float64, batch*outputs)
	smoothing := r.loss.LabelSmoothing
	for b := range batch {
		z := make([]float64, classes)
		copy(z[classes-outputs:], a.logits[b*outputs:][:outputs])
		top, sum, target, best := slices.Max(z), 0.0, 0, 0
		for c := range z {
			sum += math.Exp(z[c] - top)
			if z[c] > z[best] {
				best = c
			}
		}
		for c := range z {
			q := 0.0
			if e.soft != nil {
				q = float64(e.soft[b][c])
				if q > float64(e.soft[b][target]) {
					target = c
				}
			} else if target = int(e.labels[b]); target == c {
				q = 1
			}
			logP := z[c] - top - math.Log(sum)
			part := of(b) * weight(c) * ((1-smoothing)*q + smoothing/float64(classes)) / total
			a.loss -= part * logP
			// Each term −part·log p[c] contributes part·(p − onehot[c]).
			for o := range outputs {
				k := classes - outputs + o
				p := math.Exp(z[k]-top) / sum
				d[b*outputs+o] += part * p
				if k == c {
					d[b*outputs+o] -= part
				}
			}
		}
		if best == target {
			a.correct++
		}
	}
	return d
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
			for j, z := range t.z.plane(b, c) {
				square := l.square(t.y.side, j)
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
				if gamma[c] != 0 {
					nearest = min(nearest, math.Abs(z/gamma[c]))
				}
			}
		}
	}
	return nearest
}
