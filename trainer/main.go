// Command trainer prepares data, trains the network and measures it.
//
// What a run is made of comes from configuration files and overrides on the
// command line; package config describes them, `trainer config` prints them.
//
// The exit code is 0 on success, 1 on failure, 2 when the command line or the
// configuration is wrong and nothing was started, 3 when drift was found and
// --fail-on-drift asked for that, and 130 when an interrupt (Ctrl-C, SIGTERM)
// ended the command early.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"fakeart/internal/config"
	"fakeart/trainer/train"
)

// version and commit are of the source; a build without git's own stamp sets them with
// -ldflags "-X main.version=… -X main.commit=…".
var version, commit string

// The exit codes of the program.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitDrift       = 3
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; a second one ends at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// commands is the command line. Each command lives in a file of its own, as a
// struct of its flags with a Run method.
type commands struct {
	Version kong.VersionFlag `help:"Print the version and exit."`

	Config    configCommand    `cmd:"" help:"Print the composed configuration."`
	Data      dataCommand      `cmd:"" help:"Work on data sets."`
	Train     trainCommand     `cmd:"" help:"Train the network, export and measure the best epoch's model."`
	Evaluate  evaluateCommand  `cmd:"" help:"Measure a model file on a split of a prepared data set, or the verdicts in a prediction log on what users said."`
	Drift     driftCommand     `cmd:"" help:"Tell whether the pictures and answers in a prediction log are still like those of the validation split."`
	Benchmark benchmarkCommand `cmd:"" help:"Measure how fast this machine trains, beside how fast it infers."`
}

// streams is where a command writes: results to out, everything else to err.
type streams struct{ out, err io.Writer }

// usageError is an error in what the user wrote, found before any work began.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exit is panicked with when kong has answered --help or --version itself.
type exit int

// run is the whole program but for the process around it: it reads the
// arguments, carries out the command until it ends or ctx is cancelled,
// reports an error on std.err and returns the exit code.
func run(ctx context.Context, args []string, std streams) (code int) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case exit:
			code = int(e)
		default:
			panic(e)
		}
	}()

	command, err := newParser(ctx, std).Parse(args)
	if err != nil {
		err = usageError{fmt.Errorf("%w%s", err, hint(err, args))}
	} else {
		err = command.Run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(std.err, "trainer: %v\n", err)
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, errDrift):
		return exitDrift
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, train.ErrInterrupted)):
		return exitInterrupted
	}
	return exitFailure
}

// newParser returns the parser of the command line.
func newParser(ctx context.Context, std streams) *kong.Kong {
	parser, err := kong.New(
		&commands{},
		kong.Name("trainer"),
		kong.Description("Trains the network that tells photographs from AI-generated pictures."),
		kong.Vars{"version": versionText()},
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		panic(err) // the struct above is wrong, whatever the arguments are
	}
	return parser
}

// dashed is a setting written as if it were a flag.
var dashed = regexp.MustCompile(`^-+([a-z]+\.[a-z0-9_.]+(=.*)?|[a-z]+=.*)$`)

// hint ends a message about the command line with what to write instead.
func hint(err error, args []string) string {
	if strings.HasPrefix(err.Error(), "unknown flag") {
		for _, arg := range args {
			if dashed.MatchString(arg) {
				return fmt.Sprintf("; settings are written without dashes: %s", strings.TrimLeft(arg, "-"))
			}
		}
	}
	return "; see trainer --help"
}

// composition is what every command has that works on a configuration.
type composition struct {
	ConfigDir string   `env:"FAKEART_CONFIG_DIR" placeholder:"DIR" help:"Read the configuration files from this folder instead of those built in."`
	Overrides []string `arg:"" optional:"" help:"group=choice, as in optimizer=sgd, or group.key=value, as in experiment.epochs=6."`
}

// load composes the configuration.
func (c composition) load() (*config.Config, error) {
	cfg, err := config.Load(c.ConfigDir, c.Overrides)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// versionText returns the program's version and the revision of its source.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "trainer (unknown build)"
	}
	return fmt.Sprintf("trainer %s, revision %s, %s", cmp.Or(version, info.Main.Version), cmp.Or(revision(), "unknown"), info.GoVersion)
}

// revision returns the commit that the program was built from, with "-modified"
// behind it when the tree held more than the commit; empty when unknown.
func revision() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-modified"
		}
	}
	return revision + modified
}
