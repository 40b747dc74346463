package drift

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// randomRows returns n rows of one model, with all numbers shifted by the given number of
// standard deviations.
func randomRows(seed uint64, n int, moved float64) []Row {
	rng := rand.New(rand.NewPCG(seed, 0))
	rows := make([]Row, n)
	for i := range rows {
		u := func() float64 { return 0.5 + 0.1*(rng.NormFloat64()+moved) }
		r := &rows[i]
		*r = Row{
			Time: time.Unix(int64(i), 0), Model: "sha256:aa", Label: "REAL", Probability: u(), Format: "jpeg", Width: 32, Height: 32,
			Mean: u(), StdDev: u(), Brightness: u(), Contrast: u(), Sharpness: u(), Saturation: u(), Embedding: make([]float32, 16),
		}
		if r.Probability > 0.5 {
			r.Label = "FAKE"
		}
		if rng.IntN(3) == 0 {
			r.Format, r.Width, r.Height = "png", int64(100+rng.IntN(400)), int64(100+rng.IntN(400))
		}
		for k := range r.Embedding {
			r.Embedding[k] = float32(rng.NormFloat64() + moved)
		}
	}
	return rows
}

func compare(t *testing.T, reference, current []Row) *Result {
	t.Helper()
	r, err := Compare(reference, current)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Result) column(t *testing.T, name string) Column {
	t.Helper()
	for _, c := range r.Columns {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no column %s", name)
	return Column{}
}

func TestCompare_noDrift(t *testing.T) {
	for seed := range uint64(8) {
		if r := compare(t, randomRows(seed, 500, 0), randomRows(1000+seed, 300, 0)); r.Drift {
			t.Errorf("seed %d: drift in %v", seed, r.Drifted())
		}
	}
}

func TestCompare_drift(t *testing.T) {
	reference := randomRows(1, 800, 0)
	for name, move := range map[string]func(*Row){
		"probability":  func(r *Row) { r.Probability += 0.1 },
		"mean":         func(r *Row) { r.Mean += 0.1 },
		"std_dev":      func(r *Row) { r.StdDev += 0.1 },
		"brightness":   func(r *Row) { r.Brightness += 0.1 },
		"contrast":     func(r *Row) { r.Contrast += 0.1 },
		"sharpness":    func(r *Row) { r.Sharpness += 0.1 },
		"saturation":   func(r *Row) { r.Saturation += 0.1 },
		"width":        func(r *Row) { r.Width *= 3 },
		"height":       func(r *Row) { r.Height *= 3 },
		"label":        func(r *Row) { r.Label = "FAKE" },
		"image_format": func(r *Row) { r.Format = "webp" },
		"embedding": func(r *Row) {
			for k := range r.Embedding {
				r.Embedding[k] *= 2 // a linear classifier can't detect this
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			current := randomRows(2, 400, 0)
			for i := range current {
				move(&current[i])
			}
			r := compare(t, reference, current)
			if got := r.Drifted(); !slices.Equal(got, []string{name}) {
				t.Errorf("drift in %v", got)
			}
		})
	}
}

func TestCompare_smallEffect(t *testing.T) {
	current := randomRows(2, 20000, 0)
	for i := range current {
		current[i].Mean += 0.006
	}
	c := compare(t, randomRows(1, 20000, 0), current).column(t, "mean")
	if c.Adjusted >= Alpha {
		t.Fatalf("adjusted p = %g, want a significant difference", c.Adjusted)
	}
	if c.Drift {
		t.Errorf("drift with scores %v, want none", c.Scores)
	}
}

func TestCompare_tooFewRows(t *testing.T) {
	for _, n := range []int{0, 10, MinRows - 1} {
		if _, err := Compare(randomRows(1, 500, 0), randomRows(2, n, 9)); !errors.Is(err, ErrTooFewRows) {
			t.Errorf("Compare with %d current rows: error %v, want ErrTooFewRows", n, err)
		}
		if _, err := Compare(randomRows(1, n, 0), randomRows(2, 500, 9)); !errors.Is(err, ErrTooFewRows) {
			t.Errorf("Compare with %d reference rows: error %v, want ErrTooFewRows", n, err)
		}
	}
}

func TestCompare_constantColumns(t *testing.T) {
	set := func(rows []Row, v float64) []Row {
		for i := range rows {
			rows[i].Saturation, rows[i].Label = v, "REAL"
			rows[i].Embedding = []float32{1, 2}
		}
		return rows
	}
	r := compare(t, set(randomRows(1, 300, 0), 0.2), set(randomRows(2, 300, 0), 0.2))
	if r.Drift {
		t.Errorf("drift in %v", r.Drifted())
	}
	for _, c := range r.Columns {
		for test, score := range c.Scores {
			if math.IsNaN(score) || math.IsInf(score, 0) {
				t.Errorf("%s: %s is %g", c.Name, test, score)
			}
		}
	}
	for _, v := range []float64{0.1, 0.3} {
		r = compare(t, set(randomRows(1, 300, 0), 0.2), set(randomRows(2, 300, 0), v))
		if got := r.Drifted(); !slices.Equal(got, []string{"saturation"}) {
			t.Errorf("0.2 changed to %g: drift in %v, want saturation", v, got)
		}
	}
}

func TestCompare_unknownColumns(t *testing.T) {
	reference := randomRows(1, 300, 0)
	for i := range reference {
		reference[i].Format, reference[i].Width, reference[i].Height, reference[i].Embedding = "", 0, 0, nil
	}
	r := compare(t, reference, randomRows(2, 300, 0))
	if got := r.Unknown(); len(got) != 2 || !slices.Equal(got[0].Columns, []string{"width", "height", "image_format"}) || !slices.Equal(got[1].Columns, []string{"embedding"}) {
		t.Errorf("Unknown() = %v", got)
	}
	if r.Drift {
		t.Errorf("drift in %v", r.Drifted())
	}
	current := randomRows(2, 300, 0)
	for i := range current {
		current[i].Embedding = current[i].Embedding[:3]
	}
	if c := compare(t, randomRows(1, 300, 0), current).column(t, "embedding"); c.Unknown == "" || c.Drift {
		t.Errorf("embeddings of different widths: %+v, want unknown", c)
	}
}

func TestCompare_deterministic(t *testing.T) {
	reference, current := randomRows(1, 600, 0), randomRows(2, 600, 0.1)
	first, second := compare(t, reference, current), compare(t, reference, current)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("first comparison:\n%+v\nsecond:\n%+v", first, second)
	}
}

func TestRow_Finite(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		a, b := randomRows(1, 1, 0)[0], randomRows(1, 1, 0)[0]
		if !a.Finite() {
			t.Fatal("Finite() = false for a finite row")
		}
		a.Contrast, b.Embedding[3] = v, float32(v)
		if a.Finite() || b.Finite() {
			t.Errorf("Finite() = true for a row with %g", v)
		}
	}
}

func TestReference_roundTrip(t *testing.T) {
	want := &Reference{Model: "sha256:aa", Data: "sha256:bb", Rows: randomRows(1, 150, 0)}
	for i := range want.Rows {
		r := &want.Rows[i]
		r.Time, r.Format, r.Width, r.Height = time.Time{}, "", 0, 0
	}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := want.Marshal()
	if err != nil || !slices.Equal(data, again) {
		t.Errorf("Marshal isn't deterministic (error %v)", err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, ReferenceFile)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, named := range []string{path, dir} {
		got, err := ReadReference(named)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("ReadReference(%s) = %+v, want %+v", named, got, want)
		}
	}
}

func TestReadReference_invalid(t *testing.T) {
	valid, err := (&Reference{Model: "sha256:aa", Rows: randomRows(1, 150, 0)}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	nan := randomRows(1, 150, 0)
	nan[7].Mean = math.NaN()
	broken, err := (&Reference{Model: "sha256:aa", Rows: nan}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("time,model\n"), "truncated": valid[:len(valid)/2], "nan": broken,
		"corrupt": append(slices.Clone(valid[:len(valid)-60]), make([]byte, 60)...),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReference(path); !errors.Is(err, ErrNoReference) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadReference(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadReference(missing file): error %v, want os.ErrNotExist", err)
	}
}

func TestSampler(t *testing.T) {
	take := func() *Sampler {
		var s Sampler
		for i := range 20 * SampleSize {
			if r := s.Slot(); r != nil {
				r.Time = time.Unix(int64(i), 0)
			}
		}
		return &s
	}
	s := take()
	if len(s.Rows) != SampleSize || s.Seen != 20*SampleSize {
		t.Fatalf("kept %d rows of %d", len(s.Rows), s.Seen)
	}
	// Each tenth of the stream contributes 500 rows on average, with a standard deviation of 21.
	var tenths [10]int
	for _, r := range s.Rows {
		tenths[r.Time.Unix()/(2*SampleSize)]++
	}
	for i, n := range tenths {
		if n < 400 || n > 600 {
			t.Errorf("%d rows from tenth %d of the stream, want about 500", n, i)
		}
	}
	if !reflect.DeepEqual(take().Sorted(), s.Sorted()) {
		t.Error("the same stream gives different samples")
	}
}

func BenchmarkCompare(b *testing.B) {
	widen := func(rows []Row) []Row {
		rng := rand.New(rand.NewPCG(9, 0))
		for i := range rows {
			rows[i].Embedding = make([]float32, 128)
			for k := range rows[i].Embedding {
				rows[i].Embedding[k] = float32(rng.NormFloat64())
			}
		}
		return rows
	}
	reference := widen(randomRows(1, ReferenceRows, 0))
	for name, moved := range map[string]float64{"no_drift": 0, "drift": 1} {
		current := widen(randomRows(2, SampleSize, moved))
		for i := range current {
			for k := range current[i].Embedding {
				current[i].Embedding[k] += float32(moved)
			}
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compare(reference, current); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Differences as small as rounding errors aren't drift, even of columns that are otherwise constant.
func TestCompare_RoundingErrors(t *testing.T) {
	constant := func(v float64, noise float64) []Row {
		rows := randomRows(1, 500, 0)
		for i := range rows {
			r := &rows[i]
			r.Mean, r.StdDev, r.Sharpness = v+noise*float64(i%7), noise, v
			for k := range r.Embedding {
				r.Embedding[k] = float32(noise)
			}
		}
		return rows
	}
	for _, test := range []struct {
		name               string
		reference, current []Row
		drift              []string
	}{
		{"zero_and_1e-12", constant(0, 0), constant(1e-12, 1e-12), nil},
		{"1e-12_and_zero", constant(1e-12, 1e-12), constant(0, 0), nil},
		{"constant_and_rounding_errors", constant(0.7, 0), constant(0.7, 1e-15), nil},
		{"rounding_errors_and_constant", constant(0.7, 1e-15), constant(0.7, 0), nil},
		{"constants_that_differ", constant(0.7, 0), constant(0.701, 0), []string{"mean", "sharpness"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := compare(t, test.reference, test.current).Drifted(); !slices.Equal(got, test.drift) {
				t.Errorf("drift in %v, want %v", got, test.drift)
			}
		})
	}
}
