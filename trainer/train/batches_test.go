package train

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
)

func TestHoldOut(t *testing.T) {
	for _, test := range []struct {
		real, fake int
		share      float64
		held       [2]int // REAL, FAKE
	}{
		{100, 100, 0.1, [2]int{10, 10}},
		{100, 40, 0.1, [2]int{10, 4}},
		{15, 4, 0.1, [2]int{2, 1}}, // at least one
		{2, 2, 0.01, [2]int{1, 1}},
		{3, 2, 0.5, [2]int{2, 1}}, // one remains for training
		{1, 9, 0.5, [2]int{0, 5}},
		{1, 9, 0.1, [2]int{0, 1}},
		{1, 1, 0.5, [2]int{0, 0}},
		{0, 10, 0.2, [2]int{0, 2}},
		{0, 0, 0.2, [2]int{0, 0}},
	} {
		t.Run(fmt.Sprintf("share_%v_of_%d_REAL_and_%d_FAKE", test.share, test.real, test.fake), func(t *testing.T) {
			labels := slices.Concat(slices.Repeat([]uint16{dataset.Fake}, test.fake), slices.Repeat([]uint16{dataset.Real}, test.real))
			learn, validate := holdOut(labels, test.share, 420)
			all := slices.Concat(learn, validate)
			slices.Sort(all)
			for i, index := range all {
				if i != index {
					t.Fatalf("%v and %v do not contain each image once", learn, validate)
				}
			}
			if len(all) != len(labels) {
				t.Errorf("%d of %d images are in one of the parts", len(all), len(labels))
			}
			if !slices.IsSorted(learn) || !slices.IsSorted(validate) {
				t.Errorf("%v and %v are not sorted", learn, validate)
			}
			var held [2]int
			for _, i := range validate {
				held[labels[i]]++
			}
			if held != test.held {
				t.Errorf("%v of REAL and FAKE are held out, want %v", held, test.held)
			}
			again, _ := holdOut(labels, test.share, 420)
			if !slices.Equal(again, learn) {
				t.Error("the same seed gives another split")
			}
			if len(validate) > 9 {
				if _, other := holdOut(labels, test.share, 421); slices.Equal(other, validate) {
					t.Error("another seed gives the same split")
				}
			}
		})
	}
}

// feederOf returns a feeder of 50 images without batches, to test its random draws.
func feederOf(t *testing.T, more ...string) *feeder {
	t.Helper()
	f := &feeder{config: configuration(t, "", more...)}
	for i := range 50 {
		f.indices = append(f.indices, 3*i) // the validation images are in between
	}
	return f
}

func TestFeeder_Order(t *testing.T) {
	f := feederOf(t)
	learn := slices.Clone(f.indices)
	seen := map[string]int{}
	for epoch := range 20 {
		order := f.order(epoch)
		if !slices.Equal(f.order(epoch), order) {
			t.Fatalf("order(%d) is not deterministic", epoch)
		}
		if other, ok := seen[fmt.Sprint(order)]; ok {
			t.Errorf("epochs %d and %d have the same order", epoch, other)
		}
		seen[fmt.Sprint(order)] = epoch
		slices.Sort(order)
		if !slices.Equal(order, learn) {
			t.Errorf("order(%d) does not contain each image once: %v", epoch, order)
		}
	}
	if !slices.Equal(f.indices, learn) {
		t.Error("order changed the training images")
	}
	if other := feederOf(t, "experiment.seed=421"); slices.Equal(other.order(0), f.order(0)) {
		t.Error("another seed gives the same order")
	}
}

// Each training step has its own random stream. The draws must be unbiased and independent, within
// a step and across consecutive steps.
func TestFeeder_DropoutFrequencies(t *testing.T) {
	const steps, n = 400, 64
	f := feederOf(t, "experiment.dropout=0.3")
	drops := make([][]bool, steps)
	for step := range steps {
		drops[step] = make([]bool, n)
		drop := f.drop(step)
		for i := range n {
			drops[step][i] = drop()
		}
	}
	for _, test := range []struct {
		name  string
		draws [][]bool
		share float64
	}{{"dropout", drops, 0.3}} {
		var place [n]int
		all, repeated := 0, 0
		for step, draws := range test.draws {
			for i, yes := range draws {
				if yes {
					place[i]++
					all++
					if step > 0 && test.draws[step-1][i] {
						repeated++
					}
				}
			}
		}
		check := func(event string, count, of int, share float64) {
			// Six standard deviations. The draws are fixed by the seed, so this check is
			// deterministic.
			if d := float64(count) - share*float64(of); math.Abs(d) > 6*math.Sqrt(share*(1-share)*float64(of)) {
				t.Errorf("%s: %s %d of %d, want about %v", test.name, event, count, of, share)
			}
		}
		check("drawn", all, steps*n, test.share)
		check("drawn twice in a row", repeated, (steps-1)*n, test.share*test.share)
		for i, count := range place {
			check(fmt.Sprintf("drawn for place %d", i), count, steps, test.share)
		}
	}
}

// sum returns the sum of the levels of an image.
func sum(pixels []uint8) (n int) {
	for _, v := range pixels {
		n += int(v)
	}
	return n
}

func TestFeeder_Augmentation(t *testing.T) {
	f := newTestFeeder(t, configuration(t, "", "augment=strong"), 24)
	batch := []int{3, 8, 1}
	images := func(batch []int, epoch, step int) (copies [][]uint8) {
		for _, p := range f.samples(batch, epoch, step).Images {
			copies = append(copies, slices.Clone(p))
		}
		return copies
	}
	first := images(batch, 1, 5)
	again := images([]int{1, 3}, 1, 7) // the same images in another step and order
	if !slices.Equal(again[0], first[2]) || !slices.Equal(again[1], first[0]) {
		t.Error("the result depends on the step or the place in the batch")
	}
	for i, p := range images(batch, 2, 5) {
		if slices.Equal(p, first[i]) || slices.Equal(f.split.Image(batch[i]), first[i]) {
			t.Errorf("image %d is the same in another epoch, or without augmentation", i)
		}
	}
	plain := newTestFeeder(t, configuration(t, "", "augment.flip=false"), 24)
	if p := plain.samples(batch, 0, 0).Images[1]; &p[0] != &plain.split.Image(8)[0] {
		t.Error("images are copied without augmentation")
	}
}

func TestFeeder_Mixup(t *testing.T) {
	f := newTestFeeder(t, configuration(t, "", "experiment.mixup=1", "augment.flip=false"), 24)
	batch, shares := []int{3, 8, 1, 20}, map[float32]bool{}
	for step := range 20 {
		s := f.samples(batch, 0, step)
		if s.Labels != nil || len(s.Soft) != len(batch) {
			t.Fatalf("labels %v, soft labels %v", s.Labels, s.Soft)
		}
		var pixels, plain float64
		for i, q := range s.Soft {
			if math.Abs(float64(q[0]+q[1]-1)) > 1e-6 {
				t.Errorf("step %d: the sum of %v isn't 1", step, q)
			}
			// The classes are 1, 0, 1, 0.
			label := f.split.Labels[batch[i]]
			shares[q[label]] = true
			pixels, plain = pixels+float64(sum(s.Images[i])), plain+float64(sum(f.split.Image(batch[i])))
		}
		// Each image is mixed into another one with the share that it lacks itself.
		if math.Abs(pixels-plain) > 0.6*float64(4*len(s.Images[0])) {
			t.Errorf("step %d: the sum of all levels is %v, want %v", step, pixels, plain)
		}
		again := f.samples(batch, 0, step).Soft
		if fmt.Sprint(again) != fmt.Sprint(s.Soft) {
			t.Errorf("step %d isn't deterministic", step)
		}
	}
	if len(shares) < 10 {
		t.Errorf("shares %v", shares)
	}
}

func TestClassWeights(t *testing.T) {
	split := &dataset.Split{Labels: []uint16{0, 0, 0, 0, 1, 1, 2, 2, 2}, Classes: []string{"a", "b", "c", "d"}}
	learn := []int{0, 1, 2, 3, 4, 6, 7} // 4 a, 1 b, 2 c, no d
	for _, test := range []struct {
		key  string
		want []float64
	}{
		{"none", nil},
		{"balanced", []float64{7.0 / 16, 7.0 / 4, 7.0 / 8, 1}},
		{"c=2.5,a=.5", []float64{0.5, 1, 2.5, 1}},
	} {
		got, err := classWeights(config.Experiment{ClassWeights: test.key}, split, learn)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", test.key, got, err, test.want)
		}
	}
	if _, err := classWeights(config.Experiment{ClassWeights: "cat=2"}, split, learn); err == nil || !strings.Contains(err.Error(), `"cat" isn't a class`) {
		t.Errorf("error = %v", err)
	}
}

func TestFeeder_StartStep(t *testing.T) {
	for _, test := range []struct {
		images, from int
		want         []int // sizes
	}{
		{32, 0, []int{12, 12, 8, 12, 12, 8}},
		{32, 2, []int{8, 12, 12, 8}},
		{32, 3, []int{12, 12, 8}},
		{32, 5, []int{8}},
		{32, 6, nil},
		{24, 1, []int{12, 12, 12}},
		{13, 0, []int{12, 1, 12, 1}},
		{7, 0, []int{7, 7}},
	} {
		t.Run(fmt.Sprintf("%d_images_from_step_%d", test.images, test.from), func(t *testing.T) {
			noGoroutineLeft(t)
			f := newTestFeeder(t, configuration(t, ""), test.images)
			go f.run(t.Context(), test.from)
			var sizes []int
			for next := range f.ready {
				if next.err != nil {
					t.Fatal(next.err)
				}
				sizes = append(sizes, next.size)
				f.free[next.size] <- next.batch
			}
			if !slices.Equal(sizes, test.want) {
				t.Errorf("batch sizes = %v, want %v", sizes, test.want)
			}
		})
	}
}

func TestFeeder_Cancel(t *testing.T) {
	for taken := range 8 {
		t.Run(fmt.Sprintf("after_%d_batches", taken), func(t *testing.T) {
			noGoroutineLeft(t)
			f := newTestFeeder(t, configuration(t, "", "experiment.epochs=100"), 13)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				f.run(ctx, 0)
				close(ended)
			}()
			for range taken {
				next := <-f.ready
				f.free[next.size] <- next.batch
			}
			stop()
			<-ended
		})
	}
}

// newTestFeeder returns a feeder of random images with a trainer.
func newTestFeeder(tb testing.TB, cfg *config.Config, images int) *feeder {
	tb.Helper()
	n, err := network(cfg, 32, 2)
	if err != nil {
		tb.Fatal(err)
	}
	trainer, err := newTrainer(cfg, n, n.Init(1), nil, "")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := trainer.Close(); err != nil {
			tb.Error(err)
		}
	})
	learn := make([]int, images)
	for i := range learn {
		learn[i] = i
	}
	f, err := newFeeder(trainer, noise(images, 32, 1), learn, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.close)
	return f
}

func BenchmarkFeeder(b *testing.B) {
	cfg, err := config.Load("", []string{"augment.flip=true", "experiment.epochs=1000000"})
	if err != nil {
		b.Fatal(err)
	}
	f := newTestFeeder(b, cfg, 1024)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		f.run(ctx, 0)
		close(ended)
	}()
	b.ReportAllocs()
	images := 0
	for b.Loop() {
		next := <-f.ready
		if next.err != nil {
			b.Fatal(next.err)
		}
		images += next.size
		f.free[next.size] <- next.batch
	}
	b.ReportMetric(float64(images)/b.Elapsed().Seconds(), "images/s")
	stop()
	<-ended
}
