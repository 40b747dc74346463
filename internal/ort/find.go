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

// LibraryPathVariable is the environment variable that names the ONNX Runtime
// library. When it is set, no other place is looked at.
const LibraryPathVariable = "ONNXRUNTIME_SHARED_LIBRARY_PATH"

// installCommand brings the library that package-lock.json pins.
const installCommand = "npm ci --ignore-scripts"

// ErrNotFound is matched (errors.Is) by the error of Find and Init when there
// is no ONNX Runtime library in any of the places looked at.
var ErrNotFound = errors.New("ONNX Runtime library not found")

// Find returns the absolute path of the ONNX Runtime library. It looks, in this
// order, at the file that ONNXRUNTIME_SHARED_LIBRARY_PATH names, beside the
// executable, and in the npm package onnxruntime-node in node_modules of the
// executable's folder, the working directory, and the folders above them.
//
// A variable that is set but names no file is an error, never a reason to take
// another library than the one asked for. The error of a failed search lists
// every file looked for and the command that brings the library.
func Find() (string, error) {
	p := places{goos: runtime.GOOS, goarch: runtime.GOARCH, variable: os.Getenv(LibraryPathVariable)}
	// Neither folder is essential: without one there are fewer places to look at.
	if exe, err := os.Executable(); err == nil {
		// bin/trainer may be a link from elsewhere; the library lies beside the real file.
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		p.executable = exe
	}
	p.workDir, _ = os.Getwd()
	return p.find()
}

// places is everything that decides where the library is looked for.
type places struct {
	goos, goarch string
	variable     string // value of LibraryPathVariable
	executable   string // empty when unknown
	workDir      string // empty when unknown
}

func (p places) find() (string, error) {
	if p.variable != "" {
		path, err := filepath.Abs(p.variable)
		if err != nil {
			return "", fmt.Errorf("find ONNX Runtime library: %s=%q: %w", LibraryPathVariable, p.variable, err)
		}
		if err := checkFile(path); err != nil {
			return "", fmt.Errorf("find ONNX Runtime library: %s=%q: %w; set it to a %s, or unset it to use the one that `%s` brings",
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
		advice = fmt.Sprintf("the npm package has none for %s/%s", p.goos, p.goarch)
	}
	return "", fmt.Errorf("%w: looked for %s (%s is not set); %s, or set the variable to a %s of version 1.%d or newer",
		ErrNotFound, strings.Join(candidates, ", "), LibraryPathVariable, advice, libraryNames(p.goos)[0], minAPIVersion)
}

// candidates lists the files that may be the library, best first.
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

// folders lists the executable's folder and the working directory, each
// followed by the folders above it.
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

// checkout names the folder in which the install command is to be run.
func (p places) checkout() string {
	for _, dir := range p.folders() {
		if checkFile(filepath.Join(dir, "package-lock.json")) == nil {
			return dir
		}
	}
	return "the checkout of fakeart"
}

// libraryNames gives the names the library goes by; the npm package uses the first.
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

// npmFolder is the folder of the library inside onnxruntime-node, which names
// systems and processors as Node does; empty where the package has no library.
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

// checkFile says why path is not a regular file.
func checkFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such file")
	case err != nil:
		// The caller names the path, os.PathError would name it once more.
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			return pathErr.Err
		}
		return err
	case info.IsDir():
		return errors.New("it is a folder, not a library")
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	}
	return nil
}
