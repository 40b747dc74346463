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
// The model has one input, `input`, FP32 [N,C,S,S], and two outputs, `logit`, FP32 [N,1], and
// `embedding`, FP32 [N,E].
package oip

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Names of the model's tensors, and the type of their values.
const (
	InputName     = "input"
	LogitName     = "logit"
	EmbeddingName = "embedding"
	Datatype      = "FP32"
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

// valueSize is the size of a value in binary form, in bytes.
const valueSize = 4

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

// Shape describes the model's input: up to MaxBatch images of Channels planes of Size×Size values.
// All fields are at least 1.
type Shape struct {
	Channels, Size, MaxBatch int
}

// imageSize returns the number of values per image.
func (s Shape) imageSize() int { return s.Channels * s.Size * s.Size }

// String returns the shape for error messages, such as "[N,3,32,32] with N from 1 to 8".
func (s Shape) String() string {
	return fmt.Sprintf("[N,%d,%d,%d] with N from 1 to %d", s.Channels, s.Size, s.Size, s.MaxBatch)
}

// Output is a requested output tensor.
type Output struct {
	// Name is LogitName or EmbeddingName.
	Name string
	// Binary reports whether the values follow the JSON in binary form instead of being part of it.
	Binary bool
}

// Request is an inference request. To decode without allocating, reuse one Request: Decode reuses
// its slices. A Request is not safe for concurrent use.
type Request struct {
	// ID is the client's identifier of the request, or empty.
	ID string
	// Batch is the number of images, 1 to Shape.MaxBatch.
	Batch int
	// Input contains the values of the images, row-major and finite. CheckValues checks their range.
	// Decode reuses its memory if it is large enough.
	Input []float32
	// Outputs are the requested tensors, in order and without duplicates.
	Outputs []Output
	// Timeout is how long the client is willing to wait, from its parameter "timeout" in
	// microseconds, or 0 if it isn't set.
	Timeout time.Duration
}

// HasOutput reports whether the client requested the named output.
func (r *Request) HasOutput(name string) bool {
	for _, o := range r.Outputs {
		if o.Name == name {
			return true
		}
	}
	return false
}

// Decode parses a request for a model with the given input shape. lengthHeader is the value of
// LengthHeader, empty if the request doesn't have it. Decode does not retain body.
//
// Every error is an *Error with status 400. The content of r is undefined after an error. Decode
// allocates at most a small multiple of the body's size, and once r's slices are large enough
// nothing except the ID.
func (r *Request) Decode(shape Shape, lengthHeader string, body []byte) error {
	*r = Request{Input: r.Input[:0], Outputs: r.Outputs[:0]}
	if lengthHeader == "" {
		if len(body) == 0 {
			return invalid("the body is empty: expected an inference request in JSON")
		}
		d := decoder{reader: reader{data: body}, shape: shape, request: r}
		return d.decode()
	}
	length, err := parseLength(lengthHeader, len(body))
	if err != nil {
		return err
	}
	if length == 0 {
		return r.decodeRaw(shape, body)
	}
	d := decoder{reader: reader{data: body[:length]}, shape: shape, request: r, binary: body[length:], split: true}
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
func (r *Request) decodeRaw(shape Shape, body []byte) error {
	imageBytes := shape.imageSize() * valueSize
	n := len(body) / imageBytes
	if n < 1 || n > shape.MaxBatch || len(body)%imageBytes != 0 {
		return invalid("the header %s is 0, so the body must be the tensor %q only, but it has %d bytes: expected %d for each of 1 to %d images",
			LengthHeader, InputName, len(body), imageBytes, shape.MaxBatch)
	}
	r.Batch = n
	r.grow(n * shape.imageSize())
	if i := copyFloats(r.Input, body); i >= 0 {
		return notFinite(i)
	}
	r.Outputs = append(r.Outputs, Output{LogitName, true}, Output{EmbeddingName, true})
	return nil
}

// grow sets the length of r.Input to n. The values are undefined.
func (r *Request) grow(n int) {
	if cap(r.Input) < n {
		r.Input = make([]float32, n)
	}
	r.Input = r.Input[:n]
}

// CheckValues returns an *Error that names the first value outside [0,1], which is the range of the
// model's input.
func CheckValues(values []float32) error {
	for i, v := range values {
		switch {
		case v >= 0 && v <= 1:
		case v-v != 0:
			return notFinite(i)
		case v >= 2 && v <= 255:
			return invalid("input %q: value %d is %g: expected 0 to 1; divide values from 0 to 255 by 255", InputName, i, v)
		default:
			return invalid("input %q: value %d is %g: expected 0 to 1", InputName, i, v)
		}
	}
	return nil
}

func notFinite(i int) error {
	return invalid("input %q: value %d is NaN or infinite", InputName, i)
}
