package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lingerTime is how long what a refused client still sends is taken and thrown away.
const lingerTime = 5 * time.Second

// listener hands out connections that know two things that fasthttp does not:
// whether the client has said anything yet, and how to close without losing an
// answer. It closes without resetting who has just been connected.
type listener struct {
	*net.TCPListener
	closing atomic.Bool
	last    []net.Conn // taken when it was closed; owned by the one goroutine that accepts

	mu    sync.Mutex
	conns map[*conn]bool // those that are open
}

func newListener(l *net.TCPListener) *listener {
	return &listener{TCPListener: l, conns: map[*conn]bool{}}
}

// Close makes Accept hand out the connections that the system has already made,
// which would otherwise be reset, and then close the port. It does not wait for
// that. A second Close does nothing.
func (l *listener) Close() error {
	if l.closing.Swap(true) {
		return nil
	}
	return l.SetDeadline(time.Now()) // wakes Accept
}

func (l *listener) Accept() (net.Conn, error) {
	if len(l.last) == 0 {
		inner, err := l.TCPListener.Accept()
		if err == nil {
			return l.opened(inner), nil
		}
		if !l.closing.Load() {
			return nil, err
		}
		l.last = takeRest(l.TCPListener)
		_ = l.TCPListener.Close()
		if len(l.last) == 0 {
			return nil, net.ErrClosed
		}
	}
	inner := l.last[0]
	l.last = l.last[1:]
	return l.opened(inner), nil
}

func (l *listener) opened(inner net.Conn) *conn {
	c := &conn{Conn: inner, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	return c
}

// closeSilent closes the connections that were opened in advance, as browsers and
// HTTP libraries do, and never used. To fasthttp they look like a request that is
// coming in.
func (l *listener) closeSilent() { l.closeThose(func(c *conn) bool { return !c.heard.Load() }) }

// closeAll closes every connection.
func (l *listener) closeAll() { l.closeThose(func(*conn) bool { return true }) }

func (l *listener) closeThose(chosen func(*conn) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if chosen(c) {
			_ = c.Conn.Close()
		}
	}
}

func (l *listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

type conn struct {
	net.Conn
	listener *listener
	heard    atomic.Bool // whether any byte has come in
	linger   atomic.Bool
	// renew, unless 0, gives each Write so much time, instead of the whole answer:
	// an answer of any length then reaches a client that keeps taking it.
	renew atomic.Int64

	// What belongs to the request that is worked on, owned by the goroutine that does.
	request requestState
}

// requestState is what is known of a request besides what it says itself.
type requestState struct {
	id       string          // the client's name for it, or one of ours
	traceID  string          // of the trace that it belongs to; empty without one
	ctx      context.Context // with its span; nil when it is not traced
	excess   bool            // whether it is more than are worked on at once
	bodyRead bool            // whether all of its body has been read
	canceled bool            // whether the client did not wait for the answer
}

// Write sends b.
func (c *conn) Write(b []byte) (int, error) {
	if d := c.renew.Load(); d > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(time.Duration(d))); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

// Close closes the connection, at once unless linger is set. When a request is
// refused before all of it was received, closing at once makes the system reset
// the connection, and the client, still sending, loses the answer that says why.
// Lingering ends our side and takes in the rest first (RFC 9112, section 9.6).
func (c *conn) Close() error {
	c.listener.forget(c)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger.Load() && half.CloseWrite() == nil {
		if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	return c.Conn.Close()
}
