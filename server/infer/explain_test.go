package infer

import (
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
)

// explaining returns a model with logit = 10·mean(red) and Grad-CAM: the evidence at a pixel is its
// level of red, times scale.
func explaining(tb testing.TB, scale float64) []byte {
	tb.Helper()
	g := onnx.NewGraph("test")
	x := g.Input("input", onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size)
	mean := g.ReduceMean(x, 2, 3)
	g.Output("logit", g.Gemm(mean, g.Param("w", []float32{10, 0, 0}, 1, 3), false, true, g.Param("b", []float32{0}, 1)))
	g.Output("embedding", mean)
	g.Output("gradcam", g.Reshape(g.Mul(g.Slice(x, 1, 0, 1), g.Scalar(scale)), onnx.Batch, imaging.Size, imaging.Size))
	graph, err := g.Model()
	if err != nil {
		tb.Fatal(err)
	}
	data, err := model.Marshal(graph, metadata(true))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// leaving is a client that disconnects once it is set.
type leaving struct{ atomic.Bool }

func (l *leaving) Disconnected() bool { return l.Load() }

// classified admits an image that is red in its first row only, and waits until it is classified.
func classified(t *testing.T, e *served, deadline time.Time, peer Peer) (*Call, *Job) {
	t.Helper()
	call, err := e.Admit(1, deadline, peer)
	if err != nil {
		t.Fatal(err)
	}
	j := call.Next()
	clear(j.Input.Float32)
	for i := range imaging.Size {
		j.Input.Float32[i] = 1
	}
	call.Submit(j)
	if err := call.Wait(j); err != nil {
		t.Fatal(err)
	}
	if err := call.AdmitExplanations(explain.Occlusion, 2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		j.Free()
		call.Close()
	})
	return call, j
}

func TestExplain(t *testing.T) {
	var explained sync.Map
	e := open(t, Options{Workers: 2, MaxBatch: 4, Queue: 10, ObserveExplanation: func(m explain.Method, took time.Duration) {
		if took <= 0 {
			t.Errorf("ObserveExplanation(%s, %s), want a positive duration", m, took)
		}
		explained.Store(m, true)
	}})
	e.Use(load(t, e, explaining(t, 3)))
	call, j := classified(t, e, soon(), nil)
	for _, method := range explain.Methods() {
		dst := make([]float32, plane)
		if err := call.Explain(dst, method, j, 1); err != nil {
			t.Fatal(err)
		}
		if dst[0] != 1 || dst[plane-1] != 0 || method == explain.GradCAM && (dst[imaging.Size-1] != 1 || dst[imaging.Size] != 0) {
			t.Errorf("%s: saliency map starts with %v and ends with %g, want it hot in the first row only", method, dst[:imaging.Size+1], dst[plane-1])
		}
		if _, ok := explained.Load(method); !ok {
			t.Errorf("ObserveExplanation was not called for %s", method)
		}
	}
	if m := call.Model(); len(m.explainers) != 1 {
		t.Errorf("%d sessions for consecutive explanations, want 1", len(m.explainers))
	}
}

func TestExplain_SessionsBelongToModel(t *testing.T) {
	e := open(t, Options{Workers: 2, MaxBatch: 2, Queue: 10})
	e.Use(load(t, e, explaining(t, 1)))
	call, err := e.Admit(1, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	old := call.Model()
	if len(old.explainers) != 0 {
		t.Error("a session was created before the first explanation")
	}
	j := call.Next()
	call.Submit(j)
	if err := call.Wait(j); err != nil {
		t.Fatal(err)
	}
	e.Use(load(t, e, weighted(t, 0, 10, 0, 0))) // doesn't support Grad-CAM
	if err := call.AdmitExplanations(explain.GradCAM, 1); err != nil {
		t.Fatal(err)
	}
	if err := call.Explain(make([]float32, plane), explain.GradCAM, j, 1); err != nil {
		t.Errorf("explain with the call's own model: %v", err)
	}
	if len(old.explainers) != 1 {
		t.Errorf("%d sessions, want 1", len(old.explainers))
	}
	j.Free()
	call.Close()
	if old.refs.Load() != 0 || old.explainers != nil {
		t.Error("the sessions were not freed with the model")
	}
}

func TestExplain_NoGradCAM(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 10})
	call, j := classified(t, e, soon(), nil)
	dst := make([]float32, plane)
	if err := call.AdmitExplanations(explain.GradCAM, 1); !errors.Is(err, explain.ErrNoGradCAM) {
		t.Errorf("error %v, want ErrNoGradCAM", err)
	}
	if err := call.Explain(dst, explain.Occlusion, j, 1); err != nil || dst[0] != 1 {
		t.Errorf("occlusion = %g, %v, want 1", dst[0], err)
	}
}

func TestAdmitExplanations_TooMany(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 10})
	admit := func() *Call {
		call, err := e.Admit(1, soon(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	first, second := admit(), admit()
	if err := first.AdmitExplanations(explain.Occlusion, 2*maxExplanations); err != nil {
		t.Errorf("only call: %v", err)
	}
	if err := second.AdmitExplanations(explain.Occlusion, 1); !errors.Is(err, ErrTooManyExplanations) {
		t.Errorf("error %v", err)
	}
	second.Close()
	first.Close() // releases its slots
	for i := range maxExplanations + 1 {
		call := admit()
		if err := call.AdmitExplanations(explain.Occlusion, maxExplanations); err != nil {
			t.Fatalf("call %d after the others were closed: %v", i, err)
		}
		call.Close()
	}
	if n := e.explanations.Load(); n != 0 {
		t.Errorf("%d slots are in use after all calls were closed, want 0", n)
	}
	call, j := classified(t, e, soon(), nil) // reserves two slots
	for range 2 {
		if err := call.Explain(make([]float32, plane), explain.Occlusion, j, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.explanations.Load(); n != 0 {
		t.Errorf("%d slots are in use after all explanations, want 0", n)
	}
}

func TestExplain_NaN(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 10})
	e.Use(load(t, e, explaining(t, math.NaN())))
	call, j := classified(t, e, soon(), nil)
	err := call.Explain(make([]float32, plane), explain.GradCAM, j, 1)
	if err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("error %v, want one containing NaN", err)
	}
	if err := call.Explain(make([]float32, plane), explain.Occlusion, j, 1); err != nil {
		t.Error(err)
	}
}

func TestExplain_WaitsForTurn(t *testing.T) {
	cancel := make(chan struct{})
	e := open(t, Options{Workers: 3, MaxBatch: 1, Queue: 10, CancelExplanations: cancel}) // three workers, one explanation at once
	for _, c := range []struct {
		name     string
		deadline time.Duration
		event    func(*leaving)
		want     error
	}{
		{"turn comes", time.Minute, func(*leaving) { e.turns.Release(1) }, nil},
		{"deadline passes", 50 * time.Millisecond, func(*leaving) {}, ErrDeadline},
		{"client disconnects", time.Minute, func(p *leaving) { p.Store(true) }, ErrDisconnected},
		{"explanations are canceled", time.Minute, func(*leaving) { close(cancel) }, ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := new(leaving)
			call, j := classified(t, e, time.Now().Add(c.deadline), peer)
			if !e.turns.TryAcquire(1) {
				t.Fatal("the turn is taken")
			}
			done := make(chan error)
			go func() { done <- call.Explain(make([]float32, plane), explain.Occlusion, j, 1) }()
			select {
			case err := <-done:
				t.Fatalf("Explain returned %v before its turn", err)
			case <-time.After(20 * time.Millisecond):
			}
			c.event(peer)
			select {
			case err := <-done:
				if !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Explain did not return")
			}
			if c.want != nil {
				e.turns.Release(1)
			}
			if !e.turns.TryAcquire(1) {
				t.Fatal("the turn was not released")
			}
			e.turns.Release(1)
		})
	}
}

func TestExplain_ClientDisconnects(t *testing.T) {
	e := open(t, Options{Workers: 1, MaxBatch: 1, Queue: 10})
	peer := new(leaving)
	call, j := classified(t, e, soon(), peer)
	peer.Store(true)
	if err := call.Explain(make([]float32, plane), explain.Occlusion, j, 1); !errors.Is(err, ErrDisconnected) {
		t.Errorf("error %v", err)
	}
	if n := len(call.Model().explainers); n != 1 || !e.turns.TryAcquire(1) {
		t.Errorf("%d idle sessions, want 1, or the turn was not released", n)
	}
	e.turns.Release(1)
}

func TestExplain_YieldsToWaitingImages(t *testing.T) {
	e, release := hold(t, 100) // its worker is blocked
	call, err := e.Admit(1, soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer call.Close()
	waiting := call.Next()
	clear(waiting.Input.Float32)
	call.Submit(waiting)
	until(t, func() bool { return e.Waiting() == 1 })

	other := &Call{engine: e.Engine, model: call.model, deadline: soon(), explanations: 1}
	input := redImage(1)
	done := make(chan error, 1)
	go func() {
		done <- other.Explain(make([]float32, plane), explain.Occlusion, &Job{Input: imaging.Tensor{Float32: input}}, 1)
	}()
	select {
	case err := <-done:
		t.Errorf("Explain returned %v before the waiting image was classified", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := call.Wait(waiting); err != nil {
		t.Fatal(err)
	}
	waiting.Free()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUse_WhileExplaining(t *testing.T) {
	e := open(t, Options{Workers: 4, MaxBatch: 2, Queue: 100})
	files := [][]byte{explaining(t, 1), explaining(t, 2)}
	e.Use(load(t, e, files[0]))
	var stop atomic.Bool
	var maps atomic.Int64
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			dst := make([]float32, plane)
			for !stop.Load() {
				call, err := e.Admit(1, soon(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				j := call.Next()
				copy(j.Input.Float32, redImage(0.5))
				call.Submit(j)
				if err := call.Wait(j); err != nil {
					t.Error(err)
					return
				}
				method := explain.Methods()[i%2]
				if err := call.AdmitExplanations(method, 1); err != nil {
					t.Error(err)
				} else if err := call.Explain(dst, method, j, 1); err != nil {
					t.Error(err)
				} else if i%2 == 0 && dst[plane-1] != 1 {
					t.Errorf("the last pixel of the saliency map is %g, want 1", dst[plane-1])
				}
				j.Free()
				call.Close()
				maps.Add(1)
			}
		})
	}
	var models []*Model
	for i := range 40 {
		before := maps.Load()
		m := load(t, e, files[i%2])
		models = append(models, m)
		e.Use(m)
		until(t, func() bool { return maps.Load() > before+2 })
	}
	stop.Store(true)
	group.Wait()
	for i, m := range models[:len(models)-1] {
		if m.refs.Load() != 0 || m.explainers != nil {
			t.Errorf("model %d was not freed", i)
		}
	}
	if n := len(models[len(models)-1].explainers); n > 2 {
		t.Errorf("%d sessions for explanations, want at most 2", n)
	}
}
