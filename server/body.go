package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/semaphore"
)

// smallBody is the size in bytes up to which a body isn't counted against the memory limit. Small
// bodies are read into a buffer that is reused for later requests.
const smallBody = 64 << 10

// bodies reads request bodies and bounds the memory that large ones take together. fasthttp
// itself would allocate as much as each client announces.
type bodies struct {
	limit  int
	memory *semaphore.Weighted
	room   int64 // size of memory in bytes
	now    func() time.Time
}

func newBodies(limit, memory int, now func() time.Time) *bodies {
	room := max(int64(memory), int64(limit))
	return &bodies{limit: limit, memory: semaphore.NewWeighted(room), room: room, now: now}
}

// body is the content of a request and its share of the memory for bodies.
type body struct {
	bytes []byte
	held  int64 // bytes acquired from bodies.memory
}

// readBody reads the whole request body into b and reuses b's buffer. The caller must release the
// memory with bodies.free. It is called after everything that can be checked without the body: a
// client that waits for 100 Continue doesn't send the body of a request that is rejected before.
//
// The time of the server, and with it the request's timeout, latency and span, starts when the last
// byte has been received. The request doesn't count as in progress while it is being received, so that slow clients don't
// use up Config.MaxRequests or delay a shutdown.
func (m *Main) readBody(c *fiber.Ctx, b *body) error {
	m.pending.Add(-1)
	err := m.bodies.read(c, b)
	if m.pending.Add(1) > int64(m.config.MaxRequests) && err == nil {
		err = m.overLimit()
	}
	if err == nil {
		m.beginTrace(c)
	}
	return err
}

// read is readBody without counting requests. A compressed body is decompressed; both its forms are
// bounded by the limits for bodies.
func (s *bodies) read(c *fiber.Ctx, b *body) error {
	b.bytes = b.bytes[:0]
	encoding, err := contentEncoding(c)
	if err != nil {
		return err
	}
	length := c.Request().Header.ContentLength()
	stream := c.Context().RequestBodyStream()
	if stream == nil || length == 0 {
		return nil
	}
	if length > s.limit {
		return fiber.ErrRequestEntityTooLarge
	}
	size := min(max(length, 0), smallBody)
	if length > smallBody {
		size = length
	}
	if err := s.grow(b, size); err != nil {
		return err
	}
	if conn, ok := c.Context().Conn().(*conn); ok && conn.request.continues {
		if err := conn.sendContinue(); err != nil {
			return errClientClosed
		}
	}
	err = s.fill(b, stream, length)
	state(c).received = s.now()
	if err != nil {
		if errors.As(err, new(*fiber.Error)) || errors.As(err, new(*unavailable)) {
			return err
		}
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return fiber.ErrRequestTimeout
		}
		return fiber.NewError(fiber.StatusBadRequest, "the request body is incomplete or malformed")
	}
	state(c).bodyRead = true
	if length >= 0 && len(b.bytes) != length {
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the request body ends after %d of %d bytes", len(b.bytes), length))
	}
	if encoding != "" {
		return s.decompress(b, encoding)
	}
	return nil
}

// fill reads from r into b until length bytes are read or, if length is negative, until the end. It
// returns an error if b exceeds a limit, or the error of r.
func (s *bodies) fill(b *body, r io.Reader, length int) error {
	for {
		if len(b.bytes) == cap(b.bytes) {
			// Only a body of unknown length gets here before its end.
			if err := s.grow(b, min(max(2*cap(b.bytes), 4096), s.limit+1)); err != nil {
				return err
			}
		}
		n, err := r.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if len(b.bytes) > s.limit {
			return fiber.ErrRequestEntityTooLarge
		}
		if errors.Is(err, io.EOF) || err == nil && length >= 0 && len(b.bytes) == length {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// acceptedEncodings are the content encodings of requests, for the header Accept-Encoding.
const acceptedEncodings = "gzip, deflate"

// contentEncoding returns the encoding of the request body: gzip, deflate, or "" if it isn't
// compressed.
func contentEncoding(c *fiber.Ctx) (string, error) {
	fields := c.Request().Header.PeekAll(fiber.HeaderContentEncoding)
	if len(fields) == 0 {
		return "", nil
	}
	switch strings.ToLower(strings.TrimSpace(string(bytes.Join(fields, []byte(","))))) {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return "gzip", nil
	case "deflate":
		return "deflate", nil
	}
	c.Set(fiber.HeaderAcceptEncoding, acceptedEncodings) // RFC 9110, section 15.5.16
	return "", fiber.NewError(fiber.StatusUnsupportedMediaType, "the content encoding isn't supported; use gzip or deflate, or send the body uncompressed")
}

// decompress replaces the compressed content of b. It stops as soon as the decompressed content
// exceeds a limit, whatever its size.
func (s *bodies) decompress(b *body, encoding string) error {
	source := bytes.NewReader(b.bytes)
	var r io.ReadCloser
	var err error
	if encoding == "gzip" {
		r, err = gzip.NewReader(source)
	} else {
		r, err = zlib.NewReader(source)
	}
	var plain body
	if err == nil {
		err = s.fill(&plain, r, -1)
		_ = r.Close() // only returns the error of Read again
	}
	if err == nil && source.Len() > 0 {
		err = errors.New("unexpected data after the end") // after zlib; gzip reports it
	}
	s.free(b)
	*b = plain
	if err == nil || errors.As(err, new(*fiber.Error)) || errors.As(err, new(*unavailable)) {
		return err
	}
	return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the request body is truncated or isn't valid %s data", encoding))
}

// grow extends the buffer to a capacity of n bytes. It returns a 503 error if the memory limit is
// reached.
func (s *bodies) grow(b *body, n int) error {
	if n <= cap(b.bytes) {
		return nil
	}
	if n > smallBody {
		more := int64(n) - b.held
		if !s.memory.TryAcquire(more) {
			return busy(fmt.Sprintf("too many large requests at once: their bodies may take %d bytes together", s.room))
		}
		b.held += more
	}
	bigger := make([]byte, len(b.bytes), n)
	copy(bigger, b.bytes)
	b.bytes = bigger
	return nil
}

// free releases the memory. The buffer of a small body is kept for the next request.
func (s *bodies) free(b *body) {
	if b.held > 0 {
		s.memory.Release(b.held)
		*b = body{}
	}
	b.bytes = b.bytes[:0]
}
