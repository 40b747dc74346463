package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGoVersion checks that each go.mod and each text that names a version of Go names that of the
// image that builds the programs.
func TestGoVersion(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	image := regexp.MustCompile(`(?m)^go: golang:(\d+\.\d+\.\d+)-`).FindStringSubmatch(read("../ci/images.yaml"))
	if image == nil {
		t.Fatal("ci/images.yaml: go: its tag isn't a whole version of Go, such as golang:1.26.8-bookworm")
	}
	version := image[1]
	modules := glob(t, "../go.mod", "../*/go.mod", "../*/*/go.mod")
	if len(modules) < 10 {
		t.Errorf("only %d modules: %q", len(modules), modules)
	}
	for _, file := range modules {
		lines := regexp.MustCompile(`(?m)^(?:go|toolchain) .*$`).FindAllString(read(file), -1)
		if len(lines) != 1 || lines[0] != "go "+version {
			t.Errorf("%s: %q, want one line: go %s", strings.TrimPrefix(file, "../"), lines, version)
		}
	}
	for _, file := range []string{"../README.md", "../CONTRIBUTING.md", "getting-started.md", "../Makefile"} {
		if !strings.Contains(read(file), "Go "+version) {
			t.Errorf("%s doesn't name Go %s", strings.TrimPrefix(file, "../"), version)
		}
	}
	named := regexp.MustCompile(`\bGo (1\.\d+(?:\.\d+)?)`)
	for _, file := range append(glob(t, "../*.md", "*.md", "*/*.md"), "../Makefile") {
		if strings.HasSuffix(file, "CHANGELOG.md") {
			continue
		}
		for _, m := range named.FindAllStringSubmatch(read(file), -1) {
			if m[1] != version {
				t.Errorf("%s names Go %s, want %s", strings.TrimPrefix(file, "../"), m[1], version)
			}
		}
	}
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	return all
}
