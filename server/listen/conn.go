// Package listen accepts connections for an HTTP server of fasthttp or net/http. A [Listener] bounds
// their number and closes its port without resetting one. A [Conn] tracks when a request began to
// arrive and whether its client is still there, and closes without losing a response.
package listen

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lingerTime is how long the server discards what a rejected client still sends.
const lingerTime = 5 * time.Second

// InterimTimeout is the maximum time to send what fits into the empty send buffer of a connection,
// which never takes long.
const InterimTimeout = time.Second

// Listener accepts connections of type *Conn, which track two things that fasthttp doesn't: whether
// the client has sent anything yet, and whether to close without losing the response. It rejects
// connections above a limit. Close doesn't reset connections that the operating system has already
// accepted. All methods except Accept are safe for concurrent use.
type Listener struct {
	*net.TCPListener
	limit   int // maximum number of open connections
	reject  func(net.Conn)
	now     func() time.Time
	closing atomic.Bool
	backlog []net.Conn // connections accepted on Close; owned by the goroutine that calls Accept

	mu    sync.Mutex
	conns map[*Conn]bool // open connections
}

// New returns a listener with at most limit open connections. reject responds to, and closes, a
// connection above the limit; it is called by Accept. now is the clock of [Conn.SinceFirstByte].
func New(l *net.TCPListener, limit int, now func() time.Time, reject func(net.Conn)) *Listener {
	return &Listener{TCPListener: l, limit: limit, now: now, reject: reject, conns: map[*Conn]bool{}}
}

// Close makes Accept return the connections that the operating system has already accepted, which
// would otherwise be reset, and then close the port. Close doesn't wait for that. A second Close
// does nothing.
func (l *Listener) Close() error {
	if l.closing.Swap(true) {
		return nil
	}
	return l.SetDeadline(time.Now()) // wakes Accept
}

// Accept returns the next connection within the limit.
func (l *Listener) Accept() (net.Conn, error) {
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
func (l *Listener) accept() (net.Conn, error) {
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
func (l *Listener) opened(inner net.Conn) *Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.limit {
		return nil
	}
	c := &Conn{Conn: inner, listener: l}
	l.conns[c] = true
	return c
}

// CloseUnused closes connections on which nothing was received: browsers and HTTP libraries open
// connections in advance. fasthttp would wait for a request on them.
func (l *Listener) CloseUnused() { l.closeMatching(func(c *Conn) bool { return !c.received.Load() }) }

// CloseAll closes every connection.
func (l *Listener) CloseAll() { l.closeMatching(func(*Conn) bool { return true }) }

func (l *Listener) closeMatching(chosen func(*Conn) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if chosen(c) {
			_ = c.Conn.Close()
		}
	}
}

func (l *Listener) remove(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// Conn is a connection returned by [Listener.Accept].
type Conn struct {
	net.Conn
	// State is for the handler of the connection's requests: what it keeps from one request to the
	// next. It is owned by the goroutine that handles the connection.
	State any

	listener *Listener
	received atomic.Bool // whether any byte was received
	linger   atomic.Bool
	renew    atomic.Int64 // time allowed for each Write; 0 sets no deadline

	// The following fields are owned by the goroutine that handles the connection: when the first byte
	// of the current request was received (zero if that was with the previous request), and whether the
	// previous response may still be in fasthttp's buffer, because more requests follow in the same
	// packet.
	began  time.Time
	unsent bool
}

// Linger makes Close discard for a while what the client still sends. Call it after rejecting a
// request that wasn't fully received.
func (c *Conn) Linger() { c.linger.Store(true) }

// RenewWriteDeadline allows the time for each Write from now on instead of for the whole response. A
// response of any length then reaches a client that keeps reading.
func (c *Conn) RenewWriteDeadline(each time.Duration) { c.renew.Store(int64(each)) }

// EndRequest must be called when the response to a request has been handed to fasthttp.
func (c *Conn) EndRequest() { c.unsent, c.began = true, time.Time{} }

// SendContinue asks the client for the body. It does nothing if an earlier response isn't sent
// yet: after a while the client also sends the body without 100 Continue.
func (c *Conn) SendContinue() error {
	if c.unsent {
		return nil
	}
	if err := c.SetWriteDeadline(time.Now().Add(InterimTimeout)); err != nil {
		return err
	}
	_, err := c.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	return err
}

// Write sends b, and extends the write deadline if [Conn.RenewWriteDeadline] was called.
func (c *Conn) Write(b []byte) (int, error) {
	c.unsent = false
	if d := c.renew.Load(); d > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(time.Duration(d))); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// SinceFirstByte returns how long it took to receive the current request until the given time.
func (c *Conn) SinceFirstByte(received time.Time) time.Duration {
	if c.began.IsZero() { // it was received together with the previous request
		return 0
	}
	return received.Sub(c.began)
}

// Read receives data.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.began.IsZero() {
		c.began = c.listener.now()
		c.received.Store(true)
	}
	return n, err
}

// Close closes the connection: immediately or, after Linger, after discarding for up to
// lingerTime what the client still sends. Closing immediately after rejecting a request that
// wasn't fully received makes the operating system reset the connection, and a client that is
// still sending loses the response. Lingering closes the sending side first and reads the rest
// (RFC 9112, section 9.6).
func (c *Conn) Close() error {
	defer c.listener.remove(c)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger.Load() && half.CloseWrite() == nil {
		if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	return c.Conn.Close()
}
