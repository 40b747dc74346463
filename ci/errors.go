package main

import (
	"errors"
	"fmt"
	"strings"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/steps"
)

// explain replaces *err with the error of a step, unless it already is the error of an inner step.
// Every exported function must defer it. Otherwise, if an error wraps one of the engine's, the
// generated SDK code prints only the engine's message.
func explain(step string, err *error) { *err = explained(step, *err) }

// explained returns err as the error of a step, or nil if err is nil. If a command failed in a
// container, the error includes the end of the command's output.
func explained(step string, err error) error {
	var (
		exec  *dagger.ExecError
		known *failure
		inner *steps.Failed
	)
	if errors.As(err, &exec) && !errors.As(err, &known) {
		if errors.As(err, &inner) {
			inner.Err = &failure{exec, inner.Err}
		} else {
			err = &failure{exec, err}
		}
	}
	return steps.Wrap(step, err)
}

// failure is the error of a command that failed in a container. It implements [steps.OutputError].
type failure struct {
	exec *dagger.ExecError
	err  error // exec, or an error that wraps it
}

// Output returns the command's stdout and stderr, without empty lines at both ends.
func (f *failure) Output() string {
	return strings.Trim(strings.TrimRight(f.exec.Stdout, "\n")+"\n"+f.exec.Stderr, "\n")
}

func (f *failure) Unwrap() error { return f.err }

// Error returns the error's text with the engine's message replaced by the command, on one line and
// at most 120 bytes long, and its exit code.
func (f *failure) Error() string {
	const longest = 120
	command := strings.Join(strings.Fields(strings.Join(f.exec.Cmd, " ")), " ")
	if len(command) > longest {
		command = strings.ToValidUTF8(command[:longest], "") + "…"
	}
	reason := fmt.Sprintf("%s: exit code %d", command, f.exec.ExitCode)
	return strings.Replace(f.err.Error(), f.exec.Error(), reason, 1)
}
