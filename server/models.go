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

	"fakeart/internal/cli"
	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/source"
	"fakeart/server/telemetry"
)

// previousModel is the reference to the model that was in use before the current one.
const previousModel = "previous"

// served is a model in use, with its origin.
type served struct {
	file    *model.File
	object  source.Object
	since   time.Time
	metrics *telemetry.Model
	model   *infer.Model
	counts  requestCounts
}

// deployments manages which model is in use. It prepares a new model while the current one keeps
// serving, and then swaps them. If a new model fails, the current one stays in use.
type deployments struct {
	engine    *infer.Engine
	metrics   *telemetry.Metrics
	log       *slog.Logger
	source    *source.Source    // source of --model
	allowlist *source.Allowlist // allowlist that other models may be loaded from; nil allows all
	options   source.Options    // options for opening these allowlist
	every     time.Duration     // interval of watch

	changing      sync.Mutex // held while the model is being changed
	current       atomic.Pointer[served]
	previous      atomic.Pointer[served]
	missingReason atomic.Pointer[error] // why no model is in use; ignored while one is
}

// inUse returns the model in use. If no model is loaded, the error is an *failure.Unavailable with the reason.
func (d *deployments) inUse() (*served, error) {
	if use := d.current.Load(); use != nil {
		return use, nil
	}
	return nil, d.missing()
}

// missing returns the *failure.Unavailable error for requests while no model is loaded. Its Retry-After
// is the interval at which the model source is checked.
func (d *deployments) missing() error {
	detail := "no model is loaded yet"
	if reason := d.missingReason.Load(); reason != nil {
		detail += ": " + (*reason).Error()
	}
	return &failure.Unavailable{Detail: detail, After: int(min(max(d.every, time.Second), time.Minute).Seconds())}
}

// errNoPrevious is returned when there is no model to roll back to.
var errNoPrevious = errors.New("there is no previous model")

// unusableError is returned for a model that was read but can't be served.
type unusableError struct{ error }

func (e unusableError) Unwrap() error { return e.error }

// start deploys the model that the source currently offers. If the source is watched, a missing
// or unusable model isn't an error: watch deploys the first usable one.
func (d *deployments) start(ctx context.Context, digest string) error {
	object, err := d.source.Current(ctx)
	if err == nil {
		err = d.deploy(ctx, d.source, object, digest)
	}
	switch {
	case err == nil:
		return nil
	case d.every > 0:
		d.missingReason.Store(&err)
		return nil
	case errors.Is(err, source.ErrNotFound):
		return fmt.Errorf("%w\n"+cli.HintPrefix+"add --model-watch to start without a model and wait for the first one", err)
	}
	return err
}

// change deploys the model that ref refers to: previousModel, a model offered by the source of
// --model, or one in another allowed place. It returns the model that is then in use.
func (d *deployments) change(ctx context.Context, ref, digest string) (*served, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	err := d.changeTo(ctx, ref, digest)
	d.metrics.Swap(err == nil)
	if err != nil {
		d.log.Error("change model", "model", redacted(ref), "error", err)
		return nil, err
	}
	d.logInUse()
	return d.current.Load(), nil
}

// logInUse logs the model that is in use after a change.
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
	if d.allowlist != nil {
		if ref, err = d.allowlist.Resolve(ref); err != nil {
			return err
		}
	} else if !strings.Contains(ref, "://") {
		// A request can't name a file by its path, only by a file:// URL.
		return fmt.Errorf("%w; for a file elsewhere, use its file:// URL", err)
	} else if strings.Contains(ref, "?") {
		// Parameters such as ?endpoint= would let a request make this program connect to any host
		// of its network.
		return fmt.Errorf("%w: a request can't set parameters of a bucket; allow the URL with its parameters by --model-source", source.ErrNotAllowed)
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
		return unusableError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	return d.use(file, object)
}

// use prepares the model and swaps it in.
func (d *deployments) use(file *model.File, object source.Object) error {
	// TODO: serve models with other classes and sizes; the API still describes these.
	if err := file.Check(imaging.PreprocessingID, []string{model.Real, model.Fake}); err != nil {
		return unusableError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	ready, err := d.engine.Load(file)
	if err != nil {
		return unusableError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	now := &served{file: file, object: object, since: time.Now(), metrics: d.metrics.Model(file.Digest, file.Metadata.Classes), model: ready}
	ready.Data = now
	d.engine.Use(ready) // first, because requests are served as soon as d.current is set
	before := d.current.Swap(now)
	if before != nil && before.file.Digest != file.Digest {
		d.previous.Store(before)
	}
	md := file.Metadata
	d.metrics.SetModel(file.Digest, md.Name, md.DataDigest, md.Preprocessing.ID())
	return nil
}

// watch deploys each model that is published at the source of --model, until ctx is done. If no
// model is in use, it also deploys the one that is already there.
func (d *deployments) watch(ctx context.Context) {
	var known source.Object
	if use := d.current.Load(); use != nil {
		known = use.object
	}
	logged := "" // last logged reason; a missing model is logged only once
	if reason := d.missingReason.Load(); reason != nil {
		logged = (*reason).Error()
	}
	d.source.Watch(ctx, d.every, known, func(object source.Object) error {
		d.changing.Lock()
		defer d.changing.Unlock()
		err := d.deploy(ctx, d.source, object, "")
		d.metrics.Swap(err == nil)
		if err != nil {
			d.missingReason.Store(&err)
			d.log.Error("deploy published model", "model", object.Ref, "error", err)
			return err
		}
		logged = ""
		d.logInUse()
		return nil
	}, func(err error) {
		d.missingReason.Store(&err)
		if text := err.Error(); text != logged || !errors.Is(err, source.ErrNotFound) {
			logged = text
			d.log.Warn("can't read model source; will retry", "error", err)
		}
	})
}

// ModelInUse describes a model in use.
type ModelInUse struct {
	Model         string    `json:"model" doc:"Digest of the model file."`
	Ref           string    `json:"ref" doc:"URL or path that the model was read from."`
	Since         time.Time `json:"since" doc:"When the model was put in use."`
	Name          string    `json:"name" doc:"Name of the experiment that trained the model."`
	Classes       []string  `json:"classes" doc:"Class names, indexed by label."`
	Threshold     float64   `json:"threshold" doc:"Probability above which the predicted class is FAKE."`
	InputSize     int       `json:"input_size" doc:"Width and height of the input in pixels."`
	EmbeddingSize int       `json:"embedding_size" doc:"Number of values in an embedding."`
	Preprocessing string    `json:"preprocessing" doc:"How images are converted to model input."`
	DataSource    string    `json:"data_source" doc:"Origin of the training images, as text; empty if unknown."`
	DataDigest    string    `json:"data_digest" doc:"Digest of the training dataset."`
	ConfigDigest  string    `json:"config_digest" doc:"Digest of the training configuration."`
	Seed          int64     `json:"seed" doc:"Training seed."`
	ValLoss       *float64  `json:"val_loss" doc:"Loss on the validation split; null if the run had no such split."`
	ValAccuracy   *float64  `json:"val_accuracy" doc:"Accuracy on the validation split; null if the run had no such split."`
	Explanations  []string  `json:"explanations" doc:"Explanation methods that the model supports, for ?explain=."`
	Revision      string    `json:"revision" doc:"Source revision of the trainer; empty if unknown."`
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
		InputSize: md.Preprocessing.Width, EmbeddingSize: s.file.EmbeddingSize, Preprocessing: md.Preprocessing.ID(),
		DataSource: md.DataSource, DataDigest: md.DataDigest, ConfigDigest: md.ConfigDigest, Seed: md.Seed,
		ValLoss: finiteOrNil(md.ValLoss), ValAccuracy: finiteOrNil(md.ValAccuracy), Explanations: explanations, Revision: md.Revision,
	}
}

// finiteOrNil returns &v, or nil if v is NaN or infinite.
func finiteOrNil(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// AvailableModel is a model that the source of --model offers.
type AvailableModel struct {
	Ref      string    `json:"ref" doc:"Reference to the model for PUT /models/current."`
	Size     int64     `json:"size" doc:"Size in bytes."`
	Modified time.Time `json:"modified" doc:"When the model was published."`
	Current  bool      `json:"current" doc:"Whether the model in use was read from this version of the file."`
}

// Models lists the models that can be put in use.
type Models struct {
	Models   []AvailableModel `json:"models" doc:"Models offered by the source of --model, newest first."`
	Previous *ModelInUse      `json:"previous,omitempty" doc:"The model that {\"model\":\"previous\"} rolls back to; absent before the first model change."`
}

// ModelChange is a request to put another model in use.
type ModelChange struct {
	Model  string `json:"model" minLength:"1" example:"gs://bucket/models/new.onnx" doc:"Reference from GET /models, a URL, or \"previous\"."`
	SHA256 string `json:"sha256,omitempty" nullable:"true" pattern:"^(((sha256|SHA256):)?[0-9a-fA-F]{64})?$" patternDescription:"sha256: and 64 hexadecimal digits" doc:"Expected digest of the model file: 64 hexadecimal digits, with or without sha256:."`
}

// registerModels adds the routes that list and change models.
func (m *Main) registerModels(api huma.API) {
	type current struct{ Body ModelInUse }
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/models", OperationID: "models", Tags: []string{tagModels},
		Summary: "Models that can be put in use", Errors: []int{404, 502},
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body Models }, error) {
		objects, err := m.models.source.List(ctx)
		if err != nil {
			return nil, modelProblem(err, fiber.StatusBadGateway)
		}
		use := m.models.current.Load()
		models := Models{Models: []AvailableModel{}}
		for _, o := range objects {
			current := use != nil && o.Ref == use.object.Ref && o.Version == use.object.Version
			models.Models = append(models.Models, AvailableModel{o.Ref, o.Size, o.ModTime.UTC(), current})
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
		Description: "Returns 503 with `Retry-After` while no model is loaded.",
	}, func(context.Context, *struct{}) (*current, error) {
		use, err := m.models.inUse()
		if err != nil {
			return nil, failure.ForOperation(err)
		}
		return &current{use.document()}, nil
	})
	huma.Register(api, huma.Operation{
		Method: http.MethodPut, Path: "/models/current", OperationID: "change-model", Tags: []string{tagModels},
		Summary: "Put another model in use",
		Description: "The new model is prepared while the current one keeps serving: its metadata is checked and it classifies probe images. " +
			"Requests in flight finish on the old model. If the new model fails, the old one stays in use.",
		Security: m.adminSecurity(), Middlewares: huma.Middlewares{m.humaAdminOnly}, Errors: []int{400, 401, 403, 404, 409, 413, 415, 422},
	}, func(ctx context.Context, in *struct{ Body ModelChange }) (*current, error) {
		use, err := m.models.change(ctx, in.Body.Model, in.Body.SHA256)
		if err != nil {
			p := modelProblem(err, fiber.StatusConflict)
			for _, input := range []string{in.Body.Model, in.Body.SHA256} {
				p.Detail = strings.ReplaceAll(p.Detail, input, failure.Shortened(input))
			}
			return nil, p
		}
		return &current{use.document()}, nil
	})
}

// modelProblem returns the problem for a model that couldn't be loaded or used. unreachable is the status if
// its store couldn't be reached: the server's failure if the store is its own source, but not if a request
// named it.
func modelProblem(err error, unreachable int) *failure.Problem {
	status := fiber.StatusInternalServerError
	switch {
	case errors.Is(err, errNoPrevious), errors.Is(err, source.ErrChanged), errors.Is(err, source.ErrDigest):
		status = fiber.StatusConflict
	case errors.Is(err, source.ErrReference):
		status = fiber.StatusBadRequest
	case errors.Is(err, source.ErrNotAllowed):
		status = fiber.StatusForbidden
	case errors.Is(err, source.ErrNotFound):
		status = fiber.StatusNotFound
	case errors.Is(err, source.ErrTooLarge):
		status = fiber.StatusRequestEntityTooLarge
	case errors.As(err, new(unusableError)):
		status = fiber.StatusUnprocessableEntity
	case errors.Is(err, source.ErrUnreachable):
		status = unreachable
	}
	return failure.NewProblem(status, err.Error())
}

// sameDigest reports whether two digests are equal, with or without the prefix sha256: and in
// either case.
func sameDigest(a, b string) bool {
	bare := func(digest string) string { return strings.TrimPrefix(strings.ToLower(digest), "sha256:") }
	return bare(a) == bare(b)
}
