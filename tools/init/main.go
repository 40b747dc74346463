// Command init gives a fork its own name: it changes the Go module path and the repository's URL in
// all tracked files. `make init` runs it.
//
// Usage:
//
//	go run ./tools/init --module github.com/acme/detector --repository https://github.com/acme/detector
//
// The current module path is read from go.mod, the current URL from `repository:` in ci/images.yaml.
// Running it again with the same arguments changes nothing, and with others it renames again.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// placeholder is the repository's URL before the first run.
const placeholder = "https://github.com/OWNER/REPOSITORY"

func main() {
	modulePath := flag.String("module", "", "new module `path`, such as github.com/acme/detector (default: unchanged)")
	repository := flag.String("repository", "", "`URL` of the repository, such as https://github.com/acme/detector (default: unchanged)")
	flag.Parse()
	if err := run(os.Stdout, ".", *modulePath, *repository); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run renames the checkout in dir and prints to w what it changed. It checks both arguments before it
// writes anything.
func run(w io.Writer, dir, modulePath, repository string) error {
	if modulePath == "" && repository == "" {
		return errors.New("nothing to do\nhint: make init MODULE=github.com/acme/detector REPOSITORY=https://github.com/acme/detector")
	}
	oldModule, err := currentModule(dir)
	if err != nil {
		return err
	}
	oldRepository, err := currentRepository(dir)
	if err != nil {
		return err
	}
	if modulePath == "" {
		modulePath = oldModule
	}
	if repository == "" {
		repository = oldRepository
	}
	if err := module.CheckImportPath(modulePath); err != nil {
		return fmt.Errorf("MODULE: %w\nhint: use a module path such as github.com/acme/detector", err)
	}
	if repository, err = checkRepository(repository); err != nil {
		return err
	}
	files, err := trackedFiles(dir)
	if err != nil {
		return err
	}
	changed := 0
	for _, name := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
			continue
		}
		renamed := renameRepository(text, oldRepository, repository)
		if renamed, err = renameModule(name, renamed, oldModule, modulePath); err != nil {
			return err
		}
		if bytes.Equal(renamed, text) {
			continue
		}
		if err := os.WriteFile(file, renamed, 0o666); err != nil {
			return err
		}
		changed++
	}
	if changed == 0 {
		fmt.Fprintf(w, "nothing to change: the module is %s, the repository %s\n", modulePath, repository)
		return nil
	}
	fmt.Fprintf(w, "changed %d files: the module is %s, the repository %s\n", changed, modulePath, repository)
	fmt.Fprintln(w, "next: review with `git diff`, run `make test-short`, and commit")
	return nil
}

func currentModule(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the module path: %w\nhint: run it in the root of the checkout", err)
	}
	name := modfile.ModulePath(text)
	if name == "" {
		return "", errors.New("go.mod has no module line")
	}
	return name, nil
}

var repositoryLine = regexp.MustCompile(`(?m)^repository: (\S+)$`)

func currentRepository(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "ci", "images.yaml"))
	if err != nil {
		return "", fmt.Errorf("read the repository's URL: %w\nhint: run it in the root of the checkout", err)
	}
	m := repositoryLine.FindSubmatch(text)
	if m == nil {
		return "", errors.New("ci/images.yaml has no line `repository: URL`")
	}
	return string(m[1]), nil
}

// checkRepository returns the URL without a trailing slash or .git.
func checkRepository(repository string) (string, error) {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimRight(repository, "/"), ".git"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.Count(strings.Trim(u.Path, "/"), "/") == 0 {
		return "", fmt.Errorf("REPOSITORY: %q isn't the https URL of a repository\nhint: use a URL such as https://github.com/acme/detector", repository)
	}
	return u.String(), nil
}

// trackedFiles returns the paths of all files that git tracks and that exist, with slashes. It leaves
// out links, and this program's own files, which name the placeholder.
func trackedFiles(dir string) ([]string, error) {
	cmd := exec.CommandContext(context.Background(), "git", "ls-files", "-z")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tracked files: git ls-files: %w\nhint: run it in a git checkout", err)
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	return slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		return err != nil || !info.Mode().IsRegular() || name == "tools/init/main.go" || name == "tools/init/main_test.go"
	}), nil
}

// renameRepository replaces the URL, and, when the old one is the placeholder, also OWNER/REPOSITORY.
func renameRepository(text []byte, from, to string) []byte {
	if from == to {
		return text
	}
	text = bytes.ReplaceAll(text, []byte(from), []byte(to))
	if from == placeholder {
		u, err := url.Parse(to)
		if err == nil {
			text = bytes.ReplaceAll(text, []byte("OWNER/REPOSITORY"), []byte(strings.Trim(u.Path, "/")))
		}
	}
	return text
}

// renameModule replaces the module path in the file called name: in the imports of Go code, in go.mod
// files, and in the settings of tools.
func renameModule(name string, text []byte, from, to string) ([]byte, error) {
	if from == to {
		return text, nil
	}
	switch {
	case strings.HasSuffix(name, ".go"):
		return renameImports(name, text, from, to)
	case path.Base(name) == "go.mod":
		old := modfile.ModulePath(text)
		if old != from && !strings.HasPrefix(old, from+"/") {
			return text, nil
		}
		return bytes.Replace(text, []byte("module "+old), []byte("module "+to+strings.TrimPrefix(old, from)), 1), nil
	case name == ".golangci.yml":
		return bytes.ReplaceAll(text, []byte("module-path: "+from), []byte("module-path: "+to)), nil
	case path.Base(name) == "generate.sh": // of protocol buffers
		return bytes.ReplaceAll(text, []byte("="+from+"/"), []byte("="+to+"/")), nil
	}
	return text, nil
}

func renameImports(name string, text []byte, from, to string) ([]byte, error) {
	if !bytes.Contains(text, []byte(`"`+from+`/`)) {
		return text, nil
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, name, text, parser.ImportsOnly)
	if err != nil {
		return nil, fmt.Errorf("read the imports: %w", err)
	}
	// From the last one to the first, so that the positions stay right.
	for _, spec := range slices.Backward(parsed.Imports) {
		old, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !strings.HasPrefix(old, from+"/") {
			continue
		}
		begin := fset.Position(spec.Path.Pos()).Offset
		text = slices.Concat(text[:begin], []byte(strconv.Quote(to+strings.TrimPrefix(old, from))), text[begin+len(spec.Path.Value):])
	}
	return text, nil
}
