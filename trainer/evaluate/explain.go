package evaluate

import (
	"fakeart/internal/explain"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Explainer computes class-activation maps of a model's predictions. It isn't safe for concurrent use.
type Explainer struct {
	file    *model.File
	session *model.Session
}

// NewExplainer returns an Explainer for a model. The caller must close it.
func NewExplainer(f *model.File) (*Explainer, error) {
	// A single thread keeps the order of summation, and so the maps, deterministic.
	s, err := f.NewExplainer(1, ort.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	return &Explainer{f, s}, nil
}

// GradCAM returns the class-activation map of an image for the class of the given index: one value in [0, 1] per pixel, row by
// row, as [explain.Map] defines it. It returns [explain.ErrNoGradCAM] if the model has no such map.
func (e *Explainer) GradCAM(pixels []uint8, class int) ([]float32, error) {
	input := e.file.Plan.NewTensor(1)
	e.file.Plan.Fill(input, pixels)
	p := e.file.Plan.Preprocessing()
	values := make([]float32, p.Width*p.Height)
	return values, explain.Map(values, explain.GradCAM, e.session, explain.ModelOf(e.file), input, class)
}

// Close releases the model.
func (e *Explainer) Close() error { return e.session.Close() }
