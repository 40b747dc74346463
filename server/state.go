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

// Health says that the process works.
type Health struct {
	Status string `json:"status" enum:"ok" doc:"Always ok."`
}

// Readiness says that requests can be answered.
type Readiness struct {
	Status string `json:"status" enum:"ready" doc:"Always ready; a server that is not answers 503."`
	Model  string `json:"model" doc:"Digest of the model in use."`
}

// registerState gives the routes by which others watch the server.
func (m *Main) registerState(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/healthz", OperationID: "health", Tags: []string{tagState},
		Summary: "Whether the process works",
	}, func(context.Context, *struct{}) (*struct{ Body Health }, error) {
		return &struct{ Body Health }{Health{"ok"}}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/readyz", OperationID: "ready", Tags: []string{tagState},
		Summary: "Whether requests can be answered", Errors: []int{503},
		Description: "A model is loaded, the prediction log can be written, and the server is not about to stop.",
	}, func(context.Context, *struct{}) (*struct{ Body Readiness }, error) {
		if err := m.unready(); err != nil {
			return nil, told(err)
		}
		return &struct{ Body Readiness }{Readiness{"ready", m.models.current.Load().file.Digest}}, nil
	})
}

// unready returns why no request should be sent here, as an *unavailable, or nil if the
// server is ready.
func (m *Main) unready() error {
	if m.draining.Load() {
		return busy("the server is stopping")
	}
	if _, err := m.models.inUse(); err != nil {
		return err
	}
	if m.predictions != nil {
		if err := m.predictions.Err(); err != nil {
			return busy("the prediction log cannot be written: " + err.Error())
		}
	}
	return nil
}

// swagger is the OpenAPI document as Swagger UI shows it. All it needs is in the program.
var swagger = sync.OnceValue(func() fiber.Handler {
	return adaptor.HTTPHandler(v5emb.New("Fakeart", "/openapi.json", "/docs"))
})

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// pagePolicy lets the page use its own files alone, and just the scripts in it that
// are ours. Swagger UI sets styles on its elements.
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

// handleDocs serves the page and its files.
func (m *Main) handleDocs(c *fiber.Ctx) error {
	if !adaptable(c) {
		return fiber.ErrNotFound
	}
	c.Set(fiber.HeaderContentSecurityPolicy, pagePolicy())
	return swagger()(c)
}

// adaptable tells whether net/http can make a request of this one: its paths have to be
// well-formed.
func adaptable(c *fiber.Ctx) bool {
	_, err := url.ParseRequestURI(string(c.Request().RequestURI()))
	return err == nil
}
