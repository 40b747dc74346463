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

// closed sends the request on all connections from one thread, which waits for all of them with
// epoll, as wrk does. Goroutines would cost several times as much CPU, which the server needs.
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
			complete, err := c.receive()
			if err != nil {
				return nil, err
			}
			if !complete {
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

// wait returns the number of ready events, after 10 ms at the latest. It uses a raw system call so
// that Go's scheduler doesn't notice it: the scheduler would take a blocked thread for idle at each
// call, and wake another one to look for work.
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

// dial connects to addr. It doesn't use package net, whose poller would be notified of every
// response and wake a thread for it.
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
	began  time.Time // when the current request was sent
	buffer []byte    // the part of the response received so far
	length int       // of the complete response; 0 while unknown
}

func (c *rawConn) send(request []byte) error {
	c.began, c.buffer, c.length = time.Now(), c.buffer[:0], 0
	for len(request) > 0 {
		n, err := unix.Write(c.fd, request)
		switch err {
		case nil:
			request = request[n:]
		case unix.EINTR:
		case unix.EAGAIN: // a large request: wait until the server has read some of it
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, 1000); err != nil && err != unix.EINTR {
				return os.NewSyscallError("poll", err)
			}
		default:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}

// receive reads available data and reports whether the response is complete.
func (c *rawConn) receive() (complete bool, err error) {
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
		return false, fmt.Errorf("the connection was closed before the end of the response, after %.300q", c.buffer)
	}
	c.buffer = c.buffer[:len(c.buffer)+n]
	if c.length == 0 {
		end := bytes.Index(c.buffer, []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		if !bytes.HasPrefix(c.buffer, ok) {
			return false, fmt.Errorf("unexpected response: %.400q", c.buffer)
		}
		_, value, found := bytes.Cut(c.buffer[:end+2], contentLength)
		value, _, _ = bytes.Cut(value, []byte("\r\n"))
		length, err := strconv.Atoi(string(value))
		if !found || err != nil {
			return false, fmt.Errorf("response without a valid Content-Length: %.400q", c.buffer)
		}
		c.length = end + 4 + length
	}
	return len(c.buffer) == c.length, nil
}
