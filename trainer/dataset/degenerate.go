package dataset

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

const (
	// maxExamples is the number of files that a warning names.
	maxExamples = 3
	// minShare is the share of the largest class of a split below which a class is too small.
	minShare = 0.1
)

// Examples joins examples for a warning and shortens a long list.
func Examples(examples []string) string {
	if len(examples) > maxExamples {
		return strings.Join(examples[:maxExamples], ", ") + ", …"
	}
	return strings.Join(examples, ", ")
}

// Reject returns the warnings as an error if strict, the key dataset.strict, is set.
func Reject(strict bool, warnings []string) error {
	if !strict || len(warnings) == 0 {
		return nil
	}
	return fmt.Errorf("%s\nhint: correct the images, or set dataset.strict=false to continue with a warning", strings.Join(warnings, "; "))
}

// warnings returns the Manifest.Warnings of the collection, which must be sorted: classes that are too
// small, images that are also in the train split, images in several classes, and rotated images. Two images are
// the same if their pixels are equal, and so also if their files are.
func (c *collection) warnings() []string {
	var found []string
	for split, name := range splitNames {
		if len(c.splits[split]) > 0 {
			found = append(found, c.smallClasses(split, name)...)
		}
	}

	type place struct {
		split int
		*sample
	}
	places := map[[sha256.Size]byte][]place{} // in the order of splits and keys
	var order [][sha256.Size]byte             // of images that occur more than once
	for split := range c.splits {
		for i := range c.splits[split] {
			s := &c.splits[split][i]
			if places[s.sum] = append(places[s.sum], place{split, s}); len(places[s.sum]) == 2 {
				order = append(order, s.sum)
			}
		}
	}
	several, total := 0, 0
	var rotated, conflicts []string
	for _, images := range c.splits {
		total += len(images)
		for i := range images {
			if images[i].rotated {
				rotated = append(rotated, images[i].key)
			}
		}
	}
	var leaks [len(splitNames)][len(splitNames)][]string // by the split and the first split of the image
	for _, sum := range order {
		same := places[sum]
		first := same[0]
		conflict := false
		for _, p := range same[1:] {
			if p.split != first.split {
				leaks[p.split][first.split] = append(leaks[p.split][first.split], p.key+" = "+first.key)
			}
			if p.class != first.class && !conflict {
				conflict = true
				conflicts = append(conflicts, fmt.Sprintf("%s (%s) = %s (%s)", first.key, c.classes[first.class], p.key, c.classes[p.class]))
			}
		}
		if conflict {
			several += len(same)
		}
	}
	for split, of := range leaks {
		for first, examples := range of {
			if len(examples) > 0 {
				found = append(found, fmt.Sprintf("%d of %d %s images are also in the %s split: %s",
					len(examples), len(c.splits[split]), splitNames[split], splitNames[first], Examples(examples)))
			}
		}
	}
	if several > 0 {
		other := "another class"
		if len(c.classes) == 2 {
			other = "the other class"
		}
		found = append(found, fmt.Sprintf("%d of %d images have a copy in %s: %s", several, total, other, Examples(conflicts)))
	}
	if len(rotated) > 0 {
		found = append(found, fmt.Sprintf("%d of %d images are rotated or mirrored by their EXIF orientation, which isn't applied: %s", len(rotated), total, Examples(rotated)))
	}
	return found
}

// smallClasses returns the warnings about classes with few images in a split, or none.
func (c *collection) smallClasses(split int, name string) (found []string) {
	counts := c.counts(split)
	largest := 0
	for class, n := range counts {
		if n > counts[largest] {
			largest = class
		}
	}
	var missing, single, few []string
	for class, n := range counts {
		of := fmt.Sprintf("%d %s", n, c.classes[class])
		switch {
		case n == 0:
			missing = append(missing, c.classes[class])
		case n == 1 && name == Train && len(c.splits[splitIndex(Val)]) == 0:
			single = append(single, c.classes[class])
		case float64(n) < minShare*float64(counts[largest]):
			few = append(few, of)
		}
	}
	if len(missing) > 0 {
		found = append(found, fmt.Sprintf("the %s split has no images of %d classes: %s: metrics don't measure them", name, len(missing), Examples(missing)))
	}
	most := fmt.Sprintf("%d %s", counts[largest], c.classes[largest])
	if len(single) > 0 {
		found = append(found, fmt.Sprintf("the train split has 1 %s and %s: no %s is left for validation", Examples(single), most, Examples(single)))
	}
	switch {
	case len(few) == 1:
		_, class, _ := strings.Cut(few[0], " ")
		found = append(found, fmt.Sprintf("the %s split has %s and %s: metrics say little about %s", name, few[0], most, class))
	case len(few) > 1:
		found = append(found, fmt.Sprintf("the %s split has few images of %d classes: %s, but %s: metrics say little about them", name, len(few), Examples(few), most))
	}
	return found
}
