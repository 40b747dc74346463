// Trainer prepares datasets, trains models, and evaluates them.
//
//	trainer data prepare
//	trainer train experiment=smoke run.dir=runs/first
//	trainer evaluate --model runs/first/model.onnx --data data/synthetic
//
// Configuration files and overrides on the command line define a run. Package config describes how
// they are composed, and `trainer config` prints the result.
//
// The exit code is 0 on success, 1 after a failure, 2 if the command line or the configuration is
// invalid and nothing was started, 3 if `drift --fail-on-drift` found drift, and 130 after an
// interrupt (Ctrl-C or SIGTERM).
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"fakeart/internal/cli"
	"fakeart/internal/config"
	"fakeart/trainer/foreign"
	"fakeart/trainer/train"
)

// version and commit describe the source. Builds without a Git repository set them with
// -ldflags "-X main.version=… -X main.commit=…".
var version, commit string

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitDrift       = 3
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal stops the command gracefully, a second one kills the process.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// commands is the command line. Each command is a struct of its flags with a Run method, in a file
// of its own.
type commands struct {
	Version kong.VersionFlag `short:"v" help:"Print the version and exit."`

	Config       configCommand    `cmd:"" help:"Print the composed configuration."`
	Data         dataCommand      `cmd:"" help:"Prepare datasets."`
	Train        trainCommand     `cmd:"" help:"Train a model, then export the best epoch and evaluate it."`
	Evaluate     evaluateCommand  `cmd:"" help:"Evaluate a model on a split of a dataset, or the predictions in a prediction log against users' feedback."`
	Model        modelCommand     `cmd:"" help:"Import a model of another framework, or show a model file."`
	Drift        driftCommand     `cmd:"" help:"Check a prediction log for drift from the validation split."`
	Benchmark    benchmarkCommand `cmd:"" help:"Measure the training speed of this machine against its inference speed."`
	Help         helpCommand      `cmd:"" help:"Print help for the program or a command."`
	PrintVersion versionCommand   `cmd:"" name:"version" help:"Print the version."`
}

// streams are the outputs of a command: results go to out, everything else to err.
type streams struct{ out, err io.Writer }

// usageError is an error in the command line or the configuration, found before anything was
// started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exit is the value of the panic that unwinds the stack after kong has handled --help or --version.
type exit int

// run runs the program until it is done or ctx is canceled. It prints errors on std.err and returns
// the exit code.
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
	if len(args) == 0 {
		args = []string{"help"}
	}
	command, err := newParser(ctx, std).Parse(args)
	if err != nil {
		err = usageError{withHint(err, args)}
	} else {
		err = command.Run()
	}
	if err == nil {
		return 0
	}
	cli.PrintError(std.err, err)
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
		kong.Description("Trains image classifiers, and makes model files from those of other frameworks."),
		kong.Vars{"version": versionText(), "time_forms": cli.TimeForms, "presets": strings.Join(foreign.Presets(), ", ")},
		kong.KindMapper(reflect.Int, kong.MapperFunc(decodeInteger)),
		kong.KindMapper(reflect.Int64, kong.MapperFunc(decodeInteger)),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
	if err != nil {
		panic(err) // a bug in the declaration of commands
	}
	return parser
}

// composition has the arguments of commands that use a configuration.
type composition struct {
	ConfigDir string   `env:"FAKEART_CONFIG_DIR" placeholder:"DIR" help:"Read the configuration files from this directory instead of the built-in ones."`
	Overrides []string `arg:"" optional:"" help:"Settings: GROUP=CHOICE selects a file (optimizer=sgd), GROUP.KEY=VALUE sets a value (experiment.epochs=6)."`
}

// load composes the configuration.
func (c composition) load() (*config.Config, error) {
	cfg, err := config.Load(c.ConfigDir, c.Overrides)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// versionCommand prints the version.
type versionCommand struct{}

// Run prints the version on standard output.
func (versionCommand) Run(std streams) error {
	_, err := fmt.Fprintln(std.out, versionText())
	return err
}

// versionText returns the program's version and the revision of its source.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "trainer (unknown build)"
	}
	return fmt.Sprintf("trainer %s, revision %s, %s", cmp.Or(version, info.Main.Version), cmp.Or(revision(), "unknown"), info.GoVersion)
}

// revision returns the commit that the program was built from, with the suffix "-modified" if the
// working tree had changes. It returns "" if the commit is unknown.
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
