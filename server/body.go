package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/sync/semaphore"
)

// smallBody is the size in bytes up to which a body costs no more than its
// connection does: it is read into a buffer that is kept, and not counted.
const smallBody = 64 << 10

// bodies reads the bodies of requests. The memory of all large ones together is
// bounded: fasthttp by itself would set aside what each client announces.
type bodies struct {
	limit  int
	memory *semaphore.Weighted
	room   int64 // of memory, in bytes
}

func newBodies(limit, memory int) *bodies {
	room := max(int64(memory), int64(limit))
	return &bodies{limit: limit, memory: semaphore.NewWeighted(room), room: room}
}

// body is the content of a request, and what it holds of the memory for bodies.
type body struct {
	bytes []byte
	held  int64
}

// read reads the whole body of the request into b, whose buffer it uses again. The
// caller gives the memory back with free.
func (s *bodies) read(c *fiber.Ctx, b *body) error {
	b.bytes = b.bytes[:0]
	// A compressed body could unpack to any size.
	if encoding := c.Get(fiber.HeaderContentEncoding); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fiber.NewError(fiber.StatusUnsupportedMediaType, fmt.Sprintf("the content encoding %.40q is not read; send the body as it is", encoding))
	}
	length := c.Request().Header.ContentLength()
	stream := c.Context().RequestBodyStream()
	if stream == nil || length == 0 {
		return nil
	}
	if length > s.limit {
		return fiber.ErrRequestEntityTooLarge
	}
	want := min(max(length, 0), smallBody)
	if length > smallBody {
		want = length
	}
	if err := s.grow(b, want); err != nil {
		return err
	}
	for {
		if len(b.bytes) == cap(b.bytes) {
			// Only a body of unknown length comes here before its end.
			if err := s.grow(b, min(max(2*cap(b.bytes), 4096), s.limit+1)); err != nil {
				return err
			}
		}
		n, err := stream.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if len(b.bytes) > s.limit {
			return fiber.ErrRequestEntityTooLarge
		}
		if errors.Is(err, io.EOF) || err == nil && length >= 0 && len(b.bytes) == length {
			break
		}
		if err != nil {
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				return fiber.ErrRequestTimeout
			}
			return fiber.NewError(fiber.StatusBadRequest, "the request's body breaks off or is not well-formed")
		}
	}
	state(c).bodyRead = true
	if length >= 0 && len(b.bytes) != length {
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the body ends after %d of %d bytes", len(b.bytes), length))
	}
	return nil
}

// grow makes room for n bytes in all, if there is memory for it.
func (s *bodies) grow(b *body, n int) error {
	if n <= cap(b.bytes) {
		return nil
	}
	if n > smallBody {
		more := int64(n) - b.held
		if !s.memory.TryAcquire(more) {
			return busy(fmt.Sprintf("too many large requests are being received; at most %d bytes are taken at once", s.room))
		}
		b.held += more
	}
	bigger := make([]byte, len(b.bytes), n)
	copy(bigger, b.bytes)
	b.bytes = bigger
	return nil
}

// free gives the memory back. The buffer of a small body is kept for the next.
func (s *bodies) free(b *body) {
	if b.held > 0 {
		s.memory.Release(b.held)
		*b = body{}
	}
	b.bytes = b.bytes[:0]
}
