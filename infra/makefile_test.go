package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// fakePulumi is a shell script that, like Pulumi, adds the passphrase's salt to the stack's file.
const fakePulumi = `#!/bin/sh
echo "pulumi $*"
file=Pulumi.dev.yaml
create=
while [ $# -gt 0 ]; do
	case "$1" in
	--cwd) cd "$2"; shift;;
	--config-file) file=$2; create=yes; shift;;
	--create | up) create=yes;;
	esac
	shift
done
[ -z "$create" ] || grep -q encryptionsalt "$file" || echo "encryptionsalt: v1:x" >> "$file"
`

// `make infra-preview` must not modify the stack's file, which is committed.
func TestMakefile_PreviewKeepsStackFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the fake Pulumi is a shell script")
	}
	makefile, err := filepath.Abs("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Pulumi.yaml", "Pulumi.dev.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		write(name, string(text))
	}
	write("bin/tools/pulumi", fakePulumi)
	run := func(target string) string {
		t.Helper()
		// With -o, make doesn't build the tools.
		cmd := exec.Command("make", "-C", root, "-f", makefile, "-o", "bin/tools/pulumi", "-o", "bin/tools/pulumi-language-go", target, "STACK=dev", "ARGS=--diff")
		cmd.Env = append(os.Environ(), "PULUMI_CONFIG_PASSPHRASE=x", "PULUMI_BACKEND_URL=file://"+root, "MAKEFLAGS=", "MAKELEVEL=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
		return string(out)
	}
	stackFile := func() []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, "Pulumi.dev.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := stackFile()
	out := run("infra-preview")
	for _, want := range []string{"pulumi stack select --create dev", "pulumi preview --stack dev", "--diff"} {
		if !strings.Contains(out, want) {
			t.Errorf("output doesn't contain %q:\n%s", want, out)
		}
	}
	if after := stackFile(); !bytes.Equal(before, after) {
		t.Errorf("Pulumi.dev.yaml has changed:\n%s\n%s", after, out)
	}
	// An update needs the salt in the stack's file: with it, the stack's secrets are decrypted.
	run("infra-up")
	if after := stackFile(); !bytes.Contains(after, []byte("encryptionsalt")) {
		t.Error("infra-up: Pulumi.dev.yaml has no salt")
	}
}
