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
)

// Method is a method of computing a saliency map.
type Method string

const (
	// GradCAM weights the output channels of the last convolution by their influence on the
	// logit (Selvaraju et al., 2017). It takes a single run, but requires a model file with
	// Grad-CAM, and has the resolution of that convolution's output.
	GradCAM Method = "gradcam"
	// Occlusion covers the image patch by patch and measures how the logit changes (Zeiler and
	// Fergus, 2014). It works with any model, but takes many runs.
	Occlusion Method = "occlusion"
)

// Methods returns all methods.
func Methods() []Method { return []Method{GradCAM, Occlusion} }

// Session runs a model. model.Session implements it.
type Session interface {
	Input() []float32
	Run(n int) error // runs the model on the first n images of Input
	Logits() []float32
	GradCAM() []float32 // nil if the model has no Grad-CAM
}

// ErrNoGradCAM is returned if the model file has no Grad-CAM output.
var ErrNoGradCAM = errors.New("the model has no Grad-CAM because an older trainer exported it; train it again, or use occlusion")

// Map computes the saliency map for the prediction of an image (FAKE if fake, otherwise REAL)
// and stores it in dst, which has one value per pixel. The image is square and consists of one
// plane per color channel. Map returns the session's error, [ErrNoGradCAM], or an error if the
// model's outputs aren't finite.
func Map(dst []float32, m Method, s Session, image []float32, fake bool) error {
	sign := float32(1)
	if !fake {
		sign = -1
	}
	switch m {
	case GradCAM:
		evidence := s.GradCAM()
		if evidence == nil {
			return ErrNoGradCAM
		}
		copy(s.Input(), image)
		if err := s.Run(1); err != nil {
			return err
		}
		for i, v := range evidence[:len(dst)] {
			dst[i] = sign * v
		}
	case Occlusion:
		if err := occlude(dst, s, image, sign, patch, stride); err != nil {
			return err
		}
	default:
		return fmt.Errorf("explain: unknown method %q", m)
	}
	return scale(dst)
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

// Side length of the occluding patch and the step between patches, in pixels.
// docs/explanation/maps.md compares other values.
const (
	patch  = 12
	stride = 4
)

// occlude sets each pixel of dst to the mean drop of the predicted class's logit over all
// patches that cover the pixel. A patch has the mean color of the image: that removes the
// detail while adding as little contrast at its edges as possible.
func occlude(dst []float32, s Session, image []float32, sign float32, patch, stride int) error {
	area := len(dst)
	size := int(math.Sqrt(float64(area)))
	mean := make([]float32, len(image)/area)
	for c := range mean {
		sum := 0.0
		for _, v := range image[c*area:][:area] {
			sum += float64(v)
		}
		mean[c] = float32(sum / float64(area))
	}
	// eachPixel calls f for all pixels covered by the patch at the given position.
	eachPixel := func(at int, f func(pixel int)) {
		across := (size-patch)/stride + 1
		top, left := at/across*stride, at%across*stride
		for y := range patch {
			for x := range patch {
				f((top+y)*size + left + x)
			}
		}
	}
	// The first input is the original image, followed by one input per patch position.
	positions := (size-patch)/stride + 1
	positions *= positions
	clear(dst)
	covered := make([]float32, area)
	var original float32 // logit of the original image
	for first := 0; first <= positions; {
		n := min(len(s.Input())/len(image), positions+1-first)
		for i := range n {
			input := s.Input()[i*len(image):][:len(image)]
			copy(input, image)
			if first+i > 0 {
				eachPixel(first+i-1, func(pixel int) {
					for c, v := range mean {
						input[c*area+pixel] = v
					}
				})
			}
		}
		if err := s.Run(n); err != nil {
			return err
		}
		for i, logit := range s.Logits()[:n] {
			if first+i == 0 {
				original = logit
				continue
			}
			eachPixel(first+i-1, func(pixel int) {
				dst[pixel] += sign * (original - logit)
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
