package main

import (
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
// answer.
type listener struct {
	net.Listener
	close func() error // once

	mu     sync.Mutex
	silent map[*conn]bool // connections on which no byte has come in yet
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, close: sync.OnceValue(l.Close), silent: map[*conn]bool{}}
}

// Close stops taking connections. Those that were taken stay open.
func (l *listener) Close() error { return l.close() }

func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent[c] = true
	return c, nil
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
