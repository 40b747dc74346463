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

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
)

// SyntheticNote stands wherever a figure from the synthetic data set does.
const SyntheticNote = "the pictures are synthetic, drawn from a seed: these figures say nothing about real generators"

// Result is a model measured on a split, the content of eval.json.
type Result struct {
	// Model and Data are the digests ("sha256:…") of the model file and of the data set.
	Model string `json:"model"`
	Data  string `json:"data"`
	// Source is where the pictures came from: synthetic, archive, feedback or huggingface.
	Source string `json:"source"`
	// Split is what was measured, "train" or "test", and Count its number of pictures.
	Split string `json:"split"`
	Count int    `json:"count"`
	// Classes are the class names in label order; the last one is the positive class.
	Classes []string `json:"classes"`
	Metrics
	// Corruptions are the accuracies on corrupted pictures; empty unless they were measured.
	Corruptions []Corrupted `json:"corruptions,omitempty"`
}

// Run measures a model on a split ("train" or "test") of the data set in dataDir,
// at the threshold that the model carries, batch pictures at a time. It also
// returns the logits in the split's order. The batch changes speed and memory
// only; the same model, split, batch and machine give the same bits.
//
// It refuses a model whose preprocessing or class names are not the data's,
// and one that gives a logit that is no number.
func Run(ctx context.Context, f *model.File, dataDir, split string, batch int) (*Result, []float32, error) {
	pictures, manifest, err := dataset.Load(dataDir, split)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	if err := f.Check(manifest.Preprocessing, manifest.Classes); err != nil {
		return nil, nil, fmt.Errorf("evaluate on the data in %s: %w", dataDir, err)
	}
	logits, err := Logits(ctx, f, pictures, batch)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	metrics, err := Measure(logits, pictures.Labels, f.Metadata.Threshold)
	if err != nil {
		return nil, nil, fmt.Errorf("evaluate: %w", err)
	}
	if manifest.Source.Kind == "synthetic" {
		metrics.Notes = append(metrics.Notes, SyntheticNote)
	}
	if manifest.Source.Kind == "feedback" {
		metrics.Notes = append(metrics.Notes, FeedbackNote)
	}
	return &Result{
		Model:   f.Digest,
		Data:    manifest.Digest(),
		Source:  manifest.Source.Kind,
		Split:   split,
		Count:   pictures.Len(),
		Classes: manifest.Classes,
		Metrics: metrics,
	}, logits, nil
}

// Logits runs a model over all pictures of a split, in order, batch pictures at a
// time. It stops between two batches when ctx ends.
func Logits(ctx context.Context, f *model.File, pictures *dataset.Split, batch int) ([]float32, error) {
	logits := make([]float32, 0, pictures.Len())
	err := Each(ctx, f, pictures, batch, func(_ int, logit float32, _ []float32) { logits = append(logits, logit) })
	if err != nil {
		return nil, err
	}
	return logits, nil
}

// Each is Logits with one call a picture, of its index, logit and embedding. The
// embedding is valid during the call.
func Each(ctx context.Context, f *model.File, pictures *dataset.Split, batch int, answer func(i int, logit float32, embedding []float32)) (err error) {
	if batch < 1 {
		return fmt.Errorf("batch size %d: give at least 1", batch)
	}
	if size := f.Metadata.InputSize; size != imaging.Size {
		return fmt.Errorf("the model wants pictures of %d×%d pixels, the data's have %d×%d: train it again on this data",
			size, size, imaging.Size, imaging.Size)
	}
	count := pictures.Len()
	batch = min(batch, max(count, 1))
	session, err := f.NewSession(batch, ort.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	const pixels = imaging.Channels * imaging.Size * imaging.Size
	input, width := session.Input(), f.EmbeddingSize
	for first := 0; first < count; first += batch {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d of %d pictures: %w", first, count, err)
		}
		n := min(batch, count-first)
		for i := range n {
			imaging.ToTensor(input[i*pixels:(i+1)*pixels], pictures.Image(first+i))
		}
		// A smaller last batch runs at the full size as well: a picture's logit does
		// not depend on its neighbours, so what the rows after it hold is no matter,
		// and one shape means one order of summation for every picture.
		if err := session.Run(batch); err != nil {
			return fmt.Errorf("pictures %d to %d: %w", first, first+n-1, err)
		}
		for i := range n {
			answer(first+i, session.Logits()[i], session.Embeddings()[i*width:(i+1)*width])
		}
	}
	return nil
}

// JSON returns the result as indented JSON with a newline at its end: what is
// printed and what eval.json holds.
func (r *Result) JSON() ([]byte, error) { return toJSON(r) }

func toJSON(r any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("write evaluation as JSON: %w", err)
	}
	return text.Bytes(), nil
}

// WriteFile writes the result as JSON to path, which holds either its old content
// or the whole new one at any moment.
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

// WriteTable writes the result for a person to read. It reports no error: the
// table goes to a terminal, beside the JSON that programs read.
func (r *Result) WriteTable(w io.Writer) {
	positive, negative := "FAKE", "REAL"
	if len(r.Classes) == 2 {
		negative, positive = r.Classes[dataset.Real], r.Classes[dataset.Fake]
	}
	fmt.Fprintf(w, "%d pictures of the %s split (%s); called %s above a probability of %v\n\n",
		r.Count, r.Split, r.Source, positive, r.Threshold)
	r.writeTable(w, negative, positive)

	if len(r.Corruptions) > 0 {
		fmt.Fprintf(w, "\naccuracy on corrupted pictures, by severity; %.4f on average\n\n", CorruptedMean(r.Corruptions))
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

// writeTable writes the figures and the confusion matrix.
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
	fmt.Fprintf(t, "\tcalled %s\tcalled %s\t\n", positive, negative)
	fmt.Fprintf(t, "is %s\t%d\t%d\t\n", positive, c.TP, c.FN)
	fmt.Fprintf(t, "is %s\t%d\t%d\t\n", negative, c.FP, c.TN)
	_ = t.Flush()
}
