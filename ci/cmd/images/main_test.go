package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"dagger/fakeart/internal/publish/registrytest"
	"dagger/fakeart/internal/stage/stagetest"
)

// runProgram is an environment variable that makes the test binary run the program instead of the
// tests. The test checkout's Makefile sets it.
const runProgram = "FAKEART_TEST_IMAGES"

func TestMain(m *testing.M) {
	if os.Getenv(runProgram) != "" {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "images:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const pinsFile = `repository: https://git.example/a/b
go: 127.0.0.1:1/golang:%s-bookworm@sha256:%[2]s
node: 127.0.0.1:1/node:22@sha256:%[2]s
base: 127.0.0.1:1/base:1@sha256:%[2]s
`

// checkout returns a small git repository, whose Makefile builds images with the test binary, and
// the OCI layout of a base.
func checkout(t *testing.T) (root, base string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "source")
	stagetest.Checkout(t, root)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "ci/images.yaml"), fmt.Sprintf(pinsFile, strings.TrimPrefix(runtime.Version(), "go"), strings.Repeat("12", 32)))
	// Clones of this repository share its npm packages through a link.
	write(t, filepath.Join(root, "Makefile"), fmt.Sprintf("images:\n\tln -s %s/node_modules .\n\t%s=1 %s write --root . --work build --platforms $(PLATFORMS) --base $(BASE)\n",
		root, runProgram, program))
	stagetest.Commit(t, root)

	base = filepath.Join(t.TempDir(), "base")
	path, err := layout.Write(base, empty.Index)
	if err == nil {
		err = path.AppendImage(stagetest.Base(t, nil), layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, base
}

// write writes a file and creates its directory.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// call runs the program and returns what it prints.
func call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(t.Context(), args, &out)
	return out.String(), err
}

func TestCommands(t *testing.T) {
	root, base := checkout(t)
	work := filepath.Join(root, "build")
	where := []string{"--root", root, "--work", work, "--base", base, "--platforms", stagetest.Platform}

	made, err := call(t, append([]string{"write"}, where...)...)
	if err != nil {
		t.Fatal(err)
	}
	digest := regexp.MustCompile(`(?m)^server +(sha256:[0-9a-f]{64})`).FindStringSubmatch(made)
	if digest == nil || !strings.Contains(made, "trainer sha256:") {
		t.Fatalf("write printed\n%s", made)
	}

	checked, err := call(t, append([]string{"check"}, where...)...)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(checked, digest[1]); n != 3 || !strings.HasSuffix(checked, "all builds have the same digests\n") {
		t.Errorf("check printed the digest %d times, want 3:\n%s", n, checked)
	}

	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	pushed, err := call(t, "push", "--work", work, "--registry", host+"/fakeart", "--tags", "v1,latest")
	if err != nil {
		t.Fatal(err)
	}
	ref := host + "/fakeart/server@" + digest[1]
	if !strings.Contains(pushed, "server "+ref+"\n") {
		t.Errorf("push printed\n%s", pushed)
	}

	for _, image := range []string{digest[1], ref} {
		same, err := call(t, "reproduce", image, "--root", root, "--work", work, "--base", base)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(same, image+" is identical to a build of commit ") {
			t.Errorf("reproduce printed\n%s", same)
		}
	}

	t.Run("push_checks_first", func(t *testing.T) {
		// This cosign logs its arguments, and fails if the key is named bad.
		calls, cosign := filepath.Join(t.TempDir(), "calls"), filepath.Join(t.TempDir(), "cosign")
		write(t, cosign, "#!/bin/sh\necho \"$@\" >> "+calls+"\ncase \"$*\" in *bad*) exit 1;; esac\n")
		if err := os.Chmod(cosign, 0o755); err != nil {
			t.Fatal(err)
		}
		push := func(host, key string) error {
			_, err := call(t, "push", "--work", work, "--registry", host+"/fakeart", "--sign-key", key, "--cosign", cosign)
			return err
		}
		signed, _ := registrytest.Serve(t, nil)
		if err := push(signed, "good"); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(calls)
		if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 4 || lines[0] != "public-key --key good" || !strings.HasPrefix(lines[1], "sign ") {
			t.Errorf("cosign calls: %q (%v)", text, err)
		}
		pushed := false
		empty, _ := registrytest.Serve(t, func(r *http.Request) int {
			pushed = pushed || r.Method == http.MethodPut
			return 0
		})
		if err := push(empty, "bad"); err == nil || !strings.Contains(err.Error(), "read the signing key bad: exit status 1\nhint: check SIGN ") {
			t.Errorf("unreadable key: error %v", err)
		}
		if pushed {
			t.Error("push pushed an image that it couldn't sign")
		}
		forbidden, _ := registrytest.Serve(t, func(*http.Request) int { return http.StatusForbidden })
		if err := push(forbidden, "bad"); err == nil || !strings.HasPrefix(err.Error(), "push to "+forbidden+"/fakeart/server: ") {
			t.Errorf("no permission: error %v", err)
		}
	})
	t.Run("reproduce_differs", func(t *testing.T) {
		// Build an image from other code than the commit in its labels.
		head, err := exec.CommandContext(t.Context(), "git", "-C", root, "rev-parse", "HEAD").Output()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "server/more.go"), "package main\n\nfunc init() { println() }\n")
		forged := append([]string{"write", "--revision", strings.TrimSpace(string(head)), "--created", "2026-11-27T03:15:35Z"}, where...)
		if _, err := call(t, forged...); err == nil || !strings.Contains(err.Error(), "differs from that commit:\n?? server/more.go\n") {
			t.Errorf("write with a .git: error %v", err)
		}
		if err := os.Rename(filepath.Join(root, ".git"), filepath.Join(root, "build/git")); err != nil {
			t.Fatal(err)
		}
		made, err := call(t, forged...)
		if err := os.Rename(filepath.Join(root, "build/git"), filepath.Join(root, ".git")); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		image := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(made)
		_, err = call(t, "reproduce", image, "--root", root, "--work", work, "--base", base)
		if err == nil || !strings.Contains(err.Error(), "differs from a build of commit") || !strings.Contains(err.Error(), " layer 2 (server ") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("reproduce_modified_tree", func(t *testing.T) {
		made, err := call(t, append([]string{"write"}, where...)...)
		if err != nil {
			t.Fatal(err)
		}
		image := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(made)
		if _, err := call(t, "reproduce", image, "--root", root, "--work", work); err == nil || !strings.Contains(err.Error(), "was built from a modified tree") {
			t.Errorf("error %v", err)
		}
	})
}

func TestCompare(t *testing.T) {
	var out strings.Builder
	err := compare(&out, map[string]map[string]string{
		"server": {"here": "sha256:1", "there": "sha256:2"}, "trainer": {"here": "sha256:3", "there": "sha256:3"},
	})
	if err == nil || err.Error() != "builds of server have different digests" {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "server  sha256:2  there\n") {
		t.Errorf("compare() printed\n%s", &out)
	}
}

func TestErrors(t *testing.T) {
	root, base := checkout(t)
	empty := t.TempDir()
	where := func(command string, args ...string) []string {
		return append([]string{command, "--root", root, "--work", filepath.Join(empty, "build")}, args...)
	}
	for want, args := range map[string][]string{
		"hint: run `make images` first":      {"push", "--work", empty, "--registry", "127.0.0.1:1/fakeart"},
		`invalid registry "x"`:               {"push", "--work", empty, "--registry", "x"},
		`invalid tag "a b"`:                  {"push", "--work", empty, "--registry", "127.0.0.1:1/fakeart", "--tags", "a b"},
		"nor the digest of an image":         {"reproduce", "sha256:12", "--work", empty},
		"has no digest\nhint: pass":          {"reproduce", "127.0.0.1:1/a@sha256:12"},
		`"linux/riscv64"`:                    where("write", "--base", base, "--platforms", "linux/riscv64"),
		"hint: pass an OCI layout, or NAME@": where("write", "--base", filepath.Join(empty, "none")),
		"isn't an OCI layout":                where("write", "--base", empty),
		"has no digest\nhint: use":           where("write", "--base", "127.0.0.1:1/base@latest"),
		"isn't a commit hash":                where("stage", "--out", filepath.Join(empty, "stage"), "--revision", "main", "--created", "2026-11-27T03:15:35Z"),
		"--revision or --created is missing": where("write", "--base", base, "--revision", strings.Repeat("a", 40)),
		"images.yaml: no such file":          {"write", "--root", empty, "--base", base},
		"connection refused":                 {"renew", filepath.Join(root, "ci/images.yaml")},
		"unexpected argument fly":            {"fly"},
	} {
		if args[0] == "stage" {
			args = append(args[:1], append([]string{"--root", root}, args[5:]...)...)
		}
		if out, err := call(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q, error %v, want %q", args, out, err, want)
		}
	}
}

func TestRenew_DefaultFile(t *testing.T) {
	t.Chdir(t.TempDir())
	if out, err := call(t, "renew"); err == nil || !strings.Contains(err.Error(), "open images.yaml") {
		t.Errorf("renew: %q, error %v, want one about images.yaml", out, err)
	}
}
