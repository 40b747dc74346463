package report

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/moby/sys/atomicwriter"
	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"fakeart/internal/drift"
	"fakeart/internal/imaging"
	"fakeart/trainer/predictions"
)

// Drift is the input of [WriteDrift].
type Drift struct {
	Result    *drift.Result
	Reference []drift.Row
	Log       *predictions.Log
}

const (
	// driftBins is the number of bars of a histogram.
	driftBins = 30
	// A curve over time has at most maxParts points, each the mean of at least partRows rows. With
	// fewer than minParts points it is omitted.
	maxParts = 24
	partRows = 50
	minParts = 4
)

// driftView is the data of the template.
type driftView struct {
	Drift
	Columns     []driftColumn
	Tests       []string
	Figures     []figure
	Time        []figure
	Images      []driftImage
	OtherModels int
	Unknown     []drift.Unknown
}

type driftColumn struct {
	drift.Column
	Cells []string // the scores, in the order of Tests
}

type driftImage struct {
	predictions.Image
	PNG template.URL
}

// When returns the time of the prediction.
func (i driftImage) When() string { return i.Time.Format("2 Jan 15:04") }

// Sampled reports whether only a sample of the records was compared.
func (v driftView) Sampled() bool { return v.Log.Matched > len(v.Log.Rows) }

// From returns the time of the first record.
func (v driftView) From() string { return v.Log.From.Format(time.RFC3339) }

// To returns the time of the last record.
func (v driftView) To() string { return v.Log.To.Format(time.RFC3339) }

// WriteDrift atomically writes the drift report to path.
func WriteDrift(path string, d Drift) error {
	html, err := renderDrift(d)
	if err == nil {
		err = atomicwriter.WriteFile(path, html, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write report %s: %w", path, err)
	}
	return nil
}

func renderDrift(d Drift) ([]byte, error) {
	v := driftView{Drift: d, Tests: []string{
		drift.TestKS, drift.TestChiSquare, drift.TestPSI, drift.TestWasserstein, drift.TestJensenShannon, drift.TestMMD, drift.TestAUC,
	}}
	v.Unknown = d.Result.Unknown()
	for _, n := range d.Log.OtherModels {
		v.OtherModels += n
	}
	for _, c := range d.Result.Columns {
		row := driftColumn{Column: c}
		for _, test := range v.Tests {
			cell := ""
			if score, ok := c.Scores[test]; ok {
				cell = strconv.FormatFloat(score, 'g', 3, 64)
			}
			row.Cells = append(row.Cells, cell)
		}
		v.Columns = append(v.Columns, row)
		if c.Unknown != "" {
			continue
		}
		var f figure
		var err error
		if of := drift.NumericColumn(c.Name); of != nil {
			if f, err = distributions(c, values(d.Reference, of), values(d.Log.Rows, of)); err != nil {
				return nil, err
			}
			v.Figures = append(v.Figures, f)
			if f, err = overTime(c, values(d.Reference, of), d.Log.Rows, of); err != nil {
				return nil, err
			}
			if f.SVG != "" {
				v.Time = append(v.Time, f)
			}
		} else if of := drift.CategoricalColumn(c.Name); of != nil {
			if f, err = categoryFigure(c, d.Reference, d.Log.Rows, of); err != nil {
				return nil, err
			}
			v.Figures = append(v.Figures, f)
		} else {
			if f, err = components(c, d.Reference, d.Log.Rows); err != nil {
				return nil, err
			}
			v.Figures = append(v.Figures, f)
		}
	}
	// The log doesn't say how the model sees images, so the report shows whole images.
	thumbnail := imaging.Square(64)
	thumbnail.Fit, thumbnail.Orientation, thumbnail.JPEG = imaging.Contain, imaging.ApplyOrientation, imaging.DCTScaledJPEG
	thumbnail.Padding = [3]uint8{128, 128, 128}
	plan, err := thumbnail.Compile()
	if err != nil {
		return nil, err
	}
	decoder, pixels := plan.NewDecoder(0), make([]uint8, plan.Len())
	for _, p := range d.Log.Images {
		if _, err := decoder.Decode(pixels, p.Data); err != nil {
			continue // a tensor, or deleted from the log
		}
		v.Images = append(v.Images, driftImage{p, pngURI(pixels, thumbnail.Width)})
	}
	var html bytes.Buffer
	if err := pages.ExecuteTemplate(&html, "drift.html.tmpl", v); err != nil {
		return nil, err
	}
	return html.Bytes(), nil
}

func values(rows []drift.Row, of func(*drift.Row) float64) []float64 {
	all := make([]float64, len(rows))
	for i := range rows {
		all[i] = of(&rows[i])
	}
	return all
}

// driftTitle returns the title of a column's chart, which marks drift.
func driftTitle(c drift.Column) string {
	if c.Drift {
		return c.Name + ": drift"
	}
	return c.Name
}

var driftLegend = []key{{"box real", "reference"}, {"box fake", "current"}}

// sides has the fill and line colors of reference and current.
var sides = [2][2]role{{realSoft, realLine}, {fakeSoft, fakeLine}}

// distributions returns a chart with the histograms of both sides, as fractions.
func distributions(c drift.Column, reference, current []float64) (figure, error) {
	// Outliers would compress the rest.
	both := slices.Sorted(slices.Values(append(slices.Clone(reference), current...)))
	low, high := stat.Quantile(0.002, stat.Empirical, both, nil), stat.Quantile(0.998, stat.Empirical, both, nil)
	if !(high > low) {
		low, high = low-0.5, high+0.5
	}
	var fractions [2][driftBins]float64
	most := 0.0
	for side, sample := range [2][]float64{reference, current} {
		for _, v := range sample {
			bin := min(max(int((v-low)/(high-low)*driftBins), 0), driftBins-1)
			fractions[side][bin] += 1 / float64(len(sample))
			most = max(most, fractions[side][bin])
		}
	}
	chart := newChart(c.Name, "fraction", chartHeight)
	chart.plot.Y.Tick.Marker = ticks{count: 5, percent: true}
	chart.plot.X.Min, chart.plot.X.Max = low, high
	chart.setRange(&chart.plot.Y, 0, most)
	for side, roles := range sides {
		outline := plotter.XYs{{X: low}}
		for i, s := range fractions[side] {
			at := func(i int) float64 { return low + (high-low)*float64(i)/driftBins }
			outline = append(outline, plotter.XY{X: at(i), Y: s}, plotter.XY{X: at(i + 1), Y: s})
		}
		outline = append(outline, plotter.XY{X: high})
		chart.area(outline, roles[0])
		chart.line(outline, roles[1].line(1.5))
	}
	f := figure{Title: driftTitle(c), Legend: driftLegend}
	var err error
	f.SVG, err = chart.svg("Distribution of " + c.Name + " in the reference and in the log")
	return f, err
}

// maxCategories is the maximum number of categories in a bar chart.
const maxCategories = 12

// categoryFigure returns a bar chart with the fraction of each category on both sides. If there are many, it shows those whose fractions
// differ most, and the others as one.
func categoryFigure(c drift.Column, reference, current []drift.Row, of func(*drift.Row) string) (figure, error) {
	counts := map[string][2]float64{}
	for side, rows := range [2][]drift.Row{reference, current} {
		for i := range rows {
			fraction := counts[of(&rows[i])]
			fraction[side] += 1 / float64(len(rows))
			counts[of(&rows[i])] = fraction
		}
	}
	names := slices.Sorted(maps.Keys(counts))
	if len(names) > maxCategories {
		slices.SortStableFunc(names, func(a, b string) int {
			return cmp.Compare(math.Abs(counts[b][0]-counts[b][1]), math.Abs(counts[a][0]-counts[a][1]))
		})
		var rest [2]float64
		for _, name := range names[maxCategories-1:] {
			rest[0], rest[1] = rest[0]+counts[name][0], rest[1]+counts[name][1]
		}
		others := fmt.Sprintf("%d others", len(names)-maxCategories+1)
		names = slices.Sorted(slices.Values(names[:maxCategories-1]))
		names, counts[others] = append(names, others), rest
	}
	most := 0.0
	for _, name := range names {
		most = max(most, counts[name][0], counts[name][1])
	}
	chart := newChart("", "fraction", chartHeight)
	chart.plot.Y.Tick.Marker = ticks{count: 5, percent: true}
	chart.plot.X.Min, chart.plot.X.Max = 0, float64(len(names))
	chart.setRange(&chart.plot.Y, 0, most)
	var marks plot.ConstantTicks
	for i, name := range names {
		marks = append(marks, plot.Tick{Value: float64(i) + 0.5, Label: name})
		for side, roles := range sides {
			from := float64(i) + 0.18 + 0.34*float64(side)
			bar := plotter.XYs{{X: from}, {X: from, Y: counts[name][side]}, {X: from + 0.3, Y: counts[name][side]}, {X: from + 0.3}}
			chart.area(bar, roles[0])
			chart.line(bar, roles[1].line(1.5))
		}
	}
	chart.plot.X.Tick.Marker = marks
	f := figure{Title: driftTitle(c), Legend: driftLegend}
	var err error
	f.SVG, err = chart.svg("Fractions of " + c.Name + " in the reference and in the log")
	return f, err
}

// overTime returns a chart of the mean over time, in parts with the same number of rows, with two
// standard errors and the mean of the reference. Its SVG is empty if there are too few rows or if
// they span less than a minute.
func overTime(c drift.Column, reference []float64, rows []drift.Row, of func(*drift.Row) float64) (figure, error) {
	f := figure{Title: driftTitle(c), Legend: []key{{"box fake", "current, mean ± 2 standard errors"}, {"dash", "mean of the reference"}}}
	parts := min(maxParts, len(rows)/partRows)
	length := rows[len(rows)-1].Time.Sub(rows[0].Time)
	if parts < minParts || length < time.Minute {
		return f, nil
	}
	unit, name := time.Hour, "hours"
	switch {
	case length > 72*time.Hour:
		unit, name = 24*time.Hour, "days"
	case length < 2*time.Hour:
		unit, name = time.Minute, "minutes"
	}
	mean := stat.Mean(reference, nil)
	low, high := mean, mean
	var middle, upper, lower plotter.XYs
	for part := range parts {
		of := values(rows[part*len(rows)/parts:(part+1)*len(rows)/parts], of)
		at := rows[(2*part+1)*len(rows)/(2*parts)].Time.Sub(rows[0].Time)
		m, deviation := stat.MeanStdDev(of, nil)
		around := 2 * deviation / math.Sqrt(float64(len(of)))
		x := float64(at) / float64(unit)
		middle, upper, lower = append(middle, plotter.XY{X: x, Y: m}), append(upper, plotter.XY{X: x, Y: m + around}), append(lower, plotter.XY{X: x, Y: m - around})
		low, high = min(low, m-around), max(high, m+around)
	}
	chart := newChart(fmt.Sprintf("%s since %s", name, rows[0].Time.Format("2006-01-02 15:04 UTC")), c.Name, chartHeight)
	chart.plot.X.Min, chart.plot.X.Max = 0, float64(length)/float64(unit)
	chart.setRange(&chart.plot.Y, low, high)
	slices.Reverse(lower)
	chart.area(append(upper, lower...), fakeSoft)
	chart.line(plotter.XYs{{X: 0, Y: mean}, {X: chart.plot.X.Max, Y: mean}}, axis.line(1, 4, 3))
	chart.line(middle, fakeLine.line(1.5))
	var err error
	f.SVG, err = chart.svg("Mean of " + c.Name + " over time")
	return f, err
}

// components returns a chart of the embeddings of both sides, projected onto the first two principal
// components of the reference's embeddings.
func components(c drift.Column, reference, current []drift.Row) (figure, error) {
	rng := rand.New(rand.NewPCG(1, 2))
	width := len(reference[0].Embedding)
	samples := [2][][]float64{drift.Embeddings(reference, width, rng), drift.Embeddings(current, width, rng)}
	f := figure{Title: driftTitle(c), Legend: []key{{"box real", "reference"}, {"box fake", "current"}}}
	m := mat.NewDense(len(samples[0]), width, nil)
	for i, v := range samples[0] {
		m.SetRow(i, v)
	}
	var pc stat.PC
	if width < 2 || !pc.PrincipalComponents(m, nil) {
		f.Caption = "Not available: the embeddings of the reference don't vary in two directions."
		return f, nil
	}
	var axes mat.Dense
	pc.VectorsTo(&axes)
	variances := pc.VarsTo(nil)
	total := 0.0
	for _, v := range variances {
		total += v
	}
	of := func(i int) string {
		return fmt.Sprintf("component %d (%.0f %% of the variance)", i+1, 100*variances[i]/max(total, 1e-300))
	}
	chart := newChart(of(0), of(1), unitHeight)
	var points [2]plotter.XYs
	low, high := plotter.XY{X: math.Inf(1), Y: math.Inf(1)}, plotter.XY{X: math.Inf(-1), Y: math.Inf(-1)}
	for side, sample := range samples {
		for _, v := range sample {
			var p plotter.XY
			for k, x := range v {
				p.X += x * axes.At(k, 0)
				p.Y += x * axes.At(k, 1)
			}
			points[side] = append(points[side], p)
			low, high = plotter.XY{X: min(low.X, p.X), Y: min(low.Y, p.Y)}, plotter.XY{X: max(high.X, p.X), Y: max(high.Y, p.Y)}
		}
	}
	chart.setRange(&chart.plot.X, low.X, high.X)
	chart.setRange(&chart.plot.Y, low.Y, high.Y)
	for side, roles := range sides {
		chart.dots(points[side], roles[1], 1.6, draw.CircleGlyph{})
	}
	var err error
	f.SVG, err = chart.svg("The first two principal components of the embeddings of the reference and of the log")
	return f, err
}
