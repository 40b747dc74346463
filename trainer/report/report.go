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
	"image"
	"image/color"
	"image/png"
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
}

// worst is how many mistakes of each of the two kinds a page shows.
const worst = 12

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
	Mistakes   []mistakes
	Facts      []fact
	Config     string
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

// mistakes are the worst of one kind.
type mistakes struct {
	Is, Called string
	Count      int // of all, shown or not
	Shown      []mistake
}

type mistake struct {
	Index       int
	Probability float64 // of FAKE
	PNG         template.URL
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
		m, err := worstMistakes(r, label)
		if err != nil {
			return nil, err
		}
		v.Mistakes = append(v.Mistakes, m)
	}
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

// worstMistakes finds the pictures of one label that were called the other, the
// surest ones first.
func worstMistakes(r Report, label uint8) (mistakes, error) {
	classes := r.Manifest.Classes
	var wrong []int
	for i, z := range r.Logits {
		fake := evaluate.IsFake(z, r.Result.Threshold)
		if r.Split.Labels[i] == label && fake != (label == dataset.Fake) {
			wrong = append(wrong, i)
		}
	}
	slices.SortStableFunc(wrong, func(a, b int) int {
		return cmp.Compare(evaluate.Loss(r.Logits[b], label), evaluate.Loss(r.Logits[a], label))
	})
	m := mistakes{Is: classes[label], Called: classes[1-label], Count: len(wrong)}
	for _, i := range wrong[:min(len(wrong), worst)] {
		uri, err := pngURI(r.Split.Image(i))
		if err != nil {
			return m, fmt.Errorf("picture %d: %w", i, err)
		}
		m.Shown = append(m.Shown, mistake{Index: i, Probability: model.Probability(r.Logits[i]), PNG: uri})
	}
	return m, nil
}

// pngURI encodes the pixels of a picture so that they stand in the page itself.
func pngURI(pixels []uint8) (template.URL, error) {
	img := image.NewNRGBA(image.Rect(0, 0, imaging.Size, imaging.Size))
	for i := range imaging.Size * imaging.Size {
		rgb := pixels[i*imaging.Channels:]
		img.SetNRGBA(i%imaging.Size, i/imaging.Size, color.NRGBA{R: rgb[0], G: rgb[1], B: rgb[2], A: 255})
	}
	var data bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&data, img); err != nil {
		return "", err
	}
	text := "data:image/png;base64," + base64.StdEncoding.EncodeToString(data.Bytes())
	return template.URL(text), nil //nolint:gosec // made here
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
	if n := len(m.Refused); n > 0 {
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
