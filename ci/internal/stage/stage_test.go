package stage_test

import (
	"bytes"
	"debug/buildinfo"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

var source = stage.Source{Revision: strings.Repeat("ab", 20), Created: time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC)}

// options returns options to build the test checkout in root.
func options(root string) stage.Options {
	return stage.Options{
		Root: root, Source: source, Platforms: []string{stagetest.Platform}, GoVersion: strings.TrimPrefix(runtime.Version(), "go"), Log: io.Discard,
	}
}

// files returns the content of all files in a directory by path.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWrite_reproducible(t *testing.T) {
	first := filepath.Join(t.TempDir(), "a")
	stagetest.Checkout(t, first)
	out := filepath.Join(t.TempDir(), "out")
	if _, err := stage.Write(t.Context(), out, options(first)); err != nil {
		t.Fatal(err)
	}
	want := files(t, out)

	second := filepath.Join(t.TempDir(), "another", "and a longer", "one")
	stagetest.Checkout(t, second)
	// Settings that a developer could have must not change the programs.
	for name, value := range map[string]string{
		"GOFLAGS": "-tags=debug -ldflags=-X=main.version=mine", "GOAMD64": "v3", "CGO_CFLAGS": "-O0 -g", "CGO_LDFLAGS": "-Wl,--build-id=sha1",
		"GOEXPERIMENT": "nogreenteagc", "CC": "false", "GOOS": "windows", "SOURCE_DATE_EPOCH": "1", "LANG": "de_DE.UTF-8",
	} {
		t.Setenv(name, value)
	}
	again := filepath.Join(t.TempDir(), "elsewhere", "out")
	o := options(second)
	o.BuildCache = t.TempDir()
	if _, err := stage.Write(t.Context(), again, o); err != nil {
		t.Fatal(err)
	}
	got := files(t, again)
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s differs between the two builds", name)
		}
	}
}

func TestWrite(t *testing.T) {
	root := t.TempDir()
	stagetest.Checkout(t, root)
	out := filepath.Join(t.TempDir(), "out")
	if err := os.MkdirAll(filepath.Join(out, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Write(t.Context(), out, options(root)); err != nil {
		t.Fatal(err)
	}
	dir := stage.Dir(stagetest.Platform) + "/"
	got := files(t, out)
	for _, name := range []string{
		"build.json", dir + "server", dir + "trainer", dir + stage.Library,
		dir + "licenses/server/fakeart/LICENSE", dir + "licenses/server/go/LICENSE", dir + "licenses/trainer/onnxruntime-node/LICENSE",
	} {
		if len(got[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "old")); err == nil {
		t.Error("Write() kept the previous content of the directory")
	}
	printed, err := exec.CommandContext(t.Context(), filepath.Join(out, dir, "server")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := source.Version() + " " + source.Revision; !strings.HasPrefix(string(printed), want) {
		t.Errorf("the program printed %q, want %q", printed, want)
	}
	if strings.Contains(string(printed), root) {
		t.Errorf("the program contains the build directory: %q", printed)
	}
	if info, err := buildinfo.ReadFile(filepath.Join(out, dir, "server")); err != nil || info.Path != "fakeart/server" {
		t.Errorf("build information %v, %v", info, err)
	}
	build, err := stage.Read(out)
	if err != nil {
		t.Fatal(err)
	}
	if build.Revision != source.Revision || !build.Created.Equal(source.Created) || build.Runtime.Version != "1.27.0" || build.Compilers[stagetest.Platform] == "" {
		t.Errorf("Read() = %+v", build)
	}
}

func TestWrite_errors(t *testing.T) {
	change := func(name, content string) func(*testing.T, *stage.Options) {
		return func(t *testing.T, o *stage.Options) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(o.Root, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, *stage.Options) {
		return func(t *testing.T, o *stage.Options) {
			t.Helper()
			if err := os.RemoveAll(filepath.Join(o.Root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*testing.T, *stage.Options)
		want   string
	}{
		{"invalid_code", change("server/main.go", "not Go"), "server/main.go:1:"},
		{"unsupported_platform", func(_ *testing.T, o *stage.Options) { o.Platforms = []string{"plan9/mips"} }, "supported platforms are linux/amd64"},
		{"duplicate_platform", func(_ *testing.T, o *stage.Options) { o.Platforms = []string{stagetest.Platform, stagetest.Platform} }, "duplicate platform " + stagetest.Platform},
		{"no_platforms", func(_ *testing.T, o *stage.Options) { o.Platforms = nil }, "no platforms"},
		{"invalid_revision", func(_ *testing.T, o *stage.Options) { o.Source.Revision = "main" }, "isn't a commit hash"},
		{"no_time", func(_ *testing.T, o *stage.Options) { o.Source.Created = time.Time{} }, "the commit's time is missing"},
		{"no_npm_packages", remove("node_modules/.package-lock.json"), "hint: run `npm ci"},
		{"other_npm_package", change("package-lock.json", `{"packages":{"node_modules/onnxruntime-node":{"version":"1.28.0","integrity":"sha512-B"}}}`), "package-lock.json requires 1.28.0\nhint: run `npm ci"},
		{"npm_package_not_locked", change("package-lock.json", `{}`), "has no onnxruntime-node with an integrity"},
		{"no_license", remove("LICENSE"), "license of fakeart: no LICENSE"},
		{"no_library", remove("node_modules/onnxruntime-node"), "libonnxruntime.so.1: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			stagetest.Checkout(t, root)
			o := options(root)
			c.change(t, &o)
			if _, err := stage.Write(t.Context(), filepath.Join(t.TempDir(), "out"), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCompiler_missing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := stage.Compiler("linux/arm64"); err == nil || !strings.Contains(err.Error(), "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross") {
		t.Errorf("error %v", err)
	}
}

func TestRead_errors(t *testing.T) {
	if _, err := stage.Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "build.json") {
		t.Errorf("Read() of an empty directory: error %v", err)
	}
	for text, want := range map[string]string{"{": "build.json", `{"revision":"x"}`: "isn't a commit hash"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "build.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := stage.Read(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read() of %s: error %v, want %q", text, err, want)
		}
	}
}
