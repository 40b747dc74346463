package dataset

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
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

	"fakeart/internal/config"
)

// pngOf draws a picture as a PNG file.
func pngOf(tb testing.TB, class uint8, index int) []byte {
	tb.Helper()
	var d drawing
	pixels := make([]byte, imageBytes)
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

// layout is a small data set as files by path: three pictures of each class to train, two to test.
func layout(tb testing.TB) map[string][]byte {
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

// shuffled returns the paths in an order that is neither sorted nor the same for each seed.
func shuffled(files map[string][]byte, seed uint64) []string {
	names := slices.Sorted(maps.Keys(files))
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func asFolder(tb testing.TB, files map[string][]byte) string {
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

func prepareArchive(path, dir string, strict bool) (*Manifest, error) {
	return Prepare(context.Background(), config.Dataset{Name: "archive", Path: path, Dir: dir, Strict: strict}, io.Discard)
}

func TestTheSamePicturesGiveTheSameFilesWhateverTheyArePackedIn(t *testing.T) {
	files := layout(t)
	var want map[string][]byte
	var digest string
	for _, source := range []struct{ name, path string }{
		{"a folder", asFolder(t, files)},
		{"a zip", asFile(t, "a.zip", zipped(t, files))},
		{"a tar", asFile(t, "a.tar", tarred(t, files))},
		{"a tar.gz", asFile(t, "a.tar.gz", gzipped(t, tarred(t, files)))},
		{"a zip that is called .tar", asFile(t, "b.tar", zipped(t, files))},
		{"a tar.gz without extension", asFile(t, "archive", gzipped(t, tarred(t, files)))},
		{"a folder in a folder", asFolder(t, renamed(files, func(s string) string { return "more/cifake/" + s }))},
		{"a zip with a folder on top", asFile(t, "c.zip", zipped(t, renamed(files, func(s string) string { return "cifake/" + s })))},
		{"a tar of .", asFile(t, "c.tar", tarred(t, renamed(files, func(s string) string { return "./" + s })))},
		{"lower-case class names", asFolder(t, renamed(files, strings.ToLower))},
		{"upper-case split names", asFolder(t, renamed(files, func(s string) string {
			return strings.NewReplacer("train", "TRAIN", "test", "Test").Replace(s)
		}))},
		{"backslashes in a zip", asFile(t, "d.zip", zipped(t, renamed(files, func(s string) string { return strings.ReplaceAll(s, "/", `\`) })))},
		{"what operating systems leave", asFolder(t, with(files, map[string][]byte{
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
				t.Errorf("refused: %v", m.Rejected)
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
				t.Error("the files differ from those of the folder")
			}
			if m.Digest() != digest {
				t.Error("the digest differs from that of the folder")
			}
		})
	}
}

func TestPicturesGetTheLabelOfTheirFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := prepareArchive(asFolder(t, layout(t)), dir, true); err != nil {
		t.Fatal(err)
	}
	s, _, err := Load(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	var d drawing
	want := make([]byte, imageBytes)
	for i, label := range []uint8{Fake, Fake, Fake, Real, Real, Real} { // train/FAKE sorts before train/REAL
		d.draw(want, 7, 0, label, i%3)
		if s.Labels[i] != label || !bytes.Equal(s.Image(i), want) {
			t.Errorf("picture %d is not number %d of class %d, or has another label: %d", i, i%3, label, s.Labels[i])
		}
	}
}

func TestWhatCannotBeReadIsNamedAndLeftOut(t *testing.T) {
	good := layout(t)
	whole := good["train/REAL/0000.png"]
	spoilt := with(good, map[string][]byte{
		"train/REAL/cut.png":    whole[:len(whole)/2],
		"train/REAL/empty.png":  {},
		"train/FAKE/notes.txt":  []byte("these are the fakes"),
		"test/FAKE/page.jpg":    []byte("<!DOCTYPE html><html>404</html>"),
		"README.md":             []byte("a file beside the pictures"),
		"train/list.csv":        []byte("a,b"),
		"train/REAL/large.tiff": append([]byte("II*\x00"), make([]byte, 64)...),
	})
	for name, path := range map[string]string{
		"folder": asFolder(t, spoilt),
		"zip":    asFile(t, "a.zip", zipped(t, spoilt)),
		"tar":    asFile(t, "a.tar", tarred(t, spoilt)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			m, err := prepareArchive(path, dir, false)
			if err != nil {
				t.Fatal(err)
			}
			var refused []string
			for _, r := range m.Rejected {
				refused = append(refused, r.Path)
				if r.Reason == "" {
					t.Errorf("%s is refused without a reason", r.Path)
				}
			}
			want := []string{
				"README.md", "test/FAKE/page.jpg", "train/FAKE/notes.txt", "train/REAL/cut.png",
				"train/REAL/empty.png", "train/REAL/large.tiff", "train/list.csv",
			}
			if !slices.Equal(refused, want) {
				t.Errorf("refused %q, want %q", refused, want)
			}
			if m.Splits[Train]["REAL"] != 3 || m.Splits[Test]["FAKE"] != 2 {
				t.Errorf("counts %v, want 3 and 2 of each class", m.Splits)
			}
			if _, err := prepareArchive(path, filepath.Join(t.TempDir(), "d"), true); err == nil || !strings.Contains(err.Error(), "dataset.strict") {
				t.Errorf("strict: %v, want an error that names dataset.strict", err)
			}
		})
	}
}

func TestAnArchiveThatIsNoDataSetIsRefused(t *testing.T) {
	good := layout(t)
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
				all[name] = []byte("no picture")
			}
		}
		return all
	}
	goodZip, goodTar := zipped(t, good), tarred(t, good)
	goodGz := gzipped(t, goodTar)
	emptyDirs := asFolder(t, without("test/"))
	for _, dir := range []string{"test/REAL", "test/FAKE"} {
		if err := os.MkdirAll(filepath.Join(emptyDirs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		name string
		path string
		want []string // the error says all of these
	}{
		{"no path", "", []string{"dataset.path"}},
		{"a path where nothing is", filepath.Join(t.TempDir(), "cifake.zip"), []string{"cifake.zip", "dataset.path"}},
		{"an empty file", asFile(t, "e.zip", nil), []string{"e.zip", "empty"}},
		{"a zip without members", asFile(t, "n.zip", zipped(t, nil)), []string{"holds no picture"}},
		{"a folder without pictures", t.TempDir(), []string{"holds no picture"}},
		{"a class folder misspelt", asFolder(t, move("train/REAL", "train/REALS")), []string{"train/REALS", "(did you mean train/REAL?)"}},
		{"another class folder misspelt", asFolder(t, move("test/FAKE", "test/fakes")), []string{"test/fakes", "(did you mean test/FAKE?)"}},
		{"a split folder misspelt", asFile(t, "a.zip", zipped(t, move("train/", "trian/"))), []string{"trian", "(did you mean train?)"}},
		{"the train folder itself", filepath.Join(asFolder(t, good), "train"), []string{"not in a folder train or test"}},
		{"no test split", asFolder(t, without("test/")), []string{"no pictures in test"}},
		{"an empty test split", emptyDirs, []string{"no pictures in test"}},
		{"no FAKE to train with", asFolder(t, without("train/FAKE")), []string{"no pictures in train/FAKE"}},
		{"a class of which nothing can be read", asFolder(t, broken("test/REAL")), []string{"no readable picture in test/REAL", "test/REAL/0000.png"}},
		{"a zip cut short", asFile(t, "cut.zip", goodZip[:len(goodZip)*2/3]), []string{"cut.zip", "cut short or damaged"}},
		{"a tar cut short in a picture", asFile(t, "cut.tar", goodTar[:len(goodTar)/2+100]), []string{"cut.tar", "cut short or damaged"}},
		{"a tar cut short between two pictures", asFile(t, "cut2.tar", goodTar[:len(goodTar)-1024]), []string{"cut2.tar", "cut short or damaged"}},
		{"a tar.gz cut short", asFile(t, "cut.tgz", goodGz[:len(goodGz)-100]), []string{"cut.tgz", "cut short or damaged"}},
		{"a tar.gz with its checksum cut off", asFile(t, "cut2.tgz", goodGz[:len(goodGz)-6]), []string{"cut2.tgz", "cut short or damaged"}},
		{"gzip without tar in it", asFile(t, "a.gz", gzipped(t, []byte("hello"))), []string{"a.gz", "no tar archive"}},
		{"7-Zip", asFile(t, "a.7z", []byte("7z\xbc\xaf\x27\x1c and more")), []string{"7-Zip", ".tar.gz"}},
		{"a web page in place of the zip", asFile(t, "page.zip", []byte("<!DOCTYPE html>")), []string{"page.zip"}},
		{"a text file", asFile(t, "notes.txt", []byte("hello there")), []string{"notes.txt", "hello there"}},
		{"two data sets in one", asFolder(t, with(renamed(good, func(s string) string { return "a/" + s }), renamed(good, func(s string) string { return "b/" + s }))), []string{"two data sets", `"a"`, `"b"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			_, err := prepareArchive(test.path, dir, false)
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Error("the error has more than one line")
			}
			if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) > 0 {
				t.Errorf("it left %v", entries)
			}
		})
	}
}

func TestMembersOfAZipThatLieAreRefused(t *testing.T) {
	good := layout(t)
	picture := pngOf(t, Real, 50)
	stored := func(name string, size uint64, sum uint32) zip.FileHeader {
		return zip.FileHeader{
			Name: name, Method: zip.Store, CRC32: sum, Extra: nil,
			CompressedSize64: uint64(len(picture)), UncompressedSize64: size,
		}
	}
	sum := crc32.ChecksumIEEE(picture)
	badSum := stored("train/REAL/sum.png", uint64(len(picture)), sum+1)
	huge := stored("train/REAL/huge.png", 1<<40, sum)
	unknown := stored("train/REAL/unknown.png", uint64(len(picture)), sum)
	unknown.Method = 99
	encrypted := stored("train/REAL/encrypted.png", uint64(len(picture)), sum)
	encrypted.Flags = 1
	link := stored("train/REAL/link.png", uint64(len(picture)), sum)
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
		if _, err := w.Write(picture); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"../train/REAL/up.png", "/train/REAL/root.png", "C:/train/REAL/drive.png", "train/../../train/REAL/out.png"} {
		w, _ := z.Create(name)
		_, _ = w.Write(picture)
	}
	// A small member that unpacks to more than any picture has, and does not say so.
	w, _ := z.Create("train/REAL/bomb.png")
	_, _ = w.Write(make([]byte, maxFile+1))
	w, _ = z.Create("train/REAL/0000.png") // a second of this name
	_, _ = w.Write(picture)
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
		"../train/REAL/up.png":     "out of the archive",
		"/train/REAL/root.png":     "out of the archive",
		"C:/train/REAL/drive.png":  "out of the archive",

		"train/../../train/REAL/out.png": "out of the archive",
		"train/REAL/0000.png":            "came before",
	} {
		if !strings.Contains(reasons[path], want) {
			t.Errorf("%s: refused for %q, want %q", path, reasons[path], want)
		}
	}
	if m.Splits[Train]["REAL"] != 3 {
		t.Errorf("%d REAL pictures, want 3", m.Splits[Train]["REAL"])
	}
}

func TestLinksInAFolder(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	source := asFolder(t, layout(t))
	elsewhere := asFolder(t, map[string][]byte{"more/9.png": pngOf(t, Real, 60)})
	for link, target := range map[string]string{
		"train/REAL/more":        filepath.Join(elsewhere, "more"), // followed
		"train/REAL/loop":        filepath.Join(source, "train"),
		"train/REAL/nowhere.png": filepath.Join(source, "gone"),
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
		t.Errorf("%d REAL pictures, want 3 and the one behind the link", m.Splits[Train]["REAL"])
	}
	if len(m.Rejected) != 2 {
		t.Errorf("refused %v, want the loop and the link to nowhere", m.Rejected)
	}
}

func TestACancelEndsTheReadingOfAnArchive(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg := config.Dataset{Name: "archive", Path: asFolder(t, layout(t)), Dir: filepath.Join(t.TempDir(), "d")}
	if _, err := Prepare(ctx, cfg, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func BenchmarkPrepareArchive(b *testing.B) {
	path := cifakeLayout(b)
	for b.Loop() {
		c := &collection{}
		if _, err := gatherArchive(context.Background(), config.Dataset{Path: path}, c, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(10000*float64(b.N)/b.Elapsed().Seconds(), "pictures/s")
}
