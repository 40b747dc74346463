// Driftpower measures the false alarm rate of drift checks, and how often they detect known changes of
// images. It prints the table of docs/explanation/drift.md:
//
//	go run ./trainer/driftpower --run RUN --data DIR
//
// It uses the images of the test split, which the run wasn't trained on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"

	"fakeart/internal/drift"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/trainer/corrupt"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
)

func main() {
	run := flag.String("run", "", "run folder with the model and the drift reference")
	data := flag.String("data", "", "dataset of the run")
	draws := flag.Int("draws", 200, "windows per result without a change; a tenth of them with a change")
	flag.Parse()
	if err := measure(context.Background(), os.Stdout, *run, *data, *draws); err != nil {
		fmt.Fprintln(os.Stderr, "driftpower:", err)
		os.Exit(1)
	}
}

// sizes are the numbers of rows per window.
var sizes = []int{100, 300, 1000}

// pool is the maximum number of images of a shift from which windows are drawn.
const pool = 5000

// shift is a change of the images.
type shift struct {
	name     string
	fake     float64 // fraction of FAKE images
	fraction float64 // of images that apply changes
	apply    func([]uint8, *rand.Rand) error
}

func shifts() []shift {
	with := func(f func([]uint8, float64, *rand.Rand) error, amount float64) func([]uint8, *rand.Rand) error {
		return func(p []uint8, rng *rand.Rand) error { return f(p, amount, rng) }
	}
	return []shift{
		{"blur, σ 0.4 pixels", 0.5, 1, with(corrupt.Blur, 0.4)},
		{"blur, σ 1 pixel", 0.5, 1, with(corrupt.Blur, 1)},
		{"blur, σ 1 pixel, every fifth image", 0.5, 0.2, with(corrupt.Blur, 1)},
		{"JPEG of quality 80", 0.5, 1, with(corrupt.JPEG, 80)},
		{"JPEG of quality 20", 0.5, 1, with(corrupt.JPEG, 20)},
		{"brightness + 0.05", 0.5, 1, with(corrupt.Brightness, 0.05)},
		{"brightness + 0.2", 0.5, 1, with(corrupt.Brightness, 0.2)},
		{"noise, σ 0.04", 0.5, 1, with(corrupt.Noise, 0.04)},
		{"noise, σ 0.1", 0.5, 1, with(corrupt.Noise, 0.1)},
		{"60 % FAKE instead of 50 %", 0.6, 0, nil},
		{"80 % FAKE instead of 50 %", 0.8, 0, nil},
	}
}

func measure(ctx context.Context, out io.Writer, run, data string, draws int) error {
	reference, err := drift.ReadReference(run)
	if err != nil {
		return err
	}
	f, err := model.Open(filepath.Join(run, "model.onnx"))
	if err != nil {
		return err
	}
	test, _, err := dataset.Load(data, dataset.Test)
	if err != nil {
		return err
	}
	if n := test.Len() / 2; n < slices.Max(sizes) {
		return fmt.Errorf("%s has %d test images, but %d are needed", data, test.Len(), 2*slices.Max(sizes))
	}
	if f.Digest != reference.Model {
		return errors.New("the drift reference belongs to another model")
	}
	clean, err := rowsOf(ctx, f, test)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "windows per result: %d without a change, %d with a change; reference: %d rows; images: %d\n\n", draws, (draws+9)/10, len(reference.Rows), test.Len())
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(t, "| images")
	for _, n := range sizes {
		fmt.Fprintf(t, "\t| %d rows", n)
	}
	fmt.Fprint(t, "\t| drifted columns (1000 rows)\t|\n|---")
	for range sizes {
		fmt.Fprint(t, "\t|---")
	}
	fmt.Fprint(t, "\t|---\t|\n")
	line := func(name string, draws int, window func(n int, rng *rand.Rand) (reference, current []drift.Row)) error {
		fmt.Fprintf(t, "| %s", name)
		columns := ""
		for _, n := range sizes {
			found, by, err := count(draws, func(rng *rand.Rand) ([]drift.Row, []drift.Row) { return window(n, rng) })
			if err != nil {
				return err
			}
			fmt.Fprintf(t, "\t| %.1f %%", 100*float64(found)/float64(draws))
			if n == 1000 {
				columns = by
			}
		}
		fmt.Fprintf(t, "\t| %s\t|\n", columns)
		return t.Flush()
	}
	if err := line("no change, both sides resampled", draws, func(n int, rng *rand.Rand) ([]drift.Row, []drift.Row) {
		all := pick(clean, min(len(reference.Rows)+n, len(clean)), rng)
		return all[n:], all[:n]
	}); err != nil {
		return err
	}
	if err := line("no change, the run's reference", draws, func(n int, rng *rand.Rand) ([]drift.Row, []drift.Row) {
		return reference.Rows, pick(clean, n, rng)
	}); err != nil {
		return err
	}
	for _, s := range shifts() {
		changed, err := s.rows(ctx, f, test)
		if err != nil {
			return err
		}
		if err := line(s.name, (draws+9)/10, func(n int, rng *rand.Rand) ([]drift.Row, []drift.Row) {
			return reference.Rows, pick(changed, n, rng)
		}); err != nil {
			return err
		}
	}
	return nil
}

// rows returns the rows of images with the shift.
func (s shift) rows(ctx context.Context, f *model.File, test *dataset.Split) ([]drift.Row, error) {
	rng := rand.New(rand.NewPCG(1, 5))
	fakes := int(s.fake * float64(min(pool, test.Len()/2)))
	left := [2]int{min(pool, test.Len()/2) - fakes, fakes}
	changed := &dataset.Split{Side: test.Side, Classes: test.Classes}
	for _, i := range rng.Perm(test.Len()) {
		label := test.Labels[i]
		if left[label] == 0 {
			continue
		}
		left[label]--
		p := slices.Clone(test.Image(i))
		if rng.Float64() < s.fraction {
			if err := s.apply(p, rng); err != nil {
				return nil, err
			}
		}
		changed.Images, changed.Labels = append(changed.Images, p...), append(changed.Labels, label)
	}
	if left[0]+left[1] > 0 {
		return nil, fmt.Errorf("the test split has %d images too few", left[0]+left[1])
	}
	return rowsOf(ctx, f, changed)
}

// rowsOf returns the rows of images and the model's predictions for them.
func rowsOf(ctx context.Context, f *model.File, images *dataset.Split) ([]drift.Row, error) {
	rows := make([]drift.Row, images.Len())
	err := evaluate.Each(ctx, f, images, 64, func(i int, p evaluate.Prediction) {
		s := imaging.StatsOf(images.Image(i), images.Side, imaging.Channels)
		rows[i] = drift.Row{
			Model: f.Digest, Label: p.Label, Probability: p.Reported, Mean: s.Mean, StdDev: s.StdDev, Brightness: s.Brightness, Contrast: s.Contrast,
			Sharpness: s.Sharpness, Saturation: s.Saturation, Embedding: slices.Clone(p.Embedding),
		}
	})
	return rows, err
}

// pick draws n rows without replacement.
func pick(rows []drift.Row, n int, rng *rand.Rand) []drift.Row {
	var picked []drift.Row
	for _, i := range rng.Perm(len(rows))[:n] {
		picked = append(picked, rows[i])
	}
	return picked
}

// count draws windows and returns the number of those with drift, and the names of the columns that
// have drift in at least half of all windows.
func count(draws int, window func(*rand.Rand) (reference, current []drift.Row)) (found int, columns string, err error) {
	var next atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	by := map[string]int{}
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				draw := next.Add(1)
				if draw > int64(draws) {
					return
				}
				reference, current := window(rand.New(rand.NewPCG(uint64(draw), 6)))
				r, e := drift.Compare(reference, current)
				mu.Lock()
				if e != nil {
					err = e
				} else {
					if r.Drift {
						found++
					}
					for _, name := range r.Drifted() {
						by[name]++
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	var names []string
	for name, n := range by {
		if 2*n >= draws {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return by[b] - by[a] })
	for i, name := range names {
		if i > 0 {
			columns += ", "
		}
		columns += name
	}
	return found, columns, err
}
