package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/gofiber/fiber/v2/middleware/limiter"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"fakeart/internal/explain"
	"fakeart/server/infer"
	"fakeart/server/telemetry"
)

// statusClientClosed is the status in metrics and logs of requests whose client closed the connection
// before the response. It is never sent. The number is the one that nginx uses.
const statusClientClosed = 499

// errClientClosed stops the processing of such a request.
var errClientClosed = fiber.NewError(statusClientClosed, "the client closed the connection")

// unlimitedPaths are exempt from the rate limit, because monitoring must work while a client
// exceeds it. So are the files of the web page, of which a browser requests several at once.
var unlimitedPaths = []string{"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}

// newFiber returns an application without routes.
func (m *Main) newFiber() *fiber.App {
	return fiber.New(fiber.Config{
		AppName:        "Fakeart",
		BodyLimit:      int(m.config.MaxBody),
		ReadBufferSize: int(m.config.MaxHeader),
		ReadTimeout:    m.config.ReadTimeout,
		WriteTimeout:   m.config.WriteTimeout,
		IdleTimeout:    m.config.IdleTimeout,
		Concurrency:    m.config.MaxConnections,
		ErrorHandler:   m.handleMalformed,
		CaseSensitive:  true,
		UnescapePath:   true,
		JSONEncoder:    encodeJSONLine,
		// The handlers read bodies themselves to bound their memory.
		StreamRequestBody:     true,
		DisableStartupMessage: true,
		// Fiber would parse forms before the handlers and then encode them again.
		DisablePreParseMultipartForm: true,
	})
}

// encodeJSONLine returns the JSON encoding of v, followed by a newline.
func encodeJSONLine(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return append(text, '\n'), err
}

// newApp returns the application for the main address: the public API, and the admin routes,
// which require admin access.
func (m *Main) newApp() *fiber.App {
	app := m.newFiber()
	app.Use(m.observe)
	if len(m.config.CORSOrigin) > 0 {
		app.Use(cors.New(cors.Config{
			AllowOrigins:  strings.Join(m.config.CORSOrigin, ","),
			AllowMethods:  "GET,POST,HEAD",
			AllowHeaders:  "Content-Type,X-Request-Id,Traceparent,Tracestate,Inference-Header-Content-Length",
			ExposeHeaders: "X-Request-Id,Inference-Header-Content-Length,Retry-After",
			MaxAge:        3600,
		}))
	}
	if m.config.RateLimit > 0 {
		app.Use(limiter.New(limiter.Config{
			Max:               m.config.RateLimit,
			Expiration:        time.Second,
			LimiterMiddleware: limiter.SlidingWindow{},
			KeyGenerator:      m.clients.key,
			Next: func(c *fiber.Ctx) bool {
				return slices.Contains(unlimitedPaths, c.Path()) || m.config.UI && (c.Path() == "/" || strings.HasPrefix(c.Path(), pagePrefix))
			},
			LimitReached: func(*fiber.Ctx) error {
				return fiber.NewError(fiber.StatusTooManyRequests, fmt.Sprintf("more than %d requests per second from one client", m.config.RateLimit))
			},
		}))
	}
	if m.config.FeedbackLimit > 0 {
		app.Use("/feedback", m.limitFeedback())
	}
	m.register(app)
	m.serveWith(app)
	return app
}

// newAdminApp returns the application for the admin address: all routes of the main address, and
// profiles of the running program.
func (m *Main) newAdminApp() *fiber.App {
	app := m.newFiber()
	app.Use(m.observe)
	m.register(app)
	app.Get("/debug/pprof/*", m.adminOnly, m.handleProfile)
	m.serveWith(app)
	return app
}

// handleProfile serves Go's profiles. A CPU profile takes as long as the request specifies.
func (m *Main) handleProfile(c *fiber.Ctx) error {
	if !adaptable(c) {
		return fiber.ErrNotFound
	}
	handler := http.HandlerFunc(pprof.Index)
	switch c.Params("*") {
	case "cmdline":
		handler = pprof.Cmdline
	case "profile":
		handler = pprof.Profile
	case "symbol":
		handler = pprof.Symbol
	case "trace":
		handler = pprof.Trace
	}
	if conn, ok := c.Context().Conn().(*conn); ok {
		conn.renew.Store(int64(m.config.WriteTimeout))
	}
	return adaptor.HTTPHandlerFunc(handler)(c)
}

// serveWith wraps the application's handler with what has to happen before and after Fiber.
func (m *Main) serveWith(app *fiber.App) {
	handle := app.Handler()
	app.Server().Handler = func(c *fasthttp.RequestCtx) {
		pending := m.pending.Add(1)
		defer m.pending.Add(-1)
		s := stateOf(c)
		*s = requestState{}
		s.overLimit = pending > int64(m.config.MaxRequests)
		if wrong := ambiguous(&c.Request.Header); wrong != "" {
			writeProblem(&c.Response, fiber.StatusBadRequest, "malformed request header: "+wrong)
			c.Response.SetConnectionClose()
			m.metrics.Route(unmatched, otherMethod).Observe(fiber.StatusBadRequest, time.Since(c.Time()))
		} else if slices.Contains(fiber.DefaultMethods, string(c.Method())) {
			handle(c)
		} else {
			// Fiber itself would respond in plain text to an unknown method, without counting the
			// request.
			writeProblem(&c.Response, fiber.StatusNotImplemented, fmt.Sprintf("unknown method %.20q", c.Method()))
			m.metrics.Route(unmatched, otherMethod).Observe(fiber.StatusNotImplemented, time.Since(c.Time()))
		}
		if c.RequestBodyStream() != nil && !s.bodyRead && c.Request.Header.ContentLength() != 0 {
			// Otherwise the unread body would be parsed as the next request.
			c.Response.SetConnectionClose()
			if conn, ok := c.Conn().(*conn); ok {
				conn.linger.Store(true)
			}
		}
		if m.portClosed.Load() {
			c.Response.SetConnectionClose()
		}
	}
}

// ambiguous returns why the header could be interpreted differently by this server and by a proxy
// in front of it, or "". Such a header enables request smuggling (RFC 9112, sections 5 and 6).
// fasthttp accepts these headers.
func ambiguous(h *fasthttp.RequestHeader) string {
	var lengths, encodings, hosts int
	for rest := h.RawHeaders(); len(rest) > 0; {
		line := rest
		if end := bytes.IndexByte(rest, '\n'); end >= 0 {
			line, rest = rest[:end], rest[end+1:]
		} else {
			rest = nil
		}
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
			continue
		}
		colon := bytes.IndexByte(line, ':')
		if line[0] == ' ' || line[0] == '\t' || colon <= 0 || line[colon-1] == ' ' || line[colon-1] == '\t' {
			return "white space before a field name or its colon"
		}
		switch name := line[:colon]; len(name) {
		case len("Host"):
			if bytes.EqualFold(name, []byte("Host")) {
				hosts++
			}
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				lengths++
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				encodings++
			}
		}
	}
	switch {
	case hosts > 1:
		return "more than one Host field"
	case encodings > 1 || encodings == 1 && (lengths > 0 || !h.IsHTTP11()):
		return "conflicting lengths of the body"
	}
	return ""
}

func stateOf(c *fasthttp.RequestCtx) *requestState {
	if conn, ok := c.Conn().(*conn); ok {
		return &conn.request
	}
	return new(requestState)
}

// state returns the state that the server tracks for the request.
func state(c *fiber.Ctx) *requestState { return stateOf(c.Context()) }

// observe is the middleware around every request. It assigns the request ID, measures the
// request, turns errors into responses and recovers from panics.
func (m *Main) observe(c *fiber.Ctx) (err error) {
	began := c.Context().Time()
	s := state(c)
	s.id = requestID(c)
	h := &c.Response().Header
	h.Set("X-Request-Id", s.id)
	h.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	h.Set(fiber.HeaderCacheControl, "no-store")
	h.Set(fiber.HeaderContentSecurityPolicy, contentSecurityPolicy)
	span := m.beginTrace(c, s)

	if s.overLimit {
		err = busy(fmt.Sprintf("more than %d concurrent requests", m.config.MaxRequests))
	} else {
		err = m.next(c)
	}
	if err != nil {
		err = m.handleError(c, err)
	}
	status := c.Response().StatusCode()
	if s.canceled {
		status = statusClientClosed
	}
	took := time.Since(began)
	route := m.route(c)
	route.Observe(status, took)
	if span != nil {
		endTrace(span, c, route.Pattern, status)
	}
	m.logRequest(c, s, status, took)
	return err
}

// contentSecurityPolicy keeps browsers from treating a response as an active page.
const contentSecurityPolicy = "default-src 'none'; frame-ancestors 'none'"

// next calls the request's handler and converts a panic to an error.
func (m *Main) next(c *fiber.Ctx) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			m.metrics.Panic()
			m.log.Error("panic", "reason", reason, "method", c.Method(), "path", c.Path(), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	return c.Next()
}

// errPanic is returned after a panic, which has been logged already.
var errPanic = fiber.NewError(fiber.StatusInternalServerError, internalDetail)

// maxRequestID is the maximum length of a request ID that a client can set.
const maxRequestID = 128

// requestID returns the value of the header X-Request-Id if it is valid, or else a new UUIDv7.
func requestID(c *fiber.Ctx) string {
	given := c.Request().Header.Peek("X-Request-Id")
	if n := len(given); n == 0 || n > maxRequestID || slices.ContainsFunc(given, func(b byte) bool { return b <= ' ' || b > '~' }) {
		var text [36]byte
		return string(appendUUID(text[:0], uuid.Must(uuid.NewV7())))
	}
	return string(given)
}

// Labels of requests that match no route, and of unknown methods.
const (
	unmatched   = "unmatched"
	otherMethod = "_OTHER"
)

// route returns the counters of the request's route. All paths without a route share their
// counters.
func (m *Main) route(c *fiber.Ctx) *telemetry.Route {
	r := c.Route()
	if known, ok := m.routes.Load(r); ok {
		return known.(*telemetry.Route)
	}
	if len(r.Handlers) == 0 || r.Path == "/" {
		// No route matched, or a middleware rejected the request before the router. The SLOs
		// count rejected requests by route, so look the route up.
		if r, ok := m.literalRoutes[[2]string{c.Method(), c.Path()}]; ok {
			return m.metrics.Route(r.Path, r.Method)
		}
		// Fiber's string of the method is only valid during the request.
		method := fiber.DefaultMethods[slices.Index(fiber.DefaultMethods, c.Method())]
		return m.metrics.Route(unmatched, method)
	}
	counters := m.metrics.Route(r.Path, r.Method)
	m.routes.Store(r, counters)
	return counters
}

// logRequest logs the request: all requests at level debug, server errors at warn or error, and
// one per second of the others at info.
func (m *Main) logRequest(c *fiber.Ctx, s *requestState, status int, took time.Duration) {
	level := slog.LevelDebug
	if status >= 500 {
		level = slog.LevelError
		if status == fiber.StatusServiceUnavailable {
			level = slog.LevelWarn
		}
	}
	if level == slog.LevelDebug && !m.debug {
		m.sample.Do(func() { level = slog.LevelInfo })
	}
	if !m.log.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.Group("httpRequest",
			slog.String("requestMethod", c.Method()),
			slog.String("requestUrl", c.OriginalURL()),
			slog.Int("status", status),
			slog.String("userAgent", c.Get(fiber.HeaderUserAgent)),
			slog.String("remoteIp", m.clients.addr(c).String()),
			slog.String("latency", strconv.FormatFloat(took.Seconds(), 'f', 6, 64)+"s"),
		),
		slog.String("request_id", s.id),
	}
	if s.traceID != "" {
		attrs = append(attrs, slog.String(telemetry.TraceKey, m.tracing.CloudTraceName(s.traceID)))
	}
	m.log.LogAttrs(context.Background(), level, "request", attrs...)
}

// requestError converts an error of the engine to the error to return to the client.
func (m *Main) requestError(err error) error {
	switch {
	case errors.Is(err, infer.ErrNoModel):
		return m.models.missing()
	case errors.Is(err, infer.ErrBusy), errors.Is(err, infer.ErrClosed), errors.Is(err, infer.ErrTooManyExplanations):
		return busy(err.Error())
	case errors.Is(err, explain.ErrNoGradCAM):
		return fiber.NewError(fiber.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, infer.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return busy("the request timed out")
	case errors.Is(err, infer.ErrDisconnected):
		return errClientClosed
	}
	return err
}

// handleMalformed responds to, and counts, data that fasthttp couldn't parse as a request.
func (m *Main) handleMalformed(c *fiber.Ctx, err error) error {
	err = m.handleError(c, err)
	m.metrics.Route(unmatched, otherMethod).Observe(c.Response().StatusCode(), 0)
	return err
}

// handleError writes the response for an error: of a handler, of the router, or one that fasthttp
// encounters before any handler runs.
func (m *Main) handleError(c *fiber.Ctx, err error) error {
	status, detail, public := problemOf(err)
	if !public {
		m.log.Error("request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	switch {
	case errors.Is(err, errClientClosed):
		state(c).canceled = true
		c.Response().SetConnectionClose()
		return nil
	case errors.Is(err, fiber.ErrRequestEntityTooLarge):
		detail = fmt.Sprintf("the request body is larger than %d bytes", m.config.MaxBody)
	case errors.Is(err, fiber.ErrRequestTimeout):
		detail = fmt.Sprintf("the request was not received within %s", m.config.ReadTimeout)
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		detail = fmt.Sprintf("%.200s doesn't support %s", c.Path(), c.Method())
	case errors.Is(err, fiber.ErrRequestHeaderFieldsTooLarge):
		detail = fmt.Sprintf("the request header is larger than %d bytes", m.config.MaxHeader)
	}
	if e, ok := errors.AsType[*unavailable](err); ok {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(e.after))
	}
	if strings.HasPrefix(c.Path(), "/v2/") || c.Path() == "/v2" {
		return writeProtocolError(c, status, detail)
	}
	writeProblem(c.Response(), status, detail)
	return nil
}
