// Package evaluate measures how well a model classifies.
//
// [Run] measures a model file on a split of a prepared dataset, and [MeasureFeedback] measures the
// predictions in a prediction log against users' feedback. Both compute the [Metrics] of [Measure].
//
// All metrics are defined for any number of classes. A model with a positive class also has the [Binary]
// metrics, which consider that class only.
package evaluate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/integrate"
	"gonum.org/v1/gonum/stat"

	"fakeart/internal/model"
)

// Bins is the number of equal-width probability bins that [Reliability] and the
// expected calibration error use, as in Guo et al. 2017.
const Bins = 15

// Limits of the metrics in a result, so that those of thousands of classes stay readable.
const (
	// MaxMatrix is the largest number of classes for which the confusion matrix is included.
	MaxMatrix = 100
	// MaxConfused is the number of pairs of classes in LargestConfusions.
	MaxConfused = 20
	// topK is the k of the top-k accuracy. It's only measured for more classes.
	topK = 5
)

// Metrics are the metrics of a classifier. Every number is finite, so that they can always be encoded
// as JSON.
type Metrics struct {
	// Accuracy is the fraction of correct predictions.
	Accuracy float64 `json:"accuracy"`
	// Binary is nil unless the model has a positive class.
	*Binary
	// BalancedAccuracy is the mean recall of the classes that have images.
	BalancedAccuracy float64 `json:"balanced_accuracy"`
	// Top5Accuracy is the fraction of images whose class has one of the five highest probabilities. It's nil for up to five
	// classes.
	Top5Accuracy *float64 `json:"top_5_accuracy,omitempty"`
	// Macro is the mean of the per-class metrics over the classes that have images or predictions, and Weighted
	// the mean weighted by the number of images.
	Macro    Average `json:"macro_average"`
	Weighted Average `json:"weighted_average"`
	// ROCAUCOvR is the mean one-versus-rest ROC AUC over the classes for which it's defined. It's nil without such classes.
	ROCAUCOvR *float64 `json:"roc_auc_ovr,omitempty"`
	// LogLoss is the mean cross-entropy in nats. It's computed from the logits, so that the loss of a confident error isn't
	// clipped. It's nil if the probabilities of the labels aren't known.
	LogLoss *float64 `json:"log_loss,omitempty"`
	// ECE is the expected calibration error, see [CalibrationError]: of the probability of the positive class or, without
	// one, of the probability of the predicted class.
	ECE float64 `json:"expected_calibration_error"`
	// PerClass has the metrics of each class, in the order of the classes.
	PerClass []ClassMetrics `json:"per_class"`
	// ConfusionMatrix counts images by label (row) and predicted class (column). It's nil for more than MaxMatrix classes.
	ConfusionMatrix [][]int `json:"confusion_matrix,omitempty"`
	// LargestConfusions are the most frequent errors, at most MaxConfused pairs of classes, in descending order.
	LargestConfusions []Confused `json:"largest_confusions,omitempty"`
	// Notes explain which of the numbers are undefined, and why.
	Notes []string `json:"notes,omitempty"`
}

// Binary are the metrics of the positive class: a true positive is an image of the positive class that was classified as such.
type Binary struct {
	// Positive is the label of the positive class.
	Positive string `json:"positive"`
	// Precision is TP / (TP+FP). It is 0, with a note, if no image was classified as positive.
	Precision float64 `json:"precision"`
	// Recall is TP / (TP+FN). It is 0, with a note, if no image is positive.
	Recall float64 `json:"recall"`
	// F1 is the harmonic mean of precision and recall, 2TP / (2TP+FP+FN).
	// It is 0, with a note, if no image is positive and none was classified as positive.
	F1 float64 `json:"f1"`
	// ROCAUC is the area under the curve of [ROC]: the probability that a positive image scores above
	// a negative one, where ties count half. It is nil (omitted from the JSON), with a note, if all
	// images are of one class.
	ROCAUC *float64 `json:"roc_auc,omitempty"`
	// Confusion counts the images by their label and their predicted class.
	Confusion Confusion `json:"confusion"`
	// Threshold is the probability above which an image was classified as positive.
	Threshold float64 `json:"threshold"`
}

// Confusion is the confusion matrix of the positive and the negative class.
type Confusion struct {
	TP int `json:"tp"` // positive, classified as positive
	FP int `json:"fp"` // negative, classified as positive
	FN int `json:"fn"` // positive, classified as negative
	TN int `json:"tn"` // negative, classified as negative
}

// Average is a mean over classes.
type Average struct {
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
}

// ClassMetrics are the metrics of one class against all others. Precision, recall and F1 are 0 if they are undefined.
type ClassMetrics struct {
	Label string `json:"label"`
	// Support is the number of images of the class, and Predicted the number of images classified as this class.
	Support   int `json:"support"`
	Predicted int `json:"predicted"`
	Average
	// ROCAUC is the one-versus-rest ROC AUC. It's nil if all images or none are of the class.
	ROCAUC *float64 `json:"roc_auc,omitempty"`
}

// Confused counts the images of one class that were classified as another.
type Confused struct {
	Label     string `json:"label"`
	Predicted string `json:"predicted"`
	Count     int    `json:"count"`
}

// samples are predictions with their labels.
type samples struct {
	names             []string
	labels, predicted []uint16
	confidence        []float64   // probability of the predicted class
	ranks             []int       // rank of the labels by probability, from 0; nil if unknown
	losses            []float64   // nil if unknown
	scores            [][]float32 // by class and image, increasing with the probability of the class; nil if unknown
	positive          *positive   // nil unless there is a positive class
}

// positive are the samples of a model with a positive class.
type positive struct {
	name      string
	is        []uint16  // 1 if the label is the positive class, else 0
	logits    []float32 // of the positive class
	predicted []bool    // whether it's predicted
	threshold float64
}

// Measure computes metrics from a model's scores, one row per image as [Scores] returns them, and labels, which are class indices. It
// returns an error if the input is empty, if the lengths differ, or for the first label or score that is invalid.
func Measure(md *model.Metadata, scores []float32, labels []uint16) (Metrics, error) {
	if len(scores) != len(labels)*md.Columns {
		return Metrics{}, fmt.Errorf("measure: %d scores for %d labels, want %d per label", len(scores), len(labels), md.Columns)
	}
	if len(labels) == 0 {
		return Metrics{}, errors.New("measure: no images")
	}
	classes := len(md.Classes)
	s := samples{names: md.Labels(), labels: labels, predicted: make([]uint16, len(labels)), confidence: make([]float64, len(labels)), ranks: make([]int, len(labels)), losses: make([]float64, len(labels)), scores: make([][]float32, classes)}
	for c := range s.scores {
		s.scores[c] = make([]float32, len(labels))
	}
	probabilities := make([]float64, classes)
	for i, label := range labels {
		row := scores[i*md.Columns:][:md.Columns]
		if int(label) >= classes {
			return Metrics{}, fmt.Errorf("measure: the label of image %d is %d, expected 0 to %d", i, label, classes-1)
		}
		if err := md.Probabilities(probabilities, row); err != nil {
			return Metrics{}, fmt.Errorf("measure: image %d: %w: the model has invalid weights\nhint: train or export the model again", i, err)
		}
		class := md.Decide(probabilities)
		s.predicted[i], s.confidence[i] = uint16(class), probabilities[class]
		s.losses[i] = Loss(md, row, label)
		for c, p := range probabilities {
			s.scores[c][i] = classScore(md, row, c, p)
			if p > probabilities[label] || p == probabilities[label] && c < int(label) {
				s.ranks[i]++
			}
		}
	}
	if p := md.PositiveClass(); p >= 0 {
		s.positive = &positive{name: s.names[p], logits: PositiveLogits(md, scores), is: IsPositive(md, labels), threshold: md.Threshold}
		for _, class := range s.predicted {
			s.positive.predicted = append(s.positive.predicted, int(class) == p)
		}
	}
	return s.measure(), nil
}

// classScore returns the logarithm of the odds of a class with the probability p. Unlike p, it still differs where probabilities have
// been rounded to 1.
func classScore(md *model.Metadata, row []float32, class int, p float64) float32 {
	switch {
	case md.OutputKind == model.Probabilities:
		return float32(p) // in the same order
	case md.Columns == 1 && class == 0:
		return -row[0]
	case md.Columns == 1:
		return row[0]
	case p < 0.5:
		return float32(math.Log(p) - math.Log1p(-p))
	}
	others := 0.0 // relative to the class
	for c, v := range row {
		if c != class {
			others += math.Exp(float64(v) - float64(row[class]))
		}
	}
	return float32(-math.Log(others))
}

// PositiveLogits returns the logit of the positive class, the logarithm of its odds, for rows of a model's scores. The model must have a
// positive class.
func PositiveLogits(md *model.Metadata, scores []float32) []float32 {
	p := md.PositiveClass()
	logits := make([]float32, 0, len(scores)/md.Columns)
	for row := range slices.Chunk(scores, md.Columns) {
		var z float64
		switch {
		case md.OutputKind == model.Logits && md.Columns == 1:
			z = float64(row[0])
			if p == 0 {
				z = -z
			}
		case md.OutputKind == model.Logits:
			z = float64(row[p]) - float64(row[1-p])
		default:
			q := float64(row[len(row)-1]) // of the second class
			if p == 0 {
				q = 1 - q
			}
			z = min(max(math.Log(q)-math.Log1p(-q), -maxLogit), maxLogit)
		}
		logits = append(logits, float32(z))
	}
	return logits
}

// IsPositive returns 1 for each label that is the model's positive class, and 0 for the others.
func IsPositive(md *model.Metadata, labels []uint16) []uint16 {
	p := md.PositiveClass()
	is := make([]uint16, len(labels))
	for i, label := range labels {
		if int(label) == p {
			is[i] = 1
		}
	}
	return is
}

// Loss returns the cross-entropy in nats of a row of scores for a label, in a form that neither overflows nor loses small values.
// Probabilities of less than 1e-15 count as 1e-15.
func Loss(md *model.Metadata, row []float32, label uint16) float64 {
	const least = 1e-15
	switch {
	case md.OutputKind == model.Probabilities && md.Columns == 1:
		p := float64(row[0])
		if label == 0 {
			p = 1 - p
		}
		return -math.Log(max(p, least))
	case md.OutputKind == model.Probabilities:
		return -math.Log(max(float64(row[label]), least))
	case md.Columns == 1:
		z := float64(row[0])
		if label == 1 {
			z = -z
		}
		return math.Max(z, 0) + math.Log1p(math.Exp(-math.Abs(z)))
	}
	greatest := float64(slices.Max(row))
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - greatest)
	}
	return greatest + math.Log(sum) - float64(row[label])
}

// measure computes the metrics.
func (s *samples) measure() (m Metrics) {
	n, classes := float64(len(s.labels)), len(s.names)
	counts := map[[2]uint16]int{}
	m.PerClass = make([]ClassMetrics, classes)
	correct, hits, top := make([]int, classes), 0, 0
	for i, label := range s.labels {
		counts[[2]uint16{label, s.predicted[i]}]++
		m.PerClass[label].Support++
		m.PerClass[s.predicted[i]].Predicted++
		if label == s.predicted[i] {
			correct[label]++
			hits++
		}
		if s.ranks != nil && s.ranks[i] < topK {
			top++
		}
	}
	m.Accuracy = float64(hits) / n
	if s.ranks != nil && classes > topK {
		m.Top5Accuracy = new(float64(top) / n)
	}
	s.measureClasses(&m, correct)
	s.measureConfusion(&m, counts)
	if s.losses != nil {
		m.LogLoss = new(stat.Mean(s.losses, nil))
	}
	if s.positive != nil {
		m.ECE = CalibrationError(Reliability(probabilitiesOf(s.positive.logits), s.positive.is))
		m.Binary = s.positive.measure(&m.Notes)
		return m
	}
	right := make([]uint16, len(s.labels))
	for i, label := range s.labels {
		if label == s.predicted[i] {
			right[i] = 1
		}
	}
	m.ECE = CalibrationError(Reliability(s.confidence, right))
	return m
}

// measureClasses sets the metrics per class and their averages.
func (s *samples) measureClasses(m *Metrics, correct []int) {
	ratio := func(num, den int) float64 { return float64(num) / float64(max(den, 1)) }
	present, seen, aucs, auc := 0, 0, 0, 0.0
	is := make([]uint16, len(s.labels))
	for c := range m.PerClass {
		k := &m.PerClass[c]
		k.Label = s.names[c]
		k.Average = Average{ratio(correct[c], k.Predicted), ratio(correct[c], k.Support), ratio(2*correct[c], k.Support+k.Predicted)}
		if s.scores != nil && k.Support > 0 && k.Support < len(s.labels) {
			for i, label := range s.labels {
				is[i] = 0
				if int(label) == c {
					is[i] = 1
				}
			}
			fpr, tpr := ROC(s.scores[c], is)
			k.ROCAUC = new(integrate.Trapezoidal(fpr, tpr))
			aucs, auc = aucs+1, auc+*k.ROCAUC
		}
		if k.Support > 0 {
			seen++
			m.BalancedAccuracy += k.Recall
		}
		if k.Support+k.Predicted > 0 {
			present++
			m.Macro.add(k.Average, 1)
		}
		m.Weighted.add(k.Average, float64(k.Support)/float64(len(s.labels)))
	}
	m.BalancedAccuracy /= float64(max(seen, 1))
	m.Macro = Average{m.Macro.Precision / float64(max(present, 1)), m.Macro.Recall / float64(max(present, 1)), m.Macro.F1 / float64(max(present, 1))}
	if aucs > 0 {
		m.ROCAUCOvR = new(auc / float64(aucs))
	}
	if missing := len(m.PerClass) - seen; missing > 0 && len(m.PerClass) > 2 {
		m.Notes = append(m.Notes, fmt.Sprintf("%d of %d classes have no images: their recall is reported as 0 and not counted in balanced_accuracy", missing, len(m.PerClass)))
	}
}

// add adds b, weighted.
func (a *Average) add(b Average, weight float64) {
	a.Precision += weight * b.Precision
	a.Recall += weight * b.Recall
	a.F1 += weight * b.F1
}

// measureConfusion sets the confusion matrix and the largest confusions.
func (s *samples) measureConfusion(m *Metrics, counts map[[2]uint16]int) {
	if len(s.names) <= MaxMatrix {
		m.ConfusionMatrix = make([][]int, len(s.names))
		for label := range m.ConfusionMatrix {
			m.ConfusionMatrix[label] = make([]int, len(s.names))
		}
	}
	type pair struct {
		classes [2]uint16
		count   int
	}
	var wrong []pair
	for classes, n := range counts {
		if m.ConfusionMatrix != nil {
			m.ConfusionMatrix[classes[0]][classes[1]] = n
		}
		if classes[0] != classes[1] {
			wrong = append(wrong, pair{classes, n})
		}
	}
	slices.SortFunc(wrong, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.count, a.count), slices.Compare(a.classes[:], b.classes[:]))
	})
	for _, w := range wrong[:min(len(wrong), MaxConfused)] {
		m.LargestConfusions = append(m.LargestConfusions, Confused{s.names[w.classes[0]], s.names[w.classes[1]], w.count})
	}
}

// measure computes the metrics of the positive class. It adds notes on those that are undefined.
func (p *positive) measure(notes *[]string) *Binary {
	b := &Binary{Positive: p.name, Threshold: p.threshold}
	c := &b.Confusion
	for i, is := range p.is {
		switch {
		case is == 1 && p.predicted[i]:
			c.TP++
		case is == 1:
			c.FN++
		case p.predicted[i]:
			c.FP++
		default:
			c.TN++
		}
	}
	ratio := func(num, den int, note string) float64 {
		if den == 0 {
			*notes = append(*notes, note)
			return 0
		}
		return float64(num) / float64(den)
	}
	b.Precision = ratio(c.TP, c.TP+c.FP, "precision is undefined and reported as 0: no image was classified as "+p.name)
	b.Recall = ratio(c.TP, c.TP+c.FN, "recall is undefined and reported as 0: no image is "+p.name)
	b.F1 = ratio(2*c.TP, 2*c.TP+c.FP+c.FN, "f1 is undefined and reported as 0: no image is "+p.name+" and none was classified as "+p.name)
	if fpr, tpr := ROC(p.logits, p.is); fpr != nil {
		b.ROCAUC = new(integrate.Trapezoidal(fpr, tpr))
	} else {
		every := "every image is "
		if p.is[0] == 0 {
			every = "no image is "
		}
		*notes = append(*notes, "roc_auc is undefined and omitted: "+every+p.name)
	}
	return b
}

// ROC returns the receiver operating characteristic: the false and true positive rates at every cut
// between distinct logits, from (0, 0) to (1, 1). Images with equal logits form one step, so that
// the trapezoids under the curve count ties half, as the Mann-Whitney statistic does. ROC uses
// logits because they still differ where probabilities have been rounded to 1. positive is 1 for images of the positive class and
// 0 for others. ROC returns nil if all are the same.
func ROC(logits []float32, positive []uint16) (fpr, tpr []float64) {
	if !slices.Contains(positive, 1) || !slices.Contains(positive, 0) {
		return nil, nil
	}
	sorted, is := make([]float64, len(logits)), make([]bool, len(logits))
	for i, z := range logits {
		sorted[i], is[i] = float64(z), positive[i] == 1
	}
	stat.SortWeightedLabeled(sorted, is, nil)
	tpr, fpr, _ = stat.ROC(nil, sorted, is, nil)
	return fpr, tpr
}

// Bin is one bin of a reliability diagram.
type Bin struct {
	// Low and High bound the probabilities in the bin: Low < p <= High. The first bin includes 0.
	Low, High float64
	// Count is the number of images in the bin.
	Count int
	// Probability is their mean predicted probability, and Fraction the fraction of them for which the prediction is true.
	// Both are 0 if Count is 0.
	Probability, Fraction float64
}

// Reliability sorts predicted probabilities into [Bins] bins of equal width. truth is 1 where the prediction is true and 0 elsewhere.
func Reliability(probabilities []float64, truth []uint16) []Bin {
	bins := make([]Bin, Bins)
	for i := range bins {
		bins[i].Low, bins[i].High = float64(i)/Bins, float64(i+1)/Bins
	}
	for i, p := range probabilities {
		b := &bins[min(max(int(math.Ceil(p*Bins))-1, 0), Bins-1)]
		b.Count++
		b.Probability += p
		b.Fraction += float64(truth[i])
	}
	for i := range bins {
		if n := float64(bins[i].Count); n > 0 {
			bins[i].Probability /= n
			bins[i].Fraction /= n
		}
	}
	return bins
}

// probabilitiesOf returns the probabilities of logits.
func probabilitiesOf(logits []float32) []float64 {
	probabilities := make([]float64, len(logits))
	for i, z := range logits {
		probabilities[i] = model.Probability(z)
	}
	return probabilities
}

// CalibrationError returns the expected calibration error, equation 3 of C. Guo, G. Pleiss, Y. Sun,
// K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017: the mean over bins, weighted
// by their counts, of the gap between predicted and observed frequency.
//
// The paper bins the confidence in the predicted class. With a positive class, [Measure] bins the probability of that
// class instead, over all of [0, 1]: in the confidence, errors of the two sides cancel.
func CalibrationError(bins []Bin) float64 {
	var gap float64
	var n int
	for _, b := range bins {
		gap += float64(b.Count) * math.Abs(b.Probability-b.Fraction)
		n += b.Count
	}
	if n == 0 {
		return 0
	}
	return gap / float64(n)
}
