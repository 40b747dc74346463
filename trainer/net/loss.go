package net

import (
	"fmt"
	"math"

	"fakeart/internal/onnx"
)

// Loss configures the loss, the cross entropy between the targets of the images and the outputs of
// the network. It is defined like PyTorch's CrossEntropyLoss with the same options. A network with
// one output has the loss of the equivalent network with two, the outputs 0 and the logit, which is
// PyTorch's BCEWithLogitsLoss.
type Loss struct {
	// ClassWeights has a weight above 0 for each class; nil means 1. The loss of a batch is the
	// weighted mean over its images: each counts as much as the weight of its class.
	ClassWeights []float64
	// LabelSmoothing is the part of each target that is distributed equally among all classes,
	// 0 ≤ LabelSmoothing < 1.
	LabelSmoothing float64
}

func (l Loss) check(classes int) error {
	if l.ClassWeights != nil && len(l.ClassWeights) != classes {
		return fmt.Errorf("loss: %d class weights, expected one for each of the %d classes", len(l.ClassWeights), classes)
	}
	for class, w := range l.ClassWeights {
		if !(w > 0) || math.IsInf(w, 0) {
			return fmt.Errorf("loss: the weight of class %d is %v, expected a number above 0", class, w)
		}
	}
	if s := l.LabelSmoothing; !(s >= 0 && s < 1) {
		return fmt.Errorf("loss: label smoothing is %v, want at least 0 and less than 1", s)
	}
	return nil
}

// weight returns the weight of a class.
func (l Loss) weight(class int) float64 {
	if l.ClassWeights == nil {
		return 1
	}
	return l.ClassWeights[class]
}

// target smooths and weights the probabilities q of the classes of an image, in place. It returns
// the factor by which the cross entropy with the result, a distribution again, has to be multiplied.
func (l Loss) target(q []float64) (factor float64) {
	for c := range q {
		q[c] = ((1-l.LabelSmoothing)*q[c] + l.LabelSmoothing/float64(len(q))) * l.weight(c)
		factor += q[c]
	}
	for c := range q {
		q[c] /= factor
	}
	return factor
}

// lossGraph adds the loss to the graph, and its gradient dz with respect to the outputs z [B,O].
// targets [B,O] are the probabilities of the classes, or of class 1 if O = 1. weights [B,1] are the
// weights of the images, with mean 1 unless the loss is defined otherwise.
func lossGraph(g *onnx.Graph, z, targets, weights onnx.Value) (loss, dz onnx.Value) {
	batch, outputs := z.Dim(0), z.Dim(1)
	var each, p onnx.Value
	if outputs == 1 {
		// softplus(z) − t·z. Its gradient is sigmoid(z) − t.
		each = g.Sub(g.Softplus(z), g.Mul(targets, z))
		p = g.Sigmoid(z)
	} else {
		// −Σ t·log softmax(z). Its gradient is softmax(z) − t, because Σt = 1.
		each = g.Neg(g.Reshape(g.ReduceSum(g.Mul(targets, g.LogSoftmax(z)), 1), batch, 1))
		p = g.Softmax(z)
	}
	loss = g.ReduceMean(g.Mul(each, weights), 0)
	dz = g.Mul(g.Mul(g.Sub(p, targets), weights), g.Scalar(1/float64(batch)))
	return loss, dz
}

// Samples are the contents of a [Batch].
type Samples struct {
	// Images are Size×Size pixels, HWC, RGB: Size·Size·3 bytes each.
	Images [][]uint8
	// Labels are the classes of the images. Either Labels or Soft must be set.
	Labels []uint16
	// Soft are the probabilities of the classes for each image: one number per class, with the sum
	// 1, for example for mixed images. As in PyTorch, the loss is then divided by the number of
	// images instead of the sum of their class weights.
	Soft [][]float32
	// Weights are weights of the images, at least 0, in addition to those of the classes; nil means 1.
	// The loss is the weighted mean.
	Weights []float32
	// Flip[i] mirrors image i horizontally; Flip may be nil.
	Flip []bool
	// Drop is called for each element that dropout may drop, in order, and reports whether to drop
	// it; Keep is the fraction that Drop keeps on average. Both are ignored if the network has no
	// dropout.
	Keep float64
	Drop func() bool
}

// checkSamples returns an error if s does not fit the batch.
func (b *Batch) checkSamples(s Samples) error {
	targets, pixels := len(s.Labels), b.net.pixels()
	switch {
	case s.Soft != nil && s.Labels != nil:
		return fmt.Errorf("fill batch: both labels and soft targets are set")
	case s.Soft != nil:
		targets = len(s.Soft)
	}
	if len(s.Images) != b.size || targets != b.size {
		return fmt.Errorf("fill batch: %d images and %d labels, want %d", len(s.Images), targets, b.size)
	}
	for i, p := range s.Images {
		if len(p) != pixels {
			return fmt.Errorf("fill batch: image %d has %d bytes, want %d", i, len(p), pixels)
		}
	}
	classes := b.net.config.Classes
	for i, l := range s.Labels {
		if int(l) >= classes {
			return fmt.Errorf("fill batch: label %d is %d, want 0 to %d", i, l, classes-1)
		}
	}
	for i, q := range s.Soft {
		sum := 0.0
		for _, v := range q {
			if !(v >= 0) {
				sum = math.NaN()
			}
			sum += float64(v)
		}
		if len(q) != classes || !(math.Abs(sum-1) < 1e-3) {
			return fmt.Errorf("fill batch: soft target %d has %d elements with the sum %v, want %d elements of at least 0 with the sum 1", i, len(q), sum, classes)
		}
	}
	if s.Flip != nil && len(s.Flip) != b.size {
		return fmt.Errorf("fill batch: %d flips, want %d", len(s.Flip), b.size)
	}
	if s.Weights != nil && len(s.Weights) != b.size {
		return fmt.Errorf("fill batch: %d weights, want %d", len(s.Weights), b.size)
	}
	sum := 0.0
	for i, w := range s.Weights {
		if !(w >= 0) || math.IsInf(float64(w), 0) {
			return fmt.Errorf("fill batch: weight %d is %v, want at least 0", i, w)
		}
		sum += float64(w)
	}
	if s.Weights != nil && sum == 0 {
		return fmt.Errorf("fill batch: all weights are zero")
	}
	if len(b.dropout) > 0 && !(s.Keep > 0 && s.Keep <= 1) {
		return fmt.Errorf("fill batch: keep is %v, want more than 0 and at most 1", s.Keep)
	}
	if len(b.dropout) > 0 && s.Drop == nil {
		return fmt.Errorf("fill batch: the network has dropout, but drop is nil")
	}
	return nil
}

// Fill sets the contents of the batch. The number of images must be the size of the batch.
func (b *Batch) Fill(s Samples) error {
	if err := b.checkSamples(s); err != nil {
		return err
	}
	b.layout.fill(b.images, s.Images, s.Flip)
	b.setTargets(s)
	kept := float32(1 / s.Keep)
	for i := range b.dropout {
		b.dropout[i] = kept
		if s.Drop() {
			b.dropout[i] = 0
		}
	}
	return nil
}

// setTargets sets the targets and weights of the images.
func (b *Batch) setTargets(s Samples) {
	outputs, q := b.net.Outputs(), make([]float64, b.net.config.Classes)
	factors, total := make([]float64, b.size), 0.0
	for i := range b.size {
		weight := 1.0
		if s.Weights != nil {
			weight = float64(s.Weights[i])
		}
		if s.Soft != nil {
			b.classes[i] = 0
			for c, v := range s.Soft[i] {
				q[c] = float64(v)
				if v > s.Soft[i][b.classes[i]] {
					b.classes[i] = c
				}
			}
			total += weight
		} else {
			clear(q)
			b.classes[i] = int(s.Labels[i])
			q[b.classes[i]] = 1
			total += weight * b.loss.weight(b.classes[i])
		}
		factors[i] = weight * b.loss.target(q)
		for o := range outputs {
			b.targets[i*outputs+o] = float32(q[len(q)-outputs+o])
		}
	}
	for i, f := range factors {
		b.weights[i] = float32(f * float64(b.size) / total)
	}
}

// correct returns how many images of the batch the outputs of the network classify correctly.
func (b *Batch) correct(outputs []float32) (n int) {
	width := b.net.Outputs()
	for i, class := range b.classes {
		row, best := outputs[i*width:][:width], 0
		for o, v := range row {
			if v > row[best] {
				best = o
			}
		}
		if width == 1 && row[0] > 0 {
			best = 1
		}
		if best == class {
			n++
		}
	}
	return n
}
