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

// mustPrepare prepares a small synthetic dataset in dir.
func mustPrepare(tb testing.TB, dir string, seed int64) *Manifest {
	tb.Helper()
	m, err := Prepare(context.Background(), synthetic(dir, seed), io.Discard)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// contents returns the contents of all files below a directory, by path.
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

// onlyIn fails the test if a directory contains anything except these names.
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
		t.Errorf("%s contains %q, want %q", dir, got, names)
	}
}

func TestPrepare_ReplacesDataset(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	one := mustPrepare(t, dir, 1)
	two := mustPrepare(t, dir, 2)
	if one.Digest() == two.Digest() {
		t.Fatal("seeds 1 and 2 give the same data")
	}
	for _, split := range splitNames[:2] {
		if _, m, err := Load(dir, split); err != nil || m.Digest() != two.Digest() {
			t.Errorf("Load(%s): error %v, want the second dataset", split, err)
		}
	}
	onlyIn(t, parent, "d")
	if again := mustPrepare(t, filepath.Join(parent, "e"), 2); again.Digest() != two.Digest() {
		t.Error("seed 2 gives different data the second time")
	}
}

func TestPrepare_KeepsSymbolicLink(t *testing.T) {
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
		t.Errorf("the link was replaced (%v)", err)
	}
	if _, got, err := Load(target, Test); err != nil || got.Digest() != m.Digest() {
		t.Errorf("target of the link: error %v, want the second dataset", err)
	}
	onlyIn(t, filepath.Dir(target), "d")
}

func TestPrepare_KeepsForeignDirectory(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"other_files", map[string]string{"holiday.jpg": "x"}, "holiday.jpg"},
		{"no_manifest", map[string]string{"train-images.npy": "x"}, "manifest.json"},
		{"other_manifest", map[string]string{"manifest.json": `{"name": "app", "version": 3}`}, "manifest.json"},
		{"extra_file", map[string]string{"manifest.json": `{"format_version": 1}`, "train-images.npy": "x", "notes.txt": "x"}, "notes.txt"},
		{"subdirectory", map[string]string{"manifest.json": `{"format_version": 1}`, "train-images.npy/x": "x"}, "train-images.npy"},
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
				t.Errorf("error = %v, want %q and dataset.dir", err, test.want)
			}
			if !maps.Equal(before, contents(t, filepath.Dir(dir))) {
				t.Error("files have changed")
			}
		})
	}
	t.Run("file", func(t *testing.T) {
		file := asFile(t, "d", []byte("x"))
		if _, err := Prepare(context.Background(), synthetic(file, 1), io.Discard); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("error = %v, want %q", err, "not a directory")
		}
	})
	t.Run("source", func(t *testing.T) {
		source := asDirectory(t, cifakeFiles(t))
		if _, err := prepareArchive(source, source, false); err == nil {
			t.Error("error = nil")
		}
		if len(contents(t, source)) != len(cifakeFiles(t)) {
			t.Error("images were removed")
		}
	})
}

func TestPrepare_ReplacesDamagedDataset(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"empty_directory":    func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) },
		"truncated_manifest": func(dir string) error { return os.Truncate(filepath.Join(dir, manifestName), 40) },
		"truncated_images":   func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 40) },
		"missing_file":       func(dir string) error { return os.Remove(filepath.Join(dir, "test-labels.npy")) },
		"junk_file":          func(dir string) error { return os.WriteFile(filepath.Join(dir, ".DS_Store"), nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			mustPrepare(t, dir, 1)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			m := mustPrepare(t, dir, 2)
			if _, got, err := Load(dir, Train); err != nil || got.Digest() != m.Digest() {
				t.Errorf("error %v, want the second dataset", err)
			}
		})
	}
}

func TestPrepare_ErrorKeepsPreviousDataset(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  config.Dataset
		want string
	}{
		{"unknown_source", config.Dataset{Name: "kaggle"}, "dataset=archive"},
		{"missing_archive", config.Dataset{Name: "archive", Path: "nowhere.zip"}, "nowhere.zip"},
		{"no_images", config.Dataset{Name: "synthetic"}, "train_per_class"},
		{"too_many_images", config.Dataset{Name: "synthetic", TrainPerClass: 1 << 30}, "train_per_class"},
		{"negative_count", config.Dataset{Name: "synthetic", TrainPerClass: 1, TestPerClass: -1}, "test_per_class"},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "d")
			mustPrepare(t, dir, 1)
			before := contents(t, parent)
			test.cfg.Dir = dir
			if _, err := Prepare(context.Background(), test.cfg, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
			if !maps.Equal(before, contents(t, parent)) {
				t.Error("files have changed")
			}
		})
	}
	t.Run("cancel_while_drawing", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		mustPrepare(t, dir, 1)
		before := contents(t, parent)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		cfg := synthetic(dir, 2)
		cfg.TrainPerClass = 100_000
		if _, err := Prepare(ctx, cfg, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want context.DeadlineExceeded", err)
		}
		if !maps.Equal(before, contents(t, parent)) {
			t.Error("files have changed")
		}
		onlyIn(t, parent, "d")
	})
	t.Run("cancel_while_writing", func(t *testing.T) {
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
			t.Errorf("error = %v, want context.Canceled", err)
		}
		if !maps.Equal(before, contents(t, parent)) {
			t.Error("files have changed")
		}
		onlyIn(t, parent, "d")
	})
}

func TestPrepare_KilledBetweenRenames(t *testing.T) {
	for _, recovery := range []struct {
		name string
		run  func(dir string) error
	}{
		{"Load", func(dir string) error { _, _, err := Load(dir, Train); return err }},
		{"ReadManifest", func(dir string) error { _, err := ReadManifest(dir); return err }},
		{"failed_Prepare", func(dir string) error {
			if _, err := prepareArchive("nowhere.zip", dir, false); err == nil {
				return errors.New("Prepare did not fail")
			}
			return nil
		}},
	} {
		t.Run(recovery.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "d")
			m := mustPrepare(t, dir, 1)
			// Simulate a process that was killed after it moved the previous dataset aside.
			if err := os.Rename(dir, sibling(dir, "old")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(sibling(dir, "new"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := recovery.run(dir); err != nil {
				t.Fatal(err)
			}
			if _, got, err := Load(dir, Test); err != nil || got.Digest() != m.Digest() {
				t.Errorf("error %v, want the previous dataset", err)
			}
			onlyIn(t, parent, "d")
		})
	}
	t.Run("after_second_rename", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		mustPrepare(t, dir, 1)
		if err := os.Rename(dir, sibling(dir, "old")); err != nil {
			t.Fatal(err)
		}
		m := mustPrepareBeside(t, dir, 2)
		if _, got, err := Load(dir, Test); err != nil || got.Digest() != m.Digest() {
			t.Errorf("error %v, want the new dataset", err)
		}
		mustPrepare(t, dir, 3)
		onlyIn(t, parent, "d")
	})
}

// mustPrepareBeside prepares a dataset elsewhere and moves it to dir, so that nothing is recovered.
func mustPrepareBeside(t *testing.T, dir string, seed int64) *Manifest {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "x")
	m := mustPrepare(t, elsewhere, seed)
	if err := os.Rename(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPrepare_ConcurrentProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, err := openStore(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Prepare(context.Background(), synthetic(dir, 1), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v, want \"another process\"", err)
	}
	s.close()
	mustPrepare(t, dir, 1)
}

// helperDir is an environment variable that turns this test binary into a program that prepares
// datasets in that directory until it is killed.
const helperDir = "FAKEART_TEST_PREPARE_DIR"

func TestHelper_PrepareLoop(t *testing.T) {
	dir := os.Getenv(helperDir)
	if dir == "" {
		t.Skip("helper process of TestPrepare_KilledAnytime")
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

func TestPrepare_KilledAnytime(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	known := map[string]bool{}
	for seed := range int64(3) {
		known[mustPrepare(t, dir, seed).Digest()] = true
	}
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelper_PrepareLoop$", "-test.v")
		cmd.Env = append(os.Environ(), helperDir+"="+dir)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		line := "" // the output of the helper, after it has prepared a dataset
		for line == "" && lines.Scan() {
			if strings.HasPrefix(lines.Text(), "helper") {
				line = lines.Text()
			}
		}
		if !strings.HasPrefix(line, "helper digest") {
			t.Errorf("round %d: output of the helper = %q", round, line)
		}
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()

		for _, split := range splitNames[:2] {
			_, m, err := Load(dir, split)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if !known[m.Digest()] {
				t.Fatalf("round %d: unknown digest", round)
			}
		}
	}
	mustPrepare(t, dir, 1)
	onlyIn(t, parent, "d")
}

func TestLoad_Errors(t *testing.T) {
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
	// rewrite changes a file and updates its digest in the manifest.
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
		name   string
		damage func(dir string) error
		want   []string
	}{
		{"missing_directory", os.RemoveAll, []string{"no dataset in"}},
		{"empty_directory", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) }, []string{"no dataset in"}},
		{"no_manifest", func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }, []string{"manifest.json", "to use images in "}},
		{"truncated_manifest", func(dir string) error { return os.Truncate(filepath.Join(dir, manifestName), 100) }, []string{"manifest.json", "invalid"}},
		{"newer_format_version", edit(func(m *Manifest) { m.FormatVersion = 9 }), []string{"manifest.json", "version is 9"}},
		{"other_preprocessing", edit(func(m *Manifest) { m.Preprocessing = "rgb-64x64" }), []string{"manifest.json", "rgb-64x64"}},
		{"one_class", edit(func(m *Manifest) { m.Classes = []string{"FAKE"} }), []string{"manifest.json", "1 classes, want 2 to 10000"}},
		{"repeated_class", edit(func(m *Manifest) { m.Classes = []string{"FAKE", "FAKE"} }), []string{"manifest.json", `"FAKE" occurs twice`}},
		{"no_preprocessing", edit(func(m *Manifest) { m.Input = nil }), []string{"manifest.json", "the preprocessing is missing"}},
		{"other_size", edit(func(m *Manifest) { m.Size = 64 }), []string{"manifest.json", "size is 64"}},
		{"file_not_in_manifest", edit(func(m *Manifest) { delete(m.Files, "train-labels.npy") }), []string{"train-labels.npy"}},
		{"missing_images", func(dir string) error { return os.Remove(filepath.Join(dir, "train-images.npy")) }, []string{"train-images.npy", "missing"}},
		{"missing_labels", func(dir string) error { return os.Remove(filepath.Join(dir, "train-labels.npy")) }, []string{"train-labels.npy", "missing"}},
		{"truncated_images", func(dir string) error { return os.Truncate(filepath.Join(dir, "train-images.npy"), 5000) }, []string{"train-images.npy", "5000 bytes"}},
		{"flipped_bit", func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "train-images.npy"))
			if err != nil {
				return err
			}
			data[9000] ^= 1
			return os.WriteFile(filepath.Join(dir, "train-images.npy"), data, 0o644)
		}, []string{"train-images.npy", "SHA-256"}},
		{"other_array_type", rewrite("train-images.npy", replace("|u1", "<f4")), []string{"train-images.npy", "<f4"}},
		{"fortran_order", rewrite("train-images.npy", replace("False", "True ")), []string{"train-images.npy"}},
		{"other_shape", rewrite("train-images.npy", replace("32, 32, 3", "32, 3, 32")), []string{"train-images.npy", "[40 32 3 32]"}},
		{"not_npy", rewrite("train-labels.npy", func([]byte) []byte { return []byte("labels") }), []string{"train-labels.npy", ".npy"}},
		{"unknown_label", rewrite("train-labels.npy", func(data []byte) []byte { data[len(data)-1] = 7; return data }), []string{"train-labels.npy", "label of image 39 is 7"}},
		{"other_label_counts", rewrite("train-labels.npy", func(data []byte) []byte { data[len(data)-1] = 1; return data }), []string{"train-labels.npy", "19 labels are REAL"}},
		{"missing_split", edit(func(m *Manifest) { delete(m.Splits, Train) }), []string{"no train split", "that it has (test)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			mustPrepare(t, dir, 1)
			if err := test.damage(dir); err != nil {
				t.Fatal(err)
			}
			_, _, err := Load(dir, Train)
			if err == nil {
				t.Fatal("error = nil")
			}
			t.Log(err)
			target := "dataset.dir=" + dir
			if test.name == "no_manifest" { // perhaps a folder of images, which must not be replaced
				target = "dataset.path=" + dir + " dataset.dir=data/d"
			}
			for _, want := range append(test.want, "bin/trainer data prepare dataset=", target) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
		})
	}
	if _, _, err := Load(t.TempDir(), "validation"); err == nil || !strings.Contains(err.Error(), `"validation"`) {
		t.Errorf("error = %v, want the name of the split", err)
	}
}

func TestLoad_OneSplit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	cfg := synthetic(dir, 1)
	cfg.TestPerClass = 0
	if _, err := Prepare(context.Background(), cfg, io.Discard); err != nil {
		t.Fatal(err)
	}
	if s, _, err := Load(dir, Train); err != nil || s.Len() != 40 {
		t.Errorf("Load(train): %v, want 40 images", err)
	}
	if _, _, err := Load(dir, Test); err == nil || !strings.Contains(err.Error(), "no test split") {
		t.Errorf("Load(test) error = %v, want %q", err, "no test split")
	}
}

func TestPrepare_NumPyReadsFiles(t *testing.T) {
	const python = "/usr/bin/python3"
	if exec.Command(python, "-c", "import numpy").Run() != nil {
		t.Skip(python + " has no NumPy")
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
	for _, split := range splitNames[:2] {
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

func TestNPYHeader(t *testing.T) {
	for _, shape := range [][]int{{0}, {7}, {120000}, {1, 32, 32, 3}, {100000, 32, 32, 3}} {
		header := npyHeader(npyUint8, shape)
		if len(header)%64 != 0 || header[len(header)-1] != '\n' {
			t.Errorf("npyHeader(%v): %d bytes, want a multiple of 64 that ends with a newline", shape, len(header))
		}
		size := 1
		for _, d := range shape {
			size *= d
		}
		if size > 1<<20 {
			continue
		}
		if data, err := parseNPY(append(header, make([]byte, size)...), npyUint8, shape); err != nil || len(data) != size {
			t.Errorf("parseNPY(%v) = %d bytes, %v; want %d", shape, len(data), err, size)
		}
	}
}

func TestProgress_NoTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "images", 100, unitImages)
	for range 100 {
		p.add(1)
	}
	p.stop()
	if got := out.String(); !strings.HasPrefix(got, "images: 100 of 100 (100 %)") || strings.ContainsAny(got, "\r\x1b") {
		t.Errorf("output = %q, want one plain line", got)
	}
}
