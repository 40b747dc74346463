// Command cloud deploys a stack to an empty Google Cloud project, up to a service that serves
// predictions, and deletes it again. `make cloud-up` and `make cloud-down` run it in the root of
// the checkout.
//
// Both commands first check all requirements and report every problem with the commands that fix
// it. Then they show what will change and ask for confirmation.
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

// commands defines the command line.
type commands struct {
	Up   upCommand   `cmd:"" help:"Create or update the stack, deploy container images and a model, and send a test prediction."`
	Down downCommand `cmd:"" help:"Delete the stack, unless resources are protected."`
}

// flags are the flags of both commands.
type flags struct {
	Stack string `help:"Name of the stack, which is configured in Pulumi.STACK.yaml." required:"" placeholder:"STACK"`
	Root  string `help:"Root folder of the checkout." default:"." type:"path"`
	Yes   bool   `help:"Don't ask for confirmation. Required if standard input isn't a terminal." short:"y"`
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
	terminal   bool // standard input is a terminal
	in         io.Reader
	out        io.Writer

	// Dependencies that tests replace.
	run      runner
	env      func(string) (string, bool)
	lookPath func(program string) (string, error)
	base     http.RoundTripper
	wait     func(context.Context, time.Duration) error

	stack *stackFile
	cloud *cloud
	temp  string // folder for temporary configurations and credentials
}

func (f flags) session() *session {
	return &session{
		root: f.Root, name: f.Stack, yes: f.Yes, terminal: term.IsTerminal(int(os.Stdin.Fd())), in: os.Stdin, out: os.Stdout,
		run: execute, env: os.LookupEnv, lookPath: exec.LookPath, base: http.DefaultTransport, wait: wait,
	}
}

// wait returns after d. It returns an error if ctx is done earlier.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// command is a program to run in the checkout.
type command struct {
	args []string
	env  []string // in addition to the environment of this process
	out  io.Writer
	both bool // write standard error to out as well
}

// runner runs a command in the folder root. Its error contains the command line.
type runner func(ctx context.Context, root string, c command) error

func execute(ctx context.Context, root string, c command) error {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = root, append(otelenv.Without(os.Environ()), c.env...)
	cmd.Stdout, cmd.Stderr = c.out, os.Stderr
	if c.both {
		cmd.Stderr = c.out
	}
	// The terminal sends Ctrl-C to the program as well, and Pulumi then finishes pending operations.
	cmd.Cancel = func() error { return nil }
	cmd.WaitDelay = 10 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(c.args, " "), err)
	}
	return nil
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// confirm asks a yes-or-no question, except with --yes. It returns an error unless the user types yes.
func (s *session) confirm(question string) error {
	if s.yes {
		return nil
	}
	s.printf("\n%s [y/N] ", question)
	answer, err := bufio.NewReader(s.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read from standard input: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("canceled; nothing more was changed")
}

// requireConfirmation returns an error if confirm couldn't ask: without --yes and without a terminal.
func (s *session) requireConfirmation() error {
	if s.yes || s.terminal {
		return nil
	}
	return errors.New("standard input isn't a terminal, so changes can't be confirmed\nhint: add ARGS=--yes to apply them without confirmation")
}

// createTemp creates the session's folder for temporary files. The caller must call remove.
func (s *session) createTemp() (remove func(), err error) {
	if s.temp, err = os.MkdirTemp("", "fakeart-cloud-"); err != nil {
		return nil, err
	}
	return func() { _ = os.RemoveAll(s.temp) }, nil
}

// path returns the path of a file in the checkout.
func (s *session) path(elements ...string) string {
	return filepath.Join(append([]string{s.root}, elements...)...)
}
