package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/server/activity"
	"fakeart/server/driftwatch"
	"fakeart/server/failure"
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

// State are the routes for the state of the server.
type State struct {
	Unready func() error           // why the server isn't ready, or nil if it is
	Model   func() (string, error) // digest of the model in use, or why no model is in use
	Drift   *driftwatch.Monitor    // nil if drift checks are disabled
	History *activity.History
	Logger  *slog.Logger
}

// Register adds the routes.
func (s State) Register(api huma.API, guard Guard) {
	s.registerHealth(api)
	s.registerDrift(api, guard)
	s.registerStats(api)
}

// registerHealth adds the liveness and readiness checks.
func (s State) registerHealth(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/healthz", OperationID: "health", Tags: []string{TagState},
		Summary: "Liveness check",
	}, func(context.Context, *struct{}) (*struct{ Body Health }, error) {
		return &struct{ Body Health }{Health{"ok"}}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/readyz", OperationID: "ready", Tags: []string{TagState},
		Summary: "Readiness check", Errors: []int{503},
		Description: "The server is ready if all models are loaded, the prediction log is writable and the server isn't shutting down.",
	}, func(context.Context, *struct{}) (*struct{ Body Readiness }, error) {
		err := s.Unready()
		if err == nil {
			var model string
			if model, err = s.Model(); err == nil {
				return &struct{ Body Readiness }{Readiness{"ready", model}}, nil
			}
		}
		return nil, failure.ForOperation(err)
	})
}

// registerDrift adds the route that returns the result of the last drift check.
func (s State) registerDrift(api huma.API, guard Guard) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/drift", OperationID: "drift", Tags: []string{TagLog}, Summary: "Drift of the prediction log from the model's reference",
		Description: "Returns the result of the last drift check. The status is 409 if the check failed, with the reason, and 404 if drift checks are disabled.",
		Security:    guard.Security(), Middlewares: huma.Middlewares{guard.AdminOperation}, Errors: []int{401, 403, 404, 409},
	}, func(context.Context, *struct{}) (*struct{ Body driftwatch.Drift }, error) {
		if s.Drift == nil {
			return nil, failure.NewProblem(fiber.StatusNotFound, "drift checks are disabled on this server; enable them with --drift-reference")
		}
		found, err := s.Drift.Last()
		if err != nil {
			return nil, failure.NewProblem(fiber.StatusConflict, "drift check failed: "+err.Error())
		}
		return &struct{ Body driftwatch.Drift }{*found}, nil
	})
}

// registerStats adds the route from which the web page reads the state of the server.
func (s State) registerStats(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/stats", OperationID: "stats", Tags: []string{TagState}, Summary: "Recent activity of the instance",
		Description: "Returns counts and latencies of this instance, for people. /metrics has all metrics, for Prometheus.",
	}, func(context.Context, *struct{}) (*struct{ Body activity.Stats }, error) {
		stats, err := s.History.Stats(time.Now().UTC())
		if err != nil {
			s.Logger.Error("read metrics", "error", err)
			return nil, failure.ForOperation(err)
		}
		return &struct{ Body activity.Stats }{*stats}, nil
	})
}
