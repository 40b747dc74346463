//go:build unix

package dataset

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fullDisk is an environment variable that turns this test binary into a program that prepares a
// dataset in that directory with a limit on the size of files.
const fullDisk = "FAKEART_TEST_FULL_DISK"

func TestHelper_FileSizeLimit(t *testing.T) {
	dir := os.Getenv(fullDisk)
	if dir == "" {
		t.Skip("helper process of TestPrepare_FullDisk")
	}
	signal.Ignore(syscall.SIGXFSZ) // writes fail instead, like on a full disk
	var original syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &original); err != nil {
		t.Fatal(err)
	}
	limited := original
	limited.Cur = 50_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limited); err != nil {
		t.Fatal(err)
	}
	_, err := Prepare(context.Background(), synthetic(dir, 2), io.Discard)
	// At exit, a test binary with coverage writes larger files.
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &original); err != nil {
		t.Fatal(err)
	}
	fmt.Println("helper:", err)
}

func TestPrepare_FullDisk(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	mustPrepare(t, dir, 1)
	before := contents(t, parent)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper_FileSizeLimit$", "-test.v")
	cmd.Env = append(os.Environ(), fullDisk+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "free disk space") || !strings.Contains(string(out), "pixels.tmp") {
		t.Errorf("error = %s, want the file name and a hint to free disk space", out)
	}
	if !maps.Equal(before, contents(t, parent)) {
		t.Error("files have changed")
	}
	onlyIn(t, parent, "d")
}
