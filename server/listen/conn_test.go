package listen

import (
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// listenOn returns a listener on the loopback interface.
func listenOn(t *testing.T, limit int, reject func(net.Conn)) *Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return New(l.(*net.TCPListener), limit, time.Now, reject)
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func accept(t *testing.T, l *Listener) *Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*Conn)
}

func TestListener_Limit(t *testing.T) {
	rejected := 0
	l := listenOn(t, 1, func(c net.Conn) {
		rejected++
		_ = c.Close()
	})
	dial(t, l)
	first := accept(t, l)
	dial(t, l)
	_ = l.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := l.Accept(); err == nil || rejected != 1 {
		t.Errorf("accepted one above the limit, %d rejected: %v", rejected, err)
	}
	_ = l.SetDeadline(time.Time{})
	_ = first.Close()
	dial(t, l)
	accept(t, l)
	if rejected != 1 {
		t.Errorf("%d rejected", rejected)
	}
}

// Close serves connections that the operating system has established already.
func TestListener_CloseAcceptsBacklog(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can drain the backlog; see drainBacklog")
	}
	l := listenOn(t, 10, nil)
	client := dial(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(client, b[:]); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the backlog: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A client that is still sending gets the response before the connection is closed.
func TestConn_Linger(t *testing.T) {
	l := listenOn(t, 10, nil)
	client := dial(t, l)
	c := accept(t, l)
	if _, err := client.Write(make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("rejected")); err != nil {
		t.Fatal(err)
	}
	c.Linger()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	if text, err := io.ReadAll(client); err != nil || string(text) != "rejected" {
		t.Errorf("%q, %v", text, err)
	}
	_ = client.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestConn_SinceFirstByte(t *testing.T) {
	l := listenOn(t, 10, nil)
	client := dial(t, l)
	c := accept(t, l)
	if took := c.SinceFirstByte(time.Now()); took != 0 {
		t.Errorf("%s before the first byte", took)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if took := c.SinceFirstByte(time.Now().Add(time.Hour)); took < time.Hour || took > time.Hour+time.Minute {
		t.Errorf("%s, want an hour", took)
	}
	c.EndRequest()
	if took := c.SinceFirstByte(time.Now()); took != 0 {
		t.Errorf("%s after the request", took)
	}
}

func TestListener_CloseUnused(t *testing.T) {
	l := listenOn(t, 10, nil)
	used, unused := dial(t, l), dial(t, l)
	c := accept(t, l)
	accept(t, l)
	if _, err := used.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.CloseUnused()
	if _, err := unused.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("unused connection: %v", err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("used connection: %v", err)
	}
}
