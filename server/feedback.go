package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/limiter"

	"fakeart/server/predlog"
)

// FeedbackRequest says what the picture of a prediction really is.
type FeedbackRequest struct {
	ID      string `json:"id" format:"uuid" minLength:"36" maxLength:"36" doc:"Name of the prediction, from its answer."`
	Label   string `json:"label" enum:"REAL,FAKE" doc:"What the picture is."`
	Comment string `json:"comment,omitempty" maxLength:"1000" doc:"The user's own words."`
}

// Feedback is what was stored of it.
type Feedback struct {
	ID      string    `json:"id" format:"uuid" doc:"Name of the prediction."`
	Label   string    `json:"label" enum:"REAL,FAKE" doc:"What the picture is, as the user says."`
	Comment string    `json:"comment" doc:"The user's own words; may be empty."`
	Time    time.Time `json:"time" doc:"When it was said; of the same said again, when it was said first."`
	Verdict string    `json:"verdict,omitempty" enum:"REAL,FAKE" doc:"What the prediction was; absent when this server cannot know."`
	Correct *bool     `json:"correct,omitempty" doc:"Whether the prediction was right, as the user says; absent like the verdict."`
}

// registerFeedback gives the route by which users say whether a prediction was right.
func (m *Main) registerFeedback(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodPost, Path: "/feedback", OperationID: "feedback", Tags: []string{tagPredict}, Summary: "Say what a picture really is",
		Description: "Whoever has a prediction's id may say so. The last one on a prediction counts, those before it are kept as its history; the same " +
			"once more changes nothing. One client may say so as often a minute as --feedback-limit allows.",
		DefaultStatus: http.StatusOK,
		Middlewares:   huma.Middlewares{m.bodied}, Errors: []int{400, 404, 413, 415, 422, 429, 503},
	}, func(ctx context.Context, in *struct{ Body FeedbackRequest }) (*struct{ Body Feedback }, error) {
		f, err := m.hear(ctx, in.Body)
		if err != nil {
			return nil, err
		}
		return &struct{ Body Feedback }{*f}, nil
	})
}

// hear stores the feedback and counts it.
func (m *Main) hear(ctx context.Context, r FeedbackRequest) (*Feedback, error) {
	if !m.logs() {
		return nil, newProblem(fiber.StatusNotFound, "this server keeps no log of predictions, and so no feedback on them (--log-store=none)")
	}
	ctx, cancel := context.WithTimeout(ctx, m.config.RequestTimeout)
	defer cancel()
	h, err := m.predictions.Feedback(ctx, predlog.Feedback{ID: r.ID, Time: time.Now(), Label: r.Label, Comment: r.Comment})
	switch {
	case errors.Is(err, predlog.ErrUnknownPrediction):
		return nil, newProblem(fiber.StatusNotFound, fmt.Sprintf("there is no prediction %s in the log (any more)", r.ID))
	case errors.Is(err, predlog.ErrNoFeedback):
		return nil, newProblem(fiber.StatusNotFound, "this server keeps no feedback (--feedback-topic)")
	case errors.Is(err, predlog.ErrInvalid):
		return nil, newProblem(fiber.StatusUnprocessableEntity, err.Error())
	case err != nil:
		m.log.Error("feedback not stored", "id", r.ID, "error", err)
		return nil, huma.ErrorWithHeaders(newProblem(fiber.StatusServiceUnavailable, "the feedback cannot be stored now: the prediction log cannot be written; try again"),
			http.Header{fiber.HeaderRetryAfter: {"1"}})
	}
	f := &Feedback{ID: h.ID, Label: h.Label, Comment: h.Comment, Time: h.Time, Verdict: h.PredictedLabel}
	correct := "unknown"
	if h.PredictedLabel != "" {
		right := h.PredictedLabel == h.Label
		f.Correct, correct = &right, fmt.Sprint(right)
	}
	if !h.Duplicate {
		m.metrics.Feedback(h.Label, correct)
		m.accuracy.stale.Store(true)
	}
	return f, nil
}

// limitFeedback holds up a client that says too much.
func (m *Main) limitFeedback() fiber.Handler {
	return limiter.New(limiter.Config{
		Max:               m.config.FeedbackLimit,
		Expiration:        time.Minute,
		LimiterMiddleware: limiter.SlidingWindow{},
		KeyGenerator:      m.clients.key,
		LimitReached: func(*fiber.Ctx) error {
			return fiber.NewError(fiber.StatusTooManyRequests, fmt.Sprintf("more than %d feedbacks a minute from one client", m.config.FeedbackLimit))
		},
	})
}

// accuracyAge is how long a figure of the accuracy is good for without new feedback:
// /metrics is open to all, and must not cost a query each time.
const accuracyAge = time.Minute

// accuracy is the share of right verdicts among those that users spoke of.
type accuracy struct {
	stale atomic.Bool // there is new feedback

	mu sync.Mutex

	model string // what the rest is of
	asked time.Time
	share float64
	known bool
}

// rightVerdicts is the share of right verdicts of the model in use among those that users
// spoke of, and whether there is any.
func (m *Main) rightVerdicts() (share float64, known bool) {
	use := m.models.current.Load()
	if m.reader == nil || use == nil {
		return 0, false
	}
	return m.accuracy.of(m.reader, use.file.Digest)
}

// of returns the share for the model, and whether there is any.
func (a *accuracy) of(log predlog.Reader, model string) (share float64, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stale.Swap(false) && a.model == model && time.Since(a.asked) < accuracyAge {
		return a.share, a.known
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	right, of, err := log.Accuracy(ctx, model)
	a.model, a.asked, a.known = model, time.Now(), err == nil && of > 0
	if a.known {
		a.share = float64(right) / float64(of)
	}
	return a.share, a.known
}
