package telemetry

import (
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Tracing makes spans and sends them away.
type Tracing struct {
	trace.Tracer
	provider *sdktrace.TracerProvider // nil when off
	project  string
}

// NewTracing sets tracing up by OpenTelemetry's standard variables
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/):
// it is on when OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
// OTEL_TRACES_EXPORTER=otlp is set and OTEL_SDK_DISABLED is not true. Spans leave in
// the background; a collector that is down costs requests nothing.
func NewTracing(ctx context.Context, version string) (*Tracing, error) {
	t := &Tracing{Tracer: noop.NewTracerProvider().Tracer("fakeart/server"), project: os.Getenv("GOOGLE_CLOUD_PROJECT")}
	if !tracingWanted() {
		return t, nil
	}
	var exporter *otlptrace.Exporter
	var err error
	protocol := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "grpc":
		exporter, err = otlptracegrpc.New(ctx)
	case "", "http/protobuf":
		exporter, err = otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("tracing: OTEL_EXPORTER_OTLP_PROTOCOL=%q is not spoken; set it to grpc or http/protobuf", protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	r, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "fakeart-server"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
	)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	// The sampler and the batches are set by OTEL_TRACES_SAMPLER and OTEL_BSP_….
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(r))
	t.Tracer = t.provider.Tracer("fakeart/server")
	return t, nil
}

func tracingWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "otlp":
		return true
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	}
	return false
}

// Enabled tells whether spans go anywhere.
func (t *Tracing) Enabled() bool { return t.provider != nil }

// Close sends the spans that wait.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// ExtractTraceContext returns a context with the caller's span, from the W3C headers traceparent
// and tracestate (https://www.w3.org/TR/trace-context/). Headers that are not
// well-formed are ignored, as the standard wants.
func ExtractTraceContext(ctx context.Context, header propagation.TextMapCarrier) context.Context {
	return propagation.TraceContext{}.Extract(ctx, header)
}

// CloudTraceName is how Cloud Logging names the trace: with the project that
// GOOGLE_CLOUD_PROJECT tells, it links the line to the trace.
func (t *Tracing) CloudTraceName(traceID string) string {
	if t.project == "" {
		return traceID
	}
	return "projects/" + t.project + "/traces/" + traceID
}
