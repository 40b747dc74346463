package module

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOffline checks that the flags of the make targets exclude a dagger.gen.go, like the one that
// `dagger develop` generates.
func TestOffline(t *testing.T) {
	makefile := read(t, "../../../Makefile")
	flags := regexp.MustCompile(`(?m)^offline := (.*)$`).FindStringSubmatch(makefile)
	if flags == nil {
		t.Fatal("the Makefile doesn't define offline")
	}
	for _, line := range strings.Split(makefile, "\n") {
		if strings.HasPrefix(line, "\t") && strings.Contains(line, "offline") && !strings.Contains(line, "$(offline)") {
			t.Errorf("the Makefile doesn't use $(offline): %s", line)
		}
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":                    "module dagger/fakeart\n\ngo 1.26.0\n",
		"main.go":                   "package main\n\nvar _ = dag\n",
		"offline.go":                read(t, "../../offline.go"),
		"offline.json":              read(t, "../../offline.json"),
		"dagger.gen.go":             "package main\n\nvar dag = 1\n\nfunc main() {}\n",
		"internal/dagger/dagger.go": "package dagger\n\nfunc Connect() int { return 0 }\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "go", append(append([]string{"vet"}, strings.Fields(flags[1])...), "./...")...)
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
