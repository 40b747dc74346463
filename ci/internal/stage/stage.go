// Package stage builds the programs for images, for one or more platforms. Builds are reproducible:
// the programs don't depend on the machine, the directory or the time of the build. [Write] builds
// into a directory, and [Read] reads the directory's description.
package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Programs lists the programs; each has its own image.
var Programs = []string{"server", "trainer"}

// Platforms lists the supported platforms. For each of them, ONNX Runtime's npm package has a
// library and Debian has a cross compiler.
var Platforms = []string{"linux/amd64", "linux/arm64"}

// target has a platform's names in Go, npm and GNU toolchains.
type target struct {
	goarch, npm, triple string
	packages            string // Debian packages with the cross compiler
}

var targets = map[string]target{
	"linux/amd64": {"amd64", "x64", "x86_64-linux-gnu", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"},
	"linux/arm64": {"arm64", "arm64", "aarch64-linux-gnu", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
}

// Library is the file name of the ONNX Runtime library, both in the npm package and in images.
const Library = "libonnxruntime.so.1"

// runtimePackage is the npm package with the ONNX Runtime library.
const runtimePackage = "onnxruntime-node"

// Options configure a build.
type Options struct {
	// Root is the checkout. Its npm packages must be installed.
	Root string
	// Source is the commit of the checkout.
	Source Source
	// Platforms lists the platforms to build for. Each must be in [Platforms].
	Platforms []string
	// GoVersion is the Go version to build with, such as 1.26.8. A go command of another version
	// downloads it.
	GoVersion string
	// Tags is a comma-separated list of build tags.
	Tags string
	// BuildCache is the directory of Go's build cache. Empty means the default.
	BuildCache string
	// Log receives a line before each program is built.
	Log io.Writer
}

// Build describes a build. It's written to build.json in the directory with the programs.
type Build struct {
	Source
	GoVersion string   `json:"goVersion"`
	Platforms []string `json:"platforms"`
	// Compilers has the C compiler's version line, by platform.
	Compilers map[string]string `json:"compilers"`
	// Runtime is the npm package with the ONNX Runtime library.
	Runtime Package `json:"runtime"`
}

// Package is an npm package in package-lock.json.
type Package struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Integrity string `json:"integrity"` // of its archive, as in https://www.w3.org/TR/sri-2/
}

// buildFile is the name of the file with a Build.
const buildFile = "build.json"

// Dir returns the name of a platform's directory, such as linux_amd64.
func Dir(platform string) string { return strings.ReplaceAll(platform, "/", "_") }

// CheckPlatforms returns an error if the list is empty, or if a platform is unsupported or a
// duplicate.
func CheckPlatforms(platforms []string) error {
	if len(platforms) == 0 {
		return fmt.Errorf("no platforms\nhint: supported platforms are %s", strings.Join(Platforms, " and "))
	}
	for i, p := range platforms {
		if _, ok := targets[p]; !ok {
			return fmt.Errorf("unsupported platform %q\nhint: supported platforms are %s", p, strings.Join(Platforms, " and "))
		}
		if slices.Contains(platforms[:i], p) {
			return fmt.Errorf("duplicate platform %s", p)
		}
	}
	return nil
}

// Compiler returns the path of the C compiler for a platform. If it isn't installed, the error's
// hint names the Debian packages to install.
func Compiler(platform string) (string, error) {
	t, ok := targets[platform]
	if !ok {
		return "", fmt.Errorf("unsupported platform %q\nhint: supported platforms are %s", platform, strings.Join(Platforms, " and "))
	}
	for _, name := range []string{t.triple + "-gcc", "gcc"} {
		if name == "gcc" && platform != runtime.GOOS+"/"+runtime.GOARCH {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("platform %s: the C compiler %s-gcc isn't installed\nhint: on Debian, sudo apt-get install %s", platform, t.triple, t.packages)
}

// Write builds the programs into out, with one directory per platform. Each contains the programs,
// the ONNX Runtime library, and the licenses of everything in them. Write deletes the previous
// content of out.
func Write(ctx context.Context, out string, o Options) (*Build, error) {
	if err := o.Source.Check(); err != nil {
		return nil, err
	}
	if err := CheckPlatforms(o.Platforms); err != nil {
		return nil, err
	}
	runtimeAt, err := findRuntime(o.Root)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	b := &Build{Source: o.Source, GoVersion: o.GoVersion, Platforms: o.Platforms, Compilers: map[string]string{}, Runtime: *runtimeAt}
	for _, platform := range o.Platforms {
		compiler, err := Compiler(platform)
		if err != nil {
			return nil, err
		}
		if b.Compilers[platform], err = output(exec.CommandContext(ctx, compiler, "-v", "--version")); err != nil {
			return nil, err
		}
		b.Compilers[platform], _, _ = strings.Cut(b.Compilers[platform], "\n")
		if err := o.platform(ctx, filepath.Join(out, Dir(platform)), platform, compiler); err != nil {
			return nil, fmt.Errorf("build for %s: %w", platform, err)
		}
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, err
	}
	return b, os.WriteFile(filepath.Join(out, buildFile), append(text, '\n'), 0o644)
}

// Read returns the description of the build that [Write] left in dir. It returns an error if the
// description is missing or invalid.
func Read(dir string) (*Build, error) {
	text, err := os.ReadFile(filepath.Join(dir, buildFile))
	if err != nil {
		return nil, fmt.Errorf("read staged programs: %w", err)
	}
	var b Build
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("read staged programs: %s: %w", filepath.Join(dir, buildFile), err)
	}
	return &b, b.Check()
}

// platform builds the programs for one platform into dir.
func (o Options) platform(ctx context.Context, dir, platform, compiler string) error {
	t := targets[platform]
	env, err := o.environment(ctx, t.goarch, compiler)
	if err != nil {
		return err
	}
	library := filepath.Join(o.Root, "node_modules", runtimePackage, "bin/napi-v6/linux", t.npm, Library)
	if err := copyFile(filepath.Join(dir, Library), library); err != nil {
		return err
	}
	for _, program := range Programs {
		fmt.Fprintf(o.Log, "building %s for %s\n", program, platform)
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", o.Tags,
			"-ldflags", o.linkerFlags(), "-o", filepath.Join(dir, program), "./"+program)
		build.Dir, build.Env = o.Root, env
		if _, err := output(build); err != nil {
			return err
		}
		list := exec.CommandContext(ctx, "go", "list", "-deps", "-tags", o.Tags,
			"-f", "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}\t{{.Dir}}{{end}}{{end}}", "./"+program)
		list.Dir, list.Env = o.Root, env
		modules, err := output(list)
		if err != nil {
			return err
		}
		goroot := exec.CommandContext(ctx, "go", "env", "GOROOT")
		goroot.Dir, goroot.Env = o.Root, env
		gorootDir, err := output(goroot)
		if err != nil {
			return err
		}
		from := map[string]string{"fakeart": o.Root, "go": gorootDir}
		for line := range strings.Lines(modules) {
			if module, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
				from[module] = dir
			}
		}
		if err := copyLicenses(filepath.Join(dir, "licenses", program), from); err != nil {
			return err
		}
	}
	return nil
}

// linkerFlags returns the flags for Go's linker. They remove Go's and the C linker's build ids, which depend
// on paths, and debug symbols, which are a third of the size. They set the version and the commit, because
// -buildvcs gives another version in a shallow clone.
func (o Options) linkerFlags() string {
	return strings.Join([]string{
		"-s", "-w", "-buildid=", "-extldflags=-Wl,--build-id=none",
		"-X=main.version=" + o.Source.Version(), "-X=main.commit=" + o.Source.Revision,
	}, " ")
}

// keptSettings lists the Go settings that a build takes from the environment: where modules come
// from and where they are cached. All other settings of Go, cgo and the C compiler could change the
// programs.
var keptSettings = []string{
	"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH",
	"GOPATH", "GOMODCACHE", "GOCACHE",
}

// environment returns the process's environment with fixed values for all settings that could
// change the programs.
func (o Options) environment(ctx context.Context, goarch, compiler string) ([]string, error) {
	text, err := output(exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, keptSettings...)...))
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	maps.Copy(set, map[string]string{
		"GOENV": "off", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "go" + o.GoVersion, "GOEXPERIMENT": "",
		"GOOS": "linux", "GOARCH": goarch, "GOAMD64": "v1", "GOARM64": "v8.0", "GOFIPS140": "off",
		"CGO_ENABLED": "1", "CC": compiler, "CGO_CFLAGS": "-O2 -g0", "CGO_LDFLAGS": "", "CGO_CPPFLAGS": "", "CGO_CXXFLAGS": "-O2 -g0",
		"GCC_EXEC_PREFIX": "", "COMPILER_PATH": "", "LIBRARY_PATH": "", "CPATH": "", "C_INCLUDE_PATH": "", "LC_ALL": "C",
	})
	if o.BuildCache != "" {
		set["GOCACHE"] = o.BuildCache
	}
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if _, ok := set[name]; ok || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") {
			continue
		}
		env = append(env, variable)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		// GCC treats an empty search path as the working directory, so leave those unset.
		if set[name] != "" || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") {
			env = append(env, name+"="+set[name])
		}
	}
	return env, nil
}

// findRuntime returns the npm package with the ONNX Runtime library from the lock file. It returns
// an error if another version is installed.
func findRuntime(root string) (*Package, error) {
	const hint = "\nhint: run `npm ci --ignore-scripts` in the checkout"
	var lock, installed struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	for file, into := range map[string]any{"package-lock.json": &lock, "node_modules/.package-lock.json": &installed} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return nil, fmt.Errorf("find ONNX Runtime's npm package: %w%s", err, hint)
		}
		if err := json.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("find ONNX Runtime's npm package: %s: %w", file, err)
		}
	}
	key := "node_modules/" + runtimePackage
	want, ok := lock.Packages[key]
	if !ok || want.Integrity == "" {
		return nil, fmt.Errorf("find ONNX Runtime's npm package: package-lock.json in %s has no %s with an integrity", root, runtimePackage)
	}
	if got := installed.Packages[key]; got != want {
		return nil, fmt.Errorf("find ONNX Runtime's npm package: %s has %s %s installed, but package-lock.json requires %s%s", root, runtimePackage, got.Version, want.Version, hint)
	}
	return &Package{Name: runtimePackage, Version: want.Version, Integrity: want.Integrity}, nil
}

// copyFile copies a file's content and creates the target's directory.
func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
