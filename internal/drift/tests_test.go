package drift

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// fixtures holds samples and the statistics that testdata/make_fixtures.py computed with SciPy
// and NumPy.
type fixtures struct {
	Numbers []struct {
		Name             string
		A, B             []float64
		KS               float64
		P                float64 `json:"ks_p"`
		Wasserstein, PSI float64
		JensenShannon    float64 `json:"jensen_shannon"`
	}
	Categories []struct {
		Name          string
		A, B          []float64
		ChiSquare     float64 `json:"chi_square"`
		P, PSI        float64
		JensenShannon float64 `json:"jensen_shannon"`
	}
	Kolmogorov [][2]float64
	Vectors    []struct {
		Name string
		A, B [][]float64
		MMD  float64
		P    float64 `json:"mmd_p"`
		AUC  float64
	}
}

func loadFixtures(t *testing.T) fixtures {
	t.Helper()
	text, err := os.ReadFile("testdata/fixtures.json")
	if err != nil {
		t.Fatal(err)
	}
	var f fixtures
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Numbers) == 0 || len(f.Categories) == 0 || len(f.Kolmogorov) == 0 || len(f.Vectors) == 0 {
		t.Fatal("testdata/fixtures.json is incomplete; run testdata/make_fixtures.py")
	}
	return f
}

// near checks a value against SciPy's with a relative tolerance.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(math.Abs(want), 1e-300)) && math.Abs(got-want) > 1e-14 {
		t.Errorf("%s = %.12g, want SciPy's %.12g", what, got, want)
	}
}

func TestNumericStatistics(t *testing.T) {
	for _, f := range loadFixtures(t).Numbers {
		t.Run(f.Name, func(t *testing.T) {
			d, p := KolmogorovSmirnov(f.A, f.B)
			near(t, "KS", d, f.KS, 1e-12)
			near(t, "p", p, f.P, 1e-9)
			c := compareNumbers(f.A, f.B)
			near(t, "Wasserstein", c.Scores[TestWasserstein], f.Wasserstein, 1e-12)
			near(t, "PSI", c.Scores[TestPSI], f.PSI, 1e-12)
			near(t, "Jensen-Shannon", c.Scores[TestJensenShannon], f.JensenShannon, 1e-9)
		})
	}
}

func TestCategoricalStatistics(t *testing.T) {
	for _, f := range loadFixtures(t).Categories {
		t.Run(f.Name, func(t *testing.T) {
			chi2, p := ChiSquare(f.A, f.B)
			near(t, "chi-square", chi2, f.ChiSquare, 1e-12)
			near(t, "p", p, f.P, 1e-9)
			c := compareCategories(labelledRows(f.A), labelledRows(f.B), func(r *Row) string { return r.Label })
			near(t, "PSI", c.Scores[TestPSI], f.PSI, 1e-12)
			near(t, "Jensen-Shannon", c.Scores[TestJensenShannon], f.JensenShannon, 1e-9)
		})
	}
}

// labelledRows returns rows in which label k ('a', 'b', …) occurs counts[k] times.
func labelledRows(counts []float64) (rows []Row) {
	for k, n := range counts {
		for range int(n) {
			rows = append(rows, Row{Label: string(rune('a' + k))})
		}
	}
	return rows
}

func TestKolmogorov(t *testing.T) {
	for _, f := range loadFixtures(t).Kolmogorov {
		near(t, "survival", kolmogorov(f[0]), f[1], 1e-10)
	}
}

func TestKolmogorovSmirnov_asymptotic(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	a, b := make([]float64, 3000), make([]float64, 2500)
	for i := range a {
		a[i] = rng.NormFloat64()
	}
	for i := range b {
		b[i] = rng.NormFloat64() + 0.05
	}
	slices.Sort(a)
	slices.Sort(b)
	d, p := KolmogorovSmirnov(a, b)
	exact := pathsBeyond(len(a), len(b), int(math.Round(d*3000*2500)))
	if math.Abs(p/exact-1) > 0.05 {
		t.Errorf("p = %g, want about %g", p, exact)
	}
}

func TestEmbeddingStatistics(t *testing.T) {
	for _, f := range loadFixtures(t).Vectors {
		t.Run(f.Name, func(t *testing.T) {
			mmd2, p := MMD(f.A, f.B, rand.New(rand.NewPCG(1, 2)), func() {})
			near(t, "MMD²", mmd2, f.MMD, 1e-10)
			// Both p-values are random; the precision of ours follows from the 20 exceedances
			// at which the test stops.
			if spread := 3 * f.P / math.Sqrt(maxExceedances); math.Abs(p-f.P) > spread+2.0/maxPermutations {
				t.Errorf("p = %g, want about NumPy's %g (10,000 permutations)", p, f.P)
			}
			near(t, "AUC", DomainAUC(f.A, f.B, func() {}), f.AUC, 1e-9)
		})
	}
}

func TestChiSquare_rareCategories(t *testing.T) {
	together, p1 := ChiSquare([]float64{500, 480, 5}, []float64{480, 500, 5})
	apart, p2 := ChiSquare([]float64{500, 480, 2, 1, 2}, []float64{480, 500, 0, 3, 2})
	if together != apart || p1 != p2 {
		t.Errorf("ChiSquare = %g (p=%g), want as with merged categories: %g (p=%g)", apart, p2, together, p1)
	}
}

func TestHolm(t *testing.T) {
	// 0.01·4, max(0.04, 0.015·3), max(…, 0.03·2), max(…, 0.9)
	got := Holm([]float64{0.03, 0.01, 0.9, 0.015})
	for i, want := range []float64{0.06, 0.04, 0.9, 0.045} {
		near(t, "adjusted p", got[i], want, 1e-12)
	}
	if got := Holm([]float64{0.9, 0.6}); got[0] != 1 || got[1] != 1 {
		t.Errorf("Holm = %v, want p-values capped at 1", got)
	}
}

// Ten thousand classes, most of them rare: the frequent ones keep their own categories.
func TestChiSquare_manyCategories(t *testing.T) {
	a, b := make([]float64, 10_000), make([]float64, 10_000)
	for i := range a {
		a[i], b[i] = float64(i%2), float64((i+1)%2)
	}
	a[7], b[7] = 9000, 1000
	if chi2, p := ChiSquare(a, b); p > 1e-9 || chi2 < 100 {
		t.Errorf("ChiSquare = %g (p=%g), want a difference in one category", chi2, p)
	}
	a[7], b[7] = 2000, 2000
	if chi2, p := ChiSquare(a, b); p < 1e-6 {
		t.Errorf("ChiSquare = %g (p=%g), want no difference between the frequent category and all rare ones", chi2, p)
	}
}
