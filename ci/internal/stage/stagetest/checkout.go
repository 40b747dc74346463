// Package stagetest creates small checkouts, which build quickly, and base images for tests. Start
// with [Checkout].
package stagetest

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"dagger/fakeart/internal/oci"
)

// Platform is the platform that tests build for: the machine's own, because it has a compiler for it.
var Platform = "linux/" + runtime.GOARCH

// Checkout writes a checkout to dir, with two programs that use cgo and with an npm package for
// ONNX Runtime, which contains a library of the system instead. It skips the test on systems other
// than Linux.
func Checkout(t *testing.T, dir string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("images are built on Linux")
	}
	const program = `package main

// #include <stdlib.h>
// static const char *where(void) { return __FILE__; }
import "C"

import "os"

var version, commit string

func main() { os.Stdout.WriteString(version + " " + commit + " " + C.GoString(C.where()) + "\n") }
`
	packages, err := json.Marshal(map[string]any{"packages": map[string]any{
		"node_modules/onnxruntime-node": map[string]string{"version": "1.27.0", "integrity": "sha512-" + strings.Repeat("A", 86) + "=="},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"go.mod":                          "module fakeart\n\ngo 1.26.0\n",
		"LICENSE":                         "a license\n",
		"server/main.go":                  program,
		"trainer/main.go":                 program,
		"package-lock.json":               string(packages),
		"node_modules/.package-lock.json": string(packages),
	} {
		write(t, filepath.Join(dir, name), []byte(content))
	}
	npm := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	write(t, filepath.Join(dir, "node_modules/onnxruntime-node/bin/napi-v6/linux", npm, "libonnxruntime.so.1"), SystemLibrary(t, "libm.so.6"))
}

// Commit creates a git repository in dir, with one commit of all files except node_modules and build.
func Commit(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, ".gitignore"), []byte("/node_modules\n/build\n"))
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "."},
		{"-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "one"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE=2026-11-27T04:15:35+01:00", "GIT_COMMITTER_DATE=2026-11-27T04:15:35+01:00", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, text)
		}
	}
}

// Base returns a base image with the C library, the loader and more files by path. A file in more
// without content isn't added, which removes a library of the same path.
func Base(t *testing.T, more map[string][]byte) v1.Image {
	t.Helper()
	files := map[string][]byte{"/lib/libc.so.6": SystemLibrary(t, "libc.so.6"), "/lib/" + Loader: SystemLibrary(t, Loader)}
	maps.Copy(files, more)
	var entries []oci.Entry
	for path, content := range files {
		if len(content) == 0 {
			continue
		}
		from := filepath.Join(t.TempDir(), "file")
		write(t, from, content)
		entries = append(entries, oci.Entry{Path: path, Source: from, Mode: 0o755})
	}
	layer, err := oci.Layer(entries, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Loader is the file name of the dynamic linker.
var Loader = map[string]string{"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}[runtime.GOARCH]

// SystemLibrary returns the content of one of this machine's libraries.
func SystemLibrary(t *testing.T, name string) []byte {
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

// write writes a file and creates its directory.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
