package main

import (
	"os"
	"testing"

	"fakeart/internal/otelenv"
)

// TestMain clears the OpenTelemetry variables, because Pulumi's SDK would send spans to the
// collector configured in the caller's environment and wait for it.
func TestMain(m *testing.M) {
	if err := otelenv.Clear(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
