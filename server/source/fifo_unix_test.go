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

func TestWhatIsNoFileIsRefusedUnopened(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo.onnx")
	mkfifo(t, fifo)
	for ref, kind := range map[string]string{fifo: "is a FIFO", "/dev/zero": "is a device", "file:///dev/null": "is a device"} {
		_, err := open(t, ref).Current(t.Context())
		failed(t, err, ErrReference, ref, kind+": name a model file, or a folder of them")
	}
	// One that takes the place of a file is refused as well.
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "model", 1)
	s := open(t, path)
	o := current(t, s)
	if err := os.Rename(fifo, path); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), o, "")
	failed(t, err, ErrReference, "is a FIFO")
}
