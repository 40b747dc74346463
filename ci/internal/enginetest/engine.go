// Package enginetest stands in for an engine in tests of the module's functions: it answers
// the generated client's queries with what a test says, and runs nothing. What a function asks of an
// engine, in which order, and what it makes of answers and failures, is then seen without one.
//
// To be imported is all that it takes: the client reads where its engine is when its
// package is initialised, which is after this one's, for this one needs less
// (https://go.dev/ref/spec#Package_initialization).
package enginetest

import (
	"context"
	"fmt"
	"net"
	"os"
)

// Listener is where the client takes its engine to be.
var Listener = listen()

func listen() net.Listener {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Errorf("a port for the engine's stand-in: %w", err))
	}
	if err := os.Setenv("DAGGER_SESSION_PORT", fmt.Sprint(l.Addr().(*net.TCPAddr).Port)); err != nil {
		panic(err)
	}
	if err := os.Setenv("DAGGER_SESSION_TOKEN", "test"); err != nil {
		panic(err)
	}
	return l
}
