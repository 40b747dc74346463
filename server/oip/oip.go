// Package oip reads and writes what the Open Inference Protocol version 2 sends
// over HTTP: the requests and answers of inference, in JSON and with the binary
// tensor data extension, and the documents that describe server and model. It
// knows nothing of routes; a server hands it bodies and takes bodies from it.
//
// The protocol is KServe's (github.com/kserve/open-inference-protocol,
// specification/protocol/inference_rest.md); the extension is Triton's
// (docs/protocol/extension_binary_data.md in its server's repository), raw
// requests without JSON included. Unknown members and parameters are ignored, as
// the protocol wants it, and null stands for a member that is not there, as
// clients write it that serialize every field they know.
//
// The model has one input, `input`, FP32 [N,C,S,S], and two outputs, `logit`,
// FP32 [N,1], and `embedding`, FP32 [N,E].
package oip

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The names of the model's tensors, and the type of their values.
const (
	InputName     = "input"
	LogitName     = "logit"
	EmbeddingName = "embedding"
	Datatype      = "FP32"
)

// What the HTTP messages say about their bodies.
const (
	// LengthHeader gives the length in bytes of the JSON at the beginning of a
	// body that goes on with binary tensors.
	LengthHeader = "Inference-Header-Content-Length"
	// TypeJSON is the content type of a body that is all JSON. Clients compare it
	// to the letter, so nothing may follow it.
	TypeJSON = "application/json"
	// TypeBinary is the content type of a body with binary tensors.
	TypeBinary = "application/octet-stream"
)

// valueSize is the number of bytes of a value in binary form.
const valueSize = 4

// Error is a failure that the client is told of: its fault, unless the server
// that shares the type says otherwise.
type Error struct {
	// Status is the HTTP status to answer with.
	Status int
	// Message says what is wrong and what is wanted, in one line.
	Message string
}

func (e *Error) Error() string { return e.Message }

// refuse makes the error for a request that cannot be answered as it is.
func refuse(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Shape is what the model takes: up to MaxBatch pictures of Channels planes with
// Size rows of Size values. All three are at least 1.
type Shape struct {
	Channels, Size, MaxBatch int
}

// picture is the number of values of one picture.
func (s Shape) picture() int { return s.Channels * s.Size * s.Size }

// String writes the shape as messages do.
func (s Shape) String() string {
	return fmt.Sprintf("[N,%d,%d,%d] with N from 1 to %d", s.Channels, s.Size, s.Size, s.MaxBatch)
}

// Output is a tensor that the client asked for.
type Output struct {
	// Name is LogitName or EmbeddingName.
	Name string
	// Binary tells that its values go behind the JSON instead of into it.
	Binary bool
}

// Request is an inference request. One Request can decode many, one after the
// other: its slices are used again. It must not be used by two goroutines at once.
type Request struct {
	// ID is what the client calls its request; empty when it gave no name.
	ID string
	// Batch is the number of pictures, 1 to Shape.MaxBatch.
	Batch int
	// Input holds the values of the pictures, row-major; all are finite. Decode
	// writes into its memory and replaces it when that is too small.
	Input []float32
	// Outputs are the tensors to answer with, in this order, each once.
	Outputs []Output
	// Timeout is how long the client is willing to wait, from its parameter
	// "timeout", which counts microseconds; 0 when it did not say.
	Timeout time.Duration
}

// HasOutput tells whether the client asked for the named output.
func (r *Request) HasOutput(name string) bool {
	for _, o := range r.Outputs {
		if o.Name == name {
			return true
		}
	}
	return false
}

// Decode reads the body of a request for a model that takes the given shape, and
// the value of its LengthHeader, empty when it has none. Nothing of body is kept.
//
// Every error is an *Error with the status 400; the content of r is undefined then.
// Decode allocates no more than a small multiple of the body's size, and nothing
// once r has room, but for an ID.
func (r *Request) Decode(shape Shape, lengthHeader string, body []byte) error {
	*r = Request{Input: r.Input[:0], Outputs: r.Outputs[:0]}
	if lengthHeader == "" {
		if len(body) == 0 {
			return refuse("the body is empty: want an inference request in JSON")
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

// parseLength reads the LengthHeader of a body of the given size.
func parseLength(text string, size int) (int, error) {
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, refuse("the header %s is %.40q: want the length of the JSON in bytes, as digits", LengthHeader, text)
		}
	}
	length, err := strconv.Atoi(text)
	if err != nil || length > size {
		return 0, refuse("the header %s is %.40s, but the body has only %d bytes", LengthHeader, text, size)
	}
	return length, nil
}

// decodeRaw reads a body that is the input alone. The number of pictures follows
// from its size.
func (r *Request) decodeRaw(shape Shape, body []byte) error {
	picture := shape.picture() * valueSize
	n := len(body) / picture
	if n < 1 || n > shape.MaxBatch || len(body)%picture != 0 {
		return refuse("the header %s is 0, so the body is the tensor %q alone, but it has %d bytes: want %d for each of 1 to %d pictures",
			LengthHeader, InputName, len(body), picture, shape.MaxBatch)
	}
	r.Batch = n
	r.grow(n * shape.picture())
	if i := copyFloats(r.Input, body); i >= 0 {
		return notFinite(i)
	}
	r.Outputs = append(r.Outputs, Output{LogitName, true}, Output{EmbeddingName, true})
	return nil
}

// grow gives r.Input the length n.
func (r *Request) grow(n int) {
	if cap(r.Input) < n {
		r.Input = make([]float32, n)
	}
	r.Input = r.Input[:n]
}

func notFinite(i int) error {
	return refuse("input %q: value %d is not a finite number", InputName, i)
}
