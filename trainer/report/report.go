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
	"image"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/atomicwriter"
	"golang.org/x/image/draw"

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
	// Result and Scores are the results of [evaluate.Run] for the images in Split.
	Result *evaluate.Result
	Scores []float32
	Split  *dataset.Split
	// Explain returns the class-activation map of an image of Split for a class, as
	// [evaluate.Explainer.GradCAM] does. The report has no maps if it is nil.
	Explain func(pixels []uint8, class int) ([]float32, error)
}

// Maximum numbers of images that a report shows per pair of actual and predicted class.
const (
	maxMistakes = 12
	maxCorrect  = 6
)

// Maximum numbers of classes.
const (
	maxMatrix  = 20 // in the confusion matrix
	maxClasses = 50 // in the table of classes
	maxGroups  = 10 // with images
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
	Curves    []figure
	Quality   []figure
	// Robustness shows the accuracy on corrupted images, if measured.
	Robustness []figure
	// Confusion is the confusion matrix, with its columns' Labels. It's empty for many classes.
	Labels    []string
	Confusion []confusionRow
	// Classes are the metrics of the classes of a model without a positive class: those with the lowest F1 if there are many.
	Classes []evaluate.ClassMetrics
	// ProbabilityOf is the positive class, or "the predicted class".
	ProbabilityOf string
	// Mistakes are the most confident errors of the largest confusions, and Correct the most confident correct
	// predictions of each class. Correct is empty unless the report has maps.
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
	Side              int // width and height of the images in pixels
	Actual, Predicted string
	Count             int // of all such images
	Shown             []shownImage
}

type shownImage struct {
	Index       int
	Probability float64 // as the server reports it
	PNG         template.URL
	Map         template.URL // the class-activation map over the image, or empty
}

type fact struct{ Name, Value string }

func render(r Report) ([]byte, error) {
	if r.Result == nil || r.Split == nil || r.Manifest == nil {
		return nil, errors.New("the report has no evaluation result")
	}
	md := &r.Model
	if len(r.Scores) != r.Split.Len()*md.Columns || r.Result.Count != r.Split.Len() {
		return nil, fmt.Errorf("%d scores and a result for %d images, but the split has %d images and the model %d scores per image",
			len(r.Scores), r.Result.Count, r.Split.Len(), md.Columns)
	}
	if !slices.Equal(r.Manifest.Classes, md.Classes) {
		return nil, fmt.Errorf("the dataset has the classes %q, but the model has %q", r.Manifest.Classes, md.Classes)
	}
	predictions, err := predict(md, r.Scores)
	if err != nil {
		return nil, err
	}
	v := view{
		Report:        r,
		Name:          cmp.Or(r.Model.Name, "run"),
		Config:        strings.TrimRight(string(r.Config), "\n"),
		ProbabilityOf: "the predicted class",
	}
	if r.Result.Binary != nil {
		v.ProbabilityOf = r.Result.Positive
	} else {
		v.Classes = worst(r.Result.PerClass)
	}
	for _, note := range r.Result.Notes {
		if note == evaluate.SyntheticNote {
			v.Synthetic = note
		} else {
			v.Notes = append(v.Notes, note)
		}
	}

	h := newHistory(r.Metrics)
	if v.Curves, err = h.figures(); err != nil {
		return nil, err
	}
	if v.Quality, err = qualityFigures(r, predictions); err != nil {
		return nil, err
	}
	if v.Robustness, err = robustnessFigures(r.Result); err != nil {
		return nil, err
	}
	v.Labels, v.Confusion = confusion(r.Result)
	mistakes, correct := groups(r)
	for _, g := range mistakes {
		m, err := mostConfident(r, predictions, g, maxMistakes)
		if err != nil {
			return nil, err
		}
		v.Mistakes = append(v.Mistakes, m)
	}
	for _, g := range correct {
		m, err := mostConfident(r, predictions, g, maxCorrect)
		if err != nil {
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

// prediction is the prediction for an image.
type prediction struct {
	class      int
	confidence float64 // logarithm of the odds of the class
	reported   float64 // probability
}

// predict returns the predictions for rows of scores.
func predict(md *model.Metadata, scores []float32) ([]prediction, error) {
	var list []prediction
	probabilities := make([]float64, len(md.Classes))
	for row := range slices.Chunk(scores, md.Columns) {
		if err := md.Probabilities(probabilities, row); err != nil {
			return nil, fmt.Errorf("image %d: %w", len(list), err)
		}
		class := md.Decide(probabilities)
		list = append(list, prediction{class, -evaluate.Loss(md, row, uint16(class)), md.Reported(probabilities, class)})
	}
	return list, nil
}

// worst returns the classes that have images, and only those with the lowest F1 if there are many.
func worst(classes []evaluate.ClassMetrics) []evaluate.ClassMetrics {
	if len(classes) <= maxClasses {
		return classes
	}
	classes = slices.DeleteFunc(slices.Clone(classes), func(c evaluate.ClassMetrics) bool { return c.Support == 0 })
	slices.SortStableFunc(classes, func(a, b evaluate.ClassMetrics) int { return cmp.Compare(a.F1, b.F1) })
	return classes[:min(len(classes), maxClasses)]
}

// confusion returns the confusion matrix with the labels of its columns, or nothing for many classes.
func confusion(r *evaluate.Result) (labels []string, rows []confusionRow) {
	if len(r.ConfusionMatrix) > maxMatrix {
		return nil, nil
	}
	for _, c := range r.PerClass {
		labels = append(labels, c.Label)
	}
	for label, counts := range r.ConfusionMatrix {
		row := confusionRow{Name: labels[label]}
		for class, n := range counts {
			share := float64(n) / float64(max(r.PerClass[label].Support, 1))
			row.Cells = append(row.Cells, confusionCell{n, share, int(math.Round(100 * share)), class == label})
		}
		rows = append(rows, row)
	}
	return labels, rows
}

// group is a pair of classes, the actual and the predicted one.
type group struct{ label, predicted int }

// groups returns the pairs of classes whose images are shown: both kinds of errors of two classes or the largest confusions of
// more, and the classes themselves if the report has maps.
func groups(r Report) (mistakes, correct []group) {
	labels := r.Model.Labels()
	if len(labels) == 2 {
		mistakes = []group{{0, 1}, {1, 0}}
	} else {
		for _, c := range r.Result.LargestConfusions[:min(len(r.Result.LargestConfusions), maxGroups)] {
			mistakes = append(mistakes, group{slices.Index(labels, c.Label), slices.Index(labels, c.Predicted)})
		}
	}
	if r.Explain == nil {
		return mistakes, nil
	}
	for c := range labels {
		if len(correct) < maxGroups {
			correct = append(correct, group{c, c})
		}
	}
	return mistakes, correct
}

// mostConfident returns the images of a group, the most confident first. It shows at most the given number of them.
func mostConfident(r Report, predictions []prediction, g group, show int) (ranking, error) {
	labels := r.Model.Labels()
	var found []int
	for i, p := range predictions {
		if int(r.Split.Labels[i]) == g.label && p.class == g.predicted {
			found = append(found, i)
		}
	}
	slices.SortStableFunc(found, func(a, b int) int { return cmp.Compare(predictions[b].confidence, predictions[a].confidence) })
	side := r.Split.Side
	m := ranking{Side: min(side, maxSide), Actual: labels[g.label], Predicted: labels[g.predicted], Count: len(found)}
	for _, i := range found[:min(len(found), show)] {
		pixels := r.Split.Image(i)
		p := shownImage{Index: i, Probability: predictions[i].reported, PNG: pngURI(pixels, side)}
		if r.Explain != nil {
			values, err := r.Explain(pixels, g.predicted)
			if err != nil {
				return m, fmt.Errorf("explain image %d: %w", i, err)
			}
			p.Map = mapURI(pixels, values, side)
		}
		m.Shown = append(m.Shown, p)
	}
	return m, nil
}

// mapURI draws a map over its image. The image is gray, so that its colors can't be confused with those
// of the map.
func mapURI(pixels []uint8, values []float32, width int) template.URL {
	drawn := make([]uint8, len(pixels))
	for i, v := range values {
		rgb := pixels[imaging.Channels*i:]
		gray := 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
		heat(drawn[imaging.Channels*i:], float64(v), 30+0.6*gray)
	}
	return pngURI(drawn, width)
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

// maxSide is the largest width and height in pixels of the images in a report. Larger ones are reduced.
const maxSide = 96

// pngURI returns an image as a data URI.
func pngURI(pixels []uint8, width int) template.URL {
	var drawn image.Image = imaging.ToImage(pixels, width, imaging.Channels)
	if size := drawn.Bounds().Size(); max(size.X, size.Y) > maxSide {
		scale := float64(maxSide) / float64(max(size.X, size.Y))
		small := image.NewNRGBA(image.Rect(0, 0, max(int(scale*float64(size.X)), 1), max(int(scale*float64(size.Y)), 1)))
		draw.CatmullRom.Scale(small, small.Bounds(), drawn, drawn.Bounds(), draw.Src, nil)
		drawn = small
	}
	text := "data:image/png;base64," + base64.StdEncoding.EncodeToString(imaging.EncodePNG(drawn))
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
		total := 0
		for _, class := range m.Classes {
			counts = append(counts, fmt.Sprintf("%d %s", m.Splits[split][class], class))
			total += m.Splits[split][class]
		}
		text := strings.Join(counts, ", ")
		if len(counts) > maxMatrix {
			text = fmt.Sprintf("%d of %d classes", total, len(counts))
		}
		add("Images in "+split, text)
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
