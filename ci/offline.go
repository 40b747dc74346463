//go:build offline

// This file replaces dagger.gen.go, which only an engine can generate, so that the module compiles
// without an engine. If `dagger develop` has generated that file, the make targets exclude it with
// offline.json, an overlay for the go command: `go vet -tags offline -overlay offline.json ./...`.

package main

import "dagger/fakeart/internal/dagger"

var dag = dagger.Connect()

func main() {}
