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
	plane   = imaging.Size * imaging.Size
	picture = imaging.Channels * plane
)

// graphOf is a model whose logit is what f makes of the mean of each colour.
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
	data, err := model.Marshal(graph, model.Metadata{
		Name: "test", Classes: []string{model.Real, model.Fake}, Threshold: 0.5, InputSize: imaging.Size, Preprocessing: imaging.PreprocessingID,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// weighted is a model with logit = Σ weight·mean + bias.
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
func open(tb testing.TB, o Options) *Engine {
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
	e.Use(load(tb, e, weighted(tb, 0, 10, 0, 0)))
	return e
}

func load(tb testing.TB, e *Engine, data []byte) *Model {
	tb.Helper()
	m, err := e.Load(parse(tb, data))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func soon() time.Time { return time.Now().Add(time.Minute) }

// judge has pictures judged whose reds are as given, and returns their logits.
func judge(e *Engine, deadline time.Time, peer Peer, reds ...float32) (logits []float32, err error) {
	call, err := e.Admit(len(reds), deadline, peer)
	if err != nil {
		return nil, err
	}
	defer call.Close()
	var jobs []*Job
	for _, red := range reds {
		j := call.Next()
		clear(j.Input)
		for i := range plane {
			j.Input[i] = red
		}
		call.Submit(j)
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if e := call.Wait(j); e != nil {
			err = e
			continue
		}
		if math.Abs(float64(j.Embedding[0]*10-j.Logit)) > 1e-3 {
			err = fmt.Errorf("logit %g, embedding %v", j.Logit, j.Embedding)
		}
		logits = append(logits, j.Logit)
		j.Free()
	}
	return logits, err
}

func TestEachPictureGetsItsOwnAnswer(t *testing.T) {
	var batches, pictures atomic.Int64
	e := open(t, Options{Workers: 2, MaxBatch: 8, Queue: 1000, ObserveBatch: func(n int, took time.Duration) {
		if n < 1 || n > 8 || took <= 0 {
			t.Errorf("a batch of %d took %s", n, took)
		}
		batches.Add(1)
		pictures.Add(int64(n))
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
				logits, err := judge(e, soon(), nil, reds...)
				if err != nil {
					t.Error(err)
					return
				}
				for k, red := range reds {
					if math.Abs(float64(logits[k]-10*red)) > 1e-3 {
						t.Errorf("logit %g for %g", logits[k], red)
					}
				}
			}
		})
	}
	group.Wait()
	if batches.Load() == pictures.Load() {
		t.Errorf("%d pictures in %d batches: none was put together", pictures.Load(), batches.Load())
	}
	if n := e.admitted.Load(); n != 0 || e.Waiting() != 0 {
		t.Errorf("%d pictures are admitted and %d wait after all have been answered", n, e.Waiting())
	}
}

// hold starts an engine of one worker that is held up after its first picture.
func hold(t *testing.T, queue int) (e *Engine, release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	e = open(t, Options{Workers: 1, MaxBatch: 4, Queue: queue, ObserveBatch: func(int, time.Duration) { <-gate }})
	t.Cleanup(release)
	if _, err := judge(e, soon(), nil, 1); err != nil {
		t.Fatal(err)
	}
	return e, release
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestAFullQueueRefusesWholeRequests(t *testing.T) {
	e, release := hold(t, 3)
	done := make(chan error)
	go func() {
		_, err := judge(e, soon(), nil, 1, 2)
		done <- err
	}()
	until(t, func() bool { return e.Waiting() == 2 })
	if _, err := judge(e, soon(), nil, 1, 2); !errors.Is(err, ErrBusy) {
		t.Errorf("two more than fit: %v", err)
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := judge(e, soon(), nil, 1, 2, 3); err != nil {
		t.Errorf("as many as fit: %v", err)
	}
	if _, err := judge(e, soon(), nil, 1, 2, 3, 4); !errors.Is(err, ErrBusy) {
		t.Errorf("more than ever fit: %v", err)
	}
}

// peer is a client that goes away when told to.
type peer struct{ gone atomic.Bool }

func (p *peer) Disconnected() bool { return p.gone.Load() }

func TestNobodyWaitsLongerThanThereIsSense(t *testing.T) {
	e, release := hold(t, 10)
	if _, err := judge(e, time.Now().Add(20*time.Millisecond), nil, 1, 2); !errors.Is(err, ErrDeadline) {
		t.Errorf("past the deadline: %v", err)
	}
	if _, err := judge(e, time.Now().Add(-time.Hour), nil, 1); !errors.Is(err, ErrDeadline) {
		t.Errorf("long past the deadline: %v", err)
	}
	var p peer
	time.AfterFunc(10*time.Millisecond, func() { p.gone.Store(true) })
	if _, err := judge(e, soon(), &p, 1); !errors.Is(err, ErrDisconnected) {
		t.Errorf("without a client: %v", err)
	}
	release()
	// What was given up is dropped, and its places are free.
	until(t, func() bool { return e.admitted.Load() == 0 && e.Waiting() == 0 })
	if _, err := judge(e, soon(), nil, make([]float32, 10)...); err != nil {
		t.Error(err)
	}
}

func TestPlacesThatAreNotUsedAreGivenBack(t *testing.T) {
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

func TestCallsInFlightFinishOnTheModelTheyHave(t *testing.T) {
	e, release := hold(t, 100)
	old := e.current.Load()
	begun, err := e.Admit(2, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := begun.Next()
	copy(first.Input, redPicture(1))
	begun.Submit(first)
	e.Use(load(t, e, weighted(t, 5, 0, 0, 0.001)))
	if begun.Model() != old {
		t.Error("a call changed its model")
	}
	later, err := e.Admit(1, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if later.Model() == old {
		t.Error("a later call has the old model")
	}
	third := later.Next()
	clear(third.Input)
	later.Submit(third)
	second := begun.Next() // submitted after the change, and after another's
	copy(second.Input, redPicture(1))
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
		if math.Abs(float64(w.job.Logit-w.want)) > 1e-3 {
			t.Errorf("logit %g, want %g", w.job.Logit, w.want)
		}
		w.job.Free()
	}
	if old.refs.Load() == 0 {
		t.Error("the old model was freed while a call had it")
	}
	later.Close()
	begun.Close()
	if n := old.refs.Load(); n != 0 {
		t.Errorf("the old model is held %d times after its last call", n)
	}
}

// redPicture is a picture of one red.
func redPicture(red float32) []float32 {
	p := make([]float32, picture)
	for i := range plane {
		p[i] = red
	}
	return p
}

func TestAClosedEngineTakesNothing(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 1})
	m := e.current.Load()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := judge(e, soon(), nil, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
	if m.refs.Load() != 0 {
		t.Error("the model was not freed")
	}
}

func TestCloseWaitsForWhatWasAdmitted(t *testing.T) {
	e, release := hold(t, 4)
	done := make(chan error, 2)
	go func() {
		_, err := judge(e, soon(), nil, 1)
		done <- err
	}()
	until(t, func() bool { return e.Waiting() == 1 })
	closed := make(chan error)
	go func() { closed <- e.Close() }()
	until(t, func() bool { return e.closed.Load() })
	select {
	case err := <-closed:
		t.Fatal("closed too early:", err)
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

func TestLoadRefuses(t *testing.T) {
	e := open(t, Options{Workers: 2, MaxBatch: 4, Queue: 4})
	good := weighted(t, 0, 1, 0, 0)
	for _, test := range []struct {
		name string
		file func() *model.File
		want string
	}{
		{"other preprocessing", func() *model.File {
			f := *parse(t, good)
			f.Metadata.Preprocessing = "bgr-v0"
			return &f
		}, "bgr-v0"},
		{"other classes", func() *model.File {
			f := *parse(t, good)
			f.Metadata.Classes = []string{model.Fake, model.Real}
			return &f
		}, "classes"},
		{"an answer that does not depend on the picture", func() *model.File { return parse(t, weighted(t, 3, 0, 0, 0)) }, "logit 3"},
		{"answers that are no numbers", func() *model.File {
			return parse(t, graphOf(t, func(g *onnx.Graph, mean onnx.Value) onnx.Value {
				// The logarithm of a negative number, but not on a blank picture.
				sum := g.Gemm(mean, g.Param("w", []float32{1, 1, 1}, 1, 3), false, true, g.Param("b", []float32{0}, 1))
				return g.Sqrt(g.Sub(g.Scalar(0), sum))
			}))
		}, "NaN"},
		{"answers that depend on the neighbours", func() *model.File {
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
				t.Errorf("error %q does not say %q in one line", err, test.want)
			}
		})
	}
	if logits, err := judge(e, soon(), nil, 1); err != nil || logits[0] != 10 {
		t.Errorf("the model in use answers %v, %v after all this", logits, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{{MaxBatch: 1, Queue: 1}, {Workers: 1, Queue: 1}, {Workers: 1, MaxBatch: 1}} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "at least one") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestAPictureOnItsWayAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("pools forget on purpose under the race detector")
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
		t.Errorf("%g allocations", n)
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
