package oip

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// Result is what the model says to a request.
type Result struct {
	// ModelName and ModelVersion name the model that answers; a version may be empty.
	ModelName, ModelVersion string
	// Logit has a value for each picture of the request.
	Logit []float32
	// Embedding has as many values for each picture as the embedding is wide. It
	// may be left out when the request does not want it.
	Embedding []float32
}

// AppendResponse appends the body of the answer to dst: the outputs that r wants, in
// the form it wants them in. jsonLength is the length of the JSON, for the
// LengthHeader, when binary tensors follow it: the content type is TypeBinary
// then. It is 0 when the body is all JSON: TypeJSON, without that header.
//
// Values keep every bit: JSON has the shortest decimals that read back as the same
// float32. An *Error with the status 400 says that a value is not finite, which
// only input far out of range brings about. It panics when the number of values
// does not fit the request.
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
	size := 0 // of the binary part
	for i, o := range r.Outputs {
		values := a.values(o.Name, r.Batch)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":"`...)
		dst = append(dst, o.Name...)
		dst = append(dst, `","datatype":"`+Datatype+`","shape":[`...)
		dst = strconv.AppendInt(dst, int64(r.Batch), 10)
		dst = strconv.AppendInt(append(dst, ','), int64(len(values)/r.Batch), 10)
		if o.Binary {
			n := len(values) * valueSize
			size += n
			dst = strconv.AppendInt(append(dst, `],"parameters":{"binary_data_size":`...), int64(n), 10)
			dst = append(dst, "}}"...)
			continue
		}
		dst = append(dst, `],"data":[`...)
		for j, v := range values {
			if !finite(v) {
				return dst[:start], 0, answerNotFinite(o.Name, j/(len(values)/r.Batch))
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
		values := a.values(o.Name, r.Batch)
		for j, v := range values {
			if !finite(v) {
				return dst[:start], 0, answerNotFinite(o.Name, j/(len(values)/r.Batch))
			}
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
		}
	}
	return dst, jsonLength, nil
}

// values returns those of the named output for a batch of n pictures.
func (a *Result) values(name string, n int) []float32 {
	values := a.Logit
	if name == EmbeddingName {
		values = a.Embedding
	}
	if len(values) < n || len(values)%n != 0 || name == LogitName && len(values) != n {
		panic("oip: the answer's " + name + " has " + strconv.Itoa(len(values)) + " values for " + strconv.Itoa(n) + " pictures")
	}
	return values
}

func finite(v float32) bool { return v-v == 0 }

func answerNotFinite(name string, picture int) error {
	return refuse("the model's %q for picture %d is not a finite number: values of the input are out of the range that it can compute with; want them in [0,1]", name, picture)
}

// appendFloat appends the shortest decimals that read back as v, and shows that
// they are no integer: some readers of JSON tell the two apart.
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

// AppendError appends the protocol's error object, the body of every answer that
// is not 200, to dst. Its content type is TypeJSON.
func AppendError(dst []byte, message string) []byte {
	return append(appendString(append(dst, `{"error":`...), message), '}')
}

// appendString appends text as a JSON string. Bytes that are not UTF-8 become
// U+FFFD.
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
