// Package stagetest makes checkouts that are quick to build, for tests.
package stagetest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Platform is the one that these tests build for: the machine's own, for which it has a
// compiler.
var Platform = "linux/" + runtime.GOARCH

// Checkout writes a checkout into a new folder dir: two programs that call C, and what
// npm would have installed, with a library of the system's as ONNX Runtime's.
func Checkout(t *testing.T, dir string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("images are built on Linux")
	}
	const program = `package main

// #include <stdlib.h>
// static const char *where(void) { return __FILE__; }
import "C"

import "fmt"

var version, commit string

func main() { fmt.Println(version, commit, C.GoString(C.where())) }
`
	packages, err := json.Marshal(map[string]any{"packages": map[string]any{
		"node_modules/onnxruntime-node": map[string]string{"version": "1.27.0", "integrity": "sha512-" + strings.Repeat("A", 86) + "=="},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"go.mod":                          "module fakeart\n\ngo 1.26.0\n",
		"LICENSE":                         "may be used\n",
		"server/main.go":                  program,
		"trainer/main.go":                 program,
		"package-lock.json":               string(packages),
		"node_modules/.package-lock.json": string(packages),
	} {
		write(t, filepath.Join(dir, name), []byte(content))
	}
	npm := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	write(t, filepath.Join(dir, "node_modules/onnxruntime-node/bin/napi-v6/linux", npm, "libonnxruntime.so.1"), System(t, "libm.so.6"))
}

// System returns the content of a library of this machine's.
func System(t *testing.T, name string) []byte {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), "gcc", "-print-file-name="+name).Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(string(path[:len(path)-1]))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
