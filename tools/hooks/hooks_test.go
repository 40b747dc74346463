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

// What git's hooks refuse, in a repository of its own with this one's settings. `make
// hooks-test` builds what they call.
func TestTheHooksRefuseWhatTheySay(t *testing.T) {
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

	// Nothing that looks like a secret stands in this file.
	letters := []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
	secret := []byte("gh" + "p_")
	for _, i := range rand.New(rand.NewPCG(4, 2)).Perm(len(letters))[:36] {
		secret = append(secret, letters[i])
	}
	const message = "feat: a thing that is new"
	for _, test := range []struct {
		name, message, file string
		data                []byte
		refused             string // what is said; empty when the commit goes through
	}{
		{"a message that is none", "did things", "a.txt", []byte("a\n"), "parser"},
		{"an unknown type", "thing: did another", "a.txt", []byte("a\n"), "type-enum"},
		{"a message with prose, and lines like trailers", message + "\n\nNote: this\nis prose\n", "a.txt", []byte("a\n"), ""},
		{"a file that git would write", "fixup! " + message, "b.txt", []byte("b\n"), ""},
		{"a large file", message, "large.bin", bytes.Repeat([]byte("large"), 1<<19), "a commit takes no file over 1 MiB"},
		{"a large file with a space", message, "large one.bin", bytes.Repeat([]byte("large"), 1<<19), "large one.bin has"},
		{"a file of one MiB", message, "medium.bin", bytes.Repeat([]byte{'m'}, 1<<20), ""},
		{"a secret", message, "secret.yaml", []byte("token: " + string(secret) + "\n"), "seems to hold a secret"},
		{"another format", message, "x/x.go", []byte("// Package x is x.\npackage x\n\n// X is x.\nfunc X( ) {}\n"), "not gofumpt's format"},
		{"what the linter finds", message, "y/y.go", []byte("// Package y is y.\npackage y\n\nfunc unused() {}\n"), "is unused"},
		{"code as it should be", message, "z/z.go", []byte("// Package z is z.\npackage z\n\n// Z is z.\nfunc Z() {}\n"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, dir, test.file, test.data)
			if out, err := run(dir, "git", "add", test.file); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := run(dir, "git", "commit", "-qm", test.message)
			if (err == nil) != (test.refused == "") || !strings.Contains(out, test.refused) {
				t.Errorf("got %v, want it refused by %q:\n%s", err, test.refused, out)
			}
			if strings.Contains(out, string(secret)) && test.refused != "" {
				t.Errorf("the secret is told:\n%s", out)
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
	// Not the repository of a hook that runs this test.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
