package source

import (
	"context"
	"errors"
	"time"
)

const (
	// settleTime is how long a local file must stay unchanged to count as completely written.
	settleTime = 500 * time.Millisecond
	// maxBackoff is the maximum interval between checks of a failing store, unless the configured
	// interval is longer.
	maxBackoff = 5 * time.Minute
)

// Watch checks the current model of the source at every interval, and calls changed if it is
// another object or version than at the last check. current is the model that the caller already
// has, or the zero Object. The first check is after one interval. A local file is only reported
// after it has been unchanged for half a second, so that incomplete files aren't reported. A
// version is reported only once, so the caller can go back to an earlier model and keep it.
//
// If changed returns an error that wraps ErrChanged, ErrNotFound or ErrUnreachable, the model is
// temporarily unavailable, and is reported again at the next check. Other errors are about the
// model itself, which is not reported again.
//
// Watch calls failed if a check fails. The interval then doubles, up to five minutes or the
// configured interval, whichever is longer. If there is no model (ErrNotFound), the interval
// doesn't change, because the store works.
//
// Watch returns when ctx is done. It calls both functions from its own goroutine. It panics if
// every isn't positive.
func (s *Source) Watch(ctx context.Context, every time.Duration, current Object, changed func(Object) error, failed func(error)) {
	if every <= 0 {
		panic("source: Watch requires a positive interval")
	}
	wait := every
	for sleep(ctx, wait) == nil {
		now, err := s.settled(ctx, current, min(every, settleTime))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failed(err)
			if wait = min(2*wait, max(every, maxBackoff)); errors.Is(err, ErrNotFound) {
				wait = every
			}
			continue
		case !now.same(current):
			if err := changed(now); !transient(err) {
				current = now
			}
		}
		wait = every
	}
}

// transient reports whether a later attempt may succeed.
func transient(err error) bool {
	return errors.Is(err, ErrChanged) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable)
}

// settled returns the current model. If it is local and new, settled waits until it has been
// unchanged for the given time.
func (s *Source) settled(ctx context.Context, known Object, still time.Duration) (Object, error) {
	now, err := s.Current(ctx)
	for err == nil && s.at.local() && !now.same(known) {
		before := now
		if err = sleep(ctx, still); err == nil {
			now, err = s.Current(ctx)
		}
		if now.same(before) {
			break
		}
	}
	return now, err
}
