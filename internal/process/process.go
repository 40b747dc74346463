// Package process starts and stops the built programs, for the demo and for tools that test them.
// [Command] creates a command, and [Start] runs a server and waits until it's listening.
package process

import (
	"bufio"
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

	cmd     *exec.Cmd
	ctxDone <-chan struct{} // closed when the context of Start is done
	logged  chan struct{}   // closed at the end of the server's standard error
}

// gracePeriod is how long Stop waits for the server to exit after the context is done.
const gracePeriod = 3 * time.Second

// listening matches the log message of our server, or of Prometheus, that it's listening.
var listening = regexp.MustCompile(`(?:listening on http://|msg="Listening on" .*address=)([0-9.]+:[0-9]+)`)

// Start starts cmd, which must be our server or Prometheus, and waits until it's listening. It
// copies the server's standard error to log. The caller must call Stop.
func Start(ctx context.Context, cmd *exec.Cmd, log io.Writer) (*Server, error) {
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	s := &Server{cmd: cmd, ctxDone: ctx.Done(), logged: make(chan struct{})}
	address := make(chan string, 1)
	go func() {
		defer close(s.logged)
		lines := bufio.NewScanner(messages)
		for lines.Scan() {
			fmt.Fprintln(log, lines.Text())
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				address <- "http://" + m[1]
			}
		}
	}()
	select {
	case s.URL = <-address:
		return s, nil
	case <-s.logged:
		return nil, errors.Join(errors.New("the server exited before it was listening"), s.Stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), s.Stop())
	}
}

// Done returns a channel that is closed when the server exits or closes its standard error.
func (s *Server) Done() <-chan struct{} { return s.logged }

// Stop shuts the server down with SIGTERM and waits until it has exited. It returns an error if
// the server exits with a failure. On Windows, it kills the server.
func (s *Server) Stop() error {
	select {
	case <-s.ctxDone:
		// The context was probably canceled by Ctrl-C, which the terminal also sends to the
		// server. A second signal would interrupt its graceful shutdown.
		select {
		case <-s.logged:
		case <-time.After(gracePeriod):
		}
	default:
	}
	// The server may have exited already; the error of Signal doesn't matter then. Windows
	// doesn't support SIGTERM.
	killed := errors.Is(s.cmd.Process.Signal(syscall.SIGTERM), errors.ErrUnsupported)
	if killed {
		_ = s.cmd.Process.Kill()
	}
	<-s.logged
	err := s.cmd.Wait()
	if errors.Is(err, context.Canceled) && s.cmd.ProcessState.Success() {
		return nil // graceful shutdown after Ctrl-C
	}
	if err != nil && !killed {
		return fmt.Errorf("%s: %w", s.cmd.Path, err)
	}
	return nil
}
