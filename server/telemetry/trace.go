package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
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
// is discarded, that is unset, and logged: by NewTracing to log, and by the SDK to the logger of
// LogSDK.
func NewTracing(ctx context.Context, version string, log *slog.Logger) *Tracing {
	t := &Tracing{Tracer: noop.NewTracerProvider().Tracer("fakeart/server"), project: os.Getenv("GOOGLE_CLOUD_PROJECT")}
	if !tracingEnabled(log) {
		return t
	}
	exporter, err := newExporter(ctx)
	if err != nil {
		log.Warn("tracing is off: cannot create the exporter; check OTEL_EXPORTER_OTLP_ENDPOINT", "error", err)
		return t
	}
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

// otlp returns the names of a variable for all signals and for traces.
func otlp(name string) []string {
	return []string{"OTEL_EXPORTER_OTLP_" + name, "OTEL_EXPORTER_OTLP_TRACES_" + name}
}

// protocol returns the value of OTEL_EXPORTER_OTLP_PROTOCOL for traces.
func protocol() string {
	return cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"))
}

// newExporter creates the exporter for the protocol.
func newExporter(ctx context.Context) (*otlptrace.Exporter, error) {
	if protocol() == "grpc" {
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}

// tracingEnabled reports whether the variables turn tracing on. If so, it discards invalid ones.
func tracingEnabled(log *slog.Logger) bool {
	endpoint := func() bool {
		return slices.ContainsFunc(otlp("ENDPOINT"), func(name string) bool { return os.Getenv(name) != "" })
	}
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || exporter == "none" || exporter == "" && !endpoint() {
		return false
	}
	discardInvalid(log)
	return os.Getenv("OTEL_TRACES_EXPORTER") == "otlp" || endpoint()
}

// discardInvalid unsets and logs the variables that the SDK would misinterpret or reject as a whole.
// It logs no values, because they may contain credentials.
func discardInvalid(log *slog.Logger) {
	oneOf := func(values ...string) func(string) bool {
		return func(text string) bool { return slices.Contains(values, text) }
	}
	isBool := func(text string) bool { return strings.EqualFold(text, "true") || strings.EqualFold(text, "false") }
	for _, rule := range []struct {
		names    []string
		valid    func(text string) bool
		expected string
	}{
		{[]string{"OTEL_SDK_DISABLED"}, isBool, "true or false"},
		{[]string{"OTEL_TRACES_EXPORTER"}, oneOf("otlp"), "otlp or none"},
		{otlp("PROTOCOL"), oneOf("grpc", "http/protobuf"), "grpc or http/protobuf"},
		{otlp("ENDPOINT"), validEndpoint, "a URL such as http://127.0.0.1:4318"},
		{otlp("COMPRESSION"), oneOf("gzip", "none"), "gzip or none"},
		{otlp("INSECURE"), isBool, "true or false"},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES"}, validAttributes, "KEY=VALUE, with percent encoding and separated by commas"},
	} {
		for _, name := range rule.names {
			if text := strings.TrimSpace(os.Getenv(name)); text == "" || rule.valid(text) {
				continue
			}
			log.Warn("tracing: ignoring the invalid variable "+name, "expected", rule.expected)
			if err := os.Unsetenv(name); err != nil {
				log.Warn("tracing", "error", err)
			}
		}
	}
}

// validEndpoint reports whether the exporter can use the endpoint. gRPC has its own forms.
func validEndpoint(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (protocol() == "grpc" || (u.Scheme == "http" || u.Scheme == "https") && u.Host != "")
}

// validAttributes reports whether a list of attributes is well-formed. The specification demands to
// discard the whole list otherwise, but the SDK would use the valid part of it.
func validAttributes(text string) bool {
	for pair := range strings.SplitSeq(text, ",") {
		key, value, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(strings.TrimSpace(value)); !found || strings.TrimSpace(key) == "" || err != nil {
			return false
		}
	}
	return true
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
