package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/swaggest/swgui/v5emb"
)

// Health is the response of the liveness check.
type Health struct {
	Status string `json:"status" enum:"ok" doc:"Always ok."`
}

// Readiness is the response of the readiness check.
type Readiness struct {
	Status string `json:"status" enum:"ready" doc:"Always ready. A server that isn't ready returns 503."`
	Model  string `json:"model" doc:"Digest of the model in use."`
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
		Description: "The server is ready if a model is loaded, the prediction log is writable and the server isn't shutting down.",
	}, func(context.Context, *struct{}) (*struct{ Body Readiness }, error) {
		if err := m.unready(); err != nil {
			return nil, humaError(err)
		}
		return &struct{ Body Readiness }{Readiness{"ready", m.models.current.Load().file.Digest}}, nil
	})
}

// unready returns nil if the server is ready, or an *unavailable with the reason why it should
// receive no requests.
func (m *Main) unready() error {
	if m.draining.Load() {
		return busy("the server is shutting down")
	}
	if _, err := m.models.inUse(); err != nil {
		return err
	}
	if m.predictions != nil {
		if err := m.predictions.Err(); err != nil {
			return busy("the prediction log isn't writable: " + err.Error())
		}
	}
	return nil
}

// swagger returns the handler of the API page, Swagger UI with the OpenAPI document. All files
// are embedded in the program.
var swagger = sync.OnceValue(func() fiber.Handler {
	return adaptor.HTTPHandler(v5emb.New("Fakeart", "/openapi.json", "/docs"))
})

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// pagePolicy returns the Content-Security-Policy of the API page. It allows only the page's own
// files and its inline scripts. Swagger UI sets styles on its elements.
var pagePolicy = sync.OnceValue(func() string {
	recorder := httptest.NewRecorder()
	v5emb.New("Fakeart", "/openapi.json", "/docs").ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/docs", nil))
	policy := []string{"default-src 'none'", "style-src 'self' 'unsafe-inline'", "img-src 'self' data:", "connect-src 'self'", "frame-ancestors 'none'"}
	scripts := "script-src 'self'"
	for _, match := range inlineScript.FindAllSubmatch(recorder.Body.Bytes(), -1) {
		digest := sha256.Sum256(match[1])
		scripts += " 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'"
	}
	return strings.Join(append(policy, scripts), "; ")
})

// handleDocs serves the API page and its files.
func (m *Main) handleDocs(c *fiber.Ctx) error {
	if !adaptable(c) {
		return fiber.ErrNotFound
	}
	c.Set(fiber.HeaderContentSecurityPolicy, pagePolicy())
	return swagger()(c)
}

// adaptable reports whether the request can be converted to one of net/http, which requires a
// well-formed path.
func adaptable(c *fiber.Ctx) bool {
	_, err := url.ParseRequestURI(string(c.Request().RequestURI()))
	return err == nil
}
