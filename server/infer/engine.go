// Package infer runs a model on the pictures of many requests at once.
//
// An Engine has one ONNX Runtime session a core. Pictures wait in one queue; a
// worker that is free lets other goroutines run, takes what is waiting then, up to
// a batch, and never sleeps for more. The model can be changed while requests are
// in flight: each stays with the model that it was admitted to.
package infer

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"fakeart/internal/explain"
)

// The ways in which a call fails for want of time or room, for errors.Is.
var (
	// ErrBusy means that the queue is full; the call may be tried again later.
	ErrBusy = errors.New("too many pictures are waiting")
	// ErrNoModel means that the engine has no model yet; the call may be tried again later.
	ErrNoModel = errors.New("no model is loaded")
	// ErrClosed means that the engine is about to end.
	ErrClosed = errors.New("the server is stopping")
	// ErrDeadline means that the call's time was up before its pictures had their turn.
	ErrDeadline = errors.New("the request's time is up")
	// ErrDisconnected means that whoever asked no longer waits for the answer.
	ErrDisconnected = errors.New("the client is gone")
)

// Options says how large an engine is.
type Options struct {
	// Workers is the number of sessions, each with one thread; one a core is best.
	Workers int
	// MaxBatch is the most pictures that a session runs at once.
	MaxBatch int
	// Queue is the most pictures that may be admitted and not answered.
	Queue int
	// ObserveBatch, unless nil, is called after each batch with its size and the time it
	// took. It may be called by several goroutines at once.
	ObserveBatch func(pictures int, took time.Duration)
	// ObserveExplanation, unless nil, is called after each explanation with the time it took
	// from its turn on. It may be called by several goroutines at once.
	ObserveExplanation func(method explain.Method, took time.Duration)
	// CancelExplanations ends explanations once it is closed; nil never is.
	CancelExplanations <-chan struct{}
}

// Engine runs the current model. It is safe for concurrent use.
type Engine struct {
	options Options
	queue   chan *Job

	admitted atomic.Int64 // pictures, until they are answered
	closed   atomic.Bool
	current  atomic.Pointer[Model]
	workers  sync.WaitGroup
	calls    sync.Pool
	jobs     sync.Pool
	turns    *semaphore.Weighted // to explain
	running  atomic.Int64        // workers and explanations that run a session

	explanations atomic.Int64 // admitted and not made yet
}

// New starts an engine without a model; Use gives it one.
func New(o Options) (*Engine, error) {
	for _, n := range []struct {
		name  string
		value int
	}{{"workers", o.Workers}, {"pictures in a batch", o.MaxBatch}, {"places in the queue", o.Queue}} {
		if n.value < 1 {
			return nil, fmt.Errorf("inference engine: %d %s, need at least one", n.value, n.name)
		}
	}
	e := &Engine{options: o, queue: make(chan *Job, o.Queue), turns: semaphore.NewWeighted(int64(max(o.Workers/2, 1)))}
	for i := range o.Workers {
		e.workers.Go(func() { e.work(i) })
	}
	return e, nil
}

// Use makes m the model of all calls that are admitted from now on. Calls in
// flight finish on the model they have, which is freed when the last of them ends.
func (e *Engine) Use(m *Model) {
	if old := e.current.Swap(m); old != nil {
		_ = old.release() // what ONNX Runtime could not free harms no request
	}
}

// Waiting is the number of pictures that no worker has taken yet.
func (e *Engine) Waiting() int { return len(e.queue) }

// Close takes no more calls, waits until those admitted have ended, and frees
// everything. Admit fails with ErrClosed from then on. A second Close does nothing.
func (e *Engine) Close() error {
	if e.closed.Swap(true) {
		return nil
	}
	for e.admitted.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	close(e.queue)
	e.workers.Wait()
	if m := e.current.Swap(nil); m != nil {
		return m.release()
	}
	return nil
}

// Peer is who waits for the answer to a call.
type Peer interface {
	// Gone tells whether nobody waits any more.
	Disconnected() bool
}

// Call is the way of one request through the engine: Admit, then for each picture
// Next and Submit, then Wait for each, then Close. Only one goroutine may use it.
type Call struct {
	engine   *Engine
	model    *Model
	peer     Peer
	deadline time.Time
	places   int // of those reserved, not yet used by a Submit
	timer    *time.Timer

	explanations int64 // places reserved, not yet used by an Explain
}

// Admit reserves places for the pictures of a request and binds it to the current
// model. Past the deadline, or once peer is gone (nil never is), Wait gives up.
// It fails at once with ErrBusy when there is no room, with ErrNoModel before the first
// Use, or with ErrClosed. The caller closes the call.
func (e *Engine) Admit(pictures int, deadline time.Time, peer Peer) (*Call, error) {
	if e.admitted.Add(int64(pictures)) > int64(e.options.Queue) {
		e.admitted.Add(int64(-pictures))
		return nil, ErrBusy
	}
	m := e.acquire()
	if m == nil || e.closed.Load() {
		if m != nil {
			_ = m.release()
		}
		e.admitted.Add(int64(-pictures))
		if !e.closed.Load() {
			return nil, ErrNoModel
		}
		return nil, ErrClosed
	}
	c, ok := e.calls.Get().(*Call)
	if !ok {
		c = &Call{engine: e, timer: time.NewTimer(time.Hour)}
		c.timer.Stop()
	}
	c.model, c.peer, c.deadline, c.places = m, peer, deadline, pictures
	return c, nil
}

// acquire returns the current model with one reference more, or nil without one.
func (e *Engine) acquire() *Model {
	for {
		m := e.current.Load()
		if m == nil || m.retain() {
			return m
		}
		// It was replaced and freed in between.
	}
}

// Model is what answers the call.
func (c *Call) Model() *Model { return c.model }

// Close frees what the call has reserved. Each picture that was submitted must
// have been waited for. The call must not be used after it.
func (c *Call) Close() {
	e := c.engine
	if c.places > 0 {
		e.admitted.Add(int64(-c.places))
	}
	e.explanations.Add(-c.explanations)
	_ = c.model.release()
	c.model, c.peer, c.places, c.explanations = nil, nil, 0, 0
	e.calls.Put(c)
}

// The states of a job.
const (
	queued    = iota // no worker has looked at it
	taken            // a worker will answer it
	abandoned        // nobody waits for it; the worker that finds it drops it
)

// Job is one picture of a call.
type Job struct {
	// Input is where the picture goes, as model.Session.Input has it.
	Input []float32
	// Logit and Embedding are the model's answer, once Wait has returned nil. The
	// embedding is valid until Free.
	Logit     float32
	Embedding []float32
	// Submitted, Started and Ended are when the picture was submitted, when its batch
	// began and when it ended.
	Submitted, Started, Ended time.Time

	engine *Engine
	model  *Model
	state  atomic.Int32
	err    error
	done   chan struct{}
}

// Next returns the call's next picture, to be filled in. The caller either submits
// it and then frees it after a successful Wait, or frees it at once.
func (c *Call) Next() *Job {
	e, m := c.engine, c.model
	j, ok := e.jobs.Get().(*Job)
	if !ok {
		j = &Job{engine: e, done: make(chan struct{}, 1)}
	}
	if n := m.inputSize; len(j.Input) != n {
		j.Input = make([]float32, n)
	}
	if n := m.File.EmbeddingSize; len(j.Embedding) != n {
		j.Embedding = make([]float32, n)
	}
	j.model = m
	return j
}

// Free gives the job back. It must not be used after it.
func (j *Job) Free() {
	j.model, j.err = nil, nil
	j.engine.jobs.Put(j)
}

// Submit puts a picture into the queue. It does not block.
func (c *Call) Submit(j *Job) {
	if c.places == 0 {
		panic("infer: a call submits more pictures than it was admitted with")
	}
	c.places--
	j.Submitted = time.Now()
	j.state.Store(queued)
	c.engine.queue <- j // there is room: as many places as may be admitted
}

// peerInterval is how often a call that waits looks whether its client still does.
// Under normal load no picture waits that long, so that the look costs nothing.
const peerInterval = 25 * time.Millisecond

// Wait returns when the picture has been judged, or with ErrDeadline or ErrDisconnected
// when there is no use in waiting any longer, or with the failure of the session.
// After an error of any kind the job is gone: it must not be used or freed.
func (c *Call) Wait(j *Job) error {
	for {
		left := time.Until(c.deadline)
		c.timer.Reset(min(max(left, 0), peerInterval))
		select {
		case <-j.done:
			c.timer.Stop()
			return j.answered()
		case <-c.timer.C:
		}
		var reason error
		switch {
		case left <= peerInterval:
			reason = ErrDeadline
		case c.peer != nil && c.peer.Disconnected():
			reason = ErrDisconnected
		default:
			continue
		}
		if j.state.CompareAndSwap(queued, abandoned) {
			return reason
		}
		// A worker has it: the answer is a matter of milliseconds, and the job is the
		// worker's until then.
		<-j.done
		return j.answered()
	}
}

// answered takes the answer of a job that a worker is done with.
func (j *Job) answered() error {
	j.engine.admitted.Add(-1)
	err := j.err
	if err != nil {
		j.Free()
	}
	return err
}

// work is a worker: it judges pictures until the engine is closed.
func (e *Engine) work(id int) {
	batch := make([]*Job, 0, e.options.MaxBatch)
	for first := range e.queue {
		e.running.Add(1)
		batch = e.take(batch[:0], first)
		// Requests that are being read or decoded now reach the queue meanwhile.
		runtime.Gosched()
		for len(batch) < cap(batch) {
			select {
			case j, ok := <-e.queue:
				if ok {
					batch = e.take(batch, j)
					continue
				}
			default:
			}
			break
		}
		for rest := batch; len(rest) > 0; {
			// Around a change of model two of them meet in a batch.
			n := 1
			for n < len(rest) && rest[n].model == rest[0].model {
				n++
			}
			e.run(id, rest[:n])
			rest = rest[n:]
		}
		e.running.Add(-1)
	}
}

// take adds the job to the batch unless nobody waits for it any more.
func (e *Engine) take(batch []*Job, j *Job) []*Job {
	if j.state.CompareAndSwap(queued, taken) {
		return append(batch, j)
	}
	e.admitted.Add(-1)
	j.Free()
	return batch
}

// run judges the jobs, which are of one model.
func (e *Engine) run(id int, jobs []*Job) {
	m := jobs[0].model
	session, picture, embedding := m.sessions[id], m.inputSize, m.File.EmbeddingSize
	input := session.Input()
	for i, j := range jobs {
		copy(input[i*picture:], j.Input)
	}
	started := time.Now()
	err := session.Run(len(jobs))
	ended := time.Now()
	if err != nil {
		err = fmt.Errorf("judge pictures: %w", err)
	}
	for i, j := range jobs {
		if err == nil {
			j.Logit = session.Logits()[i]
			copy(j.Embedding, session.Embeddings()[i*embedding:])
		}
		j.err, j.Started, j.Ended = err, started, ended
		j.done <- struct{}{} // never blocks: there is room for one, and one is sent
	}
	if e.options.ObserveBatch != nil {
		e.options.ObserveBatch(len(jobs), ended.Sub(started))
	}
}
