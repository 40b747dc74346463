package train

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/config"
)

// The files of a run folder.
const (
	configFile     = "config.yaml"
	logFile        = "train.log"
	metricsFile    = "metrics.csv"
	checkpointsDir = "checkpoints"
	modelFile      = "model.onnx"
	evalFile       = "eval.json"
	reportFile     = "report.html"
	lockFile       = ".lock"
)

// folder is a run folder that this process alone writes to.
type folder struct {
	path string
	log  *os.File
	lock *flock.Flock
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// openFolder makes the run's folder, or with run.resume opens the one that the
// run began in. A folder that holds another run, or anything else, is refused.
func openFolder(cfg *config.Config, now time.Time) (*folder, error) {
	f := &folder{path: cfg.Run.Dir}
	var err error
	if f.path == "" && cfg.Run.Resume {
		if f.path, err = newestRun(cfg); err != nil {
			return nil, err
		}
	}
	if f.path == "" {
		if f.path, err = newRun(cfg, now); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return nil, fmt.Errorf("make run folder: %w", err)
	}
	if err := f.claim(cfg); err != nil {
		return nil, err
	}
	f.lock = flock.New(f.file(lockFile))
	locked, err := f.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock run folder %s: %w", f.path, err)
	}
	if !locked {
		return nil, fmt.Errorf("run folder %s: another training is at work in it; wait for it or choose another run.dir", f.path)
	}
	if f.log, err = os.OpenFile(f.file(logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		_ = f.lock.Unlock()
		return nil, fmt.Errorf("open run log: %w", err)
	}
	return f, nil
}

// claim sees that the folder is new, or that of this very run.
func (f *folder) claim(cfg *config.Config) error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return fmt.Errorf("read run folder: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lockFile })
	before, err := config.LoadFile(f.file(configFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(entries) == 0:
		text, err := cfg.YAML()
		if err != nil {
			return err
		}
		if err := atomicwriter.WriteFile(f.file(configFile), text, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", configFile, err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("run folder %s: holds %s, which is no run; choose an empty or new run.dir", f.path, entries[0].Name())
	case err != nil:
		return fmt.Errorf("run folder %s: %w", f.path, err)
	case !cfg.Run.Resume:
		return fmt.Errorf("run folder %s: holds a run already; choose another run.dir, or add run.resume=true to continue it", f.path)
	case before.Digest() != cfg.Digest():
		return fmt.Errorf("run folder %s: its run has another configuration (%s); give the same overrides, or choose another run.dir",
			f.path, strings.Join(before.Differences(cfg), ", "))
	}
	return nil
}

// newRun makes a folder <root>/<time>-<name> that was not there before.
func newRun(cfg *config.Config, now time.Time) (string, error) {
	if err := os.MkdirAll(cfg.Run.Root, 0o755); err != nil {
		return "", fmt.Errorf("make folder of runs (run.root): %w", err)
	}
	base := filepath.Join(cfg.Run.Root, now.Format("20060102-150405")+"-"+cfg.Run.Name)
	for i, path := 2, base; ; i, path = i+1, fmt.Sprintf("%s-%d", base, i) {
		err := os.Mkdir(path, 0o755)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
}

// newestRun finds the youngest run of the configuration's name, whose folder
// names begin with the time.
func newestRun(cfg *config.Config) (string, error) {
	const times = "[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]-[0-9][0-9][0-9][0-9][0-9][0-9]-"
	// Names are made of letters, digits, ".", "_" and "-", so nothing in them is a pattern.
	runs, err := filepath.Glob(filepath.Join(cfg.Run.Root, times+cfg.Run.Name))
	if err != nil || len(runs) == 0 {
		return "", fmt.Errorf("run.resume: no run named %s in %s; name its folder with run.dir=", cfg.Run.Name, cfg.Run.Root)
	}
	return slices.Max(runs), nil
}

func (f *folder) close() {
	_ = f.log.Close()
	_ = f.lock.Unlock()
}

// logTo is where lines of the run go: the person and the run's own log.
func (f *folder) logTo(w io.Writer) io.Writer { return io.MultiWriter(w, f.log) }
