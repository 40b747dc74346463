package hooks

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHooks runs the git hooks in a new repository with this repository's settings. It needs the tools that
// `make hooks-test` builds.
func TestHooks(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"lefthook.yaml", ".commitlint.yaml", ".golangci.yml"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, data)
	}
	if err := os.Symlink(filepath.Join(root, "bin"), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "go.mod", []byte("module fakeart\n\ngo 1.26.0\n"))
	write(t, dir, "Makefile", []byte("test-short:\n\tgo vet ./...\n"))
	write(t, dir, ".gitignore", []byte("/bin\n"))
	for _, args := range [][]string{
		{"git", "init", "-q"},
		{"git", "config", "user.name", "test"},
		{"git", "config", "user.email", "test@example.org"},
		{"bin/tools/lefthook", "install"},
		{"git", "add", "-A"},
		{"git", "commit", "-qm", "build: what the hooks need"},
	} {
		if out, err := run(dir, args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}

	// The secret is generated so that this file contains nothing that looks like one.
	letters := []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
	secret := []byte("gh" + "p_")
	for _, i := range rand.New(rand.NewPCG(4, 2)).Perm(len(letters))[:36] {
		secret = append(secret, letters[i])
	}
	const message = "feat: a thing that is new"
	for _, test := range []struct {
		name, message, file string
		data                []byte
		rejected            string // part of the message; empty if the commit succeeds
	}{
		{"invalid message", "did things", "a.txt", []byte("a\n"), "parser"},
		{"unknown type", "thing: did another", "a.txt", []byte("a\n"), "type-enum"},
		{"body with lines like trailers", message + "\n\nNote: this\nis prose\n", "a.txt", []byte("a\n"), ""},
		{"fixup commit", "fixup! " + message, "b.txt", []byte("b\n"), ""},
		{"large file", message, "large.bin", bytes.Repeat([]byte("large"), 1<<19), "over the limit of 1 MiB"},
		{"large file with a space in its name", message, "large one.bin", bytes.Repeat([]byte("large"), 1<<19), "large one.bin has"},
		{"file of 1 MiB", message, "medium.bin", bytes.Repeat([]byte{'m'}, 1<<20), ""},
		{"secret", message, "secret.yaml", []byte("token: " + string(secret) + "\n"), "seems to contain a secret"},
		{"unformatted code", message, "x/x.go", []byte("// Package x is x.\npackage x\n\n// X is x.\nfunc X( ) {}\n"), "not formatted with gofumpt"},
		{"lint finding", message, "y/y.go", []byte("// Package y is y.\npackage y\n\nfunc unused() {}\n"), "is unused"},
		{"formatted code", message, "z/z.go", []byte("// Package z is z.\npackage z\n\n// Z is z.\nfunc Z() {}\n"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, dir, test.file, test.data)
			if out, err := run(dir, "git", "add", test.file); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := run(dir, "git", "commit", "-qm", test.message)
			if (err == nil) != (test.rejected == "") || !strings.Contains(out, test.rejected) {
				t.Errorf("git commit: %v, want %q:\n%s", err, test.rejected, out)
			}
			if strings.Contains(out, string(secret)) && test.rejected != "" {
				t.Errorf("the output contains the secret:\n%s", out)
			}
			if err != nil {
				if out, err := run(dir, "git", "rm", "-qf", test.file); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
		})
	}
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	// When a hook runs this test, git's variables name the outer repository.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
