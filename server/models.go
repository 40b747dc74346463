package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/internal/explain"
	"fakeart/internal/model"
	"fakeart/server/infer"
	"fakeart/server/source"
	"fakeart/server/telemetry"
)

// previousModel is the reference that means the model before this one.
const previousModel = "previous"

// served is a model that answers requests, and where it came from.
type served struct {
	file    *model.File
	object  source.Object
	since   time.Time
	metrics *telemetry.Model
}

// deployments decide which model is in use. A new one is made ready beside the one
// in use and swapped in; one that fails changes nothing.
type deployments struct {
	engine  *infer.Engine
	metrics *telemetry.Metrics
	log     *slog.Logger
	source  *source.Source    // that of --model
	places  *source.Allowlist // where else models may come from; nil is from everywhere
	options source.Options    // for them
	every   time.Duration     // how often watch looks

	changing sync.Mutex // held while the model is changed
	current  atomic.Pointer[served]
	previous atomic.Pointer[served]
	lacking  atomic.Pointer[error] // why there is no current model; valid until there is one
}

// inUse returns the current model. Without one the error, an *unavailable, says why.
func (d *deployments) inUse() (*served, error) {
	if use := d.current.Load(); use != nil {
		return use, nil
	}
	return nil, d.missing()
}

// missing returns the *unavailable error for requests that need a model while there is
// none. They may be tried again when the source has been looked at again.
func (d *deployments) missing() error {
	detail := "no model is loaded yet"
	if reason := d.lacking.Load(); reason != nil {
		detail += ": " + (*reason).Error()
	}
	return &unavailable{detail, int(min(max(d.every, time.Second), time.Minute).Seconds())}
}

// errNoPrevious means that there is nothing to roll back to.
var errNoPrevious = errors.New("there is no previous model")

// unfitError is the failure of a model that was read but cannot be served.
type unfitError struct{ error }

func (e unfitError) Unwrap() error { return e.error }

// start deploys the model that the source offers now. If the source is watched, it isn't
// an error that there is none, or that it can't be read or served: watch deploys the
// first one that can.
func (d *deployments) start(ctx context.Context, digest string) error {
	object, err := d.source.Current(ctx)
	if err == nil {
		err = d.deploy(ctx, d.source, object, digest)
	}
	switch {
	case err == nil:
		return nil
	case d.every > 0:
		d.lacking.Store(&err)
		return nil
	case errors.Is(err, source.ErrNotFound):
		return fmt.Errorf("%w. To start without a model and wait for the first, add --model-watch", err)
	}
	return err
}

// change deploys the model that the reference names: previousModel, one that the
// source of --model offers, or another from where that is allowed. It returns what
// is in use then.
func (d *deployments) change(ctx context.Context, ref, digest string) (*served, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	err := d.changeTo(ctx, ref, digest)
	d.metrics.Swap(err == nil)
	if err != nil {
		d.log.Error("model not changed", "model", redacted(ref), "error", err)
		return nil, err
	}
	d.logInUse()
	return d.current.Load(), nil
}

// logInUse logs which model is in use since the last change.
func (d *deployments) logInUse() {
	use := d.current.Load()
	d.log.Info("model in use", "model", use.file.Digest, "name", use.file.Metadata.Name, "from", use.object.Ref)
}

func (d *deployments) changeTo(ctx context.Context, ref, digest string) error {
	if ref == previousModel {
		p := d.previous.Load()
		if p == nil {
			return errNoPrevious
		}
		if digest != "" && !sameDigest(p.file.Digest, digest) {
			return fmt.Errorf("%w: the previous model is %s, not %s", source.ErrDigest, p.file.Digest, digest)
		}
		return d.use(p.file, p.object)
	}
	object, err := d.source.Find(ctx, ref)
	if err == nil {
		return d.deploy(ctx, d.source, object, digest)
	}
	if errors.Is(err, source.ErrReference) {
		return err
	}
	if d.places != nil {
		if ref, err = d.places.Resolve(ref); err != nil {
			return err
		}
	} else if !strings.Contains(ref, "://") {
		// What a request says is no path: a file is named by its URL.
		return err
	} else if strings.Contains(ref, "?") {
		// Or it could send this program to any host of its network, as ?endpoint= does.
		return fmt.Errorf("%w: a request cannot set a store's parameters; name the place with them by --model-source", source.ErrNotAllowed)
	}
	other, err := source.Open(ctx, ref, d.options)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }()
	if object, err = other.Current(ctx); err != nil {
		return err
	}
	return d.deploy(ctx, other, object, digest)
}

// deploy reads a model and puts it in use.
func (d *deployments) deploy(ctx context.Context, from *source.Source, object source.Object, digest string) error {
	data, err := from.Read(ctx, object, digest)
	if err != nil {
		return err
	}
	file, err := model.Parse(data)
	if err != nil {
		return unfitError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	return d.use(file, object)
}

// use makes the model ready and swaps it in.
func (d *deployments) use(file *model.File, object source.Object) error {
	ready, err := d.engine.Load(file)
	if err != nil {
		return unfitError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	now := &served{file: file, object: object, since: time.Now(), metrics: d.metrics.Model(file.Digest, file.Metadata.Classes)}
	ready.Data = now
	d.engine.Use(ready) // first: once there is a current model, requests are answered
	before := d.current.Swap(now)
	if before != nil && before.file.Digest != file.Digest {
		d.previous.Store(before)
	}
	md := file.Metadata
	d.metrics.SetModel(file.Digest, md.Name, md.DataDigest, md.Preprocessing)
	return nil
}

// watch deploys each model that is newly published at the source of --model, until ctx
// ends. Without a current model it deploys the one that is there.
func (d *deployments) watch(ctx context.Context) {
	var known source.Object
	if use := d.current.Load(); use != nil {
		known = use.object
	}
	logged := "" // a missing model is logged once
	if reason := d.lacking.Load(); reason != nil {
		logged = (*reason).Error()
	}
	d.source.Watch(ctx, d.every, known, func(object source.Object) error {
		d.changing.Lock()
		defer d.changing.Unlock()
		err := d.deploy(ctx, d.source, object, "")
		d.metrics.Swap(err == nil)
		if err != nil {
			d.lacking.Store(&err)
			d.log.Error("published model not deployed", "model", object.Ref, "error", err)
			return err
		}
		logged = ""
		d.logInUse()
		return nil
	}, func(err error) {
		d.lacking.Store(&err)
		if text := err.Error(); text != logged || !errors.Is(err, source.ErrNotFound) {
			logged = text
			d.log.Warn("model source not read; trying again", "error", err)
		}
	})
}

// ModelInUse describes a model that is served.
type ModelInUse struct {
	Model         string    `json:"model" doc:"Digest of the model file."`
	Ref           string    `json:"ref" doc:"Where it came from."`
	Since         time.Time `json:"since" doc:"When it was put in use."`
	Name          string    `json:"name" doc:"Name of the experiment that trained it."`
	Classes       []string  `json:"classes" doc:"Class names, by label."`
	Threshold     float64   `json:"threshold" doc:"Probability above which the verdict is FAKE."`
	InputSize     int       `json:"input_size" doc:"Width and height of its input in pixels."`
	EmbeddingSize int       `json:"embedding_size" doc:"Width of its embedding."`
	Preprocessing string    `json:"preprocessing" doc:"How pictures become its input."`
	DataSource    string    `json:"data_source" doc:"Where the pictures came from that it was trained on, in words; empty when unknown."`
	DataDigest    string    `json:"data_digest" doc:"What it was trained on."`
	ConfigDigest  string    `json:"config_digest" doc:"How it was trained."`
	Seed          int64     `json:"seed" doc:"The training seed."`
	ValLoss       *float64  `json:"val_loss" doc:"Loss on the validation split; null without one."`
	ValAccuracy   *float64  `json:"val_accuracy" doc:"Accuracy on the validation split; null without one."`
	Explanations  []string  `json:"explanations" doc:"What ?explain= may ask of it."`
	Revision      string    `json:"revision" doc:"Source revision of the trainer; empty when unknown."`
}

func (s *served) document() ModelInUse {
	md := s.file.Metadata
	explanations := []string{}
	for _, method := range explain.Methods() {
		if infer.CanExplain(s.file, method) {
			explanations = append(explanations, string(method))
		}
	}
	return ModelInUse{
		Model: s.file.Digest, Ref: s.object.Ref, Since: s.since.UTC(), Name: md.Name, Classes: md.Classes, Threshold: md.Threshold,
		InputSize: md.InputSize, EmbeddingSize: s.file.EmbeddingSize, Preprocessing: md.Preprocessing,
		DataSource: md.DataSource, DataDigest: md.DataDigest, ConfigDigest: md.ConfigDigest, Seed: md.Seed,
		ValLoss: number(md.ValLoss), ValAccuracy: number(md.ValAccuracy), Explanations: explanations, Revision: md.Revision,
	}
}

// number is v, or nil when it is none.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Offered is a model that the source of --model offers.
type Offered struct {
	Ref      string    `json:"ref" doc:"What PUT /models/current can name it by."`
	Size     int64     `json:"size" doc:"In bytes."`
	Modified time.Time `json:"modified" doc:"When it was published."`
	Current  bool      `json:"current" doc:"Whether the model in use was read from it, as it is now."`
}

// Models are those that can be put in use.
type Models struct {
	Models   []Offered   `json:"models" doc:"What the source of --model offers, newest first."`
	Previous *ModelInUse `json:"previous,omitempty" doc:"The model to which {\"model\":\"previous\"} goes back; absent when there is none."`
}

// ModelChange asks for another model.
type ModelChange struct {
	Model  string `json:"model" minLength:"1" example:"gs://bucket/models/new.onnx" doc:"Where it is, as GET /models lists it, or a URL; or \"previous\"."`
	SHA256 string `json:"sha256,omitempty" doc:"Digest that it must have."`
}

// registerModels gives the routes by which models are looked at and changed.
func (m *Main) registerModels(api huma.API) {
	type current struct{ Body ModelInUse }
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/models", OperationID: "models", Tags: []string{tagModels},
		Summary: "Models that can be put in use", Errors: []int{404, 502},
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body Models }, error) {
		objects, err := m.models.source.List(ctx)
		if err != nil {
			return nil, modelProblem(err)
		}
		use := m.models.current.Load()
		models := Models{Models: []Offered{}}
		for _, o := range objects {
			current := use != nil && o.Ref == use.object.Ref && o.Version == use.object.Version
			models.Models = append(models.Models, Offered{o.Ref, o.Size, o.ModTime.UTC(), current})
		}
		if p := m.models.previous.Load(); p != nil {
			document := p.document()
			models.Previous = &document
		}
		return &struct{ Body Models }{models}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/models/current", OperationID: "current-model", Tags: []string{tagModels},
		Summary: "The model in use", Errors: []int{503},
		Description: "503 with `Retry-After` as long as no model is loaded.",
	}, func(context.Context, *struct{}) (*current, error) {
		use, err := m.models.inUse()
		if err != nil {
			return nil, told(err)
		}
		return &current{use.document()}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodPut, Path: "/models/current", OperationID: "change-model", Tags: []string{tagModels},
		Summary: "Put another model in use",
		Description: "The new model is made ready beside the one in use: its metadata are checked, probe pictures are judged. " +
			"Requests in flight finish on the old one. A model that fails changes nothing.",
		Security: adminSecurity, Middlewares: huma.Middlewares{m.guarded}, Errors: []int{400, 401, 403, 404, 409, 413, 415, 422, 502},
	}, func(ctx context.Context, in *struct{ Body ModelChange }) (*current, error) {
		use, err := m.models.change(ctx, in.Body.Model, in.Body.SHA256)
		if err != nil {
			return nil, modelProblem(err)
		}
		return &current{use.document()}, nil
	})
}

// modelProblem is what a client is told when a model could not be had or used.
func modelProblem(err error) error {
	status := fiber.StatusInternalServerError
	switch {
	case errors.Is(err, errNoPrevious), errors.Is(err, source.ErrChanged):
		status = fiber.StatusConflict
	case errors.Is(err, source.ErrReference):
		status = fiber.StatusBadRequest
	case errors.Is(err, source.ErrNotAllowed):
		status = fiber.StatusForbidden
	case errors.Is(err, source.ErrNotFound):
		status = fiber.StatusNotFound
	case errors.Is(err, source.ErrTooLarge):
		status = fiber.StatusRequestEntityTooLarge
	case errors.Is(err, source.ErrDigest), errors.As(err, new(unfitError)):
		status = fiber.StatusUnprocessableEntity
	case errors.Is(err, source.ErrUnreachable):
		status = fiber.StatusBadGateway
	}
	return newProblem(status, err.Error())
}

// sameDigest tells whether two ways of writing a digest mean the same.
func sameDigest(a, b string) bool {
	bare := func(digest string) string { return strings.TrimPrefix(strings.ToLower(digest), "sha256:") }
	return bare(a) == bare(b)
}
