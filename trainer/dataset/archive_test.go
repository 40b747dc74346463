package dataset

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"fakeart/internal/config"
)

// pngOf draws an image and encodes it as PNG.
func pngOf(tb testing.TB, class uint8, index int) []byte {
	tb.Helper()
	var d drawing
	pixels := make([]byte, syntheticBytes)
	d.draw(pixels, 7, 0, class, index)
	img := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for i := range 32 * 32 {
		copy(img.Pix[4*i:], pixels[3*i:3*i+3])
		img.Pix[4*i+3] = 255
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// cifakeFiles returns the files of a small dataset by path: three images of each class for training, two
// for testing.
func cifakeFiles(tb testing.TB) map[string][]byte {
	files := map[string][]byte{}
	for class, name := range classNames {
		for i := range 3 {
			files[fmt.Sprintf("train/%s/%04d.png", name, i)] = pngOf(tb, uint8(class), i)
		}
		for i := range 2 {
			files[fmt.Sprintf("test/%s/%04d.png", name, i)] = pngOf(tb, uint8(class), 100+i)
		}
	}
	return files
}

// shuffled returns the paths in an order that depends on the seed and is not sorted.
func shuffled(files map[string][]byte, seed uint64) []string {
	names := slices.Sorted(maps.Keys(files))
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func asDirectory(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "source")
	for name, data := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func zipped(tb testing.TB, files map[string][]byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, name := range shuffled(files, 1) {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func tarred(tb testing.TB, files map[string][]byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	t := tar.NewWriter(&buf)
	for _, name := range shuffled(files, 2) {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := t.Write(files[name]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := t.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// compressed compresses data as xz or zstd.
func compressed(tb testing.TB, format string, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	if format == "xz" {
		w, err = xz.NewWriter(&buf)
	} else {
		w, err = zstd.NewWriter(&buf)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// linked returns a tar archive whose images in train are links to files elsewhere in it, through
// another link for some. The targets are in a hidden directory, so that they are ignored.
func linked(tb testing.TB, files map[string][]byte, kind byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h *tar.Header, data []byte) {
		h.Mode, h.Size = 0o644, int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	link := func(name, target string) {
		if kind == tar.TypeSymlink {
			target = strings.Repeat("../", strings.Count(name, "/")) + target
		}
		add(&tar.Header{Name: name, Typeflag: kind, Linkname: target}, nil)
	}
	for i, name := range shuffled(files, 3) {
		if !strings.HasPrefix(name, "train/") {
			add(&tar.Header{Name: name}, files[name])
			continue
		}
		pool := fmt.Sprintf(".pool/%d", i)
		add(&tar.Header{Name: pool}, files[name])
		if i%2 == 0 {
			link(".alias/"+pool, pool)
			pool = ".alias/" + pool
		}
		link(name, pool)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// unsupportedFilter turns the only filter of an xz file, LZMA2, into the filter for ARM code.
func unsupportedFilter(tb testing.TB, data []byte) []byte {
	tb.Helper()
	const block = 12 // after the header of the stream
	size := (int(data[block]) + 1) * 4
	header := data[block : block+size]
	header[2] = 7 // 0x21 is LZMA2
	binary.LittleEndian.PutUint32(header[size-4:], crc32.ChecksumIEEE(header[:size-4]))
	return data
}

func cut(data []byte) []byte { return data[:len(data)*2/3] }

// brokenClass returns the directory of a dataset whose directory train/REAL is a broken link.
func brokenClass(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	dir := asDirectory(tb, files)
	if err := os.RemoveAll(filepath.Join(dir, "train", "REAL")); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "train", "REAL")); err != nil {
		tb.Skip(err)
	}
	return dir
}

func asFile(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return file
}

func with(files map[string][]byte, more map[string][]byte) map[string][]byte {
	all := maps.Clone(files)
	maps.Copy(all, more)
	return all
}

func renamed(files map[string][]byte, name func(string) string) map[string][]byte {
	all := map[string][]byte{}
	for path, data := range files {
		if path = name(path); path != "" {
			all[path] = data
		}
	}
	return all
}

// checkLines fails the test if a line of the error, except for the first one, is not a hint.
func checkLines(t *testing.T, err error) {
	t.Helper()
	for _, line := range strings.Split(err.Error(), "\n")[1:] {
		if !strings.HasPrefix(line, "hint: ") {
			t.Errorf("error has a line that is not a hint: %q", line)
		}
	}
}

func prepareArchive(path, dir string, strict bool) (*Manifest, error) {
	return Prepare(context.Background(), config.Dataset{Name: "archive", Path: path, Dir: dir, Strict: strict}, io.Discard)
}

func TestPrepare_SameDigestForEveryArchiveFormat(t *testing.T) {
	files := cifakeFiles(t)
	var want map[string][]byte
	var digest string
	for _, source := range []struct{ name, path string }{
		{"directory", asDirectory(t, files)},
		{"zip", asFile(t, "a.zip", zipped(t, files))},
		{"tar", asFile(t, "a.tar", tarred(t, files))},
		{"tar_gz", asFile(t, "a.tar.gz", gzipped(t, tarred(t, files)))},
		{"zip_named_tar", asFile(t, "b.tar", zipped(t, files))},
		{"tar_xz", asFile(t, "a.tar.xz", compressed(t, "xz", tarred(t, files)))},
		{"tar_zst", asFile(t, "a.tar.zst", compressed(t, "zstd", tarred(t, files)))},
		{"tar_hard_links", asFile(t, "h.tar", linked(t, files, tar.TypeLink))},
		{"tar_gz_hard_links", asFile(t, "h.tar.gz", gzipped(t, linked(t, files, tar.TypeLink)))},
		{"tar_symbolic_links", asFile(t, "s.tar", linked(t, files, tar.TypeSymlink))},
		{"tar_absolute_names", asFile(t, "p.tar", tarred(t, renamed(files, func(s string) string { return "/home/me/" + s })))},
		{"zip_absolute_names", asFile(t, "p.zip", zipped(t, renamed(files, func(s string) string { return `\home\me\` + strings.ReplaceAll(s, "/", `\`) })))},
		{"nested_splits", asFile(t, "n.zip", zipped(t, renamed(files, func(s string) string { split, _, _ := strings.Cut(s, "/"); return "cifake/" + split + "/" + s })))},
		{"one_nested_split", asDirectory(t, renamed(files, func(s string) string { return strings.Replace(s, "train/", "Train/train/", 1) }))},
		{"upper_case_extension", asDirectory(t, renamed(files, func(s string) string { return strings.Replace(s, ".png", ".PNG", 1) }))},
		{"tar_gz_without_extension", asFile(t, "archive", gzipped(t, tarred(t, files)))},
		{"nested_directory", asDirectory(t, renamed(files, func(s string) string { return "more/cifake/" + s }))},
		{"zip_nested_directory", asFile(t, "c.zip", zipped(t, renamed(files, func(s string) string { return "cifake/" + s })))},
		{"tar_of_current_directory", asFile(t, "c.tar", tarred(t, renamed(files, func(s string) string { return "./" + s })))},
		{"lower_case_class", asDirectory(t, renamed(files, strings.ToLower))},
		{"upper_case_split", asDirectory(t, renamed(files, func(s string) string {
			return strings.NewReplacer("train", "TRAIN", "test", "Test").Replace(s)
		}))},
		{"zip_backslashes", asFile(t, "d.zip", zipped(t, renamed(files, func(s string) string { return strings.ReplaceAll(s, "/", `\`) })))},
		{"junk_files", asDirectory(t, with(files, map[string][]byte{
			"__MACOSX/train/REAL/._0000.png": []byte("x"), "train/REAL/.DS_Store": []byte("x"), "train/FAKE/Thumbs.db": []byte("x"),
		}))},
	} {
		t.Run(source.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			m, err := prepareArchive(source.path, dir, true)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Rejected) > 0 {
				t.Errorf("rejected %v, want nothing", m.Rejected)
			}
			got := map[string][]byte{}
			for name := range m.Files {
				if got[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if want == nil {
				want, digest = got, m.Digest()
				if len(want) != 4 {
					t.Fatalf("%d files, want 4", len(want))
				}
			}
			if !maps.EqualFunc(got, want, bytes.Equal) {
				t.Error("files differ from those of the directory")
			}
			if m.Digest() != digest {
				t.Error("digest differs from that of the directory")
			}
		})
	}
}

// testdata/pixels.tar.bz2 has two images of one pixel per class and split, in two streams, as
// pbzip2 writes them.
func TestPrepare_TarBzip2(t *testing.T) {
	const name = "testdata/pixels.tar.bz2"
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := io.ReadAll(bzip2.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	want, err := prepareArchive(asFile(t, "a.tar", unpacked), filepath.Join(t.TempDir(), "d"), true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := prepareArchive(name, filepath.Join(t.TempDir(), "d"), true)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != want.Digest() || got.Count(Train) != 4 || got.Count(Test) != 4 {
		t.Errorf("digest %s with %v, want %s with 4 images per split", got.Digest(), got.Splits, want.Digest())
	}
}

func TestPrepare_BrokenLinksInTar(t *testing.T) {
	files := cifakeFiles(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
	}
	want := map[string]string{}
	for _, l := range []struct {
		name, target string
		kind         byte
	}{
		{"train/REAL/nowhere.png", "train/REAL/missing.png", tar.TypeLink},
		{"train/REAL/outside.png", "/etc/passwd", tar.TypeSymlink},
		{"train/REAL/above.png", "../../../x.png", tar.TypeSymlink},
		{"train/REAL/folder.png", "../FAKE", tar.TypeSymlink},
		{"train/REAL/itself.png", "itself.png", tar.TypeSymlink},
		{"train/REAL/a.png", "train/REAL/b.png", tar.TypeLink},
		{"train/REAL/b.png", "train/REAL/a.png", tar.TypeLink},
	} {
		if err := w.WriteHeader(&tar.Header{Name: l.name, Linkname: l.target, Typeflag: l.kind}); err != nil {
			t.Fatal(err)
		}
		want[l.name] = "which is not a file in the archive"
	}
	if err := w.WriteHeader(&tar.Header{Name: "train/REAL/pipe.png", Typeflag: tar.TypeFifo}); err != nil {
		t.Fatal(err)
	}
	want["train/REAL/pipe.png"] = "not a regular file"
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := asFile(t, "a.tar", buf.Bytes())
	m, err := prepareArchive(path, filepath.Join(t.TempDir(), "d"), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range m.Rejected {
		if part, ok := want[r.Path]; !ok || !strings.Contains(r.Reason, part) {
			t.Errorf("rejected %s: %s", r.Path, r.Reason)
		}
		delete(want, r.Path)
	}
	if len(want) > 0 || m.Splits[Train]["REAL"] != 3 {
		t.Errorf("not rejected: %v; %d REAL", want, m.Splits[Train]["REAL"])
	}
	if _, err := prepareArchive(path, filepath.Join(t.TempDir(), "d"), true); err == nil || !strings.Contains(err.Error(), "dataset.strict=false") {
		t.Errorf("strict: error = %v", err)
	}
}

func TestPrepare_ValidationSplitIsReported(t *testing.T) {
	files := cifakeFiles(t)
	more := map[string][]byte{"Val/REAL/1.png": files["train/REAL/0000.png"], "Val/FAKE/1.png": files["train/FAKE/0000.png"]}
	for name, path := range map[string]string{"directory": asDirectory(t, with(files, more)), "zip": asFile(t, "a.zip", zipped(t, with(files, more)))} {
		m, err := prepareArchive(path, filepath.Join(t.TempDir(), "d"), true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(m.Rejected) != 1 || m.Rejected[0].Path != "Val" || !strings.Contains(m.Rejected[0].Reason, "2 files of a validation split") || m.Count(Train) != 6 {
			t.Errorf("%s: rejected %v, %d training images", name, m.Rejected, m.Count(Train))
		}
	}
}

func TestPrepare_LabelsFromFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := prepareArchive(asDirectory(t, cifakeFiles(t)), dir, true); err != nil {
		t.Fatal(err)
	}
	s, _, err := Load(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	var d drawing
	want := make([]byte, syntheticBytes)
	for i, label := range []uint8{Fake, Fake, Fake, Real, Real, Real} { // train/FAKE sorts before train/REAL
		d.draw(want, 7, 0, label, i%3)
		if s.Labels[i] != uint16(label) || !bytes.Equal(s.Image(i), want) {
			t.Errorf("image %d is not image %d of class %d, or has label %d", i, i%3, label, s.Labels[i])
		}
	}
}

func TestPrepare_ArchiveUnreadableFiles(t *testing.T) {
	good := cifakeFiles(t)
	valid := good["train/REAL/0000.png"]
	files := with(good, map[string][]byte{
		"train/REAL/cut.png":    valid[:len(valid)/2],
		"train/REAL/empty.png":  {},
		"train/FAKE/notes.txt":  []byte("these are the fakes"),
		"test/FAKE/page.jpg":    []byte("<!DOCTYPE html><html>404</html>"),
		"README.md":             []byte("a file next to the images"),
		"train/list.csv":        []byte("a,b"),
		"train/REAL/large.tiff": append([]byte("II*\x00"), make([]byte, 64)...),
	})
	for name, path := range map[string]string{
		"directory": asDirectory(t, files),
		"zip":       asFile(t, "a.zip", zipped(t, files)),
		"tar":       asFile(t, "a.tar", tarred(t, files)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			m, err := prepareArchive(path, dir, false)
			if err != nil {
				t.Fatal(err)
			}
			var rejected []string
			for _, r := range m.Rejected {
				rejected = append(rejected, r.Path)
				if r.Reason == "" {
					t.Errorf("%s is rejected without a reason", r.Path)
				}
			}
			want := []string{
				"README.md", "test/FAKE/page.jpg", "train/FAKE/notes.txt", "train/REAL/cut.png",
				"train/REAL/empty.png", "train/REAL/large.tiff", "train/list.csv",
			}
			if !slices.Equal(rejected, want) {
				t.Errorf("rejected %q, want %q", rejected, want)
			}
			if m.Splits[Train]["REAL"] != 3 || m.Splits[Test]["FAKE"] != 2 {
				t.Errorf("counts = %v, want 3 and 2 of each class", m.Splits)
			}
			if _, err := prepareArchive(path, filepath.Join(t.TempDir(), "d"), true); err == nil || !strings.Contains(err.Error(), "dataset.strict") {
				t.Errorf("strict: error = %v, want dataset.strict", err)
			}
		})
	}
}

func TestPrepare_ArchiveErrors(t *testing.T) {
	good := cifakeFiles(t)
	without := func(part string) map[string][]byte {
		return renamed(good, func(s string) string {
			if strings.Contains(s, part) {
				return ""
			}
			return s
		})
	}
	move := func(from, to string) map[string][]byte {
		return renamed(good, func(s string) string { return strings.Replace(s, from, to, 1) })
	}
	broken := func(part string) map[string][]byte {
		all := maps.Clone(good)
		for name := range all {
			if strings.Contains(name, part) {
				all[name] = []byte("not an image")
			}
		}
		return all
	}
	goodZip, goodTar := zipped(t, good), tarred(t, good)
	goodGz := gzipped(t, goodTar)
	bzipped, err := os.ReadFile("testdata/pixels.tar.bz2")
	if err != nil {
		t.Fatal(err)
	}
	emptyDirs := asDirectory(t, without("test/"))
	for _, dir := range []string{"test/REAL", "test/FAKE"} {
		if err := os.MkdirAll(filepath.Join(emptyDirs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		name string
		path string
		want []string // substrings of the error
	}{
		{"no_path", "", []string{"dataset.path"}},
		{"missing_file", filepath.Join(t.TempDir(), "cifake.zip"), []string{"cifake.zip", "dataset.path"}},
		{"empty_file", asFile(t, "e.zip", nil), []string{"e.zip", "empty"}},
		{"empty_zip", asFile(t, "n.zip", zipped(t, nil)), []string{"contains no images"}},
		{"empty_directory", t.TempDir(), []string{"contains no images"}},
		{"misspelled_class_in_train", asDirectory(t, move("train/REAL", "train/REALS")), []string{"train/REALS", "(did you mean train/REAL?)"}},
		{"misspelled_class_in_test", asDirectory(t, move("test/FAKE", "test/fakes")), []string{"test/fakes", "(did you mean test/FAKE?)"}},
		{"misspelled_split", asFile(t, "a.zip", zipped(t, move("train/", "trian/"))), []string{"trian", "(did you mean train?)"}},
		{"path_is_train_directory", filepath.Join(asDirectory(t, good), "train"), []string{"not in a directory train or test"}},
		{"no_test_split", asDirectory(t, without("test/")), []string{"no images in test"}},
		{"empty_test_split", emptyDirs, []string{"no images in test"}},
		{"no_FAKE_in_train", asDirectory(t, without("train/FAKE")), []string{"no images in train/FAKE"}},
		{"class_unreadable", asDirectory(t, broken("test/REAL")), []string{"no readable images in test/REAL", "test/REAL/0000.png"}},
		{"truncated_zip", asFile(t, "cut.zip", goodZip[:len(goodZip)*2/3]), []string{"cut.zip", "truncated or damaged"}},
		{"truncated_tar_in_file", asFile(t, "cut.tar", goodTar[:len(goodTar)/2+100]), []string{"cut.tar", "truncated or damaged"}},
		{"truncated_tar_between_files", asFile(t, "cut2.tar", goodTar[:len(goodTar)-1024]), []string{"cut2.tar", "truncated or damaged"}},
		{"truncated_tar_gz", asFile(t, "cut.tgz", goodGz[:len(goodGz)-100]), []string{"cut.tgz", "truncated or damaged"}},
		{"truncated_tar_gz_checksum", asFile(t, "cut2.tgz", goodGz[:len(goodGz)-6]), []string{"cut2.tgz", "truncated or damaged"}},
		{"gzip_without_tar", asFile(t, "a.gz", gzipped(t, []byte("hello"))), []string{"a.gz", "compressed with gzip but does not contain a tar archive"}},
		{"truncated_tar_xz", asFile(t, "cut.tar.xz", cut(compressed(t, "xz", goodTar))), []string{"cut.tar.xz", "truncated or damaged"}},
		{"truncated_tar_zst", asFile(t, "cut.tar.zst", cut(compressed(t, "zstd", goodTar))), []string{"cut.tar.zst", "truncated or damaged: unexpected end of the file"}},
		{"truncated_tar_bz2", asFile(t, "cut.tar.bz2", cut(bzipped)), []string{"cut.tar.bz2", "truncated or damaged: unexpected end of the file"}},
		{"not_xz", asFile(t, "bad.xz", []byte("\xfd7zXZ\x00 and more")), []string{"bad.xz", "truncated or damaged"}},
		{"lz4", asFile(t, "a.tar.lz4", []byte("\x04\x22\x4d\x18 and more")), []string{"LZ4", ".tar.gz"}},
		{"lzma", asFile(t, "a.tar.lzma", []byte("\x5d\x00\x00\x80\x00 and more")), []string{"LZMA", ".tar.gz"}},
		{"no_splits", asDirectory(t, renamed(good, func(s string) string { _, s, _ = strings.Cut(s, "/"); return s })), []string{"FAKE is not in a directory train or test", "hint: move the classes into train/ and test/"}},
		{"unsupported_xz_filter", asFile(t, "f.tar.xz", unsupportedFilter(t, compressed(t, "xz", goodTar))), []string{"f.tar.xz cannot be unpacked: invalid filter", "hint: unpack it with another program"}},
		{"only_validation", asDirectory(t, renamed(good, func(s string) string { return "val/" + strings.SplitN(s, "/", 2)[1] })), []string{"contains no images", "val: 6 files of a validation split are not used"}},
		{"validation_instead_of_test", asDirectory(t, move("test/", "validation/")), []string{"no images in test", "hint: rename validation to test"}},
		{"only_hidden_files", asFile(t, "h.zip", zipped(t, renamed(good, func(s string) string { return ".data/" + s }))), []string{"contains no images", "skipped 10 hidden files"}},
		{"only_files_outside_of_the_archive", asFile(t, "o.tar", tarred(t, renamed(good, func(s string) string { return "../" + s }))), []string{"contains no images", "rejected 10, for example ../test/FAKE/0000.png: path is outside of the archive"}},
		{"nested_and_not_nested", asDirectory(t, with(good, map[string][]byte{"train/train/REAL/0.png": good["train/REAL/0000.png"]})), []string{"two datasets", `"train"`, `"train/train"`}},
		{"class_is_broken_link", brokenClass(t, good), []string{"no readable images in train/REAL", "broken symbolic link"}},
		{"seven_zip", asFile(t, "a.7z", []byte("7z\xbc\xaf\x27\x1c and more")), []string{"7-Zip", ".tar.gz"}},
		{"html_named_zip", asFile(t, "page.zip", []byte("<!DOCTYPE html>")), []string{"page.zip"}},
		{"text_file", asFile(t, "notes.txt", []byte("hello there")), []string{"notes.txt", "hello there"}},
		{"two_datasets", asDirectory(t, with(renamed(good, func(s string) string { return "a/" + s }), renamed(good, func(s string) string { return "b/" + s }))), []string{"two datasets", `"a"`, `"b"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			_, err := prepareArchive(test.path, dir, false)
			if err == nil {
				t.Fatal("error = nil")
			}
			t.Log(err)
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
			checkLines(t, err)
			if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestPrepare_InvalidZipMembers(t *testing.T) {
	good := cifakeFiles(t)
	image := pngOf(t, Real, 50)
	stored := func(name string, size uint64, sum uint32) zip.FileHeader {
		return zip.FileHeader{
			Name: name, Method: zip.Store, CRC32: sum, Extra: nil,
			CompressedSize64: uint64(len(image)), UncompressedSize64: size,
		}
	}
	sum := crc32.ChecksumIEEE(image)
	badSum := stored("train/REAL/sum.png", uint64(len(image)), sum+1)
	huge := stored("train/REAL/huge.png", 1<<40, sum)
	unknown := stored("train/REAL/unknown.png", uint64(len(image)), sum)
	unknown.Method = 99
	encrypted := stored("train/REAL/encrypted.png", uint64(len(image)), sum)
	encrypted.Flags = 1
	link := stored("train/REAL/link.png", uint64(len(image)), sum)
	link.SetMode(os.ModeSymlink | 0o777)

	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, data := range good {
		w, _ := z.Create(name)
		_, _ = w.Write(data)
	}
	for _, h := range []zip.FileHeader{badSum, huge, unknown, encrypted, link} {
		w, err := z.CreateRaw(&h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(image); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"../train/REAL/up.png", "/train/REAL/root.png", "C:/train/REAL/drive.png", "train/../../train/REAL/out.png"} {
		w, _ := z.Create(name)
		_, _ = w.Write(image)
	}
	// A small member that unpacks to more than maxFile without announcing it.
	w, _ := z.Create("train/REAL/bomb.png")
	_, _ = w.Write(make([]byte, maxFile+1))
	w, _ = z.Create("train/REAL/0000.png") // a duplicate name
	_, _ = w.Write(image)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "d")
	m, err := prepareArchive(asFile(t, "a.zip", buf.Bytes()), dir, false)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, r := range m.Rejected {
		reasons[r.Path] = r.Reason
	}
	for path, want := range map[string]string{
		"train/REAL/sum.png":       "checksum",
		"train/REAL/huge.png":      "larger than",
		"train/REAL/bomb.png":      "larger than",
		"train/REAL/unknown.png":   "unsupported compression",
		"train/REAL/encrypted.png": "encrypted",
		"train/REAL/link.png":      "not a regular file",
		"../train/REAL/up.png":     "outside of the archive",
		"C:/train/REAL/drive.png":  "outside of the archive",

		"train/../../train/REAL/out.png": "outside of the archive",
		"train/REAL/0000.png":            "duplicate path",
	} {
		if !strings.Contains(reasons[path], want) {
			t.Errorf("%s: rejected with reason %q, want %q", path, reasons[path], want)
		}
	}
	if m.Splits[Train]["REAL"] != 4 {
		t.Errorf("%d REAL images, want 3 and the one with an absolute name", m.Splits[Train]["REAL"])
	}
}

func TestPrepare_SymbolicLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	source := asDirectory(t, cifakeFiles(t))
	elsewhere := asDirectory(t, map[string][]byte{"more/9.png": pngOf(t, Real, 60)})
	for link, target := range map[string]string{
		"train/REAL/more":        filepath.Join(elsewhere, "more"), // followed
		"train/REAL/loop":        filepath.Join(source, "train"),
		"train/REAL/nowhere.png": filepath.Join(source, "missing"),
	} {
		if err := os.Symlink(target, filepath.Join(source, link)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := prepareArchive(source, filepath.Join(t.TempDir(), "d"), false)
	if err != nil {
		t.Fatal(err)
	}
	if m.Splits[Train]["REAL"] != 4 {
		t.Errorf("%d REAL images, want 3 and the one that the link points to", m.Splits[Train]["REAL"])
	}
	if len(m.Rejected) != 2 || m.Rejected[1].Reason != "broken symbolic link to "+filepath.Join(source, "missing") {
		t.Errorf("rejected %v, want the loop and the broken link", m.Rejected)
	}
	for _, link := range []string{"train/REAL/nowhere.png", "train/REAL/loop"} {
		_, err := prepareArchive(source, filepath.Join(t.TempDir(), "d"), true)
		if err == nil || !strings.Contains(err.Error(), "symbolic link") || !strings.Contains(err.Error(), "dataset.strict=false") {
			t.Errorf("strict: error = %v, want the link", err)
		}
		if err := os.Remove(filepath.Join(source, link)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := prepareArchive(source, filepath.Join(t.TempDir(), "d"), true); err != nil {
		t.Errorf("strict without broken links: %v", err)
	}
}

func TestPrepare_ArchiveCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg := config.Dataset{Name: "archive", Path: asDirectory(t, cifakeFiles(t)), Dir: filepath.Join(t.TempDir(), "d")}
	if _, err := Prepare(ctx, cfg, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}

func BenchmarkPrepareArchive(b *testing.B) {
	path := cifakeZip(b)
	for b.Loop() {
		c := &collection{}
		if _, err := gatherArchive(context.Background(), config.Dataset{Path: path}, c, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(10000*float64(b.N)/b.Elapsed().Seconds(), "images/s")
}
