package report

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"fakeart/internal/model"
	"fakeart/trainer/evaluate"
)

// qualityFigures returns the figures about the predictions: for a model with a positive class, those of this class.
func qualityFigures(r Report, predictions []prediction) ([]figure, error) {
	if r.Result.Binary == nil {
		confidence, right := make([]float64, len(predictions)), make([]uint16, len(predictions))
		for i, p := range predictions {
			confidence[i] = p.reported
			if p.class == int(r.Split.Labels[i]) {
				right[i] = 1
			}
		}
		f, err := reliabilityFigure(r.Result, confidence, right, "mean probability of the predicted class", "fraction of correct predictions")
		return []figure{f}, err
	}
	logits, is := evaluate.PositiveLogits(&r.Model, r.Scores), evaluate.IsPositive(&r.Model, r.Split.Labels)
	probabilities := make([]float64, len(logits))
	for i, z := range logits {
		probabilities[i] = model.Probability(z)
	}
	positive := r.Result.Positive
	negative := r.Model.Classes[1-r.Model.PositiveClass()]
	scores, err1 := scoreFigure(r.Result, negative, logits, is)
	roc, err2 := rocFigure(r.Result, negative, logits, is)
	reliability, err3 := reliabilityFigure(r.Result, probabilities, is, "mean probability of "+positive, "fraction that is "+positive)
	return []figure{scores, roc, reliability}, errors.Join(err1, err2, err3)
}

// rocFigure returns the ROC curve, with the point of the model's threshold.
func rocFigure(r *evaluate.Result, negative string, logits []float32, labels []uint16) (figure, error) {
	f := figure{Title: "ROC curve"}
	fpr, tpr := evaluate.ROC(logits, labels)
	if fpr == nil {
		f.Caption = "Undefined: the split has only one class."
		return f, nil
	}
	c := unitChart(
		fmt.Sprintf("false positive rate (%s classified as %s)", negative, r.Positive),
		fmt.Sprintf("true positive rate (%[1]s classified as %[1]s)", r.Positive))
	curve := thin(fpr, tpr)
	under := append(plotter.XYs{{X: 0, Y: 0}}, curve...)
	c.area(append(under, plotter.XY{X: 1, Y: 0}), accentSoft)
	c.line(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, axis.line(1, 4, 3))
	c.line(curve, accent.line(2))
	m := r.Confusion
	at := plotter.XYs{{X: float64(m.FP) / float64(m.FP+m.TN), Y: float64(m.TP) / float64(m.TP+m.FN)}}
	c.dots(at, ink, 3.5, draw.CircleGlyph{})
	f.Legend = []key{
		{"line accent", fmt.Sprintf("AUC %.4f", *r.ROCAUC)},
		{"dot ink", fmt.Sprintf("threshold %v", r.Threshold)},
		{"dash", "random guess"},
	}
	var err error
	f.SVG, err = c.svg(fmt.Sprintf("ROC curve, area under it %.4f", *r.ROCAUC))
	return f, err
}

// thin removes the points of a ROC curve that lie on straight lines. If more than maxPoints corners
// remain, as with a poor model, it keeps every n-th of them and the last one.
func thin(fpr, tpr []float64) plotter.XYs {
	var corners plotter.XYs
	for i := range fpr {
		if i > 0 && i < len(fpr)-1 {
			dx1, dy1 := fpr[i]-fpr[i-1], tpr[i]-tpr[i-1]
			dx2, dy2 := fpr[i+1]-fpr[i], tpr[i+1]-tpr[i]
			if math.Abs(dx1*dy2-dx2*dy1) < 1e-12 {
				continue
			}
		}
		corners = append(corners, plotter.XY{X: fpr[i], Y: tpr[i]})
	}
	stride := (len(corners) + maxPoints - 1) / maxPoints
	if stride < 2 {
		return corners
	}
	var kept plotter.XYs
	for i, p := range corners {
		if i%stride == 0 || i == len(corners)-1 {
			kept = append(kept, p)
		}
	}
	return kept
}

// reliabilityFigure returns the fraction of true predictions against the predicted probability, and the number of
// images per bin.
func reliabilityFigure(r *evaluate.Result, probabilities []float64, truth []uint16, xLabel, yLabel string) (figure, error) {
	c := unitChart(xLabel, yLabel)
	var points plotter.XYs
	bins := evaluate.Reliability(probabilities, truth)
	most := 0
	for _, b := range bins {
		most = max(most, b.Count)
	}
	for _, b := range bins {
		if b.Count == 0 {
			continue
		}
		// The bars show the number of images per bin.
		h := 0.25 * float64(b.Count) / float64(most)
		c.area(plotter.XYs{{X: b.Low + 0.004, Y: 0}, {X: b.High - 0.004, Y: 0}, {X: b.High - 0.004, Y: h}, {X: b.Low + 0.004, Y: h}}, grid)
		points = append(points, plotter.XY{X: b.Probability, Y: b.Fraction})
	}
	c.line(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, axis.line(1, 4, 3))
	c.line(points, accent.line(1.5))
	c.dots(points, accent, 3, draw.CircleGlyph{})
	f := figure{
		Title: "Reliability",
		Legend: []key{
			{"line accent", fmt.Sprintf("calibration error %.4f", r.ECE)},
			{"box grid-box", fmt.Sprintf("images (at most %d)", most)},
			{"dash", "perfectly calibrated"},
		},
	}
	var err error
	f.SVG, err = c.svg(fmt.Sprintf("Reliability diagram in %d bins, expected calibration error %.4f", evaluate.Bins, r.ECE))
	return f, err
}

// scoreFigure returns the histogram of the positive class's logits for the images of each class. It shows how well the model separates
// them, and the effect of another threshold.
func scoreFigure(r *evaluate.Result, negative string, logits []float32, labels []uint16) (figure, error) {
	const bins = 40
	low, high := math.Inf(1), math.Inf(-1)
	for _, z := range logits {
		low, high = math.Min(low, float64(z)), math.Max(high, float64(z))
	}
	if !(high > low) {
		low, high = low-1, high+1
	}
	var counts [2][bins]float64
	most := 0.0
	for i, z := range logits {
		n := &counts[labels[i]][min(int((float64(z)-low)/(high-low)*bins), bins-1)]
		*n++
		most = math.Max(most, *n)
	}
	c := newChart(fmt.Sprintf("logit (positive: %s is more likely)", r.Positive), "images", chartHeight)
	c.plot.X.Tick.Marker = ticks{count: 8}
	c.plot.Y.Tick.Marker = ticks{count: 5, whole: true}
	c.plot.X.Min, c.plot.X.Max = low, high
	c.setRange(&c.plot.Y, 0, most)
	for label, roles := range [...][2]role{{realSoft, realLine}, {fakeSoft, fakeLine}} {
		// The outline has gaps where bins are empty.
		edge := func(i int) float64 { return low + (high-low)*float64(i)/bins }
		var filled, outline plotter.XYs
		for i, n := range counts[label] {
			bar := plotter.XYs{{X: edge(i), Y: n}, {X: edge(i + 1), Y: n}}
			filled = append(filled, bar...)
			if n == 0 {
				outline = append(outline, plotter.XY{X: math.NaN()})
				continue
			}
			if i == 0 || counts[label][i-1] == 0 {
				outline = append(outline, plotter.XY{X: edge(i)})
			}
			outline = append(outline, bar...)
			if i == bins-1 || counts[label][i+1] == 0 {
				outline = append(outline, plotter.XY{X: edge(i + 1)})
			}
		}
		c.area(append(filled, plotter.XY{X: high}, plotter.XY{X: low}), roles[0])
		c.line(outline, roles[1].line(1.5))
	}
	f := figure{Title: "Scores", Legend: []key{{"box real", negative}, {"box fake", r.Positive}}}
	if cut := math.Log(r.Threshold / (1 - r.Threshold)); cut > low && cut < high {
		c.line(plotter.XYs{{X: cut, Y: 0}, {X: cut, Y: c.plot.Y.Max}}, axis.line(1, 4, 3))
		f.Legend = append(f.Legend, key{"dash", fmt.Sprintf("threshold %v", r.Threshold)})
	}
	var err error
	f.SVG, err = c.svg(fmt.Sprintf("Histogram of the logits of %s and %s images", negative, r.Positive))
	return f, err
}

func unitChart(xLabel, yLabel string) *chart {
	c := newChart(xLabel, yLabel, unitHeight)
	c.plot.X.Min, c.plot.X.Max, c.plot.Y.Min, c.plot.Y.Max = 0, 1, 0, 1
	return c
}
