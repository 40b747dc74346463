package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const program = "../../bin/tools/vale"

// lint returns the findings in files, by path.
func lint(t *testing.T, files map[string]string) []finding {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "tools/vale/styles"), os.DirFS("styles")); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("vale.ini")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tools/vale/vale.ini"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for name := range files {
		paths = append(paths, name)
	}
	findings, err := check(t.Context(), dir, program, paths)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return findings
}

// TestRules_rewritten checks each sentence as a file of Markdown and as a Go comment.
func TestRules_rewritten(t *testing.T) {
	text, err := os.ReadFile("testdata/rewritten.txt")
	if err != nil {
		t.Fatal(err)
	}
	files, sentences := map[string]string{}, map[string]string{}
	for i, l := range strings.Split(string(text), "\n") {
		kind := map[string]string{"- ": "before", "+ ": "after"}[l[:min(2, len(l))]]
		if kind == "" {
			continue
		}
		for name, text := range map[string]string{".md": l[2:] + "\n", ".go": "package x\n\n// " + l[2:] + "\nvar x int\n"} {
			name = filepath.Join(kind, fmt.Sprintf("%03d%s", i, name))
			files[name], sentences[name] = text, l[2:]
		}
	}
	if len(files) < 80 {
		t.Fatalf("testdata/rewritten.txt has %d sentences, want at least 40", len(files)/2)
	}
	found := map[string][]finding{}
	for _, f := range lint(t, files) {
		found[f.path] = append(found[f.path], f)
	}
	for name, sentence := range sentences {
		if strings.HasPrefix(name, "before/") == (len(found[name]) == 0) {
			t.Errorf("%s: %q has the findings %v", name, sentence, found[name])
		}
	}
}
