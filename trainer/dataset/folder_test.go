package dataset

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
)

func prepareFolder(path, dir string, change ...func(*config.Dataset)) (*Manifest, error) {
	cfg := config.Dataset{Name: "folder", Path: path, Dir: dir, Size: 24, Fit: "stretch", Seed: 1, TestSplit: 0.25}
	for _, f := range change {
		f(&cfg)
	}
	return Prepare(context.Background(), cfg, io.Discard)
}

// pets returns n images per class, at paths below prefix.
func pets(t *testing.T, prefix string, n, first int, classes ...string) map[string][]byte {
	files := map[string][]byte{}
	for c, class := range classes {
		for i := range n {
			files[fmt.Sprintf("%s%s/%03d.png", prefix, class, i)] = pngOf(t, uint8(c%2), first+100*c+i)
		}
	}
	return files
}

func TestPrepare_FolderLayouts(t *testing.T) {
	names := []string{"bird", "cat", "dog"}
	merge := func(maps ...map[string][]byte) map[string][]byte {
		all := map[string][]byte{}
		for _, m := range maps {
			all = with(all, m)
		}
		return all
	}
	plain := pets(t, "", 8, 0, names...)
	split := merge(pets(t, "train/", 6, 0, names...), pets(t, "val/", 1, 1000, names...), pets(t, "test/", 2, 2000, names...))
	for _, test := range []struct {
		name             string
		files            map[string][]byte
		train, val, test int // per class
	}{
		{"classes", plain, 6, 0, 2},
		{"classes_below_a_folder", pets(t, "pets/images/", 8, 0, names...), 6, 0, 2},
		{"only_train", pets(t, "train/", 8, 0, names...), 6, 0, 2},
		{"train_val_test", split, 6, 1, 2},
		{"other_names_of_splits", renamed(split, func(s string) string {
			return strings.NewReplacer("train/", "Training/", "val/", "validation/").Replace(s)
		}), 6, 1, 2},
		{"train_val", merge(pets(t, "x/train/", 6, 0, names...), pets(t, "x/val/", 2, 1000, names...)), 6, 2, 0},
		{"nested_splits", merge(pets(t, "train/train/", 6, 0, names...), pets(t, "test/test/", 2, 1000, names...)), 6, 0, 2},
		{"hidden_and_other_files", merge(plain, map[string][]byte{"README.md": []byte("hello"), ".git/HEAD": nil, "cat/.DS_Store": nil, "__MACOSX/cat/x.png": nil}), 6, 0, 2},
		{"folders_in_classes", renamed(plain, func(s string) string { return strings.Replace(s, "/", "/images/", 1) }), 6, 0, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			digests := map[string]string{}
			for kind, path := range map[string]string{
				"directory": asDirectory(t, test.files),
				"zip":       asFile(t, "a.zip", zipped(t, test.files)),
				"tar":       asFile(t, "a.tar", tarred(t, test.files)),
				"tar.gz":    asFile(t, "a.tgz", gzipped(t, tarred(t, test.files))),
			} {
				dir := filepath.Join(t.TempDir(), "d")
				m, err := prepareFolder(path, dir)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				if !slices.Equal(m.Classes, names) || m.Size != 24 || m.Preprocessing != "rgb-24x24-bilinear-aa-v3" || m.FormatVersion != 2 {
					t.Errorf("%s: manifest %+v", kind, m)
				}
				for _, class := range names {
					if m.Splits[Train][class] != test.train || m.Splits[Val][class] != test.val || m.Splits[Test][class] != test.test {
						t.Errorf("%s: %s: counts %v, want %d, %d, %d", kind, class, m.Splits, test.train, test.val, test.test)
					}
				}
				if len(m.Warnings) > 0 {
					t.Errorf("%s: warnings %q", kind, m.Warnings)
				}
				digests[kind] = m.Digest()
				for split, n := range map[string]int{Train: test.train, Val: test.val, Test: test.test} {
					if n == 0 {
						continue
					}
					s, _, err := Load(dir, split)
					if err != nil {
						t.Fatal(err)
					}
					if s.Len() != 3*n || s.Side != 24 || len(s.Image(0)) != 24*24*3 || !slices.Equal(s.Classes, names) {
						t.Errorf("%s: %s has %d images of %d×%d", kind, split, s.Len(), s.Side, s.Side)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
			}
			if values := slices.Compact(slices.Sorted(maps.Values(digests))); len(values) != 1 {
				t.Errorf("digests differ: %v", digests)
			}
		})
	}
}

func TestPrepare_FolderSplitDependsOnSeed(t *testing.T) {
	source := asDirectory(t, pets(t, "", 20, 0, "a", "b"))
	digest := func(change func(*config.Dataset)) string {
		t.Helper()
		m, err := prepareFolder(source, filepath.Join(t.TempDir(), "d"), change)
		if err != nil {
			t.Fatal(err)
		}
		if *m.Source.TestSplit == 0 && m.Count(Test) != 0 || m.Count(Train)+m.Count(Test) != 40 {
			t.Errorf("%v: %v", *m.Source.TestSplit, m.Splits)
		}
		return m.Digest()
	}
	same, again := digest(func(*config.Dataset) {}), digest(func(*config.Dataset) {})
	if same != again {
		t.Error("the same seed gives another split")
	}
	for name, change := range map[string]func(*config.Dataset){
		"seed":     func(c *config.Dataset) { c.Seed = 2 },
		"fraction": func(c *config.Dataset) { c.TestSplit = 0.5 },
		"no_test":  func(c *config.Dataset) { c.TestSplit = 0 },
		"size":     func(c *config.Dataset) { c.Size = 16 },
	} {
		if digest(change) == same {
			t.Errorf("%s: the digest is the same", name)
		}
	}
}

func TestPrepare_FolderErrors(t *testing.T) {
	good := pets(t, "", 4, 0, "cat", "dog")
	split := with(pets(t, "train/", 4, 0, "cat", "dog"), pets(t, "test/", 2, 1000, "cat", "dog"))
	empty := asDirectory(t, good)
	if err := os.Mkdir(filepath.Join(empty, "bird"), 0o755); err != nil {
		t.Fatal(err)
	}
	many := map[string][]byte{}
	for i := range MaxClasses + 1 {
		many[fmt.Sprintf("c%05d/0.png", i)] = nil
	}
	for _, test := range []struct {
		name, path string
		want       []string
	}{
		{"no_path", "", []string{"dataset.path is empty"}},
		{"empty_directory", t.TempDir(), []string{"contains no images"}},
		{"one_class", asDirectory(t, pets(t, "", 4, 0, "cat")), []string{"cat is the only class folder", "at least two"}},
		{"one_class_below_a_folder", asDirectory(t, pets(t, "pets/", 4, 0, "cat")), []string{"pets/cat is the only class folder", "at least two"}},
		{"image_instead_of_archive", asFile(t, "0.png", good["cat/000.png"]), []string{"neither a .zip nor a .tar archive", "hint: set dataset.path"}},
		{"no_folders", asDirectory(t, map[string][]byte{"1.png": good["cat/000.png"]}), []string{"contains no images in folders", "rejected 1, for example 1.png"}},
		{"class_without_images", empty, []string{"no images in train/bird", "each class needs images", "hint: add images"}},
		{"class_without_readable_images", asDirectory(t, with(good, map[string][]byte{"notes/a.txt": []byte("hello")})), []string{"no readable images in train/notes", "notes/a.txt", "hint: replace"}},
		{"differ_in_case", asFile(t, "a.zip", zipped(t, with(good, pets(t, "", 2, 500, "Cat")))), []string{`"Cat" and "cat" differ only in case`, "rename"}},
		{"differ_in_case_between_splits", asFile(t, "a.zip", zipped(t, renamed(split, func(s string) string { return strings.Replace(s, "test/cat", "test/CAT", 1) }))), []string{`"CAT" and "cat" differ only in case`}},
		{"too_many_classes", asFile(t, "a.zip", zipped(t, many)), []string{"10001 classes"}},
		{"control_character", asFile(t, "a.zip", zipped(t, with(good, pets(t, "", 2, 500, "a\nb")))), []string{"printable"}},
		{"misspelled_split", asDirectory(t, renamed(split, func(s string) string { return strings.Replace(s, "test/", "tset/", 1) })), []string{"tset contains the class", "did you mean test?"}},
		{"two_val_splits", asDirectory(t, with(split, with(pets(t, "val/", 1, 700, "cat", "dog"), pets(t, "dev/", 1, 800, "cat", "dog")))), []string{"dev and val are both a val split"}},
		{"class_only_in_test", asDirectory(t, with(split, pets(t, "test/", 1, 700, "newt"))), []string{"no images in train/newt"}},
		{"truncated_zip", asFile(t, "cut.zip", cut(zipped(t, good))), []string{"truncated or damaged"}},
		{"truncated_tar_gz", asFile(t, "cut.tgz", cut(gzipped(t, tarred(t, good)))), []string{"truncated or damaged"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			_, err := prepareFolder(test.path, dir)
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

func TestPrepare_FolderWarnings(t *testing.T) {
	split := with(pets(t, "train/", 3, 0, "cat", "dog", "newt"), pets(t, "test/", 2, 1000, "cat", "dog"))
	nested := renamed(pets(t, "", 3, 0, "cat", "dog", "oak", "rose"), func(s string) string {
		if strings.HasPrefix(s, "oak") || strings.HasPrefix(s, "rose") {
			return "plants/" + s
		}
		return "animals/" + s
	})
	few := with(pets(t, "", 45, 0, "a"), pets(t, "", 3, 5000, "b", "c"))
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"class_without_test_images", split, "the test split has no images of 1 classes: newt"},
		{"nested_classes", nested, "contain only other folders: animals (cat, dog), plants (oak, rose)"},
		{"few_images", few, "the train split has few images of 2 classes: 2 b, 2 c, but 34 a"},
		{"leak", with(split, map[string][]byte{"test/dog/x.png": split["train/dog/000.png"]}), "1 of 5 test images are also in the train split"},
		{"several_classes", with(split, map[string][]byte{"train/newt/x.png": split["train/dog/000.png"]}), "2 of 14 images have a copy in another class"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := asDirectory(t, test.files)
			m, err := prepareFolder(source, filepath.Join(t.TempDir(), "d"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(m.Warnings, func(w string) bool { return strings.Contains(w, test.want) }) {
				t.Errorf("warnings %q, want %q", m.Warnings, test.want)
			}
			_, err = prepareFolder(source, filepath.Join(t.TempDir(), "d"), func(c *config.Dataset) { c.Strict = true })
			if err == nil || !strings.Contains(err.Error(), "dataset.strict=false") {
				t.Errorf("strict: error = %v", err)
			}
		})
	}
}

func TestPrepare_FolderOfManyClasses(t *testing.T) {
	image := pngOf(t, Real, 0)
	files := map[string][]byte{}
	for i := range 300 {
		files[fmt.Sprintf("class%03d/a.png", i)] = image
		files[fmt.Sprintf("class%03d/b.png", i)] = image
	}
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := prepareFolder(asFile(t, "a.zip", zipped(t, files)), dir, func(c *config.Dataset) { c.Size = 2 }); err != nil {
		t.Fatal(err)
	}
	for _, split := range []string{Train, Test} {
		s, m, err := Load(dir, split)
		if err != nil {
			t.Fatal(err)
		}
		for i, label := range s.Labels {
			if int(label) != i {
				t.Fatalf("%s: label of image %d is %d", split, i, label)
			}
		}
		if data, err := os.ReadFile(filepath.Join(dir, labelsName(split))); err != nil || !bytes.Contains(data, []byte("<u2")) || m.Files[labelsName(split)].Bytes != 128+2*300 {
			t.Errorf("%s: labels aren't uint16: %v", split, err)
		}
	}
}

func TestPrepare_FolderPreprocessing(t *testing.T) {
	source := asDirectory(t, pets(t, "", 3, 0, "a", "b"))
	for _, test := range []struct {
		change func(*config.Dataset)
		id     string
	}{
		{func(c *config.Dataset) { c.Fit = "shortest-edge" }, "rgb-24x24-shortest24-bilinear-aa-v3"},
		{func(c *config.Dataset) { c.Fit = "contain" }, "rgb-24x24-contain-bilinear-aa-v3"},
		{func(c *config.Dataset) { c.JPEG, c.Orientation = "dct", "apply" }, "rgb-24x24-bilinear-aa-exif-dct-v3"},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		m, err := prepareFolder(source, dir, test.change)
		if err != nil {
			t.Fatal(err)
		}
		read, err := ReadManifest(dir)
		if err != nil || m.Preprocessing != test.id || read.Input.ID() != test.id {
			t.Errorf("%s: %v, %v", m.Preprocessing, err, read)
		}
		cfg := config.Dataset{Name: "folder", Dir: dir, Size: 24, Fit: "stretch", Orientation: "ignore", JPEG: "full", Seed: 1, TestSplit: 0.25}
		if err := m.Matches(cfg); err == nil || !strings.Contains(err.Error(), "but the dataset was prepared with") {
			t.Errorf("%s: Matches = %v", test.id, err)
		}
		test.change(&cfg)
		if err := m.Matches(cfg); err != nil {
			t.Errorf("%s: Matches = %v", test.id, err)
		}
	}
}

// A dataset that an earlier version prepared.
func TestLoad_FormatVersion1(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	before := mustPrepare(t, dir, 1)
	file := filepath.Join(dir, manifestName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	start, end := bytes.Index(data, []byte(`  "input": {`)), bytes.Index(data, []byte(`  "classes":`))
	old := bytes.Replace(slices.Concat(data[:start], data[end:]), []byte(`"format_version": 2`), []byte(`"format_version": 1`), 1)
	if err := os.WriteFile(file, old, 0o644); err != nil {
		t.Fatal(err)
	}
	s, m, err := Load(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	if s.Side != 32 || m.Size != 32 || m.Input.Width != 32 || !slices.Equal(s.Classes, Classes()) || m.Digest() != before.Digest() {
		t.Errorf("manifest %+v", m)
	}
}

func TestSplit_Subset(t *testing.T) {
	s := &Split{Images: make([]uint8, 5*2*2*3), Labels: []uint16{0, 1, 2, 3, 4}, Side: 2, Classes: []string{"a", "b", "c", "d", "e"}}
	for i := range s.Labels {
		s.Image(i)[0] = uint8(10 + i)
	}
	sub := s.Subset([]int{4, 1, 3}).Subset([]int{2, 0})
	if !slices.Equal(sub.Labels, []uint16{3, 4}) || sub.Image(0)[0] != 13 || sub.Image(1)[0] != 14 || sub.Len() != 2 || len(sub.Classes) != 5 {
		t.Errorf("subset %+v", sub)
	}
}
