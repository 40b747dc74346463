package main

import (
	"bytes"
	"context"
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

// statusGone is the status under which a request is counted whose client did not
// wait for the answer. It is never sent; the number is nginx's.
const statusGone = 499

// errGone ends the work on such a request.
var errGone = fiber.NewError(statusGone, "the client is gone")

// openPaths are the routes that no rate limit holds up: those who watch the server
// must not be taken for those who use it. Nor are the page's files, of which a browser
// asks for several at once.
var openPaths = []string{"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}

// newFiber makes an application without routes.
func (m *Main) newFiber() *fiber.App {
	return fiber.New(fiber.Config{
		AppName:        "Fakeart",
		BodyLimit:      m.config.MaxBody,
		ReadBufferSize: m.config.MaxHeader,
		ReadTimeout:    m.config.ReadTimeout,
		WriteTimeout:   m.config.WriteTimeout,
		IdleTimeout:    m.config.IdleTimeout,
		Concurrency:    m.config.MaxConnections,
		ErrorHandler:   m.handleUnread,
		CaseSensitive:  true,
		UnescapePath:   true,
		// The handlers read bodies themselves, so that they bound what these take.
		StreamRequestBody:     true,
		DisableStartupMessage: true,
		// Fiber would take forms apart before we see them, and put them together again.
		DisablePreParseMultipartForm: true,
	})
}

// newApp lays out the HTTP interface: what everybody may use, and the
// administrator's routes behind their guard.
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
				return slices.Contains(openPaths, c.Path()) || m.config.UI && (c.Path() == "/" || strings.HasPrefix(c.Path(), pageFolder))
			},
			LimitReached: func(*fiber.Ctx) error {
				return fiber.NewError(fiber.StatusTooManyRequests, fmt.Sprintf("more than %d requests a second from one client", m.config.RateLimit))
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

// newAdminApp lays out the second, administrator's address: all that the first one
// has, and profiles of the running program.
func (m *Main) newAdminApp() *fiber.App {
	app := m.newFiber()
	app.Use(m.observe)
	m.register(app)
	app.Get("/debug/pprof/*", m.adminOnly, m.handleProfile)
	m.serveWith(app)
	return app
}

// handleProfile serves Go's profiles. One of CPU takes as long as it is asked to.
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

// serveWith puts around the application what has to happen before and after Fiber.
func (m *Main) serveWith(app *fiber.App) {
	handle := app.Handler()
	app.Server().Handler = func(c *fasthttp.RequestCtx) {
		pending := m.pending.Add(1)
		defer m.pending.Add(-1)
		s := stateOf(c)
		*s = requestState{}
		s.excess = pending > int64(m.config.MaxRequests)
		if wrong := ambiguous(&c.Request.Header); wrong != "" {
			writeProblem(&c.Response, fiber.StatusBadRequest, "the header is not well-formed: "+wrong)
			c.Response.SetConnectionClose()
			m.metrics.Route(unmatched, otherMethod).Observe(fiber.StatusBadRequest, time.Since(c.Time()))
		} else if slices.Contains(fiber.DefaultMethods, string(c.Method())) {
			handle(c)
		} else {
			// Fiber itself answers a method that it does not know in plain text, and nobody counts it.
			writeProblem(&c.Response, fiber.StatusNotImplemented, fmt.Sprintf("the method %.20q is not known", c.Method()))
			m.metrics.Route(unmatched, otherMethod).Observe(fiber.StatusNotImplemented, time.Since(c.Time()))
		}
		if c.RequestBodyStream() != nil && !s.bodyRead && c.Request.Header.ContentLength() != 0 {
			// What was not read would be taken for the next request.
			c.Response.SetConnectionClose()
			if conn, ok := c.Conn().(*conn); ok {
				conn.linger.Store(true)
			}
		}
		if m.parting.Load() {
			c.Response.SetConnectionClose()
		}
	}
}

// ambiguous says why the header could mean one thing here and another to a proxy before
// us, which then takes a body for a request, or the other way round (RFC 9112, sections
// 5 and 6). fasthttp lets these pass.
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
			return "white space before a name, or before its colon"
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
		return "it names two hosts"
	case encodings > 1 || encodings == 1 && (lengths > 0 || !h.IsHTTP11()):
		return "its body has two lengths"
	}
	return ""
}

func stateOf(c *fasthttp.RequestCtx) *requestState {
	if conn, ok := c.Conn().(*conn); ok {
		return &conn.request
	}
	return new(requestState)
}

// state is what is known of the request besides what it says itself.
func state(c *fiber.Ctx) *requestState { return stateOf(c.Context()) }

// observe is around every request: it names it, measures it, turns errors into
// answers and survives panics.
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

	if s.excess {
		err = busy(fmt.Sprintf("more than %d requests at once", m.config.MaxRequests))
	} else {
		err = m.next(c)
	}
	if err != nil {
		err = m.handleError(c, err)
	}
	status := c.Response().StatusCode()
	if s.canceled {
		status = statusGone
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

// contentSecurityPolicy lets nothing that is sent here act as a page.
const contentSecurityPolicy = "default-src 'none'; frame-ancestors 'none'"

// next calls the request's handler, and makes an error of a panic.
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

// errPanic stands for a panic that has been logged.
var errPanic = fiber.NewError(fiber.StatusInternalServerError, "the server failed to answer; its log says why")

// maxRequestID is the length up to which a client's name for its request is kept.
const maxRequestID = 128

// requestID is the client's name for the request, from X-Request-Id, or a new UUIDv7.
func requestID(c *fiber.Ctx) string {
	given := c.Request().Header.Peek("X-Request-Id")
	if n := len(given); n == 0 || n > maxRequestID || slices.ContainsFunc(given, func(b byte) bool { return b <= ' ' || b > '~' }) {
		var text [36]byte
		return string(appendUUID(text[:0], uuid.Must(uuid.NewV7())))
	}
	return string(given)
}

// The labels of requests that reached no route, and of methods that nobody knows.
const (
	unmatched   = "unmatched"
	otherMethod = "_OTHER"
)

// route are the counters of the request's route. A path without one shares them
// with all others of its kind.
func (m *Main) route(c *fiber.Ctx) *telemetry.Route {
	r := c.Route()
	if known, ok := m.routes.Load(r); ok {
		return known.(*telemetry.Route)
	}
	if len(r.Handlers) == 0 || r.Path == "/" {
		// There is none, or the request was refused before it came there: an objective
		// on the route has to see that.
		if r, ok := m.plain[[2]string{c.Method(), c.Path()}]; ok {
			return m.metrics.Route(r.Path, r.Method)
		}
		// Fiber's text of the method is good for this request alone.
		method := fiber.DefaultMethods[slices.Index(fiber.DefaultMethods, c.Method())]
		return m.metrics.Route(unmatched, method)
	}
	counters := m.metrics.Route(r.Path, r.Method)
	m.routes.Store(r, counters)
	return counters
}

// logRequest says what became of a request: each at debug, failures of our own as
// errors, and one a second of the others.
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
			slog.String("remoteIp", m.clients.of(c).String()),
			slog.String("latency", strconv.FormatFloat(took.Seconds(), 'f', 6, 64)+"s"),
		),
		slog.String("request_id", s.id),
	}
	if s.traceID != "" {
		attrs = append(attrs, slog.String(telemetry.TraceKey, m.tracing.CloudTraceName(s.traceID)))
	}
	m.log.LogAttrs(context.Background(), level, "request", attrs...)
}

// refusal is what a client is told when its pictures were not judged.
func (m *Main) refusal(err error) error {
	switch {
	case errors.Is(err, infer.ErrNoModel):
		return m.models.missing()
	case errors.Is(err, infer.ErrBusy), errors.Is(err, infer.ErrClosed), errors.Is(err, infer.ErrTooManyExplanations):
		return busy(err.Error())
	case errors.Is(err, explain.ErrNoGradCAM):
		return fiber.NewError(fiber.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, infer.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return busy("the request was not answered in time")
	case errors.Is(err, infer.ErrDisconnected):
		return errGone
	}
	return err
}

// handleUnread answers, and counts, what fasthttp could not make a request of.
func (m *Main) handleUnread(c *fiber.Ctx, err error) error {
	err = m.handleError(c, err)
	m.metrics.Route(unmatched, otherMethod).Observe(c.Response().StatusCode(), 0)
	return err
}

// handleError answers for every error: those of handlers, of the router, and those
// that fasthttp meets before any handler.
func (m *Main) handleError(c *fiber.Ctx, err error) error {
	status, detail, told := problemOf(err)
	if !told {
		m.log.Error("request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	switch {
	case errors.Is(err, errGone):
		state(c).canceled = true
		c.Response().SetConnectionClose()
		return nil
	case errors.Is(err, fiber.ErrRequestEntityTooLarge):
		detail = fmt.Sprintf("the body is larger than %d bytes", m.config.MaxBody)
	case errors.Is(err, fiber.ErrRequestTimeout):
		detail = fmt.Sprintf("the request was not received within %s", m.config.ReadTimeout)
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		detail = fmt.Sprintf("%.200s does not take %s", c.Path(), c.Method())
	case errors.Is(err, fiber.ErrRequestHeaderFieldsTooLarge):
		detail = fmt.Sprintf("the header is larger than %d bytes", m.config.MaxHeader)
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
