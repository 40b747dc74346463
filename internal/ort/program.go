package ort

import (
	"errors"
	"fmt"

	ortgo "github.com/yalue/onnxruntime_go"
)

// Program runs a graph on tensors that are passed to each run. A training step, for example,
// reads one set of buffers and writes another, and the next step swaps them. Run and Close must
// not be called concurrently.
type Program struct {
	session *ortgo.DynamicAdvancedSession
}

// NewProgram creates a program for an ONNX model, and loads the library if necessary. inputs and
// outputs are the names of the graph's tensors, in the order of the arguments of Run.
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

// Run computes the tensors in out, in place, from those in in.
func (p *Program) Run(in, out []ortgo.Value) error {
	if p.session == nil {
		return errors.New("run ONNX program: the program is closed")
	}
	if err := p.session.Run(in, out); err != nil {
		return fmt.Errorf("run ONNX program: %w", err)
	}
	return nil
}

// Close frees the program and writes the profile if requested. Further calls do nothing.
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
