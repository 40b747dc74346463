// Package drift tells whether the pictures that a model is asked about, and its answers,
// still are like those of its validation split.
//
// A Reference is what a model was like when it was made, a file that travels with it. The
// current side is a sample of the prediction log. Compare holds the columns of both
// against each other, one by one, and the embedding as a whole.
package drift

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/gonum/stat"
)

// Row is what is compared of one prediction. The names and meanings are those of the
// prediction log.
type Row struct {
	Time        time.Time
	Model       string
	Label       string
	Probability float64
	// Format is empty and Width and Height are 0 where they are not known: prepared data
	// does not keep them.
	Format        string
	Width, Height int64
	// The figures of imaging.Stats.
	Mean, StdDev, Brightness, Contrast, Sharpness, Saturation float64
	Embedding                                                 []float32
}

// Finite tells whether all of the row's numbers are some.
func (r *Row) Finite() bool {
	sum := 0.0
	for _, n := range numbers {
		sum += 0 * n.of(r)
	}
	for _, v := range r.Embedding {
		sum += 0 * float64(v)
	}
	return sum == 0
}

// The columns.
var (
	numbers = []struct {
		name string
		of   func(*Row) float64
	}{
		{"probability", func(r *Row) float64 { return r.Probability }},
		{"mean", func(r *Row) float64 { return r.Mean }},
		{"std_dev", func(r *Row) float64 { return r.StdDev }},
		{"brightness", func(r *Row) float64 { return r.Brightness }},
		{"contrast", func(r *Row) float64 { return r.Contrast }},
		{"sharpness", func(r *Row) float64 { return r.Sharpness }},
		{"saturation", func(r *Row) float64 { return r.Saturation }},
		{"width", func(r *Row) float64 { return float64(r.Width) }},
		{"height", func(r *Row) float64 { return float64(r.Height) }},
	}
	categories = []struct {
		name string
		of   func(*Row) string
	}{
		{"label", func(r *Row) string { return r.Label }},
		{"image_format", func(r *Row) string { return r.Format }},
	}
)

// What counts as drift. Each is in docs/explanation/drift.md, with what it was measured to do.
const (
	// Alpha is the probability of a false alarm in one comparison, of all columns together.
	Alpha = 0.01
	// MinPSI, MinWasserstein and MinJensenShannon are how large a difference that is
	// no accident has to be, by one of them, to be called drift: among very many rows
	// none is too small to be seen.
	MinPSI           = 0.1
	MinWasserstein   = 0.1 // standard deviations of the reference
	MinJensenShannon = 0.1
	// MinAUC and MinMMD are the same for the embedding.
	MinAUC = 0.6
	MinMMD = 0.02
	// MinRows is the number of rows on either side below which nothing is said.
	MinRows = 100
)

// ErrTooFewRows means that there are too few rows to tell whether there is drift.
var ErrTooFewRows = errors.New("too few rows to tell")

// The names of the tests in Column.Scores.
const (
	TestKS            = "ks"             // Kolmogorov–Smirnov, the statistic D
	TestPSI           = "psi"            // Population Stability Index
	TestWasserstein   = "wasserstein"    // in standard deviations of the reference
	TestJensenShannon = "jensen_shannon" // the distance, in bits
	TestChiSquare     = "chi_square"     // Pearson's statistic
	TestMMD           = "mmd"            // squared maximum mean discrepancy
	TestAUC           = "auc"            // of the classifier that tells the sides apart
)

// Column is what was found about one column.
type Column struct {
	Name     string  `json:"column" doc:"Name of the column, as in the prediction log."`
	Drift    bool    `json:"drift" doc:"Whether it has drifted: the adjusted p-value is below alpha, and one of the scores is not small."`
	P        float64 `json:"p_value" doc:"Probability of such a difference between two samples of the same pictures."`
	Adjusted float64 `json:"adjusted_p_value" doc:"The same, adjusted by Holm's method for the number of columns."`
	// Scores are the tests' statistics by name. A score that is not defined is not there.
	Scores  map[string]float64 `json:"scores" doc:"Statistics of the tests: ks, psi, wasserstein, jensen_shannon, chi_square, mmd, auc."`
	Unknown string             `json:"unknown,omitempty" doc:"Why the column was not judged; absent when it was."`
}

// Result is a comparison.
type Result struct {
	Drift     bool     `json:"drift" doc:"Whether any column has drifted."`
	Model     string   `json:"model" doc:"Digest of the model."`
	Alpha     float64  `json:"alpha" doc:"Probability of a false alarm, of all columns together."`
	Reference int      `json:"reference_rows" doc:"Rows of the reference that were compared."`
	Current   int      `json:"current_rows" doc:"Rows of the window that were compared, a sample of them."`
	Columns   []Column `json:"columns" doc:"What was found, column by column."`
}

// Drifted names the columns that have drifted.
func (r *Result) Drifted() []string {
	var names []string
	for _, c := range r.Columns {
		if c.Drift {
			names = append(names, c.Name)
		}
	}
	return names
}

// Unknown is columns that could not be judged, for one reason.
type Unknown struct {
	Columns []string
	Reason  string
}

// String says so in words.
func (u Unknown) String() string { return strings.Join(u.Columns, ", ") + ": " + u.Reason }

// Unknown lists the columns that could not be judged.
func (r *Result) Unknown() []Unknown {
	var list []Unknown
	for _, c := range r.Columns {
		i := slices.IndexFunc(list, func(u Unknown) bool { return u.Reason == c.Unknown })
		switch {
		case c.Unknown == "":
		case i < 0:
			list = append(list, Unknown{[]string{c.Name}, c.Unknown})
		default:
			list[i].Columns = append(list[i].Columns, c.Name)
		}
	}
	return list
}

// Compare holds current, rows of one model, against the reference. The rows must have
// finite numbers. The same rows in the same order give the same result. It is an
// ErrTooFewRows when either side has less than MinRows.
func Compare(reference, current []Row) (*Result, error) {
	return CompareYielding(reference, current, func() {})
}

// CompareYielding is Compare for a program that has other things to do: every few
// milliseconds of work it calls rest, which may take its time.
func CompareYielding(reference, current []Row, rest func()) (*Result, error) {
	if n := len(reference); n < MinRows {
		return nil, fmt.Errorf("%w: the reference has %d, and it takes %d; train on more pictures, or hold more of them out (experiment.val_split)", ErrTooFewRows, n, MinRows)
	}
	if n := len(current); n < MinRows {
		return nil, fmt.Errorf("%w: there are %d of this model, and it takes %d; wait for more, or look at a longer time", ErrTooFewRows, n, MinRows)
	}
	r := &Result{Model: current[0].Model, Alpha: Alpha, Reference: len(reference), Current: len(current)}
	large := map[string]bool{} // whether the difference matters, if it is none of chance
	for _, n := range numbers {
		rest()
		known := func(rows []Row) bool { return rows[0].Width > 0 }
		if (n.name == "width" || n.name == "height") && !known(reference) {
			r.Columns = append(r.Columns, unknown(n.name, unknownToReference))
			continue
		}
		c := compareNumbers(column(reference, n.of), column(current, n.of))
		c.Name = n.name
		r.Columns = append(r.Columns, c)
		large[n.name] = c.Scores[TestPSI] >= MinPSI || c.Scores[TestWasserstein] >= MinWasserstein || c.Scores[TestJensenShannon] >= MinJensenShannon
	}
	for _, n := range categories {
		if n.of(&reference[0]) == "" {
			r.Columns = append(r.Columns, unknown(n.name, unknownToReference))
			continue
		}
		c := compareCategories(reference, current, n.of)
		c.Name = n.name
		r.Columns = append(r.Columns, c)
		large[n.name] = c.Scores[TestPSI] >= MinPSI || c.Scores[TestJensenShannon] >= MinJensenShannon
	}
	c := compareEmbeddings(reference, current, rest)
	r.Columns = append(r.Columns, c)
	large[c.Name] = c.Scores[TestMMD] >= MinMMD || c.Scores[TestAUC] >= MinAUC

	var judged []int
	var p []float64
	for i, c := range r.Columns {
		if c.Unknown == "" {
			judged, p = append(judged, i), append(p, c.P)
		}
	}
	for k, adjusted := range Holm(p) {
		c := &r.Columns[judged[k]]
		c.Adjusted = adjusted
		c.Drift = adjusted < Alpha && large[c.Name]
		r.Drift = r.Drift || c.Drift
	}
	return r, nil
}

// unknown is a column that is not judged, with p-values that say nothing.
func unknown(name, reason string) Column {
	return Column{Name: name, P: 1, Adjusted: 1, Scores: map[string]float64{}, Unknown: reason}
}

const unknownToReference = "the reference is made of prepared data, which does not keep it"

// column returns the values of a column, sorted.
func column(rows []Row, of func(*Row) float64) []float64 {
	values := make([]float64, len(rows))
	for i := range rows {
		values[i] = of(&rows[i])
	}
	slices.Sort(values)
	return values
}

func compareNumbers(reference, current []float64) Column {
	c := Column{Scores: map[string]float64{}}
	c.Scores[TestKS], c.P = KolmogorovSmirnov(reference, current)
	e := edges(reference)
	p, q := shares(reference, e), shares(current, e)
	c.Scores[TestPSI], c.Scores[TestJensenShannon] = PSI(p, q), JensenShannon(p, q)
	// A column that is constant in the reference has no deviation to measure by.
	if deviation := math.Sqrt(stat.PopVariance(reference, nil)); reference[0] != reference[len(reference)-1] {
		c.Scores[TestWasserstein] = Wasserstein(reference, current) / deviation
	}
	return c
}

func compareCategories(reference, current []Row, of func(*Row) string) Column {
	names := map[string]int{}
	var a, b []float64
	count := func(counts *[]float64, rows []Row) {
		for i := range rows {
			name := of(&rows[i])
			k, ok := names[name]
			if !ok {
				k = len(names)
				names[name] = k
				a, b = append(a, 0), append(b, 0)
			}
			(*counts)[k]++
		}
	}
	count(&a, reference)
	count(&b, current)
	c := Column{Scores: map[string]float64{}}
	c.Scores[TestChiSquare], c.P = ChiSquare(a, b)
	for i := range a {
		a[i] /= float64(len(reference))
		b[i] /= float64(len(current))
	}
	c.Scores[TestPSI], c.Scores[TestJensenShannon] = PSI(a, b), JensenShannon(a, b)
	return c
}

func compareEmbeddings(reference, current []Row, rest func()) Column {
	const name = "embedding"
	width := len(reference[0].Embedding)
	if width == 0 {
		return unknown(name, "the reference has no embeddings")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	a, b := Embeddings(reference, width, rng), Embeddings(current, width, rng)
	if least := min(len(a), len(b)); least < MinRows {
		return unknown(name, fmt.Sprintf("%d rows have an embedding of %d numbers, and it takes %d", least, width, MinRows))
	}
	c := Column{Name: name, Scores: map[string]float64{}}
	c.Scores[TestMMD], c.P = MMD(a, b, rng, rest)
	c.Scores[TestAUC] = DomainAUC(a, b, rest)
	return c
}

// Embeddings returns at most 400 embeddings of the given width, drawn by rng.
func Embeddings(rows []Row, width int, rng *rand.Rand) [][]float64 {
	var vectors [][]float64
	for _, i := range rng.Perm(len(rows)) {
		if e := rows[i].Embedding; len(e) == width {
			v := make([]float64, width)
			for k, x := range e {
				v[k] = float64(x)
			}
			vectors = append(vectors, v)
		}
		if len(vectors) == compared {
			break
		}
	}
	return vectors
}

// SampleSize is how many rows a Sampler keeps.
const SampleSize = 5000

// Sampler keeps a uniform sample of the rows of a stream (Vitter's algorithm R), of
// however many in bounded memory. The same stream gives the same sample. Its zero
// value is ready for use.
type Sampler struct {
	Rows []Row
	Seen int // rows that were offered

	rng *rand.Rand
}

// Slot counts one more row and tells where to keep it; nil when it is not kept, so
// that it need not be made.
func (s *Sampler) Slot() *Row {
	if s.rng == nil {
		s.rng = rand.New(rand.NewPCG(1, 1))
	}
	s.Seen++
	if len(s.Rows) < SampleSize {
		s.Rows = append(s.Rows, Row{})
		return &s.Rows[len(s.Rows)-1]
	}
	if i := s.rng.IntN(s.Seen); i < SampleSize {
		return &s.Rows[i]
	}
	return nil
}

// Sorted returns the rows by time.
func (s *Sampler) Sorted() []Row {
	slices.SortStableFunc(s.Rows, func(a, b Row) int { return a.Time.Compare(b.Time) })
	return s.Rows
}

// NumericColumn returns the function that reads a column of numbers; nil where there is none of
// that name.
func NumericColumn(name string) func(*Row) float64 {
	for _, n := range numbers {
		if n.name == name {
			return n.of
		}
	}
	return nil
}

// CategoricalColumn is the same for a column of categories.
func CategoricalColumn(name string) func(*Row) string {
	for _, n := range categories {
		if n.name == name {
			return n.of
		}
	}
	return nil
}
