package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGenerated checks that the files in internal/imaging are those that this program generates.
func TestGenerated(t *testing.T) {
	dir := t.TempDir()
	code, stubs := filepath.Join(dir, "kernels_amd64.s"), filepath.Join(dir, "kernels_amd64.go")
	if out, err := exec.Command("go", "run", ".", "-out", code, "-stubs", stubs, "-pkg", "imaging").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{code, stubs} {
		_, got, _ := bytes.Cut(read(t, name), []byte("\n")) // without the command line
		_, want, _ := bytes.Cut(read(t, filepath.Join("../../internal/imaging", filepath.Base(name))), []byte("\n"))
		if !bytes.Equal(got, want) {
			t.Errorf("internal/imaging/%s is out of date; run make kernels", filepath.Base(name))
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
