package dataset

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"fakeart/internal/config"
)

// mustPrepare prepares a small synthetic data set in dir.
func mustPrepare(tb testing.TB, dir string, seed int64) *Manifest {
	tb.Helper()
	m, err := Prepare(context.Background(), synthetic(dir, seed), io.Discard)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// contents reads all files below a folder.
func contents(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

// onlyIn fails the test if a folder holds anything but these names.
func onlyIn(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, names) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestANewDataSetTakesThePlaceOfTheOlder(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	one := mustPrepare(t, dir, 1)
	two := mustPrepare(t, dir, 2)
	if one.Digest() == two.Digest() {
		t.Fatal("two seeds give the same data")
	}
	for _, split := range splitNames {
		if _, m, err := Load(dir, split); err != nil || m.Digest() != two.Digest() {
			t.Errorf("%s: error %v, want the second data set", split, err)
		}
	}
	onlyIn(t, parent, "d")
	if again := mustPrepare(t, filepath.Join(parent, "e"), 2); again.Digest() != two.Digest() {
		t.Error("the same seed gives other data")
	}
}

func TestALinkToAFolderIsKept(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on Windows")
	}
	parent := t.TempDir()
	dir, target := filepath.Join(parent, "d"), filepath.Join(parent, "large-disk", "d")
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, dir); err != nil {
		t.Fatal(err)
	}
	mustPrepare(t, dir, 1)
	m := mustPrepare(t, dir, 2)
	if info, err := os.Lstat(dir); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone (%v)", err)
	}
	if _, got, err := Load(target, Test); err != nil || got.Digest() != m.Digest() {
		t.Errorf("the link's target: %v, want the second data set", err)
	}
	onlyIn(t, filepath.Dir(target), "d")
}

func TestAFolderThatIsNoDataSetIsNotTouched(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"somebody's pictures", map[string]string{"holiday.jpg": "x"}, "holiday.jpg"},
		{"arrays without a manifest", map[string]string{"train-images.npy": "x"}, "manifest.json"},
		{"another program's manifest", map[string]string{"manifest.json": `{"name": "app", "version": 3}`}, "manifest.json"},
		{"a data set with something beside it", map[string]string{"manifest.json": `{"format_version": 1}`, "train-images.npy": "x", "notes.txt": "x"}, "notes.txt"},
		{"a folder in it", map[string]string{"manifest.json": `{"format_version": 1}`, "train-images.npy/x": "x"}, "train-images.npy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			for name, data := range test.files {
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			before := contents(t, filepath.Dir(dir))
			_, err := Prepare(context.Background(), synthetic(dir, 1), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "dataset.dir") {
				t.Errorf("error %v, want one that names %s and dataset.dir", err, test.want)
			}
			if !maps.Equal(before, contents(t, filepath.Dir(dir))) {
				t.Error("something has changed")
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		file := asFile(t, "d", []byte("x"))
		if _, err := Prepare(context.Background(), synthetic(file, 1), io.Discard); err == nil || !strings.Contains(err.Error(), "not a folder") {
			t.Errorf("error %v, want one that says it is not a folder", err)
		}
	})
	t.Run("the source itself", func(t *testing.T) {
		source := asFolder(t, layout(t))
		if _, err := prepareArchive(source, source, false); err == nil {
			t.Error("no error")
		}
		if len(contents(t, source)) != len(layout(t)) {
			t.Error("pictures are gone")
		}
	})
}

func TestAnEmptyOrSpoiltDataSetIsReplaced(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"an empty folder":         func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) },
		"a manifest cut short":    func(dir string) error { return os.Truncate(filepath.Join(dir, manifestName), 40) },
		"arrays cut short":        func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 40) },
		"a file missing":          func(dir string) error { return os.Remove(filepath.Join(dir, "test-labels.npy")) },
		"a file manager's litter": func(dir string) error { return os.WriteFile(filepath.Join(dir, ".DS_Store"), nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			mustPrepare(t, dir, 1)
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			m := mustPrepare(t, dir, 2)
			if _, got, err := Load(dir, Train); err != nil || got.Digest() != m.Digest() {
				t.Errorf("error %v, want the second data set", err)
			}
		})
	}
}

func TestWhatEndsPrepareEarlyLeavesTheOlderDataSet(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  config.Dataset
		want string
	}{
		{"a source that is none", config.Dataset{Name: "kaggle"}, "dataset=archive"},
		{"an archive that is not there", config.Dataset{Name: "archive", Path: "nowhere.zip"}, "nowhere.zip"},
		{"no pictures asked for", config.Dataset{Name: "synthetic"}, "train_per_class"},
		{"too many pictures", config.Dataset{Name: "synthetic", TrainPerClass: 1 << 30}, "train_per_class"},
		{"a negative number of pictures", config.Dataset{Name: "synthetic", TrainPerClass: 1, TestPerClass: -1}, "test_per_class"},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "d")
			mustPrepare(t, dir, 1)
			before := contents(t, parent)
			test.cfg.Dir = dir
			if _, err := Prepare(context.Background(), test.cfg, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that names %s", err, test.want)
			}
			if !maps.Equal(before, contents(t, parent)) {
				t.Error("something has changed")
			}
		})
	}
	t.Run("a cancel while drawing", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		mustPrepare(t, dir, 1)
		before := contents(t, parent)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		cfg := synthetic(dir, 2)
		cfg.TrainPerClass = 100_000
		if _, err := Prepare(ctx, cfg, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the context's", err)
		}
		if !maps.Equal(before, contents(t, parent)) {
			t.Error("something has changed")
		}
		onlyIn(t, parent, "d")
	})
	t.Run("a cancel while writing", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		mustPrepare(t, dir, 1)
		before := contents(t, parent)
		ctx, cancel := context.WithCancel(context.Background())
		gather := func(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
			defer cancel()
			return gatherSynthetic(ctx, cfg, c, out)
		}
		if _, err := prepare(ctx, synthetic(dir, 2), io.Discard, gather); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		if !maps.Equal(before, contents(t, parent)) {
			t.Error("something has changed")
		}
		onlyIn(t, parent, "d")
	})
}

func TestAKillBetweenTheRenamesIsHealed(t *testing.T) {
	for _, healer := range []struct {
		name string
		run  func(dir string) error
	}{
		{"Load", func(dir string) error { _, _, err := Load(dir, Train); return err }},
		{"ReadManifest", func(dir string) error { _, err := ReadManifest(dir); return err }},
		{"a Prepare that fails", func(dir string) error {
			if _, err := prepareArchive("nowhere.zip", dir, false); err == nil {
				return errors.New("it did not fail")
			}
			return nil
		}},
	} {
		t.Run(healer.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "d")
			m := mustPrepare(t, dir, 1)
			// As if it had been killed after it moved the older data set aside.
			if err := os.Rename(dir, sibling(dir, "old")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(sibling(dir, "new"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := healer.run(dir); err != nil {
				t.Fatal(err)
			}
			if _, got, err := Load(dir, Test); err != nil || got.Digest() != m.Digest() {
				t.Errorf("error %v, want the older data set", err)
			}
			onlyIn(t, parent, "d")
		})
	}
	t.Run("after the second rename the new one stays", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		mustPrepare(t, dir, 1)
		if err := os.Rename(dir, sibling(dir, "old")); err != nil {
			t.Fatal(err)
		}
		m := mustPrepareBeside(t, dir, 2)
		if _, got, err := Load(dir, Test); err != nil || got.Digest() != m.Digest() {
			t.Errorf("error %v, want the new data set", err)
		}
		mustPrepare(t, dir, 3)
		onlyIn(t, parent, "d")
	})
}

// mustPrepareBeside prepares elsewhere and moves the result to dir, so that nothing is healed.
func mustPrepareBeside(t *testing.T, dir string, seed int64) *Manifest {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "x")
	m := mustPrepare(t, elsewhere, seed)
	if err := os.Rename(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTwoPreparesOfOneFolderDoNotMix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, err := openStore(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Prepare(context.Background(), synthetic(dir, 1), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v, want one that names the other process", err)
	}
	s.close()
	mustPrepare(t, dir, 1)
}

// helperDir, set in the environment, makes this test binary a program that prepares data sets in
// that folder until it is killed.
const helperDir = "FAKEART_TEST_PREPARE_DIR"

func TestHelperPreparesUntilItIsKilled(t *testing.T) {
	dir := os.Getenv(helperDir)
	if dir == "" {
		t.Skip("this is no test but the program that another test kills")
	}
	for seed := int64(0); ; seed++ {
		m, err := Prepare(context.Background(), synthetic(dir, seed%3), io.Discard)
		if err != nil {
			fmt.Println("helper failed:", err)
			return
		}
		fmt.Println("helper digest", m.Digest())
	}
}

func TestAKillAtAnyMomentLeavesAWholeDataSet(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	known := map[string]bool{}
	for seed := range int64(3) {
		known[mustPrepare(t, dir, seed).Digest()] = true
	}
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperPreparesUntilItIsKilled$", "-test.v")
		cmd.Env = append(os.Environ(), helperDir+"="+dir)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		said := "" // by the helper, once it has prepared a data set
		for said == "" && lines.Scan() {
			if strings.HasPrefix(lines.Text(), "helper") {
				said = lines.Text()
			}
		}
		if !strings.HasPrefix(said, "helper digest") {
			t.Errorf("round %d: the helper says %q", round, said)
		}
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()

		for _, split := range splitNames {
			_, m, err := Load(dir, split)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if !known[m.Digest()] {
				t.Fatalf("round %d: a data set that nobody prepared", round)
			}
		}
	}
	mustPrepare(t, dir, 1)
	onlyIn(t, parent, "d")
}

func TestLoadSaysWhatIsWrongAndWhatMendsIt(t *testing.T) {
	edit := func(change func(m *Manifest)) func(dir string) error {
		return func(dir string) error {
			m, err := ReadManifest(dir)
			if err != nil {
				return err
			}
			change(m)
			data, err := json.Marshal(m)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, manifestName), data, 0o644))
		}
	}
	// rewrite changes a file and makes the manifest agree with it.
	rewrite := func(name string, change func(data []byte) []byte) func(dir string) error {
		return func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			f, err := writeFile(filepath.Join(dir, name), func(w io.Writer) error {
				_, err := w.Write(change(data))
				return err
			})
			return errors.Join(err, edit(func(m *Manifest) { m.Files[name] = f })(dir))
		}
	}
	replace := func(from, to string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(from), []byte(to), 1) }
	}
	for _, test := range []struct {
		name  string
		spoil func(dir string) error
		want  []string
	}{
		{"no folder", os.RemoveAll, []string{"none in"}},
		{"an empty folder", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) }, []string{"none in"}},
		{"a folder of something else", func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }, []string{"manifest.json"}},
		{"a manifest cut short", func(dir string) error { return os.Truncate(filepath.Join(dir, manifestName), 100) }, []string{"manifest.json", "broken"}},
		{"a manifest of tomorrow", edit(func(m *Manifest) { m.FormatVersion = 9 }), []string{"manifest.json", "version 9"}},
		{"another preprocessing", edit(func(m *Manifest) { m.Preprocessing = "rgb-64x64" }), []string{"manifest.json", "rgb-64x64"}},
		{"class names in another order", edit(func(m *Manifest) { m.Classes = []string{"FAKE", "REAL"} }), []string{"manifest.json", `"FAKE" "REAL"`}},
		{"a file that the manifest does not list", edit(func(m *Manifest) { delete(m.Files, "train-labels.npy") }), []string{"train-labels.npy"}},
		{"pictures missing", func(dir string) error { return os.Remove(filepath.Join(dir, "train-images.npy")) }, []string{"train-images.npy", "missing"}},
		{"labels missing", func(dir string) error { return os.Remove(filepath.Join(dir, "train-labels.npy")) }, []string{"train-labels.npy", "missing"}},
		{"pictures cut short", func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 5000) }, []string{"train-images.npy", "5000 bytes"}},
		{"one bit changed", func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "train-images.npy"))
			if err != nil {
				return err
			}
			data[9000] ^= 1
			return os.WriteFile(filepath.Join(dir, "train-images.npy"), data, 0o644)
		}, []string{"train-images.npy", "SHA-256"}},
		{"another array type", rewrite("train-images.npy", replace("|u1", "<f4")), []string{"train-images.npy", "<f4"}},
		{"Fortran order", rewrite("train-images.npy", replace("False", "True ")), []string{"train-images.npy"}},
		{"another shape", rewrite("train-images.npy", replace("32, 32, 3", "32, 3, 32")), []string{"train-images.npy", "[40 32 3 32]"}},
		{"no .npy file at all", rewrite("train-labels.npy", func([]byte) []byte { return []byte("labels") }), []string{"train-labels.npy", ".npy"}},
		{"a label that is none", rewrite("train-labels.npy", func(data []byte) []byte { data[len(data)-1] = 7; return data }), []string{"train-labels.npy", "label 7", "picture 39"}},
		{"labels that the manifest counts otherwise", rewrite("train-labels.npy", func(data []byte) []byte { data[len(data)-1] = 1; return data }), []string{"train-labels.npy", "19 labels are REAL"}},
		{"no such split", edit(func(m *Manifest) { delete(m.Splits, Train) }), []string{"no train split"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			mustPrepare(t, dir, 1)
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, _, err := Load(dir, Train)
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			for _, want := range append(test.want, "bin/trainer data prepare dataset=", "dataset.dir="+dir) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if _, _, err := Load(t.TempDir(), "validation"); err == nil || !strings.Contains(err.Error(), `"validation"`) {
		t.Errorf("error %v, want one that names the split", err)
	}
}

func TestADataSetOfOneSplitLoadsThatSplit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	cfg := synthetic(dir, 1)
	cfg.TestPerClass = 0
	if _, err := Prepare(context.Background(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	if s, _, err := Load(dir, Train); err != nil || s.Len() != 40 {
		t.Errorf("train: %v", err)
	}
	if _, _, err := Load(dir, Test); err == nil || !strings.Contains(err.Error(), "no test split") {
		t.Errorf("test: error %v, want one that says there is none", err)
	}
}

func TestNumPyOpensTheFiles(t *testing.T) {
	const python = "/usr/bin/python3"
	if exec.Command(python, "-c", "import numpy").Run() != nil {
		t.Skip(python + " has no numpy here")
	}
	dir := filepath.Join(t.TempDir(), "d")
	mustPrepare(t, dir, 1)
	out, err := exec.Command(python, "-c", `
import numpy, sys
for split in "train", "test":
    images = numpy.load(sys.argv[1] + "/" + split + "-images.npy", mmap_mode="r")
    labels = numpy.load(sys.argv[1] + "/" + split + "-labels.npy")
    print(split, images.dtype, images.shape, images.flags.c_contiguous, labels.dtype, labels.shape,
          int(labels.sum()), int(images.astype(numpy.int64).sum()), images[3, 5, 7].tolist())
`, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var want strings.Builder
	for _, split := range splitNames {
		s, _, err := Load(dir, split)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, v := range s.Images {
			sum += int(v)
		}
		p := s.Image(3)[3*(5*32+7):]
		fmt.Fprintf(&want, "%s uint8 (%d, 32, 32, 3) True uint8 (%d,) %d %d [%d, %d, %d]\n",
			split, s.Len(), s.Len(), s.Len()/2, sum, p[0], p[1], p[2])
	}
	if string(out) != want.String() {
		t.Errorf("NumPy reads\n%swant\n%s", out, want.String())
	}
}

func TestAnNPYHeaderIsAlignedAndReadAgain(t *testing.T) {
	for _, shape := range [][]int{{0}, {7}, {120000}, {1, 32, 32, 3}, {100000, 32, 32, 3}} {
		header := npyHeader(shape)
		if len(header)%64 != 0 || header[len(header)-1] != '\n' {
			t.Errorf("shape %v: a header of %d bytes, want a multiple of 64 that ends a line", shape, len(header))
		}
		size := 1
		for _, d := range shape {
			size *= d
		}
		if size > 1<<20 {
			continue
		}
		if data, err := parseNPY(append(header, make([]byte, size)...), shape); err != nil || len(data) != size {
			t.Errorf("shape %v: %d bytes, %v", shape, len(data), err)
		}
	}
}

func TestProgressIsPlainLinesWhereThereIsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "pictures", 100, unitPictures)
	for range 100 {
		p.add(1)
	}
	p.stop()
	if got := out.String(); !strings.HasPrefix(got, "pictures: 100 of 100 (100 %)") || strings.ContainsAny(got, "\r\x1b") {
		t.Errorf("got %q, want one plain line", got)
	}
}
