package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"math"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.opentelemetry.io/otel/attribute"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/server/api"
	"fakeart/server/failure"
	"fakeart/server/infer"
)

// Explanation shows which parts of an image determined the prediction. It contains the saliency
// map in one of two formats.
type Explanation struct {
	// Method is the explanation method.
	Method explain.Method `json:"method" enum:"gradcam,occlusion" doc:"Explanation method."`
	// Map has one row per row of input pixels, from the top.
	Map [][]float32 `json:"map,omitempty" doc:"Saliency map of the size of the model's input: rows of values in [0,1], from the top. 1 is the area that contributed most to the predicted class; all values are 0 if no area did."`
	// PNG is the saliency map as a grayscale image.
	PNG []byte `json:"png,omitempty" contentEncoding:"base64" doc:"Saliency map as a grayscale PNG of the size of the model's input, where 255 stands for 1, with ?explain_format=png."`
}

// explanationFormat is a representation of the saliency map.
type explanationFormat string

const (
	explainArray explanationFormat = "array"
	explainPNG   explanationFormat = "png"
)

func explanationFormats() []explanationFormat { return []explanationFormat{explainArray, explainPNG} }

// explanationRequest is the explanation that a request asks for. An empty method means none.
type explanationRequest struct {
	method explain.Method
	format explanationFormat
}

// explanationOf reads the query parameters explain and explain_format.
func explanationOf(c *fiber.Ctx) explanationRequest {
	return explanationRequest{
		api.Constant(explain.Methods(), c.Query("explain")),
		api.Constant(explanationFormats(), c.Query("explain_format", string(explainArray))),
	}
}

// explainAll computes the saliency map of each prediction, one after the other. Between two of
// them the engine serves other requests.
func (x *exchange) explainAll(call *infer.Call) error {
	size := x.served.File.Plan.Preprocessing()
	for i := range x.images {
		p := &x.images[i]
		if p.job == nil {
			continue
		}
		began := time.Now()
		p.explanation = make([]float32, size.Width*size.Height)
		err := call.Explain(p.explanation, x.explain.method, p.job, p.class)
		if x.state.Ctx != nil {
			x.span("explain", began, time.Now(), attribute.String("method", string(x.explain.method)))
		}
		if errors.Is(err, infer.ErrDeadline) {
			return failure.Busy("the explanations could not be computed in time; send fewer images, or try again later")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// largestArray is the maximum number of values of a saliency map in JSON. It would take about 8 bytes per value.
const largestArray = 512 * 512

// check returns an error if the map for a model with the plan is too large for the format.
func (r explanationRequest) check(plan *imaging.Plan) error {
	if p := plan.Preprocessing(); r.method != "" && r.format == explainArray && p.Width*p.Height > largestArray {
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the saliency map of this model has %d×%d values, too many for explain_format=array; use explain_format=png", p.Width, p.Height))
	}
	return nil
}

// append appends the field "explanation" of a Prediction. The map has rows of the given width.
func (r explanationRequest) append(b []byte, values []float32, width int) []byte {
	b = append(b, `,"explanation":{"method":"`...)
	b = append(b, r.method...)
	if r.format == explainPNG {
		b = append(b, `","png":"`...)
		b = base64.StdEncoding.AppendEncode(b, mapPNG(values, width))
		return append(b, `"}`...)
	}
	b = append(b, `","map":[`...)
	for i, v := range values {
		switch {
		case i == 0:
			b = append(b, '[')
		case i%width == 0:
			b = append(b, `],[`...)
		default:
			b = append(b, ',')
		}
		b = appendFloat(b, math.Round(float64(v)*1e4)/1e4, 64)
	}
	return append(b, `]]}`...)
}

// mapPNG returns the saliency map as a grayscale PNG in which 255 stands for 1.
func mapPNG(values []float32, width int) []byte {
	gray := image.NewGray(image.Rect(0, 0, width, len(values)/width))
	for i, v := range values {
		gray.Pix[i] = uint8(math.Round(255 * float64(v)))
	}
	return imaging.EncodePNG(gray)
}
