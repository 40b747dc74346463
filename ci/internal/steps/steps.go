// Package steps runs the steps of a pipeline, independent ones at once, and says of the first
// that fails which it was and how it ended.
package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	telemetry "github.com/dagger/otel-go"
	"go.opentelemetry.io/otel"
	"golang.org/x/sync/errgroup"
)

// tail is how many lines of what a failed step printed are shown.
const tail = 30

// Step is a part of a pipeline.
type Step struct {
	Name string
	Run  func(context.Context) error
}

// Printed is implemented by errors that know what the failed command printed.
type Printed interface {
	error
	// Output returns what it printed, on both streams.
	Output() string
}

// Failed is the error of a step. Its text is the last lines that the step printed, then the
// step's name and the reason.
type Failed struct {
	Step string
	Err  error
}

// Unwrap returns the reason as a list, for Dagger's generated code: an engine's error that it
// finds in a chain of single errors replaces the whole chain, and with it the step's name.
func (f *Failed) Unwrap() []error { return []error{f.Err} }

func (f *Failed) Error() string {
	reason := fmt.Sprintf("step %s failed: %v", f.Step, f.Err)
	var printed Printed
	if !errors.As(f.Err, &printed) || printed.Output() == "" {
		return reason
	}
	lines := strings.Split(strings.TrimRight(printed.Output(), "\n"), "\n")
	return strings.Join(append(lines[max(0, len(lines)-tail):], reason), "\n")
}

// Together runs steps at once, and returns when all have ended. The first that fails has
// the others cancelled; its error, a *Failed, is the one that is returned.
func Together(ctx context.Context, steps ...Step) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range steps {
		g.Go(func() error { return one(ctx, s) })
	}
	return g.Wait()
}

// InTurn runs steps one after the other until one fails.
func InTurn(ctx context.Context, steps ...Step) error {
	for _, s := range steps {
		if err := one(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// one runs a step in a span of its name, under which the CLI shows what the step did.
func one(ctx context.Context, s Step) error {
	ctx, span := otel.Tracer("fakeart").Start(ctx, s.Name)
	err := Named(s.Name, s.Run(ctx))
	ended := err // which EndWithCause replaces by one with the span's number in its text
	telemetry.EndWithCause(span, &ended)
	return err
}

// Named returns err as the error of a step. If err is or wraps the error of an inner step, that
// step is the one that is named.
func Named(step string, err error) error {
	if _, ok := err.(*Failed); err == nil || ok { //nolint:errorlint // a wrapped one has more to say
		return err
	}
	if inner := new(Failed); errors.As(err, &inner) {
		return &Failed{Step: inner.Step, Err: &wrapped{err, inner}}
	}
	return &Failed{Step: step, Err: err}
}

// wrapped is an error around that of an inner step. Its text has the inner step's reason in place
// of the inner step's whole text.
type wrapped struct {
	error
	inner *Failed
}

func (w *wrapped) Unwrap() error { return w.error }

func (w *wrapped) Error() string {
	return strings.Replace(w.error.Error(), w.inner.Error(), w.inner.Err.Error(), 1)
}
