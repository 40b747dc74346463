// Package models holds the models that the server serves, and swaps them while requests are served.
//
// Parse the values of --model with [ParseRefs], open their sources with [Open], and load the models with
// [Set.Start]. A [Set] has one [Deployment] per name; the first one is the default. [Deployment.Current] returns the
// model in use, and [Deployment.Change] replaces it.
package models

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/cli"
	"fakeart/internal/model"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/oip"
	"fakeart/server/source"
	"fakeart/server/telemetry"
)

// Previous is the reference to the model that was in use before the current one.
const Previous = "previous"

// ErrNoPrevious is returned when there is no model to roll back to.
var ErrNoPrevious = errors.New("there is no previous model")

// UnusableError is returned for a model that was read but can't be served.
type UnusableError struct{ error }

// Unwrap returns the reason.
func (e UnusableError) Unwrap() error { return e.error }

// Model is a model in use, with its origin. It's immutable except for its counts.
type Model struct {
	// Name is the name of the deployment. File.Metadata.Name is the name in the file.
	Name string
	File *model.File
	// Object is where the file was read from, and Since when the model was put in use.
	Object source.Object
	Since  time.Time
	// Labels are the names of the classes as in responses, in the order of the outputs; see model.Metadata.Labels.
	Labels []string
	// Tensors describes the model's tensors for the Open Inference Protocol.
	Tensors *oip.Model
	// Metrics counts the predictions.
	Metrics *telemetry.Model
	// Counts counts the requests.
	Counts Counts

	quoted [][]byte // Labels as JSON
	engine *infer.Model
}

// AppendLabel appends the label of a class as a JSON string.
func (m *Model) AppendLabel(b []byte, class int) []byte { return append(b, m.quoted[class]...) }

// HasLabel reports whether the model has a class with the label.
func (m *Model) HasLabel(label string) bool { return slices.Contains(m.Labels, label) }

// MaxBatch returns the maximum number of images that a session classifies at once.
func (m *Model) MaxBatch() int { return m.engine.MaxBatch() }

// Memory returns the estimated memory of the model in bytes.
func (m *Model) Memory() int64 { return m.engine.Memory() }

// Of returns the model of a call.
func Of(call *infer.Call) *Model { return call.Model().Data.(*Model) }

// Options configures a Set.
type Options struct {
	Engine  *infer.Engine
	Metrics *telemetry.Metrics
	Log     *slog.Logger
	// Allowlist lists the places that Change may load other models from; nil allows all files and buckets.
	Allowlist *source.Allowlist
	// Source configures the sources of the references, and Other those of other models that Change loads.
	Source, Other source.Options
	// Every is the interval of Watch; 0 means that the sources aren't watched.
	Every time.Duration
	// MaxImages is the maximum number of images per request.
	MaxImages int
	// Loaded, if not nil, is called with each model that is put in use. It must not block for long.
	Loaded func(m *Model)
}

// Set is the models that a server serves, by name. It is safe for concurrent use.
type Set struct {
	deployments []*Deployment
}

// Deployment is the place of one model. It prepares a new model while the current one keeps serving, and then swaps
// them. If a new model fails, the current one stays in use.
type Deployment struct {
	name    string
	options Options
	digest  string // expected at the start; empty for any
	source  *source.Source
	slot    *infer.Slot

	changing      sync.Mutex // held while the model is being changed
	current       atomic.Pointer[Model]
	previous      atomic.Pointer[Model]
	missingReason atomic.Pointer[error] // why no model is in use; ignored while one is
}

// Open opens the sources of all references. It doesn't load models.
func Open(ctx context.Context, refs []Ref, options Options) (*Set, error) {
	s := &Set{}
	for _, r := range refs {
		from, err := source.Open(ctx, r.URL, options.Source)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		options.Metrics.Serve(r.Name)
		s.deployments = append(s.deployments, &Deployment{name: r.Name, options: options, digest: r.Digest, source: from, slot: options.Engine.NewSlot()})
	}
	return s, nil
}

// Start loads the model that each source currently offers. If the sources are watched, a missing
// or unusable model isn't an error: Watch deploys the first usable one.
func (s *Set) Start(ctx context.Context) error {
	for _, d := range s.deployments {
		if err := d.start(ctx); err != nil {
			if len(s.deployments) > 1 {
				return fmt.Errorf("model %s: %w", d.name, err)
			}
			return err
		}
	}
	return nil
}

// Watch deploys each model that is published at a source, until ctx is done.
func (s *Set) Watch(ctx context.Context) {
	var watching sync.WaitGroup
	for _, d := range s.deployments {
		watching.Go(func() { d.watch(ctx) })
	}
	watching.Wait()
}

// Close closes the sources.
func (s *Set) Close() error {
	var errs []error
	for _, d := range s.deployments {
		errs = append(errs, d.source.Close())
	}
	return errors.Join(errs...)
}

// All returns all deployments in the order of their references. The caller must not change the list.
func (s *Set) All() []*Deployment { return s.deployments }

// Default returns the deployment of requests that don't name a model.
func (s *Set) Default() *Deployment { return s.deployments[0] }

// Find returns the deployment with the given name, or the default one if it's empty. An unknown name is a *fiber.Error
// with the known ones.
func (s *Set) Find(name string) (*Deployment, error) {
	if name == "" {
		return s.Default(), nil
	}
	for _, d := range s.deployments {
		if d.name == name {
			return d, nil
		}
	}
	if len(s.deployments) == 1 {
		return nil, fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown model %.80q; the model is called %q", name, s.Default().name))
	}
	const most = 10
	var names []string
	for _, d := range s.deployments[:min(most, len(s.deployments))] {
		names = append(names, strconv.Quote(d.name))
	}
	if more := len(s.deployments) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return nil, fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown model %.80q; the models are %s", name, strings.Join(names, ", ")))
}

// Missing returns the reason why a model isn't loaded, or nil if all are.
func (s *Set) Missing() error {
	for _, d := range s.deployments {
		if _, err := d.InUse(); err != nil {
			return err
		}
	}
	return nil
}

// ByDigest returns the model in use with the given digest, or nil.
func (s *Set) ByDigest(digest string) *Model {
	for _, d := range s.deployments {
		if m := d.Current(); m != nil && m.File.Digest == digest {
			return m
		}
	}
	return nil
}

// Name returns the name of the deployment.
func (d *Deployment) Name() string { return d.name }

// Current returns the model in use, or nil if none is loaded.
func (d *Deployment) Current() *Model { return d.current.Load() }

// Previous returns the model that was in use before, or nil.
func (d *Deployment) Previous() *Model { return d.previous.Load() }

// InUse is like Current, but returns a *failure.Unavailable if no model is loaded.
func (d *Deployment) InUse() (*Model, error) {
	if use := d.current.Load(); use != nil {
		return use, nil
	}
	return nil, d.missing()
}

// missing returns the *failure.Unavailable for requests while no model is loaded. Its Retry-After is the interval at which
// the source is checked.
func (d *Deployment) missing() error {
	detail := "no model is loaded yet"
	if d.name != DefaultName {
		detail = fmt.Sprintf("no model is loaded yet as %q", d.name)
	}
	if reason := d.missingReason.Load(); reason != nil {
		detail += ": " + (*reason).Error()
	}
	return &failure.Unavailable{Detail: detail, After: int(min(max(d.options.Every, time.Second), time.Minute).Seconds())}
}

// Admit is like [infer.Slot.Admit], but returns a *failure.Unavailable if no model is loaded.
func (d *Deployment) Admit(images int, deadline time.Time, peer infer.Peer) (*infer.Call, error) {
	call, err := d.slot.Admit(images, deadline, peer)
	if errors.Is(err, infer.ErrNoModel) {
		err = d.missing()
	}
	return call, err
}

// List returns the models that the source offers, newest first.
func (d *Deployment) List(ctx context.Context) ([]source.Object, error) { return d.source.List(ctx) }

// start deploys the model that the source currently offers.
func (d *Deployment) start(ctx context.Context) error {
	object, err := d.source.Current(ctx)
	if err == nil {
		err = d.deploy(ctx, d.source, object, d.digest)
	}
	switch {
	case err == nil:
		return nil
	case d.options.Every > 0:
		d.missingReason.Store(&err)
		return nil
	case errors.Is(err, source.ErrNotFound):
		return fmt.Errorf("%w\n"+cli.HintPrefix+"add --model-watch to start without a model and wait for the first one", err)
	}
	return err
}

// Change deploys the model that ref refers to: Previous, a model offered by the source, or one in another allowed
// place. An expected digest can be given. It returns the model that is then in use. shown is ref for the log, without
// secrets.
func (d *Deployment) Change(ctx context.Context, ref, digest, shown string) (*Model, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	err := d.changeTo(ctx, ref, digest)
	d.options.Metrics.Swap(d.name, err == nil)
	if err != nil {
		d.options.Log.Error("change model", "model_name", d.name, "model", shown, "error", err)
		return nil, err
	}
	d.logInUse()
	return d.current.Load(), nil
}

// logInUse logs the model that is in use after a change.
func (d *Deployment) logInUse() {
	use := d.current.Load()
	d.options.Log.Info("model in use", "model_name", d.name, "model", use.File.Digest, "name", use.File.Metadata.Name, "from", use.Object.Ref)
}

func (d *Deployment) changeTo(ctx context.Context, ref, digest string) error {
	if ref == Previous {
		p := d.previous.Load()
		if p == nil {
			return ErrNoPrevious
		}
		if digest != "" && !sameDigest(p.File.Digest, digest) {
			return fmt.Errorf("%w: the previous model is %s, not %s", source.ErrDigest, p.File.Digest, digest)
		}
		return d.use(p.File, p.Object)
	}
	object, err := d.source.Find(ctx, ref)
	if err == nil {
		return d.deploy(ctx, d.source, object, digest)
	}
	if errors.Is(err, source.ErrReference) {
		return err
	}
	if d.options.Allowlist != nil {
		if ref, err = d.options.Allowlist.Resolve(ref); err != nil {
			return err
		}
	} else if !strings.Contains(ref, "://") {
		// A request can't name a file by its path, only by a file:// URL.
		return fmt.Errorf("%w; for a file elsewhere, use its file:// URL", err)
	} else if strings.Contains(ref, "?") {
		// Parameters such as ?endpoint= would let a request make this program connect to any host
		// of its network.
		return fmt.Errorf("%w: a request can't set parameters of a bucket; allow the URL with its parameters by --model-source", source.ErrNotAllowed)
	}
	other, err := source.Open(ctx, ref, d.options.Other)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }()
	if object, err = other.Current(ctx); err != nil {
		return err
	}
	return d.deploy(ctx, other, object, digest)
}

// deploy reads a model and puts it in use.
func (d *Deployment) deploy(ctx context.Context, from *source.Source, object source.Object, digest string) error {
	data, err := from.Read(ctx, object, digest)
	if err != nil {
		return err
	}
	file, err := model.Parse(data)
	if err != nil {
		return UnusableError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	return d.use(file, object)
}

// use prepares the model and swaps it in.
func (d *Deployment) use(file *model.File, object source.Object) error {
	ready, err := d.options.Engine.Load(file)
	if err != nil {
		return UnusableError{fmt.Errorf("%s: %w", object.Ref, err)}
	}
	md := &file.Metadata
	now := NewModel(d.name, file, d.options.MaxImages)
	now.Object, now.Since, now.engine = object, time.Now(), ready
	now.Metrics = d.options.Metrics.Model(d.name, file.Digest, now.Labels)
	ready.Data = now
	if d.options.Loaded != nil {
		d.options.Loaded(now)
	}
	d.slot.Use(ready) // first, because requests are served as soon as d.current is set
	before := d.current.Swap(now)
	if before != nil && before.File.Digest != file.Digest {
		d.previous.Store(before)
	}
	d.options.Metrics.SetModel(d.name, file.Digest, md.Name, md.DataDigest, md.Preprocessing.ID())
	return nil
}

// NewModel returns a Model that isn't in use, for requests with up to maxImages images.
func NewModel(name string, file *model.File, maxImages int) *Model {
	m := &Model{Name: name, File: file, Labels: file.Metadata.Labels(), Tensors: oip.ModelOf(file, maxImages)}
	for _, label := range m.Labels {
		m.quoted = append(m.quoted, quote(label))
	}
	return m
}

// watch deploys each model that is published at the source, until ctx is done. If no
// model is in use, it also deploys the one that is already there.
func (d *Deployment) watch(ctx context.Context) {
	var known source.Object
	if use := d.current.Load(); use != nil {
		known = use.Object
	}
	logged := "" // last logged reason; a missing model is logged only once
	if reason := d.missingReason.Load(); reason != nil {
		logged = (*reason).Error()
	}
	d.source.Watch(ctx, d.options.Every, known, func(object source.Object) error {
		d.changing.Lock()
		defer d.changing.Unlock()
		err := d.deploy(ctx, d.source, object, "")
		d.options.Metrics.Swap(d.name, err == nil)
		if err != nil {
			d.missingReason.Store(&err)
			d.options.Log.Error("deploy published model", "model_name", d.name, "model", object.Ref, "error", err)
			return err
		}
		logged = ""
		d.logInUse()
		return nil
	}, func(err error) {
		d.missingReason.Store(&err)
		if text := err.Error(); text != logged || !errors.Is(err, source.ErrNotFound) {
			logged = text
			d.options.Log.Warn("can't read model source; will retry", "model_name", d.name, "error", err)
		}
	})
}

// sameDigest reports whether two digests are equal, with or without the prefix sha256: and in
// either case.
func sameDigest(a, b string) bool {
	bare := func(digest string) string { return strings.TrimPrefix(strings.ToLower(digest), "sha256:") }
	return bare(a) == bare(b)
}
