// Package oci makes container images whose digests are functions of what is in
// them: of the files' paths, bytes and modes, of the base's layers, and of the
// time that the caller gives. Neither a container engine nor the file system's
// times and owners have a say.
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

// Entry is a file or a folder of a layer.
type Entry struct {
	// Path is where it is in the image, clean and absolute.
	Path string
	// Source is the file on disk that it is a copy of; empty for a folder.
	Source string
	// Mode is 0o755 for what can be run and for folders, 0o644 for the rest.
	Mode os.FileMode
	// Owner is the user and the group that it belongs to, by number.
	Owner int
}

// Layer returns the layer that holds these entries, and the folders above them.
// The order in which they are given does not matter: it is sorted. All of them
// have the same time. The layer is held in memory.
//
// A source that is neither a file nor a link to one, and a path given twice, are errors.
func Layer(entries []Entry, modified time.Time) (v1.Layer, error) {
	all, err := withFolders(entries)
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

// withFolders adds the folders that the entries lie in, and sorts.
func withFolders(entries []Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
	for _, e := range entries {
		if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || e.Path == "/" {
			return nil, fmt.Errorf("layer: path %q is not clean and absolute", e.Path)
		}
		if _, twice := byPath[e.Path]; twice {
			return nil, fmt.Errorf("layer: path %s is given twice", e.Path)
		}
		byPath[e.Path] = e
	}
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "/"; dir = path.Dir(dir) {
			above, there := byPath[dir]
			if there && above.Source != "" {
				return nil, fmt.Errorf("layer: %s is a file, and has %s below it", dir, e.Path)
			}
			if !there {
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
		return fmt.Errorf("%s is no regular file", e.Source)
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

// level is as good as the best by half a percent, in half the time.
const level = 7

// compressed returns the layer with this tar archive, compressed by the
// compressor that go.mod pins: the standard library's changes its output with
// the version of Go.
func compressed(archive io.Reader) (v1.Layer, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, level)
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

// recompressed returns a layer of the same content, compressed by our own
// compressor. The content is what a base is pinned by in the end: a registry, a
// mirror and a container engine may each hand it out compressed in another way.
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
		err = fmt.Errorf("layer %s has the content %s: it is damaged", want, got)
	}
	return again, err
}
