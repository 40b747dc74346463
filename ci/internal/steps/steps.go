// Package steps runs the steps of a pipeline, in sequence with [InSequence] or in parallel with
// [InParallel]. The error of a failed step names the step and includes the end of its output.
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

// tailLines is the number of output lines in the error of a failed step.
const tailLines = 30

// Step is a part of a pipeline.
type Step struct {
	Name string
	Run  func(context.Context) error
}

// OutputError is an error of a failed command that includes the command's output.
type OutputError interface {
	error
	// Output returns the command's output, of both streams.
	Output() string
}

// Failed is the error of a step. Its text has the last lines of the step's output, if Err wraps an
// [OutputError], followed by a line with the step's name and the reason.
type Failed struct {
	Step string
	Err  error
}

// Unwrap returns the reason as a list, because of Dagger's generated code. If that code finds an
// engine's error in a chain of single errors, it prints only that error, without the step's name.
func (f *Failed) Unwrap() []error { return []error{f.Err} }

func (f *Failed) Error() string {
	reason := fmt.Sprintf("step %s failed: %v", f.Step, f.Err)
	var command OutputError
	if !errors.As(f.Err, &command) || command.Output() == "" {
		return reason
	}
	lines := strings.Split(strings.TrimRight(command.Output(), "\n"), "\n")
	return strings.Join(append(lines[max(0, len(lines)-tailLines):], reason), "\n")
}

// InParallel runs steps in parallel and returns when all have returned. If a step fails, the
// others' contexts are canceled. InParallel returns the first error, which is a *Failed.
func InParallel(ctx context.Context, steps ...Step) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range steps {
		g.Go(func() error { return run(ctx, s) })
	}
	return g.Wait()
}

// InSequence runs steps one after the other, until one fails, and returns its error, which is a
// *Failed.
func InSequence(ctx context.Context, steps ...Step) error {
	for _, s := range steps {
		if err := run(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// run runs a step in a span with its name. The CLI shows the step's work below that span.
func run(ctx context.Context, s Step) error {
	ctx, span := otel.Tracer("fakeart").Start(ctx, s.Name)
	err := Wrap(s.Name, s.Run(ctx))
	spanErr := err // a copy, because EndWithCause replaces it with an error that has the span's id in its text
	telemetry.EndWithCause(span, &spanErr)
	return err
}

// Wrap returns err as the error of a step, or nil if err is nil. If err is or wraps the error of an
// inner step, the returned error names the inner step.
func Wrap(step string, err error) error {
	if _, ok := err.(*Failed); err == nil || ok { //nolint:errorlint // the text around a wrapped one must be kept
		return err
	}
	if inner := new(Failed); errors.As(err, &inner) {
		return &Failed{Step: inner.Step, Err: &wrapped{err, inner}}
	}
	return &Failed{Step: step, Err: err}
}

// wrapped is an error that wraps the error of an inner step. In its text, the inner step's reason
// replaces the inner step's whole text.
type wrapped struct {
	error
	inner *Failed
}

func (w *wrapped) Unwrap() error { return w.error }

func (w *wrapped) Error() string {
	return strings.Replace(w.error.Error(), w.inner.Error(), w.inner.Err.Error(), 1)
}
