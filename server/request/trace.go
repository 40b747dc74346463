package request

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"fakeart/server/telemetry"
)

// StartTrace finds the trace that the request belongs to in its header and, if tracing is enabled, starts
// the request's span at the time at which the request was received. A second call does nothing. The
// caller ends the span.
func (t *Tracker) StartTrace(s *State, header propagation.TextMapCarrier, name string) {
	if s.TraceID != "" || !t.Tracing.Enabled() && header.Get("traceparent") == "" {
		return
	}
	ctx := telemetry.ExtractTraceContext(context.Background(), header)
	if !t.Tracing.Enabled() {
		if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
			s.TraceID = id.String()
		}
		return
	}
	ctx, span := t.Tracing.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(s.Received))
	s.TraceID = span.SpanContext().TraceID().String()
	if span.IsRecording() {
		s.Ctx = ctx
	}
	s.Span = span
}

// Record records a completed part of a request that is traced: one whose State.Ctx isn't nil.
func (t *Tracker) Record(s *State, name string, began, ended time.Time, attributes ...attribute.KeyValue) {
	_, span := t.Tracing.Start(s.Ctx, name, trace.WithTimestamp(began), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(ended))
}
