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
)

// small is a shape whose pictures can be written out in a test: 12 values each.
var small = Shape{Channels: 3, Size: 2, MaxBatch: 4}

// ramp is n pictures of the small shape with the values 0, 0.25, 0.5, …
func ramp(n int) []float32 {
	values := make([]float32, n*small.picture())
	for i := range values {
		values[i] = float32(i) / 4
	}
	return values
}

// flat writes values as a JSON list.
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

// nested writes values as a JSON list nested as dims say.
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

// raw is values in binary form.
func raw(values []float32) string {
	data, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// message is a request as it comes over HTTP.
type message struct{ json, binary string }

// header is the value of the LengthHeader.
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
	logitJSON       = Output{LogitName, false}
	logitBinary     = Output{LogitName, true}
	embeddingJSON   = Output{EmbeddingName, false}
	embeddingBinary = Output{EmbeddingName, true}
)

// goodRequests are requests as clients send them, each with what it means. The
// names say whose; the bytes follow the sources of those clients.
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
		Request{Batch: 2, Input: ramp(2), Outputs: []Output{logitBinary, embeddingBinary}},
	},
	{
		"tritonclient: no outputs, which it wants in binary form then",
		message{
			`{"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}],"parameters":{"binary_data_output":true}}`,
			raw(ramp(1)),
		},
		Request{Batch: 1, Input: ramp(1), Outputs: []Output{logitBinary, embeddingBinary}},
	},
	{
		"tritonclient: all JSON, and every parameter it knows",
		message{
			`{"id":"a/1 \"ü\" \ud83d\ude00","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"embedding","parameters":{"binary_data":false}}],` +
				`"parameters":{"sequence_id":7,"sequence_start":true,"sequence_end":false,"priority":1,"timeout":250000,"custom":{"a":[1,{}]}}}`, "",
		},
		Request{ID: `a/1 "ü" 😀`, Batch: 1, Input: ramp(1), Outputs: []Output{embeddingJSON}, Timeout: 250 * time.Millisecond},
	},
	{
		"KServe's REST client: JSON",
		message{
			`{"id":"8d64e0a7-6d5a-4c0e-9d0e-0a3f1f6f5c11","model_name":"fakeart","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}]}`, "",
		},
		Request{ID: "8d64e0a7-6d5a-4c0e-9d0e-0a3f1f6f5c11", Batch: 1, Input: ramp(1), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"KServe's REST client: binary input, one output of each form",
		message{
			`{"id":"1","model_name":"fakeart","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"binary_data_size":48}}],` +
				`"outputs":[{"name":"embedding","parameters":{"binary_data":true}},{"name":"logit"}],"parameters":{"binary_data_output":false}}`, raw(ramp(1)),
		},
		Request{ID: "1", Batch: 1, Input: ramp(1), Outputs: []Output{embeddingBinary, logitJSON}},
	},
	{
		"MLServer's types: all fields, those without a value as null",
		message{
			`{"id":null,"parameters":{"content_type":null,"headers":null},"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","parameters":{"content_type":"np","headers":null},"data":` + flat(ramp(1)) + `}],"outputs":null}`, "",
		},
		Request{Batch: 1, Input: ramp(1), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"by hand: nested, in another order, laid out to be read",
		message{
			"\n{\n  \"outputs\" : [ ],\n  \"inputs\" : [ {\n\t\"data\" : " + strings.ReplaceAll(nested(ramp(2), 2, 3, 2, 2), ",", " ,\r\n ") + ",\n    \"shape\" : [ 2, 3, 2, 2 ],\n    \"n\\u0061me\" : \"inp\\u0075t\",\n    \"datatype\" : \"FP32\"\n  } ]\n}\n", "",
		},
		Request{Batch: 2, Input: ramp(2), Outputs: []Output{logitJSON, embeddingJSON}},
	},
	{
		"by hand: a list of pictures, each with its values in one list",
		message{
			`{"inputs":[{"name":"input","datatype":"FP32","shape":[2,3,2,2],"data":` + nested(ramp(2), 2, 12) + `}],"parameters":{"binary_data_output":true},"outputs":[{"name":"logit","parameters":{"binary_data":false}},{"name":"embedding"}]}`, "",
		},
		Request{Batch: 2, Input: ramp(2), Outputs: []Output{logitJSON, embeddingBinary}},
	},
	{
		"by hand: numbers in all their forms",
		message{
			`{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,2,2],"data":[0,-0,-0.0,1,-1.5,1e3,1E-3,2e+2,3.4028234e38,1e-400,0.1000000000000000055511151231257827,123456789]}]}`, "",
		},
		Request{
			Batch: 1, Outputs: []Output{logitJSON, embeddingJSON},
			Input: []float32{0, float32(math.Copysign(0, -1)), float32(math.Copysign(0, -1)), 1, -1.5, 1000, 0.001, 200, math.MaxFloat32, 0, 0.1, 123456789},
		},
	},
}

func TestRequestsOfCommonClientsAreUnderstood(t *testing.T) {
	var used Request // by all, as a server would
	for _, test := range goodRequests {
		t.Run(test.name, func(t *testing.T) {
			for name, r := range map[string]*Request{"a new one": {}, "one that was used before": &used} {
				if err := test.decode(r); err != nil {
					t.Fatalf("into %s: %v", name, err)
				}
				if diff := cmp.Diff(test.want, *r, cmp.Comparer(func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) })); diff != "" {
					t.Errorf("into %s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

func TestABodyMayBeTheTensorAlone(t *testing.T) {
	for n := 1; n <= small.MaxBatch; n++ {
		var r Request
		if err := r.Decode(small, "0", []byte(raw(ramp(n)))); err != nil {
			t.Fatal(err)
		}
		want := Request{Batch: n, Input: ramp(n), Outputs: []Output{logitBinary, embeddingBinary}}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("%d pictures (-want +got):\n%s", n, diff)
		}
	}
}

func TestNothingOfTheBodyIsKept(t *testing.T) {
	body := []byte(`{"id":"abc","inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"logit"}]}`)
	var r Request
	if err := r.Decode(small, "", body); err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'x'
	}
	if r.ID != "abc" || r.Outputs[0].Name != LogitName || !slices.Equal(r.Input, ramp(1)) {
		t.Errorf("after the body was overwritten: %+v", r)
	}
}

// request is a good request but for what replace changes in it: pairs of old and
// new text.
func request(replace ...string) message {
	text := `{"id":"1","parameters":{},"inputs":[{"name":"input","shape":[1,3,2,2],"datatype":"FP32","data":` + flat(ramp(1)) + `}],"outputs":[{"name":"logit","parameters":{}}]}`
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			panic("the request has no " + replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return message{json: text}
}

// binaryRequest is request with the input behind the JSON.
func binaryRequest(data string, replace ...string) message {
	return message{request(append([]string{`"data":` + flat(ramp(1)), `"parameters":{"binary_data_size":48}`}, replace...)...).json, data}
}

func TestRequestsThatDoNotFitAreRefusedWithWhatIsWanted(t *testing.T) {
	data := `"data":` + flat(ramp(1))
	nan := raw(append(ramp(1)[:11], float32(math.NaN())))
	for _, test := range []struct {
		name string
		message
		want string // the message, or a part of it
	}{
		{"no body", message{}, "the body is empty: want an inference request in JSON"},
		{"white space", message{json: " \n"}, "the JSON ends early, after 2 bytes: want an object"},
		{"a list", message{json: "[]"}, "the body is a list: want an object"},
		{"null", message{json: "null"}, "the body is null: want an object"},
		{"a form", message{json: "--boundary\r\n"}, `the JSON is broken at byte 0: want an object, found "--bounda"`},
		{"a byte order mark", message{json: "\ufeff{}"}, "the JSON is broken at byte 0: want an object"},
		{"nothing in it", message{json: "{}"}, `"inputs" is missing: want the tensor "input", FP32, [N,3,2,2] with N from 1 to 4`},
		{"cut off", message{json: request().json[:60]}, "the JSON ends early, after 60 bytes"},
		{"two requests", message{json: request().json + " {}"}, "want nothing behind the request, found \"{}\""},
		{"a comma too many", request(`"outputs":[`, `"outputs":[,`), "want an object, found"},
		{"no comma", request(`"id":"1",`, `"id":"1"`), "want a comma or }"},
		{"no colon", request(`"id":"1",`, `"id" "1",`), "want a colon"},
		{"a name without quotes", request(`"id"`, `id`), "want the name of a member"},
		{"a comment", request(`"id"`, `/* */ "id"`), "want the name of a member"},
		{"single quotes", request(`"1"`, `'1'`), "want a string, found"},
		{"not UTF-8", request(`"1"`, "\"\xff\""), "the JSON is broken in the string at byte 6: it is not UTF-8"},
		{"not UTF-8, with an escape", request(`"1"`, "\"\\n\xff\""), "the JSON is broken in the string at byte 6: it is not UTF-8"},
		{"half a surrogate pair", request(`"1"`, `"\ud800\u0041"`), "want an escape of JSON"},
		{"an unknown escape", request(`"1"`, `"\x41"`), "want an escape of JSON"},
		{"a bare line break in a string", request(`"1"`, "\"a\nb\""), "want control characters in strings as escapes"},
		{"a bare line break behind an escape", request(`"1"`, "\"\\t\n\""), "want control characters in strings as escapes"},
		{"a string without end", message{json: `{"id":"`}, "want the end of a string"},
		{"a string without end, with an escape", message{json: `{"id":"\n`}, "want the end of a string"},
		{"a wrong word", request(`"id":"1"`, `"x":nul`), "want a value"},
		{"too deep", request(`"id":"1"`, `"x":`+strings.Repeat("[", 65)+strings.Repeat("]", 65)), "the JSON is nested deeper than 64 levels"},
		{"far too deep", request(`"id":"1"`, `"x":`+strings.Repeat(`[{"a":`, 1<<20)), "the JSON is nested deeper than 64 levels"},

		{"an id that is a number", request(`"id":"1"`, `"id":1`), `"id" is a number: want a string`},
		{"the id twice", request(`"id":"1"`, `"id":"1","id":"2"`), `"id" is given twice`},
		{"parameters that are a list", request(`"parameters":{}`, `"parameters":[]`), `"parameters" is a list: want an object`},
		{"a form of outputs that is a number", request(`"parameters":{}`, `"parameters":{"binary_data_output":1}`), `the parameter "binary_data_output" is a number: want true or false`},
		{"a negative timeout", request(`"parameters":{}`, `"parameters":{"timeout":-1}`), `the parameter "timeout" is -1: want microseconds, 0 for no limit`},
		{"a timeout of half a microsecond", request(`"parameters":{}`, `"parameters":{"timeout":0.5}`), `the parameter "timeout" is 0.5: want a whole number`},
		{"a timeout out of range", request(`"parameters":{}`, `"parameters":{"timeout":9223372036854775808}`), `the parameter "timeout" is 9223372036854775808: that is out of range`},
		{"a timeout in words", request(`"parameters":{}`, `"parameters":{"timeout":"1s"}`), `the parameter "timeout" is a string: want a whole number`},

		{"inputs that are an object", request(`"inputs":[{`, `"inputs":{"x":[{`), `"inputs" is an object: want a list`},
		{"no inputs", message{json: `{"inputs":[]}`}, `"inputs" is missing`},
		{"inputs null", message{json: `{"inputs":null}`}, `"inputs" is missing`},
		{"inputs twice", request(`"outputs":`, `"inputs":[],"outputs":`), `"inputs" is given twice`},
		{"an input that is a string", message{json: `{"inputs":["input"]}`}, `an element of "inputs" is a string: want an object`},
		{"an input without a name", request(`"name":"input",`, ``), `inputs[0] has no "name": want "input"`},
		{"an unknown input", request(`"name":"input"`, `"name":"image"`), `there is no input "image": the model has one, "input", FP32, [N,3,2,2] with N from 1 to 4`},
		{"an unknown input of text", request(`"name":"input"`, `"name":"image"`, data, `"data":["a"]`), `there is no input "image"`},
		{"an unknown input beside the right one", request(`],"outputs"`, `,{"name":"mask","shape":[1],"datatype":"BOOL","data":[true]}],"outputs"`), `there is no input "mask"`},
		{"an input twice", request(`],"outputs"`, `,{"name":"input","shape":[1,3,2,2],"datatype":"FP32",`+data+`}],"outputs"`), `input "input" is given twice`},
		{"a name twice", request(`"name":"input"`, `"name":"input","name":"input"`), `the "name" of an input is given twice`},
		{"no datatype", request(`"datatype":"FP32",`, ``), `input "input" has no "datatype": want "FP32"`},
		{"another datatype", request(`"FP32"`, `"FP64"`), `input "input" has the datatype "FP64": want "FP32"`},
		{"a datatype in small letters", request(`"FP32"`, `"fp32"`), `input "input" has the datatype "fp32": want "FP32"`},
		{"text", request(`"FP32"`, `"BYTES"`, data, `"data":["a"]`), `input "input" has the datatype "BYTES": want "FP32"`},
		{"no shape", request(`"shape":[1,3,2,2],`, ``), `input "input" has no "shape": want [N,3,2,2] with N from 1 to 4`},
		{"an empty shape", request(`[1,3,2,2]`, `[]`), `the "shape" of an input is empty: want [N,3,2,2] with N from 1 to 4`},
		{"three dimensions", request(`[1,3,2,2]`, `[3,2,2]`), `input "input" has the shape [3,2,2]: want [N,3,2,2] with N from 1 to 4`},
		{"five dimensions", request(`[1,3,2,2]`, `[1,1,3,2,2]`), `input "input" has the shape [1,1,3,2,…] of 5 dimensions: want [N,3,2,2] with N from 1 to 4`},
		{"channels last", request(`[1,3,2,2]`, `[1,2,2,3]`), `input "input" has the shape [1,2,2,3]: want [N,3,2,2] with N from 1 to 4`},
		{"no pictures", request(`[1,3,2,2]`, `[0,3,2,2]`, data, `"data":[]`), `input "input" has 0 pictures: want 1 to 4 a request`},
		{"too many pictures", request(`[1,3,2,2]`, `[5,3,2,2]`), `input "input" has 5 pictures: want 1 to 4 a request`},
		{"a negative number of pictures", request(`[1,3,2,2]`, `[-1,3,2,2]`), `dimension 0 of the shape is -1: want [N,3,2,2] with N from 1 to 4`},
		{"more pictures than an integer holds", request(`[1,3,2,2]`, `[9223372036854775808,3,2,2]`), `a dimension of the shape is 9223372036854775808: that is out of range`},
		{"pictures whose number of values overflows", request(`[1,3,2,2]`, `[1537228672809129302,3,2,2]`), `input "input" has 1537228672809129302 pictures: want 1 to 4 a request`},
		{"half a picture", request(`[1,3,2,2]`, `[0.5,3,2,2]`), `a dimension of the shape is 0.5: want a whole number`},
		{"a dimension in words", request(`[1,3,2,2]`, `["1",3,2,2]`), `a dimension of the shape is a string: want a whole number`},
		{"a shape that is a number", request(`[1,3,2,2]`, `12`), `the "shape" of an input is a number: want a list`},
		{"shared memory", request(data, `"parameters":{"shared_memory_region":"r","shared_memory_byte_size":48}`), `the parameter "shared_memory_region" is not supported: send the values as "data" or as binary data`},

		{"no data", request(`,`+data, ``), `input "input" has no "data": want 12 numbers`},
		{"data null", request(data, `"data":null`), `input "input" has no "data": want 12 numbers`},
		{"data that is a number", request(data, `"data":1`), `the "data" of an input is a number: want a list of numbers`},
		{"data that is text", request(data, `"data":"AAAA"`), `the "data" of an input is a string: want a list of numbers`},
		{"data with text", request(`[0,`, `["0",`), `a value in the "data" of input "input" is a string: want a number`},
		{"data with null", request(`[0,`, `[null,`), `a value in the "data" of input "input" is null: want a number`},
		{"data with true", request(`[0,`, `[true,`), `a value in the "data" of input "input" is true or false: want a number`},
		{"data with NaN", request(`[0,`, `[NaN,`), `want a number, found "NaN,`},
		{"data with Infinity", request(`[0,`, `[-Infinity,`), `want a number, found "-Inf`},
		{"data with a number too large", request(`[0,`, `[1e400,`), `a value of input "input" is 1e400: that is more than FP32 can hold`},
		{"data with a number too large for FP32", request(`[0,`, `[-3.5e38,`), `a value of input "input" is -3.5e38: that is more than FP32 can hold`},
		{"data with a leading zero", request(`[0,`, `[01,`), `want a comma or ], found "1,`},
		{"data with a leading plus", request(`[0,`, `[+1,`), `want a number`},
		{"data with a bare point", request(`[0,`, `[1.,`), `want a digit behind the point`},
		{"data with a bare exponent", request(`[0,`, `[1e+,`), `want a digit of the exponent`},
		{"data with a hexadecimal number", request(`[0,`, `[0x10,`), `want a comma or ]`},
		{"one value too few", request(`,2.75]`, `]`), `the "data" of input "input" has a list at level 1 with 11 numbers: the shape wants 12`},
		{"one value too many", request(`,2.75]`, `,2.75,3]`), `the "data" of input "input" has a list at level 1 with more numbers: the shape wants 12`},
		{"no values", request(data, `"data":[]`), `the "data" of input "input" has a list at level 1 with 0 numbers: the shape wants 12`},
		{"values for one of three pictures", request(`[1,3,2,2]`, `[3,3,2,2]`), `the "data" of input "input" has a list at level 1 with 12 numbers: the shape wants 36`},
		{"no room for the values of the shape", request(`[1,3,2,2]`, `[4,3,2,2]`, data, `"data":[0,1]`), `the JSON ends before the 48 values that the shape of input "input" wants`},
		{"data twice", request(data, data+`,`+data), `the "data" of an input is given twice`},
		{"data without end", message{json: request().json[:130]}, `the JSON ends early`},
		{"nested with channels last", request(data, `"data":`+nested(ramp(1), 1, 2, 2, 3)), `the "data" of input "input" has a list at level 4 with more numbers: the shape wants 2`},
		{"nested with fewer rows", request(data, `"data":`+nested(ramp(1), 1, 2, 6)), `has a list at level 3 with more numbers: the shape wants 4`},
		{"nested, with a row too many", request(data, `"data":`+nested(append(ramp(1), 0, 0, 0, 0), 1, 4, 2, 2)), `the "data" of input "input" has a list at level 2 with more lists: the shape wants 3`},
		{"nested, with a value too many", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0.25", "0.25,9", 1)), `has a list at level 4 with more numbers: the shape wants 2`},
		{"nested, with a value too few", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0,0.25", "0.25", 1)), `has a list at level 4 with 1 numbers: the shape wants 2`},
		{"nested, with an empty row", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "0.5,0.75", "", 1)), `has a list at level 4 with 0 numbers: the shape wants 2`},
		{"nested, with no rows", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25],[1.5,1.75]", "", 1)), `has a list at level 3 with 0 lists: the shape wants 2`},
		{"nested, with a number for a row", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25]", "1", 1)), `has a number at level 4: want all lists of a level nested alike, as the shape has it`},
		{"nested, with a row for a number", request(data, `"data":`+strings.Replace(nested(ramp(1), 1, 3, 2, 2), "[1,1.25]", "[1,[1.25]]", 1)), `has a list at level 4: want all lists of a level nested alike, as the shape has it`},
		{"nested too deep", request(data, `"data":[`+nested(ramp(1), 1, 3, 2, 2)+`]`), `the "data" of input "input" is nested deeper than its 4 dimensions`},

		{"outputs that are a string", request(`"outputs":[{"name":"logit","parameters":{}}]`, `"outputs":"logit"`), `"outputs" is a string: want a list`},
		{"an output that is a string", request(`{"name":"logit","parameters":{}}`, `"logit"`), `an element of "outputs" is a string: want an object`},
		{"an output without a name", request(`"name":"logit",`, ``), `outputs[0] has no "name": the model has "logit" and "embedding"`},
		{"an unknown output", request(`"name":"logit"`, `"name":"probability"`), `there is no output "probability": the model has "logit" and "embedding"`},
		{"an output twice", request(`{"name":"logit","parameters":{}}`, `{"name":"logit"},{"name":"embedding"},{"name":"logit"}`), `output "logit" is asked for twice`},
		{"classification", request(`"logit","parameters":{}`, `"logit","parameters":{"classification":2}`), `the parameter "classification" is not supported: leave it out`},
		{"an output into shared memory", request(`"logit","parameters":{}`, `"logit","parameters":{"shared_memory_region":"r"}`), `the parameter "shared_memory_region" is not supported: leave it out`},
		{"an output's form as a string", request(`"logit","parameters":{}`, `"logit","parameters":{"binary_data":"true"}`), `the parameter "binary_data" is a string: want true or false`},

		{"binary data and a number", binaryRequest(nan), `input "input": value 11 is not a finite number`},
		{"binary data and infinity", binaryRequest(raw(append([]float32{float32(math.Inf(-1))}, ramp(1)[1:]...))), `input "input": value 0 is not a finite number`},
		{"binary data beside JSON data", binaryRequest(raw(ramp(1)), `"datatype"`, data+`,"datatype"`), `input "input" has both "data" and the parameter "binary_data_size": want one of them`},
		{"binary data that nobody wants", message{request().json, raw(ramp(1))}, `48 bytes are left over behind the JSON: input "input" has its "data" in it`},
		{"binary data of unknown size", binaryRequest(raw(ramp(1)), `"binary_data_size":48`, ``), `input "input" has no "data", and no parameter "binary_data_size" that tells how many of the 48 bytes behind the JSON are its`},
		{"binary data of size null", binaryRequest(raw(ramp(1)), `48`, `null`), `input "input" has no "data", and no parameter "binary_data_size"`},
		{"binary data of negative size", binaryRequest(raw(ramp(1)), `48`, `-48`), `the parameter "binary_data_size" is -48: want 48, 4 bytes for each of the 12 values`},
		{"binary data of a size that is no multiple", binaryRequest(raw(ramp(1)), `48`, `47`), `the parameter "binary_data_size" is 47: want 48`},
		{"binary data of another size", binaryRequest(raw(ramp(1)), `48`, `96`), `the parameter "binary_data_size" is 96: want 48`},
		{"binary data of a huge size", binaryRequest(raw(ramp(1)), `48`, `9223372036854775807`), `the parameter "binary_data_size" is 9223372036854775807: want 48`},
		{"binary data of a size out of range", binaryRequest(raw(ramp(1)), `48`, `1e30`), `the parameter "binary_data_size" is 1e30: want a whole number`},
		{"a list of sizes", binaryRequest(raw(ramp(1)), `48`, `"48,48"`), `the parameter "binary_data_size" is a string: want a whole number`},
		{"binary data cut off", binaryRequest(raw(ramp(1))[:44]), `the parameter "binary_data_size" is 48, but only 44 bytes follow the JSON`},
		{"binary data with more behind it", binaryRequest(raw(ramp(1)) + "abc"), `3 bytes are left over behind the 48 of input "input"`},
		{"binary data for more pictures than the shape has", binaryRequest(raw(ramp(2)), `48`, `96`), `the parameter "binary_data_size" is 96: want 48`},
		{"binary data promised and none sent", binaryRequest(""), `want the header Inference-Header-Content-Length as well, to tell where the JSON ends`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			refused(t, test.decode(&r), test.want)
		})
	}
}

// refused holds an error against what Decode promises of errors.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got the error %v, want one of the protocol: %s", err, want)
	}
	if refusal.Status != http.StatusBadRequest {
		t.Errorf("status %d, want 400", refusal.Status)
	}
	if !strings.Contains(refusal.Message, want) || strings.ContainsAny(refusal.Message, "\n\r") || len(refusal.Message) > 400 {
		t.Errorf("got:  %s\nwant: %s", refusal.Message, want)
	}
}

func TestTheLengthOfTheJSONMustBeRight(t *testing.T) {
	m := binaryRequest(raw(ramp(1)))
	body := []byte(m.json + m.binary)
	for _, test := range []struct{ header, want string }{
		{"-1", `the header Inference-Header-Content-Length is "-1": want the length of the JSON in bytes, as digits`},
		{"+5", "as digits"},
		{" 5", "as digits"},
		{"0x10", "as digits"},
		{"1e2", "as digits"},
		{"many", "as digits"},
		{strconv.Itoa(len(body) + 1), fmt.Sprintf("is %d, but the body has only %d bytes", len(body)+1, len(body))},
		{"99999999999999999999", fmt.Sprintf("is 99999999999999999999, but the body has only %d bytes", len(body))},
		{strconv.Itoa(len(m.json) - 1), "the JSON ends early"},
		{strconv.Itoa(len(m.json) + 1), "want nothing behind the request"},
		{"0", fmt.Sprintf(`is 0, so the body is the tensor "input" alone, but it has %d bytes: want 48 for each of 1 to 4 pictures`, len(body))},
	} {
		t.Run(test.header, func(t *testing.T) {
			var r Request
			refused(t, r.Decode(small, test.header, body), test.want)
		})
	}
}

func TestATensorAloneMustBeWholePicturesOfFiniteNumbers(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"nothing", "", "but it has 0 bytes: want 48 for each of 1 to 4 pictures"},
		{"a byte less", raw(ramp(1))[:47], "but it has 47 bytes"},
		{"a byte more", raw(ramp(1)) + "x", "but it has 49 bytes"},
		{"five pictures", raw(ramp(5)), "but it has 240 bytes"},
		{"NaN", raw(append([]float32{float32(math.NaN())}, ramp(1)[1:]...)), "value 0 is not a finite number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			refused(t, r.Decode(small, "0", []byte(test.body)), test.want)
		})
	}
}

func TestALongTimeoutIsNoOverflow(t *testing.T) {
	var r Request
	if err := request(`"parameters":{}`, `"parameters":{"timeout":9223372036854775807}`).decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Timeout < 290*365*24*time.Hour {
		t.Errorf("timeout %s, want some 292 years", r.Timeout)
	}
}

// answer is what the model of the tests says: embeddings of 3 values.
func answer(n int) Result {
	a := Result{ModelName: "fakeart", ModelVersion: "7"}
	for i := range n {
		a.Logit = append(a.Logit, float32(i)-3.5)
		a.Embedding = append(a.Embedding, float32(i), 1e-7, 16777216)
	}
	return a
}

func TestAnswersAreWrittenAsAskedFor(t *testing.T) {
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
			"one of each, in the other order",
			Request{ID: "1", Batch: 2, Outputs: []Output{embeddingBinary, logitJSON}},
			message{
				`{"id":"1","model_name":"fakeart","model_version":"7","outputs":[{"name":"embedding","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}},{"name":"logit","datatype":"FP32","shape":[2,1],"data":[-3.5,-2.5]}]}`,
				raw([]float32{0, 1e-7, 16777216, 1, 1e-7, 16777216}),
			},
		},
		{
			"only the logit, and no embedding given",
			Request{Batch: 1, Outputs: []Output{logitJSON}},
			message{`{"model_name":"fakeart","model_version":"7","outputs":[{"name":"logit","datatype":"FP32","shape":[1,1],"data":[-3.5]}]}`, ""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := answer(test.request.Batch)
			if !test.request.HasOutput(EmbeddingName) {
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
				t.Errorf("length of the JSON %d, want %d", length, want)
			}
		})
	}
}

func TestAVersionThatIsNotThereIsLeftOut(t *testing.T) {
	r := Request{Batch: 1, Outputs: []Output{logitJSON}}
	body, _, err := r.AppendResponse(nil, Result{ModelName: "m", Logit: []float32{1}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"model_name":"m","outputs":[{"name":"logit","datatype":"FP32","shape":[1,1],"data":[1.0]}]}`; string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

func TestAnAnswerThatIsNotFiniteIsAnError(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, o := range []Output{embeddingJSON, embeddingBinary} {
			r := Request{Batch: 2, Outputs: []Output{logitJSON, o}}
			a := answer(2)
			a.Embedding[4] = float32(v)
			body, _, err := r.AppendResponse([]byte("before"), a)
			refused(t, err, `the model's "embedding" for picture 1 is not a finite number`)
			if string(body) != "before" {
				t.Errorf("%v: the body is %q", v, body)
			}
		}
	}
}

func TestAnAnswerForAnotherNumberOfPicturesPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r := Request{Batch: 2, Outputs: []Output{logitJSON}}
	_, _, _ = r.AppendResponse(nil, answer(1))
}

func TestFloatsKeepEveryBit(t *testing.T) {
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
			t.Fatalf("%08x is written as %s", b, text)
		}
		r := reader{data: text}
		if got, err := r.float(); err != nil || math.Float32bits(got) != b {
			t.Fatalf("%08x is written as %s and read as %08x (%v)", b, text, math.Float32bits(got), err)
		}
	}
}

func TestDecimalsAreRoundedToTheNearestFloat(t *testing.T) {
	check := func(text string) {
		t.Helper()
		want, err := strconv.ParseFloat(text, 32)
		if err != nil {
			t.Fatal(err)
		}
		r := reader{data: []byte(text)}
		if got, err := r.float(); err != nil || !sameBits(got, float32(want)) {
			t.Fatalf("%s is read as %x, want %x (%v)", text, got, want, err)
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
		// At and around the middle between two floats, where it is close.
		f := rng.Float32() * float32(math.Pow(2, float64(rng.IntN(40)-20)))
		middle := (float64(f) + float64(math.Nextafter32(f, 2*f))) / 2
		for _, v := range []float64{middle, math.Nextafter(middle, 0), math.Nextafter(middle, 2*middle)} {
			check(strconv.FormatFloat(v, 'f', -1, 64))
			check(strconv.FormatFloat(v, 'f', 5+rng.IntN(14), 64))
		}
	}
}

func TestErrorsAreTheProtocolsObject(t *testing.T) {
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

func TestDocumentsHaveTheNamesOfTheProtocol(t *testing.T) {
	for _, test := range []struct {
		document any
		want     string
	}{
		{ServerMetadata{"fakeart", "1.0.0", Extensions()}, `{"name":"fakeart","version":"1.0.0","extensions":["binary_tensor_data"]}`},
		{
			Shape{3, 32, 8}.Metadata("fakeart", 128, "1", "2"),
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

// The types that document requests and answers are not those that read and write
// them; here they meet.
func TestDocumentedTypesAreWhatIsReadAndWritten(t *testing.T) {
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
	want := Request{ID: "1", Batch: 1, Input: ramp(1), Outputs: []Output{logitBinary, embeddingJSON}, Timeout: 5 * time.Microsecond}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	body, length, err := r.AppendResponse(nil, answer(1))
	if err != nil {
		t.Fatal(err)
	}
	var got InferResponse
	read := json.NewDecoder(bytes.NewReader(body[:length]))
	read.DisallowUnknownFields()
	if err := read.Decode(&got); err != nil {
		t.Fatal(err)
	}
	wantAnswer := InferResponse{ID: "1", ModelName: "fakeart", ModelVersion: "7", Outputs: []ResponseOutput{
		{Name: LogitName, Datatype: Datatype, Shape: []int{1, 1}, Parameters: &OutputParameters{4}},
		{Name: EmbeddingName, Datatype: Datatype, Shape: []int{1, 3}, Data: []float32{0, 1e-7, 16777216}},
	}}
	if diff := cmp.Diff(wantAnswer, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestAWarmRequestIsDecodedAndAnsweredWithoutAllocating(t *testing.T) {
	for _, test := range goodRequests[:2] {
		var r Request
		body := []byte(test.json + test.binary)
		header := test.header()
		a := answer(test.want.Batch)
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
			t.Errorf("%s: %.0f allocations", test.name, n)
		}
	}
}
