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

// logged are the predictions of one model that have feedback.
type logged struct{ labeled []predictions.Labeled }

// measure computes the metrics of the predictions of a model. md is nil if the model file isn't known: its classes are
// then the labels that occur, and only those of the CIFAKE detector have a positive class.
func (l *logged) measure(md *model.Metadata) (m Metrics, clipped bool) {
	var names []string
	positiveName, threshold := "", 0.0
	if md != nil {
		names = md.Labels()
		positiveName, threshold = md.Positive, md.Threshold
	} else {
		seen := map[string]bool{}
		for _, p := range l.labeled {
			seen[p.Label], seen[p.Predicted] = true, true
		}
		names = slices.Sorted(maps.Keys(seen))
		if !slices.ContainsFunc(names, func(name string) bool { return name != model.Real && name != model.Fake }) {
			names, positiveName = []string{model.Real, model.Fake}, model.Fake
		}
	}
	s := samples{names: names}
	if positiveName != "" {
		s.positive = &positive{name: positiveName, threshold: threshold}
	}
	for _, p := range l.labeled {
		label, predicted := slices.Index(names, p.Label), slices.Index(names, p.Predicted)
		s.labels, s.predicted = append(s.labels, uint16(label)), append(s.predicted, uint16(predicted))
		if s.positive == nil {
			s.confidence = append(s.confidence, p.Probability)
			continue
		}
		logit := math.Log(p.Probability) - math.Log1p(-p.Probability)
		if math.Abs(logit) > maxLogit {
			logit, clipped = math.Copysign(maxLogit, logit), true
		}
		is, loss := uint16(0), float32(logit)
		if p.Label == positiveName {
			is, loss = 1, -loss
		}
		s.positive.is, s.positive.logits = append(s.positive.is, is), append(s.positive.logits, float32(logit))
		s.positive.predicted = append(s.positive.predicted, p.Predicted == positiveName)
		s.losses = append(s.losses, math.Max(float64(loss), 0)+math.Log1p(math.Exp(-math.Abs(float64(loss)))))
	}
	return s.measure(), clipped
}

// MeasureFeedback compares the predictions in a prediction log with the latest feedback on each, for
// every model with feedback, or only for the model f unless it is nil. It returns an error if there
// is no feedback, or if strict is true and a record can't be read.
func MeasureFeedback(ctx context.Context, log string, f *model.File, strict bool) (*Feedback, error) {
	var known []string // labels of f
	if f != nil {
		known = f.Metadata.Labels()
	}
	models, foreign := map[string]*logged{}, 0
	counts, err := predictions.Feedback(ctx, log, strict, func(p *predictions.Labeled) error {
		if f != nil && p.Model == f.Digest {
			if !slices.Contains(known, p.Predicted) {
				return predictions.BadRecord(fmt.Errorf("label %.40q isn't one of the model's classes", p.Predicted))
			}
			if !slices.Contains(known, p.Label) {
				foreign++
				return nil
			}
		}
		s := models[p.Model]
		if s == nil {
			s = &logged{}
			models[p.Model] = s
		}
		s.labeled = append(s.labeled, predictions.Labeled{Model: p.Model, Predicted: p.Predicted, Probability: p.Probability, Label: p.Label})
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
		var md *model.Metadata
		if f != nil {
			md = &f.Metadata
		}
		metrics, clipped := s.measure(md)
		m := ModelFeedback{Model: digest, Predictions: counts.Predictions[digest], Count: len(s.labeled), Metrics: metrics}
		if md != nil && md.Positive != "" {
			m.Threshold = &md.Threshold
		}
		if metrics.Binary == nil {
			m.Notes = append(m.Notes, "log_loss and roc_auc are omitted: the log only has the probability of the predicted class")
		}
		if clipped {
			m.Notes = append(m.Notes, fmt.Sprintf("log_loss counts each confident error as at most %.1f nats: beyond that, the logged probabilities are rounded to 0 or 1", maxLogit))
		}
		result.Count += m.Count
		result.Models = append(result.Models, m)
	}
	if foreign > 0 {
		result.Notes = append(result.Notes, fmt.Sprintf("feedback on %d predictions is not counted: its label isn't a class of the model", foreign))
	}
	slices.SortStableFunc(result.Models, func(a, b ModelFeedback) int { return cmp.Compare(b.Count, a.Count) })
	if result.Count > 0 {
		return result, nil
	}
	if f != nil {
		others := 0
		for _, s := range models {
			others += len(s.labeled)
		}
		err := fmt.Errorf("evaluate: no feedback on the %d predictions of %s in %s", result.Predictions, f.Digest, log)
		if others > 0 {
			err = fmt.Errorf("%w\nhint: %d predictions of other models have feedback: omit --model to measure them", err, others)
		}
		return nil, err
	}
	return nil, fmt.Errorf("evaluate: no feedback on the %d predictions in %s\nhint: users send feedback with POST /feedback", result.Predictions, log)
}

// JSON returns the result as indented JSON with a trailing newline.
func (r *Feedback) JSON() ([]byte, error) { return toJSON(r) }

// WriteTable writes the result as tables for people. It ignores write errors, since it writes to a
// terminal.
func (r *Feedback) WriteTable(w io.Writer) {
	fmt.Fprintf(w, "feedback on %d of %d predictions (%.3g %%)\n", r.Count, r.Predictions, 100*float64(r.Count)/float64(r.Predictions))
	for i := range r.Models {
		m := &r.Models[i]
		fmt.Fprintf(w, "\nmodel  %s: feedback on %d of %d predictions\n\n", m.Model, m.Count, m.Predictions)
		m.writeTable(w)
		writeNotes(w, m.Notes)
	}
	fmt.Fprintln(w)
	writeNotes(w, r.Notes)
}
