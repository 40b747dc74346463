package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"fakeart/internal/config"
)

// gatherFolder reads a directory, .zip or .tar with one folder per class: train|val|test/CLASS/* or only CLASS/*, possibly
// below other directories. The names of the folders are the classes, sorted. A folder that isn't divided into splits is
// divided by cfg.Seed: the fraction cfg.TestSplit of each class becomes the test split.
func gatherFolder(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	l := &folderLayout{c: c}
	a, err := readArchive(ctx, cfg.Path, l, c, out, "train|val|test/CLASS/* or CLASS/*")
	if err != nil {
		return Source{}, fmt.Errorf("folder: %w", err)
	}
	if len(a.seen) == 0 {
		return Source{}, fmt.Errorf("folder: %w", a.empty("folders that are named after their class", "the folders of the classes"))
	}
	if err := c.complete(cfg.Path, false); err != nil {
		return Source{}, fmt.Errorf("folder: %w", err)
	}
	source := Source{Kind: "folder", Path: cfg.Path}
	if !l.divided() {
		c.divide(cfg.Seed, cfg.TestSplit)
		source.Seed, source.TestSplit = &cfg.Seed, &cfg.TestSplit
	}
	return source, nil
}

// divide moves the fraction share of each class from the train to the test split, selected by the seed: at least one image
// of each class, if share isn't 0 and the class has several. The collection must be sorted.
func (c *collection) divide(seed int64, share float64) {
	train, test := splitIndex(Train), splitIndex(Test)
	rng := rand.New(rand.NewPCG(uint64(seed), 0x666f6c646572))
	members := make([][]int, len(c.classes))
	for i := range c.splits[train] {
		class := c.splits[train][i].class
		members[class] = append(members[class], i)
	}
	moved := make([]bool, len(c.splits[train]))
	for _, of := range members {
		rng.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		n := int(share*float64(len(of)) + 0.5)
		if share > 0 {
			n = min(max(n, 1), len(of)-1)
		}
		for _, i := range of[:n] {
			moved[i] = true
		}
	}
	var rest []sample
	for i, s := range c.splits[train] {
		if moved[i] {
			c.splits[test] = append(c.splits[test], s)
		} else {
			rest = append(rest, s)
		}
	}
	c.splits[train] = rest
}

// splitFolders are the names of folders that hold a split, in lower case.
var splitFolders = map[string]string{
	"train": Train, "training": Train,
	"val": Val, "valid": Val, "validation": Val, "dev": Val,
	"test": Test, "testing": Test,
}

// folderLayout is the layout of a directory with one folder per class. learn sets all of its fields.
type folderLayout struct {
	c      *collection
	root   []string          // elements of the path above the splits or classes
	splits map[string]int    // split of a directory that contains classes, by its path
	labels map[string]uint16 // by class name
}

// divided reports whether the directory has a validation or test split of its own.
func (l *folderLayout) divided() bool {
	for _, split := range l.splits {
		if splitNames[split] != Train {
			return true
		}
	}
	return false
}

// tree is a directory of an archive.
type tree struct {
	dirs  map[string]*tree
	files int // directly in it
}

func (t *tree) names() []string {
	names := make([]string, 0, len(t.dirs))
	for name := range t.dirs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// newTree returns the tree of the paths, of which those of directories end with "/".
func newTree(paths []string) *tree {
	top := &tree{dirs: map[string]*tree{}}
	for _, p := range paths {
		t, elements := top, strings.Split(p, "/")
		for _, dir := range elements[:len(elements)-1] {
			if t.dirs[dir] == nil {
				t.dirs[dir] = &tree{dirs: map[string]*tree{}}
			}
			t = t.dirs[dir]
		}
		if elements[len(elements)-1] != "" {
			t.files++
		}
	}
	return top
}

// learn finds the splits and classes. It descends from the top while a directory contains nothing but one directory with
// subdirectories, as archives often do.
func (l *folderLayout) learn(paths []string) error {
	top := newTree(paths)
	for {
		names := top.names()
		for _, name := range names {
			if splitFolders[strings.ToLower(name)] != "" && len(top.dirs[name].dirs) > 0 {
				return l.learnSplits(top)
			}
		}
		if len(names) != 1 || len(top.dirs[names[0]].dirs) == 0 {
			break
		}
		top, l.root = top.dirs[names[0]], append(l.root, names[0])
	}
	l.splits = map[string]int{path.Join(l.root...): splitIndex(Train)}
	return l.learnClasses([]*tree{top})
}

// learnSplits finds the classes in the splits of a directory.
func (l *folderLayout) learnSplits(top *tree) error {
	l.splits = map[string]int{}
	var trees []*tree
	where := map[string]string{} // directory by split
	for _, name := range top.names() {
		split := splitFolders[strings.ToLower(name)]
		if split == "" || len(top.dirs[name].dirs) == 0 {
			continue
		}
		if other, ok := where[split]; ok {
			return fmt.Errorf("%s and %s are both a %s split\nhint: rename or remove one of them", l.at(other), l.at(name), split)
		}
		where[split] = name
		t, dir := top.dirs[name], []string{name}
		for inner := t.names(); len(inner) == 1 && splitFolders[strings.ToLower(inner[0])] == split && len(t.dirs[inner[0]].dirs) > 0; inner = t.names() {
			t, dir = t.dirs[inner[0]], append(dir, inner[0]) // as in train/train
		}
		l.splits[path.Join(append(slices.Clone(l.root), dir...)...)] = splitIndex(split)
		trees = append(trees, t)
	}
	// A misspelled split must not be left out without a word.
	for _, name := range top.names() {
		if splitFolders[strings.ToLower(name)] != "" {
			continue
		}
		for class := range top.dirs[name].dirs {
			if slices.ContainsFunc(trees, func(t *tree) bool { return t.dirs[class] != nil }) {
				return fmt.Errorf("%s contains the class %s, but isn't named train, val or test\nhint: rename or remove the directory%s",
					l.at(name), class, didYouMean(path.Join(l.root...), name, splitNames[:]))
			}
		}
	}
	return l.learnClasses(trees)
}

// at returns the path of a directory below the root.
func (l *folderLayout) at(name string) string { return path.Join(path.Join(l.root...), name) }

// learnClasses sets the classes to the names of the directories in trees, one tree per split.
func (l *folderLayout) learnClasses(trees []*tree) error {
	var classes, nested []string
	for _, t := range trees {
		for name, class := range t.dirs {
			classes = append(classes, name)
			if class.files == 0 && len(class.dirs) > 1 {
				inner := class.names()
				nested = append(nested, fmt.Sprintf("%s (%s)", name, Examples(inner)))
			}
		}
	}
	slices.Sort(classes)
	classes = slices.Compact(classes)
	switch err := checkClasses(classes); {
	case len(classes) == 0:
		return nil // there are no images, which the caller reports
	case len(classes) == 1:
		return fmt.Errorf("%s is the only class folder; a classifier needs at least two\nhint: set dataset.path to the directory that contains one folder per class", l.at(classes[0]))
	case err != nil:
		return fmt.Errorf("%w\nhint: rename the folders of the classes", err)
	}
	if len(nested) > 0 {
		slices.Sort(nested)
		l.c.warn("folders of classes that contain only other folders: " + Examples(slices.Compact(nested)) +
			": the images below a folder all have its name as their class")
	}
	l.c.classes = classes
	l.labels = make(map[string]uint16, len(classes))
	for i, name := range classes {
		l.labels[name] = uint16(i)
	}
	return nil
}

func (l *folderLayout) locate(parts []string) (*location, string, error) {
	if l.splits == nil {
		return nil, "", errors.New("the layout is unknown")
	}
	for i := len(l.root); i < len(parts); i++ {
		split, ok := l.splits[path.Join(parts[:i]...)]
		if !ok {
			continue
		}
		rest := parts[i:]
		if len(rest) < 2 {
			return nil, "not in the folder of a class", nil
		}
		class, ok := l.labels[rest[0]]
		if !ok {
			return nil, "not in the folder of a class", nil
		}
		return &location{split: split, class: class, key: path.Join(splitNames[split], path.Join(rest...))}, "", nil
	}
	return nil, "not in the folder of a split or class", nil
}
