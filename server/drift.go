package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/internal/drift"
	"fakeart/server/failure"
)

// Drift is the result of the last drift check.
type Drift struct {
	Time    time.Time `json:"time" doc:"When the check ran."`
	Since   time.Time `json:"since" doc:"Start of the window of log records."`
	Records int64     `json:"records" doc:"Approximate number of records in the window, for all models."`
	drift.Result
}

// driftMonitor checks the prediction log for drift periodically.
type driftMonitor struct {
	m    *Main
	last atomic.Pointer[driftCheck]
}

// driftRows is the maximum number of log records per check: as many as a reference has.
const driftRows = drift.ReferenceRows

// driftCheck is the result of one check, or the reason why it failed.
type driftCheck struct {
	found *Drift
	err   error
}

// newDriftMonitor returns a monitor that hasn't run a check yet. An unreadable reference is an
// error, unless the server is still waiting for its first model: the reference is published with
// the model.
func newDriftMonitor(m *Main) (*driftMonitor, error) {
	w := &driftMonitor{m: m}
	if _, err := drift.ReadReference(m.config.DriftReference); err != nil && m.models.current.Load() != nil {
		return nil, fmt.Errorf("--drift-reference: %w", err)
	}
	w.last.Store(&driftCheck{err: errors.New("the first drift check has not finished; try again in a moment")})
	return w, nil
}

// A drift check uses at most a tenth of a core: after working for driftWork or longer, it sleeps
// driftSleep times as long.
const (
	driftWork  = time.Millisecond
	driftSleep = 9
)

// throttle returns a function to call regularly during a check. The function sleeps if the check
// has worked for driftWork since the last sleep. After ctx is done it no longer sleeps, so that
// the rest finishes immediately. Thread priorities of the operating system wouldn't work instead:
// a thread that isn't scheduled would block Go's runtime, and with it the requests.
func throttle(ctx context.Context) func() {
	awake := time.Now()
	return func() {
		if worked := time.Since(awake); worked >= driftWork && ctx.Err() == nil {
			time.Sleep(driftSleep * worked)
			awake = time.Now()
		}
	}
}

// run checks for drift immediately and then at each interval, until ctx is done.
func (w *driftMonitor) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		w.check(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// check runs one drift check over the window that ends now.
func (w *driftMonitor) check(ctx context.Context) {
	now := time.Now().UTC()
	found := &Drift{Time: now, Since: now.Add(-w.m.config.DriftWindow)}
	err := w.compare(ctx, found)
	if ctx.Err() != nil {
		return
	}
	before := w.last.Load()
	w.m.log.Debug("drift check finished", "took", time.Since(now).String(), "records", found.Records)
	if err != nil {
		w.m.metrics.DriftUnknown(found.Records)
		w.last.Store(&driftCheck{err: err}) // after the metrics, as below
		if before.err == nil || before.err.Error() != err.Error() {
			w.m.log.Info("drift check failed", "reason", err)
		}
		return
	}
	w.m.metrics.Drift(&found.Result, found.Records, now)
	w.last.Store(&driftCheck{found: found}) // last, so that readers of the result find matching metrics
	switch had := before.found != nil && before.found.Drift; {
	case found.Drift && !had:
		w.m.log.Warn("drift detected", "columns", strings.Join(found.Drifted(), ", "), "records", found.Records)
	case had && !found.Drift:
		w.m.log.Info("drift no longer detected", "records", found.Records)
	}
}

// compare fills in found.
func (w *driftMonitor) compare(ctx context.Context, found *Drift) error {
	use, err := w.m.models.inUse()
	if err != nil {
		return err
	}
	reference, err := drift.ReadReference(w.m.config.DriftReference)
	if err != nil {
		return err
	}
	if use.file.Digest != reference.Model {
		return fmt.Errorf("the drift reference %s belongs to model %s, but model %s is in use; replace it with the reference from that model's run", w.m.config.DriftReference, reference.Model, use.file.Digest)
	}
	records, of, err := w.m.reader.Sample(ctx, found.Since, driftRows)
	if err != nil {
		return err
	}
	found.Records = of
	var current []drift.Row
	for i := range records {
		r := &records[i]
		if r.Model != reference.Model {
			continue
		}
		row := drift.Row{
			Time: r.Time, Model: r.Model, Label: r.Label, Probability: r.Probability, Format: r.ImageFormat, Width: r.Width, Height: r.Height,
			Mean: r.Mean, StdDev: r.StdDev, Brightness: r.Brightness, Contrast: r.Contrast, Sharpness: r.Sharpness, Saturation: r.Saturation,
			Embedding: r.Embedding,
		}
		if row.Finite() {
			current = append(current, row)
		}
	}
	result, err := drift.CompareYielding(reference.Rows, current, throttle(ctx))
	if err == nil {
		found.Result = *result
	}
	return err
}

// registerDrift adds the route that returns the result of the last drift check.
func (m *Main) registerDrift(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/drift", OperationID: "drift", Tags: []string{tagLog}, Summary: "Drift of the prediction log from the model's reference",
		Description: "Returns the result of the last drift check. The status is 409 if the check failed, with the reason, and 404 if drift checks are disabled.",
		Security:    m.adminSecurity(), Middlewares: huma.Middlewares{m.humaAdminOnly}, Errors: []int{401, 403, 404, 409},
	}, func(context.Context, *struct{}) (*struct{ Body Drift }, error) {
		if m.drift == nil {
			return nil, failure.NewProblem(fiber.StatusNotFound, "drift checks are disabled on this server; enable them with --drift-reference")
		}
		last := m.drift.last.Load()
		if last.err != nil {
			return nil, failure.NewProblem(fiber.StatusConflict, "drift check failed: "+last.err.Error())
		}
		return &struct{ Body Drift }{*last.found}, nil
	})
}
