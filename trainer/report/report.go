// Package report writes HTML reports: [Write] the report of a training run with the metrics of its
// model, and [WriteDrift] the report of a drift check.
//
// A report is a single file. It has no scripts and loads nothing, not even fonts or images.
package report

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/runlog"
)

// Report is the input of [Write].
type Report struct {
	// Config is the composed configuration of the run, as YAML.
	Config []byte
	// Metrics are the rows of metrics.csv. The report only has training curves if there are rows.
	Metrics []runlog.Row
	// Model is the metadata of the model file.
	Model model.Metadata
	// Manifest describes the dataset.
	Manifest *dataset.Manifest
	// Result and Logits are the results of [evaluate.Run] for the images in Split.
	Result *evaluate.Result
	Logits []float32
	Split  *dataset.Split
	// Explain returns the class-activation map of an image of Split for a class, as
	// [evaluate.Explainer.GradCAM] does. The report has no maps if it is nil.
	Explain func(pixels []uint8, fake bool) ([]float32, error)
}

// Maximum numbers of images that a report shows per class.
const (
	maxMistakes = 12
	maxCorrect  = 6
)

//go:embed *.html.tmpl
var templates embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"percent": func(v float64) string { return strconv.FormatFloat(100*v, 'f', 2, 64) + " %" },
	"fixed":   func(v float64) string { return strconv.FormatFloat(v, 'f', 4, 64) },
	"short":   func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) },
}).ParseFS(templates, "*.html.tmpl"))

// Write atomically writes the report to path. Equal reports result in identical files.
func Write(path string, r Report) error {
	html, err := render(r)
	if err != nil {
		return fmt.Errorf("write report %s: %w", path, err)
	}
	if err := atomicwriter.WriteFile(path, html, 0o644); err != nil {
		return fmt.Errorf("write report %s: %w", path, err)
	}
	return nil
}

// view is the data of the template.
type view struct {
	Report
	Name      string
	Synthetic string // the note on a synthetic dataset, else empty
	Notes     []string
	Real      string // the class names
	Fake      string
	Curves    []figure
	Quality   []figure
	// Robustness shows the accuracy on corrupted images, if measured.
	Robustness []figure
	Confusion  []confusionRow
	// Mistakes are the most confident errors of each class, and Correct the most confident correct
	// predictions. Correct is empty unless the report has maps.
	Mistakes []ranking
	Correct  []ranking
	Scale    template.URL // the colors of the maps, from 0 to 1
	Facts    []fact
	Config   string
}

type confusionRow struct {
	Name  string
	Cells []confusionCell
}

type confusionCell struct {
	Count   int
	Share   float64 // of the row
	Percent int
	Correct bool
}

// ranking has the images of one class with the same predicted class, the most confident first.
type ranking struct {
	Actual, Predicted string
	Count             int // of all such images
	Shown             []shownImage
}

type shownImage struct {
	Index       int
	Probability float64 // of FAKE
	PNG         template.URL
	Map         template.URL // the class-activation map over the image, or empty
}

type fact struct{ Name, Value string }

func render(r Report) ([]byte, error) {
	if r.Result == nil || r.Split == nil || r.Manifest == nil {
		return nil, errors.New("the report has no evaluation result")
	}
	if len(r.Logits) != r.Split.Len() || r.Result.Count != r.Split.Len() {
		return nil, fmt.Errorf("%d logits and a result for %d images, but the split has %d",
			len(r.Logits), r.Result.Count, r.Split.Len())
	}
	classes := r.Manifest.Classes
	if len(classes) != 2 {
		return nil, fmt.Errorf("expected two class names, got %q", classes)
	}
	v := view{
		Report: r,
		Name:   cmp.Or(r.Model.Name, "run"),
		Real:   classes[dataset.Real],
		Fake:   classes[dataset.Fake],
		Config: strings.TrimRight(string(r.Config), "\n"),
	}
	for _, note := range r.Result.Notes {
		if note == evaluate.SyntheticNote {
			v.Synthetic = note
		} else {
			v.Notes = append(v.Notes, note)
		}
	}

	h := newHistory(r.Metrics)
	var err error
	if v.Curves, err = h.figures(); err != nil {
		return nil, err
	}
	roc, err1 := rocFigure(r.Result, r.Logits, r.Split.Labels)
	reliability, err2 := reliabilityFigure(r.Result, r.Logits, r.Split.Labels)
	scores, err3 := scoreFigure(r.Result, r.Logits, r.Split.Labels)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	v.Quality = []figure{scores, roc, reliability}
	if v.Robustness, err = robustnessFigures(r.Result); err != nil {
		return nil, err
	}
	v.Confusion = confusion(r.Result.Confusion, v.Real, v.Fake)
	for _, label := range []uint16{dataset.Real, dataset.Fake} {
		m, err := mostConfident(r, label, false, maxMistakes)
		if err != nil {
			return nil, err
		}
		v.Mistakes = append(v.Mistakes, m)
		if r.Explain == nil {
			continue
		}
		if m, err = mostConfident(r, label, true, maxCorrect); err != nil {
			return nil, err
		}
		v.Correct = append(v.Correct, m)
	}
	v.Scale = scaleURI()
	v.Facts = facts(r, h)

	var html bytes.Buffer
	if err := pages.ExecuteTemplate(&html, "report.html.tmpl", v); err != nil {
		return nil, err
	}
	return html.Bytes(), nil
}

func confusion(c evaluate.Confusion, realName, fakeName string) []confusionRow {
	row := func(name string, predictedReal, predictedFake, correct int) confusionRow {
		cells := make([]confusionCell, 2)
		for i, n := range []int{predictedReal, predictedFake} {
			share := float64(n) / float64(max(predictedReal+predictedFake, 1))
			cells[i] = confusionCell{n, share, int(math.Round(100 * share)), i == correct}
		}
		return confusionRow{name, cells}
	}
	return []confusionRow{
		row(realName, c.TN, c.FP, 0),
		row(fakeName, c.FN, c.TP, 1),
	}
}

// mostConfident returns the images of one label that were classified correctly or incorrectly, the most
// confident first. It shows at most the given number of them.
func mostConfident(r Report, label uint16, correct bool, show int) (ranking, error) {
	classes := r.Manifest.Classes
	var found []int
	for i, z := range r.Logits {
		fake := evaluate.IsFake(z, r.Result.Threshold)
		if r.Split.Labels[i] == label && (fake == (label == dataset.Fake)) == correct {
			found = append(found, i)
		}
	}
	predicted := label
	if !correct {
		predicted = 1 - label
	}
	slices.SortStableFunc(found, func(a, b int) int {
		return cmp.Compare(evaluate.Loss(r.Logits[a], predicted), evaluate.Loss(r.Logits[b], predicted))
	})
	m := ranking{Actual: classes[label], Predicted: classes[predicted], Count: len(found)}
	for _, i := range found[:min(len(found), show)] {
		pixels := r.Split.Image(i)
		p := shownImage{Index: i, Probability: model.Probability(r.Logits[i]), PNG: pngURI(pixels, imaging.Size)}
		if r.Explain != nil {
			values, err := r.Explain(pixels, predicted == dataset.Fake)
			if err != nil {
				return m, fmt.Errorf("explain image %d: %w", i, err)
			}
			p.Map = mapURI(pixels, values)
		}
		m.Shown = append(m.Shown, p)
	}
	return m, nil
}

// mapURI draws a map over its image. The image is gray, so that its colors can't be confused with those
// of the map.
func mapURI(pixels []uint8, values []float32) template.URL {
	drawn := make([]uint8, len(pixels))
	for i, v := range values {
		rgb := pixels[imaging.Channels*i:]
		gray := 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
		heat(drawn[imaging.Channels*i:], float64(v), 30+0.6*gray)
	}
	return pngURI(drawn, imaging.Size)
}

// heat colors a gray pixel by a value of the map: not at all at 0, then blue, red and yellow. The
// lightness increases with the value, so that the scale also works in grayscale.
func heat(rgb []uint8, v, gray float64) {
	stops := [...][imaging.Channels]float64{{40, 40, 150}, {150, 40, 160}, {235, 80, 60}, {255, 225, 80}}
	at := min(max(v, 0), 1) * float64(len(stops)-1)
	low := min(int(at), len(stops)-2)
	opacity := 0.85 * min(1, 3*v)
	for c := range imaging.Channels {
		color := stops[low][c] + (at-float64(low))*(stops[low+1][c]-stops[low][c])
		rgb[c] = uint8(math.Round(gray + opacity*(color-gray)))
	}
}

// scaleURI draws the colors of the values from 0 to 1 over a medium gray.
func scaleURI() template.URL {
	const steps = 64
	drawn := make([]uint8, steps*imaging.Channels)
	for i := range steps {
		heat(drawn[imaging.Channels*i:], float64(i)/(steps-1), 110)
	}
	return pngURI(drawn, steps)
}

// pngURI returns an image as a data URI.
func pngURI(pixels []uint8, width int) template.URL {
	text := "data:image/png;base64," + base64.StdEncoding.EncodeToString(imaging.EncodePNG(imaging.ToImage(pixels, width, imaging.Channels)))
	return template.URL(text) //nolint:gosec // generated here
}

// facts lists the provenance of the run.
func facts(r Report, h history) []fact {
	var list []fact
	add := func(name, value string) {
		if value != "" {
			list = append(list, fact{name, value})
		}
	}
	number := func(v float64) string {
		if math.IsNaN(v) {
			return ""
		}
		return strconv.FormatFloat(v, 'f', 4, 64)
	}
	m := r.Manifest
	add("Dataset", m.Source.String())
	for _, split := range []string{dataset.Train, dataset.Test} {
		var counts []string
		for _, class := range m.Classes {
			counts = append(counts, fmt.Sprintf("%d %s", m.Splits[split][class], class))
		}
		add("Images in "+split, strings.Join(counts, ", "))
	}
	if n := len(m.Rejected); n > 0 {
		add("Rejected images", fmt.Sprintf("%d, listed in the manifest of the dataset", n))
	}
	if h.best >= 0 {
		add("Best epoch", fmt.Sprintf("%d of %d", h.epochs[h.best].Epoch, h.epochs[len(h.epochs)-1].Epoch))
	}
	add("Validation loss", number(r.Model.ValLoss))
	add("Validation accuracy", number(r.Model.ValAccuracy))
	add("Seed", strconv.FormatInt(r.Model.Seed, 10))
	add("Preprocessing", r.Model.Preprocessing.ID())
	add("Git revision", r.Model.Revision)
	add("Model digest", r.Result.Model)
	add("Dataset digest", r.Result.Data)
	add("Configuration digest", r.Model.ConfigDigest)
	return list
}
