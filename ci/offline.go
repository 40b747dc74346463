//go:build offline

// Without an engine, this file stands in for what it generates, so that the module
// compiles, vets and lints: `go vet -tags offline ./...`.

package main

import "dagger/fakeart/internal/dagger"

var dag = dagger.Connect()

func main() {}
