package workflows

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// awk runs a script of tools/ and returns its standard output and its messages.
func awk(t *testing.T, script, variable, input string) (out, message string) {
	t.Helper()
	cmd := exec.Command("awk", "-v", variable, "-f", filepath.Join(root, "tools", script))
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := cmd.Run()
	if (err != nil) != (stderr.Len() > 0) {
		t.Errorf("exit: %v, but the message is %q", err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

func TestCoverage(t *testing.T) {
	const profile = `mode: set
m/b/b.go:1.1,2.2 3 0
m/b/b.go:3.1,4.2 1 1
m/a.go:1.1,9.2 5 0
m/a.pb.go:1.1,2.2 100 0
m/b/c.gen.go:1.1,2.2 100 0
mode: set
m/b/b.go:1.1,2.2 3 2
m/b/b.go:3.1,4.2 1 1
m/a.go:1.1,9.2 5 0
m/b/b.go:9.1,9.2 1 0
`
	const table = "m 0.0 % 0 of 5 | m/b 80.0 % 4 of 5 | total 40.0 % 4 of 10"
	for _, test := range []struct{ name, least, profile, want, message string }{
		{"at the minimum", "least=40", profile, table, ""},
		{"below the minimum", "least=41", profile, table, "coverage is 40.0 %, below the minimum of 41 %"},
		{"below the minimum before rounding", "least=66.7", "m/a.go:1.1,1.2 2 1\nm/a.go:2.1,2.2 1 0\n", "m 66.7 % 2 of 3 | total 66.7 % 2 of 3", "below the minimum of 66.7 %"},
		{"empty profile", "least=0", "mode: set\n", "", "the profiles are empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, message := awk(t, "coverage.awk", test.least, test.profile)
			var got []string
			for line := range strings.Lines(out) {
				got = append(got, strings.Join(strings.Fields(line), " "))
			}
			if strings.Join(got, " | ") != test.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " | "), test.want)
			}
			if !strings.Contains(message, test.message) || (message == "") != (test.message == "") {
				t.Errorf("printed %q, want %q", message, test.message)
			}
		})
	}
}

func TestReleaseNotes(t *testing.T) {
	const changelog = `# Changelog

## Unreleased
- Tomorrow.

## 1.10.0 - 2026-11-27

### Added
- This.

## [1.1.0]
- That.

## 1.0.0

## 0.9.0
`
	for _, test := range []struct{ version, want, message string }{
		{"v1.10.0", "### Added\n- This.\n\n", ""},
		{"v1.1.0", "- That.\n\n", ""},
		{"v1.1", "", `section "## 1.1" is missing`},
		{"v1.0.0", "", `section "## 1.0.0" is empty`},
		{"v0.9.0", "", `section "## 0.9.0" is empty`},
		{"v2.0.0", "", `section "## 2.0.0" is missing`},
		{"1.1.0", "", "isn't a version"},
		{"", "", "isn't a version"},
	} {
		out, message := awk(t, "release-notes.awk", "version="+test.version, changelog)
		if out != test.want || !strings.Contains(message, test.message) || (message == "") != (test.message == "") {
			t.Errorf("%q: got %q, printed %q; want %q, %q", test.version, out, message, test.want, test.message)
		}
	}
}
