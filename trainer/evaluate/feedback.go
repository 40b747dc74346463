package evaluate

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/predictions"
)

// FeedbackNote accompanies every metric that was measured on users' feedback.
const FeedbackNote = "feedback isn't a random sample: few users give any, mostly on surprising predictions, and they can be wrong; " +
	"compare these metrics over time, not with those of a test split"

// Feedback compares the predictions in a prediction log with users' feedback.
type Feedback struct {
	// Log is the path of the log. Predictions is the number of its predictions by the requested
	// model (or by all models), and Count the number of those that have feedback.
	Log         string `json:"log"`
	Predictions int    `json:"predictions"`
	Count       int    `json:"feedback"`
	// Models are the models that have feedback, by decreasing amount of it.
	Models []ModelFeedback `json:"models"`
	Notes  []string        `json:"notes"`
	// Duplicates is the number of records that were not counted because an earlier one has the same
	// ID, and Unreadable the number of those that can't be read.
	Duplicates int `json:"duplicate_records"`
	Unreadable int `json:"unreadable_records"`

	// Messages describes these records for people.
	Messages []string `json:"-"`
}

// ModelFeedback is the part of [Feedback] that concerns one model. Its metrics compare the logged
// predictions with the label of the latest feedback on each.
type ModelFeedback struct {
	// Model is the digest of the model file.
	Model       string `json:"model"`
	Predictions int    `json:"predictions"`
	Count       int    `json:"feedback"`
	Metrics
	// Threshold is the model's threshold. It is nil unless the model file was given, since the log
	// doesn't record it.
	Threshold *float64 `json:"threshold,omitempty"`
}

// maxLogit is the logit above which a logged probability is rounded to 1.
var maxLogit = -math.Log(0x1p-53)

// MeasureFeedback compares the predictions in a prediction log with the latest feedback on each, for
// every model with feedback, or only for the model f unless it is nil. It returns an error if there
// is no feedback, or if strict is true and a record can't be read.
func MeasureFeedback(ctx context.Context, log string, f *model.File, strict bool) (*Feedback, error) {
	type samples struct {
		logits        []float32
		labels        []uint16
		predictedFake []bool
		clipped       bool
	}
	models := map[string]*samples{}
	counts, err := predictions.Feedback(ctx, log, strict, func(p *predictions.Labeled) error {
		s := models[p.Model]
		if s == nil {
			s = &samples{}
			models[p.Model] = s
		}
		logit := math.Log(p.Probability) - math.Log1p(-p.Probability)
		if math.Abs(logit) > maxLogit {
			logit, s.clipped = math.Copysign(maxLogit, logit), true
		}
		s.logits = append(s.logits, float32(logit))
		s.labels = append(s.labels, labelOf(p.Label))
		s.predictedFake = append(s.predictedFake, labelOf(p.Predicted) == dataset.Fake)
		return nil
	})
	if err != nil {
		return nil, err
	}
	result := &Feedback{Log: log, Notes: []string{FeedbackNote}, Duplicates: counts.Duplicates, Unreadable: counts.Unreadable, Messages: counts.Messages()}
	for _, digest := range slices.Sorted(maps.Keys(counts.Predictions)) {
		if f != nil && digest != f.Digest {
			continue
		}
		result.Predictions += counts.Predictions[digest]
		s := models[digest]
		if s == nil {
			continue
		}
		m := ModelFeedback{Model: digest, Predictions: counts.Predictions[digest], Count: len(s.logits), Metrics: measure(s.logits, s.labels, s.predictedFake)}
		if f != nil {
			m.Threshold = &f.Metadata.Threshold
		}
		if s.clipped {
			m.Notes = append(m.Notes, fmt.Sprintf("log_loss counts each confident error as at most %.1f nats: beyond that, the logged probabilities are rounded to 0 or 1", maxLogit))
		}
		result.Count += m.Count
		result.Models = append(result.Models, m)
	}
	slices.SortStableFunc(result.Models, func(a, b ModelFeedback) int { return cmp.Compare(b.Count, a.Count) })
	if result.Count > 0 {
		return result, nil
	}
	if f != nil {
		others := 0
		for _, s := range models {
			others += len(s.logits)
		}
		err := fmt.Errorf("evaluate: no feedback on the %d predictions of %s in %s", result.Predictions, f.Digest, log)
		if others > 0 {
			err = fmt.Errorf("%w\nhint: %d predictions of other models have feedback: omit --model to measure them", err, others)
		}
		return nil, err
	}
	return nil, fmt.Errorf("evaluate: no feedback on the %d predictions in %s\nhint: users send feedback with POST /feedback", result.Predictions, log)
}

// labelOf returns the label of a class name, which must be known.
func labelOf(name string) uint16 { return uint16(slices.Index(dataset.Classes(), name)) }

// JSON returns the result as indented JSON with a trailing newline.
func (r *Feedback) JSON() ([]byte, error) { return toJSON(r) }

// WriteTable writes the result as tables for people. It ignores write errors, since it writes to a
// terminal.
func (r *Feedback) WriteTable(w io.Writer) {
	fmt.Fprintf(w, "feedback on %d of %d predictions (%.3g %%)\n", r.Count, r.Predictions, 100*float64(r.Count)/float64(r.Predictions))
	for i := range r.Models {
		m := &r.Models[i]
		fmt.Fprintf(w, "\nmodel  %s: feedback on %d of %d predictions\n\n", m.Model, m.Count, m.Predictions)
		m.writeTable(w, dataset.Classes()[dataset.Real], dataset.Classes()[dataset.Fake])
		writeNotes(w, m.Notes)
	}
	fmt.Fprintln(w)
	writeNotes(w, r.Notes)
}
