package infer

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
)

const (
	plane     = imaging.Size * imaging.Size
	inputSize = imaging.Channels * plane
)

// graphOf returns a model whose logit is f of the mean of each channel.
func graphOf(tb testing.TB, f func(g *onnx.Graph, mean onnx.Value) onnx.Value) []byte {
	tb.Helper()
	g := onnx.NewGraph("test")
	mean := g.ReduceMean(g.Input("input", onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size), 2, 3)
	g.Output("logit", f(g, mean))
	g.Output("embedding", mean)
	graph, err := g.Model()
	if err != nil {
		tb.Fatal(err)
	}
	data, err := model.Marshal(graph, metadata(false))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// metadata returns the metadata of a model, with or without Grad-CAM.
func metadata(gradCAM bool) model.Metadata {
	md := model.Trained(imaging.Size, model.Real, model.Fake)
	md.Name = "test"
	if gradCAM {
		md.CAM, md.CAMKind = "gradcam", model.CAMOfSecond
	}
	return md
}

// weighted returns a model with logit = Σ weight·mean + bias.
func weighted(tb testing.TB, bias float32, weights ...float32) []byte {
	return graphOf(tb, func(g *onnx.Graph, mean onnx.Value) onnx.Value {
		return g.Gemm(mean, g.Param("w", weights, 1, 3), false, true, g.Param("b", []float32{bias}, 1))
	})
}

func parse(tb testing.TB, data []byte) *model.File {
	tb.Helper()
	f, err := model.Parse(data)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// open starts an engine with the model logit = 10·mean(red).
func open(tb testing.TB, o Options) *served {
	tb.Helper()
	e, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	s := &served{e, e.NewSlot()}
	s.Use(load(tb, s, weighted(tb, 0, 10, 0, 0)))
	return s
}

// served is an engine with one slot.
type served struct {
	*Engine
	*Slot
}

func load(tb testing.TB, e *served, data []byte) *Model {
	tb.Helper()
	m, err := e.Load(parse(tb, data))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func soon() time.Time { return time.Now().Add(time.Minute) }

// classify classifies one image per element of reds, its red level, and returns the logits.
func classify(e *served, deadline time.Time, peer Peer, reds ...float32) (logits []float32, err error) {
	call, err := e.Admit(len(reds), deadline, peer)
	if err != nil {
		return nil, err
	}
	defer call.Close()
	var jobs []*Job
	for _, red := range reds {
		j := call.Next()
		clear(j.Input.Float32)
		for i := range plane {
			j.Input.Float32[i] = red
		}
		call.Submit(j)
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if e := call.Wait(j); e != nil {
			err = e
			continue
		}
		if math.Abs(float64(j.Embedding[0]*10-j.Scores[0])) > 1e-3 {
			err = fmt.Errorf("logit %g, embedding %v", j.Scores[0], j.Embedding)
		}
		logits = append(logits, j.Scores[0])
		j.Free()
	}
	return logits, err
}

func TestEngine_ConcurrentCalls(t *testing.T) {
	var batches, images atomic.Int64
	e := open(t, Options{Workers: 2, MaxBatch: 8, Queue: 1000, ObserveBatch: func(_ *Model, n int, took time.Duration) {
		if n < 1 || n > 8 || took <= 0 {
			t.Errorf("a batch of %d took %s", n, took)
		}
		batches.Add(1)
		images.Add(int64(n))
	}})
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for range 30 {
				reds := make([]float32, 1+rng.IntN(5))
				for k := range reds {
					reds[k] = rng.Float32()
				}
				logits, err := classify(e, soon(), nil, reds...)
				if err != nil {
					t.Error(err)
					return
				}
				for k, red := range reds {
					if math.Abs(float64(logits[k]-10*red)) > 1e-3 {
						t.Errorf("logit of red level %g is %g, want %g", red, logits[k], 10*red)
					}
				}
			}
		})
	}
	group.Wait()
	if batches.Load() == images.Load() {
		t.Errorf("%d images in %d batches, want fewer batches than images", images.Load(), batches.Load())
	}
	if n := e.admitted.Load(); n != 0 || e.Waiting() != 0 {
		t.Errorf("admitted %d, waiting %d after all calls, want 0", n, e.Waiting())
	}
}

// hold starts an engine with one worker, which is blocked after its first image until release is
// called.
func hold(t *testing.T, queue int) (e *served, release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	e = open(t, Options{Workers: 1, MaxBatch: 4, Queue: queue, ObserveBatch: func(*Model, int, time.Duration) { <-gate }})
	t.Cleanup(release)
	if _, err := classify(e, soon(), nil, 1); err != nil {
		t.Fatal(err)
	}
	return e, release
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("timed out")
		}
	}
}

func TestAdmit_QueueFull(t *testing.T) {
	e, release := hold(t, 3)
	done := make(chan error)
	go func() {
		_, err := classify(e, soon(), nil, 1, 2)
		done <- err
	}()
	until(t, func() bool { return e.Waiting() == 2 })
	if _, err := classify(e, soon(), nil, 1, 2); !errors.Is(err, ErrBusy) {
		t.Errorf("full queue: error %v, want ErrBusy", err)
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := classify(e, soon(), nil, 1, 2, 3); err != nil {
		t.Errorf("as many images as the queue has slots: %v", err)
	}
	if _, err := classify(e, soon(), nil, 1, 2, 3, 4); !errors.Is(err, ErrBusy) {
		t.Errorf("more images than the queue has slots: error %v, want ErrBusy", err)
	}
}

// peer is a client that disconnects once gone is set.
type peer struct{ gone atomic.Bool }

func (p *peer) Disconnected() bool { return p.gone.Load() }

func TestWait_GivesUp(t *testing.T) {
	e, release := hold(t, 10)
	if _, err := classify(e, time.Now().Add(20*time.Millisecond), nil, 1, 2); !errors.Is(err, ErrDeadline) {
		t.Errorf("deadline passes: error %v, want ErrDeadline", err)
	}
	if _, err := classify(e, time.Now().Add(-time.Hour), nil, 1); !errors.Is(err, ErrDeadline) {
		t.Errorf("deadline long past: error %v, want ErrDeadline", err)
	}
	var p peer
	time.AfterFunc(10*time.Millisecond, func() { p.gone.Store(true) })
	if _, err := classify(e, soon(), &p, 1); !errors.Is(err, ErrDisconnected) {
		t.Errorf("client disconnects: error %v, want ErrDisconnected", err)
	}
	release()
	// Abandoned images are discarded, and their queue slots released.
	until(t, func() bool { return e.admitted.Load() == 0 && e.Waiting() == 0 })
	if _, err := classify(e, soon(), nil, make([]float32, 10)...); err != nil {
		t.Error(err)
	}
}

func TestClose_ReleasesUnusedSlots(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 2})
	for range 5 {
		call, err := e.Admit(2, soon(), nil)
		if err != nil {
			t.Fatal(err)
		}
		call.Next().Free()
		call.Close()
	}
}

func TestUse_CallsInFlight(t *testing.T) {
	e, release := hold(t, 100)
	old := e.current.Load()
	begun, err := e.Admit(2, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := begun.Next()
	copy(first.Input.Float32, redImage(1))
	begun.Submit(first)
	e.Use(load(t, e, weighted(t, 5, 0, 0, 0.001)))
	if begun.Model() != old {
		t.Error("the model of a call in flight changed")
	}
	later, err := e.Admit(1, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if later.Model() == old {
		t.Error("a call admitted after Use has the old model")
	}
	third := later.Next()
	clear(third.Input.Float32)
	later.Submit(third)
	second := begun.Next() // submitted after the swap, and after the later call's image
	copy(second.Input.Float32, redImage(1))
	begun.Submit(second)
	release()
	for _, w := range []struct {
		call *Call
		job  *Job
		want float32
	}{{begun, first, 10}, {later, third, 5}, {begun, second, 10}} {
		if err := w.call.Wait(w.job); err != nil {
			t.Fatal(err)
		}
		if math.Abs(float64(w.job.Scores[0]-w.want)) > 1e-3 {
			t.Errorf("logit %g, want %g", w.job.Scores[0], w.want)
		}
		w.job.Free()
	}
	if old.refs.Load() == 0 {
		t.Error("the old model was freed while a call used it")
	}
	later.Close()
	begun.Close()
	if n := old.refs.Load(); n != 0 {
		t.Errorf("the old model has %d references after its last call, want 0", n)
	}
}

// redImage returns an image with the given level of red.
func redImage(red float32) []float32 {
	p := make([]float32, inputSize)
	for i := range plane {
		p[i] = red
	}
	return p
}

func TestAdmit_AfterClose(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 1})
	m := e.current.Load()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := classify(e, soon(), nil, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if m.refs.Load() != 0 {
		t.Error("the model was not freed")
	}
}

func TestEngineClose_WaitsForAdmittedCalls(t *testing.T) {
	e, release := hold(t, 4)
	done := make(chan error, 2)
	go func() {
		_, err := classify(e, soon(), nil, 1)
		done <- err
	}()
	until(t, func() bool { return e.Waiting() == 1 })
	closed := make(chan error)
	go func() { closed <- e.Close() }()
	until(t, func() bool { return e.closed.Load() })
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v while a call was in flight", err)
	default:
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestLoad_UnusableModel(t *testing.T) {
	e := open(t, Options{Workers: 2, MaxBatch: 4, Queue: 4})
	for _, test := range []struct {
		name string
		file func() *model.File
		want string
	}{
		{"constant logit", func() *model.File { return parse(t, weighted(t, 3, 0, 0, 0)) }, "scores are [3]"},
		{"NaN logit", func() *model.File {
			return parse(t, graphOf(t, func(g *onnx.Graph, mean onnx.Value) onnx.Value {
				// The square root of a negative number, except for a black image.
				sum := g.Gemm(mean, g.Param("w", []float32{1, 1, 1}, 1, 3), false, true, g.Param("b", []float32{0}, 1))
				return g.Sqrt(g.Sub(g.Scalar(0), sum))
			}))
		}, "NaN"},
		{"logit depends on the batch", func() *model.File {
			return parse(t, graphOf(t, func(g *onnx.Graph, mean onnx.Value) onnx.Value {
				one := g.Gemm(mean, g.Param("w", []float32{9, 0, 0}, 1, 3), false, true, g.Param("b", []float32{0}, 1))
				return g.Sub(one, g.ReduceMean(one, 0))
			}))
		}, "in a batch of"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := e.Load(test.file())
			if err == nil {
				_ = m.Discard()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line containing %q", err, test.want)
			}
		})
	}
	if logits, err := classify(e, soon(), nil, 1); err != nil || logits[0] != 10 {
		t.Errorf("current model: logits %v, error %v, want [10]", logits, err)
	}
}

func TestNew_InvalidOptions(t *testing.T) {
	for _, o := range []Options{{MaxBatch: 1, Queue: 1}, {Workers: 1, Queue: 1}, {Workers: 1, MaxBatch: 1}} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "at least one") {
			t.Errorf("New(%+v): error %v, want one containing %q", o, err, "at least one")
		}
	}
}

func TestEngine_NoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items at random under the race detector")
	}
	e := open(t, Options{Workers: 1, MaxBatch: 2, Queue: 4})
	deadline := soon()
	once := func() {
		call, err := e.Admit(1, deadline, nil)
		if err != nil {
			t.Fatal(err)
		}
		j := call.Next()
		call.Submit(j)
		if err := call.Wait(j); err != nil {
			t.Fatal(err)
		}
		j.Free()
		call.Close()
	}
	once()
	if n := testing.AllocsPerRun(200, once); n >= 1 {
		t.Errorf("%g allocations per image, want 0", n)
	}
}

func BenchmarkEngine(b *testing.B) {
	e := open(b, Options{Workers: 2, MaxBatch: 8, Queue: 1000})
	deadline := soon()
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			call, err := e.Admit(1, deadline, nil)
			if err != nil {
				b.Fatal(err)
			}
			j := call.Next()
			call.Submit(j)
			if err := call.Wait(j); err != nil {
				b.Fatal(err)
			}
			j.Free()
			call.Close()
		}
	})
}

// TestSlots checks that two models are served at the same time, each by its own slot.
func TestSlots(t *testing.T) {
	e := open(t, Options{Workers: 2, MaxBatch: 8, Queue: 1000})
	other := &served{e.Engine, e.NewSlot()}
	if _, err := classify(other, soon(), nil, 1); !errors.Is(err, ErrNoModel) {
		t.Errorf("slot without a model: %v, want ErrNoModel", err)
	}
	other.Use(load(t, e, weighted(t, 100, 10, 0, 0)))
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			s, bias := e, float32(0)
			if i%2 == 1 {
				s, bias = other, 100
			}
			for range 30 {
				call, err := s.Admit(1, soon(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				j := call.Next()
				copy(j.Input.Float32, redImage(0.5))
				call.Submit(j)
				if err := call.Wait(j); err != nil || math.Abs(float64(j.Scores[0]-bias-5)) > 1e-3 {
					t.Errorf("logit %v, %v, want %g", j.Scores, err, bias+5)
				}
				j.Free()
				call.Close()
			}
		})
	}
	group.Wait()
}

// TestLoad_SlowModel checks that a slow model gets small batches, and other workers the rest of the queue.
func TestLoad_SlowModel(t *testing.T) {
	e := open(t, Options{Workers: 2, MaxBatch: 8, Queue: 100})
	fast, slow := load(t, e, weighted(t, 1, 10, 0, 0)), load(t, e, slowModel(t))
	if fast.MaxBatch() != 8 || slow.MaxBatch() != 1 {
		t.Errorf("batches of %d and %d, want 8 and 1", fast.MaxBatch(), slow.MaxBatch())
	}
	if err := fast.Discard(); err != nil {
		t.Error(err)
	}
	e.Use(slow)
	reds := make([]float32, 6)
	call, err := e.Admit(len(reds), soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var jobs []*Job
	for range reds {
		j := call.Next()
		clear(j.Input.Float32)
		call.Submit(j)
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := call.Wait(j); err != nil {
			t.Error(err)
		}
		j.Free()
	}
	call.Close()
	if b := slow.Batches(); len(b) != 1 || b[0].Size != 1 || b[0].Count != 6 {
		t.Errorf("batches %+v, want 6 of one image", b)
	}
}

// slowModel returns a model that takes more than batchTime per image.
func slowModel(tb testing.TB) []byte {
	return graphOf(tb, func(g *onnx.Graph, mean onnx.Value) onnx.Value {
		const n = 1200
		rng := rand.New(rand.NewPCG(1, 2))
		weights := make([]float32, 3*n)
		for i := range weights {
			weights[i] = float32(rng.NormFloat64())
		}
		wide := g.Gemm(mean, g.Param("wide", weights, n, 3), false, true)
		product := g.Mul(g.Reshape(wide, onnx.Batch, n, 1), g.Reshape(wide, onnx.Batch, 1, n))
		for range 8 {
			product = g.Sigmoid(product)
		}
		red := g.Gemm(mean, g.Param("red", []float32{9, 0, 0}, 1, 3), false, true)
		return g.Add(red, g.Reshape(g.ReduceMean(product, 1, 2), onnx.Batch, 1))
	})
}

func TestLoad_Memory(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 2, Queue: 4})
	one := load(t, e, weighted(t, 1, 10, 0, 0))
	all := e.loaded.Load()
	if one.Memory() <= 0 || all != one.Memory()+e.current.Load().Memory() {
		t.Errorf("%d bytes of %d", one.Memory(), all)
	}
	e.options.ModelMemory = all
	if _, err := e.Load(parse(t, weighted(t, 2, 10, 0, 0))); !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("error %v, want ErrMemory", err)
	}
	if got := e.loaded.Load(); got != all {
		t.Errorf("%d bytes are reserved after the failure, want %d", got, all)
	}
	if err := one.Discard(); err != nil {
		t.Fatal(err)
	}
	e.Use(load(t, e, weighted(t, 2, 10, 0, 0)))
	if got := e.loaded.Load(); got != all-one.Memory() {
		t.Errorf("%d bytes are reserved after the replaced model was freed, want %d", got, all-one.Memory())
	}
}

func TestAdmit_QueueMemory(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 100})
	e.options.QueueMemory = 3*e.current.Load().imageMemory() + 1
	if _, err := e.Admit(4, soon(), nil); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "at most 3 images") {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	call, err := e.Admit(2, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Admit(2, soon(), nil); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v, want ErrBusy", err)
	}
	call.Close()
	if call, err = e.Admit(3, soon(), nil); err != nil {
		t.Fatal(err)
	}
	call.Close()
	if e.held.Load() != 0 || e.admitted.Load() != 0 {
		t.Errorf("%d bytes, %d images are held after all calls", e.held.Load(), e.admitted.Load())
	}
}
