// Package stage builds the programs for images: for several platforms, with nothing in
// them of the machine, the folder or the time they were built in.
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

// Programs are what images are made of.
var Programs = []string{"server", "trainer"}

// Platforms are those that there can be images for: ONNX Runtime's npm package has a
// library for each, and Debian a cross compiler.
var Platforms = []string{"linux/amd64", "linux/arm64"}

// target is what a platform is called elsewhere.
type target struct {
	goarch, npm, triple string
	packages            string // Debian's, with the cross compiler
}

var targets = map[string]target{
	"linux/amd64": {"amd64", "x64", "x86_64-linux-gnu", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"},
	"linux/arm64": {"arm64", "arm64", "aarch64-linux-gnu", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
}

// Library is the ONNX Runtime library's name, in the npm package and beside a program.
const Library = "libonnxruntime.so.1"

// runtimePackage is the npm package that has it.
const runtimePackage = "onnxruntime-node"

// Options say what is built.
type Options struct {
	// Root is the checkout, in which npm has installed the packages.
	Root string
	// Source is the commit that the checkout is.
	Source Source
	// Platforms are some of Platforms.
	Platforms []string
	// GoVersion is the version of Go that builds, such as 1.26.8. A go command of another
	// version downloads it.
	GoVersion string
	// Tags are the build tags.
	Tags string
	// BuildCache is the folder of Go's build cache; empty for the usual one.
	BuildCache string
	// Log takes a line for each step.
	Log io.Writer
}

// Build is what was built and with what; it is written beside the programs, as
// build.json.
type Build struct {
	Source
	GoVersion string   `json:"goVersion"`
	Platforms []string `json:"platforms"`
	// Compilers is what the C compiler says it is, by platform.
	Compilers map[string]string `json:"compilers"`
	// Runtime is the npm package with the ONNX Runtime library.
	Runtime Package `json:"runtime"`
}

// Package is an npm package, as package-lock.json has it.
type Package struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Integrity string `json:"integrity"` // of its archive, as in https://www.w3.org/TR/sri-2/
}

// buildFile is where Write leaves a Build, and Read finds it.
const buildFile = "build.json"

// Dir is the folder of a platform, such as linux_amd64.
func Dir(platform string) string { return strings.ReplaceAll(platform, "/", "_") }

// CheckPlatforms returns an error unless there can be images for all of these platforms.
func CheckPlatforms(platforms []string) error {
	if len(platforms) == 0 {
		return fmt.Errorf("platforms: none is given; there can be images for %s", strings.Join(Platforms, " and "))
	}
	for i, p := range platforms {
		if _, ok := targets[p]; !ok {
			return fmt.Errorf("platform %q: there can be images for %s", p, strings.Join(Platforms, " and "))
		}
		if slices.Contains(platforms[:i], p) {
			return fmt.Errorf("platform %s is given twice", p)
		}
	}
	return nil
}

// Compiler returns the C compiler for a platform. Its error says what to install.
func Compiler(platform string) (string, error) {
	t, ok := targets[platform]
	if !ok {
		return "", fmt.Errorf("platform %q: there can be images for %s", platform, strings.Join(Platforms, " and "))
	}
	for _, name := range []string{t.triple + "-gcc", "gcc"} {
		if name == "gcc" && platform != runtime.GOOS+"/"+runtime.GOARCH {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("platform %s: the C compiler %s-gcc is missing; on Debian: sudo apt-get install %s", platform, t.triple, t.packages)
}

// Write builds into a folder: for each platform the programs, the ONNX Runtime
// library, and the licences of all that is in them. What was in the folder before goes.
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

// Read returns what Write left in a folder.
func Read(dir string) (*Build, error) {
	text, err := os.ReadFile(filepath.Join(dir, buildFile))
	if err != nil {
		return nil, fmt.Errorf("staged programs: %w", err)
	}
	var b Build
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("staged programs: %s: %w", filepath.Join(dir, buildFile), err)
	}
	return &b, b.Check()
}

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

// linkerFlags has no build id, Go's or the linker's, since they are made of paths too;
// no symbols for debuggers, a third of the size; and the source, which
// -buildvcs would otherwise say differently in a shallow clone.
func (o Options) linkerFlags() string {
	return strings.Join([]string{
		"-s", "-w", "-buildid=", "-extldflags=-Wl,--build-id=none",
		"-X=main.version=" + o.Source.Version(), "-X=main.commit=" + o.Source.Revision,
	}, " ")
}

// kept are the settings that say where modules come from and where to keep them. All
// others of Go's, of cgo's and of the C compiler's could change what is built.
var kept = []string{
	"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH",
	"GOPATH", "GOMODCACHE", "GOCACHE",
}

// environment is this program's, but for whatever changes what is built.
func (o Options) environment(ctx context.Context, goarch, compiler string) ([]string, error) {
	text, err := output(exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, kept...)...))
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
		if _, ours := set[name]; ours || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") {
			continue
		}
		env = append(env, variable)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		// A search path that is set to nothing is, to gcc, the working directory.
		if set[name] != "" || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") {
			env = append(env, name+"="+set[name])
		}
	}
	return env, nil
}

// findRuntime reads from the lockfile which npm package the library is of, and checks
// that it is the one installed.
func findRuntime(root string) (*Package, error) {
	const advice = "run `npm ci --ignore-scripts` there"
	var lock, installed struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	for file, into := range map[string]any{"package-lock.json": &lock, "node_modules/.package-lock.json": &installed} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return nil, fmt.Errorf("ONNX Runtime's package: %w; %s", err, advice)
		}
		if err := json.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("ONNX Runtime's package: %s: %w", file, err)
		}
	}
	key := "node_modules/" + runtimePackage
	want, ok := lock.Packages[key]
	if !ok || want.Integrity == "" {
		return nil, fmt.Errorf("ONNX Runtime's package: package-lock.json in %s has no %s with its integrity", root, runtimePackage)
	}
	if got := installed.Packages[key]; got != want {
		return nil, fmt.Errorf("ONNX Runtime's package: %s has %s %s installed, the lockfile wants %s; %s", root, runtimePackage, got.Version, want.Version, advice)
	}
	return &Package{Name: runtimePackage, Version: want.Version, Integrity: want.Integrity}, nil
}

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
