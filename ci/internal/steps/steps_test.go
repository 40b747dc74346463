package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// commandError is the error of a command.
type commandError struct{ output string }

func (c commandError) Error() string  { return "make test: exit code 2" }
func (c commandError) Output() string { return c.output }

// step returns a step that returns err.
func step(name string, err error) Step {
	return Step{Name: name, Run: func(context.Context) error { return err }}
}

func TestFailed_output(t *testing.T) {
	var output strings.Builder
	for i := range 100 {
		fmt.Fprintf(&output, "line %d\n", i)
	}
	err := InSequence(t.Context(), step("lint", nil), step("test", commandError{output.String()}))
	lines := strings.Split(err.Error(), "\n")
	if got, want := lines[len(lines)-1], "step test failed: make test: exit code 2"; got != want {
		t.Errorf("the last line is %q, want %q", got, want)
	}
	if lines[0] != "line 70" || lines[len(lines)-2] != "line 99" {
		t.Errorf("lines from %q to %q, want the last 30", lines[0], lines[len(lines)-2])
	}
}

func TestFailed_noOutput(t *testing.T) {
	err := InSequence(t.Context(), step("gate", errors.New("accuracy 0.5 is below the minimum")))
	if got, want := err.Error(), "step gate failed: accuracy 0.5 is below the minimum"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestInSequence_failure(t *testing.T) {
	ran := false
	cause := errors.New("no")
	err := InSequence(t.Context(), step("a", cause), Step{Name: "b", Run: func(context.Context) error {
		ran = true
		return nil
	}})
	if !errors.Is(err, cause) || ran {
		t.Errorf("error %v, next step ran: %v", err, ran)
	}
}

func TestFailed_innermostStep(t *testing.T) {
	err := InSequence(t.Context(), Step{Name: "outer", Run: func(ctx context.Context) error {
		return InParallel(ctx, step("lint", nil), Step{Name: "model", Run: func(ctx context.Context) error {
			return InSequence(ctx, step("train", errors.New("no such experiment")))
		}})
	}})
	if got, want := err.Error(), "step train failed: no such experiment"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestWrap(t *testing.T) {
	command := commandError{"one\ntwo\n"}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"no_error", nil, ""},
		{"command_without_output", commandError{}, "step outer failed: make test: exit code 2"},
		{"inner_step", Wrap("train", errors.New("no such experiment")), "step train failed: no such experiment"},
		{"text_around_inner_step", fmt.Errorf("sign image: %w; hint", Wrap("tool", errors.New("no such host"))), "step tool failed: sign image: no such host; hint"},
		{"text_around_command", fmt.Errorf("sign image: %w", Wrap("tool", command)), "one\ntwo\nstep tool failed: sign image: make test: exit code 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Wrap("outer", c.err)
			if c.err == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err.Error() != c.want {
				t.Errorf("error %q, want %q", err, c.want)
			}
			if !errors.Is(err, c.err) || Wrap("outermost", err) != err { //nolint:errorlint // the same one
				t.Errorf("%q doesn't wrap %q, or wrapping it again changes it", err, c.err)
			}
		})
	}
}

func TestInParallel_failure(t *testing.T) {
	waiting, cause := make(chan struct{}), errors.New("no")
	err := InParallel(
		t.Context(),
		Step{Name: "long", Run: func(ctx context.Context) error {
			close(waiting)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Minute):
				return errors.New("it wasn't canceled")
			}
		}},
		Step{Name: "short", Run: func(context.Context) error {
			<-waiting // until the other step runs
			return cause
		}},
	)
	var failed *Failed
	if !errors.As(err, &failed) || failed.Step != "short" || !errors.Is(err, cause) {
		t.Errorf("error %v, want that of step short", err)
	}
}

func TestSpans(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(recorder)))
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	err := InSequence(t.Context(), Step{"checks", func(ctx context.Context) error {
		return InParallel(ctx,
			Step{"lint", func(context.Context) error { return nil }},
			Step{"test", func(context.Context) error { return errors.New("broken") }},
		)
	}})
	if err == nil {
		t.Fatal("no error")
	}
	spans := map[string]trace.ReadOnlySpan{}
	for _, s := range recorder.Ended() {
		spans[s.Name()] = s
	}
	if len(spans) != 3 {
		t.Fatalf("%d spans, want one per step", len(spans))
	}
	for name, want := range map[string]codes.Code{"checks": codes.Error, "lint": codes.Ok, "test": codes.Error} {
		if got := spans[name].Status().Code; got != want {
			t.Errorf("%s: status %v, want %v", name, got, want)
		}
	}
	if got, want := spans["test"].Parent().SpanID(), spans["checks"].SpanContext().SpanID(); got != want {
		t.Errorf("the parent of test is %v, want %v", got, want)
	}
}
