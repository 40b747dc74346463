package report

import (
	"errors"
	"fmt"
	"html/template"
	"math"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"fakeart/trainer/runlog"
)

// maxPoints is the maximum number of points of a curve. It bounds the size of the page for long runs.
const maxPoints = 300

// figure is a chart with its title, legend and caption.
type figure struct {
	Title   string
	Legend  []key
	SVG     template.HTML
	Caption string
}

// key is an entry of a legend: the CSS class of its swatch, and its text.
type key struct{ Class, Text string }

// history has the metrics of a run, prepared for charts.
type history struct {
	steps, epochs []runlog.Row
	perEpoch      float64 // steps per epoch, or 0 if unknown
	best          int     // index of the best epoch, or -1
	validated     bool    // whether any epoch has a validation loss
	group         int     // number of steps that each point of a step curve averages
}

func newHistory(rows []runlog.Row) history {
	h := history{best: -1, group: 1}
	for _, r := range rows {
		if r.Kind == runlog.Epoch {
			h.epochs = append(h.epochs, r)
		} else {
			h.steps = append(h.steps, r)
		}
	}
	for i, e := range h.epochs {
		if math.IsNaN(e.ValLoss) {
			continue
		}
		h.validated = true
		if h.best < 0 || e.ValLoss < h.epochs[h.best].ValLoss {
			h.best = i
		}
	}
	// The first completed epoch determines the number of steps per epoch.
	for _, e := range h.epochs {
		if e.Epoch > 0 && e.Step > 0 {
			h.perEpoch = float64(e.Step) / float64(e.Epoch)
			break
		}
	}
	if n := len(h.steps); n > maxPoints {
		h.group = (n + maxPoints - 1) / maxPoints
	}
	return h
}

// x returns the position of a step on the horizontal axis: in epochs if their length is known, else in
// steps.
func (h history) x(step float64) float64 {
	if h.perEpoch > 0 {
		return step / h.perEpoch
	}
	return step
}

func (h history) xLabel() string {
	if h.perEpoch > 0 {
		return "epoch"
	}
	return "step"
}

// stepCurve returns a column of the step rows, as means over groups of adjacent rows.
func (h history) stepCurve(column func(runlog.Row) float64) plotter.XYs {
	var points plotter.XYs
	for first := 0; first < len(h.steps); first += h.group {
		group := h.steps[first:min(first+h.group, len(h.steps))]
		var x, y float64
		for _, r := range group {
			x += float64(r.Step)
			y += column(r)
		}
		n := float64(len(group))
		points = append(points, plotter.XY{X: h.x(x / n), Y: y / n})
	}
	return points
}

// epochCurve returns a column of the epoch rows. If there are too many, it keeps every n-th row, the best
// and the last one.
func (h history) epochCurve(column func(runlog.Row) float64) plotter.XYs {
	var points plotter.XYs
	stride := (len(h.epochs) + maxPoints - 1) / maxPoints
	for i, r := range h.epochs {
		if i%stride == 0 || i == len(h.epochs)-1 || i == h.best {
			points = append(points, plotter.XY{X: h.x(float64(r.Step)), Y: column(r)})
		}
	}
	return points
}

func (h history) axes(yLabel string) *chart {
	c := newChart(h.xLabel(), yLabel, chartHeight)
	last := 0
	for _, rows := range [][]runlog.Row{h.steps, h.epochs} {
		if n := len(rows); n > 0 {
			last = max(last, rows[n-1].Step)
		}
	}
	c.plot.X.Min, c.plot.X.Max = 0, math.Max(h.x(float64(last)), 1e-9)
	// Whole epochs would give a run of one or two epochs hardly any ticks.
	c.plot.X.Tick.Marker = ticks{count: 8, whole: c.plot.X.Max > 2}
	return c
}

// figures returns the charts of a run, or nil without metrics.
func (h history) figures() ([]figure, error) {
	if len(h.steps)+len(h.epochs) == 0 {
		return nil, nil
	}
	loss, err1 := h.compare("Loss", "cross-entropy (nats)", false,
		func(r runlog.Row) float64 { return r.TrainLoss },
		func(r runlog.Row) float64 { return r.ValLoss })
	accuracy, err2 := h.compare("Accuracy", "fraction correct", true,
		func(r runlog.Row) float64 { return r.TrainAccuracy },
		func(r runlog.Row) float64 { return r.ValAccuracy })
	lr, err3 := h.single("Learning rate", "learning rate", rate,
		func(r runlog.Row) float64 { return r.LR })
	speed, err4 := h.single("Speed", "images per second", speed,
		func(r runlog.Row) float64 { return r.ImagesPerSecond })
	return []figure{loss, accuracy, lr, speed}, errors.Join(err1, err2, err3, err4)
}

// compare returns a chart of training and validation. The vertical axis starts at 0; with fractions,
// it ends at 1 instead and starts at the lowest value.
func (h history) compare(title, yLabel string, fractions bool, trainOf, valOf func(runlog.Row) float64) (figure, error) {
	c := h.axes(yLabel)
	steps, means, vals := h.stepCurve(trainOf), h.epochCurve(trainOf), h.epochCurve(valOf)
	// The mean over an epoch belongs in the middle of the epoch. At its end, next to the validation
	// result, it would make training look worse than it was.
	for i := range means {
		means[i].X -= h.x(h.perEpoch) / 2
	}

	// Scale the axis to the bulk of the data: rather cut off outliers of the first steps than flatten
	// the rest.
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, curve := range []plotter.XYs{bulk(steps), means, vals} {
		for _, part := range finite(curve) {
			for _, p := range part {
				lowest, highest = math.Min(lowest, p.Y), math.Max(highest, p.Y)
			}
		}
	}
	switch {
	case lowest > highest: // no data
		c.setRange(&c.plot.Y, 0, 1)
	case fractions:
		c.plot.Y.Tick.Marker = ticks{count: 5, percent: true}
		c.setRange(&c.plot.Y, lowest, 1)
	default:
		c.setRange(&c.plot.Y, 0, highest)
	}
	clip(steps, c.plot.Y.Min, c.plot.Y.Max)

	f := figure{Title: title}
	if len(steps) > 0 {
		c.line(steps, trainSoft.line(1))
		text := "train by step"
		if h.group > 1 {
			text = fmt.Sprintf("train by %d steps", h.group)
		}
		f.Legend = append(f.Legend, key{"line train-soft", text})
	}
	if h.best >= 0 {
		x := h.x(float64(h.epochs[h.best].Step))
		c.line(plotter.XYs{{X: x, Y: c.plot.Y.Min}, {X: x, Y: c.plot.Y.Max}}, axis.line(1, 4, 3))
	}
	if len(means) > 0 {
		c.line(means, train.line(2))
		c.dots(means, train, dot(len(means)), draw.CircleGlyph{})
		f.Legend = append(f.Legend, key{"line train", "train by epoch"})
	}
	if h.validated {
		c.line(vals, val.line(2))
		c.dots(vals, val, dot(len(vals)), draw.CircleGlyph{})
		f.Legend = append(f.Legend, key{"line val", "validation"})
	}
	if h.best >= 0 {
		best := h.epochs[h.best]
		c.dots(plotter.XYs{{X: h.x(float64(best.Step)), Y: valOf(best)}}, val, 5.5, ring{})
		f.Legend = append(f.Legend, key{"dash", fmt.Sprintf("best epoch %d", best.Epoch)})
	}
	var err error
	f.SVG, err = c.svg(title + " of training and validation over the run")
	return f, err
}

// single returns a chart of one column of the step rows, or of the epoch rows if there are no step rows.
func (h history) single(title, yLabel string, r role, column func(runlog.Row) float64) (figure, error) {
	c := h.axes(yLabel)
	points := h.stepCurve(column)
	if len(points) == 0 {
		points = h.epochCurve(column)
	}
	highest := 0.0
	for _, part := range finite(points) {
		for _, p := range part {
			highest = math.Max(highest, p.Y)
		}
	}
	c.setRange(&c.plot.Y, 0, highest)
	c.line(points, r.line(2))
	svg, err := c.svg(title + " over the run")
	return figure{Title: title, SVG: svg}, err
}

// bulk returns a curve without its first 5 %, where values vary most.
func bulk(points plotter.XYs) plotter.XYs { return points[len(points)/20:] }

// clip limits values to the range of the axis. NaN values, which are gaps, stay.
func clip(points plotter.XYs, low, high float64) {
	for i := range points {
		if y := &points[i].Y; !math.IsNaN(*y) {
			*y = math.Min(math.Max(*y, low), high)
		}
	}
}

// dot returns the radius of the dots of n epochs.
func dot(n int) vg.Length {
	if n > 40 {
		return 1.2
	}
	return 2.6
}

// ring is the glyph that highlights a point.
type ring struct{}

// DrawGlyph implements [draw.GlyphDrawer].
func (ring) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: style.Color, Width: 1.5})
	var p vg.Path
	p.Move(vg.Point{X: at.X + style.Radius, Y: at.Y})
	p.Arc(at, style.Radius, 0, 2*math.Pi)
	p.Close()
	c.Stroke(p)
}
