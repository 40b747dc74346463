package load

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// closed sends the request on all connections from one thread, which waits for all of
// them at once, as wrk does. Goroutines would cost several times as much, and that
// where the server's time is short.
func closed(ctx context.Context, addr netip.AddrPort, request []byte, connections int, limit Limit) (all *Run, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	defer func() { _ = unix.Close(poll) }()

	open := make([]rawConn, connections)
	for i := range open {
		fd, err := dial(addr)
		if err != nil {
			return nil, err
		}
		defer func() { _ = unix.Close(fd) }()
		open[i] = rawConn{fd: fd, buffer: make([]byte, 0, 4096)}
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return nil, os.NewSyscallError("epoll_ctl", err)
		}
	}

	all = &Run{}
	sent := 0
	began := time.Now()
	for i := range open {
		if limit.Requests == 0 || sent < limit.Requests {
			if err := open[i].send(request); err != nil {
				return nil, err
			}
			sent++
		}
	}
	events := make([]unix.EpollEvent, connections)
	over := func() bool {
		return limit.Requests > 0 && all.Responses == limit.Requests || limit.Time > 0 && time.Since(began) >= limit.Time || ctx.Err() != nil
	}
	for !over() {
		ready, err := wait(poll, events)
		if err != nil {
			return nil, err
		}
		for _, event := range events[:ready] {
			c := &open[event.Fd]
			whole, err := c.receive()
			if err != nil {
				return nil, err
			}
			if !whole {
				continue
			}
			all.latencies = append(all.latencies, time.Since(c.began))
			all.Responses++
			if limit.Requests == 0 || sent < limit.Requests {
				if err := c.send(request); err != nil {
					return nil, err
				}
				sent++
			}
		}
	}
	all.Took = time.Since(began)
	return all, nil
}

// wait returns how many of events have happened, after 10 ms at the latest. Go's
// runtime does not learn of it: it would take a thread that waits for idle, as
// often as it looks, and have another one look for work in its place.
func wait(poll int, events []unix.EpollEvent) (int, error) {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(poll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 10, 0, 0)
	switch err {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, os.NewSyscallError("epoll_pwait", err)
}

// dial connects. Of a connection of the package net Go's own poller would be told
// whenever an answer comes, and wake a thread for it.
func dial(addr netip.AddrPort) (fd int, err error) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if ip := addr.Addr().Unmap(); ip.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Connect(fd, to); err == nil {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// rawConn is one connection.
type rawConn struct {
	fd     int
	began  time.Time // of the request that is on its way
	buffer []byte    // what has been received of the answer
	length int       // of the whole answer; 0 while it is not known
}

func (c *rawConn) send(request []byte) error {
	c.began, c.buffer, c.length = time.Now(), c.buffer[:0], 0
	for len(request) > 0 {
		n, err := unix.Write(c.fd, request)
		switch err {
		case nil:
			request = request[n:]
		case unix.EINTR:
		case unix.EAGAIN: // a large request, which the server has to take in first
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, 1000); err != nil && err != unix.EINTR {
				return os.NewSyscallError("poll", err)
			}
		default:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}

// receive takes what has come in, and tells whether the answer is whole.
func (c *rawConn) receive() (whole bool, err error) {
	if len(c.buffer) == cap(c.buffer) {
		bigger := make([]byte, len(c.buffer), 2*cap(c.buffer))
		copy(bigger, c.buffer)
		c.buffer = bigger
	}
	n, err := unix.Read(c.fd, c.buffer[len(c.buffer):cap(c.buffer)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("read", err)
	case n == 0:
		return false, fmt.Errorf("the connection was closed before the answer, after %.300q", c.buffer)
	}
	c.buffer = c.buffer[:len(c.buffer)+n]
	if c.length == 0 {
		end := bytes.Index(c.buffer, []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		if !bytes.HasPrefix(c.buffer, ok) {
			return false, fmt.Errorf("answered %.400q", c.buffer)
		}
		_, value, found := bytes.Cut(c.buffer[:end+2], contentLength)
		value, _, _ = bytes.Cut(value, []byte("\r\n"))
		length, err := strconv.Atoi(string(value))
		if !found || err != nil {
			return false, fmt.Errorf("answered without a length: %.400q", c.buffer)
		}
		c.length = end + 4 + length
	}
	return len(c.buffer) == c.length, nil
}
