package debian

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// deb builds a package with files by path and returns its path. Content that starts with → is the
// target of a symbolic link.
func deb(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb isn't installed")
	}
	root := t.TempDir()
	files["DEBIAN/control"] = "Package: " + name + "\nVersion: 1.2-3\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: for a test\n"
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "→"); ok {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(t.TempDir(), name+"_1.2-3_all.deb")
	if text, err := exec.CommandContext(t.Context(), "dpkg-deb", "--build", "--root-owner-group", root, archive).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return archive
}

func TestAssemble(t *testing.T) {
	archives := []string{
		deb(t, "libc6", map[string]string{
			"lib/x/libc.so.6": "the library", "lib64/ld.so.2": "→/lib/x/ld.so", "lib/x/ld.so": "the loader", "lib/x/libc.so": "→libc.so.6",
			"usr/bin/ldd": "#!/bin/sh", "bin/sh": "a shell", "usr/share/doc/libc6/copyright": "a license", "usr/share/doc/libc6/NEWS": "new",
		}),
		deb(t, "ca-certificates", map[string]string{
			"usr/share/ca-certificates/mozilla/a.crt": "A\n", "usr/share/ca-certificates/mozilla/b.crt": "B\n", "usr/sbin/update-ca-certificates": "#!/bin/sh",
		}),
	}
	img, err := assemble(t.Context(), t.TempDir(), v1.Platform{OS: "linux", Architecture: "arm64"}, archives)
	if err != nil {
		t.Fatal(err)
	}
	if config, err := img.ConfigFile(); err != nil || config.Architecture != "arm64" {
		t.Errorf("configuration %+v, %v", config, err)
	}
	content := map[string]string{}
	for r := tar.NewReader(mutate.Extract(img)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		content[strings.TrimSuffix(h.Name, "/")] = string(text)
	}
	for path, want := range map[string]string{
		"lib/x/libc.so.6": "the library", "lib64/ld.so.2": "the loader", "lib/x/libc.so": "the library",
		"etc/ssl/certs/ca-certificates.crt": "A\nB\n", "usr/share/doc/libc6/copyright": "a license",
		"var/lib/dpkg/status.d/libc6": "Package: libc6\nVersion: 1.2-3\nArchitecture: all\n", "tmp": "", "proc": "",
	} {
		if got, ok := content[path]; !ok || got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if !strings.Contains(content["etc/passwd"], "nonroot:x:65532") {
		t.Errorf("/etc/passwd = %q, want user nonroot", content["etc/passwd"])
	}
	for _, path := range []string{"bin/sh", "usr/bin/ldd", "usr/sbin/update-ca-certificates", "usr/share/doc/libc6/NEWS"} {
		if _, ok := content[path]; ok {
			t.Errorf("the image contains %s", path)
		}
	}
}

func TestAssemble_errors(t *testing.T) {
	p := v1.Platform{OS: "linux", Architecture: "amd64"}
	if _, err := assemble(t.Context(), t.TempDir(), p, []string{deb(t, "libc6", map[string]string{"lib/a": "x"})}); err == nil || !strings.Contains(err.Error(), "no certificates") {
		t.Errorf("assemble() without certificates: error %v", err)
	}
	if _, err := assemble(t.Context(), t.TempDir(), p, []string{filepath.Join(t.TempDir(), "none_1_all.deb")}); err == nil || !strings.Contains(err.Error(), "none_1_all.deb") {
		t.Errorf("assemble() with a missing package: error %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Write(t.Context(), t.TempDir(), []string{"linux/amd64"}); err == nil || !strings.Contains(err.Error(), "apt-get isn't installed") {
		t.Errorf("Write() without apt-get: error %v", err)
	}
}
