package front

import (
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// headerCarrier lets OpenTelemetry read a request's header. Keys returns nil because only the
// propagation of baggage needs it.
type headerCarrier struct{ *fasthttp.RequestHeader }

func (h headerCarrier) Get(key string) string { return string(h.Peek(key)) }
func (h headerCarrier) Keys() []string        { return nil }

// beginTrace finds the trace that the request belongs to and, if tracing is enabled, starts the
// request's span at the time at which the request was received. A second call does nothing.
func (f *Front) beginTrace(c *fiber.Ctx) {
	f.Requests.StartTrace(State(c), headerCarrier{&c.Request().Header}, c.Method())
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
