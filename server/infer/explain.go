package infer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fakeart/internal/explain"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// explainBatch is the most pictures that a session for explanations runs at once. It
// is small, for between two runs it is seen whether pictures wait for a verdict: a run
// takes about a millisecond.
const explainBatch = 4

// maxExplanations is the most verdicts that may wait to be explained, of several calls
// together: by occlusion one core explains them in two to three seconds. Requests beyond
// would each be worked on until their time is up, and none be answered.
const maxExplanations = 256

// ErrTooManyExplanations means that too many verdicts wait to be explained; the call may be
// tried again later.
var ErrTooManyExplanations = errors.New("too many verdicts are waiting to be explained")

// CanExplain tells whether verdicts of the model can be explained by the method.
func CanExplain(file *model.File, method explain.Method) bool {
	return method != explain.GradCAM || file.HasGradCAM()
}

// AdmitExplanations reserves places for explaining so many of the call's pictures. It
// fails at once with ErrTooManyExplanations when there is no room, which there always is
// for a call that is alone, or with explain.ErrNoGradCAM. Close frees the places that
// are left.
func (c *Call) AdmitExplanations(method explain.Method, pictures int) error {
	if !CanExplain(c.model.File, method) {
		return explain.ErrNoGradCAM
	}
	n := int64(pictures)
	if waiting := &c.engine.explanations; waiting.Add(n) > max(maxExplanations, n) {
		waiting.Add(-n)
		return ErrTooManyExplanations
	}
	c.explanations += n
	return nil
}

// Explain fills dst with the map by the method of a verdict about a picture that Wait
// has returned without an error. Explanations have sessions of their own, few at once:
// it waits for its turn, and gives way to pictures that wait for a verdict. It fails
// with ErrDeadline or ErrDisconnected like Wait, also halfway, with ErrClosed once
// Options.CancelExplanations is closed, with explain.ErrNoGradCAM, or with the session's failure.
// Each picture uses one of the places of AdmitExplanations.
func (c *Call) Explain(dst []float32, method explain.Method, j *Job, fake bool) error {
	if c.explanations == 0 {
		panic("infer: a call explains more pictures than it was admitted with")
	}
	e := c.engine
	defer func() {
		c.explanations--
		e.explanations.Add(-1)
	}()
	if err := c.turn(); err != nil {
		return err
	}
	defer e.turns.Release(1)
	began := time.Now()
	s, err := c.model.explainer()
	if err != nil {
		return err
	}
	defer c.model.giveBack(s)
	if err := explain.Map(dst, method, heeding{s, c}, j.Input, fake); err != nil {
		return err
	}
	if e.options.ObserveExplanation != nil {
		e.options.ObserveExplanation(method, time.Since(began))
	}
	return nil
}

// turn waits until the call may explain something, first come, first served.
func (c *Call) turn() error {
	turns := c.engine.turns
	if turns.TryAcquire(1) {
		return nil
	}
	ctx, stop := context.WithDeadlineCause(context.Background(), c.deadline, ErrDeadline)
	defer stop()
	ctx, giveUp := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		look := time.NewTicker(peerInterval)
		defer look.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-look.C:
				if err := c.worthwhile(); err != nil {
					giveUp(err)
				}
			}
		}
	})
	err := turns.Acquire(ctx, 1)
	if err != nil {
		err = context.Cause(ctx)
	}
	giveUp(nil)
	watch.Wait()
	return err
}

// spare tells whether no picture waits for a verdict and not every core is in use, and
// if so takes one.
func (e *Engine) spare() bool {
	n := e.running.Load()
	return e.Waiting() == 0 && n < int64(e.options.Workers) && e.running.CompareAndSwap(n, n+1)
}

// worthwhile tells why the call need not go on, or nil.
func (c *Call) worthwhile() error {
	select {
	case <-c.engine.options.CancelExplanations:
		return ErrClosed
	default:
	}
	switch {
	case !time.Now().Before(c.deadline):
		return ErrDeadline
	case c.peer != nil && c.peer.Disconnected():
		return ErrDisconnected
	}
	return nil
}

// heeding is a session that runs when a worker has nothing to do, whose core it takes,
// and no longer once nobody waits for the call.
type heeding struct {
	*model.Session
	call *Call
}

// Run is the session's.
func (h heeding) Run(n int) error {
	e := h.call.engine
	for {
		if err := h.call.worthwhile(); err != nil {
			return err
		}
		if e.spare() {
			break
		}
		time.Sleep(time.Millisecond) // about as long as a batch takes
	}
	defer e.running.Add(-1)
	if err := h.Session.Run(n); err != nil {
		return fmt.Errorf("explain a verdict: %w", err)
	}
	return nil
}

// explainer takes one of the model's sessions for explanations, or makes it: most
// models are never asked for one. The caller holds a reference, and gives it back.
func (m *Model) explainer() (*model.Session, error) {
	m.explaining.Lock()
	defer m.explaining.Unlock()
	if n := len(m.explainers); n > 0 {
		s := m.explainers[n-1]
		m.explainers = m.explainers[:n-1]
		return s, nil
	}
	return m.File.NewExplainer(explainBatch, ort.Options{Threads: 1, DenormalsAsZero: true})
}

func (m *Model) giveBack(s *model.Session) {
	m.explaining.Lock()
	defer m.explaining.Unlock()
	m.explainers = append(m.explainers, s)
}

// closeExplainers frees the sessions for explanations, of which none is in use.
func (m *Model) closeExplainers() error {
	var errs []error
	for _, s := range m.explainers {
		errs = append(errs, s.Close())
	}
	m.explainers = nil
	return errors.Join(errs...)
}
