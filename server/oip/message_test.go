package oip

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"fakeart/server/oip/oippb"
)

// grpcRequest returns a request with typed contents for n images of the small shape.
func grpcRequest(n int, changes ...func(m *oippb.ModelInferRequest)) *oippb.ModelInferRequest {
	m := &oippb.ModelInferRequest{
		ModelName: "m", Id: "7",
		Inputs: []*oippb.ModelInferRequest_InferInputTensor{{
			Name: InputName, Datatype: Datatype, Shape: []int64{int64(n), 3, 2, 2}, Contents: &oippb.InferTensorContents{Fp32Contents: ramp(n)},
		}},
	}
	for _, change := range changes {
		change(m)
	}
	return m
}

// withRaw replaces typed contents by raw ones.
func withRaw(m *oippb.ModelInferRequest) {
	m.RawInputContents = [][]byte{[]byte(raw(m.GetInputs()[0].GetContents().GetFp32Contents()))}
	m.Inputs[0].Contents = nil
}

func withOutputs(names ...string) func(m *oippb.ModelInferRequest) {
	return func(m *oippb.ModelInferRequest) {
		for _, name := range names {
			m.Outputs = append(m.Outputs, &oippb.ModelInferRequest_InferRequestedOutputTensor{Name: name})
		}
	}
}

func withTimeout(p *oippb.InferParameter) func(m *oippb.ModelInferRequest) {
	return func(m *oippb.ModelInferRequest) { m.Parameters = map[string]*oippb.InferParameter{"timeout": p} }
}

func integer(us int64) *oippb.InferParameter {
	return &oippb.InferParameter{ParameterChoice: &oippb.InferParameter_Int64Param{Int64Param: us}}
}

func TestDecodeMessage(t *testing.T) {
	var r Request // reused
	for _, test := range []struct {
		name    string
		message *oippb.ModelInferRequest
		batch   int
		outputs []Output
		timeout time.Duration
	}{
		{"typed", grpcRequest(2), 2, []Output{{LogitName, false, false}, {EmbeddingName, true, false}}, 0},
		{"raw", grpcRequest(4, withRaw), 4, []Output{{LogitName, false, true}, {EmbeddingName, true, true}}, 0},
		{"outputs", grpcRequest(1, withRaw, withOutputs(EmbeddingName)), 1, []Output{{EmbeddingName, true, true}}, 0},
		{"timeout", grpcRequest(1, withTimeout(integer(1500))), 1, []Output{{LogitName, false, false}, {EmbeddingName, true, false}}, 1500 * time.Microsecond},
		{"unsigned_timeout", grpcRequest(1, withTimeout(&oippb.InferParameter{
			ParameterChoice: &oippb.InferParameter_Uint64Param{Uint64Param: math.MaxUint64},
		})), 1, []Output{{LogitName, false, false}, {EmbeddingName, true, false}}, math.MaxInt64 / time.Microsecond * time.Microsecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := r.DecodeMessage(small, test.message); err != nil {
				t.Fatal(err)
			}
			if r.ID != "7" || r.Batch != test.batch || !slices.Equal(r.Input.Float32, ramp(test.batch)) || !slices.Equal(r.Outputs, test.outputs) || r.Timeout != test.timeout {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestDecodeMessage_Invalid(t *testing.T) {
	in := func(change func(in *oippb.ModelInferRequest_InferInputTensor)) *oippb.ModelInferRequest {
		return grpcRequest(1, func(m *oippb.ModelInferRequest) { change(m.GetInputs()[0]) })
	}
	text := map[string]*oippb.InferParameter{"shared_memory_region": {}}
	for _, test := range []struct {
		name    string
		message *oippb.ModelInferRequest
		want    string
	}{
		{"no_inputs", &oippb.ModelInferRequest{}, `"inputs" is missing`},
		{"no_name", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Name = "" }), `has no "name"`},
		{"datatype", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Datatype = "BYTES" }), "BYTES"},
		{"no_datatype", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Datatype = "" }), `has no "datatype"`},
		{"shape", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Shape = []int64{1, 2, 2, 3} }), "[1,2,2,3]"},
		{"too_many_images", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Shape[0] = math.MaxInt64 }), "expected 1 to 4"},
		{"twice", grpcRequest(1, func(m *oippb.ModelInferRequest) { m.Inputs = append(m.Inputs, m.Inputs[0]) }), "appears twice"},
		{"shared_memory", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Parameters = text }), "shared_memory_region"},
		{"few_values", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Contents.Fp32Contents = ramp(1)[1:] }), "has 11 values: expected 12"},
		{"no_values", in(func(in *oippb.ModelInferRequest_InferInputTensor) { in.Contents = nil }), "has 0 values"},
		{"not_finite", in(func(in *oippb.ModelInferRequest_InferInputTensor) {
			in.Contents.Fp32Contents[3] = float32(math.Inf(1))
		}), "value 3 is NaN or infinite"},
		{"raw_not_finite", grpcRequest(1, withRaw, func(m *oippb.ModelInferRequest) {
			binary.LittleEndian.PutUint32(m.RawInputContents[0][8:], math.Float32bits(float32(math.NaN())))
		}), "value 2 is NaN or infinite"},
		{"raw_size", grpcRequest(1, withRaw, func(m *oippb.ModelInferRequest) { m.RawInputContents[0] = m.RawInputContents[0][1:] }), "has 47 bytes: expected 48"},
		{"raw_twice", grpcRequest(1, withRaw, func(m *oippb.ModelInferRequest) { m.RawInputContents = append(m.RawInputContents, nil) }), "has 2 elements"},
		{"raw_and_typed", grpcRequest(1, func(m *oippb.ModelInferRequest) { m.RawInputContents = [][]byte{nil} }), "has both"},
		{"unknown_output", grpcRequest(1, withOutputs("label")), "label"},
		{"no_output_name", grpcRequest(1, withOutputs("")), `outputs[0] has no "name"`},
		{"output_twice", grpcRequest(1, withOutputs(LogitName, LogitName)), "twice"},
		{"classification", grpcRequest(1, withOutputs(LogitName), func(m *oippb.ModelInferRequest) {
			m.Outputs[0].Parameters = map[string]*oippb.InferParameter{"classification": integer(1)}
		}), "classification"},
		{"negative_timeout", grpcRequest(1, withTimeout(integer(-1))), "is -1"},
		{"timeout_type", grpcRequest(1, withTimeout(&oippb.InferParameter{ParameterChoice: &oippb.InferParameter_BoolParam{}})), "isn't an integer"},
	} {
		t.Run(test.name, func(t *testing.T) { checkError(t, new(Request).DecodeMessage(small, test.message), test.want) })
	}
}

func TestResponseMessage(t *testing.T) {
	a := result(2)
	for _, test := range []struct {
		name    string
		message *oippb.ModelInferRequest
	}{{"typed", grpcRequest(2)}, {"raw", grpcRequest(2, withRaw)}} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			if err := r.DecodeMessage(small, test.message); err != nil {
				t.Fatal(err)
			}
			m, err := r.ResponseMessage(a)
			if err != nil {
				t.Fatal(err)
			}
			if m.GetModelName() != a.ModelName || m.GetModelVersion() != a.ModelVersion || m.GetId() != "7" || len(m.GetOutputs()) != 2 {
				t.Errorf("response %v", m)
			}
			for i, values := range [][]float32{a.Scores, a.Embedding} {
				out := m.GetOutputs()[i]
				if !slices.Equal(out.GetShape(), []int64{2, int64(len(values) / 2)}) || out.GetDatatype() != Datatype {
					t.Errorf("output %v", out)
				}
				if test.name == "typed" && !slices.Equal(out.GetContents().GetFp32Contents(), values) || test.name == "raw" && string(m.GetRawOutputContents()[i]) != raw(values) {
					t.Errorf("output %d isn't %v: %v", i, values, m)
				}
			}
			broken := result(2)
			broken.Scores[1] = float32(math.NaN())
			_, err = r.ResponseMessage(broken)
			checkError(t, err, `output "logit" for image 1`)
		})
	}
}

// Message panics if a document and its message have different fields.
func TestMessage(t *testing.T) {
	Message(new(oippb.ServerMetadataResponse), ServerMetadata{Name: "n", Version: "v", Extensions: Extensions()})
	metadata := Message(new(oippb.ModelMetadataResponse), small.Metadata("n", "v"))
	if !slices.Equal(metadata.GetInputs()[0].GetShape(), []int64{-1, 3, 2, 2}) || !slices.Equal(metadata.GetVersions(), []string{"v"}) {
		t.Errorf("metadata %v", metadata)
	}
	config := Message(new(oippb.ModelConfig), small.Config("n", 2, 8))
	if config.GetMaxBatchSize() != 4 || config.GetInput()[0].GetDataType() != oippb.DataType_TYPE_FP32 || config.GetInstanceGroup()[0].GetCount() != 2 ||
		!slices.Equal(config.GetDynamicBatching().GetPreferredBatchSize(), []int32{8}) || config.GetVersionPolicy().GetLatest().GetNumVersions() != 1 {
		t.Errorf("config %v", config)
	}
	one := StatisticDuration{Count: 1, Nanoseconds: math.MaxInt64}
	one.Add(StatisticDuration{Count: 2})
	statistics := Message(new(oippb.ModelStatisticsResponse), Statistics{[]ModelStatistics{{
		Name: "n", InferenceStats: InferStatistics{one, one, one, one, one, one}, BatchStats: []BatchStatistics{{8, one, one, one}},
	}}})
	if d := statistics.GetModelStats()[0].GetBatchStats()[0].GetComputeOutput(); d.GetCount() != 3 || d.GetNs() != math.MaxInt64 {
		t.Errorf("statistics %v", statistics)
	}
}

// FuzzMessage tests DecodeMessage with any message.
func FuzzMessage(f *testing.F) {
	for _, m := range []*oippb.ModelInferRequest{grpcRequest(1), grpcRequest(2, withRaw, withOutputs(LogitName), withTimeout(integer(1))), {}} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m oippb.ModelInferRequest
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		var r Request
		if err := r.DecodeMessage(small, &m); err != nil {
			refusal, ok := errors.AsType[*Error](err)
			if !ok || refusal.Status != 400 || refusal.Message == "" || len(refusal.Message) > 1000 {
				t.Fatalf("error %#v, want an *Error with status 400", err)
			}
			return
		}
		if r.Batch < 1 || r.Batch > small.MaxBatch || len(r.Input.Float32) != r.Batch*small.imageSize() || r.Timeout < 0 || len(r.Outputs) == 0 {
			t.Fatalf("request %+v", r)
		}
		if slices.ContainsFunc(r.Input.Float32, func(v float32) bool { return !finite(v) }) {
			t.Fatalf("input has NaN or infinite values: %v", r.Input.Float32)
		}
	})
}
