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

// asProgram has the test's binary be the program, for the make that reproduce calls.
const asProgram = "FAKEART_TEST_IMAGES"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "images:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const pinsFile = `repository: https://forge.example/a/b
go: 127.0.0.1:1/golang:%s-bookworm@sha256:%[2]s
node: 127.0.0.1:1/node:22@sha256:%[2]s
base: 127.0.0.1:1/base:1@sha256:%[2]s
`

// checkout is a git repository that is quick to build, whose make makes its images with
// this test's binary, and the layout of a base.
func checkout(t *testing.T) (root, base string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "source")
	stagetest.Checkout(t, root)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "ci/images.yaml"), fmt.Sprintf(pinsFile, strings.TrimPrefix(runtime.Version(), "go"), strings.Repeat("12", 32)))
	// Another checkout of it gets npm's packages by a link.
	write(t, filepath.Join(root, "Makefile"), fmt.Sprintf("images:\n\tln -s %s/node_modules .\n\t%s=1 %s write --root . --work build --platforms $(PLATFORMS) --base $(BASE)\n",
		root, asProgram, program))
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

func TestFromACommitToARegistryAndBack(t *testing.T) {
	root, base := checkout(t)
	work := filepath.Join(root, "build")
	where := []string{"--root", root, "--work", work, "--base", base, "--platforms", stagetest.Platform}

	made, err := call(t, append([]string{"write"}, where...)...)
	if err != nil {
		t.Fatal(err)
	}
	digest := regexp.MustCompile(`(?m)^server +(sha256:[0-9a-f]{64})`).FindStringSubmatch(made)
	if digest == nil || !strings.Contains(made, "trainer sha256:") {
		t.Fatalf("it printed\n%s", made)
	}

	checked, err := call(t, append([]string{"check"}, where...)...)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(checked, digest[1]); n != 3 || !strings.HasSuffix(checked, "the same digests each time\n") {
		t.Errorf("the digest is there %d times in\n%s", n, checked)
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
		t.Errorf("it printed\n%s", pushed)
	}

	for _, image := range []string{digest[1], ref} {
		same, err := call(t, "reproduce", image, "--root", root, "--work", work, "--base", base)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(same, image+" is what commit ") {
			t.Errorf("it printed\n%s", same)
		}
	}

	t.Run("push_checks_first", func(t *testing.T) {
		// A cosign that notes its arguments, and fails if the key is called bad.
		notes, cosign := filepath.Join(t.TempDir(), "notes"), filepath.Join(t.TempDir(), "cosign")
		write(t, cosign, "#!/bin/sh\necho \"$@\" >> "+notes+"\ncase \"$*\" in *bad*) exit 1;; esac\n")
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
		text, err := os.ReadFile(notes)
		if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 4 || lines[0] != "public-key --key good" || !strings.HasPrefix(lines[1], "sign ") {
			t.Errorf("cosign ran with %q (%v)", text, err)
		}
		pushed := false
		empty, _ := registrytest.Serve(t, func(r *http.Request) int {
			pushed = pushed || r.Method == http.MethodPut
			return 0
		})
		if err := push(empty, "bad"); err == nil || !strings.Contains(err.Error(), "read the signing key bad: exit status 1\nhint: check SIGN=") {
			t.Errorf("unreadable key: error %v", err)
		}
		if pushed {
			t.Error("it pushed an image that it couldn't sign")
		}
		refused, _ := registrytest.Serve(t, func(*http.Request) int { return http.StatusForbidden })
		if err := push(refused, "bad"); err == nil || !strings.HasPrefix(err.Error(), "push to "+refused+"/fakeart/server: ") {
			t.Errorf("no permission: error %v", err)
		}
	})
	t.Run("another image is told apart", func(t *testing.T) {
		// What its label says is not what it was built from.
		head, err := exec.CommandContext(t.Context(), "git", "-C", root, "rev-parse", "HEAD").Output()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "server/more.go"), "package main\n\nfunc init() { println() }\n")
		forged := append([]string{"write", "--revision", strings.TrimSpace(string(head)), "--created", "2026-11-27T03:15:35Z"}, where...)
		if _, err := call(t, forged...); err == nil || !strings.Contains(err.Error(), "differs from that commit:\n?? server/more.go\n") {
			t.Errorf("beside its .git: error %v", err)
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
		if err == nil || !strings.Contains(err.Error(), "is not what commit") || !strings.Contains(err.Error(), " layer 2 (server ") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("an image of a changed tree cannot be made again", func(t *testing.T) {
		made, err := call(t, append([]string{"write"}, where...)...)
		if err != nil {
			t.Fatal(err)
		}
		image := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(made)
		if _, err := call(t, "reproduce", image, "--root", root, "--work", work); err == nil || !strings.Contains(err.Error(), "a tree that nobody has") {
			t.Errorf("error %v", err)
		}
	})
}

func TestDigestsThatDifferAreAnError(t *testing.T) {
	var out strings.Builder
	err := compare(&out, map[string]map[string]string{
		"server": {"here": "sha256:1", "there": "sha256:2"}, "trainer": {"here": "sha256:3", "there": "sha256:3"},
	})
	if err == nil || err.Error() != "the digests of server differ" {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "server  sha256:2  there\n") {
		t.Errorf("it printed\n%s", &out)
	}
}

func TestWhatCannotBeDoneSaysWhy(t *testing.T) {
	root, base := checkout(t)
	empty := t.TempDir()
	where := func(command string, args ...string) []string {
		return append([]string{command, "--root", root, "--work", filepath.Join(empty, "build")}, args...)
	}
	for want, args := range map[string][]string{
		"`make images` makes it":              {"push", "--work", empty, "--registry", "127.0.0.1:1/fakeart"},
		`registry "x"`:                        {"push", "--work", empty, "--registry", "x"},
		`tag "a b"`:                           {"push", "--work", empty, "--registry", "127.0.0.1:1/fakeart", "--tags", "a b"},
		"nor the digest of an image":          {"reproduce", "sha256:12", "--work", empty},
		"name it by its digest":               {"reproduce", "127.0.0.1:1/a@sha256:12"},
		`"linux/riscv64"`:                     where("write", "--base", base, "--platforms", "linux/riscv64"),
		"it is an OCI layout, or NAME@sha256": where("write", "--base", filepath.Join(empty, "none")),
		"no OCI layout":                       where("write", "--base", empty),
		"it is not pinned":                    where("write", "--base", "127.0.0.1:1/base@latest"),
		"is no commit's hash":                 where("stage", "--out", filepath.Join(empty, "stage"), "--revision", "main", "--created", "2026-11-27T03:15:35Z"),
		"belong together":                     where("write", "--base", base, "--revision", strings.Repeat("a", 40)),
		"images.yaml: no such file":           {"write", "--root", empty, "--base", base},
		"connection refused":                  {"renew", filepath.Join(root, "ci/images.yaml")},
		"unexpected argument fly":             {"fly"},
	} {
		if args[0] == "stage" {
			args = append(args[:1], append([]string{"--root", root}, args[5:]...)...)
		}
		if out, err := call(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q, error %v, want %q", args, out, err, want)
		}
	}
}
