package drift

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

const (
	// exactPaths is how many pairs of values two samples may have for the exact
	// distribution of the Kolmogorov–Smirnov statistic; beyond, its limit is as good.
	exactPaths = 4_000_000
	// bins is the number of parts, each with as much of the reference, in which
	// numbers are counted.
	bins = 10
	// rare stands for a share of nothing, of which there is no logarithm.
	rare = 1e-4
	// fewExpected is the least expected count of a category in the chi-square test
	// (Cochran's rule); rarer ones are taken together.
	fewExpected = 5
)

// KolmogorovSmirnov returns the largest difference of the distribution functions of
// two sorted samples, and the probability of one as large when both are of one
// distribution. With ties the probability is an upper bound.
func KolmogorovSmirnov(a, b []float64) (d, p float64) {
	n, m := len(a), len(b)
	pairs := float64(n) * float64(m)
	// It is a whole number of pairs, but for the order of summation.
	whole := math.Round(stat.KolmogorovSmirnov(a, nil, b, nil) * pairs)
	d = whole / pairs
	if n*m <= exactPaths {
		return d, pathsBeyond(n, m, int(whole))
	}
	return d, kolmogorov(d * math.Sqrt(float64(n)*float64(m)/float64(n+m)))
}

// pathsBeyond is the share of the lattice paths from (0,0) to (n,m) that somewhere
// have |i/n − j/m| ≥ d/(nm) (Hodges, 1958). It is a sum of positive terms alone, so
// that small shares are exact, too.
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
				// The one path along the edge, so far within: as before it.
			default:
				share[j] = (float64(i)*share[j] + float64(j)*share[j-1]) / float64(i+j)
			}
		}
	}
	return share[m]
}

// kolmogorov is the survival function of Kolmogorov's distribution.
func kolmogorov(x float64) float64 {
	if x < 0.2 {
		return 1 // to the last digit
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

// Wasserstein is the area between the distribution functions of two sorted samples:
// how far values have to be moved, on average, to make the one of the other.
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

// edges are the upper bounds of all bins but the last: the deciles of a sorted
// reference, each once. One of a single value has a bin for what is below, too.
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

// shares is how much of a sorted sample lies in each bin, (-∞,e₀], (e₀,e₁], …, (eₖ,∞).
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

// PSI is the index of that name, Σ(q−p)·ln(q/p), of the shares of two
// samples; one of nothing counts as 0.0001.
func PSI(p, q []float64) float64 {
	sum := 0.0
	for i := range p {
		a, b := max(p[i], rare), max(q[i], rare)
		sum += (b - a) * math.Log(b/a)
	}
	return sum
}

// JensenShannon is the distance of that name of the shares of two samples: the square
// root of the divergence in bits, 0 to 1.
func JensenShannon(p, q []float64) float64 {
	return math.Sqrt(max(stat.JensenShannon(p, q), 0) / math.Ln2)
}

// ChiSquare tests whether the counts of categories in two samples are of one
// distribution (Pearson's test of homogeneity, without Yates's correction). Categories
// of which fewer than 5 would be expected are taken together. With one category alone
// there is nothing to test, and p is 1.
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
	least := fewExpected * (n + m) / min(n, m)
	for len(cells) > 1 && cells[0].a+cells[0].b < least {
		cells[1] = pair{cells[0].a + cells[1].a, cells[0].b + cells[1].b}
		cells = cells[1:]
		slices.SortStableFunc(cells, func(x, y pair) int { return cmp.Compare(x.a+x.b, y.a+y.b) })
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

// Holm adjusts p-values for being several (Holm, 1979): rejecting those of at most α
// rejects any true hypothesis with a probability of at most α, whatever the tests
// have to do with one another.
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
