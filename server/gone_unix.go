//go:build unix

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Gone tells whether the client has closed the connection while its request is
// worked on. A client that only says that it will send no more counts as gone, as
// with net/http: none that waits for an answer does that.
func (c *conn) Disconnected() bool {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return true // it is closed
	}
	gone := false
	err = control.Control(func(fd uintptr) {
		var b [1]byte
		// What has come in stays there for the next request.
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return gone || err != nil
}
