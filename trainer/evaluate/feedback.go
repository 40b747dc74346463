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

// FeedbackNote stands wherever a figure from users' feedback does.
const FeedbackNote = "feedback is no random sample: those who speak up are few, are moved by what surprised them, and may be wrong; " +
	"compare these figures over time, not with those of a test split"

// Feedback is what users said of the predictions in a log, held against what the models did.
type Feedback struct {
	// Log is the file, Predictions how many it holds of the models below, and Count of how many
	// of these users have spoken.
	Log         string `json:"log"`
	Predictions int    `json:"predictions"`
	Count       int    `json:"feedback"`
	// Models are those with feedback, the one with most of it first.
	Models []ModelFeedback `json:"models"`
	Notes  []string        `json:"notes"`
}

// ModelFeedback is one model's part. The confusion is of the verdicts that were given; the
// labels are what users last said.
type ModelFeedback struct {
	// Model is the digest of the model file.
	Model       string `json:"model"`
	Predictions int    `json:"predictions"`
	Count       int    `json:"feedback"`
	Metrics
	// Threshold is the model's where its file was given; the log does not have it.
	Threshold *float64 `json:"threshold,omitempty"`
}

// surest is the logit from which on a probability is 1 as the log has it.
var surest = -math.Log(0x1p-53)

// MeasureFeedback measures the verdicts in a log on what users last said of them, for each model
// that they spoke of; with f for that model alone. It refuses a log without any feedback on it.
func MeasureFeedback(ctx context.Context, log string, f *model.File) (*Feedback, error) {
	type said struct {
		logits  []float32
		labels  []uint8
		called  []bool
		clipped bool
	}
	models := map[string]*said{}
	all, err := predictions.Feedback(ctx, log, func(j *predictions.Judged) error {
		s := models[j.Model]
		if s == nil {
			s = &said{}
			models[j.Model] = s
		}
		logit := math.Log(j.Probability) - math.Log1p(-j.Probability)
		if math.Abs(logit) > surest {
			logit, s.clipped = math.Copysign(surest, logit), true
		}
		s.logits = append(s.logits, float32(logit))
		s.labels = append(s.labels, label(j.Label))
		s.called = append(s.called, label(j.Verdict) == dataset.Fake)
		return nil
	})
	if err != nil {
		return nil, err
	}
	result := &Feedback{Log: log, Notes: []string{FeedbackNote}}
	for _, digest := range slices.Sorted(maps.Keys(all)) {
		if f != nil && digest != f.Digest {
			continue
		}
		result.Predictions += all[digest]
		s := models[digest]
		if s == nil {
			continue
		}
		m := ModelFeedback{Model: digest, Predictions: all[digest], Count: len(s.logits), Metrics: measure(s.logits, s.labels, s.called)}
		if f != nil {
			m.Threshold = &f.Metadata.Threshold
		}
		if s.clipped {
			m.Notes = append(m.Notes, fmt.Sprintf("log_loss counts a sure mistake as %.1f nats: the log's probabilities are rounded to 0 or 1 beyond that", surest))
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
		return nil, fmt.Errorf("evaluate: users have spoken of none of the %d predictions of %s in %s; of other models' of %d: leave --model out for these",
			result.Predictions, f.Digest, log, others)
	}
	return nil, fmt.Errorf("evaluate: users have spoken of none of the %d predictions in %s; they do so by POST /feedback", result.Predictions, log)
}

// label is that of a class name which predictions.Feedback has let pass.
func label(name string) uint8 { return uint8(slices.Index(dataset.Classes(), name)) }

// JSON returns the result as indented JSON with a newline at its end.
func (r *Feedback) JSON() ([]byte, error) { return toJSON(r) }

// WriteTable writes the result for a person to read.
func (r *Feedback) WriteTable(w io.Writer) {
	fmt.Fprintf(w, "users have spoken of %d of %d predictions (%.3g %%)\n", r.Count, r.Predictions, 100*float64(r.Count)/float64(r.Predictions))
	for i := range r.Models {
		m := &r.Models[i]
		fmt.Fprintf(w, "\nmodel  %s: %d of %d predictions\n\n", m.Model, m.Count, m.Predictions)
		m.writeTable(w, dataset.Classes()[dataset.Real], dataset.Classes()[dataset.Fake])
		writeNotes(w, m.Notes)
	}
	fmt.Fprintln(w)
	writeNotes(w, r.Notes)
}
