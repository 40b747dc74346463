package dataset

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// cifakeLayout is the layout of the CIFAKE archive, train|test/REAL|FAKE. Names are in any case.
type cifakeLayout struct {
	found      bool
	prefix     string         // path above train and test, set by the first image
	folders    map[int]string // path above the directory of each split, which may be nested as in train/train
	validation map[string]int // images in validation splits, which are not used, by directory
}

// archiveSplits are the splits of the CIFAKE archive.
var archiveSplits = splitNames[:2]

func twoDatasets(one, other string) error {
	return fmt.Errorf("the archive contains two datasets, in %q and %q\nhint: extract one of them and set dataset.path to it",
		path.Join(one, "."), path.Join(other, "."))
}

func indexFold(names []string, name string) int {
	return slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// validationDir returns the directory of the validation split that a file is in, or "".
func validationDir(parts []string) string {
	for i := range len(parts) - 2 {
		if indexFold([]string{"val", "valid", "validation", "dev"}, parts[i]) >= 0 && indexFold(classNames[:], parts[i+1]) >= 0 {
			return path.Join(parts[:i+1]...)
		}
	}
	return ""
}

// locate finds train|test/REAL|FAKE in the directories of a path. It returns an error for a directory that looks like a
// misspelled split or class, because skipping a whole class for a typo would be worse than failing.
func (l *cifakeLayout) locate(parts []string) (*location, string, error) {
	if dir := validationDir(parts); dir != "" {
		l.validation[dir]++
		return nil, "", nil
	}
	dirs := parts[:len(parts)-1]
	for i := range len(dirs) - 1 {
		split, class := indexFold(archiveSplits, dirs[i]), indexFold(classNames[:], dirs[i+1])
		if split >= 0 && class >= 0 {
			if err := l.check(dirs, i, split); err != nil {
				return nil, "", err
			}
			return &location{
				split: split,
				class: uint16(class),
				key:   path.Join(splitNames[split], classNames[class], path.Join(parts[i+2:]...)),
			}, "", nil
		}
	}
	for i, dir := range dirs {
		at := path.Join(dirs[:i+1]...)
		if indexFold(archiveSplits, dir) >= 0 && i+1 < len(dirs) {
			wrong := dirs[i+1]
			return nil, "", fmt.Errorf("%s: unknown class, want REAL or FAKE\nhint: rename or remove the directory%s; for other classes, use dataset=folder",
				path.Join(at, wrong), didYouMean(at, wrong, classNames[:]))
		}
		if indexFold(classNames[:], dir) >= 0 {
			if i == 0 {
				return nil, "", fmt.Errorf("%s is not in a directory train or test\nhint: move the classes into train/ and test/, set dataset.path to the directory that contains these, or use dataset=folder", at)
			}
			wrong := dirs[i-1]
			return nil, "", fmt.Errorf("%s: unknown split, want train or test\nhint: rename or remove the directory%s",
				path.Join(dirs[:i]...), didYouMean(path.Join(dirs[:i-1]...), wrong, archiveSplits))
		}
	}
	return nil, "not in train|test/REAL|FAKE", nil
}

// check returns an error if the split in dirs[at] is of another dataset than those before.
func (l *cifakeLayout) check(dirs []string, at, split int) error {
	above := dirs[:at]
	for len(above) > 0 && strings.EqualFold(above[len(above)-1], dirs[at]) {
		above = above[:len(above)-1]
	}
	prefix, folder := path.Join(above...), path.Join(dirs[:at]...)
	before, known := l.folders[split]
	switch {
	case l.found && l.prefix != prefix:
		return twoDatasets(l.prefix, prefix)
	case known && before != folder:
		return twoDatasets(path.Join(before, splitNames[split]), path.Join(folder, splitNames[split]))
	}
	l.found, l.prefix, l.folders[split] = true, prefix, folder
	return nil
}

// didYouMean suggests the correct path of a misspelled directory if at most two letters differ.
func didYouMean(above, wrong string, names []string) string {
	for _, name := range names {
		if levenshtein.ComputeDistance(strings.ToLower(wrong), strings.ToLower(name)) <= 2 {
			return " (did you mean " + path.Join(above, name) + "?)"
		}
	}
	return ""
}

// complete returns an error if a split or a class is missing, with what was found instead.
func (l *cifakeLayout) complete(a *archive) error {
	for _, dir := range slices.Sorted(maps.Keys(l.validation)) {
		a.c.reject(dir, fmt.Sprintf("%d files of a validation split are not used; training holds out validation images of train", l.validation[dir]))
	}
	if len(a.seen) == 0 {
		return a.empty("train|test/REAL|FAKE", "train/ and test/")
	}
	err := a.c.complete(a.name, true)
	if err != nil && len(a.c.splits[splitIndex(Test)]) == 0 {
		for dir := range l.validation {
			return fmt.Errorf("%w\nhint: rename %s to test to use it as the test split", err, dir)
		}
	}
	return err
}

// empty returns the error for an archive without images in the layout.
func (a *archive) empty(layout, folders string) error {
	found := ""
	a.c.sort()
	switch r := a.c.rejected; {
	case len(r) > 0:
		found = fmt.Sprintf("; rejected %d, for example %s: %s", len(r), r[0].Path, r[0].Reason)
	case a.hidden > 0:
		found = fmt.Sprintf("; skipped %d hidden files or directories, for example %s", a.hidden, a.hiddenPath)
	}
	return fmt.Errorf("%s contains no images in %s%s\nhint: set dataset.path to the directory or archive that contains %s", a.name, layout, found, folders)
}
