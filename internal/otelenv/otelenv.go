// Package otelenv removes OpenTelemetry's settings from an environment.
//
// CI systems set them for their own traces: Dagger, for one, gives each container the
// address of its collector. A server that a test or a tool starts would send its spans
// there, or fail because it can't. Tests call [Clear] in TestMain; tools that start
// programs pass them [Without] of [os.Environ].
package otelenv

import (
	"os"
	"slices"
	"strings"
)

// Without returns a copy of environ without OpenTelemetry's variables: OTEL_*, and those that
// carry a trace to a child process (TRACEPARENT, TRACESTATE and BAGGAGE).
func Without(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return defined(name)
	})
}

// Clear removes OpenTelemetry's variables, as Without does, from the environment of this process.
func Clear() error {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !defined(name) {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	return nil
}

// defined reports whether OpenTelemetry's specification defines the variable.
func defined(name string) bool {
	switch name {
	case "TRACEPARENT", "TRACESTATE", "BAGGAGE":
		return true
	}
	return strings.HasPrefix(name, "OTEL_")
}
