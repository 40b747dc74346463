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
// small, test images that are also in the train split, images in both classes, and rotated images. Two images are
// the same if their pixels are equal, and so also if their files are.
func (c *collection) warnings() []string {
	var found []string
	for split, name := range splitNames {
		var counts [len(classNames)]int
		for class := range classNames {
			counts[class] = c.count(split, uint8(class))
		}
		for class, n := range counts {
			other := counts[1-class]
			switch {
			case other == 0 || float64(n) >= minShare*float64(other) && n > 1:
			case n == 1 && name == Train:
				found = append(found, fmt.Sprintf("the train split has 1 %s and %d %s: no %s is left for validation",
					classNames[class], other, classNames[1-class], classNames[class]))
			case float64(n) < minShare*float64(other):
				found = append(found, fmt.Sprintf("the %s split has %d %s and %d %s: metrics say little about %s",
					name, n, classNames[class], other, classNames[1-class], classNames[class]))
			}
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
			sum := sha256.Sum256(s.pixels)
			if places[sum] = append(places[sum], place{split, s}); len(places[sum]) == 2 {
				order = append(order, sum)
			}
		}
	}
	leaked, both, total := 0, 0, 0
	var rotated []string
	for _, images := range c.splits {
		total += len(images)
		for _, s := range images {
			if s.rotated {
				rotated = append(rotated, s.key)
			}
		}
	}
	var leaks, conflicts []string
	for _, sum := range order {
		same := places[sum]
		first := same[0]
		conflict := false
		for _, p := range same[1:] {
			if p.split != first.split {
				leaked++
				leaks = append(leaks, p.key+" = "+first.key)
			}
			if p.class != first.class && !conflict {
				conflict = true
				conflicts = append(conflicts, fmt.Sprintf("%s (%s) = %s (%s)", first.key, classNames[first.class], p.key, classNames[p.class]))
			}
		}
		if conflict {
			both += len(same)
		}
	}
	if leaked > 0 {
		found = append(found, fmt.Sprintf("%d of %d test images are also in the train split: %s", leaked, len(c.splits[1]), Examples(leaks)))
	}
	if both > 0 {
		found = append(found, fmt.Sprintf("%d of %d images have a copy in the other class: %s", both, total, Examples(conflicts)))
	}
	if len(rotated) > 0 {
		found = append(found, fmt.Sprintf("%d of %d images are rotated or mirrored by their EXIF orientation, which isn't applied: %s", len(rotated), total, Examples(rotated)))
	}
	return found
}
