package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http/httpguts"

	"fakeart/internal/cli"
	"fakeart/internal/explain"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/listen"
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
		// The listener rejects connections above the limit. fasthttp would do so in plain text, and
		// its count still includes connections that are being closed.
		Concurrency:    2 * m.config.MaxConnections,
		RequestMethods: requestMethods,
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

// requestMethods are the methods that Fiber knows. It would respond to any other in plain text, without
// counting the request. serveWith replaces such a method by otherMethod, which no route has.
var requestMethods = append(slices.Clone(fiber.DefaultMethods), otherMethod)

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
	if m.cors != nil {
		app.Use(m.cors)
	}
	if m.config.RateLimit > 0 {
		detail := fmt.Sprintf("more than %d requests per second from one client", m.config.RateLimit)
		app.Use(m.clients.Limit(m.config.RateLimit, time.Second, detail, func(c *fiber.Ctx) bool {
			return slices.Contains(unlimitedPaths, c.Path()) || m.config.UI && (c.Path() == "/" || strings.HasPrefix(c.Path(), pagePrefix))
		}))
	}
	if m.config.FeedbackLimit > 0 {
		app.Use("/feedback", m.clients.Limit(m.config.FeedbackLimit, time.Minute,
			fmt.Sprintf("more than %d feedback requests per minute from one client", m.config.FeedbackLimit), nil))
	}
	m.register(app)
	m.serveWith(app)
	return app
}

// newCORS returns the middleware that allows web pages of other origins to use the API, or nil if
// there are no origins. The error lists all invalid ones.
func newCORS(origins []string) (fiber.Handler, error) {
	if len(origins) == 0 {
		return nil, nil
	}
	var errs []error
	for _, origin := range origins {
		switch {
		case origin == "*" && len(origins) > 1:
			errs = append(errs, errors.New("--cors-origin=*: can't be used with other origins, because it already allows them\n"+cli.HintPrefix+"remove the other origins, or *"))
		case origin != "*" && !validOrigin(origin):
			errs = append(errs, fmt.Errorf("--cors-origin=%s: invalid origin\n"+cli.HintPrefix+"use a scheme and a host, such as https://example.org, https://*.example.org for its subdomains, or * for every origin", origin))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return cors.New(cors.Config{ // panics if an origin is invalid
		AllowOrigins:  strings.Join(origins, ","),
		AllowMethods:  "GET,POST,HEAD",
		AllowHeaders:  "Content-Type,X-Request-Id,Traceparent,Tracestate,Inference-Header-Content-Length",
		ExposeHeaders: "X-Request-Id,Inference-Header-Content-Length,Retry-After",
		MaxAge:        3600,
	}), nil
}

// validOrigin reports whether a browser could send the origin (RFC 6454, section 6.2), in which the
// first label of the host may be *.
func validOrigin(origin string) bool {
	scheme, host, found := strings.Cut(origin, "://")
	host = strings.TrimPrefix(host, "*.")
	if !found || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("*,/?#@%\\", r) }) {
		return false
	}
	u, err := url.Parse(scheme + "://" + host)
	if err != nil || u.Hostname() == "" || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ":") {
		return false
	}
	_, err = strconv.ParseUint(cmp.Or(u.Port(), "0"), 10, 16)
	return err == nil
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
	if conn, ok := c.Context().Conn().(*listen.Conn); ok {
		conn.RenewWriteDeadline(m.config.WriteTimeout)
	}
	return adaptor.HTTPHandlerFunc(handler)(c)
}

// serveWith wraps the application's handler with what has to happen before and after Fiber.
func (m *Main) serveWith(app *fiber.App) {
	handle := app.Handler()
	app.Server().HeaderReceived = deferBody
	app.Server().ErrorHandler = m.handleMalformed
	app.Server().Handler = func(c *fasthttp.RequestCtx) {
		pending := m.pending.Add(1)
		defer m.pending.Add(-1)
		h := readHead(&c.Request.Header)
		s := stateOf(c)
		*s = requestState{id: requestID(&c.Request.Header), continues: h.continues, hasBody: h.body, received: m.now()}
		s.overLimit = pending > int64(m.config.MaxRequests)
		setCommonHeaders(&c.Response.Header, s.id)
		if h.body && (c.IsGet() || c.IsHead()) {
			// No route reads it, but fasthttp's adapter for net/http would, whatever its size.
			c.Request.ResetBody()
		}
		switch {
		case h.invalid != "":
			m.reject(c, fiber.StatusBadRequest, "malformed request header: "+h.invalid)
			c.Response.SetConnectionClose()
		case bytes.Contains(c.URI().PathOriginal(), []byte("%2F")), bytes.Contains(c.URI().PathOriginal(), []byte("%2f")):
			// Fiber would route /log%2Fexport like /log/export, unlike proxies in front of it.
			m.reject(c, fiber.StatusNotFound, fmt.Sprintf("unknown path %.80q", c.URI().PathOriginal()))
		case h.expectation:
			m.reject(c, fiber.StatusExpectationFailed, "unknown expectation in the header Expect; the only one is 100-continue")
		default:
			if i := slices.IndexFunc(requestMethods, func(known string) bool { return known == string(c.Method()) }); i >= 0 {
				s.method = requestMethods[i]
			} else {
				s.method = string(c.Method())
				c.Request.Header.SetMethod(otherMethod)
			}
			handle(c)
		}
		if s.hasBody && !s.bodyRead {
			// Otherwise the unread body would be parsed as the next request.
			c.Response.SetConnectionClose()
			if conn, ok := c.Conn().(*listen.Conn); ok {
				conn.Linger()
			}
		}
		if m.portClosed.Load() {
			c.Response.SetConnectionClose()
		}
		if conn, ok := c.Conn().(*listen.Conn); ok {
			conn.EndRequest()
		}
	}
}

// reject responds to, and counts, a request that isn't passed to Fiber.
func (m *Main) reject(c *fasthttp.RequestCtx, status int, detail string) {
	writeError(&c.Response, string(c.URI().PathOriginal()), status, detail)
	m.metrics.Route(unmatched, otherMethod).Observe(status, 0)
}

// setCommonHeaders sets the headers of all responses.
func setCommonHeaders(h *fasthttp.ResponseHeader, id string) {
	h.Set("X-Request-Id", id)
	h.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	h.Set(fiber.HeaderCacheControl, "no-store")
	h.Set(fiber.HeaderContentSecurityPolicy, contentSecurityPolicy)
}

// deferBody makes fasthttp call the handler as soon as it has received the header. fasthttp
// otherwise reads up to 8 KiB of the body first, and requests every body that a client announces
// with Expect: 100-continue. It reads nothing of a chunked body; readHead restores the length.
func deferBody(h *fasthttp.RequestHeader) (config fasthttp.RequestConfig) {
	h.Del(fiber.HeaderExpect)
	if h.ContentLength() > 0 {
		h.SetContentLength(-1)
	}
	return config
}

// head describes the transfer of a request.
type head struct {
	invalid     string // why the request must be rejected
	body        bool   // whether the request has a body that isn't empty
	continues   bool   // whether the client waits for 100 Continue before it sends the body
	expectation bool   // whether the client expects something unknown
}

// readHead reads the raw header and restores the length of the body that deferBody removed. It
// detects headers that could be interpreted differently by this server and by a proxy in front of
// it, which enables request smuggling (RFC 9112, sections 3.2, 5 and 6). fasthttp accepts them.
func readHead(h *fasthttp.RequestHeader) (r head) {
	var hosts, lengths, encodings int
	length := 0
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
			r.invalid = "white space before a field name or its colon"
			return r
		}
		name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
		switch len(name) { // most fields need no comparison
		case len("Host"):
			if bytes.EqualFold(name, []byte("Host")) {
				hosts++
			}
		case len("Expect"):
			if bytes.EqualFold(name, []byte("Expect")) {
				r.continues = bytes.EqualFold(value, []byte("100-continue"))
				r.expectation = !r.continues
			}
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				lengths++
				length, _ = fasthttp.ParseUint(value) // valid, because fasthttp has parsed it
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				encodings++
			}
		}
	}
	if lengths > 0 && encodings == 0 {
		h.SetContentLength(length)
	}
	r.body = h.ContentLength() == -1 || h.ContentLength() > 0
	if !r.body || !h.IsHTTP11() { // RFC 9110, section 10.1.1
		r.continues = false
	}
	switch {
	case hosts > 1:
		r.invalid = "more than one Host field"
	case hosts == 0 && h.IsHTTP11():
		r.invalid = "missing Host field"
	case !httpguts.ValidHostHeader(string(h.Host())):
		r.invalid = "invalid Host field"
	case encodings > 1 || encodings == 1 && (lengths > 0 || !h.IsHTTP11()):
		r.invalid = "conflicting lengths of the body"
	}
	return r
}

// observe is the middleware around every request. It measures the request, turns errors into
// responses and recovers from panics.
func (m *Main) observe(c *fiber.Ctx) error {
	s := state(c)
	var err error
	if s.overLimit {
		err = m.overLimit()
	} else {
		err = m.next(c)
	}
	if err != nil {
		m.handleError(c, err)
	}
	compressResponse(c)
	status := c.Response().StatusCode()
	if s.canceled {
		status = statusClientClosed
	}
	took := m.now().Sub(s.received)
	route := m.route(c)
	route.ObserveSize(status, took, s.size(route.Pattern))
	if conn, ok := c.Context().Conn().(*listen.Conn); ok && (s.bodyRead || !s.hasBody) {
		route.ObserveReceive(conn.SinceFirstByte(s.received))
	}
	m.beginTrace(c) // unless readBody has done so
	if s.span != nil {
		endTrace(s.span, c, route.Pattern, status)
	}
	m.logRequest(c, s, status, took)
	return nil
}

// predictRoutes are the patterns of the routes that take image files.
var predictRoutes = []string{"/predict", "/model/"}

// size returns the size class of a request to the route.
func (s *requestState) size(route string) telemetry.Size {
	switch {
	case !slices.Contains(predictRoutes, route):
		return telemetry.NoImages
	case s.explained || s.slow || s.pixels > telemetry.SmallPixels:
		return telemetry.Large
	}
	return telemetry.Small
}

// overLimit returns the error for a request that exceeds Config.MaxRequests.
func (m *Main) overLimit() error {
	return failure.Busy(fmt.Sprintf("more than %d concurrent requests", m.config.MaxRequests))
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
var errPanic = fiber.NewError(fiber.StatusInternalServerError, failure.Internal)

// maxRequestID is the maximum length of a request ID that a client can set.
const maxRequestID = 128

// requestID returns the value of the header X-Request-Id if it is valid, or else a new UUIDv7.
func requestID(h *fasthttp.RequestHeader) string { return validRequestID(h.Peek("X-Request-Id")) }

// validRequestID returns the ID that a client sent if it is valid, or else a new one.
func validRequestID(given []byte) string {
	if n := len(given); n == 0 || n > maxRequestID || slices.ContainsFunc(given, func(b byte) bool { return b <= ' ' || b > '~' }) {
		return newRequestID()
	}
	return string(given)
}

func newRequestID() string {
	var text [36]byte
	return string(appendUUID(text[:0], uuid.Must(uuid.NewV7())))
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
		method := requestMethods[slices.Index(requestMethods, c.Method())]
		return m.metrics.Route(unmatched, method)
	}
	counters := m.metrics.Route(r.Path, r.Method)
	m.routes.Store(r, counters)
	return counters
}

// logRequest logs the request: all requests at level debug, server errors at warn or error, and
// one per second of the others at info.
func (m *Main) logRequest(c *fiber.Ctx, s *requestState, status int, took time.Duration) {
	level, ok := m.requestLevel(status)
	if !ok {
		return
	}
	m.writeRequest(level, s, requestLine{
		url: m.loggedURL(c), status: status, userAgent: c.Get(fiber.HeaderUserAgent), client: m.clients.Addr(c), took: took,
	})
}

// requestLevel returns the level at which a request is logged. ok is false if it isn't.
func (m *Main) requestLevel(status int) (level slog.Level, ok bool) {
	level = slog.LevelDebug
	if status >= 500 {
		level = slog.LevelError
		if status == fiber.StatusServiceUnavailable {
			level = slog.LevelWarn
		}
	}
	if level == slog.LevelDebug && !m.debug {
		m.sample.Do(func() { level = slog.LevelInfo })
	}
	return level, m.log.Enabled(context.Background(), level)
}

// requestLine is what is logged about a request.
type requestLine struct {
	url       string
	status    int
	userAgent string
	client    netip.Addr
	took      time.Duration
}

func (m *Main) writeRequest(level slog.Level, s *requestState, r requestLine, more ...slog.Attr) {
	attrs := append(more,
		slog.Group("httpRequest",
			slog.String("requestMethod", s.method),
			slog.String("requestUrl", r.url),
			slog.Int("status", r.status),
			slog.String("userAgent", r.userAgent),
			slog.String("remoteIp", r.client.String()),
			slog.String("latency", strconv.FormatFloat(r.took.Seconds(), 'f', 6, 64)+"s"),
		),
		slog.String("request_id", s.id),
	)
	if s.traceID != "" {
		attrs = append(attrs, slog.String(telemetry.TraceKey, m.tracing.CloudTraceName(s.traceID)))
	}
	m.log.LogAttrs(context.Background(), level, "request", attrs...)
}

// loggedURL returns the request's path and query. A query with unknown parameters, which could be
// secrets, is left out.
func (m *Main) loggedURL(c *fiber.Ctx) string {
	uri := c.Request().URI()
	path, query := string(uri.PathOriginal()), string(uri.QueryString())
	if query == "" {
		return path
	}
	for key := range uri.QueryArgs().All() {
		if !m.parameters[string(key)] {
			return path + "?…"
		}
	}
	return path + "?" + query
}

// errTimedOut is returned for a request that wasn't processed by its deadline.
var errTimedOut = failure.Busy("the request timed out")

// requestError converts an error of the engine to the error to return to the client.
func (m *Main) requestError(err error) error {
	switch {
	case errors.Is(err, infer.ErrNoModel):
		return m.models.missing()
	case errors.Is(err, infer.ErrBusy), errors.Is(err, infer.ErrClosed), errors.Is(err, infer.ErrTooManyExplanations):
		return failure.Busy(err.Error())
	case errors.Is(err, explain.ErrNoGradCAM):
		return fiber.NewError(fiber.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, infer.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return errTimedOut
	case errors.Is(err, infer.ErrDisconnected):
		return errClientClosed
	}
	return err
}

// handleMalformed responds to, and counts, data that fasthttp couldn't read as a request. The text
// of fasthttp's errors quotes the data, which can contain secrets, so it isn't used.
func (m *Main) handleMalformed(c *fasthttp.RequestCtx, err error) {
	status, detail := fiber.StatusBadRequest, "malformed request: the request line or a header field is invalid"
	switch e, _ := errors.AsType[net.Error](err); {
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		status, detail = fiber.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request header is larger than %d bytes", m.config.MaxHeader)
	case e != nil && e.Timeout():
		status, detail = fiber.StatusRequestTimeout, m.requestTimeout()
	case errors.Is(err, fasthttp.ErrDuplicateContentLength):
		detail = "malformed request header: more than one Content-Length field"
	}
	setCommonHeaders(&c.Response.Header, requestID(&c.Request.Header))
	m.reject(c, status, detail)
	if conn, ok := c.Conn().(*listen.Conn); ok {
		conn.Linger()
	}
}

// rejectConnection responds to, and closes, a connection above Config.MaxConnections.
func (m *Main) rejectConnection(c net.Conn) {
	var response fasthttp.Response
	setCommonHeaders(&response.Header, newRequestID())
	failure.WriteProblem(&response, fiber.StatusServiceUnavailable, fmt.Sprintf("more than %d connections", m.config.MaxConnections))
	response.Header.Set(fiber.HeaderRetryAfter, "1")
	response.SetConnectionClose()
	if c.SetWriteDeadline(time.Now().Add(listen.InterimTimeout)) == nil {
		_, _ = response.WriteTo(c)
	}
	_ = c.Close()
	m.metrics.Route(unmatched, otherMethod).Observe(fiber.StatusServiceUnavailable, 0)
}

func (m *Main) requestTimeout() string {
	return fmt.Sprintf("the request was not received within %s", m.config.ReadTimeout)
}

// handleError writes the response for an error of a handler or of the router.
func (m *Main) handleError(c *fiber.Ctx, err error) {
	status, detail, public := failure.Of(err)
	if !public {
		m.log.Error("request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	switch {
	case errors.Is(err, errClientClosed):
		state(c).canceled = true
		c.Response().SetConnectionClose()
		return
	case errors.Is(err, fiber.ErrRequestEntityTooLarge):
		detail = fmt.Sprintf("the request body is larger than %d bytes", m.config.MaxBody)
	case errors.Is(err, fiber.ErrRequestTimeout):
		detail = m.requestTimeout()
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		detail = fmt.Sprintf("%.80q doesn't support %.20q", c.Path(), state(c).method)
	case status == fiber.StatusNotFound && strings.HasPrefix(detail, "Cannot "): // the router's text contains the whole path
		detail = fmt.Sprintf("unknown path %.80q", c.Path())
	}
	if e, ok := errors.AsType[*failure.Unavailable](err); ok {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(e.After))
	}
	writeError(c.Response(), c.Path(), status, detail)
}

// writeError writes an error as a problem document or, under /v2, as an error object of the Open
// Inference Protocol.
func writeError(response *fasthttp.Response, path string, status int, detail string) {
	if strings.HasPrefix(path, "/v2/") || path == "/v2" {
		writeProtocolError(response, status, detail)
		return
	}
	failure.WriteProblem(response, status, detail)
}
