package net

import (
	"errors"
	"fmt"

	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// probeChannels is more than any block size, and a multiple of those there are.
const probeChannels = 64

// probeBlock tells how many channels ONNX Runtime puts side by side in its
// blocked layout on this machine. It lets the library reorder a counting
// tensor and looks where the second channel went. An error means that the
// blocked operators are not there.
func probeBlock() (int64, error) {
	g := onnx.NewGraph("probe")
	x := g.Input("x", onnx.Float32, 1, probeChannels, 1, 2)
	g.Output("y", g.Blocked(1).ReorderInput(x))
	data, err := g.Marshal()
	if err != nil {
		return 0, err
	}
	in, inValue, err := newTensor(1, probeChannels, 1, 2)
	if err != nil {
		return 0, err
	}
	defer func() { _ = inValue.Destroy() }()
	out, outValue, err := newTensor(1, probeChannels, 1, 2)
	if err != nil {
		return 0, err
	}
	defer func() { _ = outValue.Destroy() }()
	for i := range in {
		in[i] = float32(i)
	}
	s, err := ort.NewSession(data, []ort.Binding{{Name: "x", Value: inValue}}, []ort.Binding{{Name: "y", Value: outValue}}, ort.Options{Threads: 1})
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	if err := s.Run(); err != nil {
		return 0, err
	}
	// Blocked, pixel 0 of each channel of the first block comes first: 0, 2, 4, …;
	// then pixel 1 of channel 0, which is the number 1.
	for i, v := range out {
		if v == 1 && i > 1 {
			return int64(i), nil
		}
	}
	return 0, errors.New("the layout is not blocked")
}

// chooseLayout settles which layout the network trains in, and its block size.
func (n *Network) chooseLayout(want string) (string, int64, error) {
	switch want {
	case LayoutStandard:
		return LayoutStandard, 0, nil
	case LayoutAuto, LayoutBlocked:
	default:
		return "", 0, fmt.Errorf("layout %q is unknown: auto, standard and blocked are there", want)
	}
	block, err := probeBlock()
	if err == nil {
		for _, l := range n.blocks {
			if l.out%block != 0 {
				err = fmt.Errorf("the channels of each block must be multiples of %d here, not %d", block, l.out)
			}
		}
	}
	if err == nil {
		return LayoutBlocked, block, nil
	}
	if want == LayoutAuto && !errors.Is(err, ort.ErrNotFound) {
		return LayoutStandard, 0, nil
	}
	return "", 0, fmt.Errorf("layout %s: %w; layout=standard works everywhere", want, err)
}
