package module

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ignored reports whether one of the patterns, in the syntax of +ignore, matches the file or one of
// its parent directories. ** matches any number of directories.
func ignored(patterns []string, file string) bool {
	var matches func(pattern, parts []string) bool
	matches = func(pattern, parts []string) bool {
		if len(pattern) == 0 || len(parts) == 0 {
			return len(pattern) == 0
		}
		if pattern[0] == "**" {
			return matches(pattern[1:], parts) || matches(pattern, parts[1:])
		}
		ok, err := path.Match(pattern[0], parts[0])
		return ok && err == nil && matches(pattern[1:], parts[1:])
	}
	for _, pattern := range patterns {
		if matches(strings.Split(pattern, "/"), strings.Split(file, "/")) {
			return true
		}
	}
	return false
}

// TestIgnore checks that the checkout's upload to the engine has all files that git tracks and none
// that it ignores.
func TestIgnore(t *testing.T) {
	pragma := regexp.MustCompile(`(?m)^\+ignore=(.*)$`).FindStringSubmatch(functions(t)["New"].params["source"].doc)
	var patterns []string
	if pragma == nil || json.Unmarshal([]byte(pragma[1]), &patterns) != nil {
		t.Fatalf("argument source of New: +ignore isn't a JSON list: %q", pragma)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"-C", root, "ls-files", "-z"}
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		// There is no .git in a container. Every file that isn't ignored counts as tracked.
		empty := t.TempDir()
		if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", empty).CombinedOutput(); err != nil {
			t.Fatalf("git init: %v: %s", err, out)
		}
		list = []string{"--git-dir", empty, "--work-tree", root, "-C", root, "ls-files", "-z", "--others", "--exclude-standard"}
	}
	tracked, err := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*"}, list...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Split(strings.TrimRight(string(tracked), "\x00"), "\x00")
	if len(files) < 100 {
		t.Fatalf("git lists %q", files)
	}
	for _, file := range files {
		if ignored(patterns, file) {
			t.Errorf("%s is tracked by git, but +ignore excludes it", file)
		}
	}

	local := []string{"tools/lint/bin/x", "server/build/x", ".venv/bin/python", "docs/.venv/x", ".idea/x.xml", "server/.idea/x.xml", ".vscode/x", "tools/__pycache__/x.pyc", "docs/.DS_Store"}
	for _, ignore := range []string{".gitignore", "ci/.gitignore"} {
		for _, line := range strings.Split(read(t, filepath.Join(root, ignore)), "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			name := strings.ReplaceAll(line, "*", "x")
			if strings.HasSuffix(name, "/") {
				name += "file"
			}
			local = append(local, path.Join(path.Dir(ignore), name))
			if !strings.Contains(strings.TrimSuffix(line, "/"), "/") {
				local = append(local, path.Join(path.Dir(ignore), "folder", name))
			}
		}
	}
	for _, file := range local {
		if !ignored(patterns, file) {
			t.Errorf("%s is ignored by git or local, but +ignore doesn't exclude it", file)
		}
	}
}
