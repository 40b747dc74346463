// Package explain computes saliency maps, which show the regions of an image that a prediction
// is based on. Call [Map] with a [Method].
//
// A saliency map has one value in [0,1] per pixel, in rows from the top. 1 marks the pixel with
// the strongest evidence for the predicted class, and 0 a pixel without evidence for it. The
// maximum is 1, unless no pixel has evidence for the predicted class. Maps are scaled per
// image, so they don't show how confident the model is.
package explain

import (
	"errors"
	"fmt"
	"math"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
)

// Method is a method of computing a saliency map.
type Method string

const (
	// GradCAM weights the output channels of the last convolution by their influence on the
	// class's score (Selvaraju et al., 2017). It takes a single run, but requires a model file with
	// a class-activation map, and has the resolution of that convolution's output.
	GradCAM Method = "gradcam"
	// Occlusion covers the image patch by patch and measures how the class's score changes (Zeiler and
	// Fergus, 2014). It works with any model, but takes 37 runs on images of usual sizes.
	Occlusion Method = "occlusion"
)

// Methods returns all methods.
func Methods() []Method { return []Method{GradCAM, Occlusion} }

// Session runs a model. model.Session implements it.
type Session interface {
	Input() imaging.Tensor
	Batch() int        // maximum batch size
	Run(n int) error   // runs the model on the first n images of Input
	Scores() []float32 // one row per image
	CAM() []float32    // nil if the model has no class-activation map
}

// Model is what Map needs to know about the model that a session runs.
type Model struct {
	Metadata *model.Metadata
	Plan     *imaging.Plan
	// CAMWidth and CAMHeight are the size of the class-activation map, if the model has one.
	CAMWidth, CAMHeight int
}

// ModelOf returns the Model of a file.
func ModelOf(f *model.File) Model {
	m := Model{Metadata: &f.Metadata, Plan: f.Plan}
	if f.HasCAM() {
		m.CAMWidth, m.CAMHeight = f.CAMSize()
	}
	return m
}

// ErrNoGradCAM is returned if the model file has no class-activation map.
var ErrNoGradCAM = errors.New("the model file has no class-activation map; use occlusion, or add a map when the model is trained or imported")

// Map computes the saliency map for the class with the given index, and stores it in dst, which has one value per pixel of the
// model's input. The image is an input tensor of the model that s runs. Map returns the session's error, [ErrNoGradCAM], or an
// error if the model's outputs aren't finite. A class-activation map of the predicted class ([model.CAMOfPredicted]) is that of
// the class with the highest score, whatever class is given.
func Map(dst []float32, m Method, s Session, f Model, image imaging.Tensor, class int) error {
	var err error
	switch m {
	case GradCAM:
		err = activation(dst, s, f, image, class)
	case Occlusion:
		err = occlude(dst, s, f, image, class, patch, stride)
	default:
		return fmt.Errorf("explain: unknown method %q", m)
	}
	if err != nil {
		return err
	}
	return scale(dst)
}

// activation runs the model once and resizes the class-activation map.
func activation(dst []float32, s Session, f Model, image imaging.Tensor, class int) error {
	if s.CAM() == nil {
		return ErrNoGradCAM
	}
	s.Input().Copy(image)
	if err := s.Run(1); err != nil {
		return err
	}
	width, height := f.CAMWidth, f.CAMHeight
	evidence, sign := s.CAM()[:width*height], float32(1)
	switch f.Metadata.CAMKind {
	case model.CAMOfEach:
		evidence = s.CAM()[class*width*height:][:width*height]
	case model.CAMOfSecond:
		if class == 0 {
			sign = -1
		}
	}
	p := f.Plan.Preprocessing()
	enlarge(dst, p.Width, p.Height, evidence, width, height)
	for i := range dst {
		dst[i] *= sign
	}
	return nil
}

// enlarge resizes a map by bilinear interpolation between the centers of its values.
func enlarge(dst []float32, width, height int, src []float32, srcWidth, srcHeight int) {
	if width == srcWidth && height == srcHeight {
		copy(dst, src)
		return
	}
	// at returns the two source positions around the center of position i, and the weight of the second.
	at := func(i, n, srcN int) (first, second int, weight float32) {
		x := min(max((float64(i)+0.5)*float64(srcN)/float64(n)-0.5, 0), float64(srcN-1))
		first = int(x)
		return first, min(first+1, srcN-1), float32(x - float64(first))
	}
	for y := range height {
		top, bottom, v := at(y, height, srcHeight)
		for x := range width {
			left, right, u := at(x, width, srcWidth)
			upper := src[top*srcWidth+left]*(1-u) + src[top*srcWidth+right]*u
			lower := src[bottom*srcWidth+left]*(1-u) + src[bottom*srcWidth+right]*u
			dst[y*width+x] = upper*(1-v) + lower*v
		}
	}
}

// scale sets evidence against the predicted class to 0 and scales the maximum to 1.
func scale(values []float32) error {
	greatest := float32(0)
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("explain: the model's output for pixel %d is %g; its weights are corrupt, export the model again", i, v)
		}
		values[i] = max(v, 0)
		greatest = max(greatest, v)
	}
	if greatest > 0 {
		for i := range values {
			values[i] /= greatest
		}
	}
	return nil
}

// Side length of the occluding patch and the step between patches, as fractions of the input's sides.
// docs/explanation/maps.md compares other values.
const (
	patch  = 12.0 / 32
	stride = 4.0 / 32
)

// starts returns the first positions of the patches along a side of n pixels, and their length.
func starts(n int, patch, stride float64) (positions []int, length int) {
	length = min(max(int(patch*float64(n)), 1), n)
	step := max(int(stride*float64(n)), 1)
	for at := 0; at < n-length; at += step {
		positions = append(positions, at)
	}
	return append(positions, n-length), length // the last patch ends at the edge
}

// occlude sets each pixel of dst to the mean drop of the class's score over all patches that cover the pixel. A patch has the
// mean color of the image: that removes the detail while adding as little contrast at its edges as possible.
func occlude(dst []float32, s Session, f Model, image imaging.Tensor, class int, patch, stride float64) error {
	p := f.Plan.Preprocessing()
	columns, wide := starts(p.Width, patch, stride)
	rows, high := starts(p.Height, patch, stride)
	mean := f.Plan.Mean(image)
	// eachPixel calls f for all pixels covered by the patch at the given position.
	eachPixel := func(at int, f func(pixel int)) {
		top, left := rows[at/len(columns)], columns[at%len(columns)]
		for y := range high {
			for x := range wide {
				f((top+y)*p.Width + left + x)
			}
		}
	}
	// The first input is the original image, followed by one input per patch position.
	positions, size := len(rows)*len(columns), f.Plan.Len()
	clear(dst)
	covered := make([]float32, len(dst))
	var original float32 // score of the original image
	for first := 0; first <= positions; {
		n := min(s.Batch(), positions+1-first)
		for i := range n {
			input := s.Input().Slice(i*size, (i+1)*size)
			input.Copy(image)
			if first+i > 0 {
				eachPixel(first+i-1, func(pixel int) { f.Plan.SetPixel(input, pixel, mean) })
			}
		}
		if err := s.Run(n); err != nil {
			return err
		}
		for i := range n {
			v := score(f.Metadata, s.Scores()[i*f.Metadata.Columns:][:f.Metadata.Columns], class)
			if first+i == 0 {
				original = v
				continue
			}
			eachPixel(first+i-1, func(pixel int) {
				dst[pixel] += original - v
				covered[pixel]++
			})
		}
		first += n
	}
	for i, n := range covered {
		dst[i] /= n
	}
	return nil
}

// score returns the score of a class: its logit, or the logarithm of its odds (one column) or of its probability.
func score(m *model.Metadata, scores []float32, class int) float32 {
	v := scores[0]
	if m.Columns > 1 {
		v = scores[class]
	}
	if m.OutputKind == model.Probabilities {
		const least = 1e-12 // a probability of 0 would be minus infinity
		p := min(max(float64(v), least), 1-least)
		if m.Columns == 1 {
			v = float32(math.Log(p / (1 - p)))
		} else {
			v = float32(math.Log(p))
		}
	}
	if m.Columns == 1 && class == 0 {
		return -v
	}
	return v
}
