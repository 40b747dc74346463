// Package enginetest lets tests fake a Dagger engine. Importing it makes the generated client connect
// to [Listener], where the test serves responses to the client's queries. Tests can then check the
// queries that a function sends, and how it handles responses and errors, without an engine.
//
// The import is sufficient because the client reads the engine's address when its package is
// initialized. This package is initialized first, because it has fewer dependencies
// (https://go.dev/ref/spec#Package_initialization).
package enginetest

import (
	"context"
	"fmt"
	"net"
	"os"
)

// Listener accepts the connections of the generated client. It listens on a loopback port.
var Listener = listen()

func listen() net.Listener {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Errorf("listen for the fake engine: %w", err))
	}
	if err := os.Setenv("DAGGER_SESSION_PORT", fmt.Sprint(l.Addr().(*net.TCPAddr).Port)); err != nil {
		panic(err)
	}
	if err := os.Setenv("DAGGER_SESSION_TOKEN", "test"); err != nil {
		panic(err)
	}
	return l
}
