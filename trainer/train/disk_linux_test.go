package train

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is a file system of its own that has room for size bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("fakeart-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a file system to fill up cannot be mounted (root can): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves so many bytes of the disk.
func fill(t *testing.T, disk string, free int) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(disk, &s); err != nil {
		t.Fatal(err)
	}
	ballast := max(int(s.Bavail)*int(s.Bsize)-free, 0)
	if err := os.WriteFile(filepath.Join(disk, "ballast"), make([]byte, ballast), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each test continues a run again and again with a little more room each time,
// so that one file after the other is the one that does not fit.
func TestAFullDiskLosesNothing(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []string
		asked   int // how often the run may ask whether to stop, before
		step    int // of room, in bytes
		unfit   []string
	}{
		{"between epochs", nil, 2, 128 << 10, []string{checkpointFile}},
		// Steps of one picture, so that an epoch's rows need a block more.
		{"within an epoch", []string{"experiment.batch_size=1"}, 36, 128 << 10, []string{metricsFile}},
		{"at the export", nil, 13, 16 << 10, []string{modelFile, evalFile}},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk := smallDisk(t, 16<<20)
			dir := filepath.Join(disk, "run")
			if _, err := Run(newStopAfter(t, test.asked), configuration(t, dir, test.options...), "test", t.Output()); !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
			unfit := map[string]bool{}
			for free := 0; ; free += test.step {
				fill(t, disk, free)
				_, err := Run(t.Context(), configuration(t, dir, append(test.options, "run.resume=true")...), "test", t.Output())
				if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
					t.Fatal(err)
				}
				if err == nil {
					break
				}
				wantError(t, err, "no space left", "make room", "run.dir="+dir+" run.resume=true")
				for _, name := range []string{metricsFile, checkpointFile, modelFile, evalFile, reportFile} {
					if strings.Contains(err.Error(), name) {
						unfit[name] = true
					}
				}
				if c, err := loadCheckpoint(filepath.Join(dir, checkpointsDir)); err != nil || c == nil {
					t.Fatalf("with %d bytes free the checkpoint is gone: %v", free, err)
				}
				mustHoldNoLitter(t, dir)
			}
			for _, name := range test.unfit {
				if !unfit[name] {
					t.Errorf("%s always fitted, so this says nothing about it; unfit were %v", name, unfit)
				}
			}
			want := reference(t)
			if test.options != nil {
				whole := filepath.Join(t.TempDir(), "run")
				mustTrain(t, whole, test.options...)
				want = outcomeOf(t, whole)
			}
			mustEqual(t, outcomeOf(t, dir), want)
		})
	}
}

func TestAFullDiskAtTheStartLeavesNoFolder(t *testing.T) {
	disk := smallDisk(t, 1<<20)
	fill(t, disk, 0)
	dir := filepath.Join(disk, "run")
	mustFail(t, dir, nil, "no space left")
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was left with %q", dir, list(dir))
	}
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	mustTrain(t, dir, "experiment.epochs=1")
}
