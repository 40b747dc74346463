package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/server/failure"
	"fakeart/server/form"
	"fakeart/server/front"
	"fakeart/server/infer"
	"fakeart/server/limit"
	"fakeart/server/listen"
	"fakeart/server/models"
	"fakeart/server/predlog"
	"fakeart/server/request"
)

// formField is the name of the form field that holds an image.
const formField = "data"

// Prediction is the result for one image.
type Prediction struct {
	// ID identifies the prediction and its record in the prediction log.
	ID string `json:"id" format:"uuid" doc:"ID of the prediction, a UUIDv7. Its record in the prediction log has the same ID."`
	// Label is the label of the predicted class.
	Label string `json:"label" example:"FAKE" doc:"Predicted class: one of the labels of GET /models/current."`
	// IsAI reports whether the predicted class is FAKE. It's nil for models with other classes than REAL and FAKE.
	IsAI *bool `json:"isAI,omitempty" doc:"Whether the image is classified as AI-generated. Only for models with the classes REAL and FAKE."`
	// Probability is the probability of the positive class or, if the model has none, of the predicted class, in [0,1].
	Probability float64 `json:"probability" minimum:"0" maximum:"1" doc:"Probability of the model's positive class, such as FAKE, whatever the predicted class is. For a model without a positive class: probability of the predicted class."`
	// Probabilities are those of the most probable classes.
	Probabilities Probabilities `json:"probabilities" doc:"Probabilities of the classes, in descending order: of all up to ten classes, or else of the five most probable ones; see ?top=."`
	// Model is the digest of the model file.
	Model string `json:"model" example:"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" doc:"Digest of the model that made the prediction."`
	// ModelName is the name that requests can give with ?model=.
	ModelName string `json:"modelName" example:"fakeart" doc:"Name of the model, as in ?model=."`
	// Embedding is the model's last hidden layer, if requested.
	Embedding []float32 `json:"embedding,omitempty" doc:"The model's last hidden layer, with ?embedding=true."`
	// Input is a PNG of the model's input, if requested.
	Input []byte `json:"input,omitempty" contentEncoding:"base64" doc:"The model's input as a PNG in base64, with ?input=png."`
	// Explanation shows which parts of the image determined the prediction, if requested.
	Explanation *Explanation `json:"explanation,omitempty" doc:"Which parts of the image determined the prediction, with ?explain=."`
}

// Probabilities are probabilities of classes in descending order. The JSON is an object.
type Probabilities []ClassProbability

// ClassProbability is the probability of a class.
type ClassProbability struct {
	Label       string
	Probability float64
}

// MarshalJSON returns an object with one member per class.
func (p Probabilities) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, one := range p {
		if i > 0 {
			b = append(b, ',')
		}
		label, err := json.Marshal(one.Label)
		if err != nil {
			return nil, err
		}
		b = appendFloat(append(append(b, label...), ':'), one.Probability, 64)
	}
	return append(b, '}'), nil
}

// Schema returns the OpenAPI schema.
func (Probabilities) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: &huma.Schema{Type: huma.TypeNumber, Minimum: new(0.0), Maximum: new(1.0)},
		Examples: []any{map[string]any{"REAL": 0.98, "FAKE": 0.02}},
	}
}

// Item is the result for one of several images: a prediction or an error.
type Item struct {
	*Prediction
	// Error is the reason why this image wasn't classified.
	Error *failure.Problem `json:"error,omitempty"`
}

// Schema returns the OpenAPI schema of an item: a prediction or an error.
func (Item) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		r.Schema(reflect.TypeFor[Prediction](), true, ""),
		{
			Type: huma.TypeObject, Required: []string{"error"}, AdditionalProperties: false,
			Properties: map[string]*huma.Schema{"error": r.Schema(reflect.TypeFor[failure.Problem](), true, "")},
		},
	}}
}

// Predictions is the result for several images.
type Predictions struct {
	Predictions []Item `json:"predictions" doc:"One result per image, in the order of the request."`
}

// Instances is a JSON request for several images, in the format of TensorFlow Serving.
type Instances struct {
	_ struct{} `additionalProperties:"true"`

	Instances []Instance `json:"instances" nullable:"false" minItems:"1" doc:"Images to classify, up to --max-images."`
}

// Instance is one image of Instances.
type Instance struct {
	_ struct{} `additionalProperties:"true"`

	B64 string `json:"b64" contentEncoding:"base64" doc:"Image file in base64, standard or URL-safe, or as a data URL."`
}

// inputImage is one image of a request, with its result.
type inputImage struct {
	data []byte
	err  error      // why the image has no prediction; caused by the image itself
	job  *infer.Job // nil if not submitted or already freed

	id            uuid.UUID
	class         int
	probability   float64   // reported
	probabilities []float64 // of all classes, part of exchange.probabilities; nil for a tensor
	record        predlog.Record
	explanation   []float32 // saliency map, if requested
}

// exchange is a prediction request in progress. Exchanges are pooled, so that an ordinary request
// allocates next to nothing.
type exchange struct {
	m         *Main
	c         *fiber.Ctx // nil if the request was received by gRPC
	client    infer.Peer // to detect that the client has disconnected; may be nil
	state     *request.State
	received  time.Time
	deadline  time.Time
	body      limit.Body
	parts     [][]byte
	images    []inputImage
	batch     bool // respond with a list
	records   []*predlog.Record
	response  []byte
	served    *models.Model // model that serves the request
	input     bool          // include the model's input in the response
	embedding bool          // include the embedding in the response
	top       int           // number of probabilities in the response; 0 for the default
	tensor    bool          // the request contains a tensor
	inferred  time.Time
	explain   explanationRequest

	probabilities []float64
	order         []int // scratch space

	done  chan struct{} // created by the first call of Done
	timer *time.Timer
}

// exchange implements context.Context without cost until something waits on Done.
var _ context.Context = (*exchange)(nil)

// Deadline returns the request's deadline.
func (x *exchange) Deadline() (time.Time, bool) { return x.deadline, true }

// Done returns a channel that is closed at the request's deadline.
func (x *exchange) Done() <-chan struct{} {
	if x.done == nil {
		done := make(chan struct{})
		x.done = done
		x.timer = time.AfterFunc(time.Until(x.deadline), func() { close(done) })
	}
	return x.done
}

// Err returns context.DeadlineExceeded after the request's deadline.
func (x *exchange) Err() error {
	if time.Now().After(x.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value returns nil for any key.
func (x *exchange) Value(any) any { return nil }

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func (m *Main) newExchange(c *fiber.Ctx) *exchange {
	x := m.beginExchange(front.State(c), front.State(c).Received)
	x.c = c
	if conn, ok := c.Context().Conn().(*listen.Conn); ok {
		x.client = conn
	}
	return x
}

// beginExchange returns an exchange for a request received at the given time.
func (m *Main) beginExchange(s *request.State, received time.Time) *exchange {
	x := exchanges.Get().(*exchange)
	x.m, x.state = m, s
	x.start(received)
	return x
}

// start sets the time at which the request was received, and the deadline that follows from it.
func (x *exchange) start(received time.Time) {
	x.received = received
	x.deadline = received.Add(x.m.config.RequestTimeout)
}

// readBody reads the request's body; see front.Front.ReadBody.
func (x *exchange) readBody() error {
	err := x.m.front.ReadBody(x.c, &x.body)
	x.start(x.state.Received)
	return err
}

// free releases the exchange's resources and returns it to the pool.
func (x *exchange) free() {
	if x.timer != nil {
		x.timer.Stop()
	}
	x.m.bodies.Free(&x.body)
	for i := range x.images {
		if j := x.images[i].job; j != nil {
			j.Free()
		}
	}
	clear(x.parts)
	clear(x.images)
	clear(x.records)
	if cap(x.response) > limit.SmallBody {
		x.response = nil
	}
	if 8*cap(x.probabilities) > limit.SmallBody {
		x.probabilities = nil
	}
	*x = exchange{
		body: x.body, parts: x.parts[:0], images: x.images[:0], records: x.records[:0], response: x.response[:0],
		probabilities: x.probabilities[:0], order: x.order[:0],
	}
	exchanges.Put(x)
}

// handlePredict classifies the images in the request.
func (m *Main) handlePredict(c *fiber.Ctx) error {
	x := m.newExchange(c)
	defer x.free()
	x.input = c.Query("input") == "png"
	x.embedding = c.Query("embedding") == "true"
	x.explain = explanationOf(c)
	x.state.Explained = x.explain.method != ""
	deployment, err := m.selected(c.Query("model"))
	if err != nil {
		return err
	}
	if _, err := deployment.InUse(); err != nil {
		return err
	}
	if top := c.Query("top"); top != "" {
		x.top, _ = strconv.Atoi(top) // checkQuery has checked it
	}
	if contentType := c.Get(fiber.HeaderContentType); form.IsMultipart(contentType) {
		if err := form.CheckType(contentType); err != nil {
			return formError(err)
		}
	}
	if err := x.readBody(); err != nil {
		return err
	}
	if err := x.parseBody(); err != nil {
		return err
	}
	if err := x.classify(deployment); err != nil {
		return err
	}
	x.write()
	return nil
}

// selected returns the deployment with the name, or the default one if it's empty.
func (m *Main) selected(name string) (*models.Deployment, error) {
	if name == "" {
		return m.models.Default(), nil
	}
	return m.models.Find(name)
}

// parseBody finds the images in the body: the form fields "data", the instances of a JSON object,
// or otherwise the body itself, regardless of its content type.
func (x *exchange) parseBody() error {
	data, contentType, maxInstances := x.body.Bytes, x.c.Get(fiber.HeaderContentType), x.m.config.MaxImages
	switch {
	case form.IsMultipart(contentType):
		parts, err := form.Parts(x.parts, contentType, data, formField, maxInstances)
		if err != nil {
			return formError(err)
		}
		x.parts, x.batch = parts, len(parts) > 1
		for _, data := range parts {
			x.images = append(x.images, inputImage{data: data})
		}
	case isJSON(contentType):
		return x.parseInstances(maxInstances)
	case len(data) == 0:
		return fiber.NewError(fiber.StatusBadRequest, `no image: send one as the form field "data" or as the request body`)
	default:
		x.images = append(x.images, inputImage{data: data})
	}
	return nil
}

// formError converts an error of package form to one with its HTTP status.
func formError(err error) error {
	switch {
	case errors.Is(err, form.ErrContentType):
		return fiber.NewError(fiber.StatusUnsupportedMediaType, err.Error())
	case errors.Is(err, form.ErrTooMany):
		return fiber.NewError(fiber.StatusRequestEntityTooLarge, err.Error())
	case errors.Is(err, form.ErrMissing):
		return fiber.NewError(fiber.StatusBadRequest, "no image: "+err.Error())
	}
	return fiber.NewError(fiber.StatusBadRequest, err.Error())
}

func isJSON(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), fiber.MIMEApplicationJSON)
}

// parseInstances reads a JSON request.
func (x *exchange) parseInstances(maxInstances int) error {
	instances, err := readInstances(x.body.Bytes, maxInstances)
	switch {
	case errors.Is(err, errTooManyInstances):
		return fiber.NewError(fiber.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d instances; split them over several requests", maxInstances))
	case err != nil:
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`invalid JSON body: %s; send {"instances":[{"b64":"…"}]}`, jsonMessage(err)))
	case len(instances) == 0:
		return fiber.NewError(fiber.StatusBadRequest, `no image: send {"instances":[{"b64":"…"}]} with at least one instance`)
	}
	x.batch = true
	for i, instance := range instances {
		var p inputImage
		if instance.B64 == nil {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`instance %d has no "b64"`, i))
		}
		var err error
		if p.data, err = decodeBase64(*instance.B64); err != nil {
			p.err = fiber.NewError(fiber.StatusBadRequest, `"b64" isn't valid base64`)
		}
		x.images = append(x.images, p)
	}
	return nil
}

// decodeBase64 decodes base64 in the standard or the URL-safe alphabet, with or without padding. A
// data URL (RFC 2397) in base64 is also accepted, as browsers produce it.
func decodeBase64(text string) ([]byte, error) {
	if head, rest, ok := strings.Cut(text, ","); ok && hasFoldedPrefix(head, "data:") && hasFoldedSuffix(head, ";base64") {
		text = rest
	}
	encoding := base64.StdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.URLEncoding
	}
	if !strings.HasSuffix(strings.TrimRight(text, "\r\n"), "=") {
		encoding = encoding.WithPadding(base64.NoPadding)
	}
	return encoding.DecodeString(text)
}

func hasFoldedPrefix(text, prefix string) bool {
	return len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix)
}

func hasFoldedSuffix(text, suffix string) bool {
	return len(text) >= len(suffix) && strings.EqualFold(text[len(text)-len(suffix):], suffix)
}

// instance is an image in a JSON request.
type instance struct {
	B64 *string
}

var errTooManyInstances = errors.New("too many instances")

// readInstances reads the instances one by one, up to the given maximum. Decoding everything at
// once would let a body of nothing but braces take many times its own memory.
func readInstances(body []byte, maxInstances int) (instances []instance, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	expect := func(want json.Delim) error {
		token, err := d.Token()
		if err == nil && token != want {
			err = fmt.Errorf("expected %v, got %.40v", want, token)
		}
		return err
	}
	if err := expect('{'); err != nil {
		return nil, err
	}
	seen := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "instances" {
			if err := d.Decode(new(json.RawMessage)); err != nil {
				return nil, err
			}
			continue
		}
		if seen {
			return nil, errors.New("duplicate key \"instances\"")
		}
		seen = true
		if err := expect('['); err != nil {
			return nil, err
		}
		for d.More() {
			if len(instances) == maxInstances {
				return nil, errTooManyInstances
			}
			one, err := readInstance(d)
			if err != nil {
				return nil, err
			}
			instances = append(instances, one)
		}
		if err := expect(']'); err != nil {
			return nil, err
		}
	}
	if err := expect('}'); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("unexpected data after the JSON object")
	}
	return instances, nil
}

// readInstance reads one instance. Names of members are case-sensitive, unlike in encoding/json.
func readInstance(d *json.Decoder) (one instance, err error) {
	if token, err := d.Token(); err != nil || token == nil {
		return one, err
	} else if token != json.Delim('{') {
		return one, fmt.Errorf("expected an instance, got %.40v", token)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return one, err
		}
		var value any = new(json.RawMessage)
		if key == "b64" {
			if one.B64 != nil {
				return one, errors.New(`duplicate key "b64"`)
			}
			value = &one.B64
		}
		if err := d.Decode(value); err != nil {
			return one, err
		}
	}
	_, err = d.Token()
	return one, err
}

// jsonMessage returns the message of an error of encoding/json in terms of the request.
func jsonMessage(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("syntax error at byte %d", e.Offset)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(e.Value, " ") // a number is followed by its digits
		if e.Field == "" {
			return "unexpected " + kind
		}
		return fmt.Sprintf("unexpected %s in %q", kind, e.Field)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "unexpected end"
	}
	return err.Error()
}

// classify runs one model on every image and logs the predictions. An image that can't be
// classified has its own error. A returned error applies to the whole request.
func (x *exchange) classify(deployment *models.Deployment) (err error) {
	m := x.m
	call, err := deployment.Admit(len(x.images), x.deadline, x.client)
	if err != nil {
		return m.requestError(err)
	}
	defer call.Close()
	x.served = models.Of(call)
	defer func() { x.count(err) }()
	if n := len(x.served.Labels); x.top > n {
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("top=%d: the model has only %d classes; use 1 to %[2]d", x.top, n))
	}
	if x.embedding && x.served.File.EmbeddingSize == 0 {
		return fiber.NewError(fiber.StatusUnprocessableEntity, "the model has no embedding; leave out embedding=true, or import the model with --embedding")
	}
	if err := x.explain.check(x.served.File.Plan); err != nil {
		return err
	}
	if x.explain.method != "" {
		if err := call.AdmitExplanations(x.explain.method, len(x.images)); err != nil {
			return m.requestError(err)
		}
	}
	for i := range x.images {
		if i > 0 {
			// Checking between two images costs nothing.
			if err = x.Err(); err == nil && x.disconnected() {
				err = infer.ErrDisconnected
			}
			if err != nil {
				break
			}
		}
		if p := &x.images[i]; p.err == nil {
			if err = x.decode(p, call); err != nil {
				break
			}
		}
	}
	if err := errors.Join(err, x.wait(call)); err != nil {
		return m.requestError(err)
	}
	if !x.batch && x.images[0].err != nil {
		return x.images[0].err
	}
	if x.explain.method != "" {
		if err := x.explainAll(call); err != nil {
			return m.requestError(err)
		}
	}
	return x.log()
}

// wait waits until each submitted image has a prediction or has failed.
func (x *exchange) wait(call *infer.Call) (err error) {
	for i := range x.images {
		p := &x.images[i]
		if p.job == nil {
			continue
		}
		if e := call.Wait(p.job); e != nil {
			p.job = nil
			err = e
			continue
		}
		x.setPrediction(p)
	}
	x.inferred = x.m.now()
	return err
}

// count counts the request, which failed unless err is nil, in the statistics of its model.
func (x *exchange) count(err error) {
	now := x.m.now()
	if err != nil {
		x.served.Counts.Failed(now, now.Sub(x.received))
		return
	}
	var queued time.Duration
	for i := range x.images {
		if j := x.images[i].job; j != nil {
			queued = max(queued, j.Started.Sub(j.Submitted))
		}
	}
	x.served.Counts.Succeeded(now, now.Sub(x.received), queued)
}

func (x *exchange) disconnected() bool { return x.client != nil && x.client.Disconnected() }

// decode converts the image to model input and submits it. If the image can't be decoded, its err
// is set and decode returns nil. A returned error applies to the whole request.
func (x *exchange) decode(p *inputImage, call *infer.Call) error {
	m, plan := x.m, call.Model().File.Plan
	release, err := x.admit(plan, p.data)
	if err != nil {
		if kind := imageErrorStatus(err); kind != 0 {
			p.err = fiber.NewError(kind, err.Error())
			return nil
		}
		return err
	}
	d, err := m.decoders.Take(x)
	if err != nil {
		release()
		return err
	}
	job := call.Next()
	var began time.Time
	if x.state.Ctx != nil {
		began = time.Now()
	}
	pixels := d.prepare(plan)
	info, err := d.DecodeContext(x, pixels, p.data)
	if err == nil {
		plan.Fill(job.Input, pixels)
		if m.logs() {
			p.setStats(statsOf(plan, pixels))
		}
	}
	m.decoders.Put(d)
	release()
	if x.state.Ctx != nil {
		x.span("decode", began, time.Now(), attribute.String("image.format", info.Format), attribute.Int("image.bytes", len(p.data)))
	}
	if err != nil {
		job.Free()
		if kind := imageErrorStatus(err); kind != 0 {
			p.err = fiber.NewError(kind, err.Error())
			return nil
		}
		return err
	}
	p.record.ImageFormat, p.record.Width, p.record.Height, p.record.ImageBytes = info.Format, info.Width, info.Height, len(p.data)
	if p.record.Orientation = info.Orientation; info.Orientation != 1 && plan.Preprocessing().Orientation == imaging.IgnoreOrientation {
		m.rotated.Do(func() {
			m.log.Warn("an image is rotated or mirrored by its EXIF orientation, which the model ignores: predictions may be less accurate; this is logged once, the prediction log counts such images",
				"orientation", info.Orientation, "format", info.Format)
		})
	}
	p.job = job
	call.Submit(job)
	if m.logs() {
		// Hash the image while the model processes it.
		p.record.ImageSHA256 = sha256.Sum256(p.data)
	}
	return nil
}

// admit reserves the memory for decoding the image; see limit.Memory. An error caused by the image
// itself wraps an error of package imaging.
func (x *exchange) admit(plan *imaging.Plan, data []byte) (release func(), err error) {
	header, err := plan.Inspect(data, x.m.config.MaxPixels)
	if err != nil {
		return nil, err
	}
	x.state.Pixels += header.Width * header.Height
	x.state.Slow = x.state.Slow || header.Format == "heic" || header.Format == "avif"
	return x.m.decoding.Admit(x, header)
}

// decoder decodes one image at a time, for any model.
type decoder struct {
	imaging.Decoder
	pixels []uint8
}

// largestPixels is the size in bytes of the largest buffer for pixels that a decoder keeps.
const largestPixels = 1 << 20

// prepare makes the decoder decode the next image by the plan, and returns the buffer for its pixels.
func (d *decoder) prepare(plan *imaging.Plan) []uint8 {
	d.SetPlan(plan)
	n := plan.Len()
	if n > largestPixels {
		return make([]uint8, n)
	}
	if cap(d.pixels) < n {
		d.pixels = make([]uint8, n)
	}
	return d.pixels[:n]
}

// statsOf returns the statistics of the pixels of an image.
func statsOf(plan *imaging.Plan, pixels []uint8) imaging.Stats {
	p := plan.Preprocessing()
	return imaging.StatsOf(pixels, p.Width, p.Channels())
}

// newDecoders returns n decoders of images with at most maxPixels pixels.
func newDecoders(n, maxPixels int) []*decoder {
	decoders := make([]*decoder, n)
	for i := range decoders {
		decoders[i] = &decoder{Decoder: imaging.Decoder{MaxPixels: maxPixels}}
	}
	return decoders
}

func (p *inputImage) setStats(s imaging.Stats) {
	r := &p.record
	r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation = s.Mean, s.StdDev, s.Brightness, s.Contrast, s.Sharpness, s.Saturation
}

// imageErrorStatus returns the HTTP status for an error caused by an image itself, or 0 for any
// other error.
func imageErrorStatus(err error) int {
	switch {
	case errors.Is(err, imaging.ErrEmpty):
		return fiber.StatusBadRequest
	case errors.Is(err, imaging.ErrTooLarge):
		return fiber.StatusRequestEntityTooLarge
	case errors.Is(err, imaging.ErrFormat):
		return fiber.StatusUnsupportedMediaType
	case errors.Is(err, imaging.ErrBroken):
		return fiber.StatusUnprocessableEntity
	}
	return 0
}

// span records a completed part of the request, which is traced.
func (x *exchange) span(name string, began, ended time.Time, attributes ...attribute.KeyValue) {
	x.m.requests.Record(x.state, name, began, ended, attributes...)
}

// setPrediction sets the prediction from the model's output.
func (x *exchange) setPrediction(p *inputImage) {
	md := &x.served.File.Metadata
	start, n := len(x.probabilities), len(md.Classes)
	x.probabilities = slices.Grow(x.probabilities, n)[:start+n]
	probabilities := x.probabilities[start:]
	if err := md.Probabilities(probabilities, p.job.Scores); err != nil {
		p.err = fiber.NewError(fiber.StatusInternalServerError, "the model's output for this image isn't a finite number; its weights may be damaged")
		if x.tensor {
			p.err = fiber.NewError(fiber.StatusBadRequest, "the model's output isn't a finite number; the values of the input are out of range")
		}
		p.job.Free()
		p.job = nil
		return
	}
	p.class = md.Decide(probabilities)
	p.probability = md.Reported(probabilities, p.class)
	if x.tensor {
		x.probabilities = x.probabilities[:start] // the response has scores
	} else {
		p.probabilities = probabilities
	}
	p.id = uuid.Must(uuid.NewV7()) // fails only if the system has no random numbers
	x.served.Metrics.Predicted(p.class, p.probability)
	if x.state.Ctx != nil {
		x.span("queue", p.job.Submitted, p.job.Started)
		x.span("inference", p.job.Started, p.job.Ended, attribute.String("model", x.served.File.Digest), attribute.String("model_name", x.served.Name))
	}
}

// log appends a record of each prediction to the prediction log. It returns an error only if the
// response must not be sent without a record.
func (x *exchange) log() error {
	m := x.m
	if !m.logs() {
		return nil
	}
	began := time.Now()
	for i := range x.images {
		p := &x.images[i]
		if p.job == nil {
			continue
		}
		r := &p.record
		r.ID, r.Time = p.id, x.received
		r.RequestID, r.TraceID = x.state.ID, x.state.TraceID
		r.Model, r.ModelName, r.Label, r.Probability = x.served.File.Digest, x.served.Name, x.served.Labels[p.class], p.probability
		r.Latency = x.inferred.Sub(r.Time)
		r.Embedding = p.job.Embedding
		if m.config.LogImages {
			r.Image = p.data
		}
		x.records = append(x.records, r)
	}
	err := m.predictions.Append(x, x.records...)
	if m.config.LogRequired {
		// A record that a failing log only keeps in memory doesn't count as logged.
		err = errors.Join(err, m.predictions.Err())
	}
	if x.state.Ctx != nil {
		x.span("log", began, time.Now())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, predlog.ErrClosed):
		return m.requestError(infer.ErrClosed) // the log was closed during shutdown
	case !m.config.LogDurable && !m.config.LogRequired:
		return nil
	}
	return failure.Busy("the prediction can't be logged, which this server requires: " + err.Error())
}

// write writes the response with the predictions.
func (x *exchange) write() {
	b := x.response
	if x.batch {
		b = append(b, `{"predictions":[`...)
	}
	for i := range x.images {
		p := &x.images[i]
		if i > 0 {
			b = append(b, ',')
		}
		if p.job == nil {
			b = append(b, `{"error":`...)
			b = failure.AppendProblem(b, p.err)
			b = append(b, '}')
			continue
		}
		b = x.appendPrediction(b, p)
	}
	if x.batch {
		b = append(b, ']', '}')
	}
	b = append(b, '\n')
	x.response = b
	response := x.c.Response()
	response.Header.SetContentType(fiber.MIMEApplicationJSON)
	response.SetBody(b)
}

// appendPrediction appends the image's Prediction exactly as encoding/json would encode it, without allocating.
func (x *exchange) appendPrediction(b []byte, p *inputImage) []byte {
	var id [36]byte
	b = append(b, `{"id":"`...)
	b = append(b, appendUUID(id[:0], p.id)...)
	b = append(b, `","label":`...)
	b = x.served.AppendLabel(b, p.class)
	if ai, ok := x.served.File.Metadata.IsAI(p.class); ok {
		b = strconv.AppendBool(append(b, `,"isAI":`...), ai)
	}
	b = append(b, `,"probability":`...)
	b = appendFloat(b, p.probability, 64)
	b = append(b, `,"probabilities":{`...)
	x.order = appendTop(x.order[:0], p.probabilities, cmp.Or(x.top, defaultTop(len(p.probabilities))))
	for i, class := range x.order {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(x.served.AppendLabel(b, class), ':')
		b = appendFloat(b, p.probabilities[class], 64)
	}
	b = append(b, `},"model":"`...)
	b = append(b, x.served.File.Digest...)
	b = append(b, `","modelName":"`...)
	b = append(b, x.served.Name...)
	b = append(b, '"')
	if x.embedding {
		b = append(b, `,"embedding":[`...)
		for i, v := range p.job.Embedding {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendFloat(b, float64(v), 32)
		}
		b = append(b, ']')
	}
	plan := x.served.File.Plan
	if p.explanation != nil {
		b = x.explain.append(b, p.explanation, plan.Preprocessing().Width)
	}
	if x.input {
		pixels, size := make([]uint8, plan.Len()), plan.Preprocessing()
		plan.Pixels(pixels, p.job.Input) // exactly the pixels that were decoded
		b = append(b, `,"input":"`...)
		b = base64.StdEncoding.AppendEncode(b, imaging.EncodePNG(imaging.ToImage(pixels, size.Width, size.Channels())))
		b = append(b, '"')
	}
	return append(b, '}')
}

// defaultTop returns the default number of probabilities for a number of classes.
func defaultTop(classes int) int {
	const all, top = 10, 5
	if classes > all {
		return top
	}
	return classes
}

// appendTop appends the indices of the n largest probabilities in descending order. Equal probabilities are in the order of the
// classes.
func appendTop(order []int, probabilities []float64, n int) []int {
	const few = 64 // up to which insertion is faster than sorting
	n = min(n, len(probabilities))
	if n > few {
		return append(order, model.Top(probabilities, n)...)
	}
	for class, p := range probabilities {
		at := len(order)
		if at == n {
			if p <= probabilities[order[n-1]] {
				continue
			}
			at--
		} else {
			order = append(order, 0)
		}
		for ; at > 0 && probabilities[order[at-1]] < p; at-- {
			order[at] = order[at-1]
		}
		order[at] = class
	}
	return order
}
