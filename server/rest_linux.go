package main

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// takeRest takes the connections that the system has already made for the listener,
// and stops it from making more. Between the last look and that lie two system calls,
// no more: under load new connections come all the time, and one that is made then is
// reset.
func takeRest(l *net.TCPListener) (conns []net.Conn) {
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
		_ = file.Close() // FileConn has made a copy
	}
	return conns
}
