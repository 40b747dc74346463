//go:build offline

// This file replaces dagger.gen.go, which only an engine can generate, so that the module compiles
// without one. `make vet` and the other targets leave out a dagger.gen.go of `dagger develop` by
// offline.json, an overlay of the go command: `go vet -tags offline -overlay offline.json ./...`.

package main

import "dagger/fakeart/internal/dagger"

var dag = dagger.Connect()

func main() {}
