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
)

// Drift is what the last look for drift has found.
type Drift struct {
	Time    time.Time `json:"time" doc:"When it was looked."`
	Since   time.Time `json:"since" doc:"From when on the records of the log are."`
	Records int64     `json:"records" doc:"How many there are since then, about, of all models."`
	drift.Result
}

// driftWatch looks for drift of the prediction log now and then.
type driftWatch struct {
	m    *Main
	last atomic.Pointer[driftLook]
}

// driftRows is how many records one look compares at most: as many as a reference has.
const driftRows = drift.ReferenceRows

// driftLook is what one look has found, or why it could not tell.
type driftLook struct {
	found *Drift
	err   error
}

// newDriftWatch returns a watch that hasn't looked yet. An unreadable reference is an
// error, unless the server still waits for its first model: the reference comes with that.
func newDriftWatch(m *Main) (*driftWatch, error) {
	w := &driftWatch{m: m}
	if _, err := drift.ReadReference(m.config.DriftReference); err != nil && m.models.current.Load() != nil {
		return nil, fmt.Errorf("--drift-reference: %w", err)
	}
	w.last.Store(&driftLook{err: errors.New("it has not been looked for drift yet; ask again in a moment")})
	return w, nil
}

// A look for drift takes a tenth of a core: after it has worked for driftWork or longer
// it sleeps nine times as long.
const (
	driftWork  = time.Millisecond
	driftSleep = 9
)

// resting returns a function that sleeps when it has been a while since it last did. Once
// ctx has ended it does not any more, so that what is left is done at once. The operating
// system's priorities would not do: a thread that does not get its turn would hold up Go's
// runtime, and with it the requests.
func resting(ctx context.Context) func() {
	awake := time.Now()
	return func() {
		if worked := time.Since(awake); worked >= driftWork && ctx.Err() == nil {
			time.Sleep(driftSleep * worked)
			awake = time.Now()
		}
	}
}

// watch looks at once, and then every so often, until ctx ends.
func (w *driftWatch) watch(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look compares the window that ends now.
func (w *driftWatch) look(ctx context.Context) {
	now := time.Now().UTC()
	found := &Drift{Time: now, Since: now.Add(-w.m.config.DriftWindow)}
	err := w.compare(ctx, found)
	if ctx.Err() != nil {
		return
	}
	before := w.last.Load()
	w.m.log.Debug("looked for drift", "took", time.Since(now).String(), "records", found.Records)
	if err != nil {
		w.m.metrics.DriftUnknown(found.Records)
		w.last.Store(&driftLook{err: err}) // after the metrics, as below
		if before.err == nil || before.err.Error() != err.Error() {
			w.m.log.Info("drift unknown", "reason", err)
		}
		return
	}
	w.m.metrics.Drift(&found.Result, found.Records, now)
	w.last.Store(&driftLook{found: found}) // last: whoever reads it finds the metrics that go with it
	switch had := before.found != nil && before.found.Drift; {
	case found.Drift && !had:
		w.m.log.Warn("drift", "columns", strings.Join(found.Drifted(), ", "), "records", found.Records)
	case had && !found.Drift:
		w.m.log.Info("no drift any more", "records", found.Records)
	}
}

// compare completes found.
func (w *driftWatch) compare(ctx context.Context, found *Drift) error {
	use, err := w.m.models.inUse()
	if err != nil {
		return err
	}
	reference, err := drift.ReadReference(w.m.config.DriftReference)
	if err != nil {
		return err
	}
	if use.file.Digest != reference.Model {
		return fmt.Errorf("the reference %s is of the model %s, but %s is in use; replace it by the one of that model's run", w.m.config.DriftReference, reference.Model, use.file.Digest)
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
	result, err := drift.CompareYielding(reference.Rows, current, resting(ctx))
	if err == nil {
		found.Result = *result
	}
	return err
}

// registerDrift gives the route by which the last look is read.
func (m *Main) registerDrift(api huma.API) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/drift", OperationID: "drift", Tags: []string{tagLog}, Summary: "Whether the log has drifted from the model's reference",
		Description: "What the last look has found; 409 when it could not tell, with the reason, and 404 when it is not looked for drift.",
		Security:    adminSecurity, Middlewares: huma.Middlewares{m.guarded}, Errors: []int{401, 403, 404, 409},
	}, func(context.Context, *struct{}) (*struct{ Body Drift }, error) {
		if m.drift == nil {
			return nil, newProblem(fiber.StatusNotFound, "this server does not look for drift (--drift-reference)")
		}
		last := m.drift.last.Load()
		if last.err != nil {
			return nil, newProblem(fiber.StatusConflict, "drift unknown: "+last.err.Error())
		}
		return &struct{ Body Drift }{*last.found}, nil
	})
}
