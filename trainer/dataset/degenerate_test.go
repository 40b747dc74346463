package dataset

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image/png"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/config"
)

func TestPrepare_Warnings(t *testing.T) {
	good := cifakeFiles(t)
	same := good["train/REAL/0000.png"]
	// The same pixels in another file.
	img, err := png.Decode(bytes.NewReader(same))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	reencoded := buf.Bytes()
	if bytes.Equal(reencoded, same) {
		t.Fatal("the encodings are equal")
	}
	many := maps.Clone(good)
	for i := range 40 {
		many["train/REAL/m"+string(rune('0'+i))+".png"] = pngOf(t, Real, 200+i)
	}
	one := maps.Clone(good)
	delete(one, "train/FAKE/0001.png")
	delete(one, "train/FAKE/0002.png")
	leaks := map[string][]byte{}
	for _, name := range []string{"a", "b", "c", "d"} {
		leaks["test/REAL/"+name+".png"] = same
	}

	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  [][]string // parts of each warning
	}{
		{"good", good, nil},
		{"repeated_in_one_class", with(good, map[string][]byte{"train/REAL/again.png": same}), nil},
		{
			"test_image_in_train", with(good, map[string][]byte{"test/REAL/leak.png": same}),
			[][]string{{"1 of 5 test images are also in the train split: test/REAL/leak.png = train/REAL/0000.png"}},
		},
		{
			"same_pixels_in_train_and_test", with(good, map[string][]byte{"test/REAL/leak.png": reencoded}),
			[][]string{{"1 of 5 test images", "test/REAL/leak.png = train/REAL/0000.png"}},
		},
		{
			"many_test_images_in_train", with(good, leaks),
			[][]string{{"4 of 8 test images", "test/REAL/a.png", "test/REAL/c.png = train/REAL/0000.png, …"}},
		},
		{
			"two_classes", with(good, map[string][]byte{"train/FAKE/x.png": reencoded}),
			[][]string{{"2 of 11 images have a copy in the other class: train/FAKE/x.png (FAKE) = train/REAL/0000.png (REAL)"}},
		},
		{
			"two_classes_in_test", with(good, map[string][]byte{"test/FAKE/x.png": good["test/REAL/0000.png"]}),
			[][]string{{"2 of 11 images have a copy in the other class: test/FAKE/x.png (FAKE) = test/REAL/0000.png (REAL)"}},
		},
		{"other_split_and_class", with(good, map[string][]byte{"test/FAKE/x.png": same}), [][]string{
			{"1 of 5 test images", "test/FAKE/x.png = train/REAL/0000.png"},
			{"2 of 11 images have a copy in the other class", "train/REAL/0000.png (REAL) = test/FAKE/x.png (FAKE)"},
		}},
		{
			"rotated", with(good, map[string][]byte{"train/REAL/turned.png": rotated(pngOf(t, Real, 77))}),
			[][]string{{"1 of 11 images are rotated or mirrored by their EXIF orientation, which isn't applied: train/REAL/turned.png"}},
		},
		{"one_image_of_a_class", one, [][]string{{"the train split has 1 FAKE and 3 REAL", "no FAKE is left for validation"}}},
		{"few_images_of_a_class", many, [][]string{{"the train split has 3 FAKE and 43 REAL", "metrics say little about FAKE"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			source, dir := asDirectory(t, test.files), filepath.Join(t.TempDir(), "d")
			m, err := prepareArchive(source, dir, false)
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string, warnings []string) {
				t.Helper()
				if len(warnings) != len(test.want) {
					t.Fatalf("%s: %d warnings, want %d: %q", what, len(warnings), len(test.want), warnings)
				}
				for i, parts := range test.want {
					for _, part := range parts {
						if !strings.Contains(warnings[i], part) {
							t.Errorf("%s: warning %q lacks %q", what, warnings[i], part)
						}
					}
				}
			}
			check("Prepare", m.Warnings)
			if read, err := ReadManifest(dir); err != nil {
				t.Error(err)
			} else {
				check("manifest", read.Warnings)
			}
			_, err = prepareArchive(source, filepath.Join(t.TempDir(), "d"), true)
			if test.want == nil {
				if err != nil {
					t.Errorf("strict: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("strict: no error")
			}
			for _, part := range append(test.want[0], "dataset.strict=false") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("strict: error %q lacks %q", err, part)
				}
			}
			checkLines(t, err)
		})
	}
}

func TestManifest_Matches(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	seed := int64(7)
	drawn := Source{Kind: "synthetic", Seed: &seed, TrainPerClass: 5, TestPerClass: 2}
	hub := Source{Kind: "huggingface", Repo: "a/b", Revision: commit, Requested: "main"}
	archive := Source{Kind: "archive", Path: "images/cifake.zip"}
	for _, test := range []struct {
		name   string
		source Source
		cfg    config.Dataset
		want   string // part of the error
	}{
		{"synthetic", drawn, config.Dataset{Name: "synthetic", Seed: 7, TrainPerClass: 5, TestPerClass: 2}, ""},
		{"seed", drawn, config.Dataset{Name: "synthetic", Seed: 99, TrainPerClass: 5, TestPerClass: 2}, "dataset.seed is 99, but the dataset was prepared with 7"},
		{"path_not_set", archive, config.Dataset{Name: "archive"}, ""},
		{"same_path", archive, config.Dataset{Name: "archive", Path: "./images//cifake.zip", Strict: true}, ""},
		{"other_path", archive, config.Dataset{Name: "archive", Path: "other.zip"}, "dataset.path is other.zip, but the dataset was prepared with images/cifake.zip"},
		{"other_log", Source{Kind: "feedback", Path: "a.db"}, config.Dataset{Name: "feedback", Path: "b.db"}, "dataset.path is b.db"},
		{"branch", hub, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "main"}, ""},
		{"commit", hub, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: commit}, ""},
		{"short_commit", hub, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "0123456"}, ""},
		{"other_commit", hub, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "1123456"}, "dataset.revision is 1123456, but the dataset was prepared with " + commit},
		{"other_branch", hub, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "v2"}, "dataset.revision is v2"},
		{"branch_of_an_older_manifest", Source{Kind: "huggingface", Repo: "a/b", Revision: commit}, config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "v2"}, ""},
		{"other_repository", hub, config.Dataset{Name: "huggingface", Repo: "c/b", Revision: "main"}, "dataset.repo is c/b, but the dataset was prepared with a/b"},
		{"kind", archive, config.Dataset{Name: "synthetic", Seed: 1}, "hint: to train on this dataset, add dataset=archive\n"},
		{"kind_and_path", archive, config.Dataset{Name: "feedback", Path: "b.db"}, "hint: to train on this dataset, add dataset=archive dataset.path=images/cifake.zip\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Dir = "data/d"
			err := Manifest{Source: test.source}.Matches(test.cfg)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "data/d") {
				t.Fatalf("error = %v, want %q in it", err, test.want)
			}
			checkLines(t, err)
		})
	}
}

// rotated returns a copy of a PNG with the EXIF orientation 6.
func rotated(data []byte) []byte {
	chunk := []byte("eXIfII*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00")
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk))
	chunk = append(binary.BigEndian.AppendUint32(nil, uint32(len(chunk)-8)), chunk...)
	return slices.Insert(slices.Clone(data), 33, chunk...) // after the signature and the header
}
