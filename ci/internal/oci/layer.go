// Package oci builds reproducible container images without a container engine. A digest depends
// only on the files' paths, content, modes and owners, on the base's layers, and on the time that
// the caller passes. It doesn't depend on times and owners in the file system.
//
// Get a [Base] with [PullBase] or [ReadBase], add layers from [Layer] with [Image], and join the
// platforms with [Index]. A [Bundle] is an index with its attachments: [Bundle.Save] writes it as
// an OCI layout, and [Bundle.Push] pushes it to a registry.
package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// Entry is a file or a directory in a layer.
type Entry struct {
	// Path is the path in the image. It must be clean and absolute.
	Path string
	// Source is the file on disk to copy. Empty means that the entry is a directory.
	Source string
	// Mode should be 0o755 for executables and directories, and 0o644 for other files.
	Mode os.FileMode
	// Owner is the id of both the user and the group that own the entry.
	Owner int
}

// Layer returns a layer with these entries and their parent directories, sorted by path. All of them
// get the modification time modified, in whole seconds. The layer is held in memory.
//
// It returns an error if a source isn't a regular file or a link to one, or if two entries have the
// same path.
func Layer(entries []Entry, modified time.Time) (v1.Layer, error) {
	all, err := withParents(entries)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range all {
		if err := write(w, e, modified); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", e.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return compressed(&archive)
}

// withParents adds the entries' parent directories and sorts all entries by path.
func withParents(entries []Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
	for _, e := range entries {
		if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || e.Path == "/" {
			return nil, fmt.Errorf("layer: path %q isn't clean and absolute", e.Path)
		}
		if _, duplicate := byPath[e.Path]; duplicate {
			return nil, fmt.Errorf("layer: duplicate path %s", e.Path)
		}
		byPath[e.Path] = e
	}
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "/"; dir = path.Dir(dir) {
			parent, ok := byPath[dir]
			if ok && parent.Source != "" {
				return nil, fmt.Errorf("layer: %s is a file, but also the parent of %s", dir, e.Path)
			}
			if !ok {
				byPath[dir] = Entry{Path: dir, Mode: 0o755}
			}
		}
	}
	var all []Entry
	for _, e := range byPath {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// write adds an entry to a tar archive.
func write(w *tar.Writer, e Entry, modified time.Time) error {
	header := &tar.Header{
		Name: strings.TrimPrefix(e.Path, "/"), Mode: int64(e.Mode.Perm()),
		Uid: e.Owner, Gid: e.Owner, ModTime: modified.UTC().Truncate(time.Second),
	}
	if e.Source == "" {
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		return w.WriteHeader(header)
	}
	f, err := os.Open(e.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s isn't a regular file", e.Source)
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("%s: %w", e.Source, err)
	}
	return nil
}

// compressionLevel takes half the time of the best level. The result is half a percent larger.
const compressionLevel = 7

// compressed returns a layer with this tar archive. It uses a compressor that go.mod pins, because the
// output of the standard library's compressor changes between versions of Go.
func compressed(archive io.Reader) (v1.Layer, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, compressionLevel)
	if err != nil {
		return nil, fmt.Errorf("compress a layer: %w", err)
	}
	if _, err := io.Copy(w, archive); err != nil {
		return nil, fmt.Errorf("compress a layer: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress a layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(out.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// recompressed returns a layer with the same content, compressed by [compressed]. A registry, a mirror
// and a container engine may compress the same content in different ways. It returns an error if the
// content doesn't match the layer's diff id.
func recompressed(layer v1.Layer) (_ v1.Layer, err error) {
	want, err := layer.DiffID()
	if err != nil {
		return nil, err
	}
	archive, err := layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	again, err := compressed(archive)
	if err != nil {
		return nil, err
	}
	got, err := again.DiffID()
	if err == nil && got != want {
		err = fmt.Errorf("layer %s is corrupt: its content has the digest %s", want, got)
	}
	return again, err
}
