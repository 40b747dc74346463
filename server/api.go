package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/server/api"
	"fakeart/server/failure"
	"fakeart/server/oip"
	"fakeart/server/page"
	"fakeart/server/predlog"
)

const apiDescription = `Classifies images.

Every response has the header X-Request-Id: the request's value or a new ID. The W3C header traceparent is supported.
Request bodies may be compressed (Content-Encoding: gzip or deflate), and so are JSON responses on request (Accept-Encoding).
Errors are problem documents (RFC 9457), except under /v2, where they are the protocol's error objects. Requests
rejected with 503 or 429 can be retried after the seconds in Retry-After.

Operations on models and the prediction log require an admin token or, if no token is configured, a request from the
machine itself.`

// register adds all routes to the application and builds the OpenAPI document that describes
// them.
func (m *Main) register(app *fiber.App) {
	config := huma.DefaultConfig("Fakeart", versionText())
	config.Info.Description = apiDescription
	if m.admins.Configured() {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{api.TokenScheme: {Type: "http", Scheme: "bearer"}}
	}
	config.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	for _, tag := range []string{api.TagPredict, api.TagProtocol, api.TagModels, api.TagLog, api.TagState} { // in the order of the page
		config.Tags = append(config.Tags, &huma.Tag{Name: tag})
	}
	// The document and its page have handlers of their own, and schemas have no URLs.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	// curl -d sends the content type of a form, whatever the data is.
	config.Formats = map[string]huma.Format{
		fiber.MIMEApplicationJSON: jsonFormat, "json": jsonFormat, fiber.MIMEApplicationForm: jsonFormat,
	}
	router := withHead{app}
	guard := m.guard()
	operations := humafiber.NewWithGroup(app, router, config)
	operations.UseMiddleware(guard.Query)
	document := operations.OpenAPI()
	api.State{Unready: m.unready, Model: m.defaultModel, Drift: m.drift, History: m.history, Logger: m.log}.Register(operations, guard)
	m.registerModels(operations, guard)
	m.logRoutes().Register(operations, guard)
	m.registerFeedback(operations, guard)
	for _, o := range m.operations(document.Components.Schemas) {
		handlers := o.handlers
		if o.Path != "/docs" { // links to pages can have any parameters
			handlers = append([]fiber.Handler{func(c *fiber.Ctx) error {
				if err := api.CheckQuery(c, o.Parameters); err != nil {
					return err
				}
				return c.Next()
			}}, handlers...)
		}
		router.Add(o.Method, strings.NewReplacer("{", ":", "}", "").Replace(o.Path), handlers...)
		document.AddOperation(&o.Operation)
	}
	if m.config.UI {
		page.Register(router)
	}
	m.describeTensors(document.Components.Schemas.Map())
	m.describeFailures(document)
	addLinks(document)
	text, err := json.Marshal(document)
	if err != nil {
		panic(err) // can't fail: the document doesn't depend on input
	}
	m.document = append(text, '\n')
	// Rendered at the first request, because it takes longer than the rest of the start.
	m.docs = sync.OnceValues(func() (*page.File, error) { return page.Docs(document) })
	parameters := map[string]bool{}
	for _, item := range document.Paths {
		for _, op := range operationsOf(item) {
			for _, p := range op.Parameters {
				parameters[p.Name] = parameters[p.Name] || p.In == "query"
			}
		}
	}
	m.front.Describe(app.GetRoutes(true), parameters)
}

// describeTensors completes the schemas of inference requests in JSON with what struct tags can't express.
// No schema can express that the number of values is the product of the shape.
func (m *Main) describeTensors(schemas map[string]*huma.Schema) {
	positive := func(maximum int) *huma.Schema {
		return &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0), Maximum: new(float64(maximum))}
	}
	members := func(description string, properties map[string]*huma.Schema, unsupported ...string) *huma.Schema {
		s := &huma.Schema{Type: huma.TypeObject, Nullable: true, Description: description, Properties: properties, AdditionalProperties: true}
		for _, name := range unsupported {
			s.Properties[name] = &huma.Schema{Extensions: map[string]any{"type": "null"}}
		}
		return s
	}
	sharedMemory := []string{"shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"}
	flag := &huma.Schema{Type: huma.TypeBoolean, Nullable: true}

	schemas["InferRequest"].Properties["parameters"] = members(
		"binary_data_output: default of the outputs' binary_data; timeout: maximum waiting time in microseconds. Others are ignored.",
		map[string]*huma.Schema{"binary_data_output": flag, "timeout": {Type: huma.TypeInteger, Nullable: true, Minimum: new(0.0)}})
	schemas["InferOutput"].Properties["parameters"] = members(
		"binary_data: return the values as binary data after the JSON. Others are ignored, unless they ask for something unsupported.",
		map[string]*huma.Schema{"binary_data": flag}, append(sharedMemory, "classification")...)

	input := schemas["InferInput"]
	const largest = 4096 // per side
	input.Properties["shape"].Extensions = map[string]any{"prefixItems": []*huma.Schema{
		positive(m.config.MaxImages), positive(largest), positive(largest), positive(largest),
	}}
	input.Properties["parameters"] = members(
		"binary_data_size: size in bytes of the values, if they follow the JSON. Others are ignored, unless they ask for something unsupported.",
		map[string]*huma.Schema{}, append(sharedMemory, "binary_data_size")...)
	input.Properties["data"] = &huma.Schema{
		Type: huma.TypeArray, MinItems: new(1), Description: input.Properties["data"].Description,
		Items: &huma.Schema{OneOf: []*huma.Schema{{Type: huma.TypeNumber}, {Type: huma.TypeArray, MinItems: new(1)}}},
	}
	input.Required = append(input.Required, "data")
}

// jsonFormat is huma's JSON format with the error messages of jsonMessage.
var jsonFormat = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(data []byte, v any) error {
		if err := huma.DefaultJSONFormat.Unmarshal(data, v); err != nil {
			return fmt.Errorf("invalid JSON: %s", jsonMessage(err))
		}
		return nil
	},
}

// describeFailures replaces huma's 500 response of each operation with one response for all
// statuses that the operation doesn't list. Without an admin token, no operation returns 401.
func (m *Main) describeFailures(document *huma.OpenAPI) {
	schema := document.Components.Schemas.Schema(reflect.TypeFor[failure.Problem](), true, "")
	for _, item := range document.Paths {
		for _, op := range operationsOf(item) {
			delete(op.Responses, "500")
			if op.RequestBody == nil {
				delete(op.Responses, "422") // checkQuery returns 400
			}
			if !m.admins.Configured() {
				delete(op.Responses, "401")
			}
			if op.Responses["default"] == nil || len(op.Responses["default"].Content) == 0 {
				op.Responses["default"] = &huma.Response{Description: otherFailure, Content: media{failure.ProblemType: schema}.content()}
			}
		}
	}
}

// operationsOf returns the operations of a path.
func operationsOf(item *huma.PathItem) []*huma.Operation {
	return slices.DeleteFunc([]*huma.Operation{item.Get, item.Post, item.Put}, func(o *huma.Operation) bool { return o == nil })
}

const otherFailure = "Any other error"

// addLinks adds links from responses to the operations that need their values.
func addLinks(document *huma.OpenAPI) {
	paths := document.Paths
	confirm := func(prediction string) *huma.Link {
		return &huma.Link{OperationID: "feedback", Description: "Confirm the predicted class", RequestBody: map[string]any{
			"id": "$response.body#" + prediction + "/id", "label": "$response.body#" + prediction + "/label",
		}}
	}
	for _, predict := range []*huma.Operation{paths["/predict"].Post, paths["/model/"].Post} {
		predict.Responses["200"].Links = map[string]*huma.Link{"feedback": confirm("")}
	}
	paths["/log"].Get.Responses["200"].Links = map[string]*huma.Link{
		"next":     {OperationID: "log", Description: "The next page", Parameters: map[string]any{"cursor": "$response.body#/next"}},
		"feedback": confirm("/records/0"),
	}
	paths["/models"].Get.Responses["200"].Links = map[string]*huma.Link{
		"change-model": {OperationID: "change-model", Description: "Put the newest model in use", RequestBody: map[string]any{"model": "$response.body#/models/0/ref"}},
	}
	version := map[string]*huma.Link{}
	for _, id := range []string{"v2-version", "v2-version-ready", "v2-version-config", "v2-version-stats", "v2-version-infer"} {
		version[id] = &huma.Link{OperationID: id, Parameters: map[string]any{"name": "$response.body#/model_name", "version": "$response.body#/model"}}
	}
	paths["/models/current"].Get.Responses["200"].Links = version
}

// withHead registers a HEAD route with each GET route. Its response consists of the header only.
type withHead struct{ *fiber.App }

// Add registers the handlers for a route.
func (w withHead) Add(method, path string, handlers ...fiber.Handler) fiber.Router {
	if method == fiber.MethodGet {
		w.App.Add(fiber.MethodHead, path, handlers...)
	}
	return w.App.Add(method, path, handlers...)
}

// operation is a route with handlers that bypass huma: predictions, for speed, and responses
// other than a single JSON document.
type operation struct {
	huma.Operation
	handlers []fiber.Handler
}

// media maps the media types of a body to their schemas.
type media map[string]*huma.Schema

func (m media) content() map[string]*huma.MediaType {
	content := map[string]*huma.MediaType{}
	for mediaType, schema := range m {
		content[mediaType] = &huma.MediaType{Schema: schema}
	}
	return content
}

// operations returns the routes with handlers of their own.
func (m *Main) operations(schemas huma.Registry) []operation {
	schema := func(v any) *huma.Schema { return schemas.Schema(reflect.TypeOf(v), true, "") }
	binary := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	text := &huma.Schema{Type: huma.TypeString}

	// withResponses documents the responses and the path parameters of an operation.
	withResponses := func(o operation, response media, failure string, v any, statuses ...int) operation {
		o.Responses = map[string]*huma.Response{
			"200":     {Description: "OK", Content: response.content()},
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

	var imageTypes []string
	for _, f := range imaging.Formats() {
		imageTypes = append(imageTypes, f.MediaTypes...)
	}
	predict := func(path, id, summary string) operation {
		o := operation{huma.Operation{
			Method: http.MethodPost, Path: path, OperationID: id, Tags: []string{api.TagPredict}, Summary: summary,
			Description: "Send one image as the form field `data` or as the request body to get one prediction. " +
				"Send several such fields, or a JSON object with instances, to get a list of predictions in the same order, all from the same model. " +
				"If an image can't be classified, the list contains its error instead.",
			Parameters: []*huma.Param{{
				Name: "model", In: "query", Description: "Name of the model; the first one of --model by default.",
				Schema: text,
			}, {
				Name: "top", In: "query", Description: "Number of probabilities, from 1 to the number of classes. By default those of all up to ten classes, or else of the five most probable ones.",
				Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0), Maximum: new(float64(model.MaxClasses))},
			}, {
				Name: "embedding", In: "query", Description: "Add the model's last hidden layer.",
				Schema: &huma.Schema{Type: huma.TypeBoolean, Default: false},
			}, {
				Name: "input", In: "query", Description: "Add the model's input as an image.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"png"}},
			}, {
				Name: "explain", In: "query", Description: "Add a saliency map that shows which parts of the image determined the prediction: " +
					"computed by Grad-CAM on the last convolution, if the model file has it, or by occlusion, which takes about forty times as long.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: enum(explain.Methods()...)},
			}, {
				Name: "explain_format", In: "query", Description: "Format of the saliency map.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: enum(explanationFormats()...), Default: string(explainArray)},
			}},
			RequestBody: &huma.RequestBody{Required: true, Content: media{
				fiber.MIMEMultipartForm: {Type: huma.TypeObject, Required: []string{formField}, Extensions: map[string]any{
					"propertyNames": map[string]any{"pattern": `^[^\x00-\x1f\x7f]*$`}, // no control characters in the header of a part
				}, Properties: map[string]*huma.Schema{
					formField: {Type: huma.TypeArray, Items: binary, MinItems: new(1), Description: "Images in " + imaging.FormatList("or") + " format."},
				}},
				"image/*":                 binary,
				fiber.MIMEApplicationJSON: schema(Instances{}),
			}.content()},
		}, []fiber.Handler{m.handlePredict}}
		o.RequestBody.Content[fiber.MIMEMultipartForm].Encoding = map[string]*huma.Encoding{
			formField: {ContentType: strings.Join(imageTypes, ", ")},
		}
		return withResponses(o, media{fiber.MIMEApplicationJSON: {OneOf: []*huma.Schema{schema(Prediction{}), schema(Predictions{})}}},
			failure.ProblemType, failure.Problem{}, 400, 404, 413, 415, 422, 429, 503)
	}

	v2 := func(path, id, summary string, handler fiber.Handler, response any, statuses ...int) operation {
		o := operation{huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{api.TagProtocol}, Summary: summary}, []fiber.Handler{handler}}
		return withResponses(o, media{oip.TypeJSON: schema(response)}, oip.TypeJSON, oip.ErrorObject{}, statuses...)
	}
	// A server or model that isn't ready returns the same document with status 503.
	readiness := func(o operation, response any) operation {
		o.Responses["503"] = &huma.Response{Description: "Not ready", Content: media{oip.TypeJSON: schema(response)}.content()}
		return o
	}
	infer := func(path, id, summary string) operation {
		o := operation{huma.Operation{
			Method: http.MethodPost, Path: path, OperationID: id, Tags: []string{api.TagProtocol}, Summary: summary,
			Description: "Maps the model's input to its scores and embedding, whose names, types and shapes are those of the model's metadata, in JSON or with the binary tensor data extension. With the extension, " +
				"the header " + oip.LengthHeader + " is the length of the JSON, and the values follow it.",
			Parameters: []*huma.Param{{Name: oip.LengthHeader, In: "header", Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: new(0.0)}}},
			RequestBody: &huma.RequestBody{
				Required: true,
				Content:  media{oip.TypeJSON: schema(oip.InferRequest{}), oip.TypeBinary: binary}.content(),
			},
		}, []fiber.Handler{m.handleV2Infer}}
		return withResponses(o, media{oip.TypeJSON: schema(oip.InferResponse{}), oip.TypeBinary: binary},
			oip.TypeJSON, oip.ErrorObject{}, 400, 404, 413, 415, 429, 503)
	}

	index := func() operation {
		o := operation{huma.Operation{
			Method: http.MethodPost, Path: "/v2/repository/index", OperationID: "v2-index", Tags: []string{api.TagProtocol}, Summary: "Index of models",
			RequestBody: &huma.RequestBody{Content: media{oip.TypeJSON: schema(oip.IndexRequest{})}.content()},
		}, []fiber.Handler{m.handleV2Index}}
		return withResponses(o, media{oip.TypeJSON: {Type: huma.TypeArray, Items: schema(oip.ModelIndex{})}}, oip.TypeJSON, oip.ErrorObject{}, 400, 413, 415)
	}

	export := media{}
	for _, f := range api.ExportFormats {
		mediaType, _, _ := strings.Cut(f.ContentType(), ";")
		export[mediaType] = binary
	}
	state := func(path, id, summary, mediaType string, handler fiber.Handler) operation {
		o := operation{huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{api.TagState}, Summary: summary}, []fiber.Handler{handler}}
		return withResponses(o, media{mediaType: text}, failure.ProblemType, failure.Problem{})
	}

	const named, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
	return []operation{
		predict("/predict", "predict", "Classify images"),
		predict("/model/", "model", "Classify images (the original project's route)"),
		v2("/v2", "v2-server", "Server metadata", m.handleV2Server, oip.ServerMetadata{}),
		v2("/v2/health/live", "v2-live", "Server liveness", m.handleV2Live, oip.Live{}),
		readiness(v2("/v2/health/ready", "v2-ready", "Server readiness", m.handleV2Ready, oip.Ready{}), oip.Ready{}),
		v2("/v2/models/stats", "v2-stats", "Statistics of all models", m.handleV2Stats, oip.Statistics{}), // before routes with a name
		index(),
		v2(named, "v2-model", "Model metadata", m.handleV2Model, oip.ModelMetadata{}, 404, 503),
		v2(version, "v2-version", "Metadata of a model version", m.handleV2Model, oip.ModelMetadata{}, 404, 503),
		readiness(v2(named+"/ready", "v2-model-ready", "Model readiness", m.handleV2ModelReady, oip.ModelReady{}, 404), oip.ModelReady{}),
		readiness(v2(version+"/ready", "v2-version-ready", "Readiness of a model version", m.handleV2ModelReady, oip.ModelReady{}, 404), oip.ModelReady{}),
		v2(named+"/config", "v2-model-config", "Model configuration", m.handleV2Config, oip.ModelConfig{}, 404, 503),
		v2(version+"/config", "v2-version-config", "Configuration of a model version", m.handleV2Config, oip.ModelConfig{}, 404, 503),
		v2(named+"/stats", "v2-model-stats", "Model statistics", m.handleV2Stats, oip.Statistics{}, 404, 503),
		v2(version+"/stats", "v2-version-stats", "Statistics of a model version", m.handleV2Stats, oip.Statistics{}, 404, 503),
		infer(named+"/infer", "v2-infer", "Run the model on tensors"),
		infer(version+"/infer", "v2-version-infer", "Run a version of the model on tensors"),
		withResponses(operation{huma.Operation{
			Method: http.MethodGet, Path: "/log/export", OperationID: "export-log", Tags: []string{api.TagLog},
			Summary: "Export the prediction log", Security: m.guard().Security(),
			Description: "Returns a snapshot of all records, oldest first. Writing to the log continues meanwhile. If the response is cut off, the export is incomplete.",
			Parameters: []*huma.Param{{Name: "format", In: "query", Schema: &huma.Schema{
				Type: huma.TypeString, Enum: enum(api.ExportFormats...), Default: string(predlog.NDJSON),
			}}},
		}, []fiber.Handler{m.guard().AdminOnly, m.logRoutes().Export}}, export, failure.ProblemType, failure.Problem{}, 400, 401, 403, 404),
		state("/metrics", "metrics", "Metrics for Prometheus", "text/plain", adaptor.HTTPHandler(m.metrics.Handler())),
		state("/openapi.json", "openapi", "This document", fiber.MIMEApplicationJSON, m.handleDocument),
		state("/docs", "docs", "This document as a page", fiber.MIMETextHTML, m.handleDocs),
	}
}

// enum returns the allowed values of a parameter.
func enum[T ~string](values ...T) (list []any) {
	for _, v := range values {
		list = append(list, string(v))
	}
	return list
}

// guard returns the checks of requests.
func (m *Main) guard() api.Guard {
	return api.Guard{Admins: m.admins, Front: m.front, Bodies: m.bodies}
}

// logRoutes returns the routes that read the prediction log.
func (m *Main) logRoutes() api.Log {
	return api.Log{Reader: m.reader, Store: m.config.LogStore, WriteTimeout: m.config.WriteTimeout, Logger: m.log}
}

// handleDocument serves the OpenAPI document.
func (m *Main) handleDocument(c *fiber.Ctx) error {
	c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
	return c.Send(m.document)
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
	return page.Send(c, file, page.DocsPolicy)
}
