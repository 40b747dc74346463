package drift

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// fixtures is what testdata/make_fixtures.py has computed with SciPy and NumPy.
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
		t.Fatal("the fixtures are not whole; make them anew with testdata/make_fixtures.py")
	}
	return f
}

// near holds a value against SciPy's, relatively.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(math.Abs(want), 1e-300)) && math.Abs(got-want) > 1e-14 {
		t.Errorf("%s is %.12g, SciPy has %.12g", what, got, want)
	}
}

func TestStatisticsOfNumbersAreSciPys(t *testing.T) {
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

func TestStatisticsOfCategoriesAreSciPys(t *testing.T) {
	for _, f := range loadFixtures(t).Categories {
		t.Run(f.Name, func(t *testing.T) {
			chi2, p := ChiSquare(f.A, f.B)
			near(t, "chi-square", chi2, f.ChiSquare, 1e-12)
			near(t, "p", p, f.P, 1e-9)
			c := compareCategories(counted(f.A), counted(f.B), func(r *Row) string { return r.Label })
			near(t, "PSI", c.Scores[TestPSI], f.PSI, 1e-12)
			near(t, "Jensen-Shannon", c.Scores[TestJensenShannon], f.JensenShannon, 1e-9)
		})
	}
}

// counted makes rows with so many of each label.
func counted(counts []float64) (rows []Row) {
	for k, n := range counts {
		for range int(n) {
			rows = append(rows, Row{Label: string(rune('a' + k))})
		}
	}
	return rows
}

func TestKolmogorovsDistributionIsSciPys(t *testing.T) {
	for _, f := range loadFixtures(t).Kolmogorov {
		near(t, "survival", kolmogorov(f[0]), f[1], 1e-10)
	}
}

func TestManyPairsUseTheLimitOfTheDistribution(t *testing.T) {
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
		t.Errorf("p is %g, exactly it is %g", p, exact)
	}
}

func TestStatisticsOfVectorsAreSciPys(t *testing.T) {
	for _, f := range loadFixtures(t).Vectors {
		t.Run(f.Name, func(t *testing.T) {
			mmd2, p := MMD(f.A, f.B, rand.New(rand.NewPCG(1, 2)), func() {})
			near(t, "MMD²", mmd2, f.MMD, 1e-10)
			// Both are drawn; this one stops at 20 that exceed it.
			if spread := 3 * f.P / math.Sqrt(exceeded); math.Abs(p-f.P) > spread+2.0/permutations {
				t.Errorf("p is %g, with 10,000 permutations by NumPy %g", p, f.P)
			}
			near(t, "AUC", DomainAUC(f.A, f.B, func() {}), f.AUC, 1e-9)
		})
	}
}

func TestRareCategoriesAreTakenTogether(t *testing.T) {
	together, p1 := ChiSquare([]float64{500, 480, 5}, []float64{480, 500, 5})
	apart, p2 := ChiSquare([]float64{500, 480, 2, 1, 2}, []float64{480, 500, 0, 3, 2})
	if together != apart || p1 != p2 {
		t.Errorf("%g (p=%g), with the rare ones together %g (p=%g)", apart, p2, together, p1)
	}
}

func TestHolmAdjustsAsInItsDefinition(t *testing.T) {
	// 0.01·4, max(0.04, 0.015·3), max(…, 0.03·2), max(…, 0.9)
	got := Holm([]float64{0.03, 0.01, 0.9, 0.015})
	for i, want := range []float64{0.06, 0.04, 0.9, 0.045} {
		near(t, "adjusted p", got[i], want, 1e-12)
	}
	if got := Holm([]float64{0.9, 0.6}); got[0] != 1 || got[1] != 1 {
		t.Errorf("probabilities above 1: %v", got)
	}
}
