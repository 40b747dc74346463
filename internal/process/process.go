// Package process runs the built programs for those that show them and try them.
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

// Server is a server that listens.
type Server struct {
	// URL is where, without a slash at its end.
	URL string

	cmd    *exec.Cmd
	told   <-chan struct{} // closed when its context has ended
	logged chan struct{}   // closed when it has said its last word
}

// courtesy is how long a server has to end by itself when its context has ended.
const courtesy = 3 * time.Second

// listening is the word of the server, or of Prometheus, that it takes requests, and
// where.
var listening = regexp.MustCompile(`(?:listening on http://|msg="Listening on" .*address=)([0-9.]+:[0-9]+)`)

// Start starts the server that cmd is, and waits until it listens. Its messages are
// passed on to log. It has to be stopped.
func Start(ctx context.Context, cmd *exec.Cmd, log io.Writer) (*Server, error) {
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	s := &Server{cmd: cmd, told: ctx.Done(), logged: make(chan struct{})}
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
		return nil, errors.Join(errors.New("the server ended before it listened"), s.Stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), s.Stop())
	}
}

// Done is closed when the server has ended by itself, or closed its standard error.
func (s *Server) Done() <-chan struct{} { return s.logged }

// Stop ends the server as an operator would, and returns why it did not end well.
func (s *Server) Stop() error {
	select {
	case <-s.told:
		// By Ctrl-C, which the terminal has sent to the server, too: a second signal would
		// cut it short.
		select {
		case <-s.logged:
		case <-time.After(courtesy):
		}
	default:
	}
	// Ended already when the context is: then the signal finds no process.
	// Windows has none to send.
	killed := errors.Is(s.cmd.Process.Signal(syscall.SIGTERM), errors.ErrUnsupported)
	if killed {
		_ = s.cmd.Process.Kill()
	}
	<-s.logged
	err := s.cmd.Wait()
	if errors.Is(err, context.Canceled) && s.cmd.ProcessState.Success() {
		return nil // told by Ctrl-C, as we were, and it has ended well
	}
	if err != nil && !killed {
		return fmt.Errorf("%s: %w", s.cmd.Path, err)
	}
	return nil
}
