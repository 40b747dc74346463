package oip

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"fakeart/server/oip/oippb"
)

// DecodeMessage parses a request received by gRPC for the model. It doesn't
// retain m. The values of the input may be raw or typed; the outputs are returned in the same form.
//
// Every error is an *Error with status 400. The content of r is undefined after an error.
func (r *Request) DecodeMessage(model *Model, m *oippb.ModelInferRequest) error {
	*r = Request{ID: m.GetId(), Outputs: r.Outputs[:0], floats: r.floats, bytes: r.bytes}
	d := decoder{model: model, request: r, binaryOutput: len(m.GetRawInputContents()) > 0}
	if err := d.timeout(m.GetParameters()["timeout"]); err != nil {
		return err
	}
	inputs := m.GetInputs()
	if len(inputs) == 0 {
		return model.noInputs()
	}
	for i, in := range inputs {
		if err := d.messageInput(in, i); err != nil {
			return err
		}
	}
	for i, out := range m.GetOutputs() {
		for key := range out.GetParameters() {
			if instead, ok := unsupportedOutput[key]; ok {
				return unsupported(key, instead)
			}
		}
		if err := d.addOutput(i, []byte(out.GetName()), asRequest); err != nil {
			return err
		}
	}
	d.chooseOutputs()
	return d.messageValues(inputs[0].GetContents(), m.GetRawInputContents())
}

// timeout reads the parameter timeout, which may be nil.
func (d *decoder) timeout(p *oippb.InferParameter) error {
	var us int64
	switch v := p.GetParameterChoice().(type) {
	case nil:
		return nil
	case *oippb.InferParameter_Int64Param:
		us = v.Int64Param
	case *oippb.InferParameter_Uint64Param:
		us = int64(min(v.Uint64Param, math.MaxInt64))
	default:
		return invalid(`the parameter "timeout" isn't an integer: expected microseconds, 0 for no limit`)
	}
	return d.setTimeout(`the parameter "timeout"`, us)
}

// messageInput checks the i-th input except its values.
func (d *decoder) messageInput(in *oippb.ModelInferRequest_InferInputTensor, i int) error {
	for key := range in.GetParameters() {
		if sharedMemory(key) {
			return unsupported(key, "send the values in raw_input_contents or in contents")
		}
	}
	t := tensor{rank: len(in.GetShape())}
	if name := in.GetName(); name != "" {
		t.name = []byte(name)
	}
	if datatype := in.GetDatatype(); datatype != "" {
		t.datatype = []byte(datatype)
	}
	copy(t.dims[:], in.GetShape())
	return d.check(&t, i)
}

// messageValues reads the values of the input.
func (d *decoder) messageValues(contents *oippb.InferTensorContents, raw [][]byte) error {
	r, m := d.request, d.model
	count := r.Batch * m.imageSize()
	size := count * m.valueSize()
	typed, field := len(contents.GetFp32Contents()), "fp32_contents"
	if m.Datatype == Uint8 {
		typed, field = len(contents.GetUintContents()), "uint_contents"
	}
	switch {
	case len(raw) > 1:
		return invalid("raw_input_contents has %d elements: expected 1, for input %q", len(raw), m.Input)
	case len(raw) == 1 && proto.Size(contents) > 0:
		return invalid("input %q has both contents and raw_input_contents: expected one of them", m.Input)
	case len(raw) == 1 && len(raw[0]) != size:
		return invalid("raw_input_contents of input %q has %d bytes: expected %d, %s", m.Input, len(raw[0]), size, m.sizeOf(count))
	case len(raw) == 0 && typed != count:
		return invalid("%s of input %q has %d values: expected %d, or raw_input_contents of %d bytes", field, m.Input, typed, count, size)
	}
	r.grow(m)
	if len(raw) == 1 {
		if i := copyValues(r.Input, raw[0]); i >= 0 {
			return m.notFinite(i)
		}
		return nil
	}
	if m.Datatype == Uint8 {
		for i, v := range contents.GetUintContents() {
			if v > math.MaxUint8 {
				return invalid("a value of input %q is %d: out of range for %s", m.Input, v, m.Datatype)
			}
			r.Input.Uint8[i] = uint8(v)
		}
		return nil
	}
	for i, v := range contents.GetFp32Contents() {
		if !finite(v) {
			return m.notFinite(i)
		}
		r.Input.Float32[i] = v
	}
	return nil
}

// ResponseMessage returns the response to a request parsed by DecodeMessage: the outputs that r
// requests. It returns an *Error like AppendResponse.
func (r *Request) ResponseMessage(a Result) (*oippb.ModelInferResponse, error) {
	m := &oippb.ModelInferResponse{ModelName: a.ModelName, ModelVersion: a.ModelVersion, Id: r.ID}
	for _, o := range r.Outputs {
		values := a.values(o, r.Batch)
		width := len(values) / r.Batch
		for i, v := range values {
			if !finite(v) {
				return nil, outputNotFinite(o.Name, i/width)
			}
		}
		out := &oippb.ModelInferResponse_InferOutputTensor{Name: o.Name, Datatype: Float32, Shape: []int64{int64(r.Batch), int64(width)}}
		if o.Binary {
			raw := make([]byte, 0, len(values)*floatSize)
			for _, v := range values {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
			}
			m.RawOutputContents = append(m.RawOutputContents, raw)
		} else {
			out.Contents = &oippb.InferTensorContents{Fp32Contents: append([]float32(nil), values...)}
		}
		m.Outputs = append(m.Outputs, out)
	}
	return m, nil
}

// Message converts a document of this package to the message of the same content, and returns to. It
// panics if their fields differ.
func Message[M proto.Message](to M, document any) M {
	text, err := json.Marshal(document)
	if err == nil {
		err = protojson.Unmarshal(text, to)
	}
	if err != nil {
		panic(err) // a document is always valid
	}
	return to
}

// setTimeout sets the timeout of the request to a number of microseconds.
func (d *decoder) setTimeout(name string, us int64) error {
	if us < 0 {
		return invalid("%s is %d: expected microseconds, 0 for no limit", name, us)
	}
	d.request.Timeout = time.Duration(min(us, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
	return nil
}
