package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// freshness is the age up to which a file may still be being written: a program that writes a file
// without interruption pauses for less.
const freshness = 100 * time.Millisecond

// files is a local file or folder. Which of the two can change, because links are followed and can
// be replaced.
type files struct {
	at    location
	limit int64
}

func (f *files) close() error { return nil }

// all returns the models. Files that vanish meanwhile are skipped.
func (f *files) all(ctx context.Context) ([]Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, &failure{ref: f.at.String(), text: "canceled: " + err.Error(), cause: err}
	}
	info, err := os.Stat(f.at.path)
	if err != nil {
		return nil, fileError(f.at.String(), err)
	}
	if !info.IsDir() {
		if err := regular(f.at.String(), info); err != nil {
			return nil, err
		}
		return []Object{object(f.at, filepath.Base(f.at.path), info)}, nil
	}
	dir, err := os.Open(f.at.path)
	if err != nil {
		return nil, fileError(f.at.String(), err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fileError(f.at.String(), err)
	}
	if len(names) > maxEntries {
		return nil, tooMany(f.at.String())
	}
	var objects []Object
	for _, name := range names {
		if !model(name) {
			continue
		}
		// Skip everything that isn't a regular file or isn't accessible.
		if info, err := os.Stat(filepath.Join(f.at.path, name)); err == nil && info.Mode().IsRegular() {
			objects = append(objects, object(f.at.child(name), name, info))
		}
	}
	return objects, nil
}

func tooMany(ref string) error {
	return fail(ErrReference, ref, "the folder has more than %d entries: use a separate folder for models", maxEntries)
}

func object(at location, name string, info fs.FileInfo) Object {
	return Object{Ref: at.String(), Version: version(info.ModTime(), info.Size()), Size: info.Size(), ModTime: info.ModTime(), name: name}
}

// regular returns an error if info isn't that of a regular file.
func regular(ref string, info fs.FileInfo) error {
	kind := "not a regular file"
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		kind = "replaced by a folder"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a FIFO"
	case mode&fs.ModeDevice != 0:
		kind = "a device"
	}
	return fail(ErrReference, ref, "%s: use a model file, or a folder of models", kind)
}

// fileError converts an error of the operating system.
func fileError(ref string, err error) error {
	f := &failure{ref: ref, kind: ErrUnreachable, cause: err}
	var reason syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		f.kind, f.text = ErrNotFound, "no such file or directory; check the name, or publish a model there"
	case errors.Is(err, fs.ErrPermission):
		f.text = "permission denied; allow the user of this process to read it"
	case errors.As(err, &reason):
		f.text = "cannot read: " + reason.Error()
	default:
		f.text = "cannot read: " + err.Error()
	}
	return f
}

func changed(ref string) error {
	return fail(ErrChanged, ref, "replaced or still being written; try again")
}

func tooLarge(ref string, size, limit int64) error {
	return fail(ErrTooLarge, ref, "%d bytes, but the limit is %d; check that it is a model", size, limit)
}

func (f *files) read(ctx context.Context, o Object) ([]byte, error) {
	path := f.at.path
	if o.Ref != f.at.String() {
		path = filepath.Join(path, o.name)
	}
	check := func(info fs.FileInfo, err error) error {
		if err != nil {
			return fileError(o.Ref, err)
		}
		if err := regular(o.Ref, info); err != nil {
			return err
		}
		if version(info.ModTime(), info.Size()) != o.Version {
			return changed(o.Ref)
		}
		if info.Size() > f.limit {
			return tooLarge(o.Ref, info.Size(), f.limit)
		}
		return nil
	}
	// Check before opening: opening some devices has side effects.
	if err := check(os.Stat(path)); err != nil {
		return nil, err
	}
	if age := time.Since(o.ModTime); 0 <= age && age < freshness {
		if err := sleep(ctx, freshness-age); err != nil {
			return nil, &failure{ref: o.Ref, text: "canceled: " + err.Error(), cause: err}
		}
	}
	// If the file was replaced by a FIFO meanwhile, O_NONBLOCK keeps open from waiting for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(o.Ref, err)
	}
	defer func() { _ = file.Close() }()
	if err := check(file.Stat()); err != nil {
		return nil, err
	}
	data := make([]byte, o.Size)
	if _, err := io.ReadFull(file, data); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, changed(o.Ref)
	} else if err != nil {
		return nil, fileError(o.Ref, err)
	}
	// If the path was replaced by another file, the data is that of the old one. Check only whether the
	// opened file was modified.
	if err := check(file.Stat()); err != nil {
		return nil, err
	}
	return data, nil
}

// sleep waits for d, or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
