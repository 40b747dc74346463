//go:build unix

package listen

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Disconnected reports whether the client has closed the connection while its request is being processed.
// As in net/http, a client that only closes its sending side counts as disconnected: no client that waits
// for a response does that.
func (c *Conn) Disconnected() bool {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return true // already closed
	}
	disconnected := false
	err = control.Control(func(fd uintptr) {
		var b [1]byte
		// MSG_PEEK leaves received bytes there for the next request.
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		disconnected = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return disconnected || err != nil
}
