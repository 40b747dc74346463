package front

import (
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"fakeart/server/limit"
	"fakeart/server/listen"
	"fakeart/server/request"
)

// stateOf returns the state that the server tracks for the request. A connection has one, which each
// request overwrites.
func stateOf(c *fasthttp.RequestCtx) *request.State {
	conn, ok := c.Conn().(*listen.Conn)
	if !ok {
		return new(request.State)
	}
	s, ok := conn.State.(*request.State)
	if !ok {
		s = new(request.State)
		conn.State = s
	}
	return s
}

// State returns the state that the server tracks for the request.
func State(c *fiber.Ctx) *request.State { return stateOf(c.Context()) }

// ReadBody reads the whole request body into b and reuses b's buffer. The caller must release the
// memory with Bodies.Free. Call it after everything that can be checked without the body: a client that
// waits for 100 Continue doesn't send the body of a request that is rejected before.
//
// The time of the server, and with it the request's timeout, latency and span, starts when the last
// byte has been received. The request doesn't count as in progress while it is being received, so that
// slow clients don't use up the limit of requests or delay a shutdown.
func (f *Front) ReadBody(c *fiber.Ctx, b *limit.Body) error {
	f.Requests.End()
	s := State(c)
	err := f.Bodies.Read(c, b, func() error {
		if conn, ok := c.Context().Conn().(*listen.Conn); ok && s.Continues && conn.SendContinue() != nil {
			return request.ErrClientClosed
		}
		return nil
	}, func(complete bool) {
		s.Received, s.BodyRead = f.Requests.Now(), complete
	})
	if f.Requests.Begin() && err == nil {
		err = f.Requests.ErrOverLimit()
	}
	if err == nil {
		f.beginTrace(c)
	}
	return err
}
