package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checkout returns a git checkout with the files, all of them tracked.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                 "module fakeart\n\ngo 1.26.8\n",
		"tools/k6/go.mod":        "module fakeart/tools/k6\n",
		"ci/go.mod":              "module dagger/fakeart\n",
		"ci/images.yaml":         "# Images.\nrepository: https://github.com/OWNER/REPOSITORY\ngo: golang\n",
		"server/main.go":         "package main\n\nimport (\n\t\"fmt\"\n\n\tsource \"fakeart/internal/a\"\n\t\"fakeart/internal/b\"\n)\n\nvar name = \"fakeart/server\"\n",
		".golangci.yml":          "gofumpt:\n  module-path: fakeart\n",
		"docs/start.md":          "git clone https://github.com/OWNER/REPOSITORY.git fakeart\ngh api repos/OWNER/REPOSITORY\nrepos/OWNER/NAME\n",
		"docs/images/binary.png": "\x89PNG https://github.com/OWNER/REPOSITORY \x00\xff",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRun(t *testing.T) {
	dir := checkout(t)
	if err := os.WriteFile(filepath.Join(dir, "untracked.md"), []byte(placeholder), 0o666); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(&out, dir, "github.com/acme/detector", "https://github.com/acme/detector.git/"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"go.mod":                 "module github.com/acme/detector\n\ngo 1.26.8\n",
		"tools/k6/go.mod":        "module github.com/acme/detector/tools/k6\n",
		"ci/go.mod":              "module dagger/fakeart\n",
		"ci/images.yaml":         "# Images.\nrepository: https://github.com/acme/detector\ngo: golang\n",
		"server/main.go":         "package main\n\nimport (\n\t\"fmt\"\n\n\tsource \"github.com/acme/detector/internal/a\"\n\t\"github.com/acme/detector/internal/b\"\n)\n\nvar name = \"fakeart/server\"\n",
		".golangci.yml":          "gofumpt:\n  module-path: github.com/acme/detector\n",
		"docs/start.md":          "git clone https://github.com/acme/detector.git fakeart\ngh api repos/acme/detector\nrepos/OWNER/NAME\n",
		"docs/images/binary.png": "\x89PNG https://github.com/OWNER/REPOSITORY \x00\xff",
		"untracked.md":           placeholder,
	}
	check := func(want map[string]string) {
		t.Helper()
		for name, text := range want {
			if got := read(t, dir, name); got != text {
				t.Errorf("%s is %q, want %q", name, got, text)
			}
		}
	}
	check(want)
	if !strings.Contains(out.String(), "changed 6 files") {
		t.Errorf("printed %q, want 6 changed files", out.String())
	}

	out.Reset()
	if err := run(&out, dir, "github.com/acme/detector", "https://github.com/acme/detector"); err != nil {
		t.Fatal(err)
	}
	check(want)
	if !strings.Contains(out.String(), "nothing to change") {
		t.Errorf("the second run printed %q", out.String())
	}

	if err := run(&out, dir, "", "https://git.example.com/ml/classifier"); err != nil {
		t.Fatal(err)
	}
	want["ci/images.yaml"] = "# Images.\nrepository: https://git.example.com/ml/classifier\ngo: golang\n"
	want["docs/start.md"] = "git clone https://git.example.com/ml/classifier.git fakeart\ngh api repos/acme/detector\nrepos/OWNER/NAME\n"
	check(want)
}

func TestRun_InvalidArguments(t *testing.T) {
	for name, test := range map[string]struct{ module, repository, want string }{
		"none":                        {"", "", "nothing to do\nhint: make init MODULE="},
		"module with spaces":          {"my detector", "", "MODULE: "},
		"module as URL":               {"https://github.com/acme/detector", "", "MODULE: "},
		"no URL":                      {"", "acme/detector", `REPOSITORY: "acme/detector" isn't`},
		"ssh URL":                     {"", "git@github.com:acme/detector.git", "REPOSITORY: "},
		"host only":                   {"", "https://github.com/acme", "REPOSITORY: "},
		"bad URL after a good module": {"github.com/acme/detector", "https://github.com/acme/detector?tab=readme", "REPOSITORY: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := checkout(t)
			err := run(&bytes.Buffer{}, dir, test.module, test.repository)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("run(%q, %q) = %v, want %q", test.module, test.repository, err, test.want)
			}
			if got := read(t, dir, "go.mod"); !strings.HasPrefix(got, "module fakeart\n") {
				t.Errorf("go.mod has changed to %q", got)
			}
		})
	}
}
