package main

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.opentelemetry.io/otel/trace"

	"fakeart/server/limit"
	"fakeart/server/listen"
)

// requestState is what the server tracks about a request besides its content.
type requestState struct {
	method    string          // as received; the request itself has otherMethod for an unknown one
	id        string          // X-Request-Id: the client's value or a new UUID
	traceID   string          // hexadecimal ID of the request's trace; empty without one
	ctx       context.Context // carries the request's span; nil if the request isn't traced
	overLimit bool            // whether the request exceeds Config.MaxRequests
	received  time.Time       // when its last byte was received, which is when the server's time starts
	span      trace.Span      // span of the request; nil if it isn't traced or hasn't been received
	continues bool            // whether the client waits for 100 Continue before it sends the body
	hasBody   bool            // whether it has a body that isn't empty
	bodyRead  bool            // whether the whole body was read
	pixels    int             // number of pixels of all images, as far as they were decoded
	slow      bool            // whether an image has a format that takes ten times as long as JPEG to decode
	explained bool            // whether explanations were requested
	canceled  bool            // whether the client closed the connection before the response
}

// stateOf returns the state that the server tracks for the request. A connection has one, which each
// request overwrites.
func stateOf(c *fasthttp.RequestCtx) *requestState {
	conn, ok := c.Conn().(*listen.Conn)
	if !ok {
		return new(requestState)
	}
	s, ok := conn.State.(*requestState)
	if !ok {
		s = new(requestState)
		conn.State = s
	}
	return s
}

// state is stateOf for a request of Fiber's.
func state(c *fiber.Ctx) *requestState { return stateOf(c.Context()) }

// readBody reads the whole request body into b and reuses b's buffer. The caller must release the
// memory with Bodies.Free. It is called after everything that can be checked without the body: a
// client that waits for 100 Continue doesn't send the body of a request that is rejected before.
//
// The time of the server, and with it the request's timeout, latency and span, starts when the last
// byte has been received. The request doesn't count as in progress while it is being received, so that slow clients don't
// use up Config.MaxRequests or delay a shutdown.
func (m *Main) readBody(c *fiber.Ctx, b *limit.Body) error {
	m.pending.Add(-1)
	s := state(c)
	err := m.bodies.Read(c, b, func() error {
		if conn, ok := c.Context().Conn().(*listen.Conn); ok && s.continues && conn.SendContinue() != nil {
			return errClientClosed
		}
		return nil
	}, func(complete bool) {
		s.received, s.bodyRead = m.now(), complete
	})
	if m.pending.Add(1) > int64(m.config.MaxRequests) && err == nil {
		err = m.overLimit()
	}
	if err == nil {
		m.beginTrace(c)
	}
	return err
}
