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

// freshness is the age up to which a file may still be being written. Who writes in
// one go pauses for less.
const freshness = 100 * time.Millisecond

// files is a file or folder of this machine. Which of the two it is may change:
// links are followed, and can be turned.
type files struct {
	at    location
	limit int64
}

func (f *files) close() error { return nil }

// all finds the models. What vanishes while we look was not there.
func (f *files) all(ctx context.Context) ([]Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, &failure{ref: f.at.String(), text: "gave up: " + err.Error(), cause: err}
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
		// Neither what is no file nor what cannot be looked at is a model.
		if info, err := os.Stat(filepath.Join(f.at.path, name)); err == nil && info.Mode().IsRegular() {
			objects = append(objects, object(f.at.child(name), name, info))
		}
	}
	return objects, nil
}

func tooMany(ref string) error {
	return fail(ErrReference, ref, "the folder has more than %d entries: keep models in a folder of their own", maxEntries)
}

func object(at location, name string, info fs.FileInfo) Object {
	return Object{Ref: at.String(), Version: version(info.ModTime(), info.Size()), Size: info.Size(), ModTime: info.ModTime(), name: name}
}

// regular refuses what is no file.
func regular(ref string, info fs.FileInfo) error {
	kind := "is no regular file"
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		kind = "is a folder by now"
	case mode&fs.ModeNamedPipe != 0:
		kind = "is a FIFO"
	case mode&fs.ModeDevice != 0:
		kind = "is a device"
	}
	return fail(ErrReference, ref, "%s: name a model file, or a folder of them", kind)
}

// fileError makes an error of the operating system's.
func fileError(ref string, err error) error {
	f := &failure{ref: ref, kind: ErrUnreachable, cause: err}
	var reason syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		f.kind, f.text = ErrNotFound, "there is no such file or folder; check the name, or publish a model there"
	case errors.Is(err, fs.ErrPermission):
		f.text = "the operating system denies access; give the user of this program the right to read it"
	case errors.As(err, &reason):
		f.text = "cannot be read: " + reason.Error()
	default:
		f.text = "cannot be read: " + err.Error()
	}
	return f
}

func changed(ref string) error {
	return fail(ErrChanged, ref, "it was replaced or is still being written; try again")
}

func tooLarge(ref string, size, limit int64) error {
	return fail(ErrTooLarge, ref, "has %d bytes, and models of up to %d are read; check that it is a model", size, limit)
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
	// Opening is no harmless act for every device.
	if err := check(os.Stat(path)); err != nil {
		return nil, err
	}
	if age := time.Since(o.ModTime); 0 <= age && age < freshness {
		if err := sleep(ctx, freshness-age); err != nil {
			return nil, &failure{ref: o.Ref, text: "gave up: " + err.Error(), cause: err}
		}
	}
	// Should it have become a FIFO meanwhile, this does not wait for a writer.
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
	// Replaced by another file it would still be the old one that we have read; but
	// it may have been written into.
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
