// Server answers over HTTP whether a picture is a photograph or AI-generated.
//
//	server --model runs/demo/model.onnx --addr 127.0.0.1:8080
//	curl -F data=@picture.jpg 127.0.0.1:8080/predict
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/gofiber/fiber/v2"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// version is the release; the build sets it with -ldflags "-X main.version=…".
var version string

func main() {
	var flags struct {
		Config  `embed:""`
		Version kong.VersionFlag `help:"Print the version and exit."`
	}
	kong.Parse(&flags,
		kong.Name("server"),
		kong.Description("Answers over HTTP whether a picture is a photograph or AI-generated."),
		kong.Vars{"version": versionText(), "max_pixels": strconv.Itoa(imaging.DefaultMaxPixels)})
	if err := serve(flags.Config); err != nil {
		fmt.Fprintf(os.Stderr, "server: %v\n", err)
		os.Exit(1)
	}
}

// serve runs the program until it is told to stop.
func serve(config Config) error {
	// After the first signal the handlers are gone: a second one ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := NewMain(config, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	err := m.Run(ctx)
	if err == nil {
		err = m.Wait(ctx)
	}
	stop()
	return errors.Join(err, m.Close())
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

// Config is what a user decides. Every flag can be given as a variable as well.
type Config struct {
	Model           string        `help:"Model file that the trainer exported." required:"" placeholder:"FILE" env:"FAKEART_MODEL"`
	Addr            string        `help:"Address to listen on; port 0 takes a free one." default:"127.0.0.1:8080" env:"FAKEART_ADDR"`
	MaxBody         int           `help:"Largest request body in bytes." default:"10485760" env:"FAKEART_MAX_BODY"`
	MaxPixels       int           `help:"Largest picture in pixels, width times height." default:"${max_pixels}" env:"FAKEART_MAX_PIXELS"`
	ShutdownTimeout time.Duration `help:"How long to wait, when told to stop, for requests that have begun." default:"8s" env:"FAKEART_SHUTDOWN_TIMEOUT"`
}

// Validate is called by kong once the flags are read.
func (c *Config) Validate() error {
	switch {
	case c.MaxBody < 1:
		return fmt.Errorf("--max-body=%d: need at least one byte", c.MaxBody)
	case c.MaxPixels < 1:
		return fmt.Errorf("--max-pixels=%d: need at least one pixel", c.MaxPixels)
	case c.ShutdownTimeout < 0:
		return fmt.Errorf("--shutdown-timeout=%s: is negative", c.ShutdownTimeout)
	}
	return nil
}

// drainTime is how long the server, once told to stop, goes on taking requests
// while asking each client to reconnect elsewhere. Without it a client that sends
// on a connection just as it is closed for being idle would get no answer.
const drainTime = 100 * time.Millisecond

// Main is the program: what it is made of, and its life from Run to Close.
type Main struct {
	config Config
	log    *slog.Logger

	file     *model.File
	workers  *pool
	listener *listener
	app      *fiber.App

	draining atomic.Bool   // told to stop
	pending  atomic.Int64  // requests read but not yet answered
	served   chan struct{} // closed when the listener is no longer served
	serveErr error         // why; valid once served is closed
}

// NewMain returns a program that has not been started.
func NewMain(config Config, log *slog.Logger) *Main {
	return &Main{config: config, log: log}
}

// Run opens the model and the port, and returns once requests are answered. After
// an error, too, Close frees what was opened.
func (m *Main) Run(ctx context.Context) (err error) {
	if m.file, err = model.Open(m.config.Model); err != nil {
		return err
	}
	if err := m.file.Check(imaging.PreprocessingID, []string{model.Real, model.Fake}); err != nil {
		return err
	}
	// A worker for each core, of one thread each: more pictures at once beat more
	// threads for a picture.
	m.workers, err = newPool(m.file, runtime.GOMAXPROCS(0), m.config.MaxPixels, ort.Options{Threads: 1, DenormalsAsZero: true})
	if err != nil {
		return err
	}
	// Told to stop already, the program still starts: it then ends without an error.
	l, err := new(net.ListenConfig).Listen(context.WithoutCancel(ctx), "tcp", m.config.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; stop the program that uses it, or choose another --addr", err)
	}
	if err != nil {
		return err
	}
	m.listener = newListener(l.(*net.TCPListener)) // which "tcp" always is
	m.app = m.newApp()
	m.served = make(chan struct{})
	go func() {
		defer close(m.served)
		m.serveErr = m.app.Listener(m.listener)
	}()
	m.log.Info("listening on "+m.URL(), "model", m.file.Digest, "name", m.file.Metadata.Name, "onnxruntime", ort.Version())
	return nil
}

// URL is the address at which the running program answers.
func (m *Main) URL() string { return "http://" + m.listener.Addr().String() }

// Wait returns when ctx is done, or with an error when connections can no longer
// be taken.
func (m *Main) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-m.served:
		return fmt.Errorf("serve %s: %w", m.URL(), errors.Join(net.ErrClosed, m.serveErr))
	}
}

// Close answers the requests that have been received, waits up to
// Config.ShutdownTimeout for those that are being received, and frees everything.
// It is an error when a request stays unanswered; a client that has not sent its
// request by then is no error.
func (m *Main) Close() error {
	err := m.shutdown()
	if m.workers != nil {
		err = errors.Join(err, m.workers.close())
		m.workers = nil
	}
	return err
}

func (m *Main) shutdown() error {
	if m.app == nil {
		return nil
	}
	m.log.Info("stopping")
	m.draining.Store(true)
	time.Sleep(drainTime)
	err := m.listener.Close()
	<-m.served
	// A connection taken just now gets a moment to say what it is for.
	silence := time.AfterFunc(drainTime, m.listener.closeSilent)
	defer silence.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), m.config.ShutdownTimeout)
	defer cancel()
	err = errors.Join(err, m.app.ShutdownWithContext(ctx))
	m.app = nil
	if errors.Is(err, context.DeadlineExceeded) {
		if n := m.pending.Load(); n > 0 {
			return fmt.Errorf("stop: %d requests unanswered after %s", n, m.config.ShutdownTimeout)
		}
		m.log.Warn("closed connections that had not sent a whole request", "after", m.config.ShutdownTimeout)
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	m.log.Info("stopped")
	return nil
}
