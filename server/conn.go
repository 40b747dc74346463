package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// lingerTime is how long what a refused client still sends is taken and thrown away.
const lingerTime = 5 * time.Second

// backlogTime bounds for how long connections that the system has already made are
// still taken once the listener is to close.
const (
	backlogTime = 100 * time.Millisecond
	quietTime   = 200 * time.Microsecond // without a new one, they are all taken
)

// listener hands out connections that know two things that fasthttp does not:
// whether the client has said anything yet, and how to close without losing an
// answer. It closes without refusing who has just been connected.
type listener struct {
	*net.TCPListener
	until   time.Time // when closing, connections are no longer taken after this
	closing atomic.Bool

	mu     sync.Mutex
	silent map[*conn]bool // connections on which no byte has come in yet
}

func newListener(l *net.TCPListener) *listener {
	return &listener{TCPListener: l, silent: map[*conn]bool{}}
}

// Close makes Accept hand out the connections that the system has already made,
// which would otherwise be reset, and then close the port. It does not wait for
// that. A second Close does nothing.
func (l *listener) Close() error {
	if l.closing.Load() {
		return nil
	}
	l.until = time.Now().Add(backlogTime)
	l.closing.Store(true)
	return l.SetDeadline(time.Now()) // wakes Accept
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		begin, closing := time.Now(), l.closing.Load()
		if closing {
			// An error here is an error of Accept as well.
			_ = l.SetDeadline(begin.Add(quietTime))
		}
		inner, err := l.TCPListener.Accept()
		if err == nil {
			c := &conn{Conn: inner, listener: l}
			l.mu.Lock()
			l.silent[c] = true
			l.mu.Unlock()
			return c, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		// Woken late, on a busy machine, others may have come meanwhile: look again.
		if now := time.Now(); closing && (now.Sub(begin) < 2*quietTime || now.After(l.until)) {
			_ = l.TCPListener.Close()
			return nil, net.ErrClosed
		}
	}
}

// closeSilent closes the connections that were opened in advance, as browsers and
// HTTP libraries do, and never used. To fasthttp they look like a request that is
// coming in.
func (l *listener) closeSilent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.silent {
		_ = c.Conn.Close()
	}
}

func (l *listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.silent, c)
}

type conn struct {
	net.Conn
	listener *listener
	heard    bool // owned by the one goroutine that reads
	linger   atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		c.listener.forget(c)
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
