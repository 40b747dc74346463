package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// lingerTime is how long the server discards what a rejected client still sends.
const lingerTime = 5 * time.Second

// interimTimeout is the maximum time to send what fits into the empty send buffer of a connection,
// which never takes long.
const interimTimeout = time.Second

// listener accepts connections that track two things fasthttp doesn't: whether the client has
// sent anything yet, and whether to close without losing the response. It rejects connections above
// a limit. Close doesn't reset connections that the operating system has already accepted.
type listener struct {
	*net.TCPListener
	limit   int            // maximum number of open connections
	reject  func(net.Conn) // responds to, and closes, a connection above the limit
	now     func() time.Time
	closing atomic.Bool
	backlog []net.Conn // connections accepted on Close; owned by the goroutine that calls Accept

	mu    sync.Mutex
	conns map[*conn]bool // open connections
}

func newListener(l *net.TCPListener, limit int, now func() time.Time, reject func(net.Conn)) *listener {
	return &listener{TCPListener: l, limit: limit, now: now, reject: reject, conns: map[*conn]bool{}}
}

// Close makes Accept return the connections that the operating system has already accepted, which
// would otherwise be reset, and then close the port. Close doesn't wait for that. A second Close
// does nothing.
func (l *listener) Close() error {
	if l.closing.Swap(true) {
		return nil
	}
	return l.SetDeadline(time.Now()) // wakes Accept
}

// Accept returns the next connection within the limit.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.accept()
		if err != nil {
			return nil, err
		}
		if c := l.opened(inner); c != nil {
			return c, nil
		}
		l.reject(inner)
	}
}

// accept returns the next connection.
func (l *listener) accept() (net.Conn, error) {
	if len(l.backlog) == 0 {
		inner, err := l.TCPListener.Accept()
		if err == nil || !l.closing.Load() {
			return inner, err
		}
		l.backlog = drainBacklog(l.TCPListener)
		_ = l.TCPListener.Close()
		if len(l.backlog) == 0 {
			return nil, net.ErrClosed
		}
	}
	inner := l.backlog[0]
	l.backlog = l.backlog[1:]
	return inner, nil
}

// opened counts a connection. It returns nil if the connection is above the limit.
func (l *listener) opened(inner net.Conn) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.limit {
		return nil
	}
	c := &conn{Conn: inner, listener: l}
	l.conns[c] = true
	return c
}

// closeUnused closes connections on which nothing was received: browsers and HTTP libraries open
// connections in advance. fasthttp would wait for a request on them.
func (l *listener) closeUnused() { l.closeMatching(func(c *conn) bool { return !c.received.Load() }) }

// closeAll closes every connection.
func (l *listener) closeAll() { l.closeMatching(func(*conn) bool { return true }) }

func (l *listener) closeMatching(chosen func(*conn) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if chosen(c) {
			_ = c.Conn.Close()
		}
	}
}

func (l *listener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// conn is a connection returned by listener.Accept.
type conn struct {
	net.Conn
	listener *listener
	received atomic.Bool // whether any byte was received
	linger   atomic.Bool
	// renew, unless 0, is the time allowed for each Write instead of for the whole response. A
	// response of any length then reaches a client that keeps reading.
	renew atomic.Int64

	// The following fields are owned by the goroutine that handles the connection: the state of the
	// current request, when its first byte was received (zero if that was with the previous request),
	// and whether the previous response may still be in fasthttp's buffer, because more requests
	// follow in the same packet.
	request requestState
	began   time.Time
	unsent  bool
}

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

// sendContinue asks the client for the body. It does nothing if an earlier response isn't sent
// yet: after a while the client also sends the body without 100 Continue.
func (c *conn) sendContinue() error {
	if c.unsent {
		return nil
	}
	if err := c.SetWriteDeadline(time.Now().Add(interimTimeout)); err != nil {
		return err
	}
	_, err := c.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	return err
}

// Write sends b, and extends the write deadline if renew is set.
func (c *conn) Write(b []byte) (int, error) {
	c.unsent = false
	if d := c.renew.Load(); d > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(time.Duration(d))); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// sinceFirstByte returns how long it took to receive the current request until the given time.
func (c *conn) sinceFirstByte(received time.Time) time.Duration {
	if c.began.IsZero() { // it was received together with the previous request
		return 0
	}
	return received.Sub(c.began)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.began.IsZero() {
		c.began = c.listener.now()
		c.received.Store(true)
	}
	return n, err
}

// Close closes the connection: immediately or, if linger is set, after discarding for up to
// lingerTime what the client still sends. Closing immediately after rejecting a request that
// wasn't fully received makes the operating system reset the connection, and a client that is
// still sending loses the response. Lingering closes the sending side first and reads the rest
// (RFC 9112, section 9.6).
func (c *conn) Close() error {
	defer c.listener.remove(c)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger.Load() && half.CloseWrite() == nil {
		if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	return c.Conn.Close()
}
