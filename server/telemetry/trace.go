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

// Tracing creates spans and exports them with OTLP.
type Tracing struct {
	trace.Tracer
	provider *sdktrace.TracerProvider // nil if tracing is off
	project  string
}

// NewTracing configures tracing from OpenTelemetry's standard environment variables
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Tracing is
// on if OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
// OTEL_TRACES_EXPORTER=otlp is set and OTEL_SDK_DISABLED isn't true. Spans are exported in the
// background, so an unreachable collector does not slow down requests.
func NewTracing(ctx context.Context, version string) (*Tracing, error) {
	t := &Tracing{Tracer: noop.NewTracerProvider().Tracer("fakeart/server"), project: os.Getenv("GOOGLE_CLOUD_PROJECT")}
	if !tracingEnabled() {
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
		return nil, fmt.Errorf("tracing: unsupported OTEL_EXPORTER_OTLP_PROTOCOL %q\nhint: set it to grpc or http/protobuf", protocol)
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
	// OTEL_TRACES_SAMPLER and OTEL_BSP_… configure the sampler and the batches.
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(r))
	t.Tracer = t.provider.Tracer("fakeart/server")
	return t, nil
}

func tracingEnabled() bool {
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

// Enabled reports whether spans are exported.
func (t *Tracing) Enabled() bool { return t.provider != nil }

// Close exports the remaining spans.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("export the remaining spans: %w", err)
	}
	return nil
}

// ExtractTraceContext returns a context with the caller's span, taken from the W3C headers
// traceparent and tracestate (https://www.w3.org/TR/trace-context/). It ignores malformed headers,
// as the standard requires.
func ExtractTraceContext(ctx context.Context, header propagation.TextMapCarrier) context.Context {
	return propagation.TraceContext{}.Extract(ctx, header)
}

// CloudTraceName returns the trace ID in Cloud Logging's format, which links a log line to its
// trace. It needs GOOGLE_CLOUD_PROJECT, and returns the plain trace ID without it.
func (t *Tracing) CloudTraceName(traceID string) string {
	if t.project == "" {
		return traceID
	}
	return "projects/" + t.project + "/traces/" + traceID
}
