package drift

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

const (
	// maxExactPairs is the largest number of pairs of values for which KolmogorovSmirnov
	// computes the exact distribution. Above, the asymptotic one is as good.
	maxExactPairs = 4_000_000
	// bins is the number of quantile bins: each holds the same fraction of the reference.
	bins = 10
	// minShare replaces an empty bin's share of 0, which has no logarithm.
	minShare = 1e-4
	// minExpected is the smallest expected count of a category in the chi-square test
	// (Cochran's rule). Rarer categories are merged.
	minExpected = 5
)

// KolmogorovSmirnov performs the two-sample Kolmogorov–Smirnov test on two samples in ascending
// order. d is the largest difference between their empirical distribution functions, and p the
// p-value, which is an upper bound if there are ties.
func KolmogorovSmirnov(a, b []float64) (d, p float64) {
	n, m := len(a), len(b)
	pairs := float64(n) * float64(m)
	// d is a multiple of 1/pairs, except for rounding errors.
	steps := math.Round(stat.KolmogorovSmirnov(a, nil, b, nil) * pairs)
	d = steps / pairs
	if n*m <= maxExactPairs {
		return d, pathsBeyond(n, m, int(steps))
	}
	return d, kolmogorov(d * math.Sqrt(float64(n)*float64(m)/float64(n+m)))
}

// pathsBeyond returns the fraction of the lattice paths from (0,0) to (n,m) that reach
// |i/n − j/m| ≥ d/(nm) at any point (Hodges, 1958). It only adds positive terms, so that small
// fractions are accurate as well.
func pathsBeyond(n, m, d int) float64 {
	if d == 0 {
		return 1
	}
	share := make([]float64, m+1)
	for i := range n + 1 {
		for j := range m + 1 {
			switch off := i*m - j*n; {
			case off >= d || -off >= d:
				share[j] = 1
			case j == 0:
				// The only path here runs along the edge and hasn't reached d: share[0] is
				// still 0.
			default:
				share[j] = (float64(i)*share[j] + float64(j)*share[j-1]) / float64(i+j)
			}
		}
	}
	return share[m]
}

// kolmogorov returns the survival function of the Kolmogorov distribution at x.
func kolmogorov(x float64) float64 {
	if x < 0.2 {
		return 1 // in float64 precision
	}
	if x < 1 {
		sum := 0.0
		for k := 1.0; k < 20; k += 2 {
			sum += math.Exp(-k * k * math.Pi * math.Pi / (8 * x * x))
		}
		return 1 - math.Sqrt(2*math.Pi)/x*sum
	}
	sum, sign := 0.0, 1.0
	for k := 1.0; k < 20; k++ {
		sum += sign * math.Exp(-2*k*k*x*x)
		sign = -sign
	}
	return 2 * sum
}

// Wasserstein returns the first Wasserstein distance between two samples in ascending order:
// the area between their empirical distribution functions.
func Wasserstein(a, b []float64) float64 {
	var area, at float64
	n, m := float64(len(a)), float64(len(b))
	for i, j := 0, 0; i < len(a) || j < len(b); {
		next := math.Inf(1)
		if i < len(a) {
			next = a[i]
		}
		if j < len(b) {
			next = min(next, b[j])
		}
		if i+j > 0 {
			area += math.Abs(float64(i)/n-float64(j)/m) * (next - at)
		}
		at = next
		for i < len(a) && a[i] == at {
			i++
		}
		for j < len(b) && b[j] == at {
			j++
		}
	}
	return area
}

// edges returns the upper bounds of all bins except the last, which are the distinct deciles of
// the reference in ascending order. A constant reference also gets a bin for smaller values.
func edges(reference []float64) []float64 {
	if reference[0] == reference[len(reference)-1] {
		return []float64{math.Nextafter(reference[0], math.Inf(-1)), reference[0]}
	}
	var e []float64
	for i := 1; i < bins; i++ {
		e = append(e, stat.Quantile(float64(i)/bins, stat.Empirical, reference, nil))
	}
	return slices.Compact(e)
}

// shares returns the fraction of a sorted sample in each bin, (-∞,e₀], (e₀,e₁], …, (eₖ,∞).
func shares(sorted, edges []float64) []float64 {
	s := make([]float64, len(edges)+1)
	before := 0
	for i, e := range edges {
		to, _ := slices.BinarySearchFunc(sorted, e, func(v, e float64) int {
			if v <= e {
				return -1
			}
			return 1
		})
		s[i] = float64(to-before) / float64(len(sorted))
		before = to
	}
	s[len(edges)] = float64(len(sorted)-before) / float64(len(sorted))
	return s
}

// PSI returns the population stability index, Σ(q−p)·ln(q/p), of the bin fractions p and q of
// two samples. A fraction below 0.0001 counts as 0.0001.
func PSI(p, q []float64) float64 {
	sum := 0.0
	for i := range p {
		a, b := max(p[i], minShare), max(q[i], minShare)
		sum += (b - a) * math.Log(b/a)
	}
	return sum
}

// JensenShannon returns the Jensen–Shannon distance between the bin fractions of two samples:
// the square root of the divergence in bits. It is between 0 and 1.
func JensenShannon(p, q []float64) float64 {
	return math.Sqrt(max(stat.JensenShannon(p, q), 0) / math.Ln2)
}

// ChiSquare tests whether the category counts of two samples have the same distribution
// (Pearson's test of homogeneity, without Yates's correction). It merges categories with
// expected counts below 5. If only one category remains, chi2 is 0 and p is 1.
func ChiSquare(a, b []float64) (chi2, p float64) {
	var n, m float64
	for i := range a {
		n, m = n+a[i], m+b[i]
	}
	type pair struct{ a, b float64 }
	var cells []pair
	for i := range a {
		if a[i]+b[i] > 0 {
			cells = append(cells, pair{a[i], b[i]})
		}
	}
	slices.SortStableFunc(cells, func(x, y pair) int { return cmp.Compare(x.a+x.b, y.a+y.b) })
	least := minExpected * (n + m) / min(n, m)
	for len(cells) > 1 && cells[0].a+cells[0].b < least {
		merged := pair{cells[0].a + cells[1].a, cells[0].b + cells[1].b}
		cells = cells[2:]
		at, _ := slices.BinarySearchFunc(cells, merged, func(x, y pair) int { return cmp.Compare(x.a+x.b, y.a+y.b) })
		cells = slices.Insert(cells, at, merged)
	}
	if len(cells) < 2 {
		return 0, 1
	}
	var observed, expected []float64
	for _, c := range cells {
		both := c.a + c.b
		observed = append(observed, c.a, c.b)
		expected = append(expected, both*n/(n+m), both*m/(n+m))
	}
	chi2 = stat.ChiSquare(observed, expected)
	return chi2, distuv.ChiSquared{K: float64(len(cells) - 1)}.Survival(chi2)
}

// Holm returns p-values adjusted for multiple testing (Holm, 1979). Rejecting the hypotheses
// with adjusted p-values of at most α rejects any true hypothesis with a probability of at most
// α, even if the tests depend on each other.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	adjusted := make([]float64, len(p))
	most := 0.0
	for rank, i := range order {
		most = max(most, min(float64(len(p)-rank)*p[i], 1))
		adjusted[i] = most
	}
	return adjusted
}
