// Package front is what every HTTP request passes before and after its handler: checks of the header,
// the limits on the transfer, metrics, the trace, the log line, compression, and errors as responses.
// [Front.NewApp] returns an application, to which routes are added, and [Front.Serve] prepares it for
// serving. Handlers read bodies with [Front.ReadBody].
package front

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http/httpguts"

	"fakeart/server/failure"
	"fakeart/server/limit"
	"fakeart/server/listen"
	"fakeart/server/oip"
	"fakeart/server/request"
	"fakeart/server/telemetry"
)

// Options are the limits of a Front, and what it consists of. All fields are required.
type Options struct {
	MaxBody, MaxHeader                     int // in bytes
	MaxConnections                         int
	ReadTimeout, WriteTimeout, IdleTimeout time.Duration

	ImageRoutes []string    // patterns of the routes that take image files
	Closing     func() bool // whether to ask each client to connect elsewhere

	Requests *request.Tracker
	Bodies   *limit.Bodies
	Clients  *limit.Clients
	Metrics  *telemetry.Metrics
	Logger   *slog.Logger
}

// Front is what every HTTP request passes before and after its handler. It is safe for concurrent use,
// except Describe.
type Front struct {
	Options

	counters      sync.Map                  // *telemetry.Route by *fiber.Route
	literalRoutes map[[2]string]fiber.Route // routes by method and path; read-only once serving
	parameters    map[string]bool           // names of all query parameters; read-only once serving
}

// New returns a Front for applications that aren't serving yet.
func New(o Options) *Front { return &Front{Options: o} }

// Describe sets the routes of the application, and the names of all query parameters, which are then
// logged. Call it before the application is served.
func (f *Front) Describe(routes []fiber.Route, parameters map[string]bool) {
	f.literalRoutes, f.parameters = map[[2]string]fiber.Route{}, parameters
	for _, r := range routes {
		f.literalRoutes[[2]string{r.Method, r.Path}] = r
	}
}

// NewApp returns an application without routes, for [Front.Serve].
func (f *Front) NewApp() *fiber.App {
	return fiber.New(fiber.Config{
		AppName:        "Fakeart",
		BodyLimit:      f.MaxBody,
		ReadBufferSize: f.MaxHeader,
		ReadTimeout:    f.ReadTimeout,
		WriteTimeout:   f.WriteTimeout,
		IdleTimeout:    f.IdleTimeout,
		// The listener rejects connections above the limit. fasthttp would do so in plain text, and
		// its count still includes connections that are being closed.
		Concurrency:    2 * f.MaxConnections,
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
// counting the request. Serve replaces such a method by request.OtherMethod, which no route has.
var requestMethods = append(slices.Clone(fiber.DefaultMethods), request.OtherMethod)

// encodeJSONLine returns the JSON encoding of v, followed by a newline.
func encodeJSONLine(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return append(text, '\n'), err
}

// Serve wraps the application's handler with what has to happen before and after Fiber.
func (f *Front) Serve(app *fiber.App) {
	handle := app.Handler()
	app.Server().HeaderReceived = deferBody
	app.Server().ErrorHandler = f.handleMalformed
	app.Server().Handler = func(c *fasthttp.RequestCtx) {
		overLimit := f.Requests.Begin()
		defer f.Requests.End()
		h := readHead(&c.Request.Header)
		s := stateOf(c)
		*s = request.State{
			ID: requestID(&c.Request.Header), Continues: h.continues, HasBody: h.body, Received: f.Requests.Now(), OverLimit: overLimit,
		}
		setCommonHeaders(&c.Response.Header, s.ID)
		if h.body && (c.IsGet() || c.IsHead()) {
			// No route reads it, but fasthttp's adapter for net/http would, whatever its size.
			c.Request.ResetBody()
		}
		switch {
		case h.invalid != "":
			f.reject(c, fiber.StatusBadRequest, "malformed request header: "+h.invalid)
			c.Response.SetConnectionClose()
		case bytes.Contains(c.URI().PathOriginal(), []byte("%2F")), bytes.Contains(c.URI().PathOriginal(), []byte("%2f")):
			// Fiber would route /log%2Fexport like /log/export, unlike proxies in front of it.
			f.reject(c, fiber.StatusNotFound, fmt.Sprintf("unknown path %.80q", c.URI().PathOriginal()))
		case h.expectation:
			f.reject(c, fiber.StatusExpectationFailed, "unknown expectation in the header Expect; the only one is 100-continue")
		default:
			if i := slices.IndexFunc(requestMethods, func(known string) bool { return known == string(c.Method()) }); i >= 0 {
				s.Method = requestMethods[i]
			} else {
				s.Method = string(c.Method())
				c.Request.Header.SetMethod(request.OtherMethod)
			}
			handle(c)
		}
		if s.HasBody && !s.BodyRead {
			// Otherwise the unread body would be parsed as the next request.
			c.Response.SetConnectionClose()
			if conn, ok := c.Conn().(*listen.Conn); ok {
				conn.Linger()
			}
		}
		if f.Closing() {
			c.Response.SetConnectionClose()
		}
		if conn, ok := c.Conn().(*listen.Conn); ok {
			conn.EndRequest()
		}
	}
}

// reject responds to, and counts, a request that isn't passed to Fiber.
func (f *Front) reject(c *fasthttp.RequestCtx, status int, detail string) {
	writeError(&c.Response, string(c.URI().PathOriginal()), status, detail)
	f.Metrics.Route(request.Unmatched, request.OtherMethod).Observe(status, 0)
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

// Observe is the middleware around every request. It measures the request, turns errors into
// responses and recovers from panics.
func (f *Front) Observe(c *fiber.Ctx) error {
	s := State(c)
	var err error
	if s.OverLimit {
		err = f.Requests.ErrOverLimit()
	} else {
		err = f.next(c)
	}
	if err != nil {
		f.HandleError(c, err)
	}
	compressResponse(c)
	status := c.Response().StatusCode()
	if s.Canceled {
		status = request.StatusClientClosed
	}
	took := f.Requests.Now().Sub(s.Received)
	route := f.route(c)
	route.ObserveSize(status, took, f.size(s, route.Pattern))
	if conn, ok := c.Context().Conn().(*listen.Conn); ok && (s.BodyRead || !s.HasBody) {
		route.ObserveReceive(conn.SinceFirstByte(s.Received))
	}
	f.beginTrace(c) // unless ReadBody has done so
	if s.Span != nil {
		endTrace(s.Span, c, route.Pattern, status)
	}
	f.logRequest(c, s, status, took)
	return nil
}

// size returns the size class of a request to the route.
func (f *Front) size(s *request.State, route string) telemetry.Size {
	switch {
	case !slices.Contains(f.ImageRoutes, route):
		return telemetry.NoImages
	case s.Explained || s.Slow || s.Pixels > telemetry.SmallPixels:
		return telemetry.Large
	}
	return telemetry.Small
}

// contentSecurityPolicy keeps browsers from treating a response as an active page.
const contentSecurityPolicy = "default-src 'none'; frame-ancestors 'none'"

// next calls the request's handler and converts a panic to an error.
func (f *Front) next(c *fiber.Ctx) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			f.Metrics.Panic()
			f.Logger.Error("panic", "reason", reason, "method", c.Method(), "path", c.Path(), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	return c.Next()
}

// errPanic is returned after a panic, which has been logged already.
var errPanic = fiber.NewError(fiber.StatusInternalServerError, failure.Internal)

// requestID returns the value of the header X-Request-Id if it is valid, or else a new UUIDv7.
func requestID(h *fasthttp.RequestHeader) string { return request.ID(h.Peek("X-Request-Id")) }

// route returns the counters of the request's route. All paths without a route share their
// counters.
func (f *Front) route(c *fiber.Ctx) *telemetry.Route {
	r := c.Route()
	if known, ok := f.counters.Load(r); ok {
		return known.(*telemetry.Route)
	}
	if len(r.Handlers) == 0 || r.Path == "/" {
		// No route matched, or a middleware rejected the request before the router. The SLOs
		// count rejected requests by route, so look the route up.
		if r, ok := f.literalRoutes[[2]string{c.Method(), c.Path()}]; ok {
			return f.Metrics.Route(r.Path, r.Method)
		}
		// Fiber's string of the method is only valid during the request.
		method := requestMethods[slices.Index(requestMethods, c.Method())]
		return f.Metrics.Route(request.Unmatched, method)
	}
	counters := f.Metrics.Route(r.Path, r.Method)
	f.counters.Store(r, counters)
	return counters
}

// logRequest logs the request: all requests at level debug, server errors at warn or error, and
// one per second of the others at info.
func (f *Front) logRequest(c *fiber.Ctx, s *request.State, status int, took time.Duration) {
	level, ok := f.Requests.Level(status)
	if !ok {
		return
	}
	f.Requests.Log(level, s, request.Line{
		URL: f.loggedURL(c), Status: status, UserAgent: c.Get(fiber.HeaderUserAgent), Client: f.Clients.Addr(c), Took: took,
	})
}

// loggedURL returns the request's path and query. A query with unknown parameters, which could be
// secrets, is left out.
func (f *Front) loggedURL(c *fiber.Ctx) string {
	uri := c.Request().URI()
	path, query := string(uri.PathOriginal()), string(uri.QueryString())
	if query == "" {
		return path
	}
	for key := range uri.QueryArgs().All() {
		if !f.parameters[string(key)] {
			return path + "?…"
		}
	}
	return path + "?" + query
}

// handleMalformed responds to, and counts, data that fasthttp couldn't read as a request. The text
// of fasthttp's errors quotes the data, which can contain secrets, so it isn't used.
func (f *Front) handleMalformed(c *fasthttp.RequestCtx, err error) {
	status, detail := fiber.StatusBadRequest, "malformed request: the request line or a header field is invalid"
	switch e, _ := errors.AsType[net.Error](err); {
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		status, detail = fiber.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request header is larger than %d bytes", f.MaxHeader)
	case e != nil && e.Timeout():
		status, detail = fiber.StatusRequestTimeout, f.ReceiveTimeout()
	case errors.Is(err, fasthttp.ErrDuplicateContentLength):
		detail = "malformed request header: more than one Content-Length field"
	}
	setCommonHeaders(&c.Response.Header, requestID(&c.Request.Header))
	f.reject(c, status, detail)
	if conn, ok := c.Conn().(*listen.Conn); ok {
		conn.Linger()
	}
}

// RejectConnection responds to, and closes, a connection above Options.MaxConnections.
func (f *Front) RejectConnection(c net.Conn) {
	var response fasthttp.Response
	setCommonHeaders(&response.Header, request.NewID())
	failure.WriteProblem(&response, fiber.StatusServiceUnavailable, fmt.Sprintf("more than %d connections", f.MaxConnections))
	response.Header.Set(fiber.HeaderRetryAfter, "1")
	response.SetConnectionClose()
	if c.SetWriteDeadline(time.Now().Add(listen.InterimTimeout)) == nil {
		_, _ = response.WriteTo(c)
	}
	_ = c.Close()
	f.Metrics.Route(request.Unmatched, request.OtherMethod).Observe(fiber.StatusServiceUnavailable, 0)
}

// ReceiveTimeout returns the detail for a request that wasn't received in time.
func (f *Front) ReceiveTimeout() string {
	return fmt.Sprintf("the request was not received within %s", f.ReadTimeout)
}

// HandleError writes the response for an error of a handler or of the router.
func (f *Front) HandleError(c *fiber.Ctx, err error) {
	status, detail, public := failure.Of(err)
	if !public {
		f.Logger.Error("request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	switch {
	case errors.Is(err, request.ErrClientClosed):
		State(c).Canceled = true
		c.Response().SetConnectionClose()
		return
	case errors.Is(err, fiber.ErrRequestEntityTooLarge):
		detail = fmt.Sprintf("the request body is larger than %d bytes", f.MaxBody)
	case errors.Is(err, fiber.ErrRequestTimeout):
		detail = f.ReceiveTimeout()
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		detail = fmt.Sprintf("%.80q doesn't support %.20q", c.Path(), State(c).Method)
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
		response.SetStatusCode(status)
		response.Header.SetContentType(oip.TypeJSON)
		response.SetBody(append(oip.AppendError(nil, failure.OneLine(detail)), '\n'))
		return
	}
	failure.WriteProblem(response, status, detail)
}
