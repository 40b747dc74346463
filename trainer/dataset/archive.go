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

	"github.com/agnivade/levenshtein"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"fakeart/internal/config"
)

// gatherArchive reads a directory, .zip or .tar with the layout of the CIFAKE archive:
// train|test/REAL|FAKE/*, in any case, possibly below other directories. A .tar may be compressed with
// gzip, bzip2, xz or Zstandard. The archive format is detected from the content. Nothing is unpacked to
// disk.
func gatherArchive(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if cfg.Path == "" {
		return Source{}, errors.New("dataset.path is empty\nhint: set it to a directory, .zip or .tar (or .tar.gz, .tar.bz2, .tar.xz, .tar.zst) that contains train|test/REAL|FAKE/*")
	}
	info, err := os.Stat(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Source{}, fmt.Errorf("%s does not exist\nhint: set dataset.path to a directory, .zip or .tar", cfg.Path)
	}
	if err != nil {
		return Source{}, err
	}
	a := &archive{name: cfg.Path, c: c, seen: map[string]bool{}, folders: map[int]string{}, validation: map[string]int{}, linkTargets: map[string]string{}}
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
	name       string
	c          *collection
	submit     func(job) error
	seen       map[string]bool // by location.key
	prefix     string          // path above train and test, set by the first image
	folders    map[int]string  // location.folder of each split, set by its first image
	validation map[string]int  // images in validation splits, which are not used, by directory
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

// visit submits a file for decoding, or rejects it. It returns an error only if the whole archive
// must be rejected.
func (a *archive) visit(m member) error {
	parts := strings.Split(memberName(m.path), "/")
	if parts[0] == ".." || strings.HasSuffix(parts[0], ":") {
		return a.c.unreadable(m.path, errors.New("path is outside of the archive"))
	}
	if slices.ContainsFunc(parts, isJunk) {
		a.hidden, a.hiddenPath = a.hidden+1, m.path
		return nil
	}
	if dir := validationDir(parts); dir != "" {
		a.validation[dir]++
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
	folder, known := a.folders[p.split]
	switch {
	case len(a.seen) > 0 && a.prefix != p.prefix:
		return twoDatasets(a.prefix, p.prefix)
	case known && folder != p.folder:
		return twoDatasets(path.Join(folder, splitNames[p.split]), path.Join(p.folder, splitNames[p.split]))
	}
	a.prefix, a.folders[p.split] = p.prefix, p.folder
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

func twoDatasets(one, other string) error {
	return fmt.Errorf("the archive contains two datasets, in %q and %q\nhint: extract one of them and set dataset.path to it",
		path.Join(one, "."), path.Join(other, "."))
}

// location is where a file belongs in the dataset.
type location struct {
	prefix string // path above train and test
	folder string // path above the directory of the split, which may be nested as in train/train
	split  int
	class  uint8
	key    string
}

func indexFold(names []string, name string) int {
	return slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// validationDir returns the directory of the validation split that a file is in, or "".
func validationDir(parts []string) string {
	for i := range len(parts) - 2 {
		if indexFold([]string{"val", "valid", "validation", "dev"}, parts[i]) >= 0 && indexFold(classNames[:], parts[i+1]) >= 0 {
			return path.Join(parts[:i+1]...)
		}
	}
	return ""
}

// locate finds train|test/REAL|FAKE in the directories of a path. It returns nil for a file outside
// of this layout. It returns an error for a directory that looks like a misspelled split or class,
// because skipping a whole class for a typo would be worse than failing.
func locate(parts []string) (*location, error) {
	dirs := parts[:len(parts)-1]
	for i := range len(dirs) - 1 {
		split, class := indexFold(splitNames[:], dirs[i]), indexFold(classNames[:], dirs[i+1])
		if split >= 0 && class >= 0 {
			above := dirs[:i]
			for len(above) > 0 && strings.EqualFold(above[len(above)-1], dirs[i]) {
				above = above[:len(above)-1]
			}
			return &location{
				prefix: path.Join(above...),
				folder: path.Join(dirs[:i]...),
				split:  split,
				class:  uint8(class),
				key:    path.Join(splitNames[split], classNames[class], path.Join(parts[i+2:]...)),
			}, nil
		}
	}
	for i, dir := range dirs {
		at := path.Join(dirs[:i+1]...)
		if indexFold(splitNames[:], dir) >= 0 && i+1 < len(dirs) {
			wrong := dirs[i+1]
			return nil, fmt.Errorf("%s: unknown class, want REAL or FAKE\nhint: rename or remove the directory%s",
				path.Join(at, wrong), didYouMean(at, wrong, classNames[:]))
		}
		if indexFold(classNames[:], dir) >= 0 {
			if i == 0 {
				return nil, fmt.Errorf("%s is not in a directory train or test\nhint: move the classes into train/ and test/, or set dataset.path to the directory that contains these", at)
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

// complete returns an error if a split or a class is missing, with what was found instead.
func (a *archive) complete() error {
	for _, dir := range slices.Sorted(maps.Keys(a.validation)) {
		a.c.reject(dir, fmt.Sprintf("%d files of a validation split are not used; training holds out validation images of train", a.validation[dir]))
	}
	if len(a.seen) == 0 {
		found := ""
		a.c.sort()
		switch r := a.c.rejected; {
		case len(r) > 0:
			found = fmt.Sprintf("; rejected %d, for example %s: %s", len(r), r[0].Path, r[0].Reason)
		case a.hidden > 0:
			found = fmt.Sprintf("; skipped %d hidden files or directories, for example %s", a.hidden, a.hiddenPath)
		}
		return fmt.Errorf("%s contains no images in train|test/REAL|FAKE%s\nhint: set dataset.path to the directory or archive that contains train/ and test/", a.name, found)
	}
	err := a.c.complete(a.name)
	if err != nil && len(a.c.splits[indexFold(splitNames[:], Test)]) == 0 {
		for dir := range a.validation {
			return fmt.Errorf("%w\nhint: rename %s to test to use it as the test split", err, dir)
		}
	}
	return err
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
				if strings.Contains(strings.ToLower(memberName(r.Path))+"/", strings.ToLower(dir)+"/") {
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
		case err != nil: // for example a broken link
			if target, notLink := os.Readlink(filepath.Join(a.name, rel)); notLink == nil {
				err = fmt.Errorf("broken symbolic link to %s", target)
			}
			return a.c.unreadable(filepath.ToSlash(rel), plainError(err))
		case !info.IsDir():
			files = append(files, rel)
			return nil
		case slices.ContainsFunc(above, func(i fs.FileInfo) bool { return os.SameFile(i, info) }):
			return a.c.unreadable(filepath.ToSlash(rel), errors.New("symbolic link to a parent directory"))
		}
		entries, err := os.ReadDir(filepath.Join(a.name, rel))
		if err != nil {
			return err
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
		return fmt.Errorf("%s is neither a .zip nor a .tar archive (it starts with %q)", a.name, head[:min(len(head), 16)])
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
