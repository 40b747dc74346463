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

// A folder cannot be replaced in one step everywhere, so a result goes through hidden siblings of
// the folder D that it is for:
//
//	.D.fakeart-new   being written
//	.D.fakeart-old   the older data set, between "move it aside" and "remove it"
//	.D.fakeart-lock  held (flock) by the one process that works on D; the kernel lets go of it when
//	                 the process dies, however it dies
//
// Whoever holds the lock may conclude: if D is missing and "old" is there, a process died between
// the two renames, and old is moved back; whatever else lies there is litter.
type store struct {
	dir  string // absolute; not a symbolic link
	lock *flock.Flock
}

func sibling(dir, role string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".fakeart-"+role)
}

// resolveDir makes dir absolute and follows a symbolic link, so that it is the link's target that
// is replaced and not the link.
func resolveDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no folder given; set dataset.dir")
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

// openStore locks dir for this process, heals it, and refuses a folder that holds anything but a
// data set. Close it.
func openStore(ctx context.Context, dir string) (*store, error) {
	dir, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for dataset.dir: %w", err)
	}
	s := &store{dir: dir}
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	if err := s.heal(); err != nil {
		s.close()
		return nil, err
	}
	if err := refuseForeign(dir); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// acquire takes the lock, waiting a moment for a Load that heals.
func (s *store) acquire(ctx context.Context) error {
	path := sibling(s.dir, "lock")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		lock := flock.New(path)
		ok, err := lock.TryLockContext(ctx, 20*time.Millisecond)
		if !ok {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("another process is preparing %s; wait until it has ended", s.dir)
			}
			return fmt.Errorf("lock %s: %w", path, err)
		}
		// The former holder removes the file before it lets go of it. A lock on a removed file
		// keeps nobody out, so try again with the file that is there now.
		held, err1 := lock.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			s.lock = lock
			return nil
		}
		_ = lock.Unlock()
	}
}

// close removes what this process left and lets go of the lock.
func (s *store) close() {
	_ = os.RemoveAll(sibling(s.dir, "new"))
	_ = os.Remove(s.lock.Path())
	_ = s.lock.Unlock()
}

// heal puts right what a killed process left. The lock must be held.
func (s *store) heal() error {
	old := sibling(s.dir, "old")
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(old, s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore the data set that an interrupted run moved aside: %w", err)
		}
	}
	for _, role := range []string{"old", "new"} {
		if err := os.RemoveAll(sibling(s.dir, role)); err != nil {
			return fmt.Errorf("remove what an interrupted run left: %w", err)
		}
	}
	return nil
}

// healInterrupted restores dir if a Prepare was killed between its two renames, and otherwise
// touches nothing.
func healInterrupted(dir string) error {
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
	return s.heal()
}

// refuseForeign returns an error if replacing dir would lose anything that is not a data set.
func refuseForeign(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is a file, not a folder; name another dataset.dir", dir)
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
			return fmt.Errorf("%s holds %q, which is no part of a prepared data set and would be lost; "+
				"name another dataset.dir or move it away", dir, e.Name())
		}
		manifest = manifest || e.Name() == manifestName
	}
	if len(entries) > 0 && !manifest {
		return fmt.Errorf("%s is not empty and has no %s, so it is not a data set of ours to replace; "+
			"name another dataset.dir or empty it", dir, manifestName)
	}
	if len(entries) == 1 { // a manifest.json alone: many programs have one
		data, err := os.ReadFile(filepath.Join(dir, manifestName))
		var m Manifest
		if err != nil || json.Unmarshal(data, &m) != nil || m.FormatVersion == 0 || m.Preprocessing == "" {
			return fmt.Errorf("%s holds a %s that is not a data set's; name another dataset.dir", dir, manifestName)
		}
	}
	return nil
}

// write puts the pictures and the manifest into the hidden folder "new" and completes m.
func (s *store) write(ctx context.Context, m *Manifest, c *collection) error {
	dir := sibling(s.dir, "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("write data set: %w", err)
	}
	m.FormatVersion = FormatVersion
	m.Preprocessing = imaging.PreprocessingID
	m.Classes = Classes()
	m.Splits = map[string]map[string]int{}
	m.Files = map[string]File{}
	m.Rejected = append([]Rejection{}, c.refused...) // never null in the file
	for i, split := range splitNames {
		pictures := c.splits[i]
		if len(pictures) == 0 {
			continue
		}
		counts := map[string]int{}
		for _, name := range classNames {
			counts[name] = 0
		}
		labels := make([]uint8, len(pictures))
		for j, p := range pictures {
			labels[j] = p.class
			counts[classNames[p.class]]++
		}
		m.Splits[split] = counts

		n := len(pictures)
		var err error
		name := imagesName(split)
		m.Files[name], err = writeFile(filepath.Join(dir, name), func(w io.Writer) error {
			if _, err := w.Write(npyHeader([]int{n, imaging.Size, imaging.Size, imaging.Channels})); err != nil {
				return err
			}
			for _, p := range pictures {
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, err := w.Write(p.pixels); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		name = labelsName(split)
		m.Files[name], err = writeFile(filepath.Join(dir, name), func(w io.Writer) error {
			_, err := w.Write(append(npyHeader([]int{n}), labels...))
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err := writeFile(filepath.Join(dir, manifestName), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(m)
	})
	return err
}

// writeFile writes a file, waits until the disk has it, and returns its size and digest.
func writeFile(path string, content func(io.Writer) error) (File, error) {
	fail := func(err error) (File, error) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return File{}, err
		}
		return File{}, fmt.Errorf("write data set: %w; the older data set, if any, is untouched: make room and run it again", err)
	}
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

// publish replaces the data set by what write has written.
func (s *store) publish() error {
	fresh, old := sibling(s.dir, "new"), sibling(s.dir, "old")
	syncDir(fresh)
	err := os.Rename(s.dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move the older data set aside: %w", err)
	}
	if err := os.Rename(fresh, s.dir); err != nil {
		_ = os.Rename(old, s.dir)
		return fmt.Errorf("put the data set in place: %w", err)
	}
	syncDir(filepath.Dir(s.dir))
	// The new data set is in place; what cannot be removed now, the next Prepare removes.
	_ = os.RemoveAll(old)
	return nil
}

// syncDir makes renames in a folder durable where the system can (Windows cannot).
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
