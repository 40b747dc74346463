package train

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/config"
	"fakeart/internal/drift"
	"fakeart/trainer/dataset"
)

// Files of a run folder.
const (
	configFile     = "config.yaml"
	logFile        = "train.log"
	metricsFile    = "metrics.csv"
	checkpointsDir = "checkpoints"
	modelFile      = "model.onnx"
	evalFile       = "eval.json"
	reportFile     = "report.html"
	lockFile       = ".lock"

	cpuProfileFile    = "cpu.pprof"
	heapProfileFile   = "heap.pprof"
	onnxProfilePrefix = "onnxruntime" // ONNX Runtime adds the time and .json
)

// folder is a run folder that is locked by this process.
type folder struct {
	path string
	log  *os.File
	lock *flock.Flock
	// createdDir and createdFiles select what discard removes. keep clears them.
	createdDir, createdFiles bool
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// openFolder creates the run folder or, if run.resume is set, opens the existing one. It returns an
// error and changes nothing if the folder contains another run or anything else.
func openFolder(cfg *config.Config, now time.Time) (_ *folder, err error) {
	f := &folder{}
	switch {
	case cfg.Run.Dir != "":
		f.path = filepath.Clean(cfg.Run.Dir)
		f.createdDir, err = makeDir(f.path)
	case cfg.Run.Resume:
		f.path, err = newestRun(cfg)
	default:
		f.path, err = newRun(cfg, now)
		f.createdDir = true
	}
	if err != nil {
		return nil, err
	}
	// Check before anything is written, and again in open after locking.
	_, err = f.check(cfg)
	if err == nil {
		err = f.open(cfg)
	}
	if err != nil {
		f.close(nil)
		return nil, err
	}
	return f, nil
}

// open locks the folder and, if it is new, initializes it.
func (f *folder) open(cfg *config.Config) error {
	lock := flock.New(f.file(lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock run folder %s: %w", f.path, err)
	}
	if !locked {
		f.createdDir = false // another process uses it
		return fmt.Errorf("run folder %s is in use by another training run\nhint: wait until it has finished, or set another run.dir", f.path)
	}
	f.lock = lock
	fresh, err := f.check(cfg)
	if err != nil {
		return err
	}
	f.sweep()
	if fresh {
		f.createdFiles = true
		text, err := cfg.YAML()
		if err != nil {
			return err
		}
		if err := atomicwriter.WriteFile(f.file(configFile), text, 0o644); err != nil {
			return fmt.Errorf("initialize run folder: write %s: %w", f.file(configFile), err)
		}
	}
	if f.log, err = os.OpenFile(f.file(logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return fmt.Errorf("open run log: %w", err)
	}
	return nil
}

// check returns an error unless the folder is empty or contains the run of cfg. fresh reports
// whether it is empty.
func (f *folder) check(cfg *config.Config) (fresh bool, err error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return false, fmt.Errorf("read run folder: %w", err)
	}
	// A run that is killed while it starts leaves only these files.
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == lockFile || strings.HasPrefix(e.Name(), tempPrefix+configFile)
	})
	before, err := config.LoadFile(f.file(configFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(entries) == 0:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("run folder %s contains %s, but no run\nhint: set run.dir to an empty or new directory", f.path, entries[0].Name())
	case err != nil:
		return false, fmt.Errorf("run folder %s: %w", f.path, err)
	case !cfg.Run.Resume:
		return false, fmt.Errorf("run folder %s already contains a run\nhint: set another run.dir, or add run.resume=true to resume it", f.path)
	case before.Digest() != cfg.Digest() && !extends(before, cfg):
		return false, fmt.Errorf("run folder %s contains a run with another configuration (%s)\nhint: use the same overrides, or set another run.dir",
			f.path, strings.Join(before.Differences(cfg), ", "))
	}
	return false, nil
}

// extends reports whether cfg only has more epochs than before, so that the run can be continued.
func extends(before, cfg *config.Config) bool {
	longer := *before
	longer.Experiment.Epochs = cfg.Experiment.Epochs
	return cfg.Experiment.Epochs > before.Experiment.Epochs && longer.Digest() == cfg.Digest()
}

// extend continues the run of a checkpoint for more epochs if cfg extends the configuration in the folder. The learning rate follows the
// schedule of cfg from the next step on. An interruption leaves a folder in which the run can be extended again.
func (f *folder) extend(cfg *config.Config, c *checkpoint) error {
	before, err := config.LoadFile(f.file(configFile))
	if err != nil {
		return fmt.Errorf("run folder %s: %w", f.path, err)
	}
	if !extends(before, cfg) {
		return nil
	}
	c.ConfigDigest, c.Done, c.Since = cfg.Digest(), false, 0
	if err := c.save(f.file(checkpointsDir)); err != nil {
		return err
	}
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	if err := atomicwriter.WriteFile(f.file(configFile), text, 0o644); err != nil {
		return fmt.Errorf("continue run: write %s: %w", f.file(configFile), err)
	}
	return nil
}

// checkpoint returns the last checkpoint, or an initial one if the run has not saved any.
func (f *folder) checkpoint(cfg *config.Config, m *dataset.Manifest) (*checkpoint, error) {
	c, err := loadCheckpoint(f.file(checkpointsDir))
	if err != nil {
		return nil, err
	}
	if c == nil {
		return &checkpoint{ConfigDigest: cfg.Digest(), DataDigest: m.Digest()}, nil
	}
	if c.DataDigest != m.Digest() {
		return nil, fmt.Errorf("resume run %s: it was started with dataset %s, but %s is now %s\nhint: restore that dataset, or set another run.dir",
			f.path, c.DataDigest, cfg.Dataset.Dir, m.Digest())
	}
	before, err := config.LoadFile(f.file(configFile))
	if err != nil {
		return nil, fmt.Errorf("run folder %s: %w", f.path, err)
	}
	extended := extends(before, cfg) && c.ConfigDigest == before.Digest()
	if c.ConfigDigest != cfg.Digest() && !extended {
		return nil, fmt.Errorf("resume run %s: its checkpoint was saved with another configuration than %s\nhint: set another run.dir", f.path, configFile)
	}
	return c, nil
}

// keep marks the folder as worth keeping: discard removes nothing from now on.
func (f *folder) keep() { f.createdDir, f.createdFiles = false, false }

// close logs err, if not nil, to train.log, discards a run that did not start, and releases the
// folder.
func (f *folder) close(err error) {
	if f.log != nil {
		if err != nil {
			slog.New(slog.NewTextHandler(f.log, nil)).Info("stopped", "reason", err)
		}
		_ = f.log.Close()
	}
	f.discard()
	if f.lock != nil {
		_ = f.lock.Unlock()
	}
}

// discard removes what was created for a run that did not get to its first step.
func (f *folder) discard() {
	if f.createdFiles {
		for _, name := range []string{configFile, logFile, metricsFile, cpuProfileFile, heapProfileFile} {
			_ = os.Remove(f.file(name))
		}
		for _, name := range f.startingWith("", onnxProfilePrefix) {
			_ = os.Remove(name)
		}
	}
	if f.createdDir {
		_ = os.Remove(f.file(lockFile))
		_ = os.Remove(f.path) // fails if it is not empty
	}
}

// tempPrefix is the prefix of temporary files of atomicwriter.
const tempPrefix = ".tmp-"

// sweep removes temporary files that a killed run left.
func (f *folder) sweep() {
	for _, name := range []string{configFile, drift.ReferenceFile, modelFile, evalFile, reportFile} {
		for _, temp := range f.startingWith("", tempPrefix+name) {
			_ = os.Remove(temp)
		}
	}
	for _, temp := range f.startingWith(checkpointsDir, tempPrefix+checkpointFile) {
		_ = os.Remove(temp)
	}
}

// startingWith returns the files in a subdirectory of the run folder whose names start with prefix.
func (f *folder) startingWith(dir, prefix string) []string {
	entries, _ := os.ReadDir(f.file(dir)) // empty if the directory does not exist
	var files []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && e.Type().IsRegular() {
			files = append(files, filepath.Join(f.path, dir, e.Name()))
		}
	}
	return files
}

// makeDir creates a directory and its parents, and reports whether the directory is new.
func makeDir(path string) (made bool, err error) {
	err = os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.Mkdir(path, 0o755)
	}
	if err == nil {
		return true, nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return false, nil
	}
	return false, fmt.Errorf("create run folder (run.dir): %w", err)
}

// timeFormat is the prefix of the names of run folders. The names sort by age.
const timeFormat = "20060102-150405"

// newRun creates a new directory <run.root>/<time>-<run.name>. If it exists, it uses the next
// second that is free.
func newRun(cfg *config.Config, now time.Time) (string, error) {
	if err := os.MkdirAll(cfg.Run.Root, 0o755); err != nil {
		return "", fmt.Errorf("create directory of runs (run.root): %w", err)
	}
	for ; ; now = now.Add(time.Second) {
		path := filepath.Join(cfg.Run.Root, now.Format(timeFormat)+"-"+cfg.Run.Name)
		switch err := os.Mkdir(path, 0o755); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrExist):
			return "", fmt.Errorf("create run folder: %w", err)
		}
	}
}

// newestRun returns the newest run folder with the configured name.
func newestRun(cfg *config.Config) (string, error) {
	entries, err := os.ReadDir(cfg.Run.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("run.resume: %w", err)
	}
	for _, e := range slices.Backward(entries) { // sorted by name
		begin, ok := strings.CutSuffix(e.Name(), "-"+cfg.Run.Name)
		if _, err := time.Parse(timeFormat, begin); ok && err == nil && e.IsDir() {
			return filepath.Join(cfg.Run.Root, e.Name()), nil
		}
	}
	return "", fmt.Errorf("run.resume: no run named %s in %s\nhint: set run.dir= to the run folder", cfg.Run.Name, cfg.Run.Root)
}
