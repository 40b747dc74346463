// Package dataset prepares and loads the datasets that models are trained on.
//
// [Prepare] reads a source (a folder or an archive with one folder per class, synthetic images, a prediction
// log with user feedback, or a repository on the Hugging Face Hub) and writes a directory of NumPy
// files with a manifest:
//
//	train-images.npy  uint8 [N,S,S,3], RGB, S pixels wide and high
//	train-labels.npy  uint8 [N], indices into the class names; uint16 if there are more than 256 classes
//	val-images.npy, val-labels.npy, test-images.npy, test-labels.npy
//	manifest.json     source, classes, preprocessing, counts, digests, and the rejected files with reasons
//
// [Load] reads one split of such a directory and verifies it against the manifest. Its images are mapped into memory,
// so that they may be larger than the memory.
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
	"unicode"
	"unicode/utf8"

	"github.com/edsrzf/mmap-go"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
)

// FormatVersion is the version of the directory layout that Prepare writes. Load also reads version 1, whose images are
// of CIFAKE's classes and size.
const FormatVersion = 2

// MaxClasses is the largest number of classes of a dataset.
const MaxClasses = 10_000

// Labels of the CIFAKE classes. They are indices into [Classes].
const (
	Real = 0
	Fake = 1
)

// Splits of a dataset. All are optional. Without Val, training holds out images of Train for validation.
const (
	Train = "train"
	Test  = "test"
	Val   = "val"
)

const manifestName = "manifest.json"

// splitNames and classNames are arrays so that nobody can append to them. classNames are the classes of CIFAKE and of the
// synthetic images. The order of splitNames must not change, because it is part of the seed of synthetic images.
var (
	splitNames = [...]string{Train, Test, Val}
	classNames = [...]string{Real: "REAL", Fake: "FAKE"}
)

func splitIndex(name string) int { return slices.Index(splitNames[:], name) }

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

	rows   []int // of a subset: the indices into Images
	mapped mmap.MMap
}

// Close releases the memory map of a split that [Load] returned. The images must not be used afterwards, nor those of a
// subset. A split that is never closed stays mapped until the program exits, which costs address space but no memory.
func (s *Split) Close() error {
	if s == nil || s.mapped == nil {
		return nil
	}
	s.Images = nil
	return s.mapped.Unmap()
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
	// Preprocessing is the ID of the conversion from image file to pixels, as imaging.Preprocessing.ID returns it. Input
	// has its steps, and Size is the width and height of the images in pixels.
	Preprocessing string                 `json:"preprocessing"`
	Input         *imaging.Preprocessing `json:"input"`
	Size          int                    `json:"size"`
	// Classes are the class names, 2 to MaxClasses. A label is an index into them.
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
	Kind string `json:"kind"` // synthetic, folder, archive, feedback or huggingface
	Path string `json:"path,omitempty"`

	// For feedback: the digest of the model file whose classes the labels are, if one was given, the number of
	// predictions with feedback, and how many of them have no logged image.
	Model        string `json:"model,omitempty"`
	Labeled      int    `json:"labelled,omitempty"`
	WithoutImage int    `json:"without_picture,omitempty"`

	// For huggingface: Revision is the commit that the configured revision, Requested, resolved to.
	// Labels are the class names in the order of the Hub. REAL and FAKE, in either order, become labels 0 and 1.
	Repo      string   `json:"repo,omitempty"`
	Revision  string   `json:"revision,omitempty"`
	Requested string   `json:"requested_revision,omitempty"`
	Labels    []string `json:"labels,omitempty"`

	// Seed is the seed of synthetic images, or that of the random split of a folder. TestSplit is the fraction of a folder
	// that became the test split. Both are absent for a folder that is divided into splits.
	Seed      *int64   `json:"seed,omitempty"`
	TestSplit *float64 `json:"test_split,omitempty"`

	// For synthetic: Generator is the version of the drawing algorithm.
	Generator     string `json:"generator,omitempty"`
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
		all = append(all, setting{"dataset.seed", strconv.FormatInt(*s.Seed, 10)})
	}
	if s.TestSplit != nil {
		all = append(all, setting{"dataset.test_split", strconv.FormatFloat(*s.TestSplit, 'g', -1, 64)})
	}
	if s.Kind == "synthetic" {
		all = append(all, setting{"dataset.train_per_class", strconv.Itoa(s.TrainPerClass)}, setting{"dataset.test_per_class", strconv.Itoa(s.TestPerClass)})
	}
	return slices.DeleteFunc(all, func(s setting) bool { return s.value == "" })
}

// inputSettings returns the keys that select the preprocessing. With all, it includes those with their default values.
func inputSettings(p *imaging.Preprocessing, all bool) []setting {
	if p == nil {
		return nil
	}
	settings := []setting{
		{"dataset.size", strconv.Itoa(p.Width)},
		{"dataset.fit", string(p.Fit)},
		{"dataset.orientation", string(p.Orientation)},
		{"dataset.jpeg", string(p.JPEG)},
	}
	if all {
		return settings
	}
	defaults := imaging.Default()
	return slices.DeleteFunc(settings, func(s setting) bool { return slices.Contains(inputSettings(&defaults, true), s) })
}

// prepareCommand returns the command that prepares this dataset again in dir.
func (m Manifest) prepareCommand(dir string) string {
	command := "bin/trainer data prepare dataset=" + cmp.Or(m.Source.Kind, "synthetic|folder|archive|feedback|huggingface")
	for _, s := range slices.Concat(m.Source.settings(), inputSettings(m.Input, false), []setting{{"dataset.dir", dir}}) {
		command += " " + s.String()
	}
	return command
}

// Matches returns an error that names all differences if the dataset, in cfg.Dir, was prepared from
// another source than the one that cfg describes. It doesn't compare dataset.strict and
// dataset.endpoint, which don't select images, and an empty dataset.path, which training doesn't need.
func (m Manifest) Matches(cfg config.Dataset) error {
	configured := Source{Kind: cfg.Name, Path: cfg.Path, Repo: cfg.Repo, Revision: cfg.Revision}
	switch cfg.Name {
	case "synthetic":
		configured.Seed, configured.TrainPerClass, configured.TestPerClass = &cfg.Seed, cfg.TrainPerClass, cfg.TestPerClass
	case "folder":
		configured.Seed, configured.TestSplit = &cfg.Seed, &cfg.TestSplit
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
	if cfg.Size != 0 && m.Input != nil {
		input := preprocessing(cfg)
		for i, s := range inputSettings(&input, true) {
			if p := inputSettings(m.Input, true)[i]; s != p {
				differ(s.key, s.value, p.value)
				fix = append(fix, p)
			}
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

// Load reads one split, [Train], [Val] or [Test], and the manifest of the dataset in dir. The images are mapped into
// memory, read-only; call [Split.Close] to release them earlier than at the end of the program.
//
// It verifies the version, preprocessing and class names of the manifest, and the size, SHA-256,
// .npy header, shape and label values of both files. An error names the invalid file, with the
// command that prepares the dataset again as a hint. If a Prepare was killed while it replaced the
// dataset, Load restores the previous one first.
func Load(dir, split string) (*Split, *Manifest, error) {
	if !slices.Contains(splitNames[:], split) {
		return nil, nil, fmt.Errorf("load dataset: unknown split %q, want %q, %q or %q", split, Train, Val, Test)
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	if m.Count(split) == 0 {
		return nil, nil, fmt.Errorf("load dataset: %s has no %s split\nhint: choose one that it has (%s), or prepare a dataset that has one: %s", dir, split,
			strings.Join(slices.DeleteFunc(slices.Clone(splitNames[:]), func(s string) bool { return m.Count(s) == 0 }), ", "), Manifest{}.prepareCommand(dir))
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
				"hint: to use images in %[1]s, prepare a dataset from them: bin/trainer data prepare dataset=folder dataset.path=%[1]s dataset.dir=data/%[3]s",
				dir, manifestName, filepath.Base(dir))
		}
		return nil, fmt.Errorf("load dataset: no dataset in %s\nhint: prepare it: %s", dir, m.prepareCommand(dir))
	case err != nil:
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("load dataset: %s is invalid: not the JSON of a manifest\nhint: prepare it again: %s", path, Manifest{}.prepareCommand(dir))
	}
	if m.FormatVersion == 1 {
		m.Input = new(imaging.Preprocessing)
		*m.Input = imaging.Default()
		m.Size = m.Input.Width
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("load dataset: %s: %w\nhint: prepare it again: %s", path, err, m.prepareCommand(dir))
	}
	return &m, nil
}

// check returns an error if this program cannot read the dataset that m describes.
func (m Manifest) check() error {
	if m.FormatVersion < 1 || m.FormatVersion > FormatVersion {
		return fmt.Errorf("format version is %d, want 1 to %d", m.FormatVersion, FormatVersion)
	}
	if m.Input == nil {
		return errors.New("the preprocessing is missing")
	}
	if err := m.Input.Check(); err != nil {
		return fmt.Errorf("preprocessing: %w", err)
	}
	if want := m.Input.ID(); m.Preprocessing != want {
		return fmt.Errorf("preprocessing is %q, want %q", m.Preprocessing, want)
	}
	if m.Size != m.Input.Width || m.Size != m.Input.Height || m.Input.Channels() != imaging.Channels {
		return fmt.Errorf("size is %d, expected a preprocessing to RGB images of this width and height", m.Size)
	}
	return checkClasses(m.Classes)
}

// maxClassName is the longest class name in bytes.
const maxClassName = 200

// checkClasses returns an error unless names are those of 2 to MaxClasses classes.
func checkClasses(names []string) error {
	if len(names) < 2 || len(names) > MaxClasses {
		return fmt.Errorf("%d classes, want 2 to %d", len(names), MaxClasses)
	}
	seen := make(map[string]string, len(names))
	for _, name := range names {
		if name == "" || len(name) > maxClassName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("class name %.60q: it must have 1 to %d bytes of printable UTF-8", name, maxClassName)
		}
		lower := strings.ToLower(name)
		switch other, ok := seen[lower]; {
		case ok && other == name:
			return fmt.Errorf("class name %q occurs twice", name)
		case ok:
			return fmt.Errorf("class names %q and %q differ only in case", other, name)
		}
		seen[lower] = name
	}
	return nil
}

// labelType returns the element type of the labels.
func (m Manifest) labelType() string {
	if len(m.Classes) > 256 {
		return npyUint16
	}
	return npyUint8
}

func (m Manifest) load(dir, split string) (_ *Split, err error) {
	n := m.Count(split)
	s := &Split{Labels: make([]uint16, n), Side: m.Size, Classes: m.Classes}
	labels, mapped, err := m.loadFile(dir, labelsName(split), m.labelType(), []int{n})
	if err != nil {
		return nil, err
	}
	for i := range s.Labels {
		if m.labelType() == npyUint16 {
			s.Labels[i] = uint16(labels[2*i]) | uint16(labels[2*i+1])<<8
		} else {
			s.Labels[i] = uint16(labels[i])
		}
	}
	if err := mapped.Unmap(); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, labelsName(split)), err)
	}
	counts := make([]int, len(m.Classes))
	for i, label := range s.Labels {
		if int(label) >= len(m.Classes) {
			return nil, fmt.Errorf("%s: label of image %[3]d is %[2]d, want 0 to %[4]d",
				filepath.Join(dir, labelsName(split)), label, i, len(m.Classes)-1)
		}
		counts[label]++
	}
	for class, name := range m.Classes {
		if counts[class] != m.Splits[split][name] {
			return nil, fmt.Errorf("%s: %d labels are %s, want %d according to the manifest",
				filepath.Join(dir, labelsName(split)), counts[class], name, m.Splits[split][name])
		}
	}
	s.Images, s.mapped, err = m.loadFile(dir, imagesName(split), npyUint8, []int{n, m.Size, m.Size, imaging.Channels})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// loadFile maps an .npy file into memory after verifying it against the manifest and the expected type and shape. It
// returns the data, which is part of the map.
func (m Manifest) loadFile(dir, name, descr string, shape []int) (data []byte, mapped mmap.MMap, err error) {
	path := filepath.Join(dir, name)
	want, ok := m.Files[name]
	if !ok {
		return nil, nil, fmt.Errorf("%s is not listed in the manifest", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s is missing", path)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() != want.Bytes {
		return nil, nil, fmt.Errorf("%s has %d bytes, want %d according to the manifest", path, info.Size(), want.Bytes)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	if sum := h.Sum(nil); hex.EncodeToString(sum) != want.SHA256 {
		return nil, nil, fmt.Errorf("%s was modified: its SHA-256 is %x, want %s according to the manifest", path, sum, want.SHA256)
	}
	mapped, err = mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s into memory: %w", path, err)
	}
	data, err = parseNPY(mapped, descr, shape)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), mapped.Unmap())
	}
	return data, mapped, nil
}
