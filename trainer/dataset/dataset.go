// Package dataset prepares and loads the datasets that models are trained on.
//
// [Prepare] reads a source (synthetic images, an archive with the layout of CIFAKE, a prediction
// log with user feedback, or a repository on the Hugging Face Hub) and writes a directory of NumPy
// files with a manifest:
//
//	train-images.npy  uint8 [N,32,32,3], RGB
//	train-labels.npy  uint8 [N], 0 = REAL, 1 = FAKE
//	test-images.npy, test-labels.npy
//	manifest.json     source, counts, digests, and the rejected files with reasons
//
// [Load] reads one split of such a directory and verifies it against the manifest.
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
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
)

// FormatVersion is the version of the directory layout that Prepare writes and Load reads.
const FormatVersion = 1

// Labels of the CIFAKE classes. They are indices into [Classes].
const (
	Real = 0
	Fake = 1
)

// Splits of a dataset. Both are optional.
const (
	Train = "train"
	Test  = "test"
)

const (
	manifestName = "manifest.json"
	imageBytes   = imaging.Size * imaging.Size * imaging.Channels
)

// splitNames and classNames are arrays so that nobody can append to them. An index into classNames
// is a label.
var (
	splitNames = [...]string{Train, Test}
	classNames = [...]string{Real: "REAL", Fake: "FAKE"}
)

// Classes returns the class names of CIFAKE in label order: REAL, FAKE.
func Classes() []string { return slices.Clone(classNames[:]) }

// Split is one part of a dataset: N images of Side×Side pixels with their labels.
type Split struct {
	// Images are the pixels of all images, Side×Side×3 bytes each, row by row, RGB. They must not be changed if the
	// split was loaded. Use [Split.Image] to read them: the images of a [Split.Subset] are not in this order.
	Images []uint8
	// Labels are indices into Classes, one per image.
	Labels []uint16
	// Side is the width and height of an image in pixels.
	Side int
	// Classes are the class names.
	Classes []string

	rows []int // of a subset: the indices into Images
}

// Len returns the number of images.
func (s *Split) Len() int { return len(s.Labels) }

// Image returns the pixels of image i: Side×Side×3 bytes that share memory with the split.
func (s *Split) Image(i int) []uint8 {
	if s.rows != nil {
		i = s.rows[i]
	}
	n := s.Side * s.Side * imaging.Channels
	return s.Images[i*n : (i+1)*n : (i+1)*n]
}

// Subset returns the images with the given indices, in this order. It shares the memory of their pixels with s.
func (s *Split) Subset(indices []int) *Split {
	sub := &Split{Images: s.Images, Labels: make([]uint16, len(indices)), Side: s.Side, Classes: s.Classes, rows: make([]int, len(indices))}
	for k, i := range indices {
		sub.Labels[k], sub.rows[k] = s.Labels[i], i
		if s.rows != nil {
			sub.rows[k] = s.rows[i]
		}
	}
	return sub
}

// Manifest describes a prepared dataset. It is the content of manifest.json. It contains no
// timestamps: preparing the same source twice gives the same bytes.
type Manifest struct {
	FormatVersion int    `json:"format_version"`
	Source        Source `json:"source"`
	// Preprocessing is the ID of the conversion from image file to pixels, imaging.PreprocessingID.
	Preprocessing string `json:"preprocessing"`
	// Classes are the class names. A label is an index into them.
	Classes []string `json:"classes"`
	// Splits is the number of images per class name, for each split.
	Splits map[string]map[string]int `json:"splits"`
	// Files is the size and digest of each .npy file, by file name.
	Files map[string]File `json:"files"`
	// Rejected lists the files and rows of the source that were not included, sorted by path.
	Rejected []Rejection `json:"refused"`
	// Warnings are reasons why metrics on the dataset may mislead, such as test images that are also
	// in the train split, each with a count and examples.
	Warnings []string `json:"warnings,omitempty"`
}

// Source describes where a dataset came from.
type Source struct {
	Kind string `json:"kind"` // synthetic, archive, feedback or huggingface
	Path string `json:"path,omitempty"`

	// For feedback: the number of predictions with feedback, and how many of them have no logged
	// image.
	Labeled      int `json:"labelled,omitempty"`
	WithoutImage int `json:"without_picture,omitempty"`

	// For huggingface: Revision is the commit that the configured revision, Requested, resolved to.
	// Labels are the class names in the order of the Hub, before they were mapped to REAL 0 and FAKE 1.
	Repo      string   `json:"repo,omitempty"`
	Revision  string   `json:"revision,omitempty"`
	Requested string   `json:"requested_revision,omitempty"`
	Labels    []string `json:"labels,omitempty"`

	// For synthetic: Generator is the version of the drawing algorithm.
	Generator     string `json:"generator,omitempty"`
	Seed          *int64 `json:"seed,omitempty"`
	TrainPerClass int    `json:"train_per_class,omitempty"`
	TestPerClass  int    `json:"test_per_class,omitempty"`
}

// String returns a description of the source. It contains only the last element of a path, because
// it is stored in model files, which may be published.
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

// File is the size and digest of a file of the dataset.
type File struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // lower-case hex
}

// Rejection is a file or row of the source that was not included in the dataset.
type Rejection struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Digest identifies the data: "sha256:" and the hex digest over the class names, the preprocessing
// and the digests of all files. The same images from different sources have the same digest.
func (m Manifest) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "classes %q\npreprocessing %q\n", m.Classes, m.Preprocessing)
	for _, name := range m.fileNames() {
		fmt.Fprintf(h, "%q %s\n", name, m.Files[name].SHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Count returns the number of images of a split, 0 if the dataset does not have it.
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

// setting is a configuration key of the dataset with its value, as on the command line.
type setting struct{ key, value string }

// plainPattern matches values that mean themselves in a shell.
var plainPattern = regexp.MustCompile(`^[\w./:=@%+,-]*$`)

func (s setting) String() string {
	value := s.value
	if !plainPattern.MatchString(value) {
		value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return s.key + "=" + value
}

// settings returns the keys that select this source, except for the kind.
func (s Source) settings() []setting {
	all := []setting{{"dataset.path", s.Path}, {"dataset.repo", s.Repo}, {"dataset.revision", s.Revision}}
	if s.Seed != nil {
		all = append(all, setting{"dataset.seed", strconv.FormatInt(*s.Seed, 10)},
			setting{"dataset.train_per_class", strconv.Itoa(s.TrainPerClass)}, setting{"dataset.test_per_class", strconv.Itoa(s.TestPerClass)})
	}
	return slices.DeleteFunc(all, func(s setting) bool { return s.value == "" })
}

// prepareCommand returns the command that prepares this dataset again in dir.
func (m Manifest) prepareCommand(dir string) string {
	command := "bin/trainer data prepare dataset=" + cmp.Or(m.Source.Kind, "synthetic|archive|feedback|huggingface")
	for _, s := range append(m.Source.settings(), setting{"dataset.dir", dir}) {
		command += " " + s.String()
	}
	return command
}

// Matches returns an error that names all differences if the dataset, in cfg.Dir, was prepared from
// another source than the one that cfg describes. It doesn't compare dataset.strict and
// dataset.endpoint, which don't select images, and an empty dataset.path, which training doesn't need.
func (m Manifest) Matches(cfg config.Dataset) error {
	configured := Source{Kind: cfg.Name, Path: cfg.Path, Repo: cfg.Repo, Revision: cfg.Revision}
	if cfg.Name == "synthetic" {
		configured.Seed, configured.TrainPerClass, configured.TestPerClass = &cfg.Seed, cfg.TrainPerClass, cfg.TestPerClass
	}
	var differences []string
	fix := []setting{{"dataset", m.Source.Kind}}
	differ := func(key, configured, prepared string) {
		differences = append(differences, fmt.Sprintf("%s is %s, but the dataset was prepared with %s", key, configured, prepared))
	}
	if configured.Kind != m.Source.Kind {
		differ("dataset", configured.Kind, m.Source.Kind)
		fix = append(fix, slices.DeleteFunc(m.Source.settings(), func(s setting) bool { return s.key == "dataset.path" && cfg.Path == "" })...)
	} else {
		prepared := m.Source.settings()
		for _, s := range configured.settings() {
			i := slices.IndexFunc(prepared, func(p setting) bool { return p.key == s.key })
			if i < 0 || s.value == prepared[i].value ||
				s.key == "dataset.path" && sameFile(s.value, prepared[i].value) || s.key == "dataset.revision" && m.Source.isRevision(s.value) {
				continue
			}
			differ(s.key, s.value, prepared[i].value)
			fix = append(fix, prepared[i])
		}
	}
	if len(differences) == 0 {
		return nil
	}
	hint := "to train on this dataset, add"
	for _, s := range fix {
		hint += " " + s.String()
	}
	return fmt.Errorf("the configuration doesn't match the dataset in %s: %s\nhint: %s\n"+
		"hint: to train on the configured dataset, set another dataset.dir, and prepare it with the same settings: bin/trainer data prepare",
		cfg.Dir, strings.Join(differences, "; "), hint)
}

// sameFile reports whether two paths are the same file, which need not exist any more.
func sameFile(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && absA == absB
}

var (
	commitPattern      = regexp.MustCompile(`^[0-9a-f]{40}$`)
	shortCommitPattern = regexp.MustCompile(`^[0-9a-f]{7,40}$`)
)

// isRevision reports whether a configured revision resolved to the commit of the source. Manifests of
// earlier versions don't have the name of a branch or tag, so that any is accepted.
func (s Source) isRevision(revision string) bool {
	switch {
	case revision == s.Requested:
		return true
	case shortCommitPattern.MatchString(revision):
		return strings.HasPrefix(s.Revision, revision)
	}
	return s.Requested == "" && commitPattern.MatchString(s.Revision)
}

func imagesName(split string) string { return split + "-images.npy" }
func labelsName(split string) string { return split + "-labels.npy" }

// Load reads one split, [Train] or [Test], and the manifest of the dataset in dir.
//
// It verifies the version, preprocessing and class names of the manifest, and the size, SHA-256,
// .npy header, shape and label values of both files. An error names the invalid file, with the
// command that prepares the dataset again as a hint. If a Prepare was killed while it replaced the
// dataset, Load restores the previous one first.
func Load(dir, split string) (*Split, *Manifest, error) {
	if !slices.Contains(splitNames[:], split) {
		return nil, nil, fmt.Errorf("load dataset: unknown split %q, want %q or %q", split, Train, Test)
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	if m.Count(split) == 0 {
		return nil, nil, fmt.Errorf("load dataset: %s has no %s split\nhint: prepare a dataset that has one: %s", dir, split, Manifest{}.prepareCommand(dir))
	}
	s, err := m.load(dir, split)
	if err != nil {
		return nil, nil, fmt.Errorf("load dataset: %w\nhint: prepare it again: %s", err, m.prepareCommand(dir))
	}
	return s, m, nil
}

// ReadManifest reads and validates the manifest of the dataset in dir without reading its images.
// Like [Load], it restores the previous dataset after a Prepare was killed.
func ReadManifest(dir string) (*Manifest, error) {
	if err := recoverInterrupted(dir); err != nil {
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	path := filepath.Join(dir, manifestName)
	var m Manifest
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return nil, fmt.Errorf("load dataset: %s has no %s, so it isn't a prepared dataset\n"+
				"hint: set dataset.dir to another directory, or empty this one and run: %s", dir, manifestName, m.prepareCommand(dir))
		}
		return nil, fmt.Errorf("load dataset: no dataset in %s\nhint: prepare it: %s", dir, m.prepareCommand(dir))
	case err != nil:
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("load dataset: %s is invalid: not the JSON of a manifest\nhint: prepare it again: %s", path, Manifest{}.prepareCommand(dir))
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("load dataset: %s: %w\nhint: prepare it again: %s", path, err, m.prepareCommand(dir))
	}
	return &m, nil
}

// check returns an error if this program cannot read the dataset that m describes.
func (m Manifest) check() error {
	switch {
	case m.FormatVersion != FormatVersion:
		return fmt.Errorf("format version is %d, want %d", m.FormatVersion, FormatVersion)
	case m.Preprocessing != imaging.PreprocessingID:
		return fmt.Errorf("preprocessing is %q, want %q", m.Preprocessing, imaging.PreprocessingID)
	case !slices.Equal(m.Classes, classNames[:]):
		return fmt.Errorf("class names are %q, want %q", m.Classes, classNames)
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
			return nil, fmt.Errorf("%s: label of image %[3]d is %[2]d, want 0 (REAL) or 1 (FAKE)",
				filepath.Join(dir, labelsName(split)), label, i)
		}
		counts[label]++
	}
	for class, name := range classNames {
		if counts[class] != m.Splits[split][name] {
			return nil, fmt.Errorf("%s: %d labels are %s, want %d according to the manifest",
				filepath.Join(dir, labelsName(split)), counts[class], name, m.Splits[split][name])
		}
	}
	wide := make([]uint16, len(labels))
	for i, label := range labels {
		wide[i] = uint16(label)
	}
	return &Split{Images: images, Labels: wide, Side: imaging.Size, Classes: m.Classes}, nil
}

// loadFile returns the data of an .npy file after verifying it against the manifest and the
// expected shape.
func (m Manifest) loadFile(dir, name string, shape []int) ([]uint8, error) {
	path := filepath.Join(dir, name)
	want, ok := m.Files[name]
	if !ok {
		return nil, fmt.Errorf("%s is not listed in the manifest", path)
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
	// Compare the size before allocating memory for it.
	if info.Size() != want.Bytes {
		return nil, fmt.Errorf("%s has %d bytes, want %d according to the manifest", path, info.Size(), want.Bytes)
	}
	content := make([]byte, info.Size())
	if _, err := io.ReadFull(f, content); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want.SHA256 {
		return nil, fmt.Errorf("%s was modified: its SHA-256 is %x, want %s according to the manifest", path, sum, want.SHA256)
	}
	data, err := parseNPY(content, shape)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
