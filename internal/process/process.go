// Package process starts and stops the built programs, for the demo and for tools that test them.
// [Command] creates a command, and [Start] runs a server and waits until it's listening.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"fakeart/internal/otelenv"
)

// Command returns a command that runs args, and prints it to out. The command gets the
// environment of this process, except OpenTelemetry's variables. When ctx ends, the child
// has a few seconds to exit on its own: Ctrl-C in a terminal reaches it as well, and a
// second signal would make it exit without saving.
func Command(ctx context.Context, out io.Writer, args ...string) *exec.Cmd {
	fmt.Fprintf(out, "\n$ %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = otelenv.Without(os.Environ())
	cmd.Cancel = func() error { return nil }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Server is a running server process.
type Server struct {
	// URL is the base URL of the server, without a trailing slash.
	URL string

	cmd      *exec.Cmd
	messages *messages
	ctxDone  <-chan struct{} // closed when the context of Start is done
	exited   chan struct{}   // closed when the process has exited
	err      error           // of the process; valid once exited is closed
}

const (
	// gracePeriod is how long Stop waits for the server to exit after the context is done.
	gracePeriod = 3 * time.Second
	// stopTimeout is how long Stop waits after SIGTERM until it kills the server. Our server takes
	// at most about 20 seconds by default.
	stopTimeout = 30 * time.Second
)

// Start starts cmd, which must be our server or Prometheus, and waits until it's listening. It
// copies the server's standard error to log. The caller must call Stop. If the server exits
// instead, the error contains the last message that it logged.
func Start(ctx context.Context, cmd *exec.Cmd, log io.Writer) (*Server, error) {
	m := &messages{log: log, address: make(chan string, 1)}
	cmd.Stderr = m
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	s := &Server{cmd: cmd, messages: m, ctxDone: ctx.Done(), exited: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.exited)
	}()
	select {
	case s.URL = <-m.address:
		return s, nil
	case <-s.exited:
		select {
		case s.URL = <-m.address: // it did listen before it exited
			return s, nil
		default:
		}
		return nil, fmt.Errorf("the server exited before it was listening (%s): %s", cmd.ProcessState, m.reason())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), s.Stop())
	}
}

// Done returns a channel that is closed when the server has exited.
func (s *Server) Done() <-chan struct{} { return s.exited }

// Address returns the host and the port of URL.
func (s *Server) Address() string { return strings.TrimPrefix(s.URL, "http://") }

// Pid returns the process ID of the server.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Stop shuts the server down with SIGTERM and waits until it has exited, for up to half a minute.
// It returns an error with the last message that the server logged if the server exits with a
// failure, or has to be killed. On Windows, it always kills the server.
func (s *Server) Stop() error {
	select {
	case <-s.ctxDone:
		// The context was probably canceled by Ctrl-C, which the terminal also sends to the
		// server. A second signal would interrupt its graceful shutdown.
		s.wait(gracePeriod)
	default:
	}
	// The server may have exited already; the error of Signal doesn't matter then. Windows
	// doesn't support SIGTERM.
	killed := errors.Is(s.cmd.Process.Signal(syscall.SIGTERM), errors.ErrUnsupported)
	if killed {
		_ = s.cmd.Process.Kill()
	}
	if !s.wait(stopTimeout) {
		_ = s.cmd.Process.Kill()
		<-s.exited
		return fmt.Errorf("%s: killed, because it was still running %s after SIGTERM", s.cmd.Path, stopTimeout)
	}
	if errors.Is(s.err, context.Canceled) && s.cmd.ProcessState.Success() {
		return nil // graceful shutdown after Ctrl-C
	}
	if s.err != nil && !killed {
		return fmt.Errorf("%s: %w: %s", s.cmd.Path, s.err, s.messages.reason())
	}
	return nil
}

// wait waits up to a time for the server to exit, and reports whether it did.
func (s *Server) wait(limit time.Duration) bool {
	select {
	case <-s.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// messages is the standard error of a server. It copies it to log, and finds the address.
type messages struct {
	log     io.Writer
	address chan string // receives the URL once
	found   bool
	text    []byte // the end of what was written
}

// maxText is the number of bytes of standard error that are kept.
const maxText = 64 << 10

// listening matches the log message of our server, or of Prometheus, that it's listening.
var listening = regexp.MustCompile(`(?:listening on http://|msg="Listening on" .*address=)([0-9.]+:[0-9]+)[^0-9]`)

// Write implements io.Writer. It never fails, because a server that can't write would block or end.
func (m *messages) Write(b []byte) (int, error) {
	_, _ = m.log.Write(b)
	m.text = append(m.text, b...)
	if !m.found {
		if match := listening.FindSubmatch(m.text); match != nil {
			m.found = true
			m.address <- "http://" + string(match[1])
		}
	}
	if extra := len(m.text) - maxText; extra > 0 {
		m.text = append(m.text[:0], m.text[extra:]...)
	}
	return len(b), nil
}

// reason returns the error that our server prints last, with its hint, or else the last line.
func (m *messages) reason() string {
	text := strings.TrimSpace(string(m.text))
	const prefix = "error: "
	if i := strings.LastIndex("\n"+text, "\n"+prefix); i >= 0 {
		return text[i+len(prefix):]
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}
