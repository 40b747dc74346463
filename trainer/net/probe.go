package net

import (
	"errors"
	"fmt"

	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// probeChannels is a multiple of every block size that ONNX Runtime uses, and larger than each.
const probeChannels = 64

// probeBlock returns the block size of the blocked layout of ONNX Runtime on this machine: the
// number of channels that are adjacent in memory. It lets the library reorder a tensor that counts
// up and looks where the second channel ended up. It returns an error if the blocked operators are
// not available.
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
	// In the blocked layout, pixel 0 of each channel of the first block comes first: 0, 2, 4, …;
	// then pixel 1 of channel 0, whose value is 1.
	for i, v := range out {
		if v == 1 && i > 1 {
			return int64(i), nil
		}
	}
	return 0, errors.New("ONNX Runtime does not use a blocked layout on this machine")
}

// chooseLayout returns the name and the block size of the layout to train in. requested is
// LayoutAuto, LayoutStandard or LayoutBlocked.
func (n *Network) chooseLayout(requested string) (string, int64, error) {
	switch requested {
	case LayoutStandard:
		return LayoutStandard, 0, nil
	case LayoutAuto, LayoutBlocked:
	default:
		return "", 0, fmt.Errorf("unknown layout %q\nhint: use auto, standard or blocked", requested)
	}
	block, err := probeBlock()
	if err == nil {
		for _, l := range n.blocks {
			if l.out%block != 0 {
				err = fmt.Errorf("a block has %[2]d channels, but they must be a multiple of %[1]d on this machine", block, l.out)
			}
		}
	}
	if err == nil {
		return LayoutBlocked, block, nil
	}
	if requested == LayoutAuto && !errors.Is(err, ort.ErrNotFound) {
		return LayoutStandard, 0, nil
	}
	return "", 0, fmt.Errorf("layout %s: %w\nhint: set experiment.layout=standard, which works on every machine", requested, err)
}
