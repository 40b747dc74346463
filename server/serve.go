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

	"fakeart/internal/cli"
	"fakeart/internal/ort"
	"fakeart/server/activity"
	"fakeart/server/admin"
	"fakeart/server/driftwatch"
	"fakeart/server/failure"
	"fakeart/server/front"
	"fakeart/server/infer"
	"fakeart/server/limit"
	"fakeart/server/listen"
	"fakeart/server/models"
	"fakeart/server/page"
	"fakeart/server/predlog"
	"fakeart/server/request"
	"fakeart/server/source"
	"fakeart/server/telemetry"
)

// drainTime is the length of each of the first two phases of a shutdown. In the first one, the
// server accepts connections as before but reports that it isn't ready. In the second one, the
// port is closed and the server serves the connections that remain, while asking each client to
// connect elsewhere. The second phase is needed for clients that send a request on a connection
// just before it is closed as idle: they would get no response.
const drainTime = 100 * time.Millisecond

// Main is the server: its components, and its lifecycle from Run to Close.
type Main struct {
	config  Config
	log     *slog.Logger
	now     func() time.Time // clock of the times of requests
	rotated sync.Once        // logs the first image with an EXIF orientation

	engine      *infer.Engine
	models      *models.Set
	predictions *predlog.Log        // nil if predictions aren't logged
	reader      predlog.Reader      // nil if this server can't read the log
	outbox      *predlog.PubSub     // nil unless the log is published to Pub/Sub
	drift       *driftwatch.Monitor // nil if drift checks are disabled
	accuracy    activity.Accuracy
	bodies      *limit.Bodies
	decoding    *limit.Memory
	decoders    *limit.Pool[*decoder]
	requests    *request.Tracker
	front       *front.Front
	admins      *admin.Tokens
	clients     *limit.Clients
	cors        fiber.Handler // nil if no other origins are allowed
	metrics     *telemetry.Metrics
	history     *activity.History
	tracing     *telemetry.Tracing
	document    []byte                     // OpenAPI document in JSON
	docs        func() (*page.File, error) // returns the same as a page

	endpoints     []*endpoint     // addresses that it listens on; the first one is the main address
	draining      atomic.Bool     // set when shutdown begins
	portClosed    atomic.Bool     // set when the ports are closed
	streams       context.Context // of gRPC; done when streams must end
	endStreams    context.CancelFunc
	rejectWaiting chan struct{} // closed during shutdown to reject requests that are still waiting
	afterBatch    func(images int, took time.Duration)
	ownSource     source.Options // of --model
	otherSource   source.Options // of other models

	opened       atomic.Bool // the prediction log and the models have been opened
	watching     sync.WaitGroup
	driftChecks  sync.WaitGroup
	stopWatching context.CancelFunc
	closed       bool // Close was called
}

// endpoint is an address that the server listens on.
type endpoint struct {
	listener *listen.Listener
	app      application
	served   chan struct{} // nil before serve is called; closed when the listener is no longer served
	err      error         // why it is no longer served; valid once served is closed
}

// application serves the requests of an endpoint: a *fiber.App, or grpcApp.
type application interface {
	Listener(l net.Listener) error
	ShutdownWithContext(ctx context.Context) error
}

// NewMain returns a server that hasn't been started.
func NewMain(config Config, log *slog.Logger) *Main {
	m := &Main{
		config: config, log: log, now: time.Now, rejectWaiting: make(chan struct{}),
	}
	m.streams, m.endStreams = context.WithCancel(context.Background())
	return m
}

// logs reports whether predictions are logged.
func (m *Main) logs() bool { return m.predictions != nil }

// Run opens the model, the prediction log and the ports. It returns once requests are served, or an
// error if something can't be opened or ctx is done before the model is loaded. Later, ctx has no
// effect. Call Close even if Run returns an error.
func (m *Main) Run(ctx context.Context) (err error) {
	starting := ctx // reading a model from a bucket may take long
	ctx = context.WithoutCancel(ctx)
	c := &m.config
	if err := c.check(); err != nil {
		return err
	}
	m.tracing = telemetry.NewTracing(ctx, versionText(), m.log)
	if err := m.prepare(); err != nil {
		return err
	}
	// Open the log while the model is loading.
	opened := make(chan error, 1)
	go func() { opened <- m.openLog(ctx) }()
	err = m.openModels(starting)
	if err = errors.Join(err, <-opened); err != nil {
		return err
	}
	m.opened.Store(true)
	for _, d := range m.models.All() {
		if use := d.Current(); use != nil {
			m.storeLabels(use)
		}
	}
	if c.DriftReference != "" {
		m.drift, err = driftwatch.New(driftwatch.Options{
			Reference: c.DriftReference, Window: c.DriftWindow, Log: m.reader, Model: m.modelOf, Metrics: m.metrics, Logger: m.log,
		})
		if err != nil {
			return err
		}
	}
	if err := m.listen(ctx, c.Addr, "--addr", func() application { return m.newApp() }); err != nil {
		return err
	}
	if c.AdminAddr != "" {
		if err := m.listen(ctx, c.AdminAddr, "--admin-addr", func() application { return m.newAdminApp() }); err != nil {
			return err
		}
	}
	if c.GRPCAddr != "" {
		if err := m.listen(ctx, c.GRPCAddr, "--grpc-addr", func() application { return grpcApp{m.newGRPC()} }); err != nil {
			return err
		}
	}
	for _, f := range m.endpoints {
		f.serve()
	}
	watch, stopWatching := context.WithCancel(ctx)
	m.stopWatching = stopWatching
	if c.ModelWatch > 0 {
		m.watching.Go(func() { m.models.Watch(watch) })
	}
	if m.drift != nil {
		m.driftChecks.Go(func() { m.drift.Run(watch, c.DriftEvery) })
	}
	m.watching.Go(func() { m.history.Run(watch) })
	attrs := []any{}
	if use := m.models.Default().Current(); use != nil {
		attrs = append(attrs, "model", use.File.Digest, "name", use.File.Metadata.Name)
	}
	m.log.Info("listening on "+m.URL(), append(attrs, "onnxruntime", ort.Version())...)
	for _, d := range m.models.All()[1:] {
		if use := d.Current(); use != nil {
			m.log.Info("model in use", "model_name", d.Name(), "model", use.File.Digest, "name", use.File.Metadata.Name)
		}
	}
	if err := m.models.Missing(); err != nil {
		m.log.Warn("not ready", "reason", err)
	}
	if c.AdminAddr != "" {
		m.log.Info("admin API on http://" + m.endpoints[1].listener.Addr().String())
	}
	if c.GRPCAddr != "" {
		m.log.Info("gRPC on " + m.endpoints[len(m.endpoints)-1].listener.Addr().String())
	}
	return nil
}

// prepare creates the components that need nothing from outside except m.tracing and the file of admin
// tokens.
func (m *Main) prepare() (err error) {
	c := &m.config
	if m.admins, err = admin.New(c.tokens(), c.AdminTokenFile); err != nil {
		return err
	}
	if m.admins.HasShort() {
		m.log.Warn("an admin token is short enough to be guessed", "shorter_than", admin.MinLength)
	}
	if m.clients, err = limit.NewClients(c.TrustedProxy); err != nil {
		return err
	}
	if m.cors, err = newCORS(c.CORSOrigin); err != nil {
		return err
	}
	m.bodies = limit.NewBodies(int(c.MaxBody), int(c.MaxMemory))
	m.decoding = limit.NewMemory(int(c.MaxMemory))
	m.decoders = limit.NewPool(m.rejectWaiting, newDecoders(2*c.workers(), c.MaxPixels)...)
	m.metrics = telemetry.NewMetrics(versionText(), telemetry.Sources{
		QueueDepth:  func() int { return m.engine.Waiting() },
		InFlight:    func() int { return m.requests.InProgress() },
		LogWaiting:  func() int { return waiting(m.predictions) },
		LogOutbox:   m.outboxRecords,
		LogWritable: func() bool { return m.predictions == nil || m.predictions.Err() == nil },
		Accuracy:    m.accuracies,
	})
	m.requests = request.NewTracker(request.Options{Limit: c.MaxRequests, Tracing: m.tracing, Logger: m.log, Now: m.now})
	m.front = front.New(front.Options{
		MaxBody: int(c.MaxBody), MaxHeader: int(c.MaxHeader), MaxConnections: c.MaxConnections,
		ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout, IdleTimeout: c.IdleTimeout,
		ImageRoutes: predictRoutes, Closing: m.portClosed.Load,
		Requests: m.requests, Bodies: m.bodies, Clients: m.clients, Metrics: m.metrics, Logger: m.log,
	})
	m.history = activity.New(activity.Sources{
		Version: versionText(), Routes: predictRoutes, Metrics: m.metrics, Unready: m.unready, Log: m.logState, Drift: m.driftSummary,
		Accuracy: m.currentAccuracy, Logger: m.log,
	})
	return nil
}

// modelOf returns the digest of the model in use that a drift reference belongs to or, if none does, of the default model. It returns the
// reason if there is no model.
func (m *Main) modelOf(reference string) (string, error) {
	if m.models.ByDigest(reference) != nil {
		return reference, nil
	}
	return m.defaultModel()
}

// defaultModel returns the digest of the default model in use, or the reason why no model is in use.
func (m *Main) defaultModel() (string, error) {
	use, err := m.models.Default().InUse()
	if err != nil {
		return "", err
	}
	return use.File.Digest, nil
}

// storeLabels stores the labels of a model that is put in use, so that feedback on its predictions can be checked.
func (m *Main) storeLabels(use *models.Model) {
	if !m.opened.Load() || !m.logs() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.config.RequestTimeout)
	defer cancel()
	if err := m.predictions.SetLabels(ctx, use.File.Digest, use.Labels); err != nil {
		m.log.Warn("labels of the model not stored; they will be with the next record", "model", use.File.Digest, "error", err)
	}
}

func (m *Main) logState() activity.LogState {
	s := activity.LogState{Store: m.config.LogStore, Waiting: waiting(m.predictions)}
	if m.logs() {
		s.Err = m.predictions.Err()
	}
	return s
}

func (m *Main) driftSummary() activity.DriftSummary {
	if m.drift == nil {
		return activity.DriftSummary{}
	}
	found, err := m.drift.Last()
	if err != nil {
		return activity.DriftSummary{Watched: true}
	}
	return activity.DriftSummary{Watched: true, Detected: &found.Drift, Time: &found.Time, Records: found.Records}
}

// currentAccuracy returns the share of correct predictions of the default model among those with
// feedback. known is false if there is no feedback or it can't be read.
func (m *Main) currentAccuracy() (share float64, known bool) {
	return m.accuracyOf(m.models.Default().Current())
}

func (m *Main) accuracyOf(use *models.Model) (share float64, known bool) {
	if m.reader == nil || use == nil {
		return 0, false
	}
	return m.accuracy.Of(m.reader, use.File.Digest)
}

// accuracies returns the same for all models, by name.
func (m *Main) accuracies() map[string]float64 {
	all := map[string]float64{}
	for _, d := range m.models.All() {
		if share, known := m.accuracyOf(d.Current()); known {
			all[d.Name()] = share
		}
	}
	return all
}

func waiting(l *predlog.Log) int {
	if l == nil {
		return 0
	}
	return l.Waiting()
}

// outboxRecords returns the number of records in the outbox, or 0 if it can't be read. The prediction
// log logs the reason.
func (m *Main) outboxRecords() int {
	if m.outbox == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n, _ := m.outbox.Spilled(ctx)
	return int(n)
}

// openModels starts the inference engine with the models of --model, or without those that the
// server is configured to wait for.
func (m *Main) openModels(ctx context.Context) (err error) {
	c := &m.config
	if err := ort.Init(); err != nil { // fails independently of the model
		return err
	}
	refs, err := models.ParseRefs(c.Model, c.ModelSHA256)
	if err != nil {
		return err
	}
	m.engine, err = infer.New(infer.Options{
		Workers: c.workers(), MaxBatch: c.MaxBatch, Queue: c.Queue, QueueMemory: int64(c.MaxMemory), ModelMemory: int64(c.ModelMemory),
		ObserveBatch: func(one *infer.Model, images int, took time.Duration) {
			one.Data.(*models.Model).Metrics.Batch(images, took)
			if m.afterBatch != nil { // tests block the workers here
				m.afterBatch(images, took)
			}
		},
		ObserveExplanation: m.metrics.Explained, CancelExplanations: m.rejectWaiting,
	})
	if err != nil {
		return err
	}
	options := models.Options{
		Engine: m.engine, Metrics: m.metrics, Log: m.log, Every: time.Duration(c.ModelWatch), MaxImages: c.MaxImages, Loaded: m.storeLabels,
		Source: m.ownSource, Other: m.otherSource,
	}
	if len(c.ModelSource) > 0 {
		allowlist, err := source.ParseAllowlist(c.ModelSource)
		if err != nil {
			return err
		}
		options.Allowlist = &allowlist
	}
	if m.models, err = models.Open(ctx, refs, options); err != nil {
		return err
	}
	return m.models.Start(ctx)
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

// listenTimeout is the maximum time to resolve the host of an address.
const listenTimeout = 5 * time.Second

// listen opens an address. newApp returns the application that serves it.
func (m *Main) listen(ctx context.Context, addr, flag string, newApp func() application) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return listenError(addr, flag, err)
	}
	m.endpoints = append(m.endpoints, &endpoint{
		listener: listen.New(l.(*net.TCPListener), m.config.MaxConnections, m.now, m.front.RejectConnection), // always a TCPListener for network "tcp"
		app:      newApp(),
	})
	return nil
}

// listenError returns the error for an address that couldn't be opened.
func listenError(addr, flag string, err error) error {
	var reason string
	hint := "set " + flag + " to HOST:PORT, such as 127.0.0.1:8080"
	switch dns, unresolved := errors.AsType[*net.DNSError](err); {
	case errors.Is(err, syscall.EADDRINUSE):
		reason, hint = "the address is already in use", "stop the program that uses it, or choose another address with "+flag
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		reason, hint = "the address isn't one of this machine", "use 127.0.0.1 for local clients only, or no host for all addresses, as in "+flag+"=:8080"
	case errors.Is(err, syscall.EACCES):
		reason, hint = "permission denied", "use a port from 1024 to 65535, or run the server with the right to open others"
	case unresolved:
		reason = fmt.Sprintf("unknown host %q", dns.Name)
	default:
		if e, ok := errors.AsType[*net.OpError](err); ok {
			err = e.Err // without the address again
		}
		reason = err.Error()
	}
	return fmt.Errorf("listen on %s: %s\n"+cli.HintPrefix+"%s", addr, reason, hint)
}

func (e *endpoint) serve() {
	e.served = make(chan struct{})
	go func() {
		defer close(e.served)
		e.err = e.app.Listener(e.listener)
	}()
}

// URL returns the base URL of the running server.
func (m *Main) URL() string { return "http://" + m.endpoints[0].listener.Addr().String() }

// Wait returns nil when ctx is done, or an error if the server can no longer accept connections.
func (m *Main) Wait(ctx context.Context) error {
	ended := make(chan struct{}, len(m.endpoints))
	for _, e := range m.endpoints {
		go func() {
			<-e.served
			ended <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-ended:
	}
	var errs []error
	for _, f := range m.endpoints {
		select {
		case <-f.served:
			errs = append(errs, f.err)
		default:
		}
	}
	return fmt.Errorf("serve %s: %w", m.URL(), errors.Join(append([]error{net.ErrClosed}, errs...)...))
}

// Close shuts the server down. It responds to the requests that have been received, waits up to
// Config.ShutdownTimeout for those being received and for the prediction log, and releases all
// resources. It returns an error if a request got no response or a record wasn't written. Clients
// that haven't sent their request by then don't count as an error. A second Close does nothing.
func (m *Main) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), m.config.ShutdownTimeout)
	defer cancel()
	if m.stopWatching != nil {
		m.stopWatching()
		m.watching.Wait()
	}
	flushTimeout := minFlush
	var err error
	if m.serving() {
		// Records are still in memory. They get time to be written even if the requests used up
		// the timeout.
		flushTimeout = max(m.config.ShutdownTimeout, minFlush)
		err = m.shutdown(ctx)
	} else {
		err = m.closePorts()
	}
	m.driftChecks.Wait() // takes at most half a second, so it needn't delay requests
	if m.predictions != nil {
		flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
		err = errors.Join(err, m.predictions.Close(flush))
		cancel()
	}
	if m.models != nil {
		err = errors.Join(err, m.models.Close())
	}
	// A request that is still in progress uses the engine and everything else.
	if m.engine != nil && m.requests.InProgress() == 0 {
		err = errors.Join(err, m.engine.Close())
	}
	if m.tracing != nil {
		if e := m.tracing.Close(ctx); e != nil {
			m.log.Warn("tracing", "error", e)
		}
	}
	return err
}

// minFlush is the minimum time for writing the prediction log during shutdown.
const minFlush = 2 * time.Second

// serving reports whether the ports are served. They aren't if Run failed.
func (m *Main) serving() bool { return len(m.endpoints) > 0 && m.endpoints[0].served != nil }

// closePorts closes ports that were opened but never served.
func (m *Main) closePorts() error {
	var errs []error
	for _, e := range m.endpoints {
		errs = append(errs, e.listener.TCPListener.Close())
	}
	m.endpoints = nil
	return errors.Join(errs...)
}

// shutdown closes the ports and responds to the requests that have been received.
func (m *Main) shutdown(ctx context.Context) error {
	m.log.Info("shutting down")
	m.draining.Store(true)
	time.Sleep(drainTime)
	var errs []error
	var stopped sync.WaitGroup
	for _, f := range m.endpoints {
		errs = append(errs, f.listener.Close())
	}
	for _, f := range m.endpoints {
		<-f.served
	}
	m.portClosed.Store(true)
	m.endStreams()
	defer time.AfterFunc(m.config.ShutdownTimeout/2, func() { close(m.rejectWaiting) }).Stop()
	time.Sleep(drainTime)
	results := make([]error, len(m.endpoints))
	for i, f := range m.endpoints {
		stopped.Go(func() { results[i] = f.stop(ctx) })
	}
	stopped.Wait()
	endpoints := m.endpoints
	m.endpoints = nil
	err := errors.Join(append(errs, results...)...)
	if errors.Is(err, context.DeadlineExceeded) {
		if n := m.requests.InProgress(); n > 0 {
			return fmt.Errorf("shut down: %d requests without a response after %s", n, m.config.ShutdownTimeout)
		}
		for _, f := range endpoints {
			f.listener.CloseAll()
		}
		m.log.Warn("closed connections that had not sent a whole request or not read their response", "after", m.config.ShutdownTimeout.String())
		return nil
	}
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	m.log.Info("shut down")
	return nil
}

// stop waits for the requests of the endpoint until ctx is done.
func (e *endpoint) stop(ctx context.Context) error {
	// Connections accepted last have had drainTime to send something.
	e.listener.CloseUnused()
	return e.app.ShutdownWithContext(ctx)
}

// unready returns nil if the server is ready, or an *failure.Unavailable with the reason why it should
// receive no requests.
func (m *Main) unready() error {
	if err := m.models.Missing(); err != nil && !m.draining.Load() {
		return err
	}
	return m.working()
}

// working returns nil if the server can answer requests, whatever models are loaded, or an *failure.Unavailable.
func (m *Main) working() error {
	if m.draining.Load() {
		return failure.Busy("the server is shutting down")
	}
	if m.predictions != nil {
		if err := m.predictions.Err(); err != nil {
			return failure.Busy("the prediction log isn't writable: " + err.Error())
		}
	}
	return nil
}
