package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/cors"

	"fakeart/internal/cli"
	"fakeart/internal/explain"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/listen"
	"fakeart/server/page"
	"fakeart/server/request"
)

// predictRoutes are the patterns of the routes that take image files.
var predictRoutes = []string{"/predict", "/model/"}

// unlimitedPaths are exempt from the rate limit, because monitoring must work while a client
// exceeds it. So are the files of the web page, of which a browser requests several at once.
var unlimitedPaths = []string{"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}

// newApp returns the application for the main address: the public API, and the admin routes,
// which require admin access.
func (m *Main) newApp() *fiber.App {
	app := m.front.NewApp()
	app.Use(m.front.Observe)
	if m.cors != nil {
		app.Use(m.cors)
	}
	if m.config.RateLimit > 0 {
		detail := fmt.Sprintf("more than %d requests per second from one client", m.config.RateLimit)
		app.Use(m.clients.Limit(m.config.RateLimit, time.Second, detail, func(c *fiber.Ctx) bool {
			return slices.Contains(unlimitedPaths, c.Path()) || m.config.UI && (c.Path() == "/" || strings.HasPrefix(c.Path(), page.Prefix))
		}))
	}
	if m.config.FeedbackLimit > 0 {
		app.Use("/feedback", m.clients.Limit(m.config.FeedbackLimit, time.Minute,
			fmt.Sprintf("more than %d feedback requests per minute from one client", m.config.FeedbackLimit), nil))
	}
	m.register(app)
	m.front.Serve(app)
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
	app := m.front.NewApp()
	app.Use(m.front.Observe)
	m.register(app)
	app.Get("/debug/pprof/*", m.guard().AdminOnly, m.handleProfile)
	m.front.Serve(app)
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

// adaptable reports whether the request can be converted to one of net/http, which requires a
// well-formed path.
func adaptable(c *fiber.Ctx) bool {
	_, err := url.ParseRequestURI(string(c.Request().RequestURI()))
	return err == nil
}

// requestError converts an error of the engine to the error to return to the client.
func (m *Main) requestError(err error) error {
	switch {
	case errors.Is(err, infer.ErrTooLarge):
		return fiber.NewError(fiber.StatusRequestEntityTooLarge, err.Error())
	case errors.Is(err, infer.ErrBusy), errors.Is(err, infer.ErrClosed), errors.Is(err, infer.ErrTooManyExplanations):
		return failure.Busy(err.Error())
	case errors.Is(err, explain.ErrNoGradCAM):
		return fiber.NewError(fiber.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, infer.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return request.ErrTimedOut
	case errors.Is(err, infer.ErrDisconnected):
		return request.ErrClientClosed
	}
	return err
}
