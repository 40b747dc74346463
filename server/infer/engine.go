// Package infer runs models on images from concurrent requests, in batches.
//
// Create an [Engine] with [New] and a [Slot] for each model that is served at the same time with
// [Engine.NewSlot]. Prepare a model with [Engine.Load] and activate it with [Slot.Use]. Each request then goes
// through [Slot.Admit], which returns a [Call].
//
// An Engine has one worker per core, and a model has one ONNX Runtime session per worker. The images of all
// models wait in a single queue. An idle worker takes one image, yields once to other goroutines, takes whatever
// else is queued up to the batch size, and never sleeps to fill a batch. The model of a slot can be swapped
// while requests are in flight: each request keeps the model it was admitted with.
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
	"fakeart/internal/imaging"
)

// Errors returned by calls that run out of time or capacity, for errors.Is.
var (
	// ErrBusy is returned if the queue is full. Retry later.
	ErrBusy = errors.New("too many images are queued")
	// ErrTooLarge is returned if the images of one call need more memory than Options.QueueMemory.
	ErrTooLarge = errors.New("too many images in one request")
	// ErrMemory is returned if a model needs more memory than Options.ModelMemory allows.
	ErrMemory = errors.New("not enough memory for the model")
	// ErrNoModel is returned before the first call to Use. Retry later.
	ErrNoModel = errors.New("no model is loaded")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the server is shutting down")
	// ErrDeadline is returned if the call's deadline passes before a worker takes its images.
	ErrDeadline = errors.New("request deadline exceeded")
	// ErrDisconnected is returned if the client disconnects while its images wait.
	ErrDisconnected = errors.New("client disconnected")
)

// Options configures an Engine.
type Options struct {
	// Workers is the number of workers, and of single-threaded sessions per model; one per core is best.
	Workers int
	// MaxBatch is the maximum number of images that a session runs at once. Models that take long for an image
	// get smaller batches; see Model.MaxBatch.
	MaxBatch int
	// Queue is the maximum number of images that are admitted and not yet classified.
	Queue int
	// QueueMemory limits the memory in bytes for the input and output of the images of all calls; 0 means no
	// limit.
	QueueMemory int64
	// ModelMemory limits the estimated memory in bytes of all models together, including those that are being
	// prepared and replaced ones that calls still use; 0 means no limit.
	ModelMemory int64
	// ObserveBatch, if not nil, is called after each batch with its model, size and duration. It must be
	// safe for concurrent use.
	ObserveBatch func(model *Model, images int, took time.Duration)
	// ObserveExplanation, if not nil, is called after each explanation with its duration, not
	// counting the wait for its turn. It must be safe for concurrent use.
	ObserveExplanation func(method explain.Method, took time.Duration)
	// CancelExplanations cancels waiting and running explanations when it is closed. It may be nil.
	CancelExplanations <-chan struct{}
}

// Engine runs the models of its slots. It is safe for concurrent use.
type Engine struct {
	options Options
	queue   chan *Job

	admitted atomic.Int64 // images that are admitted and not yet classified
	held     atomic.Int64 // bytes of the images of all calls
	loaded   atomic.Int64 // estimated bytes of all models
	closed   atomic.Bool
	workers  sync.WaitGroup
	calls    sync.Pool
	turns    *semaphore.Weighted // limits concurrent explanations
	running  atomic.Int64        // workers and explanations that are running a session

	explanations atomic.Int64 // admitted and not yet finished

	slotsMu sync.Mutex
	slots   []*Slot
}

// Slot holds a model that can be swapped. It is safe for concurrent use.
type Slot struct {
	engine  *Engine
	current atomic.Pointer[Model]
}

// NewSlot returns a slot without a model. It belongs to the engine until the engine is closed.
func (e *Engine) NewSlot() *Slot {
	s := &Slot{engine: e}
	e.slotsMu.Lock()
	defer e.slotsMu.Unlock()
	e.slots = append(e.slots, s)
	return s
}

// New starts an engine without slots.
func New(o Options) (*Engine, error) {
	for _, n := range []struct {
		name  string
		value int
	}{{"workers", o.Workers}, {"images per batch", o.MaxBatch}, {"queue slots", o.Queue}} {
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

// Use makes m the model of all calls admitted from now on. Calls in flight finish on their own
// model, which is freed when the last of them is closed.
func (s *Slot) Use(m *Model) {
	if old := s.current.Swap(m); old != nil {
		_ = old.release() // failing to free ONNX Runtime memory affects no request
	}
}

// Waiting returns the number of images that no worker has taken yet.
func (e *Engine) Waiting() int { return len(e.queue) }

// Close stops admitting calls, waits until the admitted ones are done, and frees the current models.
// Admit then returns ErrClosed. Calling Close again does nothing.
func (e *Engine) Close() error {
	if e.closed.Swap(true) {
		return nil
	}
	for e.admitted.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	close(e.queue)
	e.workers.Wait()
	var errs []error
	e.slotsMu.Lock()
	defer e.slotsMu.Unlock()
	for _, s := range e.slots {
		if m := s.current.Swap(nil); m != nil {
			errs = append(errs, m.release())
		}
	}
	return errors.Join(errs...)
}

// Peer is the client that waits for the result of a call.
type Peer interface {
	// Disconnected reports whether the client has closed its connection.
	Disconnected() bool
}

// Call takes one request through the engine: Admit, then Next and Submit for each image, then Wait
// for each, then Close. A Call is not safe for concurrent use.
type Call struct {
	engine   *Engine
	model    *Model
	peer     Peer
	deadline time.Time
	places   int   // queue places reserved and not yet used by Submit
	bytes    int64 // reserved for the images
	timer    *time.Timer

	explanations int64 // slots reserved and not yet used by Explain
}

// Admit reserves places in the queue for the images of a request and binds it to the current model of the
// slot. It doesn't block: it returns ErrBusy if the queue is full, ErrTooLarge if it never has memory for
// that many images, ErrNoModel before the first Use, and ErrClosed after Close. Wait gives up once the deadline has
// passed or peer, which may be nil, has disconnected. The caller must close the call.
func (s *Slot) Admit(images int, deadline time.Time, peer Peer) (*Call, error) {
	e := s.engine
	if e.admitted.Add(int64(images)) > int64(e.options.Queue) {
		e.admitted.Add(int64(-images))
		return nil, ErrBusy
	}
	m := s.acquire()
	if m == nil || e.closed.Load() {
		if m != nil {
			_ = m.release()
		}
		e.admitted.Add(int64(-images))
		if !e.closed.Load() {
			return nil, ErrNoModel
		}
		return nil, ErrClosed
	}
	bytes := int64(images) * m.imageMemory()
	if limit := e.options.QueueMemory; e.held.Add(bytes) > limit && limit > 0 {
		e.held.Add(-bytes)
		e.admitted.Add(int64(-images))
		err := ErrBusy
		if bytes > limit {
			err = fmt.Errorf("%w: this model takes %d bytes per image, and there are %d bytes; send at most %d images at once", ErrTooLarge, m.imageMemory(), limit, limit/m.imageMemory())
		}
		_ = m.release()
		return nil, err
	}
	c, ok := e.calls.Get().(*Call)
	if !ok {
		c = &Call{engine: e, timer: time.NewTimer(time.Hour)}
		c.timer.Stop()
	}
	c.model, c.peer, c.deadline, c.places, c.bytes = m, peer, deadline, images, bytes
	return c, nil
}

// acquire returns the current model with its reference count incremented, or nil without a model.
func (s *Slot) acquire() *Model {
	for {
		m := s.current.Load()
		if m == nil || m.retain() {
			return m
		}
		// It was replaced and freed in between.
	}
}

// Model returns the model that the call runs on.
func (c *Call) Model() *Model { return c.model }

// Close releases what the call has reserved. Every submitted image must have been waited for. The
// call must not be used afterwards.
func (c *Call) Close() {
	e := c.engine
	if c.places > 0 {
		e.admitted.Add(int64(-c.places))
	}
	e.held.Add(-c.bytes)
	e.explanations.Add(-c.explanations)
	_ = c.model.release()
	c.model, c.peer, c.places, c.bytes, c.explanations = nil, nil, 0, 0, 0
	e.calls.Put(c)
}

// States of a job.
const (
	queued    = iota // no worker has taken it
	taken            // a worker is classifying it
	abandoned        // its caller gave up; the worker that finds it discards it
)

// Job is one image of a call.
type Job struct {
	// Input is the image, in the layout of model.Session.Input.
	Input imaging.Tensor
	// Scores and Embedding are the model's output, set once Wait has returned nil. They are
	// valid until Free.
	Scores    []float32
	Embedding []float32
	// Submitted is when the image was submitted. Started and Ended are when its batch started and
	// ended.
	Submitted, Started, Ended time.Time

	engine *Engine
	model  *Model
	state  atomic.Int32
	err    error
	done   chan struct{}
}

// Next returns the call's next image for the caller to fill in. The caller must either submit it,
// and free it after a successful Wait, or free it without submitting it.
func (c *Call) Next() *Job {
	m := c.model
	j, ok := m.jobs.Get().(*Job)
	if !ok {
		j = &Job{
			engine: c.engine, model: m, done: make(chan struct{}, 1), Input: m.File.Plan.NewTensor(1),
			Scores: make([]float32, m.File.Metadata.Columns), Embedding: make([]float32, m.File.EmbeddingSize),
		}
	}
	return j
}

// Free returns the job to the pool. The job must not be used afterwards.
func (j *Job) Free() {
	j.err = nil
	j.model.jobs.Put(j)
}

// Submit queues an image. It does not block.
func (c *Call) Submit(j *Job) {
	if c.places == 0 {
		panic("infer: Submit called for more images than were admitted")
	}
	c.places--
	j.Submitted = time.Now()
	j.state.Store(queued)
	c.engine.queue <- j // never blocks: the queue has a slot for every admitted image
}

// peerInterval is how often a waiting call checks whether its client is still connected. Under
// normal load no image waits this long, so the check costs nothing.
const peerInterval = 25 * time.Millisecond

// Wait blocks until the image is classified. It returns ErrDeadline or ErrDisconnected if waiting
// has become pointless, or the error of the session. After any error the job must not be used or
// freed.
func (c *Call) Wait(j *Job) error {
	for {
		left := time.Until(c.deadline)
		c.timer.Reset(min(max(left, 0), peerInterval))
		select {
		case <-j.done:
			c.timer.Stop()
			return j.finish()
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
		// A worker owns the job now, and finishes it within milliseconds.
		<-j.done
		return j.finish()
	}
}

// finish returns the result of a job that a worker is done with. It frees the job on error.
func (j *Job) finish() error {
	j.engine.admitted.Add(-1)
	err := j.err
	if err != nil {
		j.Free()
	}
	return err
}

// work classifies images until the engine is closed. Each worker runs it in its own goroutine.
func (e *Engine) work(id int) {
	batch := make([]*Job, 0, e.options.MaxBatch)
	for first := range e.queue {
		e.running.Add(1)
		batch = e.take(batch[:0], first)
		// Let requests that are being read or decoded reach the queue.
		runtime.Gosched()
		// The images of a model with small batches are left to other workers.
		for len(batch) < cap(batch) && (len(batch) == 0 || len(batch) < batch[len(batch)-1].model.batch) {
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
			// A batch can contain jobs for several models.
			n := 1
			for n < min(len(rest), rest[0].model.batch) && rest[n].model == rest[0].model {
				n++
			}
			e.run(id, rest[:n])
			rest = rest[n:]
		}
		e.running.Add(-1)
	}
}

// take adds the job to the batch, unless its caller has given up.
func (e *Engine) take(batch []*Job, j *Job) []*Job {
	if j.state.CompareAndSwap(queued, taken) {
		return append(batch, j)
	}
	e.admitted.Add(-1)
	j.Free()
	return batch
}

// run classifies the jobs, which must all have the same model.
func (e *Engine) run(id int, jobs []*Job) {
	m := jobs[0].model
	session, columns, embedding := m.sessions[id], m.File.Metadata.Columns, m.File.EmbeddingSize
	input := session.Input()
	began := time.Now()
	for i, j := range jobs {
		input.Slice(i*j.Input.Len(), (i+1)*j.Input.Len()).Copy(j.Input)
	}
	started := time.Now()
	err := session.Run(len(jobs))
	ended := time.Now()
	if err != nil {
		err = fmt.Errorf("classify images: %w", err)
	}
	if err == nil {
		for i, j := range jobs {
			copy(j.Scores, session.Scores()[i*columns:])
			copy(j.Embedding, session.Embeddings()[i*embedding:])
		}
		// Count before the callers continue, so that they find their images counted.
		counts := &m.batches[len(jobs)-1]
		counts.count.Add(1)
		counts.input.Add(int64(started.Sub(began)))
		counts.inference.Add(int64(ended.Sub(started)))
		counts.output.Add(int64(time.Since(ended)))
	}
	for _, j := range jobs {
		j.err, j.Started, j.Ended = err, started, ended
		j.done <- struct{}{} // never blocks: the channel has a buffer of one, and one value is sent per job
	}
	if e.options.ObserveBatch != nil {
		e.options.ObserveBatch(m, len(jobs), ended.Sub(started))
	}
}
