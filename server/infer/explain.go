package infer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fakeart/internal/explain"
	"fakeart/internal/model"
)

// explainBatch is the maximum batch size of sessions for explanations. It is small because between two
// runs, about a millisecond each, an explanation yields to images that wait to be classified.
const explainBatch = 4

// maxExplanations limits the predictions of several calls that wait to be explained. One core
// explains that many by occlusion in two to three seconds. Beyond the limit every request would be
// worked on until its deadline, and none would finish.
const maxExplanations = 256

// ErrTooManyExplanations is returned if too many predictions wait to be explained. Retry later.
var ErrTooManyExplanations = errors.New("too many predictions are waiting to be explained")

// CanExplain reports whether the method can explain predictions of the model.
func CanExplain(file *model.File, method explain.Method) bool {
	return method != explain.GradCAM || file.HasCAM()
}

// AdmitExplanations reserves slots for explaining the given number of the call's images. It doesn't
// block: it returns ErrTooManyExplanations if there are too few slots, except to the only call that
// needs any, and explain.ErrNoGradCAM if the model doesn't support the method. Close releases
// unused slots.
func (c *Call) AdmitExplanations(method explain.Method, images int) error {
	if !CanExplain(c.model.File, method) {
		return explain.ErrNoGradCAM
	}
	n := int64(images)
	if waiting := &c.engine.explanations; waiting.Add(n) > max(maxExplanations, n) {
		waiting.Add(-n)
		return ErrTooManyExplanations
	}
	c.explanations += n
	return nil
}

// Explain writes the saliency map of a prediction to dst. j must be an image for which Wait
// returned nil, and class the index of the class to explain. Each image uses one of the slots of
// AdmitExplanations.
//
// Explanations have a few sessions of their own. Explain waits for its turn and yields to images
// that wait to be classified. It returns ErrDeadline or ErrDisconnected like Wait, possibly halfway
// through, ErrClosed once Options.CancelExplanations is closed, explain.ErrNoGradCAM, or the error
// of the session.
func (c *Call) Explain(dst []float32, method explain.Method, j *Job, class int) error {
	if c.explanations == 0 {
		panic("infer: Explain called for more images than were admitted")
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
	defer c.model.putExplainer(s)
	if err := explain.Map(dst, method, yieldingSession{s, c}, explain.ModelOf(c.model.File), j.Input, class); err != nil {
		return err
	}
	if e.options.ObserveExplanation != nil {
		e.options.ObserveExplanation(method, time.Since(began))
	}
	return nil
}

// turn waits until the call may explain an image. Turns are given first come, first served.
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
		ticker := time.NewTicker(peerInterval)
		defer ticker.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-ticker.C:
				if err := c.canceled(); err != nil {
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

// reserveIdle reserves a core for an explanation and reports whether it did: only if no image waits
// to be classified and a core is idle.
func (e *Engine) reserveIdle() bool {
	n := e.running.Load()
	return e.Waiting() == 0 && n < int64(e.options.Workers) && e.running.CompareAndSwap(n, n+1)
}

// canceled returns the reason why the call should stop, or nil.
func (c *Call) canceled() error {
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

// yieldingSession is a session that runs only while a core is idle, and fails once its call is
// canceled.
type yieldingSession struct {
	*model.Session
	call *Call
}

// Run waits for an idle core and runs the session.
func (s yieldingSession) Run(n int) error {
	e := s.call.engine
	for {
		if err := s.call.canceled(); err != nil {
			return err
		}
		if e.reserveIdle() {
			break
		}
		time.Sleep(time.Millisecond) // about as long as a batch takes
	}
	defer e.running.Add(-1)
	if err := s.Session.Run(n); err != nil {
		return fmt.Errorf("explain prediction: %w", err)
	}
	return nil
}

// explainer returns one of the model's sessions for explanations. It creates them on demand,
// because most models never compute an explanation. The caller must hold a reference to the
// model, and return the session with putExplainer.
func (m *Model) explainer() (*model.Session, error) {
	m.explaining.Lock()
	defer m.explaining.Unlock()
	if n := len(m.explainers); n > 0 {
		s := m.explainers[n-1]
		m.explainers = m.explainers[:n-1]
		return s, nil
	}
	return m.File.NewExplainer(min(explainBatch, m.batch), sessionOptions)
}

func (m *Model) putExplainer(s *model.Session) {
	m.explaining.Lock()
	defer m.explaining.Unlock()
	m.explainers = append(m.explainers, s)
}

// closeExplainers frees the sessions for explanations. None may be in use.
func (m *Model) closeExplainers() error {
	var errs []error
	for _, s := range m.explainers {
		errs = append(errs, s.Close())
	}
	m.explainers = nil
	return errors.Join(errs...)
}
