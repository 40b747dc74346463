package main

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"fakeart/server/telemetry"
)

// headerCarrier lets OpenTelemetry read a request's header. Keys returns nil because only the
// propagation of baggage needs it.
type headerCarrier struct{ *fasthttp.RequestHeader }

func (h headerCarrier) Get(key string) string { return string(h.Peek(key)) }
func (h headerCarrier) Keys() []string        { return nil }

// beginTrace finds the trace that the request belongs to and, if tracing is enabled, starts the
// request's span at the time at which the request was received. A second call does nothing.
func (m *Main) beginTrace(c *fiber.Ctx) {
	m.startTrace(state(c), headerCarrier{&c.Request().Header}, c.Method())
}

// startTrace is beginTrace for a request with any kind of header.
func (m *Main) startTrace(s *requestState, header propagation.TextMapCarrier, name string) {
	if s.traceID != "" || !m.tracing.Enabled() && header.Get("traceparent") == "" {
		return
	}
	ctx := telemetry.ExtractTraceContext(context.Background(), header)
	if !m.tracing.Enabled() {
		if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
			s.traceID = id.String()
		}
		return
	}
	ctx, span := m.tracing.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(s.received))
	s.traceID = span.SpanContext().TraceID().String()
	if span.IsRecording() {
		s.ctx = ctx
	}
	s.span = span
}

// endTrace ends the request's span. The attributes follow OpenTelemetry's semantic conventions
// for HTTP.
func endTrace(span trace.Span, c *fiber.Ctx, pattern string, status int) {
	if span.IsRecording() {
		// Spans outlive the request, and Fiber's strings don't.
		method, path := utils.CopyString(c.Method()), utils.CopyString(c.Path())
		span.SetName(method + " " + pattern)
		span.SetAttributes(
			attribute.String("http.request.method", method),
			attribute.String("http.route", pattern),
			attribute.String("url.path", path),
			attribute.Int("http.response.status_code", status),
		)
		if status >= 500 {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

// span records a completed part of the request.
func (x *exchange) span(name string, began, ended time.Time, attributes ...attribute.KeyValue) {
	_, span := x.m.tracing.Start(x.state.ctx, name, trace.WithTimestamp(began), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(ended))
}
