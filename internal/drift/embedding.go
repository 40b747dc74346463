package drift

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/mat"
)

const (
	// compared is how many embeddings of each side are: all pairs of them have a distance.
	compared = 400
	// permutations is the most that the test makes. A probability of 0.0005 is still
	// small enough when it is the smallest of twelve.
	permutations = 1999
	// exceeded is after how many statistics as large as the observed one it stops.
	exceeded = 20
	// folds is in how many parts the classifier is cross-validated.
	folds = 5
	// ridge is the classifier's penalty on the squares of its weights.
	ridge = 1.0
)

// MMD is the unbiased estimate of the squared maximum mean discrepancy of
// two samples of vectors (Gretton and others, 2012), with the kernel
// exp(−‖x−y‖²/2σ²), σ being the median of all distances. p is the probability of one as
// large when both are of one distribution, by permutations drawn from rng: it stops at
// 20 that exceed the observed one (Besag and Clifford, 1991). Both samples need at
// least two vectors. rest is called again and again.
func MMD(a, b [][]float64, rng *rand.Rand, rest func()) (mmd2, p float64) {
	all := append(slices.Clone(a), b...)
	k := kernel(all, rest)
	n, m := len(a), len(b)
	rows := make([]float64, n+m) // sums, without the diagonal
	total := 0.0
	for i := range k {
		for j := range i {
			rows[i] += k[i][j]
			rows[j] += k[i][j]
			total += 2 * k[i][j]
		}
	}
	first := make([]int, n)
	// statistic is that of the vectors first, in ascending order, against all others.
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
	beyond := 0
	for drawn := 1; drawn <= permutations; drawn++ {
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		rest()
		copy(first, order)
		slices.Sort(first)
		// Equal up to the order of summation is as large.
		if statistic() >= mmd2-1e-12 {
			if beyond++; beyond == exceeded {
				return mmd2, float64(beyond) / float64(drawn)
			}
		}
	}
	return mmd2, float64(beyond+1) / (permutations + 1)
}

// kernel is the lower triangle of the kernel's matrix.
func kernel(all [][]float64, rest func()) [][]float64 {
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
			k[i][j] = sum
		}
		squares = append(squares, k[i]...)
		rest()
	}
	slices.Sort(squares)
	half := len(squares) / 2
	median := math.Sqrt(squares[half])
	if len(squares)%2 == 0 {
		median = (median + math.Sqrt(squares[half-1])) / 2
	}
	if median == 0 {
		median = 1 // more than half of all pairs are equal; any width tells the others apart
	}
	for _, row := range k {
		rest()
		for j, square := range row {
			row[j] = math.Exp(-square / (2 * median * median))
		}
	}
	return k
}

// DomainAUC is the area under the ROC curve of a classifier that tells the vectors of b
// from those of a: logistic regression on standardized components with a ridge
// penalty of 1, each fifth judged by what was learnt from the others. A half means that it cannot
// tell them apart. Both samples need at least 5 vectors, in random order.
// rest is called again and again.
func DomainAUC(a, b [][]float64, rest func()) float64 {
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
		judge := newClassifier(learn, labels, rest)
		for i, x := range all {
			if i%folds == fold {
				scores[i] = judge(x)
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

// newClassifier fits logistic regression by Newton's method and returns its logit.
func newClassifier(rows [][]float64, labels []float64, rest func()) func([]float64) float64 {
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
		rest()
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
			break // no better weights to be had
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

// standard is each component's mean, and the inverse of its standard deviation; 0 for
// one that does not vary.
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

// areaUnderROC is the probability that one of b has a higher score than one of a, ties
// counting half (Mann and Whitney).
func areaUnderROC(a, b []float64) float64 {
	type scored struct {
		score float64
		ofB   bool
	}
	var all []scored
	for _, v := range a {
		all = append(all, scored{v, false})
	}
	for _, v := range b {
		all = append(all, scored{v, true})
	}
	slices.SortFunc(all, func(x, y scored) int { return cmp.Compare(x.score, y.score) })
	ranks := 0.0
	for first := 0; first < len(all); {
		end := first
		for end < len(all) && all[end].score == all[first].score {
			end++
		}
		for _, s := range all[first:end] {
			if s.ofB {
				ranks += float64(first+1+end) / 2
			}
		}
		first = end
	}
	n, m := float64(len(a)), float64(len(b))
	return (ranks - m*(m+1)/2) / (n * m)
}
