// Package report writes report.html, the page that shows how a training run went
// and how good its model is. The page is one file that asks for nothing else: no
// script, no font, no picture from anywhere.
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

// Report is what a page is made from.
type Report struct {
	// Config is the run's composed configuration, as YAML.
	Config []byte
	// Metrics are the rows of metrics.csv; without any the curves are left out.
	Metrics []runlog.Row
	// Model is what the model file says about itself.
	Model model.Metadata
	// Manifest describes the data set.
	Manifest *dataset.Manifest
	// Result, Logits and Split are a measured split: [evaluate.Run]'s answer, and
	// the pictures it is about.
	Result *evaluate.Result
	Logits []float32
	Split  *dataset.Split
	// Explain, unless nil, tells where in a picture of Split the model found what spoke
	// for a verdict: a value in [0,1] a pixel, as package explain has it.
	Explain func(pixels []uint8, fake bool) ([]float32, error)
}

// The most pictures that a page shows of each of the two kinds.
const (
	worst = 12 // mistakes
	best  = 6  // of what is right
)

//go:embed *.html.tmpl
var templates embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"percent": func(v float64) string { return strconv.FormatFloat(100*v, 'f', 2, 64) + " %" },
	"fixed":   func(v float64) string { return strconv.FormatFloat(v, 'f', 4, 64) },
	"short":   func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) },
}).ParseFS(templates, "*.html.tmpl"))

// Write writes the page of r to path, which holds either its old content or the
// whole new one at any moment. The same report gives the same bytes.
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

// view is what the template reads.
type view struct {
	Report
	Name      string
	Synthetic string // what to say of a synthetic data set, else empty
	Notes     []string
	Real      string // the class names
	Fake      string
	Curves    []figure
	Quality   []figure
	// Robustness shows the accuracy on corrupted pictures, where it was measured.
	Robustness []figure
	Confusion  []confusionRow
	Mistakes   []pictures
	// Best are pictures called right; none when the model does not explain itself.
	Best   []pictures
	Scale  template.URL // the colours of the maps, from 0 to 1
	Facts  []fact
	Config string
}

type confusionRow struct {
	Name  string
	Cells []confusionCell
}

type confusionCell struct {
	Count   int
	Share   float64 // of the row
	Percent int
	Right   bool
}

// pictures are the ends of one kind.
type pictures struct {
	Is, Called string
	Count      int // of all, shown or not
	Shown      []picture
}

type picture struct {
	Index       int
	Probability float64 // of FAKE
	PNG         template.URL
	Map         template.URL // where the model looked, drawn over the picture; empty without
}

type fact struct{ Name, Value string }

func render(r Report) ([]byte, error) {
	if r.Result == nil || r.Split == nil || r.Manifest == nil {
		return nil, errors.New("nothing measured to report on")
	}
	if len(r.Logits) != r.Split.Len() || r.Result.Count != r.Split.Len() {
		return nil, fmt.Errorf("%d logits and a result over %d pictures for a split of %d",
			len(r.Logits), r.Result.Count, r.Split.Len())
	}
	classes := r.Manifest.Classes
	if len(classes) != 2 {
		return nil, fmt.Errorf("class names %q are not two", classes)
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
	for _, label := range []uint8{dataset.Real, dataset.Fake} {
		m, err := surest(r, label, false, worst)
		if err != nil {
			return nil, err
		}
		v.Mistakes = append(v.Mistakes, m)
		if r.Explain == nil {
			continue
		}
		if m, err = surest(r, label, true, best); err != nil {
			return nil, err
		}
		v.Best = append(v.Best, m)
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
	row := func(name string, calledReal, calledFake, right int) confusionRow {
		cells := make([]confusionCell, 2)
		for i, n := range []int{calledReal, calledFake} {
			share := float64(n) / float64(max(calledReal+calledFake, 1))
			cells[i] = confusionCell{n, share, int(math.Round(100 * share)), i == right}
		}
		return confusionRow{name, cells}
	}
	return []confusionRow{
		row(realName, c.TN, c.FP, 0),
		row(fakeName, c.FN, c.TP, 1),
	}
}

// surest finds the pictures of one label that were called right, or the other, the
// surest ones first, and shows the first of them.
func surest(r Report, label uint8, right bool, show int) (pictures, error) {
	classes := r.Manifest.Classes
	var found []int
	for i, z := range r.Logits {
		fake := evaluate.IsFake(z, r.Result.Threshold)
		if r.Split.Labels[i] == label && (fake == (label == dataset.Fake)) == right {
			found = append(found, i)
		}
	}
	called := label
	if !right {
		called = 1 - label
	}
	slices.SortStableFunc(found, func(a, b int) int {
		return cmp.Compare(evaluate.Loss(r.Logits[a], called), evaluate.Loss(r.Logits[b], called))
	})
	m := pictures{Is: classes[label], Called: classes[called], Count: len(found)}
	for _, i := range found[:min(len(found), show)] {
		pixels := r.Split.Image(i)
		p := picture{Index: i, Probability: model.Probability(r.Logits[i]), PNG: pngURI(pixels, imaging.Size)}
		if r.Explain != nil {
			values, err := r.Explain(pixels, called == dataset.Fake)
			if err != nil {
				return m, fmt.Errorf("explain picture %d: %w", i, err)
			}
			p.Map = mapURI(pixels, values)
		}
		m.Shown = append(m.Shown, p)
	}
	return m, nil
}

// mapURI draws a map over its picture, which has lost its colours so that those of the
// map are told from them.
func mapURI(pixels []uint8, values []float32) template.URL {
	drawn := make([]uint8, len(pixels))
	for i, v := range values {
		rgb := pixels[imaging.Channels*i:]
		grey := 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
		heat(drawn[imaging.Channels*i:], float64(v), 30+0.6*grey)
	}
	return pngURI(drawn, imaging.Size)
}

// heat colours a grey pixel by the map's value there: not at all at 0, then blue, red
// and yellow, each lighter than the one before, so that it is read without colours as well.
func heat(rgb []uint8, v, grey float64) {
	stops := [...][imaging.Channels]float64{{40, 40, 150}, {150, 40, 160}, {235, 80, 60}, {255, 225, 80}}
	at := min(max(v, 0), 1) * float64(len(stops)-1)
	low := min(int(at), len(stops)-2)
	opacity := 0.85 * min(1, 3*v)
	for c := range imaging.Channels {
		colour := stops[low][c] + (at-float64(low))*(stops[low+1][c]-stops[low][c])
		rgb[c] = uint8(math.Round(grey + opacity*(colour-grey)))
	}
}

// scaleURI draws the colours of a map's values from 0 to 1 over a medium grey.
func scaleURI() template.URL {
	const steps = 64
	drawn := make([]uint8, steps*imaging.Channels)
	for i := range steps {
		heat(drawn[imaging.Channels*i:], float64(i)/(steps-1), 110)
	}
	return pngURI(drawn, steps)
}

// pngURI encodes the pixels of a picture so that they stand in the page itself.
func pngURI(pixels []uint8, width int) template.URL {
	text := "data:image/png;base64," + base64.StdEncoding.EncodeToString(imaging.EncodePNG(imaging.ToImage(pixels, width)))
	return template.URL(text) //nolint:gosec // made here
}

// facts lists what identifies the run, and what it was made from.
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
	add("Data", m.Source.String())
	for _, split := range []string{dataset.Train, dataset.Test} {
		var counts []string
		for _, class := range m.Classes {
			counts = append(counts, fmt.Sprintf("%d %s", m.Splits[split][class], class))
		}
		add("Pictures to "+split, strings.Join(counts, ", "))
	}
	if n := len(m.Rejected); n > 0 {
		add("Pictures refused", fmt.Sprintf("%d, listed in the data set's manifest", n))
	}
	if h.best >= 0 {
		add("Best epoch", fmt.Sprintf("%d of %d", h.epochs[h.best].Epoch, h.epochs[len(h.epochs)-1].Epoch))
	}
	add("Validation loss", number(r.Model.ValLoss))
	add("Validation accuracy", number(r.Model.ValAccuracy))
	add("Seed", strconv.FormatInt(r.Model.Seed, 10))
	add("Preprocessing", r.Model.Preprocessing)
	add("Source revision", r.Model.Revision)
	add("Model", r.Result.Model)
	add("Data digest", r.Result.Data)
	add("Configuration digest", r.Model.ConfigDigest)
	return list
}
