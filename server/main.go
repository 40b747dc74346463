// Server answers over HTTP whether a picture is a photograph or AI-generated.
//
//	server --model runs/demo/run/model.onnx --addr 127.0.0.1:8080
//	curl -F data=@picture.jpg 127.0.0.1:8080/predict
//
// The exit code is 0 when it was told to stop, 1 on failure, and 2 when the command
// line or the configuration is wrong and nothing was started.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"go.opentelemetry.io/otel"
	"golang.org/x/term"

	"fakeart/server/telemetry"
)

// The exit codes of the program.
const (
	exitFailure = 1
	exitUsage   = 2
)

// version is the release; the build sets it with -ldflags "-X main.version=…".
var version string

// commands is the command line.
type commands struct {
	Config `embed:""`

	ConfigFile string           `name:"config" help:"YAML file whose keys are the names of these flags." placeholder:"FILE"`
	Version    kong.VersionFlag `help:"Print the version and exit." env:"-"`

	Serve     serveCommand     `cmd:"" default:"1" help:"Serve a model; this is what is done without a command."`
	Print     printCommand     `cmd:"" name:"config" help:"Print the configuration in force, secrets masked."`
	Benchmark benchmarkCommand `cmd:"" help:"Measure how fast this machine serves the model, beside how fast it could."`
	Constant  constantCommand  `cmd:"" hidden:""`
}

const description = `Answers over HTTP whether a picture is a photograph or AI-generated.

A flag can also be given as the variable beside it, or in the file of --config; flags go before variables, and both before the file. SIGTERM and Ctrl-C end it once it has answered what it has accepted. A running server describes its API at /docs.`

func main() { os.Exit(run(os.Args[1:], streams{os.Stdout, os.Stderr})) }

// streams is where a command writes: results to out, everything else to err.
type streams struct{ out, err io.Writer }

// usageError is an error in what the user wrote, found before anything was started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exit is panicked with when kong has answered --help or --version itself.
type exit int

// run is the whole program but for the process around it.
func run(args []string, std streams) (code int) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case exit:
			code = int(e)
		default:
			panic(e)
		}
	}()
	err := parseAndRun(args, std)
	if err == nil {
		return 0
	}
	fmt.Fprintf(std.err, "server: %v\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailure
}

func parseAndRun(args []string, std streams) error {
	_, command, err := parse(args, std)
	if err != nil {
		return usageError{err}
	}
	return command.Run()
}

// parse reads the command line, the variables and the file.
func parse(args []string, std streams) (*Config, *kong.Context, error) {
	var c commands
	var options []kong.Option
	if path := configPath(args); path != "" {
		r, err := newFileResolver(path)
		if err != nil {
			return nil, nil, err
		}
		options = append(options, kong.Resolvers(r))
	}
	command, err := newParser(&c, std, options...).Parse(args)
	if err != nil {
		return nil, nil, err
	}
	given := os.Getenv("FAKEART_ADDR") != ""
	for _, p := range command.Path {
		given = given || p.Flag != nil && p.Flag.Name == "addr" && !p.Resolved
	}
	return &c.Config, command, c.applyPort(given)
}

// newParser returns the parser of the command line.
func newParser(c *commands, std streams, more ...kong.Option) *kong.Kong {
	parser, err := kong.New(c, append(more,
		kong.Name("server"),
		kong.Description(description),
		kong.Vars{"version": versionText(), "max_pixels": strconv.Itoa(maxPixels), "bench_begin": benchBegin, "bench_end": benchEnd},
		kong.DefaultEnvars("FAKEART"),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.Bind(std, &c.Config),
	)...)
	if err != nil {
		panic(err) // the struct above is wrong, whatever the arguments are
	}
	return parser
}

// configPath is the file of --config, which has to be known before the other flags are.
func configPath(args []string) string {
	for i, a := range args {
		if a == "--config" && i+1 < len(args) {
			return args[i+1]
		}
		if path, ok := strings.CutPrefix(a, "--config="); ok {
			return path
		}
	}
	return os.Getenv("FAKEART_CONFIG")
}

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// printCommand is `server config`.
type printCommand struct{}

func (printCommand) Run(c *Config, std streams) error {
	text, err := c.print()
	if err != nil {
		return err
	}
	_, err = io.WriteString(std.out, text)
	return err
}

// serveCommand is the server itself.
type serveCommand struct{}

func (serveCommand) Run(c *Config, std streams) error {
	if c.Model == "" {
		return usageError{errors.New("--model is missing: name a model file, or a folder or URL with one")}
	}
	// After the first signal the handlers are gone: a second one ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	scheduleAsBatch()
	m := NewMain(*c, newLogger(c, std.err))
	err := m.Run(ctx)
	if err == nil {
		err = m.Wait(ctx)
	}
	stop()
	return errors.Join(err, m.Close())
}

// newLogger returns the program's logger for standard error.
func newLogger(c *Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // kong has let only good ones pass
	}
	asJSON := c.LogFormat == "json"
	if c.LogFormat == "auto" {
		f, ok := w.(*os.File)
		asJSON = !ok || !term.IsTerminal(int(f.Fd()))
	}
	log := telemetry.NewLogger(w, level, asJSON)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("tracing", "error", err) }))
	return log
}
