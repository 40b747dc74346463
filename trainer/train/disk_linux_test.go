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

// smallDisk mounts a file system of size bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("fakeart-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("mount a small file system (requires root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill fills the disk up to the given number of free bytes.
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

// Each case resumes a run repeatedly with increasing free space, so that a different file fails to
// be written each time.
func TestRun_FullDisk(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []string
		asked   int // calls of stopAfter.Err before the first interruption
		step    int // increase of the free space, in bytes
		failed  []string
	}{
		{"between_epochs", nil, 2, 128 << 10, []string{checkpointFile}},
		// Steps of one image, so that the rows of an epoch need another block.
		{"within_epoch", []string{"experiment.batch_size=1"}, 36, 128 << 10, []string{metricsFile}},
		{"export", nil, 13, 16 << 10, []string{modelFile, evalFile}},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk := smallDisk(t, 16<<20)
			dir := filepath.Join(disk, "run")
			if _, err := Run(newStopAfter(t, test.asked), configuration(t, dir, test.options...), "test", t.Output()); !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
			failed := map[string]bool{}
			for free := 0; ; free += test.step {
				fill(t, disk, free)
				_, err := Run(t.Context(), configuration(t, dir, append(test.options, "run.resume=true")...), "test", t.Output())
				if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
					t.Fatal(err)
				}
				if err == nil {
					break
				}
				wantError(t, err, "no space left", "free disk space", "run.dir="+dir+" run.resume=true")
				for _, name := range []string{metricsFile, checkpointFile, modelFile, evalFile, reportFile} {
					if strings.Contains(err.Error(), name) {
						failed[name] = true
					}
				}
				if c, err := loadCheckpoint(filepath.Join(dir, checkpointsDir)); err != nil || c == nil {
					t.Fatalf("with %d bytes free the checkpoint was lost: %v", free, err)
				}
				mustHaveNoTempFiles(t, dir)
			}
			for _, name := range test.failed {
				if !failed[name] {
					t.Errorf("writing %s never failed; failed: %v", name, failed)
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

func TestRun_FullDiskAtStart(t *testing.T) {
	disk := smallDisk(t, 1<<20)
	fill(t, disk, 0)
	dir := filepath.Join(disk, "run")
	mustFail(t, dir, nil, "no space left")
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was left behind with %q", dir, list(dir))
	}
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	mustTrain(t, dir, "experiment.epochs=1")
}
