package dataset

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"fakeart/internal/config"
)

// gatherArchive reads a directory, .zip or .tar with the layout of the CIFAKE archive:
// train|test/REAL|FAKE/*, in any case, possibly below other directories. A .tar may be compressed with
// gzip, bzip2, xz or Zstandard. The archive format is detected from the content. Nothing is unpacked to
// disk.
func gatherArchive(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	c.classes = Classes()
	l := &cifakeLayout{folders: map[int]string{}, validation: map[string]int{}}
	a, err := readArchive(ctx, cfg.Path, l, c, out, "train|test/REAL|FAKE/*")
	if err == nil {
		err = l.complete(a)
	}
	if err != nil {
		return Source{}, fmt.Errorf("archive: %w", err)
	}
	return Source{Kind: "archive", Path: cfg.Path}, nil
}

// readArchive reads the images in a directory, .zip or .tar. content describes the layout in errors.
func readArchive(ctx context.Context, name string, l layout, c *collection, out io.Writer, content string) (*archive, error) {
	if name == "" {
		return nil, fmt.Errorf("dataset.path is empty\nhint: set it to a directory, .zip or .tar (or .tar.gz, .tar.bz2, .tar.xz, .tar.zst) that contains %s", content)
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist\nhint: set dataset.path to a directory, .zip or .tar", name)
	}
	if err != nil {
		return nil, err
	}
	a := &archive{name: name, c: c, layout: l, seen: map[string]bool{}, linkTargets: map[string]string{}}
	a.learner, _ = l.(learner)
	err = decodeAll(ctx, c, func(submit func(job) error) error {
		a.submit = submit
		switch {
		case info.IsDir():
			return a.directory(out)
		case info.Mode().IsRegular():
			return a.file(out)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
	})
	return a, err
}

// layout assigns the files of an archive to splits and classes.
type layout interface {
	// locate returns the place of a file in the dataset, or the reason why it has none. It returns an error only if the
	// whole archive must be rejected.
	locate(parts []string) (place *location, reason string, err error)
}

// learner is a layout that depends on the paths of all files.
type learner interface {
	// learn receives the paths in the archive, without hidden ones. Those of directories end with "/".
	learn(paths []string) error
}

// location is where a file belongs in the dataset.
type location struct {
	split int
	class uint16
	key   string // see sample.key
}

// archive reads the files of an archive.
type archive struct {
	name       string
	c          *collection
	layout     layout
	learner    learner // the layout, or nil
	submit     func(job) error
	seen       map[string]bool // by location.key
	hidden     int             // skipped files and directories, see isJunk
	hiddenPath string          // one of them

	// The links of a tar archive: those in the layout, and the targets of all.
	links       []link
	linkTargets map[string]string // by memberName
}

// link is a member of a tar archive that has the content of another member.
type link struct {
	location
	path, target string
}

// member is a file in an archive.
type member struct {
	path    string // as stored in the archive
	size    int64  // according to the archive, -1 if unknown
	problem string // why the file cannot be read, if known in advance
	link    string // memberName of the file that a link refers to, or ""
	open    func() (io.ReadCloser, error)
}

// memberName returns the path of a member as an extracting program would use it: relative, cleaned,
// and with slashes even if a Windows program wrote backslashes.
func memberName(name string) string {
	return path.Clean(strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/"))
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

// parts returns the elements of the path of a member, or nil if it is hidden. It returns an error for a path outside of
// the archive.
func parts(name string) ([]string, error) {
	elements := strings.Split(memberName(name), "/")
	switch {
	case elements[0] == ".." || strings.HasSuffix(elements[0], ":"):
		return nil, errors.New("path is outside of the archive")
	case slices.ContainsFunc(elements, isJunk):
		return nil, nil
	}
	return elements, nil
}

// learn passes the paths in the archive to the layout if it depends on them.
func (a *archive) learn(names []string) error {
	if a.learner == nil {
		return nil
	}
	var paths []string
	for _, name := range names {
		elements, err := parts(name)
		if err != nil || elements == nil {
			continue // visit rejects or counts it
		}
		p := path.Join(elements...)
		if strings.HasSuffix(name, "/") || strings.HasSuffix(name, `\`) {
			p += "/"
		}
		paths = append(paths, p)
	}
	return a.learner.learn(paths)
}

// visit submits a file for decoding, or rejects it. It returns an error only if the whole archive
// must be rejected.
func (a *archive) visit(m member) error {
	elements, err := parts(m.path)
	if err != nil {
		return a.c.unreadable(m.path, err)
	}
	if elements == nil {
		a.hidden, a.hiddenPath = a.hidden+1, m.path
		return nil
	}
	p, reason, err := a.layout.locate(elements)
	if err != nil {
		return err
	}
	if p == nil {
		if reason != "" {
			a.c.reject(m.path, reason)
		}
		return nil
	}
	if a.seen[p.key] {
		a.c.reject(m.path, "duplicate path")
		return nil
	}
	a.seen[p.key] = true

	if m.link != "" {
		a.links = append(a.links, link{*p, m.path, m.link})
		return nil
	}
	if m.problem != "" {
		return a.c.unreadable(m.path, errors.New(m.problem))
	}
	if m.size > maxFile {
		return a.c.unreadable(m.path, errFileTooLarge)
	}
	r, err := m.open()
	if err != nil {
		return a.c.unreadable(m.path, plainError(err))
	}
	data, err := readFile(r)
	_ = r.Close()
	if err := a.readError(m.path, err); err != nil || data == nil {
		return err
	}
	return a.submit(job{split: p.split, class: p.class, key: p.key, path: m.path, data: data})
}

// readError handles an error of readFile: it returns an error of the archive itself, and rejects the
// file otherwise.
func (a *archive) readError(path string, err error) error {
	var broken *brokenArchiveError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &broken):
		return err
	}
	return a.c.unreadable(path, plainError(err))
}

// directory reads the images in a directory and its subdirectories.
func (a *archive) directory(out io.Writer) error {
	var files, names []string
	var walk func(rel string, above []fs.FileInfo) error
	walk = func(rel string, above []fs.FileInfo) error {
		info, err := os.Stat(filepath.Join(a.name, rel)) // follows a symbolic link
		switch {
		case err != nil && rel == "":
			return err
		case err != nil: // for example a broken link
			if target, notLink := os.Readlink(filepath.Join(a.name, rel)); notLink == nil {
				err = fmt.Errorf("broken symbolic link to %s", target)
			}
			return a.c.unreadable(filepath.ToSlash(rel), plainError(err))
		case !info.IsDir():
			files, names = append(files, rel), append(names, filepath.ToSlash(rel))
			return nil
		case slices.ContainsFunc(above, func(i fs.FileInfo) bool { return os.SameFile(i, info) }):
			return a.c.unreadable(filepath.ToSlash(rel), errors.New("symbolic link to a parent directory"))
		}
		entries, err := os.ReadDir(filepath.Join(a.name, rel))
		if err != nil {
			return err
		}
		if rel != "" {
			names = append(names, filepath.ToSlash(rel)+"/")
		}
		for _, e := range entries {
			if isJunk(e.Name()) {
				a.hidden, a.hiddenPath = a.hidden+1, filepath.ToSlash(filepath.Join(rel, e.Name()))
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
	if err := a.learn(names); err != nil {
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
	if kind == "" {
		return fmt.Errorf("%s is neither a .zip nor a .tar archive (it starts with %q)\n"+
			"hint: set dataset.path to a directory, .zip or .tar", a.name, head[:min(len(head), 16)])
	}
	if a.learner != nil { // a tar archive has no table of contents
		if err := a.tarStream(kind, f, a.tarNames); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	bar := newProgress(out, "archive read", info.Size(), unitBytes)
	defer bar.stop()
	if err := a.tarStream(kind, &progressReader{f, bar}, a.tar); err != nil || len(a.links) == 0 {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return a.tarStream(kind, f, a.resolveLinks)
}

// tarStream calls read with the tar archive in a file, which is compressed unless kind is "tar".
func (a *archive) tarStream(kind string, file io.Reader, read func(io.Reader) error) error {
	stream := bufio.NewReaderSize(file, 1<<18)
	if kind == "tar" {
		return read(stream)
	}
	decompress, ok := decompressors[kind]
	if !ok {
		return fmt.Errorf("%s is a %s file, which is not supported\nhint: unpack it, or repack it as .zip or .tar.gz", a.name, kind)
	}
	unpacked, err := decompress(stream)
	if err != nil {
		return &brokenArchiveError{a.name, err}
	}
	defer unpacked.Close()
	stream = bufio.NewReaderSize(unpacked, 1<<18)
	head, err := stream.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return &brokenArchiveError{a.name, err}
	}
	if archiveKind(head) != "tar" {
		return fmt.Errorf("%s is compressed with %s but does not contain a tar archive\nhint: unpack it first", a.name, kind)
	}
	return read(stream)
}

// decompressors are the supported compression formats of tar archives, by archiveKind.
var decompressors = map[string]func(io.Reader) (io.ReadCloser, error){
	"gzip":  func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	"bzip2": func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil },
	"xz": func(r io.Reader) (io.ReadCloser, error) {
		x, err := xz.NewReader(r)
		return io.NopCloser(x), err
	},
	"Zstandard": func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	},
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
		{"\x04\x22\x4d\x18", "LZ4"},
		{"LZIP", "lzip"},
		{"\x5d\x00\x00", "LZMA"},
		{"\x1f\x9d", "compress (.Z)"},
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
	reason := plainError(e.err)
	if text := reason.Error(); strings.Contains(text, "unsupported") || strings.Contains(text, "filter") { // of xz, for programs
		return fmt.Sprintf("%s cannot be unpacked: %v\nhint: unpack it with another program, or repack it as .zip or .tar.gz", e.name, reason)
	}
	return fmt.Sprintf("%s is truncated or damaged: %v\nhint: copy or download it again", e.name, reason)
}

func (e *brokenArchiveError) Unwrap() error { return e.err }

var packagePrefix = regexp.MustCompile(`^[a-z0-9]+(/[a-z0-9]+)?: `)

// plainError returns an error of a library for users: without the name of the package or the call.
func plainError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("unexpected end of the file")
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return errors.New(packagePrefix.ReplaceAllString(err.Error(), ""))
}

// zipMethods are the names of compression methods that archive/zip doesn't support.
var zipMethods = map[uint16]string{9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}

func (a *archive) zip(f *os.File, size int64, out io.Writer) error {
	z, err := zip.NewReader(f, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // visit rejects such paths
		return &brokenArchiveError{a.name, err}
	}
	var names []string
	for _, file := range z.File {
		names = append(names, file.Name)
	}
	if err := a.learn(names); err != nil {
		return err
	}
	bar := newProgress(out, "files read", int64(len(z.File)), unitFiles)
	defer bar.stop()
	for _, file := range z.File {
		bar.add(1)
		if strings.HasSuffix(file.Name, "/") || strings.HasSuffix(file.Name, `\`) {
			continue
		}
		m := member{
			path: file.Name,
			size: int64(min(file.UncompressedSize64, maxFile+1)),
			open: file.Open,
		}
		switch {
		case file.Flags&1 != 0:
			m.problem = "encrypted: extract the archive with its password first"
		case file.Mode()&fs.ModeSymlink != 0:
			m.problem = "symbolic link, which is only followed in a directory or a .tar: not a regular file"
		case file.Mode()&fs.ModeType != 0:
			m.problem = "not a regular file"
		case file.Method != zip.Store && file.Method != zip.Deflate:
			m.problem = fmt.Sprintf("unsupported compression method %s: extract the archive first", cmp.Or(zipMethods[file.Method], fmt.Sprint(file.Method)))
		}
		if err := a.visit(m); err != nil {
			return err
		}
	}
	return nil
}

// tarNames passes the paths in a tar archive to the layout.
func (a *archive) tarNames(stream io.Reader) error {
	t := tar.NewReader(stream)
	var names []string
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return a.learn(names)
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return &brokenArchiveError{a.name, err}
		case h.Typeflag == tar.TypeDir:
			names = append(names, strings.TrimRight(h.Name, "/")+"/")
		case h.Typeflag != tar.TypeXGlobalHeader:
			names = append(names, h.Name)
		}
	}
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
		case tar.TypeLink:
			m.link = memberName(h.Linkname)
		case tar.TypeSymlink:
			m.link = memberName(h.Linkname)
			if !path.IsAbs(h.Linkname) {
				m.link = path.Join(path.Dir(memberName(h.Name)), h.Linkname)
			}
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			m.problem = "not a regular file"
		}
		if m.link != "" {
			a.linkTargets[memberName(h.Name)] = m.link
		}
		if err := a.visit(m); err != nil {
			return err
		}
	}
}

// resolveLinks submits the files that links of the tar archive refer to, in a second pass over it.
func (a *archive) resolveLinks(stream io.Reader) error {
	waiting := map[string][]link{} // by target
	for _, l := range a.links {
		target := l.target
		for range len(a.linkTargets) { // a link to a link
			next, ok := a.linkTargets[target]
			if !ok {
				break
			}
			target = next
		}
		waiting[target] = append(waiting[target], l)
	}
	t := tar.NewReader(stream)
	for len(waiting) > 0 {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &brokenArchiveError{a.name, err}
		}
		name := memberName(h.Name)
		links := waiting[name]
		if len(links) == 0 || h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse {
			continue
		}
		delete(waiting, name)
		data, err := readFile(tarMember{t, a.name})
		for i, l := range links {
			if err != nil {
				if err := a.readError(l.path, err); err != nil {
					return err
				}
				continue
			}
			content := data // the last job returns it to the pool
			if i < len(links)-1 {
				content = pool.get()
				content.Write(data.Bytes())
			}
			if err := a.submit(job{split: l.split, class: l.class, key: l.key, path: l.path, data: content}); err != nil {
				return err
			}
		}
	}
	for _, target := range slices.Sorted(maps.Keys(waiting)) {
		for _, l := range waiting[target] {
			if err := a.c.unreadable(l.path, fmt.Errorf("link to %s, which is not a file in the archive", l.target)); err != nil {
				return err
			}
		}
	}
	return nil
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
