package drift

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/mat"
)

const (
	// maxEmbeddings limits the embeddings per side: the cost grows with the number of pairs.
	maxEmbeddings = 400
	// maxPermutations limits the permutations of the MMD test. The smallest p-value possible,
	// 1/2000, is still significant after Holm's adjustment for twelve columns.
	maxPermutations = 1999
	// maxExceedances is the number of permuted statistics, at least as large as the observed
	// one, after which the MMD test stops.
	maxExceedances = 20
	// folds is the number of cross-validation folds of the classifier.
	folds = 5
	// ridge is the classifier's L2 penalty.
	ridge = 1.0
)

// MMD returns the unbiased estimate of the squared maximum mean discrepancy between two samples
// of vectors (Gretton et al., 2012), with the kernel exp(−‖x−y‖²/2σ²), where σ is the median of
// all pairwise distances. p is the p-value of a permutation test with permutations drawn from
// rng. The test stops early after 20 permuted statistics at least as large as the observed one
// (Besag and Clifford, 1991). Both samples need at least two vectors. MMD calls yield
// repeatedly.
func MMD(a, b [][]float64, rng *rand.Rand, yield func()) (mmd2, p float64) {
	all := append(slices.Clone(a), b...)
	k := kernel(all, yield)
	n, m := len(a), len(b)
	rows := make([]float64, n+m) // row sums of the kernel matrix, without the diagonal
	total := 0.0
	for i := range k {
		for j := range i {
			rows[i] += k[i][j]
			rows[j] += k[i][j]
			total += 2 * k[i][j]
		}
	}
	first := make([]int, n)
	// statistic returns the MMD² between the vectors in first, which must be in ascending order,
	// and all others.
	statistic := func() float64 {
		within, touching := 0.0, 0.0
		for x, i := range first {
			touching += rows[i]
			row := k[i]
			for _, j := range first[:x] {
				within += row[j]
			}
		}
		between := touching - 2*within
		other := total - 2*within - 2*between
		fn, fm := float64(n), float64(m)
		return 2*within/(fn*(fn-1)) + other/(fm*(fm-1)) - 2*between/(fn*fm)
	}
	order := make([]int, n+m)
	for i := range order {
		order[i] = i
	}
	copy(first, order)
	mmd2 = statistic()
	exceeded := 0
	for drawn := 1; drawn <= maxPermutations; drawn++ {
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		yield()
		copy(first, order)
		slices.Sort(first)
		// The tolerance covers rounding: the order of summation differs.
		if statistic() >= mmd2-1e-12 {
			if exceeded++; exceeded == maxExceedances {
				return mmd2, float64(exceeded) / float64(drawn)
			}
		}
	}
	return mmd2, float64(exceeded+1) / (maxPermutations + 1)
}

// kernel returns the lower triangle of the kernel matrix, without the diagonal.
func kernel(all [][]float64, yield func()) [][]float64 {
	k := make([][]float64, len(all))
	var squares []float64
	for i, x := range all {
		k[i] = make([]float64, i)
		for j := range i {
			sum := 0.0
			for c, v := range all[j] {
				d := x[c] - v
				sum += d * d
			}
			if sum <= tolerance*tolerance*float64(len(x)) {
				sum = 0
			}
			k[i][j] = sum
		}
		squares = append(squares, k[i]...)
		yield()
	}
	slices.Sort(squares)
	half := len(squares) / 2
	median := math.Sqrt(squares[half])
	if len(squares)%2 == 0 {
		median = (median + math.Sqrt(squares[half-1])) / 2
	}
	if median == 0 {
		median = 1 // at least half of all pairs are equal; any width separates the others
	}
	for _, row := range k {
		yield()
		for j, square := range row {
			row[j] = math.Exp(-square / (2 * median * median))
		}
	}
	return k
}

// DomainAUC returns the area under the ROC curve of a classifier that separates the vectors of
// b from those of a. 0.5 means that they can't be separated. The classifier is a logistic
// regression on standardized components with an L2 penalty of 1, and is scored by 5-fold
// cross-validation. Both samples need at least 5 vectors, in random order. DomainAUC calls
// yield repeatedly.
func DomainAUC(a, b [][]float64, yield func()) float64 {
	all := append(slices.Clone(a), b...)
	scores := make([]float64, len(all))
	for fold := range folds {
		var learn [][]float64
		var labels []float64
		for i, x := range all {
			if i%folds != fold {
				learn, labels = append(learn, x), append(labels, label(i >= len(a)))
			}
		}
		logit := newClassifier(learn, labels, yield)
		for i, x := range all {
			if i%folds == fold {
				scores[i] = logit(x)
			}
		}
	}
	return areaUnderROC(scores[:len(a)], scores[len(a):])
}

func label(of bool) float64 {
	if of {
		return 1
	}
	return 0
}

// newClassifier fits a logistic regression by Newton's method and returns the function that
// computes its logit.
func newClassifier(rows [][]float64, labels []float64, yield func()) func([]float64) float64 {
	width := len(rows[0])
	mean, scale := standard(rows)
	x := mat.NewDense(len(rows), width+1, nil)
	for i, row := range rows {
		for c, v := range row {
			x.Set(i, c, (v-mean[c])*scale[c])
		}
		x.Set(i, width, 1)
	}
	w := mat.NewVecDense(width+1, nil)
	for range 25 {
		yield()
		var z, gradient, step mat.VecDense
		z.MulVec(x, w)
		weighted := mat.DenseCopyOf(x)
		residual := mat.NewVecDense(len(rows), nil)
		for i := range rows {
			p := 1 / (1 + math.Exp(-z.AtVec(i)))
			residual.SetVec(i, labels[i]-p)
			root := math.Sqrt(max(p*(1-p), 1e-12))
			row := weighted.RawRowView(i)
			for c := range row {
				row[c] *= root
			}
		}
		gradient.MulVec(x.T(), residual)
		hessian := mat.NewSymDense(width+1, nil)
		hessian.SymOuterK(1, weighted.T())
		for c := range width {
			gradient.SetVec(c, gradient.AtVec(c)-ridge*w.AtVec(c))
			hessian.SetSym(c, c, hessian.At(c, c)+ridge)
		}
		var factors mat.Cholesky
		if !factors.Factorize(hessian) || factors.SolveVecTo(&step, &gradient) != nil {
			break // singular: the weights can't be improved
		}
		w.AddVec(w, &step)
		if mat.Norm(&step, 2) < 1e-8 {
			break
		}
	}
	return func(row []float64) float64 {
		z := w.AtVec(width)
		for c, v := range row {
			z += w.AtVec(c) * (v - mean[c]) * scale[c]
		}
		return z
	}
}

// standard returns each component's mean and the inverse of its standard deviation, or 0 for a
// constant component.
func standard(rows [][]float64) (mean, scale []float64) {
	width, n := len(rows[0]), float64(len(rows))
	mean, scale = make([]float64, width), make([]float64, width)
	for _, row := range rows {
		for c, v := range row {
			mean[c] += v / n
		}
	}
	for _, row := range rows {
		for c, v := range row {
			scale[c] += (v - mean[c]) * (v - mean[c]) / n
		}
	}
	for c, variance := range scale {
		if scale[c] = 0; variance > 1e-20 {
			scale[c] = 1 / math.Sqrt(variance)
		}
	}
	return mean, scale
}

// areaUnderROC returns the probability that a score of b is higher than one of a, counting ties
// as half (the Mann–Whitney statistic).
func areaUnderROC(a, b []float64) float64 {
	type sample struct {
		score float64
		inB   bool
	}
	var all []sample
	for _, v := range a {
		all = append(all, sample{v, false})
	}
	for _, v := range b {
		all = append(all, sample{v, true})
	}
	slices.SortFunc(all, func(x, y sample) int { return cmp.Compare(x.score, y.score) })
	ranks := 0.0
	for first := 0; first < len(all); {
		end := first
		for end < len(all) && all[end].score == all[first].score {
			end++
		}
		for _, s := range all[first:end] {
			if s.inB {
				ranks += float64(first+1+end) / 2
			}
		}
		first = end
	}
	n, m := float64(len(a)), float64(len(b))
	return (ranks - m*(m+1)/2) / (n * m)
}
