package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
)

// SyntheticNote accompanies every metric that was measured on the synthetic dataset.
const SyntheticNote = "the images are synthetic, generated from a seed: these metrics don't predict the accuracy on real AI-generated images"

// TrainNote accompanies every metric that was measured on the images that the model was trained on.
const TrainNote = "the model was trained on these images, except for the validation images: these metrics don't predict the accuracy on other images"

// Result holds the metrics of a model on a split. It is the content of eval.json.
type Result struct {
	// Model and Data are the digests ("sha256:…") of the model file and of the dataset.
	Model string `json:"model"`
	Data  string `json:"data"`
	// Source is the kind of the dataset's source: synthetic, archive, feedback or huggingface.
	Source string `json:"source"`
	// Split is the measured split, "train" or "test", and Count its number of images.
	Split string `json:"split"`
	Count int    `json:"count"`
	// Classes are the class names in label order; the last one is the positive class.
	Classes []string `json:"classes"`
	Metrics
	// Corruptions holds the accuracy on corrupted images. It is empty unless measured.
	Corruptions []CorruptionResult `json:"corruptions,omitempty"`
}

// Run measures a model on a split ("train" or "test") of the dataset in dataDir, at the model's own
// threshold. It also returns the logits, in the order of the split. The batch size, in images,
// affects only speed and memory. Results are bit-for-bit identical for the same model, split, batch
// size and machine.
//
// Run returns an error if the model's preprocessing or class names differ from the dataset's, or if
// a logit isn't finite.
func Run(ctx context.Context, f *model.File, dataDir, split string, batch int) (*Result, []float32, error) {
	images, manifest, err := dataset.Load(dataDir, split)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	if err := f.Check(manifest.Preprocessing, manifest.Classes); err != nil {
		return nil, nil, fmt.Errorf("evaluate on the data in %s: %w", dataDir, err)
	}
	logits, err := Logits(ctx, f, images, batch)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	metrics, err := Measure(logits, images.Labels, f.Metadata.Threshold)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	if manifest.Source.Kind == "synthetic" {
		metrics.Notes = append(metrics.Notes, SyntheticNote)
	}
	if manifest.Source.Kind == "feedback" {
		metrics.Notes = append(metrics.Notes, FeedbackNote)
	}
	if split == dataset.Train && manifest.Digest() == f.Metadata.DataDigest {
		metrics.Notes = append(metrics.Notes, TrainNote)
	}
	metrics.Notes = append(metrics.Notes, manifest.Warnings...)
	return &Result{
		Model:   f.Digest,
		Data:    manifest.Digest(),
		Source:  manifest.Source.Kind,
		Split:   split,
		Count:   images.Len(),
		Classes: manifest.Classes,
		Metrics: metrics,
	}, logits, nil
}

// Logits returns the logits of a model for all images of a split, in order. It processes batch
// images at a time and stops between two batches if ctx is done.
func Logits(ctx context.Context, f *model.File, images *dataset.Split, batch int) ([]float32, error) {
	logits := make([]float32, 0, images.Len())
	err := Each(ctx, f, images, batch, func(_ int, p Prediction) { logits = append(logits, p.Scores[0]) })
	if err != nil {
		return nil, err
	}
	return logits, nil
}

// Prediction is a model's prediction for one image.
type Prediction struct {
	// Scores are the model's outputs, Metadata.Columns values.
	Scores []float32
	// Probabilities are the probabilities of all classes.
	Probabilities []float64
	// Class is the index of the predicted class, and Label its label.
	Class int
	Label string
	// Reported is the probability that is reported with the class: see [model.Metadata.Reported].
	Reported float64
	// Embedding holds the features of the image. It's empty if the model has no embedding.
	Embedding []float32
}

// Each calls f with the index and the prediction of each image of a split, in order. The slices of the prediction are valid only
// during the call. Each processes batch images at a time and stops between two batches if ctx is done.
func Each(ctx context.Context, file *model.File, images *dataset.Split, batch int, f func(i int, p Prediction)) (err error) {
	if batch < 1 {
		return fmt.Errorf("batch size %d is below 1", batch)
	}
	count := images.Len()
	batch = min(batch, max(count, 1))
	session, err := file.NewSession(batch, ort.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	width, md := file.EmbeddingSize, &file.Metadata
	labels, probabilities := md.Labels(), make([]float64, len(md.Classes))
	for first := 0; first < count; first += batch {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d of %d images: %w", first, count, err)
		}
		n := min(batch, count-first)
		for i := range n {
			session.Fill(i, images.Image(first+i))
		}
		// A smaller last batch runs at full size as well. The logit of an image doesn't depend on
		// the other rows, so that the stale rows after it don't matter, and a constant shape keeps
		// the order of summation the same for every image.
		if err := session.Run(batch); err != nil {
			return fmt.Errorf("images %d to %d: %w", first, first+n-1, err)
		}
		for i := range n {
			p := Prediction{
				Scores: session.Scores()[i*md.Columns:][:md.Columns], Probabilities: probabilities, Embedding: session.Embeddings()[i*width:][:width],
			}
			if err := md.Probabilities(probabilities, p.Scores); err == nil { // Measure reports scores that aren't finite
				p.Class = md.Decide(probabilities)
				p.Reported = md.Reported(probabilities, p.Class)
			}
			p.Label = labels[p.Class]
			f(first+i, p)
		}
	}
	return nil
}

// JSON returns the result as indented JSON with a trailing newline, as in eval.json.
func (r *Result) JSON() ([]byte, error) { return toJSON(r) }

func toJSON(r any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode evaluation as JSON: %w", err)
	}
	return text.Bytes(), nil
}

// WriteFile atomically writes the result as JSON to path.
func (r *Result) WriteFile(path string) error {
	text, err := r.JSON()
	if err != nil {
		return err
	}
	if err := atomicwriter.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write evaluation %s: %w", path, err)
	}
	return nil
}

// WriteTable writes the result as a table for people. It ignores write errors, since it writes to
// a terminal.
func (r *Result) WriteTable(w io.Writer) {
	positive, negative := "FAKE", "REAL"
	if len(r.Classes) == 2 {
		negative, positive = r.Classes[dataset.Real], r.Classes[dataset.Fake]
	}
	fmt.Fprintf(w, "%d images of the %s split (%s), classified as %s above a probability of %v\n\n",
		r.Count, r.Split, r.Source, positive, r.Threshold)
	r.writeTable(w, negative, positive)

	if len(r.Corruptions) > 0 {
		fmt.Fprintf(w, "\naccuracy on corrupted images by severity (mean %.4f)\n\n", MeanCorruptionAccuracy(r.Corruptions))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(t, "\t1\t2\t3\t4\t5\t\n")
		for _, c := range r.Corruptions {
			fmt.Fprintf(t, "%s\t", c.Corruption)
			for _, a := range c.Accuracy {
				fmt.Fprintf(t, "%.4f\t", a)
			}
			fmt.Fprintln(t)
		}
		_ = t.Flush()
	}

	fmt.Fprintf(w, "\nmodel  %s\ndata   %s\n", r.Model, r.Data)
	writeNotes(w, r.Notes)
}

func writeNotes(w io.Writer, notes []string) {
	for _, note := range notes {
		fmt.Fprintf(w, "note   %s\n", note)
	}
}

// writeTable writes the metrics and the confusion matrix.
func (r *Metrics) writeTable(w io.Writer, negative, positive string) {
	auc := "undefined"
	if r.ROCAUC != nil {
		auc = fmt.Sprintf("%.4f", *r.ROCAUC)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "  accuracy\t%.4f\troc auc\t%s\n", r.Accuracy, auc)
	fmt.Fprintf(t, "  precision\t%.4f\tlog loss\t%.4f\n", r.Precision, r.LogLoss)
	fmt.Fprintf(t, "  recall\t%.4f\tcalibration error\t%.4f\n", r.Recall, r.ECE)
	fmt.Fprintf(t, "  f1\t%.4f\n\n", r.F1)
	_ = t.Flush()

	c := r.Confusion
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\tpredicted %s\tpredicted %s\t\n", positive, negative)
	fmt.Fprintf(t, "actual %s\t%d\t%d\t\n", positive, c.TP, c.FN)
	fmt.Fprintf(t, "actual %s\t%d\t%d\t\n", negative, c.FP, c.TN)
	_ = t.Flush()
}
