package evaluate

import (
	"errors"
	"slices"
	"testing"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
)

func TestExplainer_GradCAM(t *testing.T) {
	// The map is the amount by which the red of a pixel exceeds one half.
	f := file(t, identity+`
  node { op_type: "Sub" input: "input" input: "half" output: "beyond" }
  node { op_type: "Slice" input: "beyond" input: "first" input: "second" input: "channels" output: "red" }
  node { op_type: "Reshape" input: "red" input: "square" output: "gradcam" }
  initializer { name: "first" data_type: 7 dims: 1 int64_data: [0] }
  initializer { name: "second" data_type: 7 dims: 1 int64_data: [1] }
  initializer { name: "channels" data_type: 7 dims: 1 int64_data: [1] }
  initializer { name: "square" data_type: 7 dims: 3 int64_data: [-1, 32, 32] }
  output { name: "gradcam" type { tensor_type { elem_type: 1 shape { dim { dim_param: "batch" } dim { dim_value: 32 } dim { dim_value: 32 } } } } }`,
		func(md *model.Metadata) { md.CAM, md.CAMKind = "gradcam", model.CAMOfSecond })
	e, err := NewExplainer(f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	pixels := make([]uint8, 32*32*imaging.Channels)
	pixels[0] = 255 // the first pixel is red
	fakeMap, err := e.GradCAM(pixels, 1)
	if err != nil {
		t.Fatal(err)
	}
	realMap, err := e.GradCAM(pixels, 0)
	if err != nil {
		t.Fatal(err)
	}
	if fakeMap[0] != 1 || slices.Max(fakeMap[1:]) != 0 || realMap[0] != 0 || slices.Min(realMap[1:]) != 1 {
		t.Errorf("maps of FAKE %v and REAL %v, want the first pixel only, and all but the first", fakeMap[:3], realMap[:3])
	}
}

func TestExplainer_NoGradCAM(t *testing.T) {
	e, err := NewExplainer(file(t, identity, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	if _, err := e.GradCAM(make([]uint8, 32*32*imaging.Channels), 1); !errors.Is(err, explain.ErrNoGradCAM) {
		t.Errorf("GradCAM() error = %v, want ErrNoGradCAM", err)
	}
}
