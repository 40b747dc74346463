package ort

import (
	"errors"
	"fmt"

	ortgo "github.com/yalue/onnxruntime_go"
)

// Program is a graph ready to run on tensors that are handed in anew each time:
// a training step reads one set of buffers, writes the other, and then the two
// change places. Run and Close must not be called at the same time.
type Program struct {
	session *ortgo.DynamicAdvancedSession
}

// NewProgram loads the library if need be and prepares the ONNX model. inputs and
// outputs name the graph's tensors in the order in which Run takes them.
func NewProgram(model []byte, inputs, outputs []string, o Options) (*Program, error) {
	if err := Init(); err != nil {
		return nil, err
	}
	if len(model) == 0 {
		return nil, errors.New("open ONNX program: the model is empty")
	}
	options, err := o.sessionOptions()
	if err != nil {
		return nil, fmt.Errorf("open ONNX program: %w", err)
	}
	defer func() { _ = options.Destroy() }()
	s, err := ortgo.NewDynamicAdvancedSessionWithONNXData(model, inputs, outputs, options)
	if err != nil {
		return nil, fmt.Errorf("open ONNX program: %w", err)
	}
	return &Program{session: s}, nil
}

// Run computes out from in. All outputs must be given; they are written in place.
func (p *Program) Run(in, out []ortgo.Value) error {
	if p.session == nil {
		return errors.New("run ONNX program: it is closed")
	}
	if err := p.session.Run(in, out); err != nil {
		return fmt.Errorf("run ONNX program: %w", err)
	}
	return nil
}

// Close frees the program and writes the profile if one was asked for. A second
// Close does nothing.
func (p *Program) Close() error {
	if p.session == nil {
		return nil
	}
	err := p.session.Destroy()
	p.session = nil
	if err != nil {
		return fmt.Errorf("close ONNX program: %w", err)
	}
	return nil
}
