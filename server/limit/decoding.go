package limit

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"

	"fakeart/internal/imaging"
	"fakeart/server/failure"
)

// smallImage is the memory in bytes up to which decoding an image isn't counted against the
// memory limit. All decoders together can use that much without harm.
const smallImage = 2 << 20

// Memory bounds the memory for decoding large images. It is estimated from an image's header before
// anything is allocated.
type Memory struct {
	memory *semaphore.Weighted
	room   int64 // size of memory in bytes
}

// NewMemory returns a Memory of the given size in bytes.
func NewMemory(size int) *Memory {
	return &Memory{memory: semaphore.NewWeighted(int64(size)), room: int64(size)}
}

// Admit reserves the memory for decoding the image with the given header, as [imaging.Inspect] returns
// it. It waits for memory until ctx is done. The caller must call release after decoding. An image that
// needs more than all of the memory is an [imaging.ErrTooLarge].
func (m *Memory) Admit(ctx context.Context, header imaging.Info) (release func(), err error) {
	if header.Memory <= smallImage {
		return func() {}, nil
	}
	if header.Memory > m.room {
		return nil, fmt.Errorf("%w: decoding the %s image of %d×%d pixels takes up to %d bytes of memory, more than the limit of %d; scale it down or save it in another format",
			imaging.ErrTooLarge, header.Format, header.Width, header.Height, header.Memory, m.room)
	}
	if err := m.memory.Acquire(ctx, header.Memory); err != nil {
		return nil, failure.Busy("too many large images are being decoded")
	}
	return func() { m.memory.Release(header.Memory) }, nil
}

// Pool lends its values, such as decoders, to one request at a time.
type Pool[T any] struct {
	free   chan T
	closed <-chan struct{}
}

// NewPool returns a pool of the values. After closed is closed, no request waits for one.
func NewPool[T any](closed <-chan struct{}, values ...T) *Pool[T] {
	p := &Pool[T]{free: make(chan T, len(values)), closed: closed}
	for _, v := range values {
		p.free <- v
	}
	return p
}

// Take returns a value, which the caller must return with Put. If all are in use, it waits for one
// until ctx is done, whose error it returns, or until the pool is closed for waiting requests, which is
// a [failure.Unavailable].
func (p *Pool[T]) Take(ctx context.Context) (v T, err error) {
	select {
	case v := <-p.free:
		return v, nil
	default:
	}
	select {
	case v := <-p.free:
		return v, nil
	case <-ctx.Done():
		return v, ctx.Err()
	case <-p.closed:
		return v, failure.Busy("the server is shutting down")
	}
}

// Put returns a value obtained from Take.
func (p *Pool[T]) Put(v T) { p.free <- v }

// Idle returns how many values can be taken without waiting.
func (p *Pool[T]) Idle() int { return len(p.free) }
