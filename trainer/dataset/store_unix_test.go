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

// fullDisk, set in the environment, makes this test binary a program that prepares a data set in
// that folder and may write no file larger than a few pictures.
const fullDisk = "FAKEART_TEST_FULL_DISK"

func TestHelperMayNotWriteLargeFiles(t *testing.T) {
	dir := os.Getenv(fullDisk)
	if dir == "" {
		t.Skip("this is no test but a program that another test runs")
	}
	signal.Ignore(syscall.SIGXFSZ) // the write fails instead, as it does on a full disk
	var usual syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &usual); err != nil {
		t.Fatal(err)
	}
	small := usual
	small.Cur = 50_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	_, err := Prepare(context.Background(), synthetic(dir, 2), io.Discard)
	// At its exit a test binary with coverage writes files that are larger.
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &usual); err != nil {
		t.Fatal(err)
	}
	fmt.Println("helper:", err)
}

func TestAFullDiskLeavesTheOlderDataSet(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	mustPrepare(t, dir, 1)
	before := contents(t, parent)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperMayNotWriteLargeFiles$", "-test.v")
	cmd.Env = append(os.Environ(), fullDisk+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "make room") || !strings.Contains(string(out), "images.npy") {
		t.Errorf("the error is %s, want one that names the file and says to make room", out)
	}
	if !maps.Equal(before, contents(t, parent)) {
		t.Error("something has changed")
	}
	onlyIn(t, parent, "d")
}
