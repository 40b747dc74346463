package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/time/rate"

	"fakeart/internal/ort"
	"fakeart/server/infer"
	"fakeart/server/predlog"
	"fakeart/server/source"
	"fakeart/server/telemetry"
)

// drainTime is how long the server, once told to stop, goes on as if nothing were but
// for saying that it is not ready; and then, with the port closed, how long it goes
// on answering on the connections there are, while asking each client to connect
// elsewhere. Without the latter a client that sends on a connection just as it is
// closed for being idle would get no answer.
const drainTime = 100 * time.Millisecond

// Main is the program: what it is made of, and its life from Run to Close.
type Main struct {
	config Config
	log    *slog.Logger
	debug  bool // whether each request has a line
	sample rate.Sometimes

	engine      *infer.Engine
	models      *deployments
	predictions *predlog.Log    // nil without a log
	reader      predlog.Reader  // nil when the log cannot be read here
	outbox      *predlog.PubSub // nil with another log
	drift       *driftWatch     // nil when drift is not looked for
	accuracy    accuracy
	bodies      *bodies
	decoders    *decoders
	admins      *admins
	clients     *clients
	metrics     *telemetry.Metrics
	history     *history
	tracing     *telemetry.Tracing
	routes      sync.Map                  // *telemetry.Route by *fiber.Route
	plain       map[[2]string]fiber.Route // by method and path; not changed once served
	document    []byte                    // OpenAPI, in JSON

	fronts     []*front      // where it listens; the first one is for everybody
	draining   atomic.Bool   // told to stop
	parting    atomic.Bool   // and the port is closed
	pending    atomic.Int64  // requests read but not yet answered
	hurry      chan struct{} // closed when what still waits has to be refused, to end in time
	afterBatch func(pictures int, took time.Duration)

	watching sync.WaitGroup
	looking  sync.WaitGroup // for drift
	unwatch  context.CancelFunc
	closed   bool // Close was called
}

// front is an address that the program listens on.
type front struct {
	listener *listener
	app      *fiber.App
	served   chan struct{} // closed when the listener is no longer served
	err      error         // why; valid once served is closed
}

// NewMain returns a program that has not been started.
func NewMain(config Config, log *slog.Logger) *Main {
	return &Main{
		config: config, log: log, debug: log.Enabled(context.Background(), slog.LevelDebug),
		sample: rate.Sometimes{Interval: time.Second}, hurry: make(chan struct{}),
	}
}

// logs tells whether predictions are logged.
func (m *Main) logs() bool { return m.predictions != nil }

// Run opens the model, the log and the port, and returns once requests are answered.
// After an error, too, Close frees what was opened.
func (m *Main) Run(ctx context.Context) (err error) {
	// Told to stop already, the program still starts: it then ends without an error.
	ctx = context.WithoutCancel(ctx)
	c := &m.config
	if m.admins, err = newAdmins(c.tokens(), c.AdminTokenFile); err != nil {
		return err
	}
	if m.admins.short() {
		m.log.Warn("an administrator's token is short enough to be guessed", "shorter_than", minToken)
	}
	m.clients = newClients(c.TrustedProxy)
	m.bodies = newBodies(c.MaxBody, c.MaxMemory)
	m.decoders = newDecoders(2*c.workers(), c.MaxPixels, c.MaxMemory)
	m.metrics = telemetry.NewMetrics(versionText(), telemetry.Sources{
		QueueDepth:  func() int { return m.engine.Waiting() },
		InFlight:    func() int { return int(m.pending.Load()) },
		LogWaiting:  func() int { return waiting(m.predictions) },
		LogOutbox:   m.spilled,
		LogWritable: func() bool { return m.predictions == nil || m.predictions.Err() == nil },
		Accuracy:    m.rightVerdicts,
	})
	m.history = newHistory(m)
	if m.tracing, err = telemetry.NewTracing(ctx, versionText()); err != nil {
		return err
	}
	// The log's file is opened while the model is being loaded.
	opened := make(chan error, 1)
	go func() { opened <- m.openLog(ctx) }()
	err = m.openModel(ctx)
	if err = errors.Join(err, <-opened); err != nil {
		return err
	}
	if c.DriftReference != "" {
		if m.drift, err = newDriftWatch(m); err != nil {
			return err
		}
	}
	if err := m.listen(ctx, c.Addr, "--addr", m.newApp); err != nil {
		return err
	}
	if c.AdminAddr != "" {
		if err := m.listen(ctx, c.AdminAddr, "--admin-addr", m.newAdminApp); err != nil {
			return err
		}
	}
	for _, f := range m.fronts {
		f.serve()
	}
	watch, unwatch := context.WithCancel(ctx)
	m.unwatch = unwatch
	if c.ModelWatch > 0 {
		m.watching.Go(func() { m.models.watch(watch) })
	}
	if m.drift != nil {
		m.looking.Go(func() { m.drift.watch(watch, c.DriftEvery) })
	}
	m.watching.Go(func() { m.history.watch(watch) })
	if use, err := m.models.inUse(); err == nil {
		m.log.Info("listening on "+m.URL(), "model", use.file.Digest, "name", use.file.Metadata.Name, "onnxruntime", ort.Version())
	} else {
		m.log.Info("listening on "+m.URL(), "onnxruntime", ort.Version())
		m.log.Warn("not ready", "reason", err)
	}
	if len(m.fronts) > 1 {
		m.log.Info("administration on http://" + m.fronts[1].listener.Addr().String())
	}
	return nil
}

func waiting(l *predlog.Log) int {
	if l == nil {
		return 0
	}
	return l.Waiting()
}

// spilled is the number of records in the outbox; what it is when that cannot be read,
// the log's own messages say.
func (m *Main) spilled() int {
	if m.outbox == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n, _ := m.outbox.Spilled(ctx)
	return int(n)
}

// openModel starts the inference engine with the model of --model, or without one if the
// server may wait for its first.
func (m *Main) openModel(ctx context.Context) (err error) {
	c := &m.config
	if err := ort.Init(); err != nil { // no model could change that
		return err
	}
	if m.afterBatch == nil { // tests hold the workers up here
		m.afterBatch = m.metrics.Batch
	}
	m.engine, err = infer.New(infer.Options{
		Workers: c.workers(), MaxBatch: c.MaxBatch, Queue: c.Queue, ObserveBatch: m.afterBatch,
		ObserveExplanation: m.metrics.Explained, CancelExplanations: m.hurry,
	})
	if err != nil {
		return err
	}
	from, err := source.Open(ctx, c.Model, source.Options{})
	if err != nil {
		return err
	}
	m.models = &deployments{engine: m.engine, metrics: m.metrics, log: m.log, source: from, every: time.Duration(c.ModelWatch)}
	if len(c.ModelSource) > 0 {
		places, err := source.ParseAllowlist(c.ModelSource)
		if err != nil {
			return err
		}
		m.models.places = &places
	}
	return m.models.start(ctx, c.ModelSHA256)
}

// openLog opens the prediction log.
func (m *Main) openLog(ctx context.Context) error {
	c := &m.config
	count := func(result predlog.Result, n int) { m.metrics.LogRecords(string(result), n) }
	var store predlog.Store
	switch c.LogStore {
	case "none":
		return nil
	case "sqlite":
		s, err := predlog.OpenSQLite(ctx, predlog.SQLiteOptions{
			Path: c.LogPath, Synchronous: predlog.Synchronous(c.LogSynchronous),
			MaxAge: c.LogMaxAge, MaxRows: c.LogMaxRows, Count: count, Logger: m.log,
		})
		if err != nil {
			return err
		}
		store, m.reader = s, s
	case "pubsub":
		s, err := predlog.OpenPubSub(ctx, predlog.PubSubOptions{
			Topic: c.LogTopic, FeedbackTopic: c.FeedbackTopic, Outbox: c.LogPath, Synchronous: predlog.Synchronous(c.LogSynchronous), Count: count, Logger: m.log,
		})
		if err != nil {
			return err
		}
		store, m.outbox = s, s
	}
	m.predictions = predlog.New(store, predlog.Options{Durable: c.LogDurable, Count: count, Logger: m.log})
	return nil
}

// listen opens an address; the requests of newApp are answered there once it is served.
func (m *Main) listen(ctx context.Context, addr, flag string, newApp func() *fiber.App) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; stop the program that uses it, or choose another %s", err, flag)
	}
	if err != nil {
		return err
	}
	m.fronts = append(m.fronts, &front{
		listener: newListener(l.(*net.TCPListener)), // which "tcp" always is
		app:      newApp(), served: make(chan struct{}),
	})
	return nil
}

func (f *front) serve() {
	go func() {
		defer close(f.served)
		f.err = f.app.Listener(f.listener)
	}()
}

// URL is the address at which the running program answers.
func (m *Main) URL() string { return "http://" + m.fronts[0].listener.Addr().String() }

// Wait returns when ctx is done, or with an error when connections can no longer
// be taken.
func (m *Main) Wait(ctx context.Context) error {
	// There is at most one more; without one, a channel that is never closed.
	second := make(chan struct{})
	if len(m.fronts) > 1 {
		second = m.fronts[1].served
	}
	select {
	case <-ctx.Done():
		return nil
	case <-m.fronts[0].served:
	case <-second:
	}
	var errs []error
	for _, f := range m.fronts {
		select {
		case <-f.served:
			errs = append(errs, f.err)
		default:
		}
	}
	return fmt.Errorf("serve %s: %w", m.URL(), errors.Join(append([]error{net.ErrClosed}, errs...)...))
}

// Close answers the requests that have been received, waits up to
// Config.ShutdownTimeout for those that are being received and for the log, and
// frees everything. It is an error when a request stays unanswered or a record
// unwritten; a client that has not sent its request by then is no error. A second
// Close does nothing.
func (m *Main) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), m.config.ShutdownTimeout)
	defer cancel()
	if m.unwatch != nil {
		m.unwatch()
		m.watching.Wait()
	}
	err := m.shutdown(ctx)
	m.looking.Wait() // half a second at most, from which the requests did not have to wait
	if m.predictions != nil {
		// Records are in memory still: they get their time even when requests took it all.
		flush, cancel := context.WithTimeout(context.Background(), max(m.config.ShutdownTimeout, minFlush))
		err = errors.Join(err, m.predictions.Close(flush))
		cancel()
	}
	if m.models != nil {
		err = errors.Join(err, m.models.source.Close())
	}
	// A request that stays unanswered still uses it, and all the rest.
	if m.engine != nil && m.pending.Load() == 0 {
		err = errors.Join(err, m.engine.Close())
	}
	if m.tracing != nil {
		if e := m.tracing.Close(ctx); e != nil {
			m.log.Warn("tracing", "error", e)
		}
	}
	return err
}

// minFlush is the least time that the log gets to be written at the end.
const minFlush = 2 * time.Second

func (m *Main) shutdown(ctx context.Context) error {
	if len(m.fronts) == 0 {
		return nil
	}
	m.log.Info("stopping")
	m.draining.Store(true)
	time.Sleep(drainTime)
	var errs []error
	var stopped sync.WaitGroup
	for _, f := range m.fronts {
		errs = append(errs, f.listener.Close())
	}
	for _, f := range m.fronts {
		<-f.served
	}
	m.parting.Store(true)
	defer time.AfterFunc(m.config.ShutdownTimeout/2, func() { close(m.hurry) }).Stop()
	time.Sleep(drainTime)
	results := make([]error, len(m.fronts))
	for i, f := range m.fronts {
		stopped.Go(func() { results[i] = f.stop(ctx) })
	}
	stopped.Wait()
	fronts := m.fronts
	m.fronts = nil
	err := errors.Join(append(errs, results...)...)
	if errors.Is(err, context.DeadlineExceeded) {
		if n := m.pending.Load(); n > 0 {
			return fmt.Errorf("stop: %d requests unanswered after %s", n, m.config.ShutdownTimeout)
		}
		for _, f := range fronts {
			f.listener.closeAll()
		}
		m.log.Warn("closed connections that had not sent a whole request, or not taken their answer", "after", m.config.ShutdownTimeout.String())
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	m.log.Info("stopped")
	return nil
}

// stop waits for the requests of the front, until ctx ends.
func (f *front) stop(ctx context.Context) error {
	// The last connection has had a moment to say what it is for.
	f.listener.closeSilent()
	return f.app.ShutdownWithContext(ctx)
}
