package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"fakeart/internal/otelenv"
)

func TestMain(m *testing.M) {
	if err := otelenv.Clear(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// logged sets the variables, configures tracing, and returns what was logged.
func logged(t *testing.T, variables ...string) (*Tracing, string) {
	t.Helper()
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	var out bytes.Buffer
	log := NewLogger(&out, slog.LevelInfo, false)
	LogSDK(log)
	t.Cleanup(func() { LogSDK(slog.New(slog.DiscardHandler)) })
	tracing := NewTracing(t.Context(), "1.2.3", log)
	t.Cleanup(func() { _ = tracing.Close(context.WithoutCancel(t.Context())) })
	return tracing, out.String()
}

// on is a variable that turns tracing on.
const on = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"

func TestNewTracing_InvalidVariables(t *testing.T) {
	for _, test := range []struct {
		name      string
		variables []string
		words     []string // in one warning; none if nothing may be logged
		off       bool
	}{
		{"valid", []string{on, "OTEL_RESOURCE_ATTRIBUTES=a=b,c=d%20e, f = g", "OTEL_SERVICE_NAME=s", "OTEL_SDK_DISABLED=FALSE", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, nil, false},
		{"none", nil, nil, true},
		{"disabled", []string{on, "OTEL_SDK_DISABLED=True"}, nil, true},
		{"exporter_none", []string{on, "OTEL_TRACES_EXPORTER=none"}, nil, true},
		{"attribute_without_value", []string{on, "OTEL_RESOURCE_ATTRIBUTES=team=a,broken"}, []string{"OTEL_RESOURCE_ATTRIBUTES", "KEY=VALUE"}, false},
		{"attribute_without_key", []string{on, "OTEL_RESOURCE_ATTRIBUTES==b"}, []string{"OTEL_RESOURCE_ATTRIBUTES", "KEY=VALUE"}, false},
		{"attribute_encoding", []string{on, "OTEL_RESOURCE_ATTRIBUTES=team=%zz"}, []string{"OTEL_RESOURCE_ATTRIBUTES", "percent encoding"}, false},
		{"attribute_without_tracing", []string{"OTEL_RESOURCE_ATTRIBUTES=broken"}, nil, true},
		{"protocol", []string{on, "OTEL_EXPORTER_OTLP_PROTOCOL=carrier-pigeon"}, []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, false},
		{"traces_protocol", []string{on, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json"}, []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"}, false},
		{"disabled_maybe", []string{on, "OTEL_SDK_DISABLED=maybe"}, []string{"OTEL_SDK_DISABLED", "true or false"}, false},
		{"exporter", []string{on, "OTEL_TRACES_EXPORTER=zipkin"}, []string{"OTEL_TRACES_EXPORTER", "otlp"}, false},
		{"exporter_without_endpoint", []string{"OTEL_TRACES_EXPORTER=zipkin"}, []string{"OTEL_TRACES_EXPORTER", "otlp"}, true},
		{"endpoint", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=://user:secret@x"}, []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://"}, true},
		{"endpoint_without_scheme", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=localhost:4318", on}, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"}, false},
		{"endpoint_grpc", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, nil, false},
		{"endpoint_grpc_invalid", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://a b", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, []string{"OTEL_EXPORTER_OTLP_ENDPOINT"}, true},
		{"compression", []string{on, "OTEL_EXPORTER_OTLP_COMPRESSION=zip"}, []string{"OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"}, false},
		{"insecure", []string{on, "OTEL_EXPORTER_OTLP_INSECURE=maybe"}, []string{"OTEL_EXPORTER_OTLP_INSECURE", "true or false"}, false},
		{"batch_delay", []string{on, "OTEL_BSP_SCHEDULE_DELAY=soon"}, []string{"OTEL_BSP_SCHEDULE_DELAY", "soon"}, false},
		{"span_limit", []string{on, "OTEL_SPAN_EVENT_COUNT_LIMIT=many"}, []string{"OTEL_SPAN_EVENT_COUNT_LIMIT", "many"}, false},
		{"timeout", []string{on, "OTEL_EXPORTER_OTLP_TIMEOUT=soon"}, []string{"parse duration", "soon"}, false},
		{"certificate", []string{on, "OTEL_EXPORTER_OTLP_CERTIFICATE=/absent.pem"}, []string{"/absent.pem"}, false},
		{"sampler", []string{on, "OTEL_TRACES_SAMPLER=sometimes"}, []string{"unsupported sampler", "sometimes"}, false},
		{"sampler_argument", []string{on, "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=2"}, []string{"ratio"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			tracing, text := logged(t, test.variables...)
			if tracing.Enabled() == test.off {
				t.Errorf("enabled = %t", tracing.Enabled())
			}
			if lines := strings.Count(text, "\n"); lines != min(1, len(test.words)) || lines > 0 && !strings.Contains(text, "level=WARN") || strings.Contains(text, "secret") {
				t.Errorf("logged %q, want %d warnings", text, min(1, len(test.words)))
			}
			for _, w := range test.words {
				if !strings.Contains(text, w) {
					t.Errorf("logged %q, want %q", text, w)
				}
			}
		})
	}
}

// A malformed list of attributes is discarded as a whole. The service's name has its own variable.
func TestNewTracing_DiscardsAttributes(t *testing.T) {
	for list, want := range map[string]string{"team=a,broken": "", "team=a,b=%zz": "", "team=a,b=c": "a"} {
		tracing, _ := logged(t, on, "OTEL_SERVICE_NAME=named", "OTEL_RESOURCE_ATTRIBUTES="+list)
		_, span := tracing.Start(t.Context(), "span")
		span.End()
		values := map[string]string{}
		for _, a := range span.(sdktrace.ReadOnlySpan).Resource().Attributes() {
			values[string(a.Key)] = a.Value.AsString()
		}
		if values["team"] != want || values["service.name"] != "named" || values["service.version"] != "1.2.3" {
			t.Errorf("%s: attributes %v, want team %q", list, values, want)
		}
	}
}

// Headers contain credentials, which must not be logged.
func TestNewTracing_InvalidHeaders(t *testing.T) {
	for _, headers := range []string{"Bearer very-secret", "a b=very-secret", "authorization=very-secret%zz"} {
		if _, text := logged(t, on, "OTEL_EXPORTER_OTLP_HEADERS="+headers); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "header") || strings.Contains(text, "very-secret") {
			t.Errorf("%s: logged %q", headers, text)
		}
	}
}

// The SDK writes nothing to standard error itself, and each message gets the level that it means.
func TestLogSDK(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	stderr := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = stderr }()
	for level, want := range map[slog.Level][]string{
		slog.LevelDebug: {"WARN tracing boom", "WARN tracing: failed broken", "WARN tracing: warned", "DEBUG tracing: created", "DEBUG tracing: details"},
		slog.LevelInfo:  {"WARN tracing boom", "WARN tracing: failed broken", "WARN tracing: warned"},
		slog.LevelError: nil,
	} {
		var got []string
		log := slog.New(&recorder{level: level, lines: &got})
		LogSDK(log)
		sdk := logr.FromSlogHandler(sdkHandler{log.Handler()}).WithValues("component", "x").WithName("n")
		otel.Handle(errors.New("boom"))
		sdk.Error(errors.New("broken"), "failed")
		sdk.V(1).Info("warned") // the verbosities of the SDK's warnings, information and debug messages
		sdk.V(4).Info("created")
		sdk.V(8).Info("details")
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: logged %q, want %q", level, got, want)
		}
	}
	LogSDK(slog.New(slog.DiscardHandler))
	if text, err := os.ReadFile(file.Name()); err != nil || len(text) > 0 {
		t.Errorf("standard error: %q, %v", text, err)
	}
}

// recorder is a handler that keeps the level, the message and the error of each record.
type recorder struct {
	level slog.Level
	lines *[]string
}

func (r *recorder) Enabled(_ context.Context, level slog.Level) bool { return level >= r.level }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler               { return r }
func (r *recorder) WithGroup(string) slog.Handler                    { return r }
func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	line := record.Level.String() + " " + record.Message
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			line += " " + a.Value.String()
		}
		return true
	})
	*r.lines = append(*r.lines, line)
	return nil
}
