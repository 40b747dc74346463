// Package limit bounds what clients may use of the server: the memory for bodies ([Bodies]) and for
// decoding images ([Memory]), the number of images decoded at once ([Pool]), and the rate of requests
// per client ([Clients], [Rate]). Everything is safe for concurrent use.
package limit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/semaphore"

	"fakeart/server/failure"
)

// SmallBody is the size in bytes up to which a body isn't counted against the memory limit. Small
// bodies are read into a buffer that is reused for later requests.
const SmallBody = 64 << 10

// Bodies reads request bodies and bounds the memory that large ones take together. fasthttp
// itself would allocate as much as each client announces.
type Bodies struct {
	limit  int
	memory *semaphore.Weighted
	room   int64 // size of memory in bytes
}

// NewBodies returns a Bodies for bodies of at most limit bytes each, and memory bytes together.
func NewBodies(limit, memory int) *Bodies {
	room := max(int64(memory), int64(limit))
	return &Bodies{limit: limit, memory: semaphore.NewWeighted(room), room: room}
}

// Body is the content of a request and its share of the memory for bodies. Its zero value is empty.
type Body struct {
	Bytes []byte

	held int64 // bytes acquired from Bodies.memory
}

// Read reads the whole body of a request into b and reuses b's buffer. The caller must release the
// memory with [Bodies.Free], whether Read returns an error or not. Before the first byte of a body that
// is within the limits it calls begin, whose error ends the reading; after the last one it calls end
// with whether the whole body was received. Neither is called if there is no body.
//
// A compressed body is decompressed; both its forms are bounded by the limits for bodies. An error has
// the HTTP status to return, and is a [failure.Unavailable] if there is no memory.
func (s *Bodies) Read(c *fiber.Ctx, b *Body, begin func() error, end func(complete bool)) error {
	b.Bytes = b.Bytes[:0]
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
	size := min(max(length, 0), SmallBody)
	if length > SmallBody {
		size = length
	}
	if err := s.grow(b, size); err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	err = s.fill(b, stream, length)
	end(err == nil)
	if err != nil {
		if errors.As(err, new(*fiber.Error)) || errors.As(err, new(*failure.Unavailable)) {
			return err
		}
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return fiber.ErrRequestTimeout
		}
		return fiber.NewError(fiber.StatusBadRequest, "the request body is incomplete or malformed")
	}
	if length >= 0 && len(b.Bytes) != length {
		return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the request body ends after %d of %d bytes", len(b.Bytes), length))
	}
	if encoding != "" {
		return s.decompress(b, encoding)
	}
	return nil
}

// fill reads from r into b until length bytes are read or, if length is negative, until the end. It
// returns an error if b exceeds a limit, or the error of r.
func (s *Bodies) fill(b *Body, r io.Reader, length int) error {
	for {
		if len(b.Bytes) == cap(b.Bytes) {
			// Only a body of unknown length gets here before its end.
			if err := s.grow(b, min(max(2*cap(b.Bytes), 4096), s.limit+1)); err != nil {
				return err
			}
		}
		n, err := r.Read(b.Bytes[len(b.Bytes):cap(b.Bytes)])
		b.Bytes = b.Bytes[:len(b.Bytes)+n]
		if len(b.Bytes) > s.limit {
			return fiber.ErrRequestEntityTooLarge
		}
		if errors.Is(err, io.EOF) || err == nil && length >= 0 && len(b.Bytes) == length {
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
func (s *Bodies) decompress(b *Body, encoding string) error {
	source := bytes.NewReader(b.Bytes)
	var r io.ReadCloser
	var err error
	if encoding == "gzip" {
		r, err = gzip.NewReader(source)
	} else {
		r, err = zlib.NewReader(source)
	}
	var plain Body
	if err == nil {
		err = s.fill(&plain, r, -1)
		_ = r.Close() // only returns the error of Read again
	}
	if err == nil && source.Len() > 0 {
		err = errors.New("unexpected data after the end") // after zlib; gzip reports it
	}
	s.Free(b)
	*b = plain
	if err == nil || errors.As(err, new(*fiber.Error)) || errors.As(err, new(*failure.Unavailable)) {
		return err
	}
	return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the request body is truncated or isn't valid %s data", encoding))
}

// grow extends the buffer to a capacity of n bytes. It returns a 503 error if the memory limit is
// reached.
func (s *Bodies) grow(b *Body, n int) error {
	if n <= cap(b.Bytes) {
		return nil
	}
	if n > SmallBody {
		more := int64(n) - b.held
		if err := s.acquire(more); err != nil {
			return err
		}
		b.held += more
	}
	bigger := make([]byte, len(b.Bytes), n)
	copy(bigger, b.Bytes)
	b.Bytes = bigger
	return nil
}

func (s *Bodies) acquire(n int64) error {
	if !s.memory.TryAcquire(n) {
		return failure.Busy(fmt.Sprintf("too many large requests at once: their bodies may take %d bytes together", s.room))
	}
	return nil
}

// Reserve reserves memory for a body of n bytes that is read elsewhere. It returns the number of bytes
// to pass to [Bodies.Release] afterwards: 0 for a small body, and at most the memory for all bodies.
func (s *Bodies) Reserve(n int64) (held int64, err error) {
	if n <= SmallBody {
		return 0, nil
	}
	held = min(n, s.room)
	if err := s.acquire(held); err != nil {
		return 0, err
	}
	return held, nil
}

// Release releases what Reserve returned.
func (s *Bodies) Release(held int64) {
	if held > 0 {
		s.memory.Release(held)
	}
}

// Free releases the memory of b. The buffer of a small body is kept for the next request.
func (s *Bodies) Free(b *Body) {
	if b.held > 0 {
		s.memory.Release(b.held)
		*b = Body{}
	}
	b.Bytes = b.Bytes[:0]
}
