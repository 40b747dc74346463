package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/server/form"
	"fakeart/server/infer"
	"fakeart/server/predlog"
)

// formField is the form's field that holds a picture.
const formField = "data"

// Prediction is the answer for one picture.
type Prediction struct {
	// ID names the prediction; its record in the log has the same.
	ID string `json:"id" format:"uuid" doc:"Name of the prediction, a UUIDv7; its record in the log has the same."`
	// Label is the name of the class, "REAL" or "FAKE".
	Label string `json:"label" enum:"REAL,FAKE" doc:"The verdict."`
	// IsAI tells whether the picture is judged to be AI-generated.
	IsAI bool `json:"isAI" doc:"Whether the picture is judged to be AI-generated."`
	// Probability of being AI-generated, in [0,1].
	Probability float64 `json:"probability" minimum:"0" maximum:"1" doc:"Probability of being AI-generated."`
	// Model is the digest of the model file that judged.
	Model string `json:"model" example:"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" doc:"Digest of the model that judged."`
	// Embedding is the model's last hidden layer; only when asked for.
	Embedding []float32 `json:"embedding,omitempty" doc:"The model's last hidden layer, with ?embedding=true."`
	// Input is a PNG of the pixels that the model saw; only when asked for.
	Input []byte `json:"input,omitempty" contentEncoding:"base64" doc:"What the model saw, as a PNG of 32×32 pixels in base64, with ?input=png."`
	// Explanation tells where the model looked; only when asked for.
	Explanation *Explanation `json:"explanation,omitempty" doc:"Where the model found what it judged by, with ?explain=."`
}

// Item is the answer for one of several pictures: a prediction, or why there is none.
type Item struct {
	*Prediction
	// Error says why this picture was not judged.
	Error *problem `json:"error,omitempty"`
}

// Schema describes an item to OpenAPI: either of the two.
func (Item) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		r.Schema(reflect.TypeFor[Prediction](), true, ""),
		{
			Type: huma.TypeObject, Required: []string{"error"}, AdditionalProperties: false,
			Properties: map[string]*huma.Schema{"error": r.Schema(reflect.TypeFor[problem](), true, "")},
		},
	}}
}

// Predictions is the answer for several pictures.
type Predictions struct {
	Predictions []Item `json:"predictions" doc:"One for each picture, in their order."`
}

// Instances is a request for several pictures in JSON, as TensorFlow Serving has it.
type Instances struct {
	Instances []Instance `json:"instances" minItems:"1" doc:"The pictures."`
}

// Instance is one picture of it.
type Instance struct {
	B64 string `json:"b64" contentEncoding:"base64" doc:"The picture's bytes in base64."`
}

// picture is one of a request: its bytes on the way in, its answer on the way out.
type picture struct {
	data []byte
	err  error      // why there is no answer, the picture's own fault
	job  *infer.Job // nil once it is freed

	id          uuid.UUID
	label       string
	fake        bool
	probability float64
	record      predlog.Record
	explanation []float32 // a map, when asked for
}

// exchange is a prediction request while it is worked on. Exchanges are used again,
// so that an ordinary request allocates next to nothing.
type exchange struct {
	m        *Main
	c        *fiber.Ctx
	state    *requestState
	deadline time.Time
	body     body
	parts    [][]byte
	pictures []picture
	many     bool // answer with a list
	records  []*predlog.Record
	answer   []byte
	served   *served // the model that answers
	input    bool    // answer with what the model saw, too
	judged   time.Time
	explain  explanationRequest

	done  chan struct{} // made when asked for
	timer *time.Timer
}

// exchange is a context that costs nothing until something waits for its end.
var _ context.Context = (*exchange)(nil)

// Deadline is when the request's time is up.
func (x *exchange) Deadline() (time.Time, bool) { return x.deadline, true }

// Done is closed when the request's time is up.
func (x *exchange) Done() <-chan struct{} {
	if x.done == nil {
		done := make(chan struct{})
		x.done = done
		x.timer = time.AfterFunc(time.Until(x.deadline), func() { close(done) })
	}
	return x.done
}

// Err tells whether the request's time is up.
func (x *exchange) Err() error {
	if time.Now().After(x.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value is nil, whatever the key.
func (x *exchange) Value(any) any { return nil }

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func (m *Main) newExchange(c *fiber.Ctx) *exchange {
	x := exchanges.Get().(*exchange)
	x.m, x.c, x.state = m, c, state(c)
	x.deadline = c.Context().Time().Add(m.config.RequestTimeout)
	return x
}

// free makes the exchange ready for another request.
func (x *exchange) free() {
	if x.timer != nil {
		x.timer.Stop()
	}
	x.m.bodies.free(&x.body)
	for i := range x.pictures {
		if j := x.pictures[i].job; j != nil {
			j.Free()
		}
	}
	clear(x.parts)
	clear(x.pictures)
	clear(x.records)
	if cap(x.answer) > smallBody {
		x.answer = nil
	}
	*x = exchange{body: x.body, parts: x.parts[:0], pictures: x.pictures[:0], records: x.records[:0], answer: x.answer[:0]}
	exchanges.Put(x)
}

// handlePredict judges the pictures in the request.
func (m *Main) handlePredict(c *fiber.Ctx) error {
	x := m.newExchange(c)
	defer x.free()
	switch input := c.Query("input"); input {
	case "", "png":
		x.input = input != ""
	default:
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("input=%.20q: it can be had as png", input))
	}
	var err error
	if x.explain, err = readExplanationRequest(c); err != nil {
		return err
	}
	if err := m.bodies.read(c, &x.body); err != nil {
		return err
	}
	if err := x.take(); err != nil {
		return err
	}
	if err := x.judge(); err != nil {
		return err
	}
	x.write(c.Query("embedding") != "" && c.QueryBool("embedding")) // it makes an error for "", and nothing of it
	return nil
}

// take finds the pictures in the body: the form's fields "data", or the instances of
// a JSON object, or else the body as it is, whatever type it claims to be.
func (x *exchange) take() error {
	data, contentType, most := x.body.bytes, x.c.Get(fiber.HeaderContentType), x.m.config.MaxImages
	switch {
	case form.IsMultipart(contentType):
		parts, err := form.Parts(x.parts, contentType, data, formField, most)
		switch {
		case errors.Is(err, form.ErrContentType):
			return fiber.NewError(fiber.StatusUnsupportedMediaType, err.Error())
		case errors.Is(err, form.ErrTooMany):
			return fiber.NewError(fiber.StatusRequestEntityTooLarge, err.Error())
		case errors.Is(err, form.ErrMissing):
			return fiber.NewError(fiber.StatusBadRequest, "no image: "+err.Error())
		case err != nil:
			return fiber.NewError(fiber.StatusBadRequest, err.Error())
		}
		x.parts, x.many = parts, len(parts) > 1
		for _, data := range parts {
			x.pictures = append(x.pictures, picture{data: data})
		}
	case isJSON(contentType):
		return x.takeInstances(most)
	case len(data) == 0:
		return fiber.NewError(fiber.StatusBadRequest, `no image: send one as the form field "data" or as the body of the request`)
	default:
		x.pictures = append(x.pictures, picture{data: data})
	}
	return nil
}

func isJSON(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), fiber.MIMEApplicationJSON)
}

// takeInstances reads the JSON form of a request.
func (x *exchange) takeInstances(most int) error {
	instances, err := readInstances(x.body.bytes, most)
	switch {
	case errors.Is(err, errTooManyInstances):
		return fiber.NewError(fiber.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d instances; send them in several requests", most))
	case err != nil:
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`the body is not JSON such as {"instances":[{"b64":"…"}]}: %v`, err))
	case len(instances) == 0:
		return fiber.NewError(fiber.StatusBadRequest, `no image: want {"instances":[{"b64":"…"}]} with at least one instance`)
	}
	x.many = true
	for i, instance := range instances {
		var p picture
		if instance.B64 == nil {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`instance %d has no "b64"`, i))
		}
		var err error
		if p.data, err = base64.StdEncoding.DecodeString(*instance.B64); err != nil {
			p.err = fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`"b64" is not base64: %v`, err))
		}
		x.pictures = append(x.pictures, p)
	}
	return nil
}

// instance is a picture in a request in JSON.
type instance struct {
	B64 *string `json:"b64"`
}

var errTooManyInstances = errors.New("too many instances")

// readInstances reads them one by one, and no more than most: a body of nothing but
// braces would otherwise take many times its own memory.
func readInstances(body []byte, most int) (instances []instance, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	expect := func(want json.Delim) error {
		token, err := d.Token()
		if err == nil && token != want {
			err = fmt.Errorf("want %v, not %.40v", want, token)
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
			return nil, errors.New("it has two lists of instances")
		}
		seen = true
		if err := expect('['); err != nil {
			return nil, err
		}
		for d.More() {
			if len(instances) == most {
				return nil, errTooManyInstances
			}
			var one instance
			if err := d.Decode(&one); err != nil {
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
		return nil, errors.New("something stands behind it")
	}
	return instances, nil
}

// judge has every picture judged by one model, and logged. A picture that cannot be
// has its own error; any error returned is that of the whole request.
func (x *exchange) judge() error {
	m := x.m
	call, err := m.engine.Admit(len(x.pictures), x.deadline, x.peer())
	if err != nil {
		return m.refusal(err)
	}
	defer call.Close()
	x.served = call.Model().Data.(*served)
	if x.explain.method != "" {
		if err := call.AdmitExplanations(x.explain.method, len(x.pictures)); err != nil {
			return m.refusal(err)
		}
	}
	for i := range x.pictures {
		if i > 0 {
			// Between two pictures it costs nothing to look whether it is worth while.
			if err = x.Err(); err == nil && x.gone() {
				err = infer.ErrDisconnected
			}
			if err != nil {
				break
			}
		}
		if p := &x.pictures[i]; p.err == nil {
			if err = x.decode(p, call); err != nil {
				break
			}
		}
	}
	if err := errors.Join(err, x.wait(call)); err != nil {
		return m.refusal(err)
	}
	if !x.many && x.pictures[0].err != nil {
		return x.pictures[0].err
	}
	if x.explain.method != "" {
		if err := x.explainAll(call); err != nil {
			return m.refusal(err)
		}
	}
	return x.log()
}

// wait returns once each picture that was submitted has its verdict, or none.
func (x *exchange) wait(call *infer.Call) (err error) {
	for i := range x.pictures {
		p := &x.pictures[i]
		if p.job == nil {
			continue
		}
		if e := call.Wait(p.job); e != nil {
			p.job = nil
			err = e
			continue
		}
		x.conclude(p)
	}
	x.judged = time.Now()
	return err
}

// peer is the client, which may go away.
func (x *exchange) peer() infer.Peer {
	if conn, ok := x.c.Context().Conn().(*conn); ok {
		return conn
	}
	return nil
}

func (x *exchange) gone() bool {
	p := x.peer()
	return p != nil && p.Disconnected()
}

// decode turns the picture into the model's input and submits it. A picture that
// cannot be decoded has its error set; an error returned is of another kind.
func (x *exchange) decode(p *picture, call *infer.Call) error {
	m := x.m
	release, err := m.decoders.admit(x, p.data)
	if err != nil {
		if kind := pictureStatus(err); kind != 0 {
			p.err = fiber.NewError(kind, err.Error())
			return nil
		}
		return err
	}
	d, err := m.decoders.take(x)
	if err != nil {
		release()
		return err
	}
	job := call.Next()
	var began time.Time
	if x.state.ctx != nil {
		began = time.Now()
	}
	info, err := d.Decode(d.pixels[:], p.data)
	if err == nil {
		imaging.ToTensor(job.Input, d.pixels[:])
		if m.logs() {
			p.setStats(imaging.StatsOf(d.pixels[:]))
		}
	}
	m.decoders.give(d)
	release()
	if x.state.ctx != nil {
		x.span("decode", began, time.Now(), attribute.String("image.format", info.Format), attribute.Int("image.bytes", len(p.data)))
	}
	if err != nil {
		job.Free()
		if kind := pictureStatus(err); kind != 0 {
			p.err = fiber.NewError(kind, err.Error())
			return nil
		}
		return err
	}
	p.record.ImageFormat, p.record.Width, p.record.Height, p.record.ImageBytes = info.Format, info.Width, info.Height, len(p.data)
	p.job = job
	call.Submit(job)
	if m.logs() {
		// While the model has it.
		p.record.ImageSHA256 = sha256.Sum256(p.data)
	}
	return nil
}

func (p *picture) setStats(s imaging.Stats) {
	r := &p.record
	r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation = s.Mean, s.StdDev, s.Brightness, s.Contrast, s.Sharpness, s.Saturation
}

// pictureStatus is the status for an error that is a picture's own fault, else 0.
func pictureStatus(err error) int {
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

// conclude draws the verdict from the model's answer.
func (x *exchange) conclude(p *picture) {
	// Only a tensor can be so far outside of what the model was made for.
	if !finite(p.job.Logit) {
		p.err = fiber.NewError(fiber.StatusBadRequest, "the model's answer is not a finite number: values of the input should be in [0,1]")
		p.job.Free()
		p.job = nil
		return
	}
	p.probability = model.Probability(p.job.Logit)
	p.label, p.fake = x.served.file.Metadata.Label(p.probability)
	p.id = uuid.Must(uuid.NewV7()) // fails only where the system has no random numbers
	x.served.metrics.Predicted(p.fake, p.probability)
	if x.state.ctx != nil {
		x.span("queue", p.job.Submitted, p.job.Started)
		x.span("inference", p.job.Started, p.job.Ended, attribute.String("model", x.served.file.Digest))
	}
}

// log leaves a record of each prediction. It fails only when an answer must not be
// given without one.
func (x *exchange) log() error {
	m := x.m
	if !m.logs() {
		return nil
	}
	began := time.Now()
	for i := range x.pictures {
		p := &x.pictures[i]
		if p.job == nil {
			continue
		}
		r := &p.record
		r.ID, r.Time = p.id, x.c.Context().Time()
		r.RequestID, r.TraceID = x.state.id, x.state.traceID
		r.Model, r.Label, r.Probability = x.served.file.Digest, p.label, p.probability
		r.Latency = x.judged.Sub(r.Time)
		r.Embedding = p.job.Embedding
		if m.config.LogImages {
			r.Image = p.data
		}
		x.records = append(x.records, r)
	}
	err := m.predictions.Append(x, x.records...)
	if m.config.LogRequired {
		// What is only kept in memory by a log that fails does not count.
		err = errors.Join(err, m.predictions.Err())
	}
	if x.state.ctx != nil {
		x.span("log", began, time.Now())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, predlog.ErrClosed):
		return m.refusal(infer.ErrClosed) // the answer could not be logged any more
	case !m.config.LogDurable && !m.config.LogRequired:
		return nil
	}
	return busy("the prediction cannot be logged, without which it must not be answered: " + err.Error())
}

// write answers with the verdicts.
func (x *exchange) write(embedding bool) {
	b := x.answer
	if x.many {
		b = append(b, `{"predictions":[`...)
	}
	for i := range x.pictures {
		p := &x.pictures[i]
		if i > 0 {
			b = append(b, ',')
		}
		if p.job == nil {
			b = append(b, `{"error":`...)
			b = appendProblem(b, p.err)
			b = append(b, '}')
			continue
		}
		b = x.appendPrediction(b, p, embedding)
	}
	if x.many {
		b = append(b, ']', '}')
	}
	x.answer = b
	response := x.c.Response()
	response.Header.SetContentType(fiber.MIMEApplicationJSON)
	response.SetBody(b)
}

// appendPrediction appends the picture's Prediction as encoding/json would write it.
func (x *exchange) appendPrediction(b []byte, p *picture, embedding bool) []byte {
	var id [36]byte
	b = append(b, `{"id":"`...)
	b = append(b, appendUUID(id[:0], p.id)...)
	b = append(b, `","label":"`...)
	b = append(b, p.label...)
	b = append(b, `","isAI":`...)
	if p.fake {
		b = append(b, "true"...)
	} else {
		b = append(b, "false"...)
	}
	b = append(b, `,"probability":`...)
	b = appendFloat(b, p.probability, 64)
	b = append(b, `,"model":"`...)
	b = append(b, x.served.file.Digest...)
	b = append(b, '"')
	if embedding {
		b = append(b, `,"embedding":[`...)
		for i, v := range p.job.Embedding {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendFloat(b, float64(v), 32)
		}
		b = append(b, ']')
	}
	if p.explanation != nil {
		b = x.explain.append(b, p.explanation)
	}
	if x.input {
		var pixels [imaging.Size * imaging.Size * imaging.Channels]uint8
		imaging.FromTensor(pixels[:], p.job.Input) // exactly the levels that the picture was decoded to
		b = append(b, `,"input":"`...)
		b = base64.StdEncoding.AppendEncode(b, imaging.EncodePNG(imaging.ToImage(pixels[:], imaging.Size)))
		b = append(b, '"')
	}
	return append(b, '}')
}
