package report

import (
	"math"

	"gonum.org/v1/plot/plotter"

	"fakeart/trainer/evaluate"
)

// robustnessFigures returns one chart per corruption, of the accuracy against the severity. All charts
// have the same scale.
func robustnessFigures(r *evaluate.Result) ([]figure, error) {
	lowest := r.Accuracy
	for _, c := range r.Corruptions {
		for _, a := range c.Accuracy {
			lowest = math.Min(lowest, a)
		}
	}
	var figures []figure
	for _, c := range r.Corruptions {
		chart := newChart("severity", "accuracy", chartHeight)
		chart.plot.X.Tick.Marker = ticks{count: len(c.Accuracy), whole: true}
		chart.plot.Y.Tick.Marker = ticks{count: 5, percent: true}
		chart.plot.X.Min, chart.plot.X.Max = 0, float64(len(c.Accuracy))
		chart.setRange(&chart.plot.Y, math.Min(lowest, 0.5), 1)
		curve := plotter.XYs{{X: 0, Y: r.Accuracy}}
		for i, a := range c.Accuracy {
			curve = append(curve, plotter.XY{X: float64(i + 1), Y: a})
		}
		chart.line(curve, accent.line(2))
		f := figure{Title: c.Corruption}
		var err error
		if f.SVG, err = chart.svg("Accuracy on images with " + c.Corruption + ", by severity"); err != nil {
			return nil, err
		}
		figures = append(figures, f)
	}
	return figures, nil
}
