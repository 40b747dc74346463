// Package driftwatch checks the prediction log for drift periodically. Call [New], and then
// [Monitor.Run] in a goroutine.
package driftwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"fakeart/internal/drift"
	"fakeart/server/predlog"
	"fakeart/server/telemetry"
)

// Drift is the result of the last drift check.
type Drift struct {
	Time    time.Time `json:"time" doc:"When the check ran."`
	Since   time.Time `json:"since" doc:"Start of the window of log records."`
	Records int64     `json:"records" doc:"Approximate number of records in the window, for all models."`
	drift.Result
}

// Options configure a Monitor. All fields are required.
type Options struct {
	Reference string         // path of the drift reference, read at each check
	Window    time.Duration  // age of the oldest records that a check includes
	Log       predlog.Reader // log to check
	// Model returns the digest of the model in use that a reference for a digest belongs to or, if none does, of the default model. It
	// returns the reason if there is no model.
	Model   func(reference string) (string, error)
	Metrics *telemetry.Metrics // gets the result of each check
	Logger  *slog.Logger       // gets a message when drift begins or ends
}

// Monitor checks the prediction log for drift. It is safe for concurrent use.
type Monitor struct {
	options Options
	last    atomic.Pointer[result]
}

// MaxRows is the maximum number of log records per check: as many as a reference has.
const MaxRows = drift.ReferenceRows

// result is the result of one check, or the reason why it failed.
type result struct {
	found *Drift
	err   error
}

// New returns a monitor that hasn't run a check yet. An unreadable reference is an error, unless the
// server is still waiting for its first model: the reference is published with the model.
func New(o Options) (*Monitor, error) {
	w := &Monitor{options: o}
	if _, err := drift.ReadReference(o.Reference); err != nil {
		if _, noModel := o.Model(""); noModel == nil {
			return nil, fmt.Errorf("--drift-reference: %w", err)
		}
	}
	w.last.Store(&result{err: errors.New("the first drift check has not finished; try again in a moment")})
	return w, nil
}

// Last returns the result of the last check, or the reason why it failed.
func (w *Monitor) Last() (*Drift, error) {
	last := w.last.Load()
	return last.found, last.err
}

// A drift check uses at most a tenth of a core: after working for workTime or longer, it sleeps
// sleepFactor times as long.
const (
	workTime    = time.Millisecond
	sleepFactor = 9
)

// throttle returns a function to call regularly during a check. The function sleeps if the check
// has worked for workTime since the last sleep. After ctx is done it no longer sleeps, so that
// the rest finishes immediately. Thread priorities of the operating system wouldn't work instead:
// a thread that isn't scheduled would block Go's runtime, and with it the requests.
func throttle(ctx context.Context) func() {
	awake := time.Now()
	return func() {
		if worked := time.Since(awake); worked >= workTime && ctx.Err() == nil {
			time.Sleep(sleepFactor * worked)
			awake = time.Now()
		}
	}
}

// Run checks for drift immediately and then at each interval, until ctx is done.
func (w *Monitor) Run(ctx context.Context, every time.Duration) {
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
func (w *Monitor) check(ctx context.Context) {
	now := time.Now().UTC()
	found := &Drift{Time: now, Since: now.Add(-w.options.Window)}
	err := w.compare(ctx, found)
	if ctx.Err() != nil {
		return
	}
	before := w.last.Load()
	w.options.Logger.Debug("drift check finished", "took", time.Since(now).String(), "records", found.Records)
	if err != nil {
		w.options.Metrics.DriftUnknown(found.Records)
		w.last.Store(&result{err: err}) // after the metrics, as below
		if before.err == nil || before.err.Error() != err.Error() {
			w.options.Logger.Info("drift check failed", "reason", err)
		}
		return
	}
	w.options.Metrics.Drift(&found.Result, found.Records, now)
	w.last.Store(&result{found: found}) // last, so that readers of the result find matching metrics
	switch had := before.found != nil && before.found.Drift; {
	case found.Drift && !had:
		w.options.Logger.Warn("drift detected", "columns", strings.Join(found.Drifted(), ", "), "records", found.Records)
	case had && !found.Drift:
		w.options.Logger.Info("drift no longer detected", "records", found.Records)
	}
}

// compare fills in found.
func (w *Monitor) compare(ctx context.Context, found *Drift) error {
	if _, err := w.options.Model(""); err != nil {
		return err
	}
	reference, err := drift.ReadReference(w.options.Reference)
	if err != nil {
		return err
	}
	model, err := w.options.Model(reference.Model)
	if err != nil {
		return err
	}
	if model != reference.Model {
		return fmt.Errorf("the drift reference %s belongs to model %s, but model %s is in use; replace it with the reference from that model's run", w.options.Reference, reference.Model, model)
	}
	records, of, err := w.options.Log.Sample(ctx, found.Since, MaxRows)
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
	compared, err := drift.CompareYielding(reference.Rows, current, throttle(ctx))
	if err == nil {
		found.Result = *compared
	}
	return err
}
