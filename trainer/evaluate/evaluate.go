package evaluate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
	// Classes are the class names in label order.
	Classes []string `json:"classes"`
	Metrics
	// Corruptions holds the accuracy on corrupted images. It is empty unless measured.
	Corruptions []CorruptionResult `json:"corruptions,omitempty"`
}

// Run measures a model on a split ("train" or "test") of the dataset in dataDir, at the model's own
// threshold. It also returns the scores of [Scores], in the order of the split. The batch size, in images,
// affects only speed and memory. Results are bit-for-bit identical for the same model, split, batch
// size and machine.
//
// Run returns an error if the model's preprocessing or class names differ from the dataset's, or if
// a score isn't finite.
func Run(ctx context.Context, f *model.File, dataDir, split string, batch int) (*Result, []float32, error) {
	images, manifest, err := dataset.Load(dataDir, split)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	if err := f.Check(manifest.Preprocessing, manifest.Classes); err != nil {
		return nil, nil, fmt.Errorf("evaluate on the data in %s: %w", dataDir, err)
	}
	scores, err := Scores(ctx, f, images, batch)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	metrics, err := Measure(&f.Metadata, scores, images.Labels)
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
	}, scores, nil
}

// Scores returns the scores of a model for all images of a split, in order, Metadata.Columns per image. It processes batch
// images at a time and stops between two batches if ctx is done.
func Scores(ctx context.Context, f *model.File, images *dataset.Split, batch int) ([]float32, error) {
	scores := make([]float32, 0, images.Len()*f.Metadata.Columns)
	err := Each(ctx, f, images, batch, func(_ int, p Prediction) { scores = append(scores, p.Scores...) })
	if err != nil {
		return nil, err
	}
	return scores, nil
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
	fmt.Fprintf(w, "%d images of the %s split (%s)", r.Count, r.Split, r.Source)
	if r.Binary != nil {
		fmt.Fprintf(w, ", classified as %s above a probability of %v", r.Positive, r.Threshold)
	}
	fmt.Fprint(w, "\n\n")
	r.writeTable(w)

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

// maxTable is the largest number of classes whose confusion matrix is printed.
const maxTable = 12

// writeTable writes the metrics, those of each class, and the confusion matrix.
func (r *Metrics) writeTable(w io.Writer) {
	number := func(v *float64) string {
		if v == nil {
			return "undefined"
		}
		return fmt.Sprintf("%.4f", *v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if r.Binary != nil {
		fmt.Fprintf(t, "  accuracy\t%.4f\troc auc\t%s\n", r.Accuracy, number(r.ROCAUC))
		fmt.Fprintf(t, "  precision\t%.4f\tlog loss\t%s\n", r.Precision, number(r.LogLoss))
		fmt.Fprintf(t, "  recall\t%.4f\tcalibration error\t%.4f\n", r.Recall, r.ECE)
		fmt.Fprintf(t, "  f1\t%.4f\tbalanced accuracy\t%.4f\n\n", r.F1, r.BalancedAccuracy)
	} else {
		fmt.Fprintf(t, "  accuracy\t%.4f\troc auc (one vs. rest)\t%s\n", r.Accuracy, number(r.ROCAUCOvR))
		fmt.Fprintf(t, "  balanced accuracy\t%.4f\tlog loss\t%s\n", r.BalancedAccuracy, number(r.LogLoss))
		fmt.Fprintf(t, "  f1 (macro)\t%.4f\tcalibration error\t%.4f\n", r.Macro.F1, r.ECE)
		fmt.Fprintf(t, "  f1 (weighted)\t%.4f", r.Weighted.F1)
		if r.Top5Accuracy != nil {
			fmt.Fprintf(t, "\ttop-5 accuracy\t%s", number(r.Top5Accuracy))
		}
		fmt.Fprint(t, "\n\n")
	}
	_ = t.Flush()
	if r.Binary == nil {
		r.writeClasses(w)
	}
	if len(r.ConfusionMatrix) == 0 || len(r.ConfusionMatrix) > maxTable {
		fmt.Fprintln(w, "largest confusions")
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, c := range r.LargestConfusions {
			fmt.Fprintf(t, "  %d\t%s classified as %s\n", c.Count, c.Label, c.Predicted)
		}
		_ = t.Flush()
		return
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	order := make([]int, len(r.PerClass)) // the positive class first
	for i := range order {
		order[i] = i
	}
	if r.Binary != nil && r.PerClass[1].Label == r.Positive {
		order = []int{1, 0}
	}
	for _, c := range order {
		fmt.Fprintf(t, "\tpredicted %s", r.PerClass[c].Label)
	}
	fmt.Fprint(t, "\t\n")
	for _, label := range order {
		fmt.Fprintf(t, "actual %s\t", r.PerClass[label].Label)
		for _, c := range order {
			fmt.Fprintf(t, "%d\t", r.ConfusionMatrix[label][c])
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
}

// maxListed is the largest number of classes whose metrics are all printed. Of more classes, only the worst are.
const maxListed = 30

// writeClasses writes the metrics of each class.
func (r *Metrics) writeClasses(w io.Writer) {
	classes := slices.Clone(r.PerClass)
	if len(classes) > maxListed {
		slices.SortStableFunc(classes, func(a, b ClassMetrics) int { return cmp.Compare(a.F1, b.F1) })
		classes = slices.DeleteFunc(classes, func(c ClassMetrics) bool { return c.Support == 0 })
		classes = classes[:min(len(classes), maxListed)]
		fmt.Fprintf(w, "the %d classes with the lowest f1\n", len(classes))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tprecision\trecall\tf1\timages\t\n")
	for _, c := range classes {
		fmt.Fprintf(t, "%s\t%.4f\t%.4f\t%.4f\t%d\t\n", c.Label, c.Precision, c.Recall, c.F1, c.Support)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
}
