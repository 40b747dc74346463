package main

import (
	"os"
	"testing"

	"fakeart/internal/otelenv"
)

// Pulumi's SDK sends spans to the collector that the caller's environment names, and
// waits for it.
func TestMain(m *testing.M) {
	if err := otelenv.Clear(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
