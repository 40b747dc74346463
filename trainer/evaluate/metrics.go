// Package evaluate measures a model file on a split of a prepared data set.
//
// FAKE (label 1) is the positive class everywhere: a true positive is a
// generated picture that was called generated.
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

// Metrics is what [Measure] finds. Every number is finite, so it always encodes
// as JSON.
type Metrics struct {
	// Accuracy is the share of pictures called right, (TP+TN) / all.
	Accuracy float64 `json:"accuracy"`
	// Precision is the share of FAKE among those called FAKE, TP / (TP+FP).
	// It is 0, with a note, where nothing was called FAKE.
	Precision float64 `json:"precision"`
	// Recall is the share of the FAKE that was called FAKE, TP / (TP+FN).
	// It is 0, with a note, where there is no FAKE.
	Recall float64 `json:"recall"`
	// F1 is the harmonic mean of precision and recall, 2TP / (2TP+FP+FN).
	// It is 0, with a note, where FAKE neither occurs nor is called.
	F1 float64 `json:"f1"`
	// ROCAUC is the probability that a FAKE scores above a REAL, ties counting
	// half: the area under the curve of [ROC]. It is nil (left out of the JSON),
	// with a note, where there is one class only and it has no meaning.
	ROCAUC *float64 `json:"roc_auc,omitempty"`
	// LogLoss is the mean binary cross-entropy in nats, taken from the logits, so
	// that a sure mistake costs its full price instead of a clipped one.
	LogLoss float64 `json:"log_loss"`
	// ECE is the expected calibration error of the probability of FAKE; see
	// [CalibrationError].
	ECE float64 `json:"expected_calibration_error"`
	// Confusion counts the pictures by what they are and what they were called.
	Confusion Confusion `json:"confusion"`
	// Threshold is the probability above which a picture was called FAKE.
	Threshold float64 `json:"threshold"`
	// Notes says in sentences which numbers are undefined here, and why.
	Notes []string `json:"notes,omitempty"`
}

// Confusion is the confusion matrix with FAKE as the positive class.
type Confusion struct {
	TP int `json:"tp"` // FAKE called FAKE
	FP int `json:"fp"` // REAL called FAKE
	FN int `json:"fn"` // FAKE called REAL
	TN int `json:"tn"` // REAL called REAL
}

// IsFake reports whether a logit is called FAKE at a threshold: its probability
// lies strictly above it, as [model.Metadata.Label] has it.
func IsFake(logit float32, threshold float64) bool {
	return model.Probability(logit) > threshold
}

// Measure compares logits with labels (0 REAL, 1 FAKE) at a probability
// threshold in [0, 1]. It refuses an empty input, unequal lengths, other labels,
// and logits that are not finite, naming the first offender.
func Measure(logits []float32, labels []uint8, threshold float64) (Metrics, error) {
	if err := check(logits, labels); err != nil {
		return Metrics{}, err
	}
	if !(threshold >= 0 && threshold <= 1) { // written so that NaN fails
		return Metrics{}, fmt.Errorf("measure: threshold %v is not a probability between 0 and 1", threshold)
	}

	called := make([]bool, len(logits))
	for i, z := range logits {
		called[i] = IsFake(z, threshold)
	}
	m := measure(logits, labels, called)
	m.Threshold = threshold
	return m, nil
}

// measure compares pictures that were called FAKE, or REAL, with their labels.
func measure(logits []float32, labels []uint8, called []bool) (m Metrics) {
	losses := make([]float64, len(logits))
	for i, z := range logits {
		fake, called := labels[i] == dataset.Fake, called[i]
		switch {
		case fake && called:
			m.Confusion.TP++
		case fake:
			m.Confusion.FN++
		case called:
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
	m.Precision = ratio(c.TP, c.TP+c.FP, "precision is undefined, given as 0: no picture was called FAKE")
	m.Recall = ratio(c.TP, c.TP+c.FN, "recall is undefined, given as 0: no picture is FAKE")
	m.F1 = ratio(2*c.TP, 2*c.TP+c.FP+c.FN, "f1 is undefined, given as 0: no picture is FAKE and none was called FAKE")

	if fpr, tpr := ROC(logits, labels); fpr != nil {
		auc := integrate.Trapezoidal(fpr, tpr)
		m.ROCAUC = &auc
	} else {
		only := "REAL"
		if labels[0] == dataset.Fake {
			only = "FAKE"
		}
		m.Notes = append(m.Notes, "roc_auc is undefined, left out: every picture is "+only)
	}
	return m
}

// Loss is the binary cross-entropy of one logit in nats, softplus(-z) for FAKE and
// softplus(z) for REAL, in the form that neither overflows nor loses small values.
func Loss(logit float32, label uint8) float64 {
	z := float64(logit)
	if label == dataset.Fake {
		z = -z
	}
	return math.Max(z, 0) + math.Log1p(math.Exp(-math.Abs(z)))
}

// ROC returns the receiver operating characteristic: the false and true positive
// rates at every cut between distinct logits, from (0, 0) to (1, 1). Pictures
// with equal logits move together, so that the trapezoids under the curve count
// ties half, as the Mann-Whitney statistic does. It works on logits, which still
// differ where probabilities have rounded to 1. Where there is one class only it
// returns nil. The input must be one that [Measure] accepts.
func ROC(logits []float32, labels []uint8) (fpr, tpr []float64) {
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
	// Low and High bound the probabilities in the bin: Low < p <= High, and p = 0
	// belongs to the first.
	Low, High float64
	// Count is how many pictures fell into it.
	Count int
	// Probability is their mean probability of FAKE, Fake the share of them that is
	// FAKE. Both are 0 where Count is.
	Probability, Fake float64
}

// Reliability sorts the pictures into [Bins] bins of equal width by their
// probability of FAKE. The input must be one that [Measure] accepts.
func Reliability(logits []float32, labels []uint8) []Bin {
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

// CalibrationError is the expected calibration error, equation 3 of C. Guo,
// G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks",
// ICML 2017: the mean over bins, weighted by their counts, of the gap between
// what the model promises and what happens. Of its two readings for a binary
// classifier this is the one over the positive class: a bin promises its mean
// probability of FAKE and delivers its share of FAKE, over all of [0, 1]. (The
// other one bins max(p, 1-p), the confidence in whichever class was called, over
// [1/2, 1], and so lets errors of the two sides cancel.)
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

// check refuses what no metric is defined on.
func check(logits []float32, labels []uint8) error {
	if len(logits) != len(labels) {
		return fmt.Errorf("measure: %d logits for %d labels", len(logits), len(labels))
	}
	if len(logits) == 0 {
		return errors.New("measure: no pictures")
	}
	for i, z := range logits {
		if math.IsNaN(float64(z)) || math.IsInf(float64(z), 0) {
			return fmt.Errorf("measure: the logit of picture %d is %v: the model's weights are broken, train it again", i, z)
		}
		if labels[i] > dataset.Fake {
			return fmt.Errorf("measure: the label of picture %d is %d, neither 0 (REAL) nor 1 (FAKE)", i, labels[i])
		}
	}
	return nil
}
