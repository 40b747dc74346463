package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/server/activity"
	"fakeart/server/driftwatch"
	"fakeart/server/failure"
	"fakeart/server/page"
)

// Health is the response of the liveness check.
type Health struct {
	Status string `json:"status" enum:"ok" doc:"Always ok."`
}

// Readiness is the response of the readiness check.
type Readiness struct {
	Status string `json:"status" enum:"ready" doc:"Always ready. A server that isn't ready returns 503."`
	Model  string `json:"model" doc:"Digest of the default model in use."`
}

// registerState adds the liveness and readiness checks.
func (m *Main) registerState(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/healthz", OperationID: "health", Tags: []string{tagState},
		Summary: "Liveness check",
	}, func(context.Context, *struct{}) (*struct{ Body Health }, error) {
		return &struct{ Body Health }{Health{"ok"}}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/readyz", OperationID: "ready", Tags: []string{tagState},
		Summary: "Readiness check", Errors: []int{503},
		Description: "The server is ready if all models are loaded, the prediction log is writable and the server isn't shutting down.",
	}, func(context.Context, *struct{}) (*struct{ Body Readiness }, error) {
		if err := m.unready(); err != nil {
			return nil, failure.ForOperation(err)
		}
		return &struct{ Body Readiness }{Readiness{"ready", m.models.Default().Current().File.Digest}}, nil
	})
}

// registerDrift adds the route that returns the result of the last drift check.
func (m *Main) registerDrift(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/drift", OperationID: "drift", Tags: []string{tagLog}, Summary: "Drift of the prediction log from the model's reference",
		Description: "Returns the result of the last drift check. The status is 409 if the check failed, with the reason, and 404 if drift checks are disabled.",
		Security:    m.adminSecurity(), Middlewares: huma.Middlewares{m.humaAdminOnly}, Errors: []int{401, 403, 404, 409},
	}, func(context.Context, *struct{}) (*struct{ Body driftwatch.Drift }, error) {
		if m.drift == nil {
			return nil, failure.NewProblem(fiber.StatusNotFound, "drift checks are disabled on this server; enable them with --drift-reference")
		}
		found, err := m.drift.Last()
		if err != nil {
			return nil, failure.NewProblem(fiber.StatusConflict, "drift check failed: "+err.Error())
		}
		return &struct{ Body driftwatch.Drift }{*found}, nil
	})
}

// registerStats adds the route from which the web page reads the state of the server.
func (m *Main) registerStats(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/stats", OperationID: "stats", Tags: []string{tagState}, Summary: "Recent activity of the instance",
		Description: "Returns counts and latencies of this instance, for people. /metrics has all metrics, for Prometheus.",
	}, func(context.Context, *struct{}) (*struct{ Body activity.Stats }, error) {
		s, err := m.history.Stats(time.Now().UTC())
		if err != nil {
			m.log.Error("read metrics", "error", err)
			return nil, failure.ForOperation(err)
		}
		return &struct{ Body activity.Stats }{*s}, nil
	})
}

// unready returns nil if the server is ready, or an *failure.Unavailable with the reason why it should
// receive no requests.
func (m *Main) unready() error {
	if err := m.models.Missing(); err != nil && !m.draining.Load() {
		return err
	}
	return m.working()
}

// working returns nil if the server can answer requests, whatever models are loaded, or an *failure.Unavailable.
func (m *Main) working() error {
	if m.draining.Load() {
		return failure.Busy("the server is shutting down")
	}
	if m.predictions != nil {
		if err := m.predictions.Err(); err != nil {
			return failure.Busy("the prediction log isn't writable: " + err.Error())
		}
	}
	return nil
}

// handleDocs serves the OpenAPI document as a page.
func (m *Main) handleDocs(c *fiber.Ctx) error {
	if strings.HasSuffix(c.Path(), "/") {
		return c.Redirect("../docs", fiber.StatusPermanentRedirect) // the page's link is relative
	}
	file, err := m.docs()
	if err != nil {
		return err
	}
	return sendFile(c, file, page.DocsPolicy)
}

// adaptable reports whether the request can be converted to one of net/http, which requires a
// well-formed path.
func adaptable(c *fiber.Ctx) bool {
	_, err := url.ParseRequestURI(string(c.Request().RequestURI()))
	return err == nil
}
