package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"

	"fakeart/internal/explain"
	"fakeart/server/oip"
	"fakeart/server/predlog"
)

// What the document's operations are sorted under.
const (
	tagPredict  = "Predictions"
	tagProtocol = "Open Inference Protocol"
	tagModels   = "Models"
	tagLog      = "Prediction log"
	tagState    = "State"
)

const apiDescription = `Tells photographs from AI-generated pictures.

Every answer has the header X-Request-Id: that of the request, or a new name. The W3C header traceparent is heeded.
Errors are problem documents (RFC 9457), below /v2 the protocol's own objects. An answer of 503 or 429 may be tried
again after the seconds in Retry-After. Operations with a lock are the administrator's: they need a bearer token or,
when the server has none, a request from the machine itself.`

// register gives the application its routes, and makes the document that describes
// all of them.
func (m *Main) register(app *fiber.App) {
	config := huma.DefaultConfig("Fakeart", versionText())
	config.Info.Description = apiDescription
	config.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	for _, tag := range []string{tagPredict, tagProtocol, tagModels, tagLog, tagState} { // in this order on the page
		config.Tags = append(config.Tags, &huma.Tag{Name: tag})
	}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	// The document and its page have handlers of ours; schemas have no addresses.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	// curl -d says that it sends a form, whatever it sends.
	config.Formats = map[string]huma.Format{
		fiber.MIMEApplicationJSON: huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat, fiber.MIMEApplicationForm: huma.DefaultJSONFormat,
	}
	router := withHead{app}
	api := humafiber.NewWithGroup(app, router, config)
	document := api.OpenAPI()
	m.registerState(api)
	m.registerModels(api)
	m.registerLog(api)
	m.registerDrift(api)
	m.registerStats(api)
	m.registerFeedback(api)
	for _, o := range m.operations(document.Components.Schemas) {
		router.Add(o.Method, strings.NewReplacer("{", ":", "}", "").Replace(o.Path), o.handlers...)
		document.AddOperation(&o.Operation)
	}
	router.Add(http.MethodGet, "/docs/*", m.handleDocs) // the files of that page
	if m.config.UI {
		m.registerPage(router)
	}
	describeFailures(document)
	text, err := json.Marshal(document)
	if err != nil {
		panic(err) // it is the program's own
	}
	m.document = text
	m.plain = map[[2]string]fiber.Route{}
	for _, r := range app.GetRoutes(true) {
		m.plain[[2]string{r.Method, r.Path}] = r
	}
}

// describeFailures puts one answer for all statuses that an operation does not list
// in the place of huma's 500.
func describeFailures(document *huma.OpenAPI) {
	schema := document.Components.Schemas.Schema(reflect.TypeFor[problem](), true, "")
	for _, item := range document.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put} {
			if op == nil {
				continue
			}
			delete(op.Responses, "500")
			if op.Responses["default"] == nil || len(op.Responses["default"].Content) == 0 {
				op.Responses["default"] = &huma.Response{Description: otherFailure, Content: media{problemType: schema}.content()}
			}
		}
	}
}

const otherFailure = "Any other failure"

// withHead adds with each route for GET one for HEAD, whose answer is the header alone.
type withHead struct{ *fiber.App }

// Add is that of the application.
func (w withHead) Add(method, path string, handlers ...fiber.Handler) fiber.Router {
	if method == fiber.MethodGet {
		w.App.Add(fiber.MethodHead, path, handlers...)
	}
	return w.App.Add(method, path, handlers...)
}

// operation is a route whose handlers are not huma's: the way of each prediction, and
// what is not one JSON document.
type operation struct {
	huma.Operation
	handlers []fiber.Handler
}

// media describes a body of one type.
type media map[string]*huma.Schema

func (m media) content() map[string]*huma.MediaType {
	content := map[string]*huma.MediaType{}
	for mediaType, schema := range m {
		content[mediaType] = &huma.MediaType{Schema: schema}
	}
	return content
}

// operations are the routes with handlers of their own.
func (m *Main) operations(schemas huma.Registry) []operation {
	schema := func(v any) *huma.Schema { return schemas.Schema(reflect.TypeOf(v), true, "") }
	binary := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	text := &huma.Schema{Type: huma.TypeString}

	// answers adds to an operation what it answers with.
	answers := func(o operation, answer media, failure string, v any, statuses ...int) operation {
		o.Responses = map[string]*huma.Response{
			"200":     {Description: "OK", Content: answer.content()},
			"default": {Description: otherFailure, Content: media{failure: schema(v)}.content()},
		}
		for _, status := range statuses {
			o.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status), Content: media{failure: schema(v)}.content()}
		}
		for _, part := range slices.Backward(strings.Split(o.Path, "/")) {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				o.Parameters = append([]*huma.Param{{Name: strings.TrimSuffix(name, "}"), In: "path", Required: true, Schema: text}}, o.Parameters...)
			}
		}
		return o
	}

	predict := func(path, id, summary string) operation {
		o := operation{huma.Operation{
			Method: http.MethodPost, Path: path, OperationID: id, Tags: []string{tagPredict}, Summary: summary,
			Description: "One picture, as the form's field `data` or as the body itself, is answered with one prediction. " +
				"Several such fields, or a JSON object with instances, are answered with a list in their order, all by one model; " +
				"a picture that cannot be judged has its error in its place.",
			Parameters: []*huma.Param{{
				Name: "embedding", In: "query", Description: "Add the model's last hidden layer.",
				Schema: &huma.Schema{Type: huma.TypeBoolean, Default: false},
			}, {
				Name: "input", In: "query", Description: "Add what the model saw.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"png"}},
			}, {
				Name: "explain", In: "query", Description: "Add where in the picture the model found what it judged by: " +
					"by Grad-CAM on its last convolution, or by occlusion, which takes some forty times as long.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: enum(explain.Methods()...)},
			}, {
				Name: "explain_format", In: "query", Description: "The form of that map.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: enum(explanationFormats()...), Default: string(explainArray)},
			}},
			RequestBody: &huma.RequestBody{Required: true, Content: media{
				fiber.MIMEMultipartForm: {Type: huma.TypeObject, Required: []string{formField}, Properties: map[string]*huma.Schema{
					formField: {Type: huma.TypeArray, Items: binary, Description: "The pictures: JPEG, PNG, GIF, WebP or BMP."},
				}},
				"image/*":                 binary,
				fiber.MIMEApplicationJSON: schema(Instances{}),
			}.content()},
		}, []fiber.Handler{m.handlePredict}}
		return answers(o, media{fiber.MIMEApplicationJSON: {OneOf: []*huma.Schema{schema(Prediction{}), schema(Predictions{})}}},
			problemType, problem{}, 400, 413, 415, 422, 429, 503)
	}

	v2 := func(path, id, summary string, handler fiber.Handler, answer any, statuses ...int) operation {
		o := operation{huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{tagProtocol}, Summary: summary}, []fiber.Handler{handler}}
		return answers(o, media{oip.TypeJSON: schema(answer)}, oip.TypeJSON, oip.ErrorObject{}, statuses...)
	}
	// What is not ready says so with the document that also says that it is.
	readiness := func(o operation, answer any) operation {
		o.Responses["503"] = &huma.Response{Description: "Not ready", Content: media{oip.TypeJSON: schema(answer)}.content()}
		return o
	}
	infer := func(path, id, summary string) operation {
		o := operation{huma.Operation{
			Method: http.MethodPost, Path: path, OperationID: id, Tags: []string{tagProtocol}, Summary: summary,
			Description: "Tensors `input` → `logit`, `embedding`, in JSON or with the binary tensor data extension: then " +
				"the header " + oip.LengthHeader + " is the length of the JSON, which the values follow.",
			Parameters: []*huma.Param{{Name: oip.LengthHeader, In: "header", Schema: &huma.Schema{Type: huma.TypeInteger}}},
			RequestBody: &huma.RequestBody{
				Required: true,
				Content:  media{oip.TypeJSON: schema(oip.InferRequest{}), oip.TypeBinary: binary}.content(),
			},
		}, []fiber.Handler{m.handleV2Infer}}
		return answers(o, media{oip.TypeJSON: schema(oip.InferResponse{}), oip.TypeBinary: binary},
			oip.TypeJSON, oip.ErrorObject{}, 400, 404, 413, 415, 429, 503)
	}

	export := media{}
	formats := []any{}
	for _, f := range []predlog.Format{predlog.NDJSON, predlog.CSV, predlog.Parquet, predlog.Database} {
		mediaType, _, _ := strings.Cut(f.ContentType(), ";")
		export[mediaType] = binary
		formats = append(formats, string(f))
	}
	state := func(path, id, summary, mediaType string, handler fiber.Handler) operation {
		o := operation{huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{tagState}, Summary: summary}, []fiber.Handler{handler}}
		return answers(o, media{mediaType: text}, problemType, problem{})
	}

	const model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
	return []operation{
		predict("/predict", "predict", "Judge pictures"),
		predict("/model/", "model", "Judge pictures (the original project's route)"),
		v2("/v2", "v2-server", "About the server", m.handleV2Server, oip.ServerMetadata{}),
		v2("/v2/health/live", "v2-live", "Whether the server takes requests", m.handleV2Live, oip.Live{}),
		readiness(v2("/v2/health/ready", "v2-ready", "Whether the server can judge pictures", m.handleV2Ready, oip.Ready{}), oip.Ready{}),
		v2(model, "v2-model", "About the model", m.handleV2Model, oip.ModelMetadata{}, 404, 503),
		v2(version, "v2-version", "About a version of the model", m.handleV2Model, oip.ModelMetadata{}, 404, 503),
		readiness(v2(model+"/ready", "v2-model-ready", "Whether the model can be asked", m.handleV2ModelReady, oip.ModelReady{}, 404), oip.ModelReady{}),
		readiness(v2(version+"/ready", "v2-version-ready", "Whether the version can be asked", m.handleV2ModelReady, oip.ModelReady{}, 404), oip.ModelReady{}),
		infer(model+"/infer", "v2-infer", "Run the model on tensors"),
		infer(version+"/infer", "v2-version-infer", "Run a version of the model on tensors"),
		answers(operation{huma.Operation{
			Method: http.MethodGet, Path: "/log/export", OperationID: "export-log", Tags: []string{tagLog},
			Summary: "Take the whole log", Security: adminSecurity,
			Description: "All records of one moment, oldest first, while others are written. An answer that breaks off is not whole.",
			Parameters: []*huma.Param{{Name: "format", In: "query", Schema: &huma.Schema{
				Type: huma.TypeString, Enum: formats, Default: string(predlog.NDJSON),
			}}},
		}, []fiber.Handler{m.adminOnly, m.handleExport}}, export, problemType, problem{}, 400, 401, 403, 404),
		state("/metrics", "metrics", "Metrics for Prometheus", "text/plain", adaptor.HTTPHandler(m.metrics.Handler())),
		state("/openapi.json", "openapi", "This document", fiber.MIMEApplicationJSON, m.handleDocument),
		state("/docs", "docs", "This document as a page", fiber.MIMETextHTML, m.handleDocs),
	}
}

// enum lists the values of a parameter.
func enum[T ~string](values ...T) (list []any) {
	for _, v := range values {
		list = append(list, string(v))
	}
	return list
}

// handleDocument serves the OpenAPI document.
func (m *Main) handleDocument(c *fiber.Ctx) error {
	c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
	return c.Send(m.document)
}

// adminSecurity marks an operation as the administrator's.
var adminSecurity = []map[string][]string{{"token": {}}}

// adminOnly lets only an administrator's requests pass.
func (m *Main) adminOnly(c *fiber.Ctx) error {
	if err := m.admins.check(c); err != nil {
		return err
	}
	return c.Next()
}

// guarded is adminOnly for huma's operations, and reads the body for them.
func (m *Main) guarded(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	if err := m.admins.check(c); err != nil {
		_ = m.handleError(c, err) // which always answers
		return
	}
	m.bodied(ctx, next)
}

// bodied reads the body for huma's operations, within the limits that hold for all.
func (m *Main) bodied(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	var b body
	defer m.bodies.free(&b)
	if err := m.bodies.read(c, &b); err != nil {
		_ = m.handleError(c, err) // which always answers
		return
	}
	c.Request().SetBodyStream(bytes.NewReader(b.bytes), len(b.bytes))
	next(ctx)
}

// The problem is also what huma answers with when a request does not fit an operation.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		for _, err := range errs {
			if err != nil {
				message += "; " + err.Error()
			}
		}
		return newProblem(status, message)
	}
}

const problemType = "application/problem+json"

// Error is the problem in words.
func (p *problem) Error() string { return p.Detail }

// GetStatus is the status to answer with.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is the media type of the problem, whatever the client would accept.
func (p *problem) ContentType(string) string { return problemType }
