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

	cpuProfileFile    = "cpu.pprof"
	heapProfileFile   = "heap.pprof"
	onnxProfilePrefix = "onnxruntime" // ONNX Runtime adds the time and .json
)

// folder is a run folder that this process alone writes to.
type folder struct {
	path string
	log  *os.File
	lock *flock.Flock
	// What of the folder is to go again if the run does not get to its first step.
	madeFolder, madeFiles bool
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// openFolder makes the run's folder, or with run.resume opens the one that the
// run began in. A folder that holds another run, or anything else, is refused
// and left as it is.
func openFolder(cfg *config.Config, now time.Time) (_ *folder, err error) {
	f := &folder{}
	switch {
	case cfg.Run.Dir != "":
		f.path = filepath.Clean(cfg.Run.Dir)
		f.madeFolder, err = makeFolder(f.path)
	case cfg.Run.Resume:
		f.path, err = newestRun(cfg)
	default:
		f.path, err = newRun(cfg, now)
		f.madeFolder = true
	}
	if err != nil {
		return nil, err
	}
	// Before anything is written, and once more when nobody else can be at it.
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

// open takes the folder for this process and begins it where it is new.
func (f *folder) open(cfg *config.Config) error {
	lock := flock.New(f.file(lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock run folder %s: %w", f.path, err)
	}
	if !locked {
		f.madeFolder = false // somebody has moved in
		return fmt.Errorf("run folder %s: another training is at work in it; wait for it or choose another run.dir", f.path)
	}
	f.lock = lock
	fresh, err := f.check(cfg)
	if err != nil {
		return err
	}
	f.sweep()
	if fresh {
		f.madeFiles = true
		text, err := cfg.YAML()
		if err != nil {
			return err
		}
		if err := atomicwriter.WriteFile(f.file(configFile), text, 0o644); err != nil {
			return fmt.Errorf("begin run: write %s: %w", f.file(configFile), err)
		}
	}
	if f.log, err = os.OpenFile(f.file(logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return fmt.Errorf("open run log: %w", err)
	}
	return nil
}

// check sees that the folder is new, or that of this very run.
func (f *folder) check(cfg *config.Config) (fresh bool, err error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return false, fmt.Errorf("read run folder: %w", err)
	}
	// A run that is killed in its first moments leaves these, and no more.
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == lockFile || strings.HasPrefix(e.Name(), litterPrefix+configFile)
	})
	before, err := config.LoadFile(f.file(configFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(entries) == 0:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("run folder %s: holds %s, which is no run; choose an empty or new run.dir", f.path, entries[0].Name())
	case err != nil:
		return false, fmt.Errorf("run folder %s: %w", f.path, err)
	case !cfg.Run.Resume:
		return false, fmt.Errorf("run folder %s: holds a run already; choose another run.dir, or add run.resume=true to continue it", f.path)
	case before.Digest() != cfg.Digest():
		return false, fmt.Errorf("run folder %s: its run has another configuration (%s); give the same overrides, or choose another run.dir",
			f.path, strings.Join(deciding(before, cfg), ", "))
	}
	return false, nil
}

// deciding lists the differences of two configurations that decide which model
// comes out: the digest leaves out the others, and a resumed run may have them.
func deciding(before, now *config.Config) []string {
	b := *before
	b.Run, b.Profiler, b.Evaluate = now.Run, now.Profiler, now.Evaluate
	b.Dataset.Path, b.Dataset.Dir, b.Dataset.Strict, b.Dataset.Endpoint = now.Dataset.Path, now.Dataset.Dir, now.Dataset.Strict, now.Dataset.Endpoint
	return b.Differences(now)
}

// checkpoint is what the run goes on from, fresh where it has not saved yet.
func (f *folder) checkpoint(cfg *config.Config, m *dataset.Manifest) (*checkpoint, error) {
	c, err := loadCheckpoint(f.file(checkpointsDir))
	if err != nil {
		return nil, err
	}
	if c == nil {
		return &checkpoint{ConfigDigest: cfg.Digest(), DataDigest: m.Digest()}, nil
	}
	if c.DataDigest != m.Digest() {
		return nil, fmt.Errorf("continue run %s: it began with another data set (%s) than %s is now (%s); give that one back, or choose another run.dir",
			f.path, c.DataDigest, cfg.Dataset.Dir, m.Digest())
	}
	if c.ConfigDigest != cfg.Digest() {
		return nil, fmt.Errorf("continue run %s: its checkpoint is of another configuration than its %s; choose another run.dir", f.path, configFile)
	}
	return c, nil
}

// begun says that the folder is worth keeping from now on.
func (f *folder) begun() { f.madeFolder, f.madeFiles = false, false }

// close notes in the run's log why the run ended, if with an error, and leaves
// the folder to others. A run that never began is removed.
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

// discard removes what was made for a run that never began, and nothing else.
func (f *folder) discard() {
	if f.madeFiles {
		for _, name := range []string{configFile, logFile, metricsFile, cpuProfileFile, heapProfileFile} {
			_ = os.Remove(f.file(name))
		}
		for _, name := range f.startingWith("", onnxProfilePrefix) {
			_ = os.Remove(name)
		}
	}
	if f.madeFolder {
		_ = os.Remove(f.file(lockFile))
		_ = os.Remove(f.path) // fails where it holds anything
	}
}

// litterPrefix begins the names of files that atomicwriter has not finished.
const litterPrefix = ".tmp-"

// sweep removes the half-written files of a run that was killed.
func (f *folder) sweep() {
	for _, name := range []string{configFile, drift.ReferenceFile, modelFile, evalFile, reportFile} {
		for _, litter := range f.startingWith("", litterPrefix+name) {
			_ = os.Remove(litter)
		}
	}
	for _, litter := range f.startingWith(checkpointsDir, litterPrefix+checkpointFile) {
		_ = os.Remove(litter)
	}
}

// startingWith lists the files of a folder in the run folder by how their names begin.
func (f *folder) startingWith(dir, prefix string) []string {
	entries, _ := os.ReadDir(f.file(dir)) // none where there is no folder
	var files []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && e.Type().IsRegular() {
			files = append(files, filepath.Join(f.path, dir, e.Name()))
		}
	}
	return files
}

// makeFolder makes a folder and those that it is in, and says whether it is new.
func makeFolder(path string) (made bool, err error) {
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
	return false, fmt.Errorf("make run folder (run.dir): %w", err)
}

// timeFormat begins the names of run folders, so that they sort by age.
const timeFormat = "20060102-150405"

// newRun makes a folder <root>/<time>-<name> that was not there before. A run
// that begins in the same second as another is given the next second's name.
func newRun(cfg *config.Config, now time.Time) (string, error) {
	if err := os.MkdirAll(cfg.Run.Root, 0o755); err != nil {
		return "", fmt.Errorf("make folder of runs (run.root): %w", err)
	}
	for ; ; now = now.Add(time.Second) {
		path := filepath.Join(cfg.Run.Root, now.Format(timeFormat)+"-"+cfg.Run.Name)
		switch err := os.Mkdir(path, 0o755); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrExist):
			return "", fmt.Errorf("make run folder: %w", err)
		}
	}
}

// newestRun finds the youngest run of the configuration's name.
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
	return "", fmt.Errorf("run.resume: no run named %s in %s; name its folder with run.dir=", cfg.Run.Name, cfg.Run.Root)
}
