//go:build unix

package source

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSource_NotARegularFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo.onnx")
	mkfifo(t, fifo)
	for ref, kind := range map[string]string{fifo: "a FIFO", "/dev/zero": "a device", "file:///dev/null": "a device"} {
		_, err := open(t, ref).Current(t.Context())
		checkError(t, err, ErrReference, ref, kind+": use a model file, or a folder of models")
	}
	// A FIFO that replaces a listed file is rejected as well.
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "model", 1)
	s := open(t, path)
	o := current(t, s)
	if err := os.Rename(fifo, path); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), o, "")
	checkError(t, err, ErrReference, "a FIFO")
}
