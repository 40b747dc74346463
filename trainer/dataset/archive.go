package dataset

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"fakeart/internal/config"
)

// gatherArchive reads a directory, .zip, .tar or .tar.gz with the layout of the CIFAKE archive:
// train|test/REAL|FAKE/*, in any case, possibly below other directories. It detects the archive
// format from the content. Nothing is unpacked to disk.
func gatherArchive(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if cfg.Path == "" {
		return Source{}, errors.New("dataset.path is empty\nhint: set it to a directory, .zip, .tar or .tar.gz that contains train|test/REAL|FAKE/*")
	}
	info, err := os.Stat(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Source{}, fmt.Errorf("%s does not exist\nhint: set dataset.path to a directory, .zip, .tar or .tar.gz", cfg.Path)
	}
	if err != nil {
		return Source{}, err
	}
	a := &archive{name: cfg.Path, c: c, seen: map[string]bool{}}
	err = decodeAll(ctx, c, func(submit func(job) error) error {
		a.submit = submit
		switch {
		case info.IsDir():
			return a.directory(out)
		case info.Mode().IsRegular():
			return a.file(out)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", cfg.Path)
		}
	})
	if err != nil {
		return Source{}, fmt.Errorf("archive: %w", err)
	}
	if err := a.complete(); err != nil {
		return Source{}, fmt.Errorf("archive: %w", err)
	}
	return Source{Kind: "archive", Path: cfg.Path}, nil
}

// archive assigns the files of an archive to splits and classes.
type archive struct {
	name   string
	c      *collection
	submit func(job) error
	seen   map[string]bool // by location.key
	prefix string          // path above train and test, set by the first image
}

// member is a file in an archive.
type member struct {
	path    string // as stored in the archive
	size    int64  // according to the archive, -1 if unknown
	problem string // why the file cannot be read, if known in advance
	open    func() (io.ReadCloser, error)
}

// isJunk reports whether a file or directory of this name was created by an operating system.
func isJunk(name string) bool {
	if strings.HasPrefix(name, ".") {
		return true
	}
	return slices.ContainsFunc([]string{"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini"}, func(junk string) bool {
		return strings.EqualFold(name, junk)
	})
}

// visit submits a file for decoding, or rejects it. It returns an error only if the whole archive
// must be rejected.
func (a *archive) visit(m member) error {
	name := path.Clean(strings.ReplaceAll(m.path, `\`, "/")) // some Windows programs write backslashes
	parts := strings.Split(name, "/")
	if path.IsAbs(name) || parts[0] == ".." || strings.HasSuffix(parts[0], ":") {
		return a.c.unreadable(m.path, errors.New("path is outside of the archive"))
	}
	if slices.ContainsFunc(parts, isJunk) {
		return nil
	}
	p, err := locate(parts)
	if err != nil {
		return err
	}
	if p == nil {
		a.c.reject(m.path, "not in train|test/REAL|FAKE")
		return nil
	}
	switch {
	case len(a.seen) == 0:
		a.prefix = p.prefix
	case a.prefix != p.prefix:
		return fmt.Errorf("the archive contains two datasets, in %q and %q\nhint: extract one of them and set dataset.path to it",
			path.Join(a.prefix, "."), path.Join(p.prefix, "."))
	}
	if a.seen[p.key] {
		a.c.reject(m.path, "duplicate path")
		return nil
	}
	a.seen[p.key] = true

	if m.problem != "" {
		return a.c.unreadable(m.path, errors.New(m.problem))
	}
	if m.size > maxFile {
		return a.c.unreadable(m.path, errFileTooLarge)
	}
	r, err := m.open()
	if err != nil {
		return a.c.unreadable(m.path, err)
	}
	data, err := readFile(r)
	_ = r.Close()
	var broken *brokenArchiveError
	if errors.As(err, &broken) {
		return err
	}
	if err != nil {
		return a.c.unreadable(m.path, err)
	}
	return a.submit(job{split: p.split, class: p.class, key: p.key, path: m.path, data: data})
}

// location is where a file belongs in the dataset.
type location struct {
	prefix string
	split  int
	class  uint8
	key    string
}

// locate finds train|test/REAL|FAKE in the directories of a path. It returns nil for a file outside
// of this layout. It returns an error for a directory that looks like a misspelled split or class,
// because skipping a whole class for a typo would be worse than failing.
func locate(parts []string) (*location, error) {
	index := func(names []string, name string) int {
		return slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	}
	dirs := parts[:len(parts)-1]
	for i := range len(dirs) - 1 {
		split, class := index(splitNames[:], dirs[i]), index(classNames[:], dirs[i+1])
		if split >= 0 && class >= 0 {
			return &location{
				prefix: path.Join(dirs[:i]...),
				split:  split,
				class:  uint8(class),
				key:    path.Join(splitNames[split], classNames[class], path.Join(parts[i+2:]...)),
			}, nil
		}
	}
	for i, dir := range dirs {
		at := path.Join(dirs[:i+1]...)
		if index(splitNames[:], dir) >= 0 && i+1 < len(dirs) {
			wrong := dirs[i+1]
			return nil, fmt.Errorf("%s: unknown class, want REAL or FAKE\nhint: rename or remove the directory%s",
				path.Join(at, wrong), didYouMean(at, wrong, classNames[:]))
		}
		if index(classNames[:], dir) >= 0 {
			if i == 0 {
				return nil, fmt.Errorf("%s is not in a directory train or test\nhint: set dataset.path to the directory that contains train/ and test/", at)
			}
			wrong := dirs[i-1]
			return nil, fmt.Errorf("%s: unknown split, want train or test\nhint: rename or remove the directory%s",
				path.Join(dirs[:i]...), didYouMean(path.Join(dirs[:i-1]...), wrong, splitNames[:]))
		}
	}
	return nil, nil
}

// didYouMean suggests the correct path of a misspelled directory if at most two letters differ.
func didYouMean(above, wrong string, names []string) string {
	for _, name := range names {
		if levenshtein.ComputeDistance(strings.ToLower(wrong), strings.ToLower(name)) <= 2 {
			return " (did you mean " + path.Join(above, name) + "?)"
		}
	}
	return ""
}

// complete returns an error if a split or a class is missing.
func (a *archive) complete() error {
	if len(a.seen) == 0 {
		return fmt.Errorf("%s contains no images in train|test/REAL|FAKE\nhint: set dataset.path to the directory or archive that contains train/ and test/", a.name)
	}
	return a.c.complete(a.name)
}

// complete sorts the collection and returns an error unless each split has images of each class.
// name is the name of the source in errors.
func (c *collection) complete(name string) error {
	c.sort()
	for split, splitName := range splitNames {
		for class, className := range classNames {
			if c.count(split, uint8(class)) > 0 {
				continue
			}
			dir := splitName + "/" + className
			for _, r := range c.rejected {
				if strings.Contains(strings.ToLower(r.Path), strings.ToLower(dir)+"/") {
					return fmt.Errorf("%s has no readable images in %s; for example %s: %s", name, dir, r.Path, r.Reason)
				}
			}
			if len(c.splits[split]) == 0 {
				return fmt.Errorf("%s has no images in %s; both splits need images of REAL and FAKE", name, splitName)
			}
			return fmt.Errorf("%s has no images in %s; both splits need images of REAL and FAKE", name, dir)
		}
	}
	return nil
}

// directory reads the images in a directory and its subdirectories.
func (a *archive) directory(out io.Writer) error {
	var files []string
	var walk func(rel string, above []fs.FileInfo) error
	walk = func(rel string, above []fs.FileInfo) error {
		info, err := os.Stat(filepath.Join(a.name, rel)) // follows a symbolic link
		switch {
		case err != nil && rel == "":
			return err
		case err != nil: // for example a dangling link
			a.c.reject(filepath.ToSlash(rel), err.Error())
			return nil
		case !info.IsDir():
			files = append(files, rel)
			return nil
		case slices.ContainsFunc(above, func(i fs.FileInfo) bool { return os.SameFile(i, info) }):
			a.c.reject(filepath.ToSlash(rel), "link to a parent directory")
			return nil
		}
		entries, err := os.ReadDir(filepath.Join(a.name, rel))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if isJunk(e.Name()) {
				continue
			}
			if err := walk(filepath.Join(rel, e.Name()), append(above[:len(above):len(above)], info)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk("", nil); err != nil {
		return err
	}
	bar := newProgress(out, "files read", int64(len(files)), unitFiles)
	defer bar.stop()
	for _, rel := range files {
		m := member{path: filepath.ToSlash(rel), size: -1, open: func() (io.ReadCloser, error) {
			file := filepath.Join(a.name, rel)
			// Opening a named pipe would block until another process writes to it.
			if info, err := os.Stat(file); err != nil {
				return nil, err
			} else if !info.Mode().IsRegular() {
				return nil, errors.New("not a regular file")
			}
			return os.Open(file)
		}}
		if err := a.visit(m); err != nil {
			return err
		}
		bar.add(1)
	}
	return nil
}

// file reads the images in an archive file.
func (a *archive) file(out io.Writer) error {
	f, err := os.Open(a.name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("%s is empty", a.name)
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	head = head[:n]
	kind := archiveKind(head)
	if kind == "zip" || kind == "" && strings.EqualFold(path.Ext(a.name), ".zip") {
		return a.zip(f, info.Size(), out)
	}
	bar := newProgress(out, "archive read", info.Size(), unitBytes)
	defer bar.stop()
	stream := bufio.NewReaderSize(&progressReader{f, bar}, 1<<18)
	switch kind {
	case "gzip":
		z, err := gzip.NewReader(stream)
		if err != nil {
			return &brokenArchiveError{a.name, err}
		}
		defer z.Close()
		unzipped := bufio.NewReaderSize(z, 1<<18)
		head, err := unzipped.Peek(512)
		if err != nil && !errors.Is(err, io.EOF) {
			return &brokenArchiveError{a.name, err}
		}
		if archiveKind(head) != "tar" {
			return fmt.Errorf("%s is compressed with gzip but does not contain a tar archive", a.name)
		}
		return a.tar(unzipped)
	case "tar":
		return a.tar(stream)
	case "":
		return fmt.Errorf("%s is not a .zip, .tar or .tar.gz archive (it starts with %q)", a.name, head[:min(len(head), 16)])
	default:
		return fmt.Errorf("%s is a %s file, which is not supported\nhint: unpack it, or repack it as .zip, .tar or .tar.gz", a.name, kind)
	}
}

// archiveKind detects the format of a file from its first 512 bytes. It returns "" if the format is
// unknown.
func archiveKind(head []byte) string {
	for _, k := range []struct{ magic, kind string }{
		{"PK\x03\x04", "zip"},
		{"PK\x05\x06", "zip"}, // an empty archive
		{"\x1f\x8b", "gzip"},
		{"7z\xbc\xaf\x27\x1c", "7-Zip"},
		{"Rar!\x1a\x07", "RAR"},
		{"\xfd7zXZ\x00", "xz"},
		{"BZh", "bzip2"},
		{"\x28\xb5\x2f\xfd", "Zstandard"},
		{"PAR1", "Parquet"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.kind
		}
	}
	// Not every tar writer sets a magic number, but the first header always has a checksum.
	if _, err := tar.NewReader(bytes.NewReader(head)).Next(); err == nil || bytes.HasPrefix(head[min(len(head), 257):], []byte("ustar")) {
		return "tar"
	}
	return ""
}

// brokenArchiveError is an error of the archive itself, not of one file in it.
type brokenArchiveError struct {
	name string
	err  error
}

func (e *brokenArchiveError) Error() string {
	return fmt.Sprintf("%s is truncated or damaged: %v\nhint: copy or download it again", e.name, e.err)
}

func (e *brokenArchiveError) Unwrap() error { return e.err }

func (a *archive) zip(f *os.File, size int64, out io.Writer) error {
	z, err := zip.NewReader(f, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // visit rejects such paths
		return &brokenArchiveError{a.name, err}
	}
	bar := newProgress(out, "files read", int64(len(z.File)), unitFiles)
	defer bar.stop()
	for _, file := range z.File {
		bar.add(1)
		if strings.HasSuffix(file.Name, "/") {
			continue
		}
		m := member{
			path: file.Name,
			size: int64(min(file.UncompressedSize64, maxFile+1)),
			open: file.Open,
		}
		switch {
		case file.Flags&1 != 0:
			m.problem = "encrypted"
		case file.Mode()&fs.ModeType != 0:
			m.problem = "not a regular file"
		}
		if err := a.visit(m); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) tar(stream io.Reader) error {
	r := &zeroTail{r: stream}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			// Read what follows the tar archive as well, because the checksum of gzip is at its
			// end.
			if _, err := io.Copy(io.Discard, r); err != nil {
				return &brokenArchiveError{a.name, err}
			}
			// archive/tar mistakes an end of file between two members for the end of the archive.
			if r.zeros < 512 {
				return &brokenArchiveError{a.name, errors.New("the end marker is missing")}
			}
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &brokenArchiveError{a.name, err}
		}
		m := member{path: h.Name, size: h.Size, open: func() (io.ReadCloser, error) {
			// A read error is an error of the archive, because a tar member has no encoding of its
			// own.
			return io.NopCloser(tarMember{t, a.name}), nil
		}}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			m.problem = "not a regular file"
		}
		if err := a.visit(m); err != nil {
			return err
		}
	}
}

// tarMember turns read errors into brokenArchiveError.
type tarMember struct {
	r    io.Reader
	name string
}

func (m tarMember) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &brokenArchiveError{m.name, err}
	}
	return n, err
}

// progressReader reports the bytes read to a progress bar.
type progressReader struct {
	r   io.Reader
	bar *progress
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.bar.add(int64(n))
	return n, err
}

// zeroTail counts the trailing zero bytes of the data read so far.
type zeroTail struct {
	r     io.Reader
	zeros int
}

func (z *zeroTail) Read(b []byte) (int, error) {
	n, err := z.r.Read(b)
	rest := bytes.TrimRight(b[:n], "\x00")
	if len(rest) > 0 {
		z.zeros = 0
	}
	z.zeros += n - len(rest)
	return n, err
}
