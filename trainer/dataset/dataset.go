// Package dataset prepares pictures for training and loads them again.
//
// [Prepare] turns a source (pictures drawn in process, an archive laid out as CIFAKE's, a prediction
// log with what users said of it, or the Hugging Face hub) into a folder of NumPy files with a manifest beside them:
//
//	train-images.npy  uint8 [N,32,32,3], RGB
//	train-labels.npy  uint8 [N], 0 = REAL, 1 = FAKE
//	test-images.npy, test-labels.npy
//	manifest.json     where the pictures came from, counts, digests, what was refused and why
//
// [Load] reads one split of such a folder and believes nothing that the manifest does not prove.
package dataset

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fakeart/internal/imaging"
)

// FormatVersion is the version of the folder's layout that Prepare writes and Load reads.
const FormatVersion = 1

// The labels, which are also the indices into [Classes].
const (
	Real uint8 = 0
	Fake uint8 = 1
)

// Splits a data set can have.
const (
	Train = "train"
	Test  = "test"
)

const (
	manifestName = "manifest.json"
	imageBytes   = imaging.Size * imaging.Size * imaging.Channels
)

// splitNames and classNames are arrays so that nobody can append to them: an index into classNames
// is a label.
var (
	splitNames = [...]string{Train, Test}
	classNames = [...]string{Real: "REAL", Fake: "FAKE"}
)

// Classes returns the class names in label order: REAL, FAKE.
func Classes() []string { return slices.Clone(classNames[:]) }

// Split is one half of a data set, held in memory.
type Split struct {
	Images []uint8 // N pictures of 32×32×3 bytes, row by row, RGB
	Labels []uint8 // N labels, [Real] or [Fake]
}

// Len returns the number of pictures.
func (s Split) Len() int { return len(s.Labels) }

// Image returns the pixels of picture i, 32×32×3 bytes that share memory with the split.
func (s Split) Image(i int) []uint8 {
	return s.Images[i*imageBytes : (i+1)*imageBytes : (i+1)*imageBytes]
}

// Manifest describes a prepared data set. It is the content of manifest.json and holds no time of
// day: preparing the same source twice gives the same bytes.
type Manifest struct {
	FormatVersion int    `json:"format_version"`
	Source        Source `json:"source"`
	// Preprocessing names the conversion from image file to pixels, imaging.PreprocessingID.
	Preprocessing string `json:"preprocessing"`
	// Classes are the class names; a label is an index into them.
	Classes []string `json:"classes"`
	// Splits holds, for each split, the number of pictures of each class by its name.
	Splits map[string]map[string]int `json:"splits"`
	// Files holds size and digest of every .npy file by its name.
	Files map[string]File `json:"files"`
	// Rejected lists what the source held that did not become a picture, in order of its path.
	Rejected []Rejection `json:"refused"`
}

// Source says where a data set came from.
type Source struct {
	Kind string `json:"kind"` // synthetic, archive, feedback or huggingface
	Path string `json:"path,omitempty"`

	// Of a data set from a prediction log: how many predictions users labelled, and how many of
	// these had no picture.
	Labelled     int `json:"labelled,omitempty"`
	WithoutImage int `json:"without_picture,omitempty"`

	// Of a data set from the hub: Revision is the commit that the configured name resolved to,
	// Labels are the class names in the hub's order, before they became REAL 0 and FAKE 1.
	Repo     string   `json:"repo,omitempty"`
	Revision string   `json:"revision,omitempty"`
	Labels   []string `json:"labels,omitempty"`

	// Of a synthetic data set. Generator names the version of the drawing.
	Generator     string `json:"generator,omitempty"`
	Seed          *int64 `json:"seed,omitempty"`
	TrainPerClass int    `json:"train_per_class,omitempty"`
	TestPerClass  int    `json:"test_per_class,omitempty"`
}

// String says in words where the pictures came from. Of a path it has the name alone:
// the words go into model files, which travel.
func (s Source) String() string {
	switch s.Kind {
	case "synthetic":
		text := "synthetic, drawn in process"
		if s.Seed != nil {
			text += fmt.Sprintf(" from seed %d", *s.Seed)
		}
		return text
	case "huggingface":
		return fmt.Sprintf("Hugging Face, %s at revision %s", s.Repo, s.Revision)
	}
	if s.Path != "" {
		return s.Kind + " " + filepath.Base(s.Path)
	}
	return s.Kind
}

// File is the size and digest of one file of the data set.
type File struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // lower-case hex
}

// Rejection names a file of the source that did not become a picture, and why.
type Rejection struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Digest identifies the data: "sha256:" and the hex digest over the class names, the preprocessing
// and the digests of all files. The same pictures from another source have the same digest.
func (m Manifest) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "classes %q\npreprocessing %q\n", m.Classes, m.Preprocessing)
	for _, name := range m.fileNames() {
		fmt.Fprintf(h, "%q %s\n", name, m.Files[name].SHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Count returns the number of pictures of a split, 0 if the data set has no such split.
func (m Manifest) Count(split string) int {
	n := 0
	for _, c := range m.Splits[split] {
		n += c
	}
	return n
}

func (m Manifest) fileNames() []string {
	names := make([]string, 0, len(m.Files))
	for name := range m.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// prepareCommand is the command that makes this data set anew in dir.
func (m Manifest) prepareCommand(dir string) string {
	command := "bin/trainer data prepare dataset=" + cmp.Or(m.Source.Kind, "synthetic|archive|feedback|huggingface")
	set := func(key, value string) {
		if value == "" {
			return
		}
		if strings.ContainsAny(value, " \t'\"$&|;<>()*?\\") {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		command += " dataset." + key + "=" + value
	}
	set("path", m.Source.Path)
	set("repo", m.Source.Repo)
	set("revision", m.Source.Revision)
	if m.Source.Seed != nil {
		set("seed", strconv.FormatInt(*m.Source.Seed, 10))
		set("train_per_class", strconv.Itoa(m.Source.TrainPerClass))
		set("test_per_class", strconv.Itoa(m.Source.TestPerClass))
	}
	set("dir", dir)
	return command
}

func imagesName(split string) string { return split + "-images.npy" }
func labelsName(split string) string { return split + "-labels.npy" }

// Load reads one split ("train" or "test") of the data set in dir, and the data set's manifest.
//
// It checks the manifest's version, preprocessing and class names, and of both files the size, the
// SHA-256, the .npy header, the shape and the label values. An error names the file that is wrong
// and the command that mends it. If a Prepare was killed at the moment of putting its result in
// place, Load first restores the older data set.
func Load(dir, split string) (*Split, *Manifest, error) {
	if !slices.Contains(splitNames[:], split) {
		return nil, nil, fmt.Errorf("load data set: there is no split %q; ask for %q or %q", split, Train, Test)
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	if m.Count(split) == 0 {
		return nil, nil, fmt.Errorf("load data set: %s has no %s split; prepare one that has: %s", dir, split, Manifest{}.prepareCommand(dir))
	}
	s, err := m.load(dir, split)
	if err != nil {
		return nil, nil, fmt.Errorf("load data set: %w; prepare it again: %s", err, m.prepareCommand(dir))
	}
	return s, m, nil
}

// ReadManifest reads and checks the manifest of the data set in dir without reading its pictures.
// It heals what a killed Prepare left, as [Load] does.
func ReadManifest(dir string) (*Manifest, error) {
	if err := healInterrupted(dir); err != nil {
		return nil, fmt.Errorf("load data set: %w", err)
	}
	path := filepath.Join(dir, manifestName)
	var m Manifest
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return nil, fmt.Errorf("load data set: %s has no %s, so it is not a prepared data set; "+
				"name another dataset.dir, or empty this folder and run: %s", dir, manifestName, m.prepareCommand(dir))
		}
		return nil, fmt.Errorf("load data set: there is none in %s; prepare it: %s", dir, m.prepareCommand(dir))
	case err != nil:
		return nil, fmt.Errorf("load data set: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("load data set: %s is broken (%w); prepare it again: %s", path, err, Manifest{}.prepareCommand(dir))
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("load data set: %s: %w; prepare it again: %s", path, err, m.prepareCommand(dir))
	}
	return &m, nil
}

// check says whether this program can use what the manifest describes.
func (m Manifest) check() error {
	switch {
	case m.FormatVersion != FormatVersion:
		return fmt.Errorf("format version %d, this program reads version %d", m.FormatVersion, FormatVersion)
	case m.Preprocessing != imaging.PreprocessingID:
		return fmt.Errorf("preprocessing %q, this program uses %q", m.Preprocessing, imaging.PreprocessingID)
	case !slices.Equal(m.Classes, classNames[:]):
		return fmt.Errorf("class names %q, want %q", m.Classes, classNames)
	}
	return nil
}

func (m Manifest) load(dir, split string) (*Split, error) {
	n := m.Count(split)
	images, err := m.loadFile(dir, imagesName(split), []int{n, imaging.Size, imaging.Size, imaging.Channels})
	if err != nil {
		return nil, err
	}
	labels, err := m.loadFile(dir, labelsName(split), []int{n})
	if err != nil {
		return nil, err
	}
	var counts [len(classNames)]int
	for i, label := range labels {
		if int(label) >= len(classNames) {
			return nil, fmt.Errorf("%s: label %d of picture %d is neither 0 (REAL) nor 1 (FAKE)",
				filepath.Join(dir, labelsName(split)), label, i)
		}
		counts[label]++
	}
	for class, name := range classNames {
		if counts[class] != m.Splits[split][name] {
			return nil, fmt.Errorf("%s: %d labels are %s, the manifest counts %d",
				filepath.Join(dir, labelsName(split)), counts[class], name, m.Splits[split][name])
		}
	}
	return &Split{Images: images, Labels: labels}, nil
}

// loadFile returns the data of one .npy file after checking it against the manifest and shape.
func (m Manifest) loadFile(dir, name string, shape []int) ([]uint8, error) {
	path := filepath.Join(dir, name)
	want, ok := m.Files[name]
	if !ok {
		return nil, fmt.Errorf("%s: the manifest does not list it", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The size is compared before anything is allocated for it.
	if info.Size() != want.Bytes {
		return nil, fmt.Errorf("%s has %d bytes, the manifest says %d", path, info.Size(), want.Bytes)
	}
	content := make([]byte, info.Size())
	if _, err := io.ReadFull(f, content); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want.SHA256 {
		return nil, fmt.Errorf("%s has changed: its SHA-256 is %x, the manifest says %s", path, sum, want.SHA256)
	}
	data, err := parseNPY(content, shape)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
