package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of a chart's coordinate system in points. The page scales it.
const (
	chartWidth  = 410
	chartHeight = 250
	unitHeight  = 310 // height of charts whose axes both go from 0 to 1
	labelSize   = 12
)

// A role is the meaning of a line or an area. The library draws each role in a unique color, which
// svg replaces by a CSS variable, so that one drawing suits the light and the dark theme.
type role uint8

const (
	ink role = iota + 1 // from 1, since the library omits pure black
	axis
	grid
	train
	trainSoft
	val
	rate
	speed
	accent
	accentSoft
	realSoft
	fakeSoft
	realLine
	fakeLine
)

var variables = map[role]string{
	ink: "ink", axis: "muted", grid: "grid", train: "train", trainSoft: "train-soft", val: "val",
	rate: "rate", speed: "speed", accent: "accent", accentSoft: "accent-soft",
	realSoft: "real-soft", fakeSoft: "fake-soft", realLine: "real", fakeLine: "fake",
}

func (r role) color() color.Color { return color.NRGBA{R: 0, G: uint8(r), B: 0, A: 255} }

func (r role) line(width vg.Length, dashes ...vg.Length) draw.LineStyle {
	return draw.LineStyle{Color: r.color(), Width: width, Dashes: dashes}
}

// chart is a plot in the style of the page.
type chart struct {
	plot          *plot.Plot
	width, height vg.Length
	err           error // the first error
}

func newChart(xLabel, yLabel string, height vg.Length) *chart {
	p := plot.New()
	p.BackgroundColor = nil
	text := font.Font{Typeface: "Liberation", Variant: "Sans", Size: labelSize}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = text, text
		a.Label.TextStyle.Color, a.Tick.Label.Color = axis.color(), axis.color()
		a.LineStyle = draw.LineStyle{}
		a.Tick.LineStyle = draw.LineStyle{}
		a.Label.Padding = 5
		a.Padding = 0
		a.Tick.Marker = ticks{count: 5}
	}
	p.X.Label.Text, p.Y.Label.Text = xLabel, yLabel
	p.X.LineStyle, p.X.Tick.LineStyle = axis.line(0.8), axis.line(0.8)
	p.X.Tick.Length = 4
	g := plotter.NewGrid()
	g.Vertical.Color = nil
	g.Horizontal = grid.line(0.8)
	p.Add(g)
	return &chart{plot: p, width: chartWidth, height: height}
}

// fail records the first error. The library's constructors only fail on data that isn't finite, which
// the callers remove with finite.
func (c *chart) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// line draws a polyline with gaps where values aren't finite.
func (c *chart) line(points plotter.XYs, style draw.LineStyle) {
	for _, part := range finite(points) {
		l, err := plotter.NewLine(part)
		if err != nil {
			c.fail(err)
			return
		}
		l.LineStyle = style
		c.plot.Add(l)
	}
}

func (c *chart) dots(points plotter.XYs, r role, radius vg.Length, shape draw.GlyphDrawer) {
	for _, part := range finite(points) {
		s, err := plotter.NewScatter(part)
		if err != nil {
			c.fail(err)
			return
		}
		s.GlyphStyle = draw.GlyphStyle{Color: r.color(), Radius: radius, Shape: shape}
		c.plot.Add(s)
	}
}

func (c *chart) area(points plotter.XYs, r role) {
	p, err := plotter.NewPolygon(points)
	if err != nil {
		c.fail(err)
		return
	}
	p.Color = r.color()
	p.LineStyle = draw.LineStyle{}
	c.plot.Add(p)
}

// setRange sets the range of an axis and widens it to the next ticks.
func (c *chart) setRange(a *plot.Axis, low, high float64) {
	if !(high > low) {
		high = low + math.Max(1, math.Abs(low))
	}
	marks := a.Tick.Marker.Ticks(low, high)
	step := marks[1].Value - marks[0].Value
	a.Min = math.Floor(low/step+1e-9) * step
	// The library drops grid lines that rounding places beyond the end of the axis.
	a.Max = (math.Ceil(high/step-1e-9) + 1e-6) * step
}

var (
	roleColor = regexp.MustCompile(`#00([0-9A-F]{2})00`)
	prolog    = regexp.MustCompile(`(?s)^.*?<svg[^>]*>`)
	// The library repeats the font at every label; the page sets it once.
	fontStyle = regexp.MustCompile(`font-family:[^;"]*;font-variant:[^;"]*;font-weight:[^;"]*;font-style:[^;"]*;`)
)

// svg renders the chart as an element to be embedded in HTML. It has no external references, not even
// XML namespaces.
func (c *chart) svg(label string) (template.HTML, error) {
	if c.err != nil {
		return "", fmt.Errorf("draw %s: %w", label, c.err)
	}
	canvas := vgsvg.New(c.width, c.height)
	// Leave room for the last labels, which are centered at the ends of the axes.
	c.plot.Draw(draw.Crop(draw.New(canvas), 2, -16, 2, -8))
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return "", fmt.Errorf("draw %s: %w", label, err)
	}
	body := prolog.ReplaceAllLiteralString(text.String(), "")
	body = fontStyle.ReplaceAllLiteralString(body, "")
	body = roleColor.ReplaceAllStringFunc(body, func(hex string) string {
		n, _ := strconv.ParseUint(hex[3:5], 16, 8) // the expression ensures two digits
		return "var(--" + variables[role(n)] + ")"
	})
	head := fmt.Sprintf(`<svg class="chart" viewBox="0 0 %g %g" role="img" aria-label="%s">`,
		c.width.Points(), c.height.Points(), template.HTMLEscapeString(label))
	return template.HTML(head + strings.TrimSpace(body)), nil //nolint:gosec // generated here; the library escapes labels
}

// finite splits points into sequences without NaN and infinities.
func finite(points plotter.XYs) []plotter.XYs {
	var parts []plotter.XYs
	open := false
	for _, p := range points {
		if math.IsNaN(p.X+p.Y) || math.IsInf(p.X, 0) || math.IsInf(p.Y, 0) {
			open = false
			continue
		}
		if !open {
			parts = append(parts, nil)
			open = true
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], p)
	}
	return parts
}

// ticks places about count ticks at round numbers, at distances of 1, 2 or 5 times a power of ten.
// With whole, the distance is at least 1. With percent, labels are percentages.
type ticks struct {
	count   int
	whole   bool
	percent bool
}

// Ticks implements [plot.Ticker].
func (t ticks) Ticks(low, high float64) []plot.Tick {
	if !(high > low) {
		high = low + 1
	}
	rough := (high - low) / float64(t.count)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	step := 10 * power
	for _, m := range []float64{1, 2, 5} {
		if m*power >= rough*0.999 {
			step = m * power
			break
		}
	}
	if t.whole {
		step = math.Max(1, step)
	}
	digits := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	var marks []plot.Tick
	for i := math.Ceil(low/step - 1e-9); i*step <= high+step*1e-9; i++ {
		marks = append(marks, plot.Tick{Value: i * step, Label: t.label(i*step, digits)})
	}
	if len(marks) < 2 { // setRange needs the distance of two
		marks = append(marks, plot.Tick{Value: (math.Ceil(low/step-1e-9) + float64(len(marks))) * step})
	}
	return marks
}

func (t ticks) label(v float64, digits int) string {
	switch {
	case v == 0:
		return "0"
	case t.percent:
		return strconv.FormatFloat(100*v, 'f', max(0, digits-2), 64) + " %"
	case digits > 4 || math.Abs(v) >= 1e6:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}
