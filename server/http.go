package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/valyala/fasthttp"

	"fakeart/internal/imaging"
)

const (
	// readTimeout is how long a client may take to send a request, all of it.
	readTimeout = time.Minute
	// writeTimeout is how long it may take to read the answer.
	writeTimeout = 30 * time.Second
	// formField is the form's field that holds the picture.
	formField = "data"
)

// newApp lays out the HTTP interface.
func (m *Main) newApp() *fiber.App {
	app := fiber.New(fiber.Config{
		AppName:               "Fakeart",
		BodyLimit:             m.config.MaxBody,
		ReadTimeout:           readTimeout,
		WriteTimeout:          writeTimeout,
		ErrorHandler:          m.handleError,
		DisableStartupMessage: true,
		// Fiber would take forms apart before we see them, and put them together again.
		DisablePreParseMultipartForm: true,
	})
	app.Use(recover.New(recover.Config{
		EnableStackTrace: true,
		StackTraceHandler: func(c *fiber.Ctx, reason any) {
			m.log.Error("panic", "reason", reason, "method", c.Method(), "path", c.Path(), "stack", string(debug.Stack()))
		},
	}))
	app.Get("/healthz", func(c *fiber.Ctx) error { return c.JSON(fiber.Map{"status": "ok"}) })
	app.Get("/readyz", m.handleReady)
	app.Post("/predict", m.handlePredict)

	handle := app.Handler()
	app.Server().Handler = func(c *fasthttp.RequestCtx) {
		m.pending.Add(1)
		defer m.pending.Add(-1)
		// Fiber itself answers a method that it does not know, in plain text.
		if slices.Contains(fiber.DefaultMethods, string(c.Method())) {
			handle(c)
		} else {
			writeProblem(&c.Response, fiber.StatusNotImplemented, fmt.Sprintf("the method %.20q is not known", c.Method()))
		}
		if m.draining.Load() {
			c.Response.SetConnectionClose()
		}
	}
	return app
}

// handleReady tells a load balancer whether to send requests here.
func (m *Main) handleReady(c *fiber.Ctx) error {
	if m.draining.Load() {
		return fiber.NewError(fiber.StatusServiceUnavailable, errClosed.Error())
	}
	return c.JSON(fiber.Map{"status": "ready", "model": m.file.Digest})
}

// handlePredict judges the picture in the request.
func (m *Main) handlePredict(c *fiber.Ctx) error {
	data, err := picture(c)
	if err != nil {
		return err
	}
	p, err := m.workers.predict(data)
	switch {
	case err == nil:
		return c.JSON(p)
	case errors.Is(err, imaging.ErrEmpty):
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	case errors.Is(err, imaging.ErrTooLarge):
		return fiber.NewError(fiber.StatusRequestEntityTooLarge, err.Error())
	case errors.Is(err, imaging.ErrFormat):
		return fiber.NewError(fiber.StatusUnsupportedMediaType, err.Error())
	case errors.Is(err, imaging.ErrBroken):
		return fiber.NewError(fiber.StatusUnprocessableEntity, err.Error())
	case errors.Is(err, errClosed):
		return fiber.NewError(fiber.StatusServiceUnavailable, err.Error())
	}
	return err
}

// picture returns the bytes of the picture in the request: the form's field
// "data", or the body as it is when it is no form, whatever type it claims to be.
// The bytes are valid until the handler returns.
func picture(c *fiber.Ctx) ([]byte, error) {
	// Fiber's Body would unpack a compressed body, to any size.
	if encoding := c.Get(fiber.HeaderContentEncoding); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, fiber.NewError(fiber.StatusUnsupportedMediaType, fmt.Sprintf("the content encoding %q is not read; send the picture as it is", encoding))
	}
	body := c.Request().Body()
	contentType := c.Get(fiber.HeaderContentType)
	if len(contentType) >= 10 && strings.EqualFold(contentType[:10], "multipart/") {
		return formPicture(contentType, body)
	}
	if len(body) == 0 {
		return nil, fiber.NewError(fiber.StatusBadRequest, `no image: send one as the form field "data" or as the body of the request`)
	}
	return body, nil
}

// formPicture returns the content of the form's field "data". The whole form is
// read: one that breaks off later was not received as it was meant.
func formPicture(contentType string, body []byte) ([]byte, error) {
	broken := func(reason string) error {
		return fiber.NewError(fiber.StatusBadRequest, "broken form: "+reason)
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, broken(err.Error())
	}
	if mediaType != fiber.MIMEMultipartForm {
		return nil, fiber.NewError(fiber.StatusUnsupportedMediaType, fmt.Sprintf("%s is not read; send %s", mediaType, fiber.MIMEMultipartForm))
	}
	if params["boundary"] == "" {
		return nil, broken("the content type names no boundary")
	}
	var (
		data   []byte
		found  bool
		fields []string
	)
	for form := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			// The reader says the same of a form that breaks off between two parts.
			if !bytes.Contains(body, []byte("--"+params["boundary"]+"--")) {
				return nil, broken("it ends without its closing boundary")
			}
			break
		}
		if err != nil {
			return nil, broken(err.Error())
		}
		if part.FormName() != formField {
			fields = append(fields, part.FormName())
			continue
		}
		if found {
			return nil, fiber.NewError(fiber.StatusBadRequest, `the form has more than one field "data"; send one image a request`)
		}
		if data, err = io.ReadAll(part); err != nil {
			return nil, broken(err.Error())
		}
		found = true
	}
	switch {
	case !found:
		return nil, fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`no image: the form has no field "data" (its fields: %.200q)`, fields))
	case len(data) == 0:
		return nil, fiber.NewError(fiber.StatusBadRequest, `no image: the form's field "data" is empty`)
	}
	return data, nil
}

// problem is an error as RFC 9457 has it. The type "about:blank" says that the
// status means no more than it does anyway.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// handleError answers for every error: those of handlers, of the router, and those
// that fasthttp meets before any handler. The text of a *fiber.Error is meant for
// the client; any other is our own failure, for the log alone.
func (m *Main) handleError(c *fiber.Ctx, err error) error {
	status, detail := fiber.StatusInternalServerError, "the server failed to answer; its log says why"
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		status, detail = e.Code, e.Message
	} else {
		m.log.Error("request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	switch {
	case errors.Is(err, fiber.ErrRequestEntityTooLarge):
		detail = fmt.Sprintf("the body is larger than %d bytes", m.config.MaxBody)
		// The rest of the body is still on its way.
		if conn, ok := c.Context().Conn().(*conn); ok {
			conn.linger.Store(true)
		}
	case errors.Is(err, fiber.ErrRequestTimeout):
		detail = fmt.Sprintf("the request was not received within %s", readTimeout)
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		detail = fmt.Sprintf("%s does not take %s", c.Path(), c.Method())
	}
	writeProblem(c.Response(), status, detail)
	return nil
}

func writeProblem(response *fasthttp.Response, status int, detail string) {
	body, err := json.Marshal(problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail})
	if err != nil {
		panic(err) // texts and a number always have a JSON form
	}
	response.SetStatusCode(status)
	response.Header.SetContentType("application/problem+json")
	response.SetBody(body)
}
