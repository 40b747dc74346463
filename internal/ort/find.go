package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// LibraryPathVariable is the environment variable with the path of the ONNX Runtime library. If
// it's set, no other location is searched.
const LibraryPathVariable = "ONNXRUNTIME_SHARED_LIBRARY_PATH"

// installCommand installs the version of the library that package-lock.json pins.
const installCommand = "npm ci --ignore-scripts"

// ErrNotFound is returned by Find and Init if none of the searched locations has an ONNX Runtime
// library. Test for it with [errors.Is].
var ErrNotFound = errors.New("ONNX Runtime library not found")

// Find returns the absolute path of the ONNX Runtime library. It uses the first of these:
//
//  1. the file in ONNXRUNTIME_SHARED_LIBRARY_PATH
//  2. the library in the executable's directory
//  3. the npm package onnxruntime-node in node_modules of the executable's directory, the
//     working directory, or a parent directory of either
//
// If the variable is set but the file doesn't exist, Find returns an error rather than using
// another library. If no library is found, the error lists all searched files and the command
// that installs the library.
func Find() (string, error) {
	p := places{goos: runtime.GOOS, goarch: runtime.GOARCH, variable: os.Getenv(LibraryPathVariable)}
	// Both directories are optional. An error only means that there are fewer locations.
	if exe, err := os.Executable(); err == nil {
		// The executable may be a symbolic link. The library is in the directory of its target.
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		p.executable = exe
	}
	p.workDir, _ = os.Getwd()
	return p.find()
}

// places holds everything that determines where to search the library.
type places struct {
	goos, goarch string
	variable     string // value of LibraryPathVariable
	executable   string // empty if unknown
	workDir      string // empty if unknown
}

func (p places) find() (string, error) {
	if p.variable != "" {
		path, err := filepath.Abs(p.variable)
		if err != nil {
			return "", fmt.Errorf("find ONNX Runtime library: %s=%q: %w", LibraryPathVariable, p.variable, err)
		}
		if err := checkFile(path); err != nil {
			return "", fmt.Errorf("find ONNX Runtime library: %s=%q: %w; set it to the path of %s, or unset it to use the library installed by `%s`",
				LibraryPathVariable, p.variable, err, libraryNames(p.goos)[0], installCommand)
		}
		return path, nil
	}
	candidates := p.candidates()
	for _, path := range candidates {
		if checkFile(path) == nil {
			return path, nil
		}
	}
	advice := fmt.Sprintf("run `%s` in %s", installCommand, p.checkout())
	if npmFolder(p.goos, p.goarch) == "" {
		advice = fmt.Sprintf("the npm package has no library for %s/%s", p.goos, p.goarch)
	}
	return "", fmt.Errorf("%w: searched %s (%s is not set); %s, or set the variable to the path of %s, version 1.%d or newer",
		ErrNotFound, strings.Join(candidates, ", "), LibraryPathVariable, advice, libraryNames(p.goos)[0], minAPIVersion)
}

// candidates returns the paths to search, in order of preference.
func (p places) candidates() []string {
	var files []string
	add := func(path string) {
		if !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	if p.executable != "" {
		for _, name := range libraryNames(p.goos) {
			add(filepath.Join(filepath.Dir(p.executable), name))
		}
	}
	if folder := npmFolder(p.goos, p.goarch); folder != "" {
		for _, dir := range p.folders() {
			add(filepath.Join(dir, "node_modules", "onnxruntime-node", filepath.FromSlash(folder), libraryNames(p.goos)[0]))
		}
	}
	return files
}

// folders returns the executable's directory and the working directory, each followed by its
// parent directories.
func (p places) folders() []string {
	var starts, dirs []string
	if p.executable != "" {
		starts = append(starts, filepath.Dir(p.executable))
	}
	if p.workDir != "" {
		starts = append(starts, p.workDir)
	}
	for _, dir := range starts {
		for {
			dirs = append(dirs, dir)
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return dirs
}

// checkout returns the directory in which to run the install command.
func (p places) checkout() string {
	for _, dir := range p.folders() {
		if checkFile(filepath.Join(dir, "package-lock.json")) == nil {
			return dir
		}
	}
	return "the checkout of fakeart"
}

// libraryNames returns the possible file names of the library. The npm package uses the first.
func libraryNames(goos string) []string {
	switch goos {
	case "windows":
		return []string{"onnxruntime.dll"}
	case "darwin":
		return []string{"libonnxruntime.1.dylib", "libonnxruntime.dylib"}
	default:
		return []string{"libonnxruntime.so.1", "libonnxruntime.so"}
	}
}

// npmFolder returns the library's directory in the package onnxruntime-node, which uses Node's
// names of platforms. It returns "" if the package has no library for the platform.
func npmFolder(goos, goarch string) string {
	switch goos + "/" + goarch {
	case "linux/amd64":
		return "bin/napi-v6/linux/x64"
	case "linux/arm64":
		return "bin/napi-v6/linux/arm64"
	case "darwin/arm64":
		return "bin/napi-v6/darwin/arm64"
	case "windows/amd64":
		return "bin/napi-v6/win32/x64"
	case "windows/arm64":
		return "bin/napi-v6/win32/arm64"
	}
	return ""
}

// checkFile returns an error unless path is a regular file.
func checkFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("file not found")
	case err != nil:
		// The caller adds the path, so remove it from the error.
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			return pathErr.Err
		}
		return err
	case info.IsDir():
		return errors.New("is a directory, not a library")
	case !info.Mode().IsRegular():
		return errors.New("isn't a regular file")
	}
	return nil
}
