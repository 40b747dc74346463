// Package drift detects whether the images that a model classifies, and its predictions, have
// changed since training.
//
// Training writes a [Reference], a file with a sample of the model's predictions on the
// validation split. [Compare] compares it with a recent sample of the prediction log (see
// [Sampler]): each column on its own, and the embeddings as a whole.
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

// Row holds the fields of one prediction that are compared. Their names and meanings are those
// of the prediction log.
type Row struct {
	Time        time.Time
	Model       string
	Label       string
	Probability float64
	// Format is empty, and Width and Height are 0, if unknown. A prepared dataset doesn't
	// store them.
	Format        string
	Width, Height int64
	// See imaging.Stats.
	Mean, StdDev, Brightness, Contrast, Sharpness, Saturation float64
	Embedding                                                 []float32
}

// Finite reports whether all numbers of the row are finite: neither NaN nor infinite.
func (r *Row) Finite() bool {
	sum := 0.0 // 0·x is NaN unless x is finite
	for _, n := range numbers {
		sum += 0 * n.value(r)
	}
	for _, v := range r.Embedding {
		sum += 0 * float64(v)
	}
	return sum == 0
}

// The columns that Compare tests, except the embedding.
var (
	numbers = []struct {
		name  string
		value func(*Row) float64
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
		name  string
		value func(*Row) string
	}{
		{"label", func(r *Row) string { return r.Label }},
		{"image_format", func(r *Row) string { return r.Format }},
	}
)

// Thresholds. docs/explanation/drift.md explains each and how it was measured.
const (
	// Alpha is the significance level: the probability of a false alarm in one comparison,
	// over all columns together.
	Alpha = 0.01
	// MinPSI, MinWasserstein and MinJensenShannon are the smallest effect sizes that count as
	// drift. A significant difference is drift only if it reaches at least one of them, because
	// with many rows even a negligible difference is significant.
	MinPSI           = 0.1
	MinWasserstein   = 0.1 // standard deviations of the reference
	MinJensenShannon = 0.1
	// MinAUC and MinMMD are the smallest effect sizes for the embedding.
	MinAUC = 0.6
	MinMMD = 0.02
	// MinRows is the smallest number of rows per side that can be compared.
	MinRows = 100
)

// ErrTooFewRows is returned if there are too few rows to detect drift.
var ErrTooFewRows = errors.New("too few rows")

// Keys of Column.Scores.
const (
	TestKS            = "ks"             // Kolmogorov–Smirnov, the statistic D
	TestPSI           = "psi"            // Population Stability Index
	TestWasserstein   = "wasserstein"    // in standard deviations of the reference
	TestJensenShannon = "jensen_shannon" // the distance, in bits
	TestChiSquare     = "chi_square"     // Pearson's statistic
	TestMMD           = "mmd"            // squared maximum mean discrepancy
	TestAUC           = "auc"            // of a classifier that separates the two sides
)

// Column is the result for one column.
type Column struct {
	Name     string  `json:"column" doc:"Name of the column, as in the prediction log."`
	Drift    bool    `json:"drift" doc:"Whether the column has drifted: the adjusted p-value is below alpha, and at least one score reaches its threshold."`
	P        float64 `json:"p_value" doc:"Probability of a difference at least this large between two samples of the same distribution."`
	Adjusted float64 `json:"adjusted_p_value" doc:"The p-value, adjusted for the number of columns by Holm's method."`
	// Scores holds the test statistics by name. Statistics that are undefined are absent.
	Scores  map[string]float64 `json:"scores" doc:"Statistics of the tests: ks, psi, wasserstein, jensen_shannon, chi_square, mmd, auc."`
	Unknown string             `json:"unknown,omitempty" doc:"Why the column could not be compared; absent if it was compared."`
}

// Result is the result of a comparison.
type Result struct {
	Drift     bool     `json:"drift" doc:"Whether any column has drifted."`
	Model     string   `json:"model" doc:"Digest of the model."`
	Alpha     float64  `json:"alpha" doc:"Probability of a false alarm, over all columns together."`
	Reference int      `json:"reference_rows" doc:"Number of reference rows compared."`
	Current   int      `json:"current_rows" doc:"Number of rows compared: a sample of those in the time window."`
	Columns   []Column `json:"columns" doc:"Result for each column."`
}

// Drifted returns the names of the columns that have drifted.
func (r *Result) Drifted() []string {
	var names []string
	for _, c := range r.Columns {
		if c.Drift {
			names = append(names, c.Name)
		}
	}
	return names
}

// Unknown lists the columns that couldn't be compared for the same reason.
type Unknown struct {
	Columns []string
	Reason  string
}

// String returns the columns and the reason, such as "width, height: …".
func (u Unknown) String() string { return strings.Join(u.Columns, ", ") + ": " + u.Reason }

// Unknown returns the columns that couldn't be compared, grouped by reason.
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

// Compare tests whether current, rows of a single model, differs from the rows of the model's
// reference. The numbers in all rows must be finite. The same rows in the same order give the
// same result. It returns [ErrTooFewRows] if either side has fewer than [MinRows] rows.
func Compare(reference, current []Row) (*Result, error) {
	return CompareYielding(reference, current, func() {})
}

// CompareYielding is like Compare but calls yield every few milliseconds of work, so that a
// program can throttle the comparison in favor of more urgent work. yield may block.
func CompareYielding(reference, current []Row, yield func()) (*Result, error) {
	if n := len(reference); n < MinRows {
		return nil, fmt.Errorf("%w: the reference has %d rows, at least %d are required; train on more images, or increase experiment.val_split", ErrTooFewRows, n, MinRows)
	}
	if n := len(current); n < MinRows {
		return nil, fmt.Errorf("%w: the model has %d predictions, at least %d are required; wait for more, or use a longer time window", ErrTooFewRows, n, MinRows)
	}
	r := &Result{Model: current[0].Model, Alpha: Alpha, Reference: len(reference), Current: len(current)}
	large := map[string]bool{} // column → whether the effect size reaches a threshold
	for _, n := range numbers {
		yield()
		known := func(rows []Row) bool { return rows[0].Width > 0 }
		if (n.name == "width" || n.name == "height") && !known(reference) {
			r.Columns = append(r.Columns, unknown(n.name, unknownToReference))
			continue
		}
		a, b := column(reference, n.value), column(current, n.value)
		mergeClose(a, b)
		c := compareNumbers(a, b)
		c.Name = n.name
		r.Columns = append(r.Columns, c)
		large[n.name] = c.Scores[TestPSI] >= MinPSI || c.Scores[TestWasserstein] >= MinWasserstein || c.Scores[TestJensenShannon] >= MinJensenShannon
	}
	for _, n := range categories {
		if n.value(&reference[0]) == "" {
			r.Columns = append(r.Columns, unknown(n.name, unknownToReference))
			continue
		}
		c := compareCategories(reference, current, n.value)
		c.Name = n.name
		r.Columns = append(r.Columns, c)
		large[n.name] = c.Scores[TestPSI] >= MinPSI || c.Scores[TestJensenShannon] >= MinJensenShannon
	}
	c := compareEmbeddings(reference, current, yield)
	r.Columns = append(r.Columns, c)
	large[c.Name] = c.Scores[TestMMD] >= MinMMD || c.Scores[TestAUC] >= MinAUC

	var compared []int
	var p []float64
	for i, c := range r.Columns {
		if c.Unknown == "" {
			compared, p = append(compared, i), append(p, c.P)
		}
	}
	for k, adjusted := range Holm(p) {
		c := &r.Columns[compared[k]]
		c.Adjusted = adjusted
		c.Drift = adjusted < Alpha && large[c.Name]
		r.Drift = r.Drift || c.Drift
	}
	return r, nil
}

// unknown returns the result for a column that can't be compared. Its p-values are 1.
func unknown(name, reason string) Column {
	return Column{Name: name, P: 1, Adjusted: 1, Scores: map[string]float64{}, Unknown: reason}
}

const unknownToReference = "not in the reference: prepared datasets don't store it"

// column returns the values of a column in ascending order.
func column(rows []Row, value func(*Row) float64) []float64 {
	values := make([]float64, len(rows))
	for i := range rows {
		values[i] = value(&rows[i])
	}
	slices.Sort(values)
	return values
}

// tolerance is the difference up to which values count as equal, relative to 1 or to the value if that
// is larger. It is far above the rounding errors of a mean of 3,072 float64 values, at most 4e-13, and
// below every real difference: one level of one pixel changes a mean by at least 4e-7. Relative to
// the value alone, no difference from 0 would be small enough.
const tolerance = 1e-9

// mergeClose makes values of two samples in ascending order equal if they differ by less than the
// tolerance. Otherwise a column that is constant except for rounding errors would seem to drift:
// no difference is small in standard deviations of such a column.
func mergeClose(a, b []float64) {
	for i, j := 0, 0; i < len(a) || j < len(b); {
		low := math.Inf(1)
		if i < len(a) {
			low = a[i]
		}
		if j < len(b) {
			low = min(low, b[j])
		}
		high := low + tolerance*max(1, math.Abs(low))
		for ; i < len(a) && a[i] <= high; i++ {
			a[i] = low
		}
		for ; j < len(b) && b[j] <= high; j++ {
			b[j] = low
		}
	}
}

func compareNumbers(reference, current []float64) Column {
	c := Column{Scores: map[string]float64{}}
	c.Scores[TestKS], c.P = KolmogorovSmirnov(reference, current)
	e := edges(reference)
	p, q := shares(reference, e), shares(current, e)
	c.Scores[TestPSI], c.Scores[TestJensenShannon] = PSI(p, q), JensenShannon(p, q)
	// Undefined if the column is constant in the reference: the standard deviation is 0.
	if stdDev := math.Sqrt(stat.PopVariance(reference, nil)); reference[0] != reference[len(reference)-1] {
		c.Scores[TestWasserstein] = Wasserstein(reference, current) / stdDev
	}
	return c
}

func compareCategories(reference, current []Row, value func(*Row) string) Column {
	names := map[string]int{}
	var a, b []float64
	count := func(counts *[]float64, rows []Row) {
		for i := range rows {
			name := value(&rows[i])
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

func compareEmbeddings(reference, current []Row, yield func()) Column {
	const name = "embedding"
	width := len(reference[0].Embedding)
	if width == 0 {
		return unknown(name, "the reference has no embeddings")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	a, b := Embeddings(reference, width, rng), Embeddings(current, width, rng)
	if least := min(len(a), len(b)); least < MinRows {
		return unknown(name, fmt.Sprintf("%d rows have an embedding of %d numbers, at least %d are required", least, width, MinRows))
	}
	c := Column{Name: name, Scores: map[string]float64{}}
	c.Scores[TestMMD], c.P = MMD(a, b, rng, yield)
	c.Scores[TestAUC] = DomainAUC(a, b, yield)
	return c
}

// Embeddings returns a random sample, drawn by rng, of at most 400 embeddings of the given
// width.
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
		if len(vectors) == maxEmbeddings {
			break
		}
	}
	return vectors
}

// SampleSize is the maximum number of rows that a Sampler keeps.
const SampleSize = 5000

// Sampler draws a uniform random sample from a stream of rows in bounded memory (Vitter's
// algorithm R). Call Slot for each row of the stream. The same stream gives the same sample.
// The zero value is ready for use.
type Sampler struct {
	Rows []Row
	Seen int // number of rows in the stream so far

	rng *rand.Rand
}

// Slot counts the next row of the stream and returns where to store it, or nil if the row
// isn't part of the sample. Callers need to build only the rows that are stored.
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

// Sorted sorts the sample by time and returns it.
func (s *Sampler) Sorted() []Row {
	slices.SortStableFunc(s.Rows, func(a, b Row) int { return a.Time.Compare(b.Time) })
	return s.Rows
}

// NumericColumn returns the function that reads the numeric column of the given name from a
// row, or nil if there is no such column.
func NumericColumn(name string) func(*Row) float64 {
	for _, n := range numbers {
		if n.name == name {
			return n.value
		}
	}
	return nil
}

// CategoricalColumn is like NumericColumn for columns with categories: label and image_format.
func CategoricalColumn(name string) func(*Row) string {
	for _, n := range categories {
		if n.name == name {
			return n.value
		}
	}
	return nil
}
