package oip

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// Result is the output of the model for a request.
type Result struct {
	// ModelName and ModelVersion identify the model. The version may be empty.
	ModelName, ModelVersion string
	// Scores contains the scores of all images, of equal number.
	Scores []float32
	// Embedding contains the embeddings of all images, of equal width. It may be nil if the request
	// doesn't ask for it.
	Embedding []float32
}

// AppendResponse appends the body of the response to dst: the outputs that r requests, in the
// requested form. If binary tensors follow the JSON, jsonLength is the length of the JSON for
// LengthHeader, and the content type is TypeBinary. Otherwise jsonLength is 0 and the content type
// is TypeJSON.
//
// Values are exact: JSON contains the shortest decimals that parse to the same float32.
// AppendResponse returns an *Error with status 400 if an output is NaN or infinite, which only
// input values far out of range cause. It panics if the number of values doesn't match the request.
func (r *Request) AppendResponse(dst []byte, a Result) (body []byte, jsonLength int, err error) {
	start := len(dst)
	dst = append(dst, '{')
	if r.ID != "" {
		dst = append(dst, `"id":`...)
		dst = append(appendString(dst, r.ID), ',')
	}
	dst = appendString(append(dst, `"model_name":`...), a.ModelName)
	if a.ModelVersion != "" {
		dst = appendString(append(dst, `,"model_version":`...), a.ModelVersion)
	}
	dst = append(dst, `,"outputs":[`...)
	size := 0 // of the binary part, in bytes
	for i, o := range r.Outputs {
		values := a.values(o, r.Batch)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(append(dst, `{"name":`...), o.Name)
		dst = append(dst, `,"datatype":"`+Float32+`","shape":[`...)
		dst = strconv.AppendInt(dst, int64(r.Batch), 10)
		dst = strconv.AppendInt(append(dst, ','), int64(len(values)/r.Batch), 10)
		if o.Binary {
			n := len(values) * floatSize
			size += n
			dst = strconv.AppendInt(append(dst, `],"parameters":{"binary_data_size":`...), int64(n), 10)
			dst = append(dst, "}}"...)
			continue
		}
		dst = append(dst, `],"data":[`...)
		for j, v := range values {
			if !finite(v) {
				return dst[:start], 0, outputNotFinite(o.Name, j/(len(values)/r.Batch))
			}
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = appendFloat(dst, v)
		}
		dst = append(dst, "]}"...)
	}
	dst = append(dst, "]}"...)
	if size == 0 {
		return dst, 0, nil
	}
	jsonLength = len(dst) - start
	for _, o := range r.Outputs {
		if !o.Binary {
			continue
		}
		values := a.values(o, r.Batch)
		for j, v := range values {
			if !finite(v) {
				return dst[:start], 0, outputNotFinite(o.Name, j/(len(values)/r.Batch))
			}
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
		}
	}
	return dst, jsonLength, nil
}

// values returns the values of an output for a batch of n images.
func (a *Result) values(o Output, n int) []float32 {
	values := a.Scores
	if o.Embedding {
		values = a.Embedding
	}
	if len(values) < n || len(values)%n != 0 {
		panic("oip: the result's " + o.Name + " has " + strconv.Itoa(len(values)) + " values for " + strconv.Itoa(n) + " images")
	}
	return values
}

func finite(v float32) bool { return v-v == 0 }

func outputNotFinite(name string, i int) error {
	return invalid("the model's output %q for image %d is NaN or infinite: the input values are out of range", name, i)
}

// appendFloat appends the shortest decimals that parse to v, always with a point or exponent: some
// JSON parsers distinguish integers from floats.
func appendFloat(dst []byte, v float32) []byte {
	start := len(dst)
	dst = strconv.AppendFloat(dst, float64(v), 'g', -1, 32)
	for _, c := range dst[start:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// AppendError appends the protocol's error object, the body of every response whose status isn't
// 200. Its content type is TypeJSON.
func AppendError(dst []byte, message string) []byte {
	return append(appendString(append(dst, `{"error":`...), message), '}')
}

// appendString appends text as a JSON string. Bytes that aren't UTF-8 become U+FFFD.
func appendString(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}
