package oip

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"testing"
)

// FuzzJSON tests Decode with bodies that are all JSON.
func FuzzJSON(f *testing.F) {
	for _, r := range goodRequests {
		f.Add([]byte(r.json))
	}
	f.Add([]byte(request().json))
	f.Fuzz(func(t *testing.T, body []byte) { checkDecode(t, "", body) })
}

// FuzzBinary tests Decode with bodies that have binary data after the JSON, or no JSON.
func FuzzBinary(f *testing.F) {
	for _, r := range goodRequests {
		f.Add(r.header(), []byte(r.json+r.binary))
	}
	f.Add("0", []byte(raw(ramp(1))))
	f.Add("0", []byte(raw([]float32{float32(math.NaN())})))
	f.Fuzz(checkDecode)
}

// checkDecode decodes arbitrary bytes. If they are accepted, it compares the request with
// encoding/json, and encodes and decodes it again.
func checkDecode(t *testing.T, header string, body []byte) {
	var r Request
	err := r.Decode(small, header, body)
	// A number takes two bytes in JSON and four in binary form.
	if 4*cap(r.Input.Float32) > 2*len(body) {
		t.Errorf("allocated %d values for a body of %d bytes", cap(r.Input.Float32), len(body))
	}
	if err != nil {
		refusal, ok := errors.AsType[*Error](err)
		if !ok || refusal.Status != 400 || refusal.Message == "" || len(refusal.Message) > 1000 {
			t.Fatalf("error %#v, want an *Error with status 400", err)
		}
		checkErrorObject(t, refusal.Message)
		return
	}
	if r.Batch < 1 || r.Batch > small.MaxBatch || len(r.Input.Float32) != r.Batch*small.imageSize() || r.Timeout < 0 {
		t.Fatalf("batch %d, %d values, timeout %s", r.Batch, len(r.Input.Float32), r.Timeout)
	}
	if slices.ContainsFunc(r.Input.Float32, func(v float32) bool { return !finite(v) }) {
		t.Fatalf("input has NaN or infinite values: %v", r.Input.Float32)
	}
	if n := len(r.Outputs); n < 1 || n > 2 || n == 2 && r.Outputs[0].Name == r.Outputs[1].Name {
		t.Fatalf("outputs %v", r.Outputs)
	}
	length := len(body)
	if header != "" {
		if length, err = strconv.Atoi(header); err != nil || length > len(body) {
			t.Fatalf("the header %q was accepted", header)
		}
	}
	if length > 0 { // otherwise the body is the raw tensor
		checkOracle(t, &r, body[:length])
	}
	checkResponse(t, &r)
	for _, binary := range []bool{false, true} {
		m := encode(t, &r, binary)
		var again Request
		if err := again.Decode(small, m.header(), []byte(m.json+m.binary)); err != nil {
			t.Fatalf("decode the encoded request: %v\n%s", err, m.json)
		}
		if again.ID != r.ID || again.Batch != r.Batch || !slices.EqualFunc(again.Input.Float32, r.Input.Float32, sameBits) || !slices.Equal(again.Outputs, r.Outputs) {
			t.Fatalf("encoded and decoded again:\n%+v, want\n%+v", again, r)
		}
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

func checkErrorObject(t *testing.T, message string) {
	t.Helper()
	var e ErrorObject
	if err := json.Unmarshal(AppendError(nil, message), &e); err != nil || e.Error == "" {
		t.Fatalf("AppendError(%q): %v", message, err)
	}
}

// checkOracle decodes the JSON of an accepted request with encoding/json, and compares name, values
// and shape.
func checkOracle(t *testing.T, r *Request, text []byte) {
	t.Helper()
	read := json.NewDecoder(bytes.NewReader(text))
	read.UseNumber()
	var m map[string]any
	if err := read.Decode(&m); err != nil || !json.Valid(text) {
		t.Fatalf("accepted, but encoding/json returns: %v", err)
	}
	if id, _ := m["id"].(string); id != r.ID {
		t.Fatalf("id %q, want %q", id, r.ID)
	}
	input := m["inputs"].([]any)[0].(map[string]any)
	if input["name"] != InputName || input["datatype"] != Datatype {
		t.Fatalf("accepted the input %v", input)
	}
	if n := input["shape"].([]any)[0].(json.Number).String(); n != strconv.Itoa(r.Batch) {
		t.Fatalf("batch %d for the shape %v", r.Batch, input["shape"])
	}
	data, ok := input["data"].([]any)
	if !ok {
		return
	}
	var values []float32
	var flatten func(any)
	flatten = func(v any) {
		if list, ok := v.([]any); ok {
			for _, e := range list {
				flatten(e)
			}
			return
		}
		f, err := strconv.ParseFloat(v.(json.Number).String(), 32)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, float32(f))
	}
	flatten(data)
	if !slices.EqualFunc(values, r.Input.Float32, sameBits) {
		t.Fatalf("read %v, want %v", r.Input.Float32, values)
	}
}

// checkResponse writes a response with the request's own values as outputs, and parses it.
func checkResponse(t *testing.T, r *Request) {
	t.Helper()
	a := Result{ModelName: "m", Scores: r.Input.Float32[:r.Batch], Embedding: r.Input.Float32}
	body, length, err := r.AppendResponse(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	text, rest := body, []byte(nil)
	if length > 0 {
		text, rest = body[:length], body[length:]
	}
	var got InferResponse
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got.ID != r.ID || len(got.Outputs) != len(r.Outputs) {
		t.Fatalf("response %+v to request %+v", got, r)
	}
	for i, o := range got.Outputs {
		want := a.values(r.Outputs[i], r.Batch)
		values := o.Data
		if o.Parameters != nil {
			values = make([]float32, o.Parameters.BinaryDataSize/floatSize)
			copyFloats(values, rest)
			rest = rest[o.Parameters.BinaryDataSize:]
		}
		if o.Name != r.Outputs[i].Name || (o.Parameters != nil) != r.Outputs[i].Binary || !slices.EqualFunc(values, want, sameBits) ||
			!slices.Equal(o.Shape, []int{r.Batch, len(want) / r.Batch}) {
			t.Fatalf("output %+v for %+v", o, r.Outputs[i])
		}
	}
	if len(rest) > 0 {
		t.Fatalf("%d unexpected bytes at the end", len(rest))
	}
}

// encode returns the request as a client would send it.
func encode(t *testing.T, r *Request, binary bool) message {
	t.Helper()
	input := InferInput{Name: InputName, Shape: []int{r.Batch, 3, 2, 2}, Datatype: Datatype, Data: r.Input.Float32}
	m := message{}
	if binary {
		m.binary = raw(r.Input.Float32)
		input.Data, input.Parameters = nil, map[string]any{"binary_data_size": len(m.binary)}
	}
	request := InferRequest{ID: r.ID, Inputs: []InferInput{input}}
	for _, o := range r.Outputs {
		request.Outputs = append(request.Outputs, InferOutput{Name: o.Name, Parameters: map[string]any{"binary_data": o.Binary}})
	}
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	m.json = string(text)
	return m
}
