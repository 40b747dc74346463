package evaluate

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/model"
)

// logit is the inverse of model.Probability.
func logit(p float64) float32 { return float32(math.Log(p / (1 - p))) }

func logits(ps ...float64) []float32 {
	zs := make([]float32, len(ps))
	for i, p := range ps {
		zs[i] = logit(p)
	}
	return zs
}

// measure01 measures a model with the classes REAL and FAKE and one logit per image.
func measure01(logits []float32, labels []uint16, threshold float64) (Metrics, error) {
	md := model.Trained(32, model.Real, model.Fake)
	md.Threshold = threshold
	return Measure(&md, logits, labels)
}

func near(t *testing.T, name string, got, want float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > 1e-6*math.Max(1, math.Abs(want)) {
		t.Errorf("%s = %v, want %v", name, got, want)
	}
}

func TestMeasure_ByHand(t *testing.T) {
	m, err := measure01(
		logits(0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.4, 0.7),
		[]uint16{1, 1, 1, 1, 0, 0, 0, 0}, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Confusion{TP: 3, FN: 1, FP: 1, TN: 3}); m.Confusion != want {
		t.Errorf("confusion = %+v, want %+v", m.Confusion, want)
	}
	near(t, "accuracy", m.Accuracy, 6.0/8)
	near(t, "precision", m.Precision, 3.0/4)
	near(t, "recall", m.Recall, 3.0/4)
	near(t, "f1", m.F1, 3.0/4)
	// The FAKE image scores lower in three of the 16 pairs: 0.3 < 0.4, 0.3 < 0.7, 0.6 < 0.7.
	near(t, "roc_auc", *m.ROCAUC, 13.0/16)
	near(t, "log_loss", *m.LogLoss,
		-(math.Log(0.9)+math.Log(0.8)+math.Log(0.3)+math.Log(0.6)+
			math.Log(0.8)+math.Log(0.9)+math.Log(0.6)+math.Log(0.3))/8)
	// Each of the eight probabilities is in its own bin (the edges are k/15), so that each gap is
	// |p - label|.
	near(t, "ece", m.ECE, (0.1+0.2+0.7+0.4+0.2+0.1+0.4+0.7)/8)
	near(t, "threshold", m.Threshold, 0.5)
	if len(m.Notes) != 0 {
		t.Errorf("notes = %q, want none", m.Notes)
	}
}

func TestMeasure_ScikitLearnExample(t *testing.T) {
	// roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) is 0.75 in scikit-learn's user guide.
	m, err := measure01(logits(0.1, 0.4, 0.35, 0.8), []uint16{0, 0, 1, 1}, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "roc_auc", *m.ROCAUC, 0.75)
}

func TestMeasure_Threshold(t *testing.T) {
	for _, tc := range []struct {
		name      string
		logit     float32
		threshold float64
		fake      bool
	}{
		{"equal_to_threshold", 0, 0.5, false},
		{"just_above_threshold", 1e-6, 0.5, true},
		{"threshold_1", 100, 1, false},
		{"threshold_0", -100, 0, true},
		{"raised_threshold", 1, 0.75, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := measure01([]float32{tc.logit}, []uint16{1}, tc.threshold)
			if err != nil {
				t.Fatal(err)
			}
			if (m.Confusion.TP == 1) != tc.fake {
				t.Errorf("confusion = %+v", m.Confusion)
			}
		})
	}
}

func TestMeasure_UndefinedMetrics(t *testing.T) {
	for _, tc := range []struct {
		name   string
		logits []float32
		labels []uint16
		notes  []string // the metric that each is about
		auc    bool
	}{
		{"only_REAL_all_predicted_REAL", []float32{-1, -2}, []uint16{0, 0}, []string{"precision", "recall", "f1", "roc_auc"}, false},
		{"only_REAL_one_predicted_FAKE", []float32{-1, 2}, []uint16{0, 0}, []string{"recall", "roc_auc"}, false},
		{"only_FAKE_all_predicted_FAKE", []float32{1, 2}, []uint16{1, 1}, []string{"roc_auc"}, false},
		{"both_classes_all_predicted_REAL", []float32{-1, -2}, []uint16{0, 1}, []string{"precision"}, true},
		{"one_image", []float32{3}, []uint16{1}, []string{"roc_auc"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := measure01(tc.logits, tc.labels, 0.5)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Notes) != len(tc.notes) {
				t.Fatalf("notes = %q, want notes about %q", m.Notes, tc.notes)
			}
			for i, want := range tc.notes {
				if !strings.HasPrefix(m.Notes[i], want+" is undefined") {
					t.Errorf("note %d = %q, want a note about %s", i, m.Notes[i], want)
				}
			}
			if (m.ROCAUC != nil) != tc.auc {
				t.Errorf("roc_auc = %v", m.ROCAUC)
			}
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), `"roc_auc"`) != tc.auc {
				t.Errorf("JSON = %s", text)
			}
		})
	}
}

func TestMeasure_InvalidInput(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, tc := range []struct {
		name      string
		logits    []float32
		labels    []uint16
		threshold float64
		want      string
	}{
		{"no_images", nil, nil, 0.5, "no images"},
		{"fewer_labels_than_logits", []float32{1, 2}, []uint16{1}, 0.5, "2 scores for 1 labels"},
		{"NaN_logit", []float32{1, nan}, []uint16{1, 0}, 0.5, "image 1: the model's output is NaN"},
		{"infinite_logit", []float32{inf}, []uint16{1}, 0.5, "image 0: the model's output is +Inf"},
		{"unknown_label", []float32{1, 1}, []uint16{1, 2}, 0.5, "label of image 1 is 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := measure01(tc.logits, tc.labels, tc.threshold)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestMeasure_ExtremeLogits(t *testing.T) {
	m, err := measure01([]float32{math.MaxFloat32, -math.MaxFloat32, 1000, -1000}, []uint16{1, 0, 0, 1}, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "log_loss", *m.LogLoss, 500) // two of four predictions are confident errors of 1000 nats each
	near(t, "ece", m.ECE, 0.5)           // in both outer bins one of two confident predictions is wrong
	if _, err := json.Marshal(m); err != nil {
		t.Error(err)
	}
}

func TestReliability_BinEdges(t *testing.T) {
	bins := Reliability([]float64{0, 1, 0.5}, []uint16{0, 1, 1})
	for i, b := range bins {
		want := 0
		if i == 0 || i == 7 || i == Bins-1 {
			want = 1
		}
		if b.Count != want {
			t.Errorf("bin %d has %d images, want %d", i, b.Count, want)
		}
	}
	near(t, "edge", bins[14].High, 1)
	near(t, "mean probability of the middle bin", bins[7].Probability, 0.5)
	near(t, "fraction of FAKE in the middle bin", bins[7].Fraction, 1)
}

// sample returns random scores on a coarse grid, so that ties within and across classes are common.
func sample(r *rand.Rand) ([]float32, []uint16) {
	n := 2 + r.IntN(60)
	zs, ys := make([]float32, n), make([]uint16, n)
	for i := range zs {
		ys[i] = uint16(r.IntN(2))
		zs[i] = float32(math.Round(r.NormFloat64()*4+2*float64(ys[i]))) / 2
	}
	ys[0], ys[1] = 0, 1
	return zs, ys
}

// naive computes the metrics from their textbook definitions, without code of this package: it
// counts by set membership, computes the AUC over all pairs, the losses from the probabilities, and
// the calibration error bin by bin.
func naive(zs []float32, ys []uint16, threshold float64) (acc, prec, rec, f1, auc, loss, ece float64) {
	n := float64(len(zs))
	p := make([]float64, len(zs))
	for i, z := range zs {
		p[i] = math.Exp(float64(z)) / (math.Exp(float64(z)) + 1)
		y := float64(ys[i])
		loss -= (y*math.Log(p[i]) + (1-y)*math.Log(1-p[i])) / n
	}
	count := func(y uint16, fake bool) (c float64) {
		for i := range zs {
			if ys[i] == y && (p[i] > threshold) == fake {
				c++
			}
		}
		return c
	}
	acc = (count(1, true) + count(0, false)) / n
	if d := count(1, true) + count(0, true); d > 0 {
		prec = count(1, true) / d
	}
	rec = count(1, true) / (count(1, true) + count(1, false))
	if prec+rec > 0 {
		f1 = 2 * prec * rec / (prec + rec)
	}
	var pairs float64
	for i := range zs {
		for j := range zs {
			if ys[i] == 1 && ys[j] == 0 {
				pairs++
				switch {
				case zs[i] > zs[j]:
					auc++
				case zs[i] == zs[j]:
					auc += 0.5
				}
			}
		}
	}
	auc /= pairs
	for b := range 15 {
		var c, conf, fake float64
		for i := range zs {
			if (p[i] > float64(b)/15 || b == 0) && p[i] <= float64(b+1)/15 {
				c++
				conf += p[i]
				fake += float64(ys[i])
			}
		}
		if c > 0 {
			ece += c / n * math.Abs(conf/c-fake/c)
		}
	}
	return acc, prec, rec, f1, auc, loss, ece
}

func TestMeasure_AgreesWithNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		zs, ys := sample(r)
		threshold := 0.05 + 0.9*r.Float64()
		m, err := measure01(zs, ys, threshold)
		if err != nil {
			t.Fatal(err)
		}
		acc, prec, rec, f1, auc, loss, ece := naive(zs, ys, threshold)
		near(t, "accuracy", m.Accuracy, acc)
		near(t, "precision", m.Precision, prec)
		near(t, "recall", m.Recall, rec)
		near(t, "f1", m.F1, f1)
		near(t, "roc_auc", *m.ROCAUC, auc)
		near(t, "log_loss", *m.LogLoss, loss)
		near(t, "ece", m.ECE, ece)
		if t.Failed() {
			t.Fatalf("logits %v, labels %v, threshold %v", zs, ys, threshold)
		}
	}
}

func TestMeasure_Symmetries(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		zs, ys := sample(r)
		m, err := measure01(zs, ys, 0.5)
		if err != nil {
			t.Fatal(err)
		}

		order := r.Perm(len(zs))
		pz, py := make([]float32, len(zs)), make([]uint16, len(zs))
		nz, stretched, flipped := make([]float32, len(zs)), make([]float32, len(zs)), make([]uint16, len(zs))
		for i, j := range order {
			pz[i], py[i] = zs[j], ys[j]
			nz[i], flipped[i] = -zs[i], 1-ys[i]
			stretched[i] = 8*zs[i] + 1
		}
		permuted, _ := measure01(pz, py, 0.5)
		near(t, "accuracy in another order", permuted.Accuracy, m.Accuracy)
		near(t, "roc_auc in another order", *permuted.ROCAUC, *m.ROCAUC)
		near(t, "log_loss in another order", *permuted.LogLoss, *m.LogLoss)
		near(t, "ece in another order", permuted.ECE, m.ECE)

		twice, _ := measure01(append(pz, pz...), append(py, py...), 0.5)
		near(t, "log_loss of everything twice", *twice.LogLoss, *m.LogLoss)
		near(t, "roc_auc of everything twice", *twice.ROCAUC, *m.ROCAUC)

		negated, _ := measure01(nz, ys, 0.5)
		near(t, "roc_auc of negated scores", *negated.ROCAUC, 1-*m.ROCAUC)
		mirrored, _ := measure01(nz, flipped, 0.5)
		near(t, "roc_auc with the classes swapped", *mirrored.ROCAUC, *m.ROCAUC)
		near(t, "log_loss with the classes swapped", *mirrored.LogLoss, *m.LogLoss)
		scaled, _ := measure01(stretched, ys, 0.5)
		near(t, "roc_auc of stretched scores", *scaled.ROCAUC, *m.ROCAUC)

		if sum := m.Confusion.TP + m.Confusion.FP + m.Confusion.FN + m.Confusion.TN; sum != len(zs) {
			t.Errorf("the confusion matrix counts %d of %d images", sum, len(zs))
		}
		if m.ECE < 0 || m.ECE > 1 || *m.LogLoss < 0 {
			t.Errorf("ece %v, log_loss %v", m.ECE, *m.LogLoss)
		}
	}
}

func TestROC(t *testing.T) {
	fpr, tpr := ROC([]float32{2, 2, 1, 0, 0, -1}, []uint16{1, 0, 1, 1, 0, 0})
	wantFPR := []float64{0, 1.0 / 3, 1.0 / 3, 2.0 / 3, 1}
	wantTPR := []float64{0, 1.0 / 3, 2.0 / 3, 1, 1}
	if len(fpr) != len(wantFPR) {
		t.Fatalf("%d points, want %d", len(fpr), len(wantFPR))
	}
	for i := range fpr {
		near(t, "fpr", fpr[i], wantFPR[i])
		near(t, "tpr", tpr[i], wantTPR[i])
	}
	if fpr, _ := ROC([]float32{1, 2}, []uint16{1, 1}); fpr != nil {
		t.Error("ROC() of one class != nil")
	}
}

func BenchmarkMeasure(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	zs, ys := make([]float32, 20000), make([]uint16, 20000)
	for i := range zs {
		ys[i] = uint16(i % 2)
		zs[i] = float32(r.NormFloat64()*3 + 4*float64(ys[i]) - 2)
	}
	for b.Loop() {
		if _, err := measure01(zs, ys, 0.5); err != nil {
			b.Fatal(err)
		}
	}
}

// metadataOf returns the metadata of a model with the given classes and one logit per class.
func metadataOf(classes ...string) *model.Metadata {
	return &model.Metadata{Classes: classes, OutputKind: model.Logits, Columns: len(classes)}
}

func TestMeasure_ThreeClassesByHand(t *testing.T) {
	p := func(a, b, c float64) []float32 {
		return []float32{float32(math.Log(a)), float32(math.Log(b)), float32(math.Log(c))}
	}
	m, err := Measure(metadataOf("cat", "dog", "owl"), slices.Concat(
		p(0.7, 0.2, 0.1), p(0.5, 0.4, 0.1), p(0.3, 0.6, 0.1), // cats: two correct, one a dog
		p(0.2, 0.7, 0.1), p(0.6, 0.3, 0.1), // dogs: one correct, one a cat
		p(0.1, 0.1, 0.8), // an owl, correct
	), []uint16{0, 0, 0, 1, 1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if m.Binary != nil || m.Top5Accuracy != nil || len(m.Notes) != 0 {
		t.Errorf("binary %v, top 5 %v, notes %q; want none", m.Binary, m.Top5Accuracy, m.Notes)
	}
	near(t, "accuracy", m.Accuracy, 4.0/6)
	near(t, "balanced accuracy", m.BalancedAccuracy, (2.0/3+1.0/2+1)/3)
	near(t, "precision of cat", m.PerClass[0].Precision, 2.0/3)
	near(t, "recall of dog", m.PerClass[1].Recall, 1.0/2)
	near(t, "f1 of dog", m.PerClass[1].F1, 1.0/2)
	near(t, "macro f1", m.Macro.F1, (2.0/3+1.0/2+1)/3)
	near(t, "weighted f1", m.Weighted.F1, (3*2.0/3+2*1.0/2+1)/6)
	near(t, "log_loss", *m.LogLoss, -(math.Log(0.7)+math.Log(0.5)+math.Log(0.3)+math.Log(0.7)+math.Log(0.3)+math.Log(0.8))/6)
	// Pairs of a cat and another animal: 0.3 of the cat is below 0.6 of a dog, and 0.5 as well.
	near(t, "roc_auc of cat", *m.PerClass[0].ROCAUC, 7.0/9)
	near(t, "roc_auc of owl", *m.PerClass[2].ROCAUC, 1)
	// Confidences 0.5, 0.6 (twice), 0.7 (twice) and 0.8 are in four bins: only 0.6 has errors.
	near(t, "ece", m.ECE, (math.Abs(0.5-1)+math.Abs(1.2-0)+math.Abs(1.4-2)+math.Abs(0.8-1))/6)
	if want := [][]int{{2, 1, 0}, {1, 1, 0}, {0, 0, 1}}; !reflect.DeepEqual(m.ConfusionMatrix, want) {
		t.Errorf("confusion matrix %v, want %v", m.ConfusionMatrix, want)
	}
	if want := []Confused{{"cat", "dog", 1}, {"dog", "cat", 1}}; !slices.Equal(m.LargestConfusions, want) {
		t.Errorf("largest confusions %v, want %v", m.LargestConfusions, want)
	}
}

func TestMeasure_ManyClasses(t *testing.T) {
	const classes, n = 1000, 300
	names := make([]string, classes)
	for c := range names {
		names[c] = fmt.Sprintf("class %d", c)
	}
	r := rand.New(rand.NewPCG(5, 6))
	scores, labels := make([]float32, classes*n), make([]uint16, n)
	correct, inTop5 := 0, 0
	for i := range labels {
		labels[i] = uint16(r.IntN(classes))
		row := scores[i*classes:][:classes]
		for c := range row {
			row[c] = float32(r.NormFloat64())
		}
		row[labels[i]] += 3
		rank := 0
		for _, v := range row {
			if v > row[labels[i]] {
				rank++
			}
		}
		if rank == 0 {
			correct++
		}
		if rank < 5 {
			inTop5++
		}
	}
	m, err := Measure(metadataOf(names...), scores, labels)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "accuracy", m.Accuracy, float64(correct)/n)
	near(t, "top-5 accuracy", *m.Top5Accuracy, float64(inTop5)/n)
	if m.ConfusionMatrix != nil || len(m.LargestConfusions) != MaxConfused || len(m.PerClass) != classes {
		t.Errorf("matrix of %d classes, %d largest confusions, %d classes", len(m.ConfusionMatrix), len(m.LargestConfusions), len(m.PerClass))
	}
	if len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "have no images") {
		t.Errorf("notes %q, want one about classes without images", m.Notes)
	}
	var table strings.Builder
	m.writeTable(&table)
	if lines := strings.Count(table.String(), "\n"); lines > 100 || !strings.Contains(table.String(), "top-5 accuracy") {
		t.Errorf("table of %d lines:\n%s", lines, table.String())
	}
	if _, err := json.Marshal(m); err != nil {
		t.Error(err)
	}
}

// A model with a positive class has the same metrics however its output is written.
func TestMeasure_EquivalentOutputs(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	zs, ys := sample(r)
	one := model.Trained(32, "no", "yes")
	two := one
	two.Columns = 2
	chances := two
	chances.OutputKind = model.Probabilities
	swapped := two
	swapped.Classes = []string{"yes", "no"}
	var pairs, probabilities, reversed []float32
	var flipped []uint16
	for i, z := range zs {
		p := float32(model.Probability(z))
		pairs, probabilities, reversed = append(pairs, 1, z+1), append(probabilities, 1-p, p), append(reversed, z, 0)
		flipped = append(flipped, 1-ys[i])
	}
	want, err := Measure(&one, zs, ys)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		md     *model.Metadata
		scores []float32
		labels []uint16
	}{{"two logits", &two, pairs, ys}, {"two probabilities", &chances, probabilities, ys}, {"positive class first", &swapped, reversed, flipped}} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Measure(tc.md, tc.scores, tc.labels)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "accuracy", got.Accuracy, want.Accuracy)
			near(t, "precision", got.Precision, want.Precision)
			near(t, "roc_auc", *got.ROCAUC, *want.ROCAUC)
			near(t, "log_loss", *got.LogLoss, *want.LogLoss)
			near(t, "ece", got.ECE, want.ECE)
			if got.Confusion != want.Confusion || got.Positive != "yes" {
				t.Errorf("%+v of %s, want %+v", got.Confusion, got.Positive, want.Confusion)
			}
		})
	}
}
