// Server classifies images with one or several models, over HTTP and gRPC.
//
//	server --model runs/demo/run/model.onnx --addr 127.0.0.1:8080
//	curl -F data=@photo.jpg 127.0.0.1:8080/predict
//
// The exit code is 0 after a shutdown by SIGTERM or Ctrl-C, 1 after a failure, and 2 if the command
// line or the configuration is invalid and nothing was started.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"fakeart/internal/cli"
	"fakeart/server/benchmark"
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
	Version    kong.VersionFlag `short:"v" help:"Print the version and exit." env:"-"`

	Serve        serveCommand     `cmd:"" default:"1" help:"Serve a model. This is the default command."`
	Print        printCommand     `cmd:"" name:"config" help:"Print the effective configuration, with secrets masked."`
	Benchmark    benchmarkCommand `cmd:"" help:"Measure serving speed on this machine against the theoretical maximum."`
	Help         helpCommand      `cmd:"" help:"Print help for the program or a command."`
	PrintVersion versionCommand   `cmd:"" name:"version" help:"Print the version."`
	Constant     constantCommand  `cmd:"" hidden:""`
}

const description = `Classifies images with one or several models, over HTTP and gRPC.

Each flag can also be set by the environment variable next to it, or in the file given by --config. Flags take precedence over variables, and variables over the file. On SIGTERM or Ctrl-C the server finishes the requests that it has accepted and exits.`

// examples ends the help of the program.
const examples = `
Examples:
  Serve a model file:
    server --model runs/demo/run/model.onnx

  Classify an image:
    curl -F data=@photo.jpg http://127.0.0.1:8080/predict

  Serve two models, and classify an image with the second one:
    server --model cifake=runs/demo/run/model.onnx --model pets=models/pets.onnx
    curl -F data=@cat.jpg 'http://127.0.0.1:8080/predict?model=pets&top=3'

  Serve the newest model of a bucket, and deploy newer ones as they are published:
    server --model gs://bucket/models/ --model-watch 30s --addr :8080

  Print the effective configuration:
    server config

Documentation: docs/how-to/operate.md, all flags: docs/reference/server.md.
A running server has a web page at / and its API documentation at /docs.
`

func main() { os.Exit(run(os.Args[1:], streams{os.Stdout, os.Stderr})) }

// streams are the outputs of a command: results go to out, everything else to err.
type streams struct{ out, err io.Writer }

// usageError is an error in the command line or the configuration, found before anything was
// started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exit is the value of the panic that unwinds the stack after kong has handled --help or --version.
type exit int

// run runs the program and returns its exit code.
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
	cli.PrintError(std.err, err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailure
}

func parseAndRun(args []string, std streams) error {
	switch {
	case len(args) == 0 && !configuredByEnvironment(std):
		args = []string{"--help"}
	case len(args) > 0 && args[0] == "help":
		args = append(slices.Clone(args[1:]), "--help")
	case len(args) > 0 && args[0] == "version":
		args = []string{"--version"}
	}
	_, command, err := parse(args, std)
	if err != nil {
		return usageError{withHint(err)}
	}
	return command.Run()
}

// configuredByEnvironment reports whether the variable of any flag is set, as is usual in a container.
// Such a server must start, or fail, without arguments.
func configuredByEnvironment(std streams) bool {
	for _, f := range newParser(&commands{}, std).Model.Flags {
		if slices.ContainsFunc(f.Envs, func(name string) bool { return os.Getenv(name) != "" }) {
			return true
		}
	}
	return false
}

// fromVariable matches the end of an error of kong's about the value of a variable.
var fromVariable = regexp.MustCompile(` \(from envar (\w+)=.*\)$`)

// Errors of kong's that name types of Go or of its parser.
var (
	missingValue = regexp.MustCompile(`^(.*: )(?:expected \w+ value but got|missing value, expecting) .*$`)
	invalidBool  = regexp.MustCompile(`^(.*: )?bool value must be .* but got (".*")$`)
)

// withHint adds a hint to an error of kong's. An error about the value of a variable then names the
// variable instead of the flag.
func withHint(err error) error {
	if match := fromVariable.FindStringSubmatchIndex(err.Error()); match != nil {
		text := err.Error()
		if flag, message, ok := strings.Cut(text[:match[0]], ": "); ok && strings.HasPrefix(flag, "--") {
			err = fmt.Errorf("%s: %s", text[match[2]:match[3]], message)
		}
	}
	if match := missingValue.FindStringSubmatch(err.Error()); match != nil {
		return errors.New(match[1] + "missing value\n" + cli.HintPrefix + "write the value after the flag, as in --queue=1024")
	}
	if match := invalidBool.FindStringSubmatch(err.Error()); match != nil {
		return fmt.Errorf("%sinvalid value %s\n"+cli.HintPrefix+"use true or false", match[1], match[2])
	}
	if text, suggestion, ok := strings.Cut(err.Error(), ", did you mean "); ok {
		return fmt.Errorf("%s\n"+cli.HintPrefix+"did you mean %s", text, suggestion)
	}
	if strings.HasPrefix(err.Error(), "unknown ") || strings.HasPrefix(err.Error(), "unexpected ") {
		return fmt.Errorf("%w\n"+cli.HintPrefix+"run server --help for all commands and flags", err)
	}
	return err
}

// parse reads the command line, the environment variables and the file of --config.
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
	addrSet := os.Getenv("FAKEART_ADDR") != ""
	for _, p := range command.Path {
		addrSet = addrSet || p.Flag != nil && p.Flag.Name == "addr" && !p.Resolved
	}
	return &c.Config, command, c.applyPort(addrSet)
}

// envPrefix is the prefix of the variables that set flags.
const envPrefix = "FAKEART"

// newParser returns the parser of the command line.
func newParser(c *commands, std streams, more ...kong.Option) *kong.Kong {
	parser, err := kong.New(c, append(more,
		kong.Name("server"),
		kong.Description(description),
		kong.Vars{"version": versionText(), "max_pixels": strconv.Itoa(maxPixels), "bench_begin": benchmark.Begin, "bench_end": benchmark.End},
		kong.DefaultEnvars(envPrefix),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
		kong.KindMapper(reflect.Int, kong.MapperFunc(decodeInteger)),
		kong.KindMapper(reflect.Int64, kong.MapperFunc(decodeInteger)),
		kong.Help(printHelp),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.Bind(std, &c.Config),
	)...)
	if err != nil {
		panic(err) // a bug in the declaration of commands
	}
	return parser
}

// printHelp prints kong's help, followed by the examples if it is the help of the whole program.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	err := kong.DefaultHelpPrinter(options, ctx)
	if err == nil && (ctx.Selected() == nil || ctx.Selected().Name == "serve") {
		_, err = io.WriteString(ctx.Stdout, examples)
	}
	return err
}

// configPath returns the file of --config, which must be known before the other flags are parsed.
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

// versionText returns the version of the program: the release or, in builds without one, the version
// that Go recorded.
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
	if err := c.check(); err != nil {
		return err
	}
	text, err := c.print()
	if err != nil {
		return err
	}
	_, err = io.WriteString(std.out, text)
	return err
}

// helpCommand is `server help [COMMAND]`, which parseAndRun handles.
type helpCommand struct {
	Command []string `arg:"" optional:"" help:"Command to print the help of."`
}

func (helpCommand) Run() error { return nil }

// versionCommand is `server version`, which parseAndRun handles.
type versionCommand struct{}

func (versionCommand) Run() error { return nil }

// serveCommand is the default command, which serves a model.
type serveCommand struct{}

func (serveCommand) Run(c *Config, std streams) error {
	if c.model() == "" {
		return usageError{errNoModelFlag}
	}
	ctx, stop := signalContext()
	defer stop()
	scheduleAsBatch()
	m := NewMain(*c, newLogger(c, std.err))
	err := m.Run(ctx)
	switch {
	case err == nil:
		err = m.Wait(ctx)
	case ctx.Err() != nil:
		m.log.Info("interrupted while starting", "reason", err)
		err = nil
	}
	return errors.Join(err, m.Close())
}

// signalContext returns a context that ends at the first SIGTERM or Ctrl-C. A second one kills the
// program, whatever it is doing.
func signalContext() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// errNoModelFlag is returned by commands that need --model if it isn't set.
var errNoModelFlag = errors.New("--model is required\n" + cli.HintPrefix + "set it to a model file, a folder or a URL, as in server --model runs/demo/run/model.onnx")

// newLogger returns the program's logger, which writes to standard error.
func newLogger(c *Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // kong accepts only valid levels
	}
	asJSON := c.LogFormat == "json"
	if c.LogFormat == "auto" {
		f, ok := w.(*os.File)
		asJSON = !ok || !term.IsTerminal(int(f.Fd()))
	}
	log := telemetry.NewLogger(w, level, asJSON)
	telemetry.LogSDK(log)
	return log
}
