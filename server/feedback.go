package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"

	"fakeart/server/api"
	"fakeart/server/failure"
	"fakeart/server/predlog"
)

// FeedbackRequest is a user's label for the image of an earlier prediction.
type FeedbackRequest struct {
	ID      string `json:"id" format:"uuid" minLength:"36" maxLength:"36" doc:"ID of the prediction, from its response."`
	Label   string `json:"label" minLength:"1" maxLength:"600" example:"REAL" doc:"Correct label of the image: one of the labels of the model that made the prediction, as in GET /models/current."`
	Comment string `json:"comment,omitempty" nullable:"true" maxLength:"1000" doc:"The user's comment."`
}

// Feedback is the stored feedback.
type Feedback struct {
	ID      string    `json:"id" format:"uuid" doc:"ID of the prediction."`
	Label   string    `json:"label" doc:"Correct label of the image according to the user."`
	Comment string    `json:"comment" doc:"The user's comment; may be empty."`
	Time    time.Time `json:"time" doc:"When the feedback was received. Repeating the same feedback doesn't change it."`
	Verdict string    `json:"verdict,omitempty" doc:"Predicted class; absent if this server doesn't know it."`
	Correct *bool     `json:"correct,omitempty" doc:"Whether the prediction was correct according to the user; absent if the predicted class is unknown."`
}

// registerFeedback adds the route for feedback on predictions.
func (m *Main) registerFeedback(operations huma.API, guard api.Guard) {
	huma.Register(operations, huma.Operation{
		Method: http.MethodPost, Path: "/feedback", OperationID: "feedback", Tags: []string{api.TagPredict}, Summary: "Send the correct label of an image",
		Description: "Anyone who has a prediction's ID can send feedback on it. The last feedback on a prediction counts; earlier ones are kept as its history. " +
			"Repeating the same feedback changes nothing. --feedback-limit bounds how many feedback requests per minute one client can send.",
		DefaultStatus: http.StatusOK,
		Middlewares:   huma.Middlewares{m.humaFeedbackEnabled, guard.Body}, Errors: []int{400, 404, 413, 415, 422, 429, 503},
	}, func(ctx context.Context, in *struct{ Body FeedbackRequest }) (*struct{ Body Feedback }, error) {
		f, err := m.storeFeedback(ctx, in.Body)
		if err != nil {
			return nil, err
		}
		return &struct{ Body Feedback }{*f}, nil
	})
}

// humaFeedbackEnabled is a middleware that rejects feedback if this server doesn't log predictions.
func (m *Main) humaFeedbackEnabled(ctx huma.Context, next func(huma.Context)) {
	if !m.logs() {
		m.front.HandleError(humafiber.Unwrap(ctx), fiber.NewError(fiber.StatusNotFound, "feedback is disabled on this server, because predictions aren't logged (--log-store=none)"))
		return
	}
	next(ctx)
}

// storeFeedback stores the feedback and counts it.
func (m *Main) storeFeedback(ctx context.Context, r FeedbackRequest) (*Feedback, error) {
	ctx, cancel := context.WithTimeout(ctx, m.config.RequestTimeout)
	defer cancel()
	h, err := m.predictions.Feedback(ctx, predlog.Feedback{ID: r.ID, Time: time.Now(), Label: r.Label, Comment: r.Comment})
	switch {
	case errors.Is(err, predlog.ErrUnknownPrediction):
		return nil, failure.NewProblem(fiber.StatusNotFound, fmt.Sprintf("prediction %s isn't in the prediction log; it may have been deleted", r.ID))
	case errors.Is(err, predlog.ErrNoFeedback):
		return nil, failure.NewProblem(fiber.StatusNotFound, "feedback is disabled on this server; enable it with --feedback-topic")
	case errors.Is(err, predlog.ErrInvalid), errors.As(err, new(*predlog.LabelError)):
		return nil, failure.NewProblem(fiber.StatusUnprocessableEntity, err.Error())
	case err != nil:
		m.log.Error("feedback not stored", "id", r.ID, "error", err)
		return nil, huma.ErrorWithHeaders(failure.NewProblem(fiber.StatusServiceUnavailable, "the feedback can't be stored now because the prediction log isn't writable; try again"),
			http.Header{fiber.HeaderRetryAfter: {"1"}})
	}
	f := &Feedback{ID: h.ID, Label: h.Label, Comment: h.Comment, Time: h.Time, Verdict: h.PredictedLabel}
	correct := "unknown"
	if h.PredictedLabel != "" {
		right := h.PredictedLabel == h.Label
		f.Correct, correct = &right, fmt.Sprint(right)
	}
	if !h.Duplicate {
		m.metrics.Feedback(h.ModelName, h.Label, correct)
		m.accuracy.Outdated()
	}
	return f, nil
}
