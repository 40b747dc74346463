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

// gatherArchive reads a folder, .zip, .tar or .tar.gz laid out as CIFAKE's archive is:
// train|test/REAL|FAKE/*, in any case, possibly inside other folders. What kind of archive it is
// is read from its content. Nothing is unpacked to disk.
func gatherArchive(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if cfg.Path == "" {
		return Source{}, errors.New("no archive given; set dataset.path to a folder, .zip, .tar or .tar.gz that holds train|test/REAL|FAKE/*")
	}
	info, err := os.Stat(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Source{}, fmt.Errorf("there is no file or folder %s; set dataset.path to a folder, .zip, .tar or .tar.gz", cfg.Path)
	}
	if err != nil {
		return Source{}, err
	}
	a := &archive{name: cfg.Path, c: c, seen: map[string]bool{}}
	err = decodeAll(ctx, c, func(submit func(job) error) error {
		a.submit = submit
		switch {
		case info.IsDir():
			return a.folder(out)
		case info.Mode().IsRegular():
			return a.file(out)
		default:
			return fmt.Errorf("%s is neither a file nor a folder", cfg.Path)
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

// archive places the members of one archive.
type archive struct {
	name   string
	c      *collection
	submit func(job) error
	seen   map[string]bool // keys
	prefix string          // the folders above train and test, once there was a picture
}

// member is one file in an archive.
type member struct {
	path    string // as the archive has it
	size    int64  // as the archive says, -1 if it does not
	problem string // why it cannot be read, if that is known beforehand
	open    func() (io.ReadCloser, error)
}

// isJunk reports whether an operating system left a file or folder of this name.
func isJunk(name string) bool {
	if strings.HasPrefix(name, ".") {
		return true
	}
	return slices.ContainsFunc([]string{"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini"}, func(junk string) bool {
		return strings.EqualFold(name, junk)
	})
}

// visit places one file and hands it to the decoders. It returns an error only if the whole
// archive is to be refused.
func (a *archive) visit(m member) error {
	name := path.Clean(strings.ReplaceAll(m.path, `\`, "/")) // some Windows programs write backslashes
	parts := strings.Split(name, "/")
	if path.IsAbs(name) || parts[0] == ".." || strings.HasSuffix(parts[0], ":") {
		return a.c.unreadable(m.path, errors.New("the path leads out of the archive"))
	}
	if slices.ContainsFunc(parts, isJunk) {
		return nil
	}
	p, err := place(parts)
	if err != nil {
		return err
	}
	if p == nil {
		a.c.refuse(m.path, "not in train|test/REAL|FAKE")
		return nil
	}
	switch {
	case len(a.seen) == 0:
		a.prefix = p.prefix
	case a.prefix != p.prefix:
		return fmt.Errorf("two data sets in one archive, in %q and in %q; take them apart and give one of them as dataset.path",
			path.Join(a.prefix, "."), path.Join(p.prefix, "."))
	}
	if a.seen[p.key] {
		a.c.refuse(m.path, "a file of this path came before")
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

// placed says where in the data set a file belongs.
type placed struct {
	prefix string
	split  int
	class  uint8
	key    string
}

// place finds train|test/REAL|FAKE among the folders of a path. It returns nil for a file that has
// no place in the layout, and an error for a folder that seems to be meant as one of the four and
// is not: leaving out a whole class for a slip in its name would be worse than to stop.
func place(parts []string) (*placed, error) {
	index := func(names []string, name string) int {
		return slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	}
	folders := parts[:len(parts)-1]
	for i := range len(folders) - 1 {
		split, class := index(splitNames[:], folders[i]), index(classNames[:], folders[i+1])
		if split >= 0 && class >= 0 {
			return &placed{
				prefix: path.Join(folders[:i]...),
				split:  split,
				class:  uint8(class),
				key:    path.Join(splitNames[split], classNames[class], path.Join(parts[i+2:]...)),
			}, nil
		}
	}
	for i, folder := range folders {
		at := path.Join(folders[:i+1]...)
		if index(splitNames[:], folder) >= 0 && i+1 < len(folders) {
			wrong := folders[i+1]
			return nil, fmt.Errorf("%s: the class folders are REAL and FAKE%s; rename or remove it",
				path.Join(at, wrong), didYouMean(at, wrong, classNames[:]))
		}
		if index(classNames[:], folder) >= 0 {
			if i == 0 {
				return nil, fmt.Errorf("%s is not in a folder train or test; dataset.path must be what holds train/ and test/", at)
			}
			wrong := folders[i-1]
			return nil, fmt.Errorf("%s: the folders above REAL and FAKE are train and test%s; rename or remove it",
				path.Join(folders[:i]...), didYouMean(path.Join(folders[:i-1]...), wrong, splitNames[:]))
		}
	}
	return nil, nil
}

// didYouMean names the folder that a wrong one may be meant as, if it is only a few letters off.
func didYouMean(above, wrong string, names []string) string {
	for _, name := range names {
		if levenshtein.ComputeDistance(strings.ToLower(wrong), strings.ToLower(name)) <= 2 {
			return " (did you mean " + path.Join(above, name) + "?)"
		}
	}
	return ""
}

// complete refuses an archive that lacks a split or a class.
func (a *archive) complete() error {
	if len(a.seen) == 0 {
		return fmt.Errorf("%s holds no picture in train|test/REAL|FAKE; is dataset.path what holds train/ and test/?", a.name)
	}
	return a.c.complete(a.name)
}

// complete refuses data without pictures of each class in each split.
func (c *collection) complete(name string) error {
	c.sort()
	for split, splitName := range splitNames {
		for class, className := range classNames {
			if c.count(split, uint8(class)) > 0 {
				continue
			}
			folder := splitName + "/" + className
			for _, r := range c.refused {
				if strings.Contains(strings.ToLower(r.Path), strings.ToLower(folder)+"/") {
					return fmt.Errorf("%s has no readable picture in %s, where %s is %s", name, folder, r.Path, r.Reason)
				}
			}
			if len(c.splits[split]) == 0 {
				return fmt.Errorf("%s has no pictures in %s; both splits are needed, each with REAL and FAKE", name, splitName)
			}
			return fmt.Errorf("%s has no pictures in %s; both classes are needed", name, folder)
		}
	}
	return nil
}

// folder reads the pictures below a folder.
func (a *archive) folder(out io.Writer) error {
	var files []string
	var walk func(rel string, above []fs.FileInfo) error
	walk = func(rel string, above []fs.FileInfo) error {
		info, err := os.Stat(filepath.Join(a.name, rel)) // follows a symbolic link
		switch {
		case err != nil && rel == "":
			return err
		case err != nil: // such as a link to nowhere
			a.c.refuse(filepath.ToSlash(rel), err.Error())
			return nil
		case !info.IsDir():
			files = append(files, rel)
			return nil
		case slices.ContainsFunc(above, func(i fs.FileInfo) bool { return os.SameFile(i, info) }):
			a.c.refuse(filepath.ToSlash(rel), "a link to a folder that it is in")
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
			// Opening a named pipe would wait for somebody to write to it.
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

// file reads the pictures of an archive file.
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
		return fmt.Errorf("%s is an empty file", a.name)
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
			return fmt.Errorf("%s is compressed with gzip but holds no tar archive", a.name)
		}
		return a.tar(unzipped)
	case "tar":
		return a.tar(stream)
	case "":
		return fmt.Errorf("%s is no .zip, .tar or .tar.gz archive (it begins with %q)", a.name, head[:min(len(head), 16)])
	default:
		return fmt.Errorf("%s is a %s file; unpack it, or pack it as .zip, .tar or .tar.gz", a.name, kind)
	}
}

// archiveKind tells from the first 512 bytes what a file is, "" if it does not know.
func archiveKind(head []byte) string {
	for _, k := range []struct{ magic, kind string }{
		{"PK\x03\x04", "zip"},
		{"PK\x05\x06", "zip"}, // one without members
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
	// Tar has no magic that every writer sets, but a checksum over its first header.
	if _, err := tar.NewReader(bytes.NewReader(head)).Next(); err == nil || bytes.HasPrefix(head[min(len(head), 257):], []byte("ustar")) {
		return "tar"
	}
	return ""
}

// brokenArchiveError is an error of the archive itself, not of one picture in it.
type brokenArchiveError struct {
	name string
	err  error
}

func (e *brokenArchiveError) Error() string {
	return fmt.Sprintf("%s is cut short or damaged (%v); copy or download it again", e.name, e.err)
}

func (e *brokenArchiveError) Unwrap() error { return e.err }

func (a *archive) zip(f *os.File, size int64, out io.Writer) error {
	z, err := zip.NewReader(f, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // visit refuses such paths itself
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
			// What follows the tar archive is read as well: gzip's checksum stands at its end.
			if _, err := io.Copy(io.Discard, r); err != nil {
				return &brokenArchiveError{a.name, err}
			}
			// archive/tar takes the end of the file between two members for the end of the archive.
			if r.zeros < 512 {
				return &brokenArchiveError{a.name, errors.New("its end mark is missing")}
			}
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &brokenArchiveError{a.name, err}
		}
		m := member{path: h.Name, size: h.Size, open: func() (io.ReadCloser, error) {
			// An error while reading is the archive's, for a tar member has no format of its own.
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

// progressReader counts what is read.
type progressReader struct {
	r   io.Reader
	bar *progress
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.bar.add(int64(n))
	return n, err
}

// zeroTail counts the zero bytes that stand last in what was read.
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
