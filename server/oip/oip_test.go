package oip

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fakeart/internal/imaging"
)

// Names of the tensors of square, and the type of their values.
const (
	InputName     = "input"
	LogitName     = "logit"
	EmbeddingName = "embedding"
	Datatype      = Float32
)

// square describes a model with one score, for images of size×size pixels.
func square(size, embedding, maxBatch int) *Model {
	return &Model{
		Input: InputName, Datatype: Datatype, Layout: imaging.NCHW, Dims: [3]int{3, size, size}, Highest: 1, MaxBatch: maxBatch,
		Scores: LogitName, Columns: 1, Embedding: EmbeddingName, EmbeddingSize: embedding,
	}
}

// small describes a model with 12 values per image, few enough to write out in a test.
var small = square(2, 5, 4)

func floats(values []float32) imaging.Tensor { return imaging.Tensor{Float32: values} }

// ramp returns n images of the small shape with the values 0, 0.25, 0.5, …
func ramp(n int) []float32 {
	values := make([]float32, n*small.imageSize())
	for i := range values {
		values[i] = float32(i) / 4
	}
	return values
}

// flat formats values as a JSON array.
func flat(values []float32) string {
	text := "["
	for i, v := range values {
		if i > 0 {
			text += ","
		}
		text += strconv.FormatFloat(float64(v), 'g', -1, 32)
	}
	return text + "]"
}

// nested formats values as a JSON array nested like dims.
func nested(values []float32, dims ...int) string {
	if len(dims) == 1 {
		return flat(values)
	}
	var lists []string
	for part := range slices.Chunk(values, len(values)/dims[0]) {
		lists = append(lists, nested(part, dims[1:]...))
	}
	return "[" + strings.Join(lists, ",") + "]"
}

// raw returns values in binary form.
func raw(values []float32) string {
	data, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// message is the body of a request: JSON, and the binary data after it.
type message struct{ json, binary string }

// header returns the value of LengthHeader.
func (m message) header() string {
	if m.binary == "" {
		return ""
	}
	return strconv.Itoa(len(m.json))
}

func (m message) decode(r *Request) error {
	return r.Decode(small, m.header(), []byte(m.json+m.binary))
}

var (
	logitJSON       = Output{LogitName, false, false}
	logitBinary     = Output{LogitName, false, true}
	embeddingJSON   = Output{EmbeddingName, true, false}
	embeddingBinary = Output{EmbeddingName, true, true}
)

// goodRequests are requests in the exact form that the named clients send, with the expected
// result.
var goodRequests = []struct {
	name string
	message
	want Request
}{
	{
		"tritonclient: binary input, binary outputs by name",
		message{
			`{"inputs": [{"name": "input", "shape": [2, 3, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 96}}], "outputs": [{"name": "logit", "parameters": {"binary_data": true}}, {"name": "embedding", "parameters": {"binary_data": true}}]}`,
			raw(ramp(2)),
		},
		Request{Batch: 2, Input: floats(ramp(2)), Outputs: []Output{logitBinary, embeddingBinary}},
	},
	{
		"tritonclient: binary input, all outputs binary",
		message{
			`{"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}],"parameters":{"binary_data_output":true}}`,
			raw(ramp(1)),
		},
		Request{Batch: 1, Input: floats(ramp(1)), Outputs: []Output{logitBinary, embeddingBinary}},
	},
	{
		"tritonclient: JSON with every parameter",
		message{
			`{"id":"a/1 \"ü\" \ud83d\ude00","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"embedding","parameters":{"binary_data":false}}],` +
				`"parameters":{"sequence_id":7,"sequence_start":true,"sequence_end":false,"priority":1,"timeout":250000,"custom":{"a":[1,{}]}}}`, "",
		},
		Request{ID: `a/1 "ü" 😀`, Batch: 1, Input: floats(ramp(1)), Outputs: []Output{embeddingJSON}, Timeout: 250 * time.Millisecond},
	},
	{
		"KServe's REST client: JSON",
		message{
			`{"id":"8d64e0a7-6d5a-4c0e-9d0e-0a3f1f6f5c11","model_name":"fakeart","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}]}`, "",
		},
		Request{ID: "8d64e0a7-6d5a-4c0e-9d0e-0a3f1f6f5c11", Batch: 1, Input: floats(ramp(1)), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"KServe's REST client: binary input, JSON and binary output",
		message{
			`{"id":"1","model_name":"fakeart","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}],` +
				`"outputs":[{"name":"embedding","parameters":{"binary_data":true}},{"name":"logit"}],"parameters":{"binary_data_output":false}}`, raw(ramp(1)),
		},
		Request{ID: "1", Batch: 1, Input: floats(ramp(1)), Outputs: []Output{embeddingBinary, logitJSON}},
	},
	{
		"MLServer's types: unset fields as null",
		message{
			`{"id":null,"parameters":{"content_type":null,"headers":null},"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"content_type":"np","headers":null},"data":` + flat(ramp(1)) + `}],"outputs":null}`, "",
		},
		Request{Batch: 1, Input: floats(ramp(1)), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"by hand: nested, unusual order, indented",
		message{
			"\n{\n  \"outputs\" : [ ],\n  \"inputs\" : [ {\n\t\"data\" : " + strings.ReplaceAll(nested(ramp(2), 2, 3, 2, 2), ",", " ,\r\n ") + ",\n    \"shape\" : [ 2, 3, 2, 2 ],\n    \"n\\u0061me\" : \"inp\\u0075t\",\n    \"datatype\" : \"FP32\"\n  } ]\n}\n", "",
		},
		Request{Batch: 2, Input: floats(ramp(2)), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"by hand: one flat array per image",
		message{
			`{"inputs":[{"name":"input","datatype":"FP32","shape":[2,3,2,2],"data":` + nested(ramp(2), 2, 12) + `}],"parameters":{"binary_data_output":true},"outputs":[{"name":"logit","parameters":{"binary_data":false}},{"name":"embedding"}]}`, "",
		},
		Request{Batch: 2, Input: floats(ramp(2)), Outputs: []Output{logitJSON, embeddingBinary}},
	},
	{
		"by hand: all number formats",
		message{
			`{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,2,2],"data":[0,-0,-0.0,1,-1.5,1e3,1E-3,2e+2,3.4028234e38,1e-400,0.1000000000000000055511151231257827,123456789]}]}`, "",
		},
		Request{
			Batch: 1, Outputs: []Output{logitJSON, embeddingJSON},
			Input: floats([]float32{0, float32(math.Copysign(0, -1)), float32(math.Copysign(0, -1)), 1, -1.5, 1000, 0.001, 200, math.MaxFloat32, 0, 0.1, 123456789}),
		},
	},
}

func TestDecode_CommonClients(t *testing.T) {
	var used Request // reused by all cases, as in a server
	for _, test := range goodRequests {
		t.Run(test.name, func(t *testing.T) {
			for name, r := range map[string]*Request{"a new Request": {}, "a reused Request": &used} {
				if err := test.decode(r); err != nil {
					t.Fatalf("decode into %s: %v", name, err)
				}
				if diff := cmp.Diff(test.want, *r, cmpopts.IgnoreUnexported(Request{}), cmp.Comparer(func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) })); diff != "" {
					t.Errorf("decode into %s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

func TestDecode_RawTensor(t *testing.T) {
	for n := 1; n <= small.MaxBatch; n++ {
		var r Request
		if err := r.Decode(small, "0", []byte(raw(ramp(n)))); err != nil {
			t.Fatal(err)
		}
		want := Request{Batch: n, Input: floats(ramp(n)), Outputs: []Output{logitBinary, embeddingBinary}}
		if diff := cmp.Diff(want, r, cmpopts.IgnoreUnexported(Request{})); diff != "" {
			t.Errorf("%d images (-want +got):\n%s", n, diff)
		}
	}
}

func TestDecode_DoesNotRetainBody(t *testing.T) {
	body := []byte(`{"id":"abc","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"logit"}]}`)
	var r Request
	if err := r.Decode(small, "", body); err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'x'
	}
	if r.ID != "abc" || r.Outputs[0].Name != LogitName || !slices.Equal(r.Input.Float32, ramp(1)) {
		t.Errorf("request after the body was overwritten = %+v", r)
	}
}

// request returns a valid request with replacements applied: pairs of old and new text.
func request(replace ...string) message {
	text := `{"id":"1","parameters":{},"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"logit","parameters":{}}]}`
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			panic("the request doesn't contain " + replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return message{json: text}
}

// binaryRequest is like request, with the input in binary form after the JSON.
func binaryRequest(data string, replace ...string) message {
	return message{request(append([]string{`"data":` + flat(ramp(1)), `"parameters":{"binary_data_size":48}`}, replace...)...).json, data}
}

func TestDecode_InvalidRequest(t *testing.T) {
	data := `"data":` + flat(ramp(1))
	nan := raw(append(ramp(1)[:11], float32(math.NaN())))
	for _, test := range []struct {
		name string
		message
		want string // substring of the message
	}{
		{"no body", message{}, "the body is empty: expected an inference request in JSON"},
		{"white space", message{json: " \n"}, "the JSON is truncated after 2 bytes: expected an object"},
		{"array", message{json: "[]"}, "the body is an array: expected an object"},
		{"null", message{json: "null"}, "the body is null: expected an object"},
		{"form", message{json: "--boundary\r\n"}, `invalid JSON at byte 0: expected an object, found "--bounda"`},
		{"byte order mark", message{json: "\ufeff{}"}, "invalid JSON at byte 0: expected an object"},
		{"empty object", message{json: "{}"}, `"inputs" is missing: expected the tensor "input", FP32, [N,3,2,2] with N from 1 to 4`},
		{"truncated", message{json: request().json[:60]}, "the JSON is truncated after 60 bytes"},
		{"two requests", message{json: request().json + " {}"}, "expected the end of the request, found \"{}\""},
		{"extra comma", request(`"outputs":[`, `"outputs":[,`), "expected an object, found"},
		{"missing comma", request(`"id":"1",`, `"id":"1"`), "expected a comma or }"},
		{"missing colon", request(`"id":"1",`, `"id" "1",`), "expected a colon"},
		{"unquoted name", request(`"id"`, `id`), "expected a member name"},
		{"comment", request(`"id"`, `/* */ "id"`), "expected a member name"},
		{"single quotes", request(`"1"`, `'1'`), "expected a string, found"},
		{"not UTF-8", request(`"1"`, "\"\xff\""), "invalid JSON: the string at byte 6 is not UTF-8"},
		{"not UTF-8 with escape", request(`"1"`, "\"\\n\xff\""), "invalid JSON: the string at byte 6 is not UTF-8"},
		{"half a surrogate pair", request(`"1"`, `"\ud800\u0041"`), "expected a valid escape sequence"},
		{"unknown escape", request(`"1"`, `"\x41"`), "expected a valid escape sequence"},
		{"unescaped line break", request(`"1"`, "\"a\nb\""), "expected control characters in strings to be escaped"},
		{"unescaped line break after escape", request(`"1"`, "\"\\t\n\""), "expected control characters in strings to be escaped"},
		{"unterminated string", message{json: `{"id":"`}, "expected a closing quote"},
		{"unterminated string with escape", message{json: `{"id":"\n`}, "expected a closing quote"},
		{"invalid literal", request(`"id":"1"`, `"x":nul`), "expected a value"},
		{"too deep", request(`"id":"1"`, `"x":`+strings.Repeat("[", 65)+strings.Repeat("]", 65)), "the JSON is nested deeper than 64 levels"},
		{"far too deep", request(`"id":"1"`, `"x":`+strings.Repeat(`[{"a":`, 1<<20)), "the JSON is nested deeper than 64 levels"},

		{"numeric id", request(`"id":"1"`, `"id":1`), `"id" is a number: expected a string`},
		{"duplicate id", request(`"id":"1"`, `"id":"1","id":"2"`), `"id" appears twice`},
		{"parameters not an object", request(`"parameters":{}`, `"parameters":[]`), `"parameters" is an array: expected an object`},
		{"numeric binary_data_output", request(`"parameters":{}`, `"parameters":{"binary_data_output":1}`), `the parameter "binary_data_output" is a number: expected a boolean`},
		{"negative timeout", request(`"parameters":{}`, `"parameters":{"timeout":-1}`), `the parameter "timeout" is -1: expected microseconds, 0 for no limit`},
		{"fractional timeout", request(`"parameters":{}`, `"parameters":{"timeout":0.5}`), `the parameter "timeout" is 0.5: expected an integer`},
		{"timeout out of range", request(`"parameters":{}`, `"parameters":{"timeout":9223372036854775808}`), `the parameter "timeout" is 9223372036854775808: out of range`},
		{"timeout not a number", request(`"parameters":{}`, `"parameters":{"timeout":"1s"}`), `the parameter "timeout" is a string: expected an integer`},

		{"inputs not an array", request(`"inputs":[{`, `"inputs":{"x":[{`), `"inputs" is an object: expected an array`},
		{"no inputs", message{json: `{"inputs":[]}`}, `"inputs" is missing`},
		{"null inputs", message{json: `{"inputs":null}`}, `"inputs" is missing`},
		{"duplicate inputs", request(`"outputs":`, `"inputs":[],"outputs":`), `"inputs" appears twice`},
		{"input not an object", message{json: `{"inputs":["input"]}`}, `an element of "inputs" is a string: expected an object`},
		{"input without name", request(`"name":"input",`, ``), `inputs[0] has no "name": expected "input"`},
		{"unknown input", request(`"name":"input"`, `"name":"image"`), `unknown input "image": the model's only input is "input", FP32, [N,3,2,2] with N from 1 to 4`},
		{"unknown input with text data", request(`"name":"input"`, `"name":"image"`, data, `"data":["a"]`), `unknown input "image"`},
		{"additional unknown input", request(`],"outputs"`, `,{"name":"mask","shape":[1],"datatype":"BOOL","data":[true]}],"outputs"`), `unknown input "mask"`},
		{"duplicate input", request(`],"outputs"`, `,{"name":"input","shape":[1,3,2,2],"datatype":"FP32",`+data+`}],"outputs"`), `input "input" appears twice`},
		{"duplicate name", request(`"name":"input"`, `"name":"input","name":"input"`), `the "name" of an input appears twice`},
		{"no datatype", request(`"datatype":"FP32",`, ``), `input "input" has no "datatype": expected "FP32"`},
		{"wrong datatype", request(`"FP32"`, `"FP64"`), `input "input" has the datatype "FP64": expected "FP32"`},
		{"lower-case datatype", request(`"FP32"`, `"fp32"`), `input "input" has the datatype "fp32": expected "FP32"`},
		{"text input", request(`"FP32"`, `"BYTES"`, data, `"data":["a"]`), `input "input" has the datatype "BYTES": expected "FP32"`},
		{"no shape", request(`"shape":[1,3,2,2],`, ``), `input "input" has no "shape": expected [N,3,2,2] with N from 1 to 4`},
		{"empty shape", request(`[1,3,2,2]`, `[]`), `the "shape" of an input is empty: expected [N,3,2,2] with N from 1 to 4`},
		{"three dimensions", request(`[1,3,2,2]`, `[3,2,2]`), `input "input" has the shape [3,2,2]: expected [N,3,2,2] with N from 1 to 4`},
		{"five dimensions", request(`[1,3,2,2]`, `[1,1,3,2,2]`), `input "input" has the shape [1,1,3,2,…] of 5 dimensions: expected [N,3,2,2] with N from 1 to 4`},
		{"channels last", request(`[1,3,2,2]`, `[1,2,2,3]`), `input "input" has the shape [1,2,2,3]: expected [N,3,2,2] with N from 1 to 4`},
		{"no images", request(`[1,3,2,2]`, `[0,3,2,2]`, data, `"data":[]`), `input "input" has 0 images: expected 1 to 4 per request`},
		{"too many images", request(`[1,3,2,2]`, `[5,3,2,2]`), `input "input" has 5 images: expected 1 to 4 per request`},
		{"negative batch size", request(`[1,3,2,2]`, `[-1,3,2,2]`), `dimension 0 of the shape is -1: expected [N,3,2,2] with N from 1 to 4`},
		{"batch size out of range", request(`[1,3,2,2]`, `[9223372036854775808,3,2,2]`), `a dimension of the shape is 9223372036854775808: out of range`},
		{"batch size whose number of values overflows", request(`[1,3,2,2]`, `[1537228672809129302,3,2,2]`), `input "input" has 1537228672809129302 images: expected 1 to 4 per request`},
		{"fractional batch size", request(`[1,3,2,2]`, `[0.5,3,2,2]`), `a dimension of the shape is 0.5: expected an integer`},
		{"dimension not a number", request(`[1,3,2,2]`, `["1",3,2,2]`), `a dimension of the shape is a string: expected an integer`},
		{"shape not an array", request(`[1,3,2,2]`, `12`), `the "shape" of an input is a number: expected an array`},
		{"shared memory", request(data, `"parameters":{"shared_memory_region":"r","shared_memory_byte_size":48}`), `the parameter "shared_memory_region" is not supported: send the values as "data" or as binary data`},

		{"no data", request(`,`+data, ``), `input "input" has no "data": expected 12 numbers`},
		{"null data", request(data, `"data":null`), `input "input" has no "data": expected 12 numbers`},
		{"numeric data", request(data, `"data":1`), `the "data" of an input is a number: expected an array of numbers`},
		{"string data", request(data, `"data":"AAAA"`), `the "data" of an input is a string: expected an array of numbers`},
		{"data with text", request(`[0,`, `["0",`), `a value in the "data" of input "input" is a string: expected a number`},
		{"data with null", request(`[0,`, `[null,`), `a value in the "data" of input "input" is null: expected a number`},
		{"data with true", request(`[0,`, `[true,`), `a value in the "data" of input "input" is a boolean: expected a number`},
		{"data with NaN", request(`[0,`, `[NaN,`), `expected a number, found "NaN,`},
		{"data with Infinity", request(`[0,`, `[-Infinity,`), `expected a number, found "-Inf`},
		{"data out of range for FP64", request(`[0,`, `[1e400,`), `a value of input "input" is 1e400: out of range for FP32`},
		{"data out of range for FP32", request(`[0,`, `[-3.5e38,`), `a value of input "input" is -3.5e38: out of range for FP32`},
		{"data with leading zero", request(`[0,`, `[01,`), `expected a comma or ], found "1,`},
		{"data with leading plus", request(`[0,`, `[+1,`), `expected a number`},
		{"data without digit after point", request(`[0,`, `[1.,`), `expected a digit after the decimal point`},
		{"data without digit in exponent", request(`[0,`, `[1e+,`), `expected a digit in the exponent`},
		{"data with hexadecimal number", request(`[0,`, `[0x10,`), `expected a comma or ]`},
		{"one value too few", request(`,2.75]`, `]`), `the "data" of input "input" has an array at level 1 with 11 numbers: the shape requires 12`},
		{"one value too many", request(`,2.75]`, `,2.75,3]`), `the "data" of input "input" has an array at level 1 with more numbers: the shape requires 12`},
		{"no values", request(data, `"data":[]`), `the "data" of input "input" has an array at level 1 with 0 numbers: the shape requires 12`},
		{"values for one of three images", request(`[1,3,2,2]`, `[3,3,2,2]`), `the "data" of input "input" has an array at level 1 with 12 numbers: the shape requires 36`},
		{"body too short for the shape", request(`[1,3,2,2]`, `[4,3,2,2]`, data, `"data":[0,1]`), `the JSON ends before the 48 values required by the shape of input "input"`},
		{"duplicate data", request(data, data+`,`+data), `the "data" of an input appears twice`},
		{"truncated data", message{json: request().json[:130]}, `the JSON is truncated`},
		{"nested with channels last", request(data, `"data":`+nested(ramp(1), 1, 2, 2, 3)), `the "data" of input "input" has an array at level 4 with more numbers: the shape requires 2`},
		{"nested with fewer rows", request(data, `"data":`+nested(ramp(1), 1, 2, 6)), `has an array at level 3 with more numbers: the shape requires 4`},
		{"nested, extra row", request(data, `"data":`+nested(append(ramp(1), 0, 0, 0, 0), 1, 4, 2, 2)), `the "data" of input "input" has an array at level 2 with more arrays: the shape requires 3`},
		{"nested, extra value", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0.25", "0.25,9", 1)), `has an array at level 4 with more numbers: the shape requires 2`},
		{"nested, missing value", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0,0.25", "0.25", 1)), `has an array at level 4 with 1 numbers: the shape requires 2`},
		{"nested, empty row", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0.5,0.75", "", 1)), `has an array at level 4 with 0 numbers: the shape requires 2`},
		{"nested, no rows", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25],[1.5,1.75]", "", 1)), `has an array at level 3 with 0 arrays: the shape requires 2`},
		{"nested, number instead of row", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25]", "1", 1)), `has a number at level 4: expected all arrays of a level to be nested alike, as in the shape`},
		{"nested, row instead of number", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25]", "[1,[1.25]]", 1)), `has an array at level 4: expected all arrays of a level to be nested alike, as in the shape`},
		{"nested too deep", request(data, `"data":[`+nested(ramp(1), 1, 3, 2, 2)+`]`), `the "data" of input "input" is nested deeper than its 4 dimensions`},

		{"outputs not an array", request(`"outputs":[{"name":"logit","parameters":{}}]`, `"outputs":"logit"`), `"outputs" is a string: expected an array`},
		{"output not an object", request(`{"name":"logit","parameters":{}}`, `"logit"`), `an element of "outputs" is a string: expected an object`},
		{"output without name", request(`"name":"logit",`, ``), `outputs[0] has no "name": the model has "logit" and "embedding"`},
		{"unknown output", request(`"name":"logit"`, `"name":"probability"`), `unknown output "probability": the model has "logit" and "embedding"`},
		{"duplicate output", request(`{"name":"logit","parameters":{}}`, `{"name":"logit"},{"name":"embedding"},{"name":"logit"}`), `output "logit" is requested twice`},
		{"classification", request(`"logit","parameters":{}`, `"logit","parameters":{"classification":2}`), `the parameter "classification" is not supported: leave it out`},
		{"output in shared memory", request(`"logit","parameters":{}`, `"logit","parameters":{"shared_memory_region":"r"}`), `the parameter "shared_memory_region" is not supported: leave it out`},
		{"binary_data not a boolean", request(`"logit","parameters":{}`, `"logit","parameters":{"binary_data":"true"}`), `the parameter "binary_data" is a string: expected a boolean`},

		{"binary NaN", binaryRequest(nan), `input "input": value 11 is NaN or infinite`},
		{"binary infinity", binaryRequest(raw(append([]float32{float32(math.Inf(-1))}, ramp(1)[1:]...))), `input "input": value 0 is NaN or infinite`},
		{"binary and JSON data", binaryRequest(raw(ramp(1)), `"datatype"`, data+`,"datatype"`), `input "input" has both "data" and the parameter "binary_data_size": expected one of them`},
		{"unexpected binary data", message{request().json, raw(ramp(1))}, `48 unexpected bytes after the JSON: input "input" has its "data" in the JSON`},
		{"binary data without size", binaryRequest(raw(ramp(1)), `"binary_data_size":48`, ``), `input "input" has neither "data" nor the parameter "binary_data_size", which gives the number of its bytes among the 48 after the JSON`},
		{"binary data with null size", binaryRequest(raw(ramp(1)), `48`, `null`), `input "input" has neither "data" nor the parameter "binary_data_size"`},
		{"binary data with negative size", binaryRequest(raw(ramp(1)), `48`, `-48`), `the parameter "binary_data_size" is -48: expected 48, 4 bytes for each of the 12 values`},
		{"binary data size not a multiple of 4", binaryRequest(raw(ramp(1)), `48`, `47`), `the parameter "binary_data_size" is 47: expected 48`},
		{"binary data with wrong size", binaryRequest(raw(ramp(1)), `48`, `96`), `the parameter "binary_data_size" is 96: expected 48`},
		{"binary data with huge size", binaryRequest(raw(ramp(1)), `48`, `9223372036854775807`), `the parameter "binary_data_size" is 9223372036854775807: expected 48`},
		{"binary data size out of range", binaryRequest(raw(ramp(1)), `48`, `1e30`), `the parameter "binary_data_size" is 1e30: expected an integer`},
		{"binary data size not a number", binaryRequest(raw(ramp(1)), `48`, `"48,48"`), `the parameter "binary_data_size" is a string: expected an integer`},
		{"truncated binary data", binaryRequest(raw(ramp(1))[:44]), `the parameter "binary_data_size" is 48, but only 44 bytes follow the JSON`},
		{"bytes after binary data", binaryRequest(raw(ramp(1)) + "abc"), `3 unexpected bytes after the 48 of input "input"`},
		{"binary data for too many images", binaryRequest(raw(ramp(2)), `48`, `96`), `the parameter "binary_data_size" is 96: expected 48`},
		{"missing binary data", binaryRequest(""), `expected the header Inference-Header-Content-Length as well, with the length of the JSON`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			checkError(t, test.decode(&r), test.want)
		})
	}
}

// checkError checks that err is an *Error with status 400 and a short one-line message containing
// want.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error %v, want an *Error: %s", err, want)
	}
	if refusal.Status != http.StatusBadRequest {
		t.Errorf("status %d, want 400", refusal.Status)
	}
	if !strings.Contains(refusal.Message, want) || strings.ContainsAny(refusal.Message, "\n\r") || len(refusal.Message) > 400 {
		t.Errorf("got:  %s\nwant: %s", refusal.Message, want)
	}
}

func TestCheckValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, test := range []struct {
		values []float32
		want   string
	}{
		{[]float32{0, 0.5, nan, 7}, "value 2 is NaN or infinite"},
		{[]float32{0, -inf}, "value 1 is NaN or infinite"},
		{[]float32{255, 2}, "value 0 is 255: expected 0 to 1; divide values from 0 to 255 by 255"},
		{[]float32{0, math.Nextafter32(1, 2)}, "value 1 is 1.0000001: expected 0 to 1"},
		{[]float32{-math.SmallestNonzeroFloat32}, "value 0 is -1e-45: expected 0 to 1"},
	} {
		checkError(t, small.CheckValues(floats(test.values)), test.want)
	}
	if err := small.CheckValues(floats([]float32{0, float32(math.Copysign(0, -1)), 1, 0.25})); err != nil {
		t.Error(err)
	}
}

func TestDecode_InvalidLengthHeader(t *testing.T) {
	m := binaryRequest(raw(ramp(1)))
	body := []byte(m.json + m.binary)
	for _, test := range []struct{ header, want string }{
		{"-1", `the header Inference-Header-Content-Length is invalid: expected the length of the JSON in bytes, as a decimal integer`},
		{"+5", "as a decimal integer"},
		{" 5", "as a decimal integer"},
		{"0x10", "as a decimal integer"},
		{"1e2", "as a decimal integer"},
		{"many", "as a decimal integer"},
		{strconv.Itoa(len(body) + 1), fmt.Sprintf("is larger than the body, which has only %d bytes", len(body))},
		{"99999999999999999999", fmt.Sprintf("is larger than the body, which has only %d bytes", len(body))},
		{strconv.Itoa(len(m.json) - 1), "the JSON is truncated"},
		{strconv.Itoa(len(m.json) + 1), "expected the end of the request"},
		{"0", fmt.Sprintf(`is 0, so the body must be the tensor "input" only, but it has %d bytes: expected 48 for each of 1 to 4 images`, len(body))},
	} {
		t.Run(test.header, func(t *testing.T) {
			var r Request
			checkError(t, r.Decode(small, test.header, body), test.want)
		})
	}
}

func TestDecode_InvalidRawTensor(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"empty", "", "but it has 0 bytes: expected 48 for each of 1 to 4 images"},
		{"one byte less", raw(ramp(1))[:47], "but it has 47 bytes"},
		{"one byte more", raw(ramp(1)) + "x", "but it has 49 bytes"},
		{"too many images", raw(ramp(5)), "but it has 240 bytes"},
		{"NaN", raw(append([]float32{float32(math.NaN())}, ramp(1)[1:]...)), "value 0 is NaN or infinite"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			checkError(t, r.Decode(small, "0", []byte(test.body)), test.want)
		})
	}
}

func TestDecode_LongTimeout(t *testing.T) {
	var r Request
	if err := request(`"parameters":{}`, `"parameters":{"timeout":9223372036854775807}`).decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Timeout < 290*365*24*time.Hour {
		t.Errorf("timeout %s, want about 292 years", r.Timeout)
	}
}

// result returns a result for n images with embeddings of 3 values.
func result(n int) Result {
	a := Result{ModelName: "fakeart", ModelVersion: "7"}
	for i := range n {
		a.Scores = append(a.Scores, float32(i)-3.5)
		a.Embedding = append(a.Embedding, float32(i), 1e-7, 16777216)
	}
	return a
}

func TestAppendResponse(t *testing.T) {
	for _, test := range []struct {
		name    string
		request Request
		want    message
	}{
		{
			"all JSON",
			Request{ID: "a \"b\" \\ \n\x01 ü", Batch: 1, Outputs: []Output{logitJSON, embeddingJSON}},
			message{`{"id":"a \"b\" \\ \u000a\u0001 ü","model_name":"fakeart","model_version":"7","outputs":[{"name":"logit","datatype":"FP32","shape":[1,1],"data":[-3.5]},{"name":"embedding","datatype":"FP32","shape":[1,3],"data":[0.0,1e-07,1.6777216e+07]}]}`, ""},
		},
		{
			"all binary",
			Request{Batch: 2, Outputs: []Output{logitBinary, embeddingBinary}},
			message{
				`{"model_name":"fakeart","model_version":"7","outputs":[{"name":"logit","datatype":"FP32","shape":[2,1],"parameters":{"binary_data_size":8}},{"name":"embedding","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}}]}`,
				raw([]float32{-3.5, -2.5, 0, 1e-7, 16777216, 1, 1e-7, 16777216}),
			},
		},
		{
			"JSON and binary, reversed order",
			Request{ID: "1", Batch: 2, Outputs: []Output{embeddingBinary, logitJSON}},
			message{
				`{"id":"1","model_name":"fakeart","model_version":"7","outputs":[{"name":"embedding","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}},{"name":"logit","datatype":"FP32","shape":[2,1],"data":[-3.5,-2.5]}]}`,
				raw([]float32{0, 1e-7, 16777216, 1, 1e-7, 16777216}),
			},
		},
		{
			"logit only, without embedding",
			Request{Batch: 1, Outputs: []Output{logitJSON}},
			message{`{"model_name":"fakeart","model_version":"7","outputs":[{"name":"logit","datatype":"FP32","shape":[1,1],"data":[-3.5]}]}`, ""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := result(test.request.Batch)
			if !slices.ContainsFunc(test.request.Outputs, func(o Output) bool { return o.Embedding }) {
				a.Embedding = nil
			}
			body, length, err := test.request.AppendResponse([]byte("before"), a)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("before"+test.want.json+test.want.binary, string(body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if want, _ := strconv.Atoi(test.want.header()); length != want {
				t.Errorf("jsonLength = %d, want %d", length, want)
			}
		})
	}
}

func TestAppendResponse_NoVersion(t *testing.T) {
	r := Request{Batch: 1, Outputs: []Output{logitJSON}}
	body, _, err := r.AppendResponse(nil, Result{ModelName: "m", Scores: []float32{1}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"model_name":"m","outputs":[{"name":"logit","datatype":"FP32","shape":[1,1],"data":[1.0]}]}`; string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

func TestAppendResponse_NotFinite(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, o := range []Output{embeddingJSON, embeddingBinary} {
			r := Request{Batch: 2, Outputs: []Output{logitJSON, o}}
			a := result(2)
			a.Embedding[4] = float32(v)
			body, _, err := r.AppendResponse([]byte("before"), a)
			checkError(t, err, `the model's output "embedding" for image 1 is NaN or infinite`)
			if string(body) != "before" {
				t.Errorf("%v: body %q, want dst unchanged", v, body)
			}
		}
	}
}

func TestAppendResponse_WrongBatchPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r := Request{Batch: 2, Outputs: []Output{logitJSON}}
	_, _, _ = r.AppendResponse(nil, result(1))
}

func TestAppendFloat_RoundTrip(t *testing.T) {
	bits := []uint32{0, 1 << 31, 1, 0x007fffff, 0x00800000, 0x7f7fffff, 0x3dcccccd, 0x3f800000, 0x4b800000, 0xc2f6e979}
	for i := uint32(0); i < 1<<16; i++ {
		bits = append(bits, i*65521)
	}
	for _, b := range bits {
		v := math.Float32frombits(b)
		if !finite(v) {
			continue
		}
		text := appendFloat(nil, v)
		if !json.Valid(text) || !bytes.ContainsAny(text, ".e") {
			t.Fatalf("appendFloat(%08x) = %s, want JSON with a point or exponent", b, text)
		}
		r := reader{data: text}
		if got, err := r.float(); err != nil || math.Float32bits(got) != b {
			t.Fatalf("%08x is formatted as %s and parsed as %08x (%v)", b, text, math.Float32bits(got), err)
		}
	}
}

func TestFloat_RoundsToNearest(t *testing.T) {
	check := func(text string) {
		t.Helper()
		want, err := strconv.ParseFloat(text, 32)
		if err != nil {
			t.Fatal(err)
		}
		r := reader{data: []byte(text)}
		if got, err := r.float(); err != nil || !sameBits(got, float32(want)) {
			t.Fatalf("float(%s) = %x, want %x (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{
		"0", "-0", "-0.0", "0.00000000000000000000000", "1", "16777217", "16777219", "33554434", "33554438", "9999999999999999999", "18446744073709551616",
		"99999999999999999999", "340282346638528859811704183484516925439", "1.000000059604644775390625", "1.00000005960464478", "1.00000005960464477",
		"0.0000000000000000000000000000000000000000000014", "0.1234567890123456789", "0.12345678901234567890123", "1.17549435e-38", "7e-46", "123456789012345678.9",
	} {
		check(text)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300_000 {
		check(strconv.FormatFloat(rng.NormFloat64()*math.Pow(10, float64(rng.IntN(16)-8)), 'f', 1+rng.IntN(22), 64))
		// At and around the midpoint between two floats, where rounding is close.
		f := rng.Float32() * float32(math.Pow(2, float64(rng.IntN(40)-20)))
		middle := (float64(f) + float64(math.Nextafter32(f, 2*f))) / 2
		for _, v := range []float64{middle, math.Nextafter(middle, 0), math.Nextafter(middle, 2*middle)} {
			check(strconv.FormatFloat(v, 'f', -1, 64))
			check(strconv.FormatFloat(v, 'f', 5+rng.IntN(14), 64))
		}
	}
}

func TestAppendError(t *testing.T) {
	for _, message := range []string{"plain", "with \"quotes\" and \\", "a\nline\x00", "not \xff UTF-8", "ü"} {
		body := AppendError([]byte("before"), message)
		var e ErrorObject
		if err := json.Unmarshal(body[len("before"):], &e); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if want := strings.ToValidUTF8(message, "\ufffd"); e.Error != want {
			t.Errorf("got %q, want %q", e.Error, want)
		}
	}
}

func TestDocuments_JSON(t *testing.T) {
	for _, test := range []struct {
		document any
		want     string
	}{
		{ServerMetadata{"fakeart", "1.0.0", Extensions()}, `{"name":"fakeart","version":"1.0.0","extensions":["binary_tensor_data","model_configuration","statistics"]}`},
		{
			full.Metadata("fakeart", "1", "2"),
			`{"name":"fakeart","versions":["1","2"],"platform":"onnxruntime_onnx","inputs":[{"name":"input","datatype":"FP32","shape":[-1,3,32,32]}],"outputs":[{"name":"logit","datatype":"FP32","shape":[-1,1]},{"name":"embedding","datatype":"FP32","shape":[-1,128]}]}`,
		},
		{Live{true}, `{"live":true}`},
		{Ready{false}, `{"ready":false}`},
		{ModelReady{"fakeart", true}, `{"name":"fakeart","ready":true}`},
		{ErrorObject{"no"}, `{"error":"no"}`},
	} {
		got, err := json.Marshal(test.document)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// InferRequest and InferResponse only document the JSON. This test checks that they match it.
func TestDocuments_MatchCodec(t *testing.T) {
	sent, err := json.Marshal(InferRequest{
		ID: "1", Parameters: map[string]any{"timeout": 5},
		Inputs:  []InferInput{{Name: InputName, Shape: []int{1, 3, 2, 2}, Datatype: Datatype, Data: ramp(1)}},
		Outputs: []InferOutput{{Name: LogitName, Parameters: map[string]any{"binary_data": true}}, {Name: EmbeddingName}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var r Request
	if err := r.Decode(small, "", sent); err != nil {
		t.Fatal(err)
	}
	want := Request{ID: "1", Batch: 1, Input: floats(ramp(1)), Outputs: []Output{logitBinary, embeddingJSON}, Timeout: 5 * time.Microsecond}
	if diff := cmp.Diff(want, r, cmpopts.IgnoreUnexported(Request{})); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	body, length, err := r.AppendResponse(nil, result(1))
	if err != nil {
		t.Fatal(err)
	}
	var got InferResponse
	read := json.NewDecoder(bytes.NewReader(body[:length]))
	read.DisallowUnknownFields()
	if err := read.Decode(&got); err != nil {
		t.Fatal(err)
	}
	wantResponse := InferResponse{ID: "1", ModelName: "fakeart", ModelVersion: "7", Outputs: []ResponseOutput{
		{Name: LogitName, Datatype: Datatype, Shape: []int{1, 1}, Parameters: &OutputParameters{4}},
		{Name: EmbeddingName, Datatype: Datatype, Shape: []int{1, 3}, Data: []float32{0, 1e-7, 16777216}},
	}}
	if diff := cmp.Diff(wantResponse, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestRequest_NoAllocations(t *testing.T) {
	for _, test := range goodRequests[:2] {
		var r Request
		body := []byte(test.json + test.binary)
		header := test.header()
		a := result(test.want.Batch)
		var dst []byte
		if n := testing.AllocsPerRun(100, func() {
			if err := r.Decode(small, header, body); err != nil {
				t.Fatal(err)
			}
			var err error
			if dst, _, err = r.AppendResponse(dst[:0], a); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %.0f allocations, want 0", test.name, n)
		}
	}
}
