package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.opentelemetry.io/otel/attribute"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/server/infer"
)

// Explanation tells where in the picture the model found what it judged by. It has
// one of the two forms of the map.
type Explanation struct {
	// Method is how the map was made.
	Method explain.Method `json:"method" enum:"gradcam,occlusion" doc:"How the map was made."`
	// Map has a row for each of the 32 rows of pixels, from the top.
	Map [][]float32 `json:"map,omitempty" doc:"32 rows of 32 values in [0,1], from the top: 1 is the place that spoke most for the verdict; all are 0 when none did."`
	// PNG is the map as a picture.
	PNG []byte `json:"png,omitempty" contentEncoding:"base64" doc:"The same as a PNG of 32×32 grey pixels, 255 for 1, with ?explain_format=png."`
}

// explanationFormat is a form of the map.
type explanationFormat string

const (
	explainArray explanationFormat = "array"
	explainPNG   explanationFormat = "png"
)

func explanationFormats() []explanationFormat { return []explanationFormat{explainArray, explainPNG} }

// explanationRequest is what a request asks for; without a method, nothing.
type explanationRequest struct {
	method explain.Method
	format explanationFormat
}

// readExplanationRequest reads the query.
func readExplanationRequest(c *fiber.Ctx) (r explanationRequest, err error) {
	r.format = explainArray
	if text := c.Query("explain"); text != "" {
		if r.method, err = oneOf("explain", text, explain.Methods()); err != nil {
			return r, err
		}
	}
	if text := c.Query("explain_format"); text != "" {
		r.format, err = oneOf("explain_format", text, explanationFormats())
	}
	return r, err
}

// oneOf is the allowed value that the parameter's text names.
func oneOf[T ~string](parameter, text string, allowed []T) (T, error) {
	// The text is the request's, and gone with it.
	if i := slices.Index(allowed, T(text)); i >= 0 {
		return allowed[i], nil
	}
	var names []string
	for _, a := range allowed {
		names = append(names, string(a))
	}
	return "", fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("%s=%.80q is none of %s", parameter, text, strings.Join(names, ", ")))
}

// explainAll makes the map of each verdict, one after the other: between two of them
// it is the turn of other requests.
func (x *exchange) explainAll(call *infer.Call) error {
	for i := range x.pictures {
		p := &x.pictures[i]
		if p.job == nil {
			continue
		}
		began := time.Now()
		p.explanation = make([]float32, imaging.Size*imaging.Size)
		err := call.Explain(p.explanation, x.explain.method, p.job, p.fake)
		if x.state.ctx != nil {
			x.span("explain", began, time.Now(), attribute.String("method", string(x.explain.method)))
		}
		if errors.Is(err, infer.ErrDeadline) {
			return busy("the verdicts could not be explained in time; send fewer pictures, or ask again later")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends the field of a Prediction.
func (r explanationRequest) append(b []byte, values []float32) []byte {
	b = append(b, `,"explanation":{"method":"`...)
	b = append(b, r.method...)
	if r.format == explainPNG {
		b = append(b, `","png":"`...)
		b = base64.StdEncoding.AppendEncode(b, mapPNG(values))
		return append(b, `"}`...)
	}
	b = append(b, `","map":[`...)
	for i, v := range values {
		switch {
		case i == 0:
			b = append(b, '[')
		case i%imaging.Size == 0:
			b = append(b, `],[`...)
		default:
			b = append(b, ',')
		}
		b = appendFloat(b, math.Round(float64(v)*1e4)/1e4, 64)
	}
	return append(b, `]]}`...)
}

// mapPNG is the map as a picture, 255 for 1.
func mapPNG(values []float32) []byte {
	grey := image.NewGray(image.Rect(0, 0, imaging.Size, imaging.Size))
	for i, v := range values {
		grey.Pix[i] = uint8(math.Round(255 * float64(v)))
	}
	return imaging.EncodePNG(grey)
}
