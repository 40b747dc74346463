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

// GradCAM returns the Grad-CAM map of an image for a class (FAKE if fake is true, REAL otherwise):
// one value in [0, 1] per pixel, row by row, as package explain defines it. It returns
// [explain.ErrNoGradCAM] if the model doesn't support Grad-CAM.
func (e *Explainer) GradCAM(pixels []uint8, fake bool) ([]float32, error) {
	input := e.file.Plan.NewTensor(1)
	e.file.Plan.Fill(input, pixels)
	p := e.file.Plan.Preprocessing()
	values := make([]float32, p.Width*p.Height)
	class := 0
	if fake {
		class = 1
	}
	return values, explain.Map(values, explain.GradCAM, e.session, explain.ModelOf(e.file), input, class)
}

// Close releases the model.
func (e *Explainer) Close() error { return e.session.Close() }
