// Package api has routes of the HTTP API that don't classify images: the state of the server and the
// prediction log. A group of routes is a struct of what it needs, whose method Register adds them to
// package huma's API. [Guard] checks requests before they reach a handler. Importing this package makes
// the errors of package huma problem documents.
package api

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"

	"fakeart/server/admin"
	"fakeart/server/failure"
	"fakeart/server/front"
	"fakeart/server/limit"
)

// Tags that group the operations in the OpenAPI document.
const (
	TagPredict  = "Predictions"
	TagProtocol = "Open Inference Protocol"
	TagModels   = "Models"
	TagLog      = "Prediction log"
	TagState    = "State"
)

// Guard checks requests before they reach a handler.
type Guard struct {
	Admins *admin.Tokens
	Front  *front.Front
	Bodies *limit.Bodies
}

// Query is a middleware for huma's operations that rejects invalid query parameters; see [CheckQuery].
func (g Guard) Query(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	if err := CheckQuery(c, ctx.Operation().Parameters); err != nil {
		g.Front.HandleError(c, err)
		return
	}
	next(ctx)
}

// TokenScheme is the name of the security scheme with admin tokens.
const TokenScheme = "token"

// Security returns the security requirement of admin operations, which is nil without an admin token.
func (g Guard) Security() []map[string][]string {
	if !g.Admins.Configured() {
		return nil
	}
	return []map[string][]string{{TokenScheme: {}}}
}

// AdminOnly is a middleware that rejects requests without admin access.
func (g Guard) AdminOnly(c *fiber.Ctx) error {
	if err := g.Admins.Check(c); err != nil {
		return err
	}
	return c.Next()
}

// AdminOperation is AdminOnly for huma's operations. It also reads the body, like Body.
func (g Guard) AdminOperation(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	if err := g.Admins.Check(c); err != nil {
		g.Front.HandleError(c, err)
		return
	}
	g.Body(ctx, next)
}

// Body is a middleware for huma's operations that reads a JSON body within the configured
// limits.
func (g Guard) Body(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	var b limit.Body
	defer g.Bodies.Free(&b)
	err := checkJSONType(c.Get(fiber.HeaderContentType))
	if err == nil {
		err = g.Front.ReadBody(c, &b)
	}
	if err != nil {
		g.Front.HandleError(c, err)
		return
	}
	c.Request().Header.SetContentType(fiber.MIMEApplicationJSON)
	c.Request().SetBodyStream(bytes.NewReader(b.Bytes), len(b.Bytes))
	next(ctx)
}

// checkJSONType returns an error if huma can't read a body with the content type as JSON.
func checkJSONType(contentType string) error {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	if mediaType == "" || mediaType == fiber.MIMEApplicationJSON || mediaType == fiber.MIMEApplicationForm || strings.HasSuffix(mediaType, "+json") {
		return nil
	}
	return fiber.NewError(fiber.StatusUnsupportedMediaType, "unsupported content type; send application/json")
}

// Errors that huma itself returns are problem documents as well, and names of members are case-sensitive.
func init() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		separator, room := ": ", failure.MaxEcho
		for i, err := range errs {
			var text string
			if e, ok := errors.AsType[*huma.ErrorDetail](err); ok {
				location := failure.Shortened(e.Location) // contains keys of the request
				if room -= len(location); room < 0 {
					message += fmt.Sprintf("%sand %d more", separator, len(errs)-i)
					break
				}
				text = location + ": " + e.Message
			} else if err != nil {
				text = err.Error()
			} else {
				continue
			}
			message += separator + text
			separator = "; "
		}
		return failure.NewProblem(status, message)
	}
}
