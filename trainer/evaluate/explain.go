package evaluate

import (
	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Explainer tells where in pictures a model found what it judged by. It is not safe
// for concurrent use.
type Explainer struct{ session *model.Session }

// NewExplainer makes the model ready to explain. The caller closes it.
func NewExplainer(f *model.File) (*Explainer, error) {
	// One thread, one order of summation: the same picture has the same map.
	s, err := f.NewExplainer(1, ort.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	return &Explainer{s}, nil
}

// GradCAM is the map of the pixels for a verdict, as package explain has it. It fails
// with explain.ErrNoGradCAM when the model has none.
func (e *Explainer) GradCAM(pixels []uint8, fake bool) ([]float32, error) {
	input := make([]float32, len(pixels))
	imaging.ToTensor(input, pixels)
	values := make([]float32, imaging.Size*imaging.Size)
	return values, explain.Map(values, explain.GradCAM, e.session, input, fake)
}

// Close frees the model.
func (e *Explainer) Close() error { return e.session.Close() }
