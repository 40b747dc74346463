// Package setup has no Go code: its test runs setup.sh with stand-ins for the system's programs.
package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// everything are the programs that setup.sh looks for on Linux.
var everything = []string{"go", "npm", "make", "gcc", "curl", "promtool", "chromium"}

// system describes the stand-ins: the programs that are installed, the user and the system's name.
type system struct {
	installed []string
	uid, name string
	ci        bool // the variable CI is set
}

// run runs setup.sh with the system's programs only, and returns what it printed and its exit status.
// Package managers append their arguments to the file called ran.
func run(t *testing.T, s system, scope string) (out, ran string, code int) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("setup.sh needs a POSIX shell")
	}
	bin := t.TempDir()
	calls := filepath.Join(bin, "ran")
	script := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o777); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "sed", "dirname"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range s.installed {
		switch name {
		case "go":
			script(name, "echo gcc")
		case "apt-get", "dnf", "pacman", "brew":
			script(name, `echo "`+name+` $*" >> '`+calls+`'`)
		case "old python3":
			script("python3", "exit 1")
		case "python3 without venv":
			script("python3", `case $2 in *venv*) exit 1 ;; esac`)
		case "sudo":
			script(name, `case $1 in -n) exit 0 ;; esac; "$@"`)
		default:
			script(name, "exit 0")
		}
	}
	script("id", "echo "+s.uid)
	script("uname", "echo "+s.name)
	cmd := exec.CommandContext(t.Context(), "sh", "setup.sh", scope)
	cmd.Env = []string{"PATH=" + bin}
	if s.ci {
		cmd.Env = append(cmd.Env, "CI=true")
	}
	text, err := cmd.CombinedOutput()
	if _, ok := err.(*exec.ExitError); err != nil && !ok { //nolint:errorlint // exec returns it unwrapped
		t.Fatal(err)
	}
	log, err := os.ReadFile(calls)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text), string(log), cmd.ProcessState.ExitCode()
}

// without returns the programs, except some.
func without(names ...string) []string {
	var rest []string
	for _, name := range everything {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+name+" ") {
			rest = append(rest, name)
		}
	}
	return rest
}

func TestSetup(t *testing.T) {
	const update = "apt-get update -q\n"
	for name, test := range map[string]struct {
		system
		scope    string
		code     int
		out, ran string
	}{
		"nothing missing":        {system: system{everything, "1000", "Linux", false}, scope: "test"},
		"build ignores promtool": {system: system{without("curl", "promtool", "chromium"), "1000", "Linux", false}, scope: "build"},
		"apt as root": {
			system: system{append(without("make", "gcc", "promtool", "chromium"), "apt-get"), "0", "Linux", false}, scope: "test",
			out: "Missing: make, a C compiler, promtool, Chromium or Chrome\n",
			ran: update + "apt-get install -y -q --no-install-recommends make gcc libc6-dev prometheus chromium\n",
		},
		"dnf as root":    {system: system{append(without("promtool"), "dnf"), "0", "Linux", false}, scope: "test", ran: "dnf install -y golang-github-prometheus\n"},
		"pacman as root": {system: system{append(without("chromium"), "pacman"), "0", "Linux", false}, scope: "test", ran: "pacman -Sy --noconfirm --needed chromium\n"},
		"brew": {
			system: system{append(without("promtool", "chromium"), "brew"), "501", "Darwin", false}, scope: "test",
			ran: "brew install prometheus\nbrew install --cask chromium\n",
		},
		"brew, cask only":          {system: system{append(without("chromium"), "brew"), "501", "Darwin", false}, scope: "test", ran: "brew install --cask chromium\n"},
		"no Homebrew":              {system: system{without("promtool"), "501", "Darwin", false}, scope: "test", code: 1, out: "hint: install Homebrew from https://brew.sh, then run brew install prometheus\n"},
		"macOS without a compiler": {system: system{without("gcc"), "501", "Darwin", false}, scope: "build", code: 1, out: "hint: run xcode-select --install\n"},
		"user without a terminal": {
			system: system{append(without("promtool"), "apt-get", "sudo"), "1000", "Linux", false}, scope: "test", code: 1,
			out: "error: missing: promtool\nhint: run sudo sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends prometheus",
		},
		"user in CI": {
			system: system{append(without("promtool"), "apt-get", "sudo"), "1000", "Linux", true}, scope: "test",
			ran: update + "apt-get install -y -q --no-install-recommends prometheus\n",
		},
		"unknown package manager": {system: system{without("chromium"), "0", "Linux", false}, scope: "test", code: 1, out: "hint: install them with your system's package manager\n"},
		"no Go":                   {system: system{append(without("go"), "apt-get"), "0", "Linux", false}, scope: "build", code: 1, out: "error: Go is missing\nhint: install Go 1."},
		"no Node":                 {system: system{append(without("npm"), "apt-get"), "0", "Linux", false}, scope: "build", code: 1, out: "error: npm is missing"},
		"test ignores Python":     {system: system{everything, "1000", "Linux", false}, scope: "test"},
		"Python":                  {system: system{append(without(), "python3"), "1000", "Linux", false}, scope: "interop"},
		"no Python, apt": {
			system: system{append(without(), "apt-get"), "0", "Linux", false}, scope: "interop",
			ran: update + "apt-get install -y -q --no-install-recommends python3 python3-venv\n",
		},
		"no Python, brew": {system: system{append(without(), "brew"), "501", "Darwin", false}, scope: "interop", ran: "brew install python\n"},
		"no venv module": {
			system: system{append(without(), "python3 without venv", "apt-get"), "0", "Linux", false}, scope: "interop",
			out: "Missing: Python's module venv\n", ran: update + "apt-get install -y -q --no-install-recommends python3-venv\n",
		},
		"no venv module, user without a terminal": {
			system: system{append(without(), "python3 without venv", "apt-get"), "1000", "Linux", false}, scope: "interop", code: 1,
			out: "error: missing: Python's module venv\nhint: run sudo sh -c 'apt-get update",
		},
		"old Python": {
			system: system{append(without(), "old python3", "apt-get"), "0", "Linux", false}, scope: "interop", code: 1,
			out: "error: python3 is older than Python 3.11\nhint: name a newer one, such as PYTHON=python3.12\n",
		},
		"unknown scope": {system: system{everything, "0", "Linux", false}, scope: "everything", code: 2, out: "error: unknown scope everything\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out, ran, code := run(t, test.system, test.scope)
			if code != test.code || ran != test.ran || !strings.Contains(out, test.out) || test.out == "" && test.ran == "" && out != "" {
				t.Errorf("setup.sh %s exits with %d, want %d, and ran %q, want %q; it printed\n%s\nwant %q", test.scope, code, test.code, ran, test.ran, out, test.out)
			}
		})
	}
}
