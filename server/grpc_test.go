package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	health "google.golang.org/grpc/health/grpc_health_v1"
	grpcmetadata "google.golang.org/grpc/metadata"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"fakeart/server/oip/oippb"
)

// withGRPC makes start listen for gRPC on a free port.
func withGRPC(c *Config) { c.GRPCAddr = "127.0.0.1:0" }

func grpcAddr(m *Main) string { return m.endpoints[len(m.endpoints)-1].listener.Addr().String() }

// dialGRPC returns a connection of grpc-go's client.
func dialGRPC(t *testing.T, m *Main) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(grpcAddr(m), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call invokes a method of the inference service.
func call[Out any](ctx context.Context, conn *grpc.ClientConn, method string, in any, options ...grpc.CallOption) (*Out, error) {
	out := new(Out)
	return out, conn.Invoke(ctx, "/inference.GRPCInferenceService/"+method, in, out, options...)
}

func mustCall[Out any](t *testing.T, conn *grpc.ClientConn, method string, in any, options ...grpc.CallOption) *Out {
	t.Helper()
	out, err := call[Out](t.Context(), conn, method, in, options...)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return out
}

// reds returns the values of images whose red planes have the given levels.
func reds(levels ...float32) (values []float32) {
	for _, level := range levels {
		values = append(values, slices.Repeat([]float32{level}, 32*32)...)
		values = append(values, make([]float32, 2*32*32)...)
	}
	return values
}

func rawOf(values []float32) (raw []byte) {
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return raw
}

// inferRequest returns a request with typed contents for images of the given red levels.
func inferRequest(levels ...float32) *oippb.ModelInferRequest {
	return &oippb.ModelInferRequest{
		ModelName: "fakeart", Id: "7",
		Inputs: []*oippb.ModelInferRequest_InferInputTensor{{
			Name: "input", Datatype: "FP32", Shape: []int64{int64(len(levels)), 3, 32, 32},
			Contents: &oippb.InferTensorContents{Fp32Contents: reds(levels...)},
		}},
	}
}

// rawRequest returns the same request with raw contents.
func rawRequest(levels ...float32) *oippb.ModelInferRequest {
	r := inferRequest(levels...)
	r.Inputs[0].Contents = nil
	r.RawInputContents = [][]byte{rawOf(reds(levels...))}
	return r
}

func TestGRPC_Infer(t *testing.T) {
	m := start(t, withGRPC)
	conn := dialGRPC(t, m)
	logits := []float32{-4, 0, 4}
	check := func(t *testing.T, r *oippb.ModelInferResponse, outputs ...string) {
		t.Helper()
		if r.GetModelName() != "fakeart" || r.GetModelVersion() != inUse(m) || r.GetId() != "7" || len(r.GetOutputs()) != len(outputs) {
			t.Fatalf("response %v", r)
		}
		for i, o := range r.GetOutputs() {
			width := map[string]int64{"logit": 1, "embedding": 3}[o.GetName()]
			if o.GetName() != outputs[i] || o.GetDatatype() != "FP32" || !slices.Equal(o.GetShape(), []int64{3, width}) {
				t.Errorf("output %v, want %s", o, outputs[i])
			}
		}
	}
	t.Run("typed", func(t *testing.T) {
		r := mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", inferRequest(0, 0.5, 1))
		check(t, r, "logit", "embedding")
		got := r.GetOutputs()[0].GetContents().GetFp32Contents()
		if len(got) != 3 || !near(got, logits) || len(r.GetRawOutputContents()) != 0 || len(r.GetOutputs()[1].GetContents().GetFp32Contents()) != 9 {
			t.Errorf("logits %v in %v", got, r)
		}
	})
	t.Run("raw", func(t *testing.T) {
		in := rawRequest(0, 0.5, 1)
		in.ModelVersion = inUse(m)
		in.Outputs = []*oippb.ModelInferRequest_InferRequestedOutputTensor{{Name: "embedding"}, {Name: "logit"}}
		r := mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", in)
		check(t, r, "embedding", "logit")
		raw := r.GetRawOutputContents()
		if len(raw) != 2 || len(raw[0]) != 4*9 || len(raw[1]) != 4*3 || r.GetOutputs()[0].GetContents() != nil {
			t.Fatalf("response %v", r)
		}
		var got []float32
		for i := range 3 {
			got = append(got, math.Float32frombits(binary.LittleEndian.Uint32(raw[1][4*i:])))
		}
		if !near(got, logits) {
			t.Errorf("logits %v", got)
		}
	})
	t.Run("gzip", func(t *testing.T) {
		check(t, mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", rawRequest(0, 0.5, 1), grpc.UseCompressor(gzip.Name)), "logit", "embedding")
	})
	t.Run("stream", func(t *testing.T) {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, modelStreamInfer)
		if err != nil {
			t.Fatal(err)
		}
		wrong := rawRequest(1)
		wrong.ModelName = "other"
		for _, in := range []*oippb.ModelInferRequest{rawRequest(0, 0.5, 1), wrong, inferRequest(0, 0.5, 1)} {
			if err := stream.SendMsg(in); err != nil {
				t.Fatal(err)
			}
			var out oippb.ModelStreamInferResponse
			if err := stream.RecvMsg(&out); err != nil {
				t.Fatal(err)
			}
			if in == wrong {
				if !strings.Contains(out.GetErrorMessage(), "other") || out.GetInferResponse().GetId() != "7" {
					t.Errorf("response %v", &out)
				}
				continue
			}
			check(t, out.GetInferResponse(), "logit", "embedding")
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(oippb.ModelStreamInferResponse)); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
	// Metrics, statistics and the log count gRPC like HTTP.
	const infer, stream = "/inference.GRPCInferenceService/ModelInfer", modelStreamInfer
	for series, want := range map[string]float64{
		`fakeart_requests_total{code="200",method="POST",route="` + infer + `"}`:                3,
		`fakeart_request_duration_seconds_count{method="POST",route="` + infer + `",size=""}`:   3,
		`fakeart_request_receive_duration_seconds_count{method="POST",route="` + infer + `"}`:   3,
		`fakeart_request_duration_seconds_count{method="POST",route="` + stream + `",size=""}`:  3,
		`fakeart_requests_total{code="200",method="POST",route="` + stream + `"}`:               2,
		`fakeart_requests_total{code="404",method="POST",route="` + stream + `"}`:               1,
		`fakeart_predictions_total{label="FAKE",model="` + inUse(m) + `",model_name="fakeart"}`: 5,
		`fakeart_predictions_total{label="REAL",model="` + inUse(m) + `",model_name="fakeart"}`: 10,
	} {
		waitFor(t, series, func() bool { return metric(t, m, series) == want })
	}
	if s := m.models.Default().Current().Statistics(); s.InferenceCount != 15 || s.InferenceStats.Success.Count != 5 {
		t.Errorf("statistics %+v", s)
	}
	waitForRecords(t, m, 15)
}

func near(got, want []float32) bool {
	return slices.EqualFunc(got, want, func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-4 })
}

func TestGRPC_Record(t *testing.T) {
	m := start(t, withGRPC)
	conn := dialGRPC(t, m)
	ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "x-request-id", "mine", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	var header grpcmetadata.MD
	if _, err := call[oippb.ModelInferResponse](ctx, conn, "ModelInfer", rawRequest(1), grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("x-request-id"); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("x-request-id %q", got)
	}
	waitForRecords(t, m, 1)
	r := logPage(t, m, "").Records[0]
	if r.RequestID != "mine" || r.TraceID != "0af7651916cd43dd8448eb211c80319c" || r.ImageFormat != tensorFormat || r.Label != "FAKE" {
		t.Errorf("record %+v", r)
	}
}

// The messages that describe server and model have the same content as the documents of the HTTP API.
func TestGRPC_Documents(t *testing.T) {
	m := start(t, withGRPC)
	conn := dialGRPC(t, m)
	for _, test := range []struct {
		method, httpMethod, path string
		in, out                  proto.Message
		member                   string // of the message that is the document
	}{
		{"ServerMetadata", "GET", "/v2", &oippb.ServerMetadataRequest{}, &oippb.ServerMetadataResponse{}, ""},
		{"ModelMetadata", "GET", "/v2/models/fakeart", &oippb.ModelMetadataRequest{Name: "fakeart"}, &oippb.ModelMetadataResponse{}, ""},
		{"ModelMetadata", "GET", "/v2/models/fakeart", &oippb.ModelMetadataRequest{Name: "fakeart", Version: inUse(m)}, &oippb.ModelMetadataResponse{}, ""},
		{"ModelConfig", "GET", "/v2/models/fakeart/config", &oippb.ModelConfigRequest{Name: "fakeart"}, &oippb.ModelConfigResponse{}, "config"},
		{"ModelStatistics", "GET", "/v2/models/stats", &oippb.ModelStatisticsRequest{}, &oippb.ModelStatisticsResponse{}, ""},
		{"ModelStatistics", "GET", "/v2/models/fakeart/stats", &oippb.ModelStatisticsRequest{Name: "fakeart"}, &oippb.ModelStatisticsResponse{}, ""},
		{"RepositoryIndex", "POST", "/v2/repository/index", &oippb.RepositoryIndexRequest{Ready: true}, &oippb.RepositoryIndexResponse{}, "models"},
		{"ServerLive", "GET", "/v2/health/live", &oippb.ServerLiveRequest{}, &oippb.ServerLiveResponse{}, ""},
		{"ServerReady", "GET", "/v2/health/ready", &oippb.ServerReadyRequest{}, &oippb.ServerReadyResponse{}, ""},
	} {
		if err := conn.Invoke(t.Context(), "/inference.GRPCInferenceService/"+test.method, test.in, test.out); err != nil {
			t.Fatalf("%s: %v", test.method, err)
		}
		_, body := do(t, test.httpMethod, m.URL()+test.path, "", nil)
		if test.member != "" {
			body = fmt.Appendf(nil, `{%q:%s}`, test.member, body)
		}
		want := proto.Clone(test.out)
		proto.Reset(want)
		if err := protojson.Unmarshal(body, want); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if !proto.Equal(test.out, want) || proto.Size(want) == 0 {
			t.Errorf("%s: %v, want %v", test.method, test.out, want)
		}
	}
	if r := mustCall[oippb.ModelReadyResponse](t, conn, "ModelReady", &oippb.ModelReadyRequest{Name: "fakeart"}); !r.GetReady() {
		t.Error("the model isn't ready")
	}
	m.draining.Store(true)
	if r := mustCall[oippb.ModelReadyResponse](t, conn, "ModelReady", &oippb.ModelReadyRequest{Name: "fakeart"}); r.GetReady() {
		t.Error("the model is ready during shutdown")
	}
	if r := mustCall[oippb.ServerReadyResponse](t, conn, "ServerReady", &oippb.ServerReadyRequest{}); r.GetReady() {
		t.Error("the server is ready during shutdown")
	}
	m.draining.Store(false)
}

// invalidMessage is sent as bytes that aren't a message.
type invalidMessage struct{}

// rawCodec sends invalidMessage and otherwise messages.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	if _, ok := v.(invalidMessage); ok {
		return []byte{0xff, 0xff, 0xff}, nil
	}
	return proto.Marshal(v.(proto.Message))
}

func (rawCodec) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }
func (rawCodec) Name() string                       { return "proto" }

func TestGRPC_InvalidRequests(t *testing.T) {
	m := start(t, withGRPC, func(c *Config) { c.MaxImages = 10 })
	conn := dialGRPC(t, m)
	changed := func(change func(r *oippb.ModelInferRequest)) *oippb.ModelInferRequest {
		r := inferRequest(1)
		change(r)
		return r
	}
	parameter := func(value string) map[string]*oippb.InferParameter {
		return map[string]*oippb.InferParameter{value: {ParameterChoice: &oippb.InferParameter_StringParam{StringParam: "x"}}}
	}
	nan := reds(1)
	nan[7] = float32(math.NaN())
	for _, test := range []struct {
		name   string
		method string
		in     any
		code   codes.Code
		words  string
	}{
		{"unknown_model", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.ModelName = "other" }), codes.NotFound, "other"},
		{"unknown_version", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.ModelVersion = "1" }), codes.NotFound, "version"},
		{"no_inputs", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs = nil }), codes.InvalidArgument, `"inputs" is missing`},
		{"no_name", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Name = "" }), codes.InvalidArgument, `has no "name"`},
		{"unknown_input", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Name = "image" }), codes.InvalidArgument, "image"},
		{"two_inputs", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs = append(r.Inputs, r.Inputs[0]) }), codes.InvalidArgument, "twice"},
		{"datatype", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Datatype = "FP64" }), codes.InvalidArgument, "FP64"},
		{"no_shape", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Shape = nil }), codes.InvalidArgument, "shape"},
		{"shape", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Shape = []int64{1, 32, 32, 3} }), codes.InvalidArgument, "[1,32,32,3]"},
		{"long_shape", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Shape = make([]int64, 9) }), codes.InvalidArgument, "9 dimensions"},
		{"negative_shape", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Shape[0] = -1 }), codes.InvalidArgument, "-1 images"},
		{"too_many_images", "ModelInfer", inferRequest(make([]float32, 11)...), codes.InvalidArgument, "11 images"},
		{"too_few_values", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Contents.Fp32Contents = []float32{1} }), codes.InvalidArgument, "1 values"},
		{"no_values", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Contents = nil }), codes.InvalidArgument, "0 values"},
		{"values_of_another_type", "ModelInfer", changed(func(r *oippb.ModelInferRequest) {
			r.Inputs[0].Contents = &oippb.InferTensorContents{Fp64Contents: make([]float64, 3072)}
		}), codes.InvalidArgument, "fp32_contents"},
		{"raw_size", "ModelInfer", changed(func(r *oippb.ModelInferRequest) {
			r.Inputs[0].Contents, r.RawInputContents = nil, [][]byte{make([]byte, 5)}
		}), codes.InvalidArgument, "5 bytes"},
		{"raw_and_typed", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.RawInputContents = rawRequest(1).RawInputContents }), codes.InvalidArgument, "both"},
		{"raw_twice", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.RawInputContents = make([][]byte, 2) }), codes.InvalidArgument, "2 elements"},
		{"typed_NaN", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Contents.Fp32Contents = nan }), codes.InvalidArgument, "value 7"},
		{"raw_NaN", "ModelInfer", changed(func(r *oippb.ModelInferRequest) {
			r.Inputs[0].Contents, r.RawInputContents = nil, [][]byte{rawOf(nan)}
		}), codes.InvalidArgument, "value 7"},
		{"out_of_range", "ModelInfer", inferRequest(255), codes.InvalidArgument, "divide values from 0 to 255 by 255"},
		{"unknown_output", "ModelInfer", changed(func(r *oippb.ModelInferRequest) {
			r.Outputs = []*oippb.ModelInferRequest_InferRequestedOutputTensor{{Name: "label"}}
		}), codes.InvalidArgument, "label"},
		{"classification", "ModelInfer", changed(func(r *oippb.ModelInferRequest) {
			r.Outputs = []*oippb.ModelInferRequest_InferRequestedOutputTensor{{Name: "logit", Parameters: parameter("classification")}}
		}), codes.InvalidArgument, "classification"},
		{"shared_memory", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Inputs[0].Parameters = parameter("shared_memory_region") }), codes.InvalidArgument, "shared_memory_region"},
		{"timeout_type", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Parameters = parameter("timeout") }), codes.InvalidArgument, "timeout"},
		{"too_large", "ModelInfer", changed(func(r *oippb.ModelInferRequest) { r.Id = strings.Repeat("x", 1<<20) }), codes.ResourceExhausted, "maximum is 1048576"},
		{"invalid_message", "ModelInfer", invalidMessage{}, codes.InvalidArgument, "3 bytes aren't a valid inference.ModelInferRequest"},
		{"metadata_of_unknown_model", "ModelMetadata", &oippb.ModelMetadataRequest{Name: "other"}, codes.NotFound, "other"},
		{"statistics_of_unknown_version", "ModelStatistics", &oippb.ModelStatisticsRequest{Name: "fakeart", Version: "1"}, codes.NotFound, "version"},
		{"readiness_of_unknown_model", "ModelReady", &oippb.ModelReadyRequest{Name: "other"}, codes.NotFound, "other"},
		{"load", "RepositoryModelLoad", &oippb.ServerLiveRequest{}, codes.Unimplemented, "RepositoryModelLoad"},
		{"shared_memory_status", "SystemSharedMemoryStatus", &oippb.ServerLiveRequest{}, codes.Unimplemented, "SystemSharedMemoryStatus"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := call[oippb.ModelInferResponse](t.Context(), conn, test.method, test.in, grpc.ForceCodec(rawCodec{}))
			if s := status.Convert(err); s.Code() != test.code || !strings.Contains(s.Message(), test.words) || strings.Contains(s.Message(), "proto:") || len(s.Message()) > 300 {
				t.Errorf("%v: %s, want %v with %q", s.Code(), s.Message(), test.code, test.words)
			}
		})
	}
	mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", inferRequest(1))
	// Exactly the largest message.
	largest := inferRequest(1)
	largest.Id = strings.Repeat("x", 1<<20-proto.Size(largest)-2)
	for proto.Size(largest) < 1<<20 {
		largest.Id += "x"
	}
	mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", largest)
	if _, err := m.bodies.Reserve(int64(m.config.MaxMemory)); err != nil {
		t.Errorf("memory wasn't released: %v", err)
	}
}

func TestGRPC_Overload(t *testing.T) {
	retry := func(t *testing.T, err error, code codes.Code, trailer grpcmetadata.MD, words string) {
		t.Helper()
		s := status.Convert(err)
		if s.Code() != code || !strings.Contains(s.Message(), words) {
			t.Fatalf("%v, want %v with %q", err, code, words)
		}
		info, _ := slices.Concat(s.Details(), []any{nil})[0].(*errdetails.RetryInfo)
		if info.GetRetryDelay().AsDuration() != time.Second || !slices.Equal(trailer.Get("grpc-retry-pushback-ms"), []string{"1000"}) {
			t.Errorf("details %v, trailer %v, want to retry after a second", s.Details(), trailer)
		}
	}
	var trailer grpcmetadata.MD
	t.Run("queue", func(t *testing.T) {
		m, release := startBlocked(t, withGRPC, func(c *Config) { c.Queue, c.MaxImages = 1, 1 })
		conn := dialGRPC(t, m)
		first := make(chan error, 1)
		go func() {
			_, err := call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", rawRequest(1))
			first <- err
		}()
		waitFor(t, "the first request", func() bool { return m.requests.InProgress() > 0 && m.engine.Waiting() > 0 })
		_, err := call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", rawRequest(1), grpc.Trailer(&trailer))
		retry(t, err, codes.Unavailable, trailer, "queued")
		release()
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		m, _ := startBlocked(t, withGRPC)
		in := rawRequest(1)
		in.Parameters = map[string]*oippb.InferParameter{"timeout": {ParameterChoice: &oippb.InferParameter_Int64Param{Int64Param: 30_000}}}
		if _, err := call[oippb.ModelInferResponse](t.Context(), dialGRPC(t, m), "ModelInfer", in); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
	})
	t.Run("client_deadline", func(t *testing.T) {
		m, _ := startBlocked(t, withGRPC)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := call[oippb.ModelInferResponse](ctx, dialGRPC(t, m), "ModelInfer", rawRequest(1)); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
		waitFor(t, "the end of the request", func() bool { return m.requests.InProgress() == 0 })
	})
	t.Run("client_cancels", func(t *testing.T) {
		m, _ := startBlocked(t, withGRPC)
		conn := dialGRPC(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := call[oippb.ModelInferResponse](ctx, conn, "ModelInfer", rawRequest(1)); status.Code(err) != codes.Canceled {
			t.Errorf("%v, want Canceled", err)
		}
		waitFor(t, "the metric", func() bool {
			return metric(t, m, `fakeart_requests_total{code="499",method="POST",route="/inference.GRPCInferenceService/ModelInfer"}`) == 1
		})
	})
	t.Run("requests", func(t *testing.T) {
		m := start(t, withGRPC)
		for range m.config.MaxRequests {
			m.requests.Begin()
		}
		_, err := call[oippb.ServerLiveResponse](t.Context(), dialGRPC(t, m), "ServerLive", &oippb.ServerLiveRequest{}, grpc.Trailer(&trailer))
		for range m.config.MaxRequests {
			m.requests.End()
		}
		retry(t, err, codes.Unavailable, trailer, "concurrent requests")
	})
	t.Run("rate", func(t *testing.T) {
		m := start(t, withGRPC, func(c *Config) { c.RateLimit = 1 })
		conn := dialGRPC(t, m)
		var err error
		for range 10 { // at most every second succeeds
			if _, err = call[oippb.ServerLiveResponse](t.Context(), conn, "ServerLive", &oippb.ServerLiveRequest{}, grpc.Trailer(&trailer)); err != nil {
				break
			}
		}
		retry(t, err, codes.ResourceExhausted, trailer, "requests per second")
		if _, err := health.NewHealthClient(conn).Check(t.Context(), &health.HealthCheckRequest{}); err != nil {
			t.Errorf("health check: %v", err)
		}
	})
	t.Run("memory", func(t *testing.T) {
		m := start(t, withGRPC)
		conn := dialGRPC(t, m)
		held, err := m.bodies.Reserve(int64(m.config.MaxMemory) - 1)
		if err != nil {
			t.Fatal(err)
		}
		defer m.bodies.Release(held)
		_, err = call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", rawRequest(make([]float32, 20)...), grpc.Trailer(&trailer))
		retry(t, err, codes.Unavailable, trailer, "too many large requests")
		mustCall[oippb.ModelInferResponse](t, conn, "ModelInfer", rawRequest(1)) // small messages aren't counted
	})
	t.Run("no_model", func(t *testing.T) {
		m := startWithoutModel(t, t.TempDir(), withGRPC)
		if _, err := call[oippb.ModelInferResponse](t.Context(), dialGRPC(t, m), "ModelInfer", rawRequest(1)); status.Code(err) != codes.Unavailable {
			t.Errorf("%v, want Unavailable", err)
		}
	})
}

// A gzip message that expands beyond the limit is rejected.
func TestGRPC_Bomb(t *testing.T) {
	m := start(t, withGRPC)
	in := inferRequest(1)
	in.Id = strings.Repeat("x", 10<<20)
	_, err := call[oippb.ModelInferResponse](t.Context(), dialGRPC(t, m), "ModelInfer", in, grpc.UseCompressor(gzip.Name))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("%v, want ResourceExhausted", err)
	}
	if _, err := m.bodies.Reserve(int64(m.config.MaxMemory)); err != nil {
		t.Errorf("memory wasn't released: %v", err)
	}
}

func TestGRPC_SlowClient(t *testing.T) {
	m := start(t, withGRPC, func(c *Config) { c.ReadTimeout = 50 * time.Millisecond })
	stream, err := dialGRPC(t, m).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/inference.GRPCInferenceService/ModelInfer")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(oippb.ModelInferResponse)); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

// Invalid header fields are rejected without repeating them.
func TestGRPC_InvalidHeader(t *testing.T) {
	m := start(t, withGRPC)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		name, value string
		code        codes.Code
	}{
		{"Grpc-Timeout", "secret", codes.InvalidArgument},
		{"Grpc-Timeout", "123456789S", codes.InvalidArgument},
		{"Grpc-Encoding", "secret", codes.Unimplemented},
		{"Grpc-Timeout", "10S", codes.OK},
	} {
		request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+grpcAddr(m)+"/inference.GRPCInferenceService/ServerLive", bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/grpc")
		request.Header.Set(test.name, test.value)
		response, _, trailer := sendWithTrailer(t, client, request)
		if response.StatusCode != 200 || trailer.Get("Grpc-Status") != fmt.Sprint(uint32(test.code)) || strings.Contains(fmt.Sprint(response.Header, trailer), "secret") {
			t.Errorf("%s: %s: status %d, %v, %v", test.name, test.value, response.StatusCode, response.Header, trailer)
		}
	}
}

func sendWithTrailer(t *testing.T, client *http.Client, request *http.Request) (*http.Response, []byte, http.Header) {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body, response.Trailer
}

func TestGRPC_Panic(t *testing.T) {
	m := start(t, withGRPC)
	conn := dialGRPC(t, m)
	use := m.models.Default().Current()
	tensors := use.Tensors
	use.Tensors = nil // makes handlers panic
	_, err := call[oippb.ModelMetadataResponse](t.Context(), conn, "ModelMetadata", &oippb.ModelMetadataRequest{Name: "fakeart"})
	use.Tensors = tensors
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("%v, want Internal", err)
	}
	if got := metric(t, m, "fakeart_panics_total"); got != 1 {
		t.Errorf("%g panics counted", got)
	}
	mustCall[oippb.ServerLiveResponse](t, conn, "ServerLive", &oippb.ServerLiveRequest{})
}

func TestGRPC_Health(t *testing.T) {
	m := start(t, withGRPC)
	client := health.NewHealthClient(dialGRPC(t, m))
	check := func(service string, want health.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: service}); err != nil || r.GetStatus() != want {
			t.Errorf("%q: %v (%v), want %v", service, r, err, want)
		}
	}
	check("", health.HealthCheckResponse_SERVING)
	check("inference.GRPCInferenceService", health.HealthCheckResponse_SERVING)
	if _, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
	if r, err := client.List(t.Context(), &health.HealthListRequest{}); err != nil || len(r.GetStatuses()) != 2 {
		t.Errorf("list: %v (%v)", r, err)
	}
	watch := func(service string) grpc.ServerStreamingClient[health.HealthCheckResponse] {
		w, err := client.Watch(t.Context(), &health.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := watch("")
	next := func(want health.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := w.Recv(); err != nil || r.GetStatus() != want {
			t.Errorf("watch: %v (%v), want %v", r, err, want)
		}
	}
	next(health.HealthCheckResponse_SERVING)
	m.draining.Store(true)
	check("", health.HealthCheckResponse_NOT_SERVING)
	next(health.HealthCheckResponse_NOT_SERVING)
	m.draining.Store(false)
	next(health.HealthCheckResponse_SERVING)
	if r, err := watch("other").Recv(); err != nil || r.GetStatus() != health.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("unknown service: %v (%v)", r, err)
	}
}

func TestGRPC_Reflection(t *testing.T) {
	m := start(t, withGRPC)
	stream, err := reflection.NewServerReflectionClient(dialGRPC(t, m)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflection.ServerReflectionRequest) *reflection.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var names []string
	for _, s := range ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !slices.Contains(names, inferenceService) || !slices.Contains(names, healthService) {
		t.Errorf("services %v", names)
	}
	r := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: inferenceService}})
	if files := r.GetFileDescriptorResponse().GetFileDescriptorProto(); len(files) == 0 || !bytes.Contains(files[0], []byte("ModelInfer")) {
		t.Errorf("response %v", r)
	}
}

// A shutdown responds to requests in progress, ends streams, and then closes the connections.
func TestGRPC_Close(t *testing.T) {
	m, release := startBlocked(t, withGRPC)
	conn := dialGRPC(t, m)
	result := make(chan error, 1)
	go func() {
		_, err := call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", rawRequest(1))
		result <- err
	}()
	waitFor(t, "the request", func() bool { return m.engine.Waiting() > 0 })
	idle, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, modelStreamInfer)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := health.NewHealthClient(conn).Watch(t.Context(), &health.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the streams", func() bool { return m.requests.InProgress() == 2 }) // a stream without a message doesn't count
	addr := grpcAddr(m)
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	waitUntilClosed(t, addr)
	for err == nil {
		_, err = watch.Recv() // at first NOT_SERVING
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("watch: %v, want Unavailable", err)
	}
	if err := idle.RecvMsg(new(oippb.ModelStreamInferResponse)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("stream: %v, want Unavailable", err)
	}
	release()
	if err := <-result; err != nil {
		t.Errorf("request in progress: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestGRPC_OtherProtocols(t *testing.T) {
	m := start(t, withGRPC)
	conn, err := net.Dial("tcp", grpcAddr(m))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(conn); bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
		t.Errorf("HTTP/1.1: %q", answer)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	for _, contentType := range []string{"application/json", "application/proto", "application/grpc-web", "application/grpc+json"} {
		request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+grpcAddr(m)+"/inference.GRPCInferenceService/ServerLive", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", contentType)
		response, text, _ := sendWithTrailer(t, client, request)
		if response.StatusCode != 415 || !bytes.Contains(text, []byte("--addr")) {
			t.Errorf("%s: status %d: %s", contentType, response.StatusCode, text)
		}
	}
}

func TestGRPC_MaxConnections(t *testing.T) {
	m := start(t, withGRPC, func(c *Config) { c.MaxConnections = 1 })
	first := dialGRPC(t, m)
	mustCall[oippb.ServerLiveResponse](t, first, "ServerLive", &oippb.ServerLiveRequest{})
	second := dialGRPC(t, m)
	if _, err := call[oippb.ServerLiveResponse](t.Context(), second, "ServerLive", &oippb.ServerLiveRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("second connection: %v, want Unavailable", err)
	}
	_ = second.Close() // it would connect again
	// The limit also applies to the RPCs of a connection.
	stream, err := first.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, modelStreamInfer)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the limit", func() bool {
		_, err := call[oippb.ServerLiveResponse](t.Context(), first, "ServerLive", &oippb.ServerLiveRequest{})
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "more than 1 RPCs")
	})
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	third := dialGRPC(t, m)
	waitFor(t, "a free connection", func() bool {
		_, err := call[oippb.ServerLiveResponse](t.Context(), third, "ServerLive", &oippb.ServerLiveRequest{}, grpc.WaitForReady(true))
		return err == nil
	})
}

// The names of all routes of the protocol are known, so that no request creates a metric of its own.
func TestGRPC_UnknownProcedures(t *testing.T) {
	m := start(t, withGRPC)
	conn := dialGRPC(t, m)
	for _, procedure := range []string{"/a/b", "/inference.GRPCInferenceService/x", "/inference.GRPCInferenceService/", "/x"} {
		if err := conn.Invoke(t.Context(), procedure, &oippb.ServerLiveRequest{}, &oippb.ServerLiveResponse{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v, want Unimplemented", procedure, err)
		}
	}
	series := `fakeart_requests_total{code="404",method="POST",route="unmatched"}`
	waitFor(t, series, func() bool { return metric(t, m, series) == 4 })
}

func TestGRPC_Trace(t *testing.T) {
	var c traceCollector
	collect := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			t.Errorf("%s: %v", r.URL, err)
		}
		_, _ = c.Export(r.Context(), &request)
	}))
	defer collect.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collect.URL)
	m := start(t, withGRPC)
	ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if _, err := call[oippb.ModelInferResponse](ctx, dialGRPC(t, m), "ModelInfer", rawRequest(1)); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil { // flushes the spans
		t.Fatal(err)
	}
	names := map[string]*tracepb.Span{}
	for _, s := range c.spans {
		names[s.Name] = s
	}
	root := names["inference.GRPCInferenceService/ModelInfer"]
	if root == nil || hexOf(root.TraceId) != "0af7651916cd43dd8448eb211c80319c" || hexOf(root.ParentSpanId) != "b7ad6b7169203331" {
		t.Fatalf("spans %v", c.spans)
	}
	attributes := map[string]string{}
	for _, a := range root.Attributes {
		attributes[a.Key] = a.Value.GetStringValue()
	}
	want := map[string]string{"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer", "rpc.grpc.status_code": ""}
	if !maps.Equal(attributes, want) {
		t.Errorf("attributes %v, want %v", attributes, want)
	}
	for _, name := range []string{"queue", "inference", "log"} {
		if s := names[name]; s == nil || !bytes.Equal(s.ParentSpanId, root.SpanId) {
			t.Errorf("span %q: %v", name, s)
		}
	}
}
