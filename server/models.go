package main

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/server/api"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/models"
	"fakeart/server/source"
)

// ModelInUse describes a model in use.
type ModelInUse struct {
	Model         string    `json:"model" doc:"Digest of the model file."`
	Ref           string    `json:"ref" doc:"URL or path that the model was read from."`
	Since         time.Time `json:"since" doc:"When the model was put in use."`
	ModelName     string    `json:"model_name" doc:"Name of the model in requests, as in ?model=."`
	Name          string    `json:"name" doc:"Name in the model file: that of the experiment that trained the model."`
	Description   string    `json:"description,omitempty" doc:"Purpose of the model."`
	License       string    `json:"license,omitempty" doc:"License of the model, an SPDX identifier."`
	Origin        string    `json:"source,omitempty" doc:"Where a foreign model comes from."`
	Classes       []string  `json:"classes" doc:"Labels of the classes, in the order of the model's scores. A name that occurs twice is followed by # and the index of the class."`
	Positive      string    `json:"positive,omitempty" doc:"Class that probability and threshold refer to; absent if the model has none."`
	Threshold     *float64  `json:"threshold,omitempty" doc:"Probability above which the predicted class is the positive one; absent without a positive class."`
	InputWidth    int       `json:"input_width" doc:"Width of the input in pixels."`
	InputHeight   int       `json:"input_height" doc:"Height of the input in pixels."`
	EmbeddingSize int       `json:"embedding_size" doc:"Number of values in an embedding; 0 if the model has none."`
	Preprocessing string    `json:"preprocessing" doc:"How images are converted to model input."`
	AppliesEXIF   bool      `json:"applies_orientation" doc:"Whether images are turned by their EXIF orientation."`
	MaxBatch      int       `json:"max_batch" doc:"Maximum number of images that a session classifies at once."`
	Memory        int64     `json:"memory" doc:"Estimated memory of the model in bytes."`
	DataSource    string    `json:"data_source" doc:"Origin of the training images, as text; empty if unknown."`
	DataDigest    string    `json:"data_digest" doc:"Digest of the training dataset."`
	ConfigDigest  string    `json:"config_digest" doc:"Digest of the training configuration."`
	Seed          int64     `json:"seed" doc:"Training seed."`
	ValLoss       *float64  `json:"val_loss" doc:"Loss on the validation split; null if the run had no such split."`
	ValAccuracy   *float64  `json:"val_accuracy" doc:"Accuracy on the validation split; null if the run had no such split."`
	Explanations  []string  `json:"explanations" doc:"Explanation methods that the model supports, for ?explain=."`
	Revision      string    `json:"revision" doc:"Source revision of the trainer; empty if unknown."`
}

func modelInUse(m *models.Model) ModelInUse {
	md, p := &m.File.Metadata, m.File.Plan.Preprocessing()
	explanations := []string{}
	for _, method := range explain.Methods() {
		if infer.CanExplain(m.File, method) {
			explanations = append(explanations, string(method))
		}
	}
	d := ModelInUse{
		Model: m.File.Digest, Ref: m.Object.Ref, Since: m.Since.UTC(), ModelName: m.Name,
		Name: md.Name, Description: md.Description, License: md.License, Origin: md.Source, Classes: m.Labels, Positive: md.Positive,
		InputWidth: p.Width, InputHeight: p.Height, EmbeddingSize: m.File.EmbeddingSize, Preprocessing: p.ID(),
		AppliesEXIF: p.Orientation == imaging.ApplyOrientation, MaxBatch: m.MaxBatch(), Memory: m.Memory(),
		DataSource: md.DataSource, DataDigest: md.DataDigest, ConfigDigest: md.ConfigDigest, Seed: md.Seed,
		ValLoss: finiteOrNil(md.ValLoss), ValAccuracy: finiteOrNil(md.ValAccuracy), Explanations: explanations, Revision: md.Revision,
	}
	if md.Positive != "" {
		d.Threshold = &md.Threshold
	}
	return d
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
	Served   []ServedModel    `json:"served" doc:"Models that requests can name. The first one is the default."`
	Models   []AvailableModel `json:"models" doc:"Models offered by the source of --model, newest first."`
	Previous *ModelInUse      `json:"previous,omitempty" doc:"The model that {\"model\":\"previous\"} rolls back to; absent before the first model change."`
}

// ModelChange is a request to put another model in use.
type ModelChange struct {
	Model  string `json:"model" minLength:"1" pattern:"^[^\\x00]*$" patternDescription:"a reference without zero bytes" example:"gs://bucket/models/new.onnx" doc:"Reference from GET /models, a URL, or \"previous\"."`
	SHA256 string `json:"sha256,omitempty" nullable:"true" pattern:"^(((sha256|SHA256):)?[0-9a-fA-F]{64})?$" patternDescription:"sha256: and 64 hexadecimal digits" doc:"Expected digest of the model file: 64 hexadecimal digits, with or without sha256:."`
}

// ServedModel is a model that requests can name.
type ServedModel struct {
	Name   string  `json:"name" doc:"Name of the model, for ?model= and /v2/models/{name}."`
	Model  string  `json:"model,omitempty" doc:"Digest of the model in use; absent if none is loaded."`
	Reason *string `json:"reason,omitempty" doc:"Why no model is loaded; absent if one is."`
}

// modelQuery selects a model.
type modelQuery struct {
	Model string `query:"model" doc:"Name of the model; the first one of --model by default."`
}

// registerModels adds the routes that list and change models.
func (m *Main) registerModels(operations huma.API, guard api.Guard) {
	type current struct{ Body ModelInUse }
	huma.Register(operations, huma.Operation{
		Method: http.MethodGet, Path: "/models", OperationID: "models", Tags: []string{api.TagModels},
		Summary: "Models that can be put in use", Errors: []int{404, 502},
	}, func(ctx context.Context, q *modelQuery) (*struct{ Body Models }, error) {
		d, err := m.selected(q.Model)
		if err != nil {
			return nil, failure.ForOperation(err)
		}
		objects, err := d.List(ctx)
		if err != nil {
			return nil, modelProblem(err, fiber.StatusBadGateway)
		}
		use := d.Current()
		models := Models{Models: []AvailableModel{}}
		for _, one := range m.models.All() {
			s := ServedModel{Name: one.Name()}
			if use, err := one.InUse(); err == nil {
				s.Model = use.File.Digest
			} else {
				s.Reason = new(failure.OneLine(err.Error()))
			}
			models.Served = append(models.Served, s)
		}
		for _, o := range objects {
			current := use != nil && o.Ref == use.Object.Ref && o.Version == use.Object.Version
			models.Models = append(models.Models, AvailableModel{o.Ref, o.Size, o.ModTime.UTC(), current})
		}
		if p := d.Previous(); p != nil {
			models.Previous = new(modelInUse(p))
		}
		return &struct{ Body Models }{models}, nil
	})
	huma.Register(operations, huma.Operation{
		Method: http.MethodGet, Path: "/models/current", OperationID: "current-model", Tags: []string{api.TagModels},
		Summary: "The model in use", Errors: []int{404, 503},
		Description: "Returns 503 with `Retry-After` while no model is loaded.",
	}, func(_ context.Context, q *modelQuery) (*current, error) {
		d, err := m.selected(q.Model)
		if err != nil {
			return nil, failure.ForOperation(err)
		}
		use, err := d.InUse()
		if err != nil {
			return nil, failure.ForOperation(err)
		}
		return &current{modelInUse(use)}, nil
	})
	huma.Register(operations, huma.Operation{
		Method: http.MethodPut, Path: "/models/current", OperationID: "change-model", Tags: []string{api.TagModels},
		Summary: "Put another model in use",
		Description: "The new model is prepared while the current one keeps serving: its metadata is checked and it classifies probe images. " +
			"Requests in flight finish on the old model. If the new model fails, or would exceed --model-memory, the old one stays in use. " +
			"The new model can have other classes and another input size.",
		Security: guard.Security(), Middlewares: huma.Middlewares{guard.AdminOperation}, Errors: []int{400, 401, 403, 404, 409, 413, 415, 422},
	}, func(ctx context.Context, in *struct {
		Name string `query:"model" doc:"Name of the model; the first one of --model by default."`
		Body ModelChange
	},
	) (*current, error) {
		d, err := m.selected(in.Name)
		if err != nil {
			return nil, failure.ForOperation(err)
		}
		use, err := d.Change(ctx, in.Body.Model, in.Body.SHA256, redacted(in.Body.Model))
		if err != nil {
			p := modelProblem(err, fiber.StatusConflict)
			for _, input := range []string{in.Body.Model, in.Body.SHA256} {
				p.Detail = strings.ReplaceAll(p.Detail, input, failure.Shortened(input))
			}
			return nil, p
		}
		return &current{modelInUse(use)}, nil
	})
}

// modelProblem returns the problem for a model that couldn't be loaded or used. unreachable is the status if
// its store couldn't be reached: the server's failure if the store is its own source, but not if a request
// named it.
func modelProblem(err error, unreachable int) *failure.Problem {
	status := fiber.StatusInternalServerError
	switch {
	case errors.Is(err, models.ErrNoPrevious), errors.Is(err, source.ErrChanged), errors.Is(err, source.ErrDigest):
		status = fiber.StatusConflict
	case errors.Is(err, source.ErrReference):
		status = fiber.StatusBadRequest
	case errors.Is(err, source.ErrNotAllowed):
		status = fiber.StatusForbidden
	case errors.Is(err, source.ErrNotFound):
		status = fiber.StatusNotFound
	case errors.Is(err, source.ErrTooLarge):
		status = fiber.StatusRequestEntityTooLarge
	case errors.As(err, new(models.UnusableError)):
		status = fiber.StatusUnprocessableEntity
	case errors.Is(err, source.ErrUnreachable):
		status = unreachable
	}
	return failure.NewProblem(status, err.Error())
}
