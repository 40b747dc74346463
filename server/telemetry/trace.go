package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
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
//
// Tracing never prevents the server from starting. As the specification demands, an invalid variable
// is discarded and logged: by NewTracing to log, and by the SDK to the logger of LogSDK.
func NewTracing(ctx context.Context, version string, log *slog.Logger) *Tracing {
	t := &Tracing{Tracer: noop.NewTracerProvider().Tracer("fakeart/server"), project: os.Getenv("GOOGLE_CLOUD_PROJECT")}
	if !tracingEnabled(log) {
		return t
	}
	exporter, err := newExporter(ctx, log)
	if err != nil {
		log.Warn("tracing is off: cannot create the exporter; check OTEL_EXPORTER_OTLP_ENDPOINT", "error", err)
		return t
	}
	checkResourceAttributes(log)
	r, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "fakeart-server"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
	)
	if err != nil { // r has the attributes that could be detected
		log.Warn("tracing: some resource attributes are missing", "error", err)
	}
	// OTEL_TRACES_SAMPLER and OTEL_BSP_… configure the sampler and the batches.
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(r))
	t.Tracer = t.provider.Tracer("fakeart/server")
	return t
}

// discarded logs that the value of a variable is ignored.
func discarded(log *slog.Logger, name, reason string) {
	log.Warn("tracing: ignoring the variable "+name, "reason", reason)
}

// newExporter creates the exporter for the protocol that the variables specify.
func newExporter(ctx context.Context, log *slog.Logger) (*otlptrace.Exporter, error) {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch protocol := os.Getenv(name); protocol {
		case "grpc":
			return otlptracegrpc.New(ctx)
		case "http/protobuf":
			return otlptracehttp.New(ctx)
		case "":
		default:
			discarded(log, name, fmt.Sprintf("unsupported protocol %.40q: use grpc or http/protobuf", protocol))
		}
	}
	return otlptracehttp.New(ctx)
}

// checkResourceAttributes unsets OTEL_RESOURCE_ATTRIBUTES if it is malformed. The specification
// demands to discard the whole value, but the SDK would use the valid part of it.
func checkResourceAttributes(log *slog.Logger) {
	const name = "OTEL_RESOURCE_ATTRIBUTES"
	text := strings.TrimSpace(os.Getenv(name))
	if text == "" {
		return
	}
	for i, pair := range strings.Split(text, ",") {
		key, value, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(strings.TrimSpace(value)); !found || strings.TrimSpace(key) == "" || err != nil {
			discarded(log, name, fmt.Sprintf("attribute %d of its value isn't KEY=VALUE with percent encoding", i+1))
			if err := os.Unsetenv(name); err != nil {
				log.Warn("tracing", "error", err)
			}
			return
		}
	}
}

func tracingEnabled(log *slog.Logger) bool {
	switch disabled := os.Getenv("OTEL_SDK_DISABLED"); strings.ToLower(disabled) {
	case "true":
		return false
	case "", "false":
	default:
		discarded(log, "OTEL_SDK_DISABLED", fmt.Sprintf("invalid value %.40q: use true or false", disabled))
	}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "otlp":
		return true
	case "none":
		return false
	case "":
	default:
		discarded(log, "OTEL_TRACES_EXPORTER", fmt.Sprintf("unsupported exporter %.40q: use otlp or none", exporter))
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
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
