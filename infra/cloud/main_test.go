package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCommandLine(t *testing.T) {
	for want, args := range map[string][]string{
		"--stack":                             {"up"},
		"unexpected argument sideways":        {"sideways"},
		"a check failed; nothing was changed": {"down", "--stack", "dev", "--root", t.TempDir(), "--yes"},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", args, err, want)
		}
	}
}

func TestExecute(t *testing.T) {
	var out strings.Builder
	root := t.TempDir()
	err := execute(t.Context(), root, command{args: []string{"sh", "-c", `echo "$WHAT in $PWD"; echo problem >&2; exit 3`}, env: []string{"WHAT=this"}, out: &out, both: true})
	if err == nil || !strings.HasPrefix(err.Error(), "sh -c echo") || !strings.HasSuffix(err.Error(), "exit status 3") {
		t.Errorf("error %v, want the command line and its exit status", err)
	}
	if got := out.String(); !strings.HasPrefix(got, "this in ") || !strings.Contains(got, filepath.Base(root)) || !strings.HasSuffix(got, "problem\n") {
		t.Errorf("output %q", got)
	}
}

func TestWait_ContextCanceled(t *testing.T) {
	if err := wait(t.Context(), 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(ctx, time.Hour); err == nil {
		t.Error("wait returned no error for a canceled context")
	}
}
