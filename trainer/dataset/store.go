package dataset

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"fakeart/internal/imaging"
)

// store replaces the directory of a dataset. A directory cannot be replaced atomically on every
// platform, so store uses hidden siblings of the directory D:
//
//	.D.fakeart-new   the new dataset while it is written
//	.D.fakeart-old   the previous dataset, between moving it aside and removing it
//	.D.fakeart-lock  locked (flock) by the one process that works on D; the kernel
//	                 releases the lock when the process dies
//
// So a process that holds the lock can conclude: if D is missing and "old" exists, another process
// died between the two renames, and "old" must be moved back. Anything else in the siblings can be
// deleted.
type store struct {
	dir  string // absolute; not a symbolic link
	lock *flock.Flock
}

func sibling(dir, role string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".fakeart-"+role)
}

// resolveDir makes dir absolute and resolves a symbolic link, so that the target of the link is
// replaced and not the link.
func resolveDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("dataset.dir is empty\nhint: set it to the directory of the dataset")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		return target, nil
	}
	return abs, nil
}

// openStore locks dir for this process, cleans up after interrupted ones, and returns an error if
// dir contains anything except a dataset. The caller must close the store.
func openStore(ctx context.Context, dir string) (*store, error) {
	dir, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("create the parent directory of dataset.dir: %w", err)
	}
	s := &store{dir: dir}
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	if err := s.recoverDir(); err != nil {
		s.close()
		return nil, err
	}
	if err := checkReplaceable(dir); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// acquire takes the lock. It waits up to two seconds, in case a Load is cleaning up.
func (s *store) acquire(ctx context.Context) error {
	path := sibling(s.dir, "lock")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		lock := flock.New(path)
		ok, err := lock.TryLockContext(ctx, 20*time.Millisecond)
		if !ok {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("another process is preparing %s\nhint: wait until it has finished", s.dir)
			}
			return fmt.Errorf("lock %s: %w", path, err)
		}
		// The previous holder removes the file before it releases the lock. A lock on a removed
		// file excludes nobody, so try again with the current file.
		locked, err1 := lock.Stat()
		current, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(locked, current) {
			s.lock = lock
			return nil
		}
		_ = lock.Unlock()
	}
}

// close removes temporary files and releases the lock.
func (s *store) close() {
	_ = os.RemoveAll(sibling(s.dir, "new"))
	_ = os.Remove(s.lock.Path())
	_ = s.lock.Unlock()
}

// recoverDir cleans up after a process that was killed. The caller must hold the lock.
func (s *store) recoverDir() error {
	old := sibling(s.dir, "old")
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(old, s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore the previous dataset after an interruption: %w", err)
		}
	}
	for _, role := range []string{"old", "new"} {
		if err := os.RemoveAll(sibling(s.dir, role)); err != nil {
			return fmt.Errorf("remove temporary files of an interrupted run: %w", err)
		}
	}
	return nil
}

// recoverInterrupted restores dir if a Prepare was killed between its two renames. Otherwise it
// does nothing.
func recoverInterrupted(dir string) error {
	dir, err := resolveDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(sibling(dir, "old")); err != nil {
		return nil
	}
	s := &store{dir: dir}
	if err := s.acquire(context.Background()); err != nil {
		return err
	}
	defer s.close()
	return s.recoverDir()
}

// checkReplaceable returns an error if dir contains anything except a dataset.
func checkReplaceable(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory\nhint: set dataset.dir to another path", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ours := []string{manifestName}
	for _, split := range splitNames {
		ours = append(ours, imagesName(split), labelsName(split))
	}
	manifest := false
	for _, e := range entries {
		if isJunk(e.Name()) {
			continue
		}
		if !slices.Contains(ours, e.Name()) || !e.Type().IsRegular() {
			return fmt.Errorf("%s contains %q, which isn't part of a dataset and would be lost\n"+
				"hint: move it away, or set dataset.dir to another directory", dir, e.Name())
		}
		manifest = manifest || e.Name() == manifestName
	}
	if len(entries) > 0 && !manifest {
		return fmt.Errorf("%s is not empty and has no %s, so it isn't a dataset that can be replaced\n"+
			"hint: empty it, or set dataset.dir to another directory", dir, manifestName)
	}
	if len(entries) == 1 { // only manifest.json, a file name that many programs use
		data, err := os.ReadFile(filepath.Join(dir, manifestName))
		var m Manifest
		if err != nil || json.Unmarshal(data, &m) != nil || m.FormatVersion == 0 || m.Preprocessing == "" {
			return fmt.Errorf("%s contains a %s that isn't a dataset manifest\nhint: set dataset.dir to another directory", dir, manifestName)
		}
	}
	return nil
}

// pixelsName is the file in the hidden directory "new" that holds the pixels of all images until write sorts them.
const pixelsName = "pixels.tmp"

// create creates the hidden directory "new" with an empty file for the pixels.
func (s *store) create() (*os.File, error) {
	dir := sibling(s.dir, "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, writeError(err)
	}
	f, err := os.Create(filepath.Join(dir, pixelsName))
	if err != nil {
		return nil, writeError(err)
	}
	return f, nil
}

// write writes the images and the manifest to the hidden directory "new", and completes m.
func (s *store) write(ctx context.Context, m *Manifest, c *collection) error {
	dir := sibling(s.dir, "new")
	m.FormatVersion = FormatVersion
	m.Size = c.input.Width
	m.Input = &c.input
	m.Preprocessing = c.input.ID()
	m.Classes = c.classes
	m.Splits = map[string]map[string]int{}
	m.Files = map[string]File{}
	m.Rejected = append([]Rejection{}, c.rejected...) // an empty list instead of null in JSON
	for i, split := range splitNames {
		images := c.splits[i]
		if len(images) == 0 {
			continue
		}
		counts := map[string]int{}
		for class, n := range c.counts(i) {
			counts[c.classes[class]] = n
		}
		m.Splits[split] = counts

		n := len(images)
		var err error
		name := imagesName(split)
		m.Files[name], err = writeFile(filepath.Join(dir, name), func(w io.Writer) error {
			if _, err := w.Write(npyHeader(npyUint8, []int{n, m.Size, m.Size, imaging.Channels})); err != nil {
				return err
			}
			pixels := make([]byte, c.plan.Len())
			for j := range images {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := c.pixels(pixels, &images[j]); err != nil {
					return err
				}
				if _, err := w.Write(pixels); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		name = labelsName(split)
		descr := m.labelType()
		m.Files[name], err = writeFile(filepath.Join(dir, name), func(w io.Writer) error {
			data := npyHeader(descr, []int{n})
			for _, p := range images {
				data = append(data, byte(p.class))
				if descr == npyUint16 {
					data = append(data, byte(p.class>>8))
				}
			}
			_, err := w.Write(data)
			return err
		})
		if err != nil {
			return err
		}
	}
	_ = c.file.Close()
	if err := os.Remove(c.file.Name()); err != nil {
		return writeError(err)
	}
	_, err := writeFile(filepath.Join(dir, manifestName), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(m)
	})
	return err
}

// writeFile writes a file, syncs it to disk, and returns its size and digest.
func writeFile(path string, content func(io.Writer) error) (File, error) {
	fail := func(err error) (File, error) { return File{}, writeError(err) }
	f, err := os.Create(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	h := sha256.New()
	var size countingWriter
	w := bufio.NewWriterSize(io.MultiWriter(f, h, &size), 1<<20)
	if err := content(w); err != nil {
		return fail(err)
	}
	if err := w.Flush(); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if err := f.Close(); err != nil {
		return fail(err)
	}
	return File{Bytes: int64(size), SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

type countingWriter int64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}

// publish replaces the dataset with the one that write has written.
func (s *store) publish() error {
	fresh, old := sibling(s.dir, "new"), sibling(s.dir, "old")
	syncDir(fresh)
	err := os.Rename(s.dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move the previous dataset aside: %w", err)
	}
	if err := os.Rename(fresh, s.dir); err != nil {
		_ = os.Rename(old, s.dir)
		return fmt.Errorf("move the new dataset to its place: %w", err)
	}
	syncDir(filepath.Dir(s.dir))
	// The new dataset is in place. If the previous one cannot be removed now, the next Prepare does
	// it.
	_ = os.RemoveAll(old)
	return nil
}

// syncDir makes renames in a directory durable where the platform supports it (not on Windows).
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
