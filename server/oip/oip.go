// Package oip implements the Open Inference Protocol version 2 over HTTP, independent of routing:
// inference requests and responses in JSON and with the binary tensor data extension, and the
// documents that describe server and model. Decode a request with [Request.Decode], and write the
// response with [Request.AppendResponse].
//
// The protocol is specified by KServe (github.com/kserve/open-inference-protocol,
// specification/protocol/inference_rest.md), the extension by Triton
// (docs/protocol/extension_binary_data.md in the repository of its server). Raw requests without
// JSON are supported. Unknown members and parameters are ignored, as the protocol requires. null is
// treated as a missing member, because some clients serialize every field they know.
//
// A [Model] has one input of three dimensions per image, FP32 or UINT8, and one or two outputs: scores, FP32 [N,C],
// and an embedding, FP32 [N,E].
package oip

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
)

// Types of the values of tensors.
const (
	Float32 = "FP32"
	Uint8   = "UINT8"
)

// Header and media types of HTTP messages.
const (
	// LengthHeader is the header that gives the length in bytes of the JSON at the beginning of a
	// body with binary tensors.
	LengthHeader = "Inference-Header-Content-Length"
	// TypeJSON is the content type of a body that is all JSON. Clients compare it literally, so it
	// must not have parameters.
	TypeJSON = "application/json"
	// TypeBinary is the content type of a body with binary tensors.
	TypeBinary = "application/octet-stream"
)

// floatSize is the size of a value of type Float32 in binary form, in bytes.
const floatSize = 4

// Error is an error to report to the client. Errors of this package are always the client's fault.
type Error struct {
	// Status is the HTTP status of the response.
	Status int
	// Message is one line: what is wrong and what is expected.
	Message string
}

func (e *Error) Error() string { return e.Message }

// invalid returns an Error for an invalid request.
func invalid(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Model describes a model's tensors.
type Model struct {
	// Input is the name of the input, and Datatype its type: Float32 or Uint8.
	Input, Datatype string
	// Layout is the order of the dimensions of an image, and Dims are the dimensions.
	Layout imaging.Layout
	Dims   [3]int
	// Lowest and Highest are the range of the input's values.
	Lowest, Highest float32
	// MaxBatch is the maximum number of images per request.
	MaxBatch int
	// Scores is the name of the output with Columns scores per image.
	Scores  string
	Columns int
	// Embedding is the name of the output with EmbeddingSize values per image. It's empty if the model has none.
	Embedding     string
	EmbeddingSize int
}

// ModelOf describes the tensors of a model file, for requests with up to maxBatch images.
func ModelOf(f *model.File, maxBatch int) *Model {
	md, p := &f.Metadata, f.Plan.Preprocessing()
	m := &Model{
		Input: md.Input, Datatype: Float32, Layout: p.Layout, Dims: [3]int{p.Channels(), p.Height, p.Width}, MaxBatch: maxBatch,
		Scores: md.Output, Columns: md.Columns, Embedding: md.Embedding, EmbeddingSize: f.EmbeddingSize,
	}
	if p.Type == imaging.Uint8 {
		m.Datatype = Uint8
	}
	if p.Layout == imaging.NHWC {
		m.Dims = [3]int{p.Height, p.Width, p.Channels()}
	}
	m.Lowest, m.Highest = f.Plan.Range()
	return m
}

// imageSize returns the number of values per image.
func (m *Model) imageSize() int { return m.Dims[0] * m.Dims[1] * m.Dims[2] }

// valueSize returns the size of a value of the input in binary form, in bytes.
func (m *Model) valueSize() int {
	if m.Datatype == Uint8 {
		return 1
	}
	return floatSize
}

// shape returns the shape of the input for error messages, such as "[N,3,32,32] with N from 1 to 8".
func (m *Model) shape() string {
	return fmt.Sprintf("[N,%d,%d,%d] with N from 1 to %d", m.Dims[0], m.Dims[1], m.Dims[2], m.MaxBatch)
}

// outputs returns the names of the outputs for error messages.
func (m *Model) outputs() string {
	if m.Embedding == "" {
		return fmt.Sprintf("only %q", m.Scores)
	}
	return fmt.Sprintf("%q and %q", m.Scores, m.Embedding)
}

// Output is a requested output tensor.
type Output struct {
	// Name is the name of the tensor.
	Name string
	// Embedding reports whether it's the embedding instead of the scores.
	Embedding bool
	// Binary reports whether the values follow the JSON in binary form instead of being part of it.
	Binary bool
}

// Request is an inference request. To decode without allocating, reuse one Request: Decode reuses
// its slices. A Request is not safe for concurrent use.
type Request struct {
	// ID is the client's identifier of the request, or empty.
	ID string
	// Batch is the number of images, 1 to Model.MaxBatch.
	Batch int
	// Input contains the values of the images, row-major and finite. Model.CheckValues checks their range.
	// Decode reuses its memory if it is large enough.
	Input imaging.Tensor
	// Outputs are the requested tensors, in order and without duplicates.
	Outputs []Output
	// Timeout is how long the client is willing to wait, from its parameter "timeout" in
	// microseconds, or 0 if it isn't set.
	Timeout time.Duration

	// Memory of Input.
	floats []float32
	bytes  []uint8
}

// Decode parses a request for the model. lengthHeader is the value of
// LengthHeader, empty if the request doesn't have it. Decode does not retain body.
//
// Every error is an *Error with status 400. The content of r is undefined after an error. Decode
// allocates at most a small multiple of the body's size, and once r's slices are large enough
// nothing except the ID.
func (r *Request) Decode(m *Model, lengthHeader string, body []byte) error {
	*r = Request{Outputs: r.Outputs[:0], floats: r.floats, bytes: r.bytes}
	if lengthHeader == "" {
		if len(body) == 0 {
			return invalid("the body is empty: expected an inference request in JSON")
		}
		d := decoder{reader: reader{data: body}, model: m, request: r}
		return d.decode()
	}
	length, err := parseLength(lengthHeader, len(body))
	if err != nil {
		return err
	}
	if length == 0 {
		return r.decodeRaw(m, body)
	}
	d := decoder{reader: reader{data: body[:length]}, model: m, request: r, binary: body[length:], split: true}
	return d.decode()
}

// parseLength parses the LengthHeader of a body of the given size.
func parseLength(text string, size int) (int, error) {
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, invalid("the header %s is invalid: expected the length of the JSON in bytes, as a decimal integer", LengthHeader)
		}
	}
	length, err := strconv.Atoi(text)
	if err != nil || length > size {
		return 0, invalid("the header %s is larger than the body, which has only %d bytes", LengthHeader, size)
	}
	return length, nil
}

// decodeRaw parses a body that consists of the input tensor only. The number of images follows from
// the size of the body.
func (r *Request) decodeRaw(m *Model, body []byte) error {
	imageBytes := m.imageSize() * m.valueSize()
	n := len(body) / imageBytes
	if n < 1 || n > m.MaxBatch || len(body)%imageBytes != 0 {
		return invalid("the header %s is 0, so the body must be the tensor %q only, but it has %d bytes: expected %d for each of 1 to %d images",
			LengthHeader, m.Input, len(body), imageBytes, m.MaxBatch)
	}
	r.Batch = n
	r.grow(m)
	if i := copyValues(r.Input, body); i >= 0 {
		return m.notFinite(i)
	}
	r.addAllOutputs(m)
	for i := range r.Outputs {
		r.Outputs[i].Binary = true
	}
	return nil
}

// addAllOutputs adds all outputs of the model.
func (r *Request) addAllOutputs(m *Model) {
	r.Outputs = append(r.Outputs, Output{Name: m.Scores})
	if m.Embedding != "" {
		r.Outputs = append(r.Outputs, Output{Name: m.Embedding, Embedding: true})
	}
}

// grow makes room for r.Batch images in r.Input. The values are undefined.
func (r *Request) grow(m *Model) {
	n := r.Batch * m.imageSize()
	if m.Datatype == Uint8 {
		if cap(r.bytes) < n {
			r.bytes = make([]uint8, n)
		}
		r.Input = imaging.Tensor{Uint8: r.bytes[:n]}
		return
	}
	if cap(r.floats) < n {
		r.floats = make([]float32, n)
	}
	r.Input = imaging.Tensor{Float32: r.floats[:n]}
}

// CheckValues returns an *Error that names the first value outside the range of the model's input. Values of a
// preprocessing in other software can differ from ours by rounding.
func (m *Model) CheckValues(input imaging.Tensor) error {
	lowest, highest := m.Lowest, m.Highest
	if lowest != 0 || highest != 1 {
		slack := (highest - lowest) / 1000
		lowest, highest = lowest-slack, highest+slack
	}
	for i, v := range input.Float32 {
		switch {
		case v >= lowest && v <= highest:
		case v-v != 0:
			return m.notFinite(i)
		case v >= 2 && v <= 255 && lowest == 0 && highest == 1:
			return invalid("input %q: value %d is %g: expected 0 to 1; divide values from 0 to 255 by 255", m.Input, i, v)
		case lowest == 0 && highest == 1:
			return invalid("input %q: value %d is %g: expected 0 to 1", m.Input, i, v)
		default:
			return invalid("input %q: value %d is %g: expected %.4g to %.4g; scale and normalize values from 0 to 255 as the model requires", m.Input, i, v, m.Lowest, m.Highest)
		}
	}
	return nil
}

func (m *Model) notFinite(i int) error {
	return invalid("input %q: value %d is NaN or infinite", m.Input, i)
}
