package source

import (
	"context"
	"errors"
	"time"
)

const (
	// settleTime is how long a local file has to stay as it is to count as written.
	settleTime = 500 * time.Millisecond
	// maxBackoff bounds the time between two looks at a store that fails, unless
	// the user asked for longer.
	maxBackoff = 5 * time.Minute
)

// Watch looks every so often for the current model of the source, and calls changed
// when it is another, or another version, than the one seen last; current is what the
// caller has, or the zero Object for nothing. The first look is one interval from now.
// A local file has to stay the same for half a second first, so that one that is
// being written is not taken for whole. What was seen once is not reported again, so
// that the caller may go back to an earlier model and stay there.
//
// When changed returns an error that wraps ErrChanged, ErrNotFound or ErrUnreachable,
// the model could not be had just now, and is reported again at the next look; any
// other error is about the model itself, which is not asked for again.
//
// failed is called when a look fails. The model seen last stays known, and the time to the
// next look doubles, up to five minutes or the interval, whichever is longer. A place
// without a model (ErrNotFound) has answered: the next look is one interval away.
//
// Watch returns when ctx is done. Both functions are called by its own goroutine.
// It panics when every is not positive.
func (s *Source) Watch(ctx context.Context, every time.Duration, current Object, changed func(Object) error, failed func(error)) {
	if every <= 0 {
		panic("source: to watch takes a positive interval")
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

// transient tells whether what failed may succeed at another time.
func transient(err error) bool {
	return errors.Is(err, ErrChanged) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable)
}

// settled returns the current model. A local one that is new it looks at until it
// has been the same for the given time.
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
