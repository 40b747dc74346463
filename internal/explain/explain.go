// Package explain tells where in a picture a model found what it based its verdict on.
//
// A map has one value in [0,1] a pixel, rows from the top: 1 is the place that spoke
// most for the verdict, whichever that is, and 0 one that did not speak for it. The
// greatest value is 1, unless nothing spoke for the verdict at all. How sure the model
// was, a map does not say.
package explain

import (
	"errors"
	"fmt"
	"math"
)

// Method is a way of making a map.
type Method string

const (
	// GradCAM weighs what the last convolution found by how much it counts for the
	// verdict (Selvaraju et al., 2017). It takes one run of a model whose file has it,
	// and is as fine as that convolution's result.
	GradCAM Method = "gradcam"
	// Occlusion covers one part of the picture after the other and sees by how much the
	// logit changes (Zeiler and Fergus, 2014). It takes many runs of any model.
	Occlusion Method = "occlusion"
)

// Methods are all of them.
func Methods() []Method { return []Method{GradCAM, Occlusion} }

// Session runs the model, as model.Session does: on the first n pictures of Input.
type Session interface {
	Input() []float32
	Run(n int) error
	Logits() []float32
	GradCAM() []float32 // nil without it
}

// ErrNoGradCAM means that the model file has no output for Grad-CAM.
var ErrNoGradCAM = errors.New("the model has no Grad-CAM, since an older trainer exported it; train it again, or use occlusion")

// Map fills dst, which has a value for each of the picture's pixels, with the map of a
// verdict. picture is square, planes of colours one after the other. An error is the
// session's own, ErrNoGradCAM, or that the model's answers are no finite numbers.
func Map(dst []float32, m Method, s Session, picture []float32, fake bool) error {
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
		copy(s.Input(), picture)
		if err := s.Run(1); err != nil {
			return err
		}
		for i, v := range evidence[:len(dst)] {
			dst[i] = sign * v
		}
	case Occlusion:
		if err := occlude(dst, s, picture, sign, patch, stride); err != nil {
			return err
		}
	default:
		return fmt.Errorf("explain: there is no method %q", m)
	}
	return scale(dst)
}

// scale takes away what spoke against the verdict and makes the greatest value 1.
func scale(values []float32) error {
	greatest := float32(0)
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("explain: the model's evidence at pixel %d is %g, no finite number; its weights are damaged, export it again", i, v)
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

// The patch that covers a part of the picture, and how far it moves, in pixels.
// docs/explanation/maps.md has figures of others.
const (
	patch  = 12
	stride = 4
)

// occlude gives each pixel the mean, over the patches that cover it, of how far the
// logit falls towards the other verdict. A patch has the picture's mean colour, so
// that what it takes away is the detail, and no edge is sharper than need be.
func occlude(dst []float32, s Session, picture []float32, sign float32, patch, stride int) error {
	area := len(dst)
	size := int(math.Sqrt(float64(area)))
	mean := make([]float32, len(picture)/area)
	for c := range mean {
		sum := 0.0
		for _, v := range picture[c*area:][:area] {
			sum += float64(v)
		}
		mean[c] = float32(sum / float64(area))
	}
	each := func(at int, f func(pixel int)) {
		across := (size-patch)/stride + 1
		top, left := at/across*stride, at%across*stride
		for y := range patch {
			for x := range patch {
				f((top+y)*size + left + x)
			}
		}
	}
	// The picture as it is comes first, then one of it for each place of the patch.
	places := (size-patch)/stride + 1
	places *= places
	clear(dst)
	covered := make([]float32, area)
	var whole float32
	for first := 0; first <= places; {
		n := min(len(s.Input())/len(picture), places+1-first)
		for i := range n {
			input := s.Input()[i*len(picture):][:len(picture)]
			copy(input, picture)
			if first+i > 0 {
				each(first+i-1, func(pixel int) {
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
				whole = logit
				continue
			}
			each(first+i-1, func(pixel int) {
				dst[pixel] += sign * (whole - logit)
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
