// Command cloud takes a stack from an empty Google Cloud project to a service that
// answers, and deletes it again. `make cloud-up` and `make cloud-down` run it in the
// checkout's root.
//
// Both commands check everything they need first, report all problems together with the
// commands that solve them, show what will change, and ask.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"fakeart/internal/otelenv"
)

// commands is the command line.
type commands struct {
	Up   upCommand   `cmd:"" help:"Create or complete the stack, deploy images and a model, and send the service an image."`
	Down downCommand `cmd:"" help:"Delete the stack, unless some of it is protected."`
}

// flags are those of both commands.
type flags struct {
	Stack string `help:"The stack: there is a file Pulumi.STACK.yaml." required:"" placeholder:"STACK"`
	Root  string `help:"The checkout." default:"." type:"path"`
	Yes   bool   `help:"Don't ask. Required where standard input isn't a terminal." short:"y"`
}

type upCommand struct{ flags }

func (c upCommand) Run(ctx context.Context) error { return c.session().up(ctx) }

type downCommand struct{ flags }

func (c downCommand) Run(ctx context.Context) error { return c.session().down(ctx) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloud:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	parser, err := kong.New(&commands{}, kong.Name("cloud"), kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return command.Run()
}

// session is one run of a command on one stack.
type session struct {
	root, name string
	yes        bool
	terminal   bool // a person can be asked
	in         io.Reader
	out        io.Writer

	// The world outside, which tests replace.
	run  runner
	env  func(string) (string, bool)
	look func(program string) (string, error)
	base http.RoundTripper
	wait func(context.Context, time.Duration) error

	stack *stackFile
	cloud *cloud
	temp  string // folder for configurations and credentials of this run
}

func (f flags) session() *session {
	return &session{
		root: f.Root, name: f.Stack, yes: f.Yes, terminal: term.IsTerminal(int(os.Stdin.Fd())), in: os.Stdin, out: os.Stdout,
		run: execute, env: os.LookupEnv, look: exec.LookPath, base: http.DefaultTransport, wait: wait,
	}
}

// wait returns after d, or with an error when the context ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// command is a program that the session runs in the checkout.
type command struct {
	args []string
	env  []string // besides the session's own
	out  io.Writer
	both bool // standard error goes to out as well
}

// runner runs a command. Its error names the command.
type runner func(ctx context.Context, root string, c command) error

func execute(ctx context.Context, root string, c command) error {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = root, append(otelenv.Without(os.Environ()), c.env...)
	cmd.Stdout, cmd.Stderr = c.out, os.Stderr
	if c.both {
		cmd.Stderr = c.out
	}
	// Ctrl-C reaches the program from the terminal, and Pulumi then finishes what it has begun.
	cmd.Cancel = func() error { return nil }
	cmd.WaitDelay = 10 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(c.args, " "), err)
	}
	return nil
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// confirm asks a question, unless the session was told not to.
func (s *session) confirm(question string) error {
	if s.yes {
		return nil
	}
	s.printf("\n%s [y/N] ", question)
	answer, err := bufio.NewReader(s.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("canceled; nothing more was changed")
}

// refuse returns an error if the session would have to ask and can't.
func (s *session) refuse() error {
	if s.yes || s.terminal {
		return nil
	}
	return errors.New("standard input isn't a terminal, so nobody can be asked\nhint: add ARGS=--yes to make the changes without a question")
}

// begin creates the session's folder for temporary files. The caller removes it with end.
func (s *session) begin() (end func(), err error) {
	if s.temp, err = os.MkdirTemp("", "fakeart-cloud-"); err != nil {
		return nil, err
	}
	return func() { _ = os.RemoveAll(s.temp) }, nil
}

// path is a file of the checkout.
func (s *session) path(elements ...string) string {
	return filepath.Join(append([]string{s.root}, elements...)...)
}
