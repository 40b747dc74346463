package ort

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// touch creates an empty file below root and returns its path.
func touch(t *testing.T, root string, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{root}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	var (
		bin      = filepath.Join(root, "checkout", "bin")
		deep     = filepath.Join(root, "elsewhere", "a", "b")
		named    = touch(t, root, "mine", "custom.so")
		exe      = touch(t, bin, "server")
		otherExe = touch(t, root, "opt", "server")
		packaged = touch(t, root, "checkout", "node_modules", "onnxruntime-node", "bin", "napi-v6", "linux", "x64", "libonnxruntime.so.1")
		above    = touch(t, root, "elsewhere", "node_modules", "onnxruntime-node", "bin", "napi-v6", "linux", "x64", "libonnxruntime.so.1")
		shipped  = touch(t, root, "ship", "libonnxruntime.so.1")
		plain    = touch(t, root, "plain", "libonnxruntime.so")
	)
	linux := func(variable, executable, workDir string) places {
		return places{goos: "linux", goarch: "amd64", variable: variable, executable: executable, workDir: workDir}
	}
	for _, test := range []struct {
		name   string
		places places
		want   string
	}{
		{"environment variable", linux(named, filepath.Join(root, "ship", "server"), deep), named},
		{"directory of the executable", linux("", filepath.Join(root, "ship", "server"), deep), shipped},
		{"unversioned file name", linux("", filepath.Join(root, "plain", "server"), deep), plain},
		{"package above the executable", linux("", exe, root), packaged},
		{"executable before working directory", linux("", exe, deep), packaged},
		{"package above the working directory", linux("", otherExe, deep), above},
		{"unknown executable", linux("", "", deep), above},
		{"unknown working directory", linux("", exe, ""), packaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.places.find()
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("found %s, want %s", got, test.want)
			}
		})
	}
}

func TestFind_relativeVariable(t *testing.T) {
	// dlopen searches a file name without a path in the system's directories, not in the working directory.
	dir := t.TempDir()
	t.Chdir(dir)
	touch(t, dir, "mine.so")
	got, err := places{goos: "linux", goarch: "amd64", variable: "mine.so"}.find()
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(got) || filepath.Base(got) != "mine.so" {
		t.Errorf("found %s, want the absolute path of mine.so", got)
	}
}

func TestFind_platforms(t *testing.T) {
	for _, test := range []struct{ goos, goarch, want string }{
		{"linux", "amd64", "bin/napi-v6/linux/x64/libonnxruntime.so.1"},
		{"linux", "arm64", "bin/napi-v6/linux/arm64/libonnxruntime.so.1"},
		{"darwin", "arm64", "bin/napi-v6/darwin/arm64/libonnxruntime.1.dylib"},
		{"windows", "amd64", "bin/napi-v6/win32/x64/onnxruntime.dll"},
		{"windows", "arm64", "bin/napi-v6/win32/arm64/onnxruntime.dll"},
	} {
		t.Run(test.goos+" on "+test.goarch, func(t *testing.T) {
			root := t.TempDir()
			want := touch(t, root, "node_modules", "onnxruntime-node", filepath.FromSlash(test.want))
			got, err := places{goos: test.goos, goarch: test.goarch, workDir: root}.find()
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("found %s, want %s", got, want)
			}
			// Check that the installed package has this file.
			installed := filepath.Join("..", "..", "node_modules", "onnxruntime-node")
			if _, err := os.Stat(installed); err != nil {
				t.Skipf("npm package not installed (%s): run `%s`", err, installCommand)
			}
			if _, err := os.Stat(filepath.Join(installed, filepath.FromSlash(test.want))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFind_invalidVariable(t *testing.T) {
	root := t.TempDir()
	touch(t, root, "node_modules", "onnxruntime-node", "bin", "napi-v6", "linux", "x64", "libonnxruntime.so.1")
	missing := filepath.Join(root, "nowhere.so")
	for _, test := range []struct{ name, variable, want string }{
		{"missing file", missing, "file not found"},
		{"directory", root, "is a directory, not a library"},
		{"path through a file", filepath.Join(touch(t, root, "file"), "x.so"), "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, err := places{goos: "linux", goarch: "amd64", variable: test.variable, workDir: root}.find()
			if err == nil {
				t.Fatalf("found %s", path)
			}
			for _, want := range []string{LibraryPathVariable, test.variable, test.want, installCommand} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q", err, want)
				}
			}
		})
	}
}

func TestFind_notFound(t *testing.T) {
	root := t.TempDir()
	touch(t, root, "checkout", "package-lock.json")
	exe := filepath.Join(root, "checkout", "bin", "trainer")
	_, err := places{goos: "linux", goarch: "amd64", executable: exe, workDir: filepath.Join(root, "checkout")}.find()
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	for _, want := range []string{
		filepath.Join(root, "checkout", "bin", "libonnxruntime.so.1"),
		filepath.Join(root, "checkout", "node_modules", "onnxruntime-node", "bin", "napi-v6", "linux", "x64", "libonnxruntime.so.1"),
		"run `npm ci --ignore-scripts` in " + filepath.Join(root, "checkout"),
		LibraryPathVariable + " is not set",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has more than one line", err)
	}
	// Both the executable and the working directory are in the checkout, which must be listed once.
	packaged := filepath.Join(root, "checkout", "node_modules")
	if n := strings.Count(err.Error(), packaged); n != 1 {
		t.Errorf("error names %s %d times: %q", packaged, n, err)
	}
}

func TestFind_unsupportedPlatform(t *testing.T) {
	_, err := places{goos: "darwin", goarch: "amd64", executable: filepath.Join(t.TempDir(), "server")}.find()
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	if strings.Contains(err.Error(), installCommand) || !strings.Contains(err.Error(), "darwin/amd64") {
		t.Errorf("error %q, want one about darwin/amd64 without %q", err, installCommand)
	}
}
