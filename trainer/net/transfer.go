package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// WeightsFrom returns weights for which [Network.Inference] has the same outputs as m, a graph that it
// wrote for a network of the same architecture. If only the number of classes differs, the last
// layer has the initial weights of the seed, and newLayer is true.
//
// The graph contains batch norms only folded into convolutions. So the weights have batch norms that
// change nothing in evaluation. In training, where batch norms use the statistics of the batch, the
// network computes something else: call [Network.Calibrate] before training on.
func (n *Network) WeightsFrom(m *onnxpb.ModelProto, seed int64) (w Weights, newLayer bool, err error) {
	tensors := map[string]*onnxpb.TensorProto{}
	for _, t := range m.GetGraph().GetInitializer() {
		tensors[t.GetName()] = t
	}
	w = n.Init(seed)
	read := func(i int, name string) error {
		p := n.params[i]
		data, err := values(tensors[name], p.Shape)
		if err != nil {
			return fmt.Errorf("weights of the model file: %s: %w\n"+
				"hint: use a model that the trainer wrote for the same model settings, and that wasn't optimized", name, err)
		}
		copy(w.Params[p.Offset:], data)
		return nil
	}
	for _, b := range n.blocks {
		if err := errors.Join(read(b.weight, b.name+".conv.weight"), read(b.beta, b.name+".conv.bias")); err != nil {
			return Weights{}, false, err
		}
	}
	// With this variance, γ/√(v+ε) is so close to 1 that folding it changes no float32.
	for i := range w.Var {
		w.Var[i] = 1 - BatchNormEpsilon
	}
	for i, d := range n.dense {
		weight := tensors[d.name+".weight"]
		if dims := weight.GetDims(); i == len(n.dense)-1 && len(dims) == 2 && dims[1] == d.in && dims[0] != d.out {
			return w, true, nil
		}
		if err := errors.Join(read(d.weight, d.name+".weight"), read(d.bias, d.name+".bias")); err != nil {
			return Weights{}, false, err
		}
	}
	return w, false, nil
}

// values returns the elements of a float32 tensor with the given shape.
func values(t *onnxpb.TensorProto, shape []int64) ([]float32, error) {
	if t == nil {
		return nil, errors.New("there is no such tensor")
	}
	if t.GetDataType() != int32(onnx.Float32) {
		return nil, fmt.Errorf("the elements are %s, want %s", onnx.DType(t.GetDataType()), onnx.Float32)
	}
	if !slices.Equal(t.GetDims(), shape) {
		return nil, fmt.Errorf("the shape is %v, want %v", t.GetDims(), shape)
	}
	data := slices.Clone(t.GetFloatData())
	for raw := range slices.Chunk(t.GetRawData(), 4) {
		if len(raw) == 4 {
			data = append(data, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
		}
	}
	size := int64(1)
	for _, d := range shape {
		size *= d
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("it has %d elements, want %d", len(data), size)
	}
	return data, nil
}

// calibrationBatch is the number of images whose statistics Calibrate computes at once. With more
// images, a remainder is ignored.
const calibrationBatch = 32

// Calibrate returns weights for the same function in evaluation, whose batch norms have the statistics
// of the images. So a batch of such images gives about the same outputs in training as in
// evaluation. Use it before training weights of [Network.WeightsFrom]. Images are HWC, RGB.
func (n *Network) Calibrate(w Weights, images [][]uint8) (_ Weights, err error) {
	if err := n.check(w); err != nil {
		return Weights{}, err
	}
	if len(images) == 0 {
		return Weights{}, errors.New("calibrate batch norms: there are no images")
	}
	for i, p := range images {
		if len(p) != n.pixels() {
			return Weights{}, fmt.Errorf("calibrate batch norms: image %d has %d bytes, want %d", i, len(p), n.pixels())
		}
	}
	batch := min(len(images), calibrationBatch)
	size := int64(n.config.Size)
	g := onnx.NewGraph("calibrate")
	x := g.Input(inputName, onnx.Float32, int64(batch), colors, size, size)
	var means, squares []onnx.Value
	n.convolutions(g, x, func(b block, x onnx.Value) onnx.Value {
		channels := func(name string, data []float32) onnx.Value { return g.Param(b.name+"."+name, data, b.out, 1, 1) }
		scale, shift := n.affine(b, w)
		y := g.Conv(x, g.Param(b.name+".weight", n.tensor(b.weight, w), b.out, b.in, 3, 3), onnx.Window{Pads: [4]int64{1, 1, 1, 1}})
		means = append(means, g.ReduceMean(y, 0, 2, 3))
		squares = append(squares, g.ReduceMean(g.Mul(y, y), 0, 2, 3))
		return g.Add(g.Mul(y, channels("scale", float32s(scale))), channels("shift", float32s(shift)))
	})
	g.Output("means", g.Concat(0, means...))
	g.Output("squares", g.Concat(0, squares...))
	data, err := g.Marshal()
	if err != nil {
		return Weights{}, err
	}
	in := ort.Binding{Name: inputName}
	out := []ort.Binding{{Name: "means"}, {Name: "squares"}}
	var input, mean, square []float32
	for _, t := range []struct {
		data  *[]float32
		to    *ort.Binding
		shape []int64
	}{{&input, &in, x.Shape()}, {&mean, &out[0], []int64{int64(n.stats)}}, {&square, &out[1], []int64{int64(n.stats)}}} {
		if *t.data, t.to.Value, err = newTensor(t.shape...); err != nil {
			return Weights{}, err
		}
		defer func() { err = errors.Join(err, t.to.Value.Destroy()) }()
	}
	s, err := ort.NewSession(data, []ort.Binding{in}, out, ort.Options{})
	if err != nil {
		return Weights{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	mu, second := make([]float64, n.stats), make([]float64, n.stats)
	batches := len(images) / batch
	for i := range batches {
		standard{size: size}.fill(input, images[i*batch:][:batch], nil)
		if err := s.Run(); err != nil {
			return Weights{}, err
		}
		for c := range mu {
			mu[c] += float64(mean[c]) / float64(batches)
			second[c] += float64(square[c]) / float64(batches)
		}
	}
	calibrated := w.Clone()
	for _, b := range n.blocks {
		scale, shift := n.affine(b, w)
		gamma, beta := n.tensor(b.gamma, calibrated), n.tensor(b.beta, calibrated)
		for c := range scale {
			at := b.stats + c
			calibrated.Mean[at] = float32(mu[at])
			calibrated.Var[at] = float32(max(second[at]-mu[at]*mu[at], 0))
			gamma[c] = float32(scale[c] * math.Sqrt(float64(calibrated.Var[at])+BatchNormEpsilon))
			beta[c] = float32(shift[c] + scale[c]*float64(calibrated.Mean[at]))
		}
	}
	return calibrated, nil
}

func float32s(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}
