package listen

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// drainBacklog accepts the connections that are already established in the listener's backlog,
// and stops the operating system from establishing more. Under load new connections arrive all
// the time, and one established between the last accept and the shutdown is reset; only two
// system calls lie between them.
func drainBacklog(l *net.TCPListener) (conns []net.Conn) {
	control, err := l.SyscallConn()
	if err != nil {
		return nil
	}
	var fds []int
	_ = control.Control(func(listener uintptr) {
		for {
			fd, _, err := unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				fds = append(fds, fd)
				continue
			case unix.EINTR, unix.ECONNABORTED:
				continue
			}
			_ = unix.Shutdown(int(listener), unix.SHUT_RD)
			return
		}
	})
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), "connection")
		if conn, err := net.FileConn(file); err == nil {
			conns = append(conns, conn)
		}
		_ = file.Close() // FileConn duplicated the descriptor
	}
	return conns
}
