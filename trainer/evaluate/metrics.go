// Package evaluate measures how well a model classifies.
//
// [Run] measures a model file on a split of a prepared dataset, and [MeasureFeedback] measures the
// predictions in a prediction log against users' feedback. Both compute the [Metrics] of [Measure].
//
// FAKE (label 1) is the positive class everywhere: a true positive is an AI-generated image that
// was classified as FAKE.
package evaluate

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/integrate"
	"gonum.org/v1/gonum/stat"

	"fakeart/internal/model"
	"fakeart/trainer/dataset"
)

// Bins is the number of equal-width probability bins that [Reliability] and the
// expected calibration error use, as in Guo et al. 2017.
const Bins = 15

// Metrics are the metrics of a binary classifier. Every number is finite, so that they can always be
// encoded as JSON.
type Metrics struct {
	// Accuracy is the fraction of correct predictions, (TP+TN) / all.
	Accuracy float64 `json:"accuracy"`
	// Precision is the fraction of FAKE among the images classified as FAKE, TP / (TP+FP). It is
	// 0, with a note, if no image was classified as FAKE.
	Precision float64 `json:"precision"`
	// Recall is the fraction of the FAKE images that were classified as FAKE, TP / (TP+FN). It is
	// 0, with a note, if no image is FAKE.
	Recall float64 `json:"recall"`
	// F1 is the harmonic mean of precision and recall, 2TP / (2TP+FP+FN).
	// It is 0, with a note, if no image is FAKE and none was classified as FAKE.
	F1 float64 `json:"f1"`
	// ROCAUC is the area under the curve of [ROC]: the probability that a FAKE image scores above
	// a REAL one, where ties count half. It is nil (omitted from the JSON), with a note, if all
	// images are of one class.
	ROCAUC *float64 `json:"roc_auc,omitempty"`
	// LogLoss is the mean binary cross-entropy in nats. It is computed from the logits, so that the
	// loss of a confident error isn't clipped.
	LogLoss float64 `json:"log_loss"`
	// ECE is the expected calibration error of the probability of FAKE, see [CalibrationError].
	ECE float64 `json:"expected_calibration_error"`
	// Confusion counts the images by their label and their predicted class.
	Confusion Confusion `json:"confusion"`
	// Threshold is the probability above which an image was classified as FAKE.
	Threshold float64 `json:"threshold"`
	// Notes explain which of the numbers are undefined, and why.
	Notes []string `json:"notes,omitempty"`
}

// Confusion is the confusion matrix with FAKE as the positive class.
type Confusion struct {
	TP int `json:"tp"` // FAKE classified as FAKE
	FP int `json:"fp"` // REAL classified as FAKE
	FN int `json:"fn"` // FAKE classified as REAL
	TN int `json:"tn"` // REAL classified as REAL
}

// IsFake reports whether a logit is classified as FAKE: whether its probability is strictly above
// the threshold, as in [model.Metadata.Label].
func IsFake(logit float32, threshold float64) bool {
	return model.Probability(logit) > threshold
}

// Measure computes metrics from logits and labels (0 REAL, 1 FAKE) at a probability threshold in
// [0, 1]. It returns an error if the input is empty, if the lengths differ, or for the first label
// or logit that is invalid. Logits must be finite.
func Measure(logits []float32, labels []uint16, threshold float64) (Metrics, error) {
	if err := check(logits, labels); err != nil {
		return Metrics{}, err
	}
	if !(threshold >= 0 && threshold <= 1) { // written so that NaN fails
		return Metrics{}, fmt.Errorf("measure: threshold %v isn't between 0 and 1", threshold)
	}

	predictedFake := make([]bool, len(logits))
	for i, z := range logits {
		predictedFake[i] = IsFake(z, threshold)
	}
	m := measure(logits, labels, predictedFake)
	m.Threshold = threshold
	return m, nil
}

// measure computes all metrics except the threshold. predictedFake has the predictions, which may
// have been made at an unknown threshold.
func measure(logits []float32, labels []uint16, predictedFake []bool) (m Metrics) {
	losses := make([]float64, len(logits))
	for i, z := range logits {
		fake, predictedFake := labels[i] == dataset.Fake, predictedFake[i]
		switch {
		case fake && predictedFake:
			m.Confusion.TP++
		case fake:
			m.Confusion.FN++
		case predictedFake:
			m.Confusion.FP++
		default:
			m.Confusion.TN++
		}
		losses[i] = Loss(z, labels[i])
	}

	c := m.Confusion
	m.Accuracy = float64(c.TP+c.TN) / float64(len(logits))
	m.LogLoss = stat.Mean(losses, nil)
	m.ECE = CalibrationError(Reliability(logits, labels))

	ratio := func(num, den int, note string) float64 {
		if den == 0 {
			m.Notes = append(m.Notes, note)
			return 0
		}
		return float64(num) / float64(den)
	}
	m.Precision = ratio(c.TP, c.TP+c.FP, "precision is undefined and reported as 0: no image was classified as FAKE")
	m.Recall = ratio(c.TP, c.TP+c.FN, "recall is undefined and reported as 0: no image is FAKE")
	m.F1 = ratio(2*c.TP, 2*c.TP+c.FP+c.FN, "f1 is undefined and reported as 0: no image is FAKE and none was classified as FAKE")

	if fpr, tpr := ROC(logits, labels); fpr != nil {
		auc := integrate.Trapezoidal(fpr, tpr)
		m.ROCAUC = &auc
	} else {
		only := "REAL"
		if labels[0] == dataset.Fake {
			only = "FAKE"
		}
		m.Notes = append(m.Notes, "roc_auc is undefined and omitted: every image is "+only)
	}
	return m
}

// Loss returns the binary cross-entropy of one logit in nats: softplus(-z) for FAKE and softplus(z)
// for REAL. It uses the form that neither overflows nor loses small values.
func Loss(logit float32, label uint16) float64 {
	z := float64(logit)
	if label == dataset.Fake {
		z = -z
	}
	return math.Max(z, 0) + math.Log1p(math.Exp(-math.Abs(z)))
}

// ROC returns the receiver operating characteristic: the false and true positive rates at every cut
// between distinct logits, from (0, 0) to (1, 1). Images with equal logits form one step, so that
// the trapezoids under the curve count ties half, as the Mann-Whitney statistic does. ROC uses
// logits because they still differ where probabilities have been rounded to 1. It returns nil if
// all labels are the same. The input must be valid for [Measure].
func ROC(logits []float32, labels []uint16) (fpr, tpr []float64) {
	if !slices.Contains(labels, dataset.Fake) || !slices.Contains(labels, dataset.Real) {
		return nil, nil
	}
	scores := make([]float64, len(logits))
	fake := make([]bool, len(logits))
	for i, z := range logits {
		scores[i], fake[i] = float64(z), labels[i] == dataset.Fake
	}
	stat.SortWeightedLabeled(scores, fake, nil)
	tpr, fpr, _ = stat.ROC(nil, scores, fake, nil)
	return fpr, tpr
}

// Bin is one bin of a reliability diagram.
type Bin struct {
	// Low and High bound the probabilities in the bin: Low < p <= High. The first bin includes 0.
	Low, High float64
	// Count is the number of images in the bin.
	Count int
	// Probability is their mean probability of FAKE, and Fake the fraction of them that is FAKE.
	// Both are 0 if Count is 0.
	Probability, Fake float64
}

// Reliability sorts the images by their probability of FAKE into [Bins] bins of equal width. The
// input must be valid for [Measure].
func Reliability(logits []float32, labels []uint16) []Bin {
	bins := make([]Bin, Bins)
	for i := range bins {
		bins[i].Low, bins[i].High = float64(i)/Bins, float64(i+1)/Bins
	}
	for i, z := range logits {
		p := model.Probability(z)
		b := &bins[min(max(int(math.Ceil(p*Bins))-1, 0), Bins-1)]
		b.Count++
		b.Probability += p
		b.Fake += float64(labels[i])
	}
	for i := range bins {
		if n := float64(bins[i].Count); n > 0 {
			bins[i].Probability /= n
			bins[i].Fake /= n
		}
	}
	return bins
}

// CalibrationError returns the expected calibration error, equation 3 of C. Guo, G. Pleiss, Y. Sun,
// K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: the mean over bins, weighted
// by their counts, of the gap between predicted and observed frequency.
//
// A binary classifier allows two definitions. This one considers the positive class: the gap of a
// bin is between its mean probability of FAKE and its fraction of FAKE, over all of [0, 1]. (The
// other one bins max(p, 1-p), the confidence in the predicted class, over [1/2, 1], where errors of
// the two sides cancel.)
func CalibrationError(bins []Bin) float64 {
	var gap float64
	var n int
	for _, b := range bins {
		gap += float64(b.Count) * math.Abs(b.Probability-b.Fake)
		n += b.Count
	}
	if n == 0 {
		return 0
	}
	return gap / float64(n)
}

// check returns an error for inputs on which the metrics are undefined.
func check(logits []float32, labels []uint16) error {
	if len(logits) != len(labels) {
		return fmt.Errorf("measure: %d logits for %d labels", len(logits), len(labels))
	}
	if len(logits) == 0 {
		return errors.New("measure: no images")
	}
	for i, z := range logits {
		if math.IsNaN(float64(z)) || math.IsInf(float64(z), 0) {
			return fmt.Errorf("measure: the logit of image %d is %v: the model has invalid weights\nhint: train the model again", i, z)
		}
		if labels[i] > dataset.Fake {
			return fmt.Errorf("measure: the label of image %d is %d, expected 0 (REAL) or 1 (FAKE)", i, labels[i])
		}
	}
	return nil
}
