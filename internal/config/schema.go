package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// kind is the type of a key, worded for error messages ("it must be …").
type kind string

const (
	kindString kind = "a string"
	kindInt    kind = "a whole number"
	kindFloat  kind = "a number"
	kindBool   kind = "true or false"
	kindInts   kind = "a list of whole numbers such as [32,64,128]"
)

// variants lists the values of <section>.name in the sections whose keys depend on it.
var variants = map[string][]string{
	"dataset":   {"synthetic", "folder", "archive", "feedback", "huggingface"},
	"optimizer": {"adam", "adamw", "sgd"},
}

// field is one key of the configuration, derived from the fields of Config.
type field struct {
	key   string // "optimizer.momentum"
	kind  kind
	only  []string // values of <section>.name to which the key applies; nil: all
	index []int    // for reflect.Value.FieldByIndex on a Config
}

// section returns the part of the key before the dot.
func (f field) section() string {
	s, _, _ := strings.Cut(f.key, ".")
	return s
}

// appliesTo reports whether the key applies if <section>.name is name.
func (f field) appliesTo(name string) bool {
	return f.only == nil || slices.Contains(f.only, name)
}

// schema returns the keys of the configuration in the order of Config's fields. Config is the
// only place that declares them.
func schema() []field {
	var fields []field
	root := reflect.TypeFor[Config]()
	for i := range root.NumField() {
		section := root.Field(i)
		for j := range section.Type.NumField() {
			f := section.Type.Field(j)
			var only []string
			if tag := f.Tag.Get("only"); tag != "" {
				only = strings.Split(tag, ",")
			}
			fields = append(fields, field{
				key:   section.Tag.Get("key") + "." + f.Tag.Get("key"),
				kind:  kindOf(f.Type),
				only:  only,
				index: []int{i, j},
			})
		}
	}
	return fields
}

func kindOf(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.String:
		return kindString
	case reflect.Int, reflect.Int64:
		return kindInt
	case reflect.Float64:
		return kindFloat
	case reflect.Bool:
		return kindBool
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Int {
			return kindInts
		}
	}
	panic(fmt.Sprintf("config: no kind for fields of type %s", t))
}

// keys returns the names of the fields.
func keys(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.key
	}
	return names
}

// sections returns the names of the sections, each once.
func sections(fields []field) []string {
	var names []string
	for _, f := range fields {
		if s := f.section(); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}

// convert returns a value of a file or an override as the Go type of k, and whether it has that
// type. It accepts a whole number where k is kindFloat, and converts nothing else.
func (k kind) convert(value any) (any, bool) {
	if k == kindInts {
		list, ok := value.([]any)
		numbers := make([]int, len(list))
		for i, item := range list {
			s, _ := item.(scalar)
			n, inRange, isInt := s.integer()
			numbers[i], ok = int(n), ok && isInt && inRange
		}
		return numbers, ok
	}
	s, ok := value.(scalar)
	if !ok {
		return nil, false
	}
	switch k {
	case kindString:
		return s.text, s.isText
	case kindBool:
		return s.boolean()
	case kindInt:
		n, inRange, ok := s.integer()
		return n, ok && inRange
	default:
		return s.float()
	}
}

// suggest returns "; did you mean …?" with the known names closest to an unknown one, or "" if
// none is close.
func suggest(unknown string, known []string) string {
	near := nearest(unknown, known)
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// nearest returns the known names with the smallest edit distance to the unknown one. A name
// without a dot is also compared with the part of each key after the dot, so that "lr" finds
// experiment.lr.
func nearest(unknown string, known []string) []string {
	unknown = strings.ToLower(unknown)
	best := max(2, len(unknown)/3) // with more edits, it's another word
	var found []string
	for _, name := range known {
		d := levenshtein.ComputeDistance(unknown, name)
		if _, leaf, ok := strings.Cut(name, "."); ok && !strings.Contains(unknown, ".") {
			d = min(d, levenshtein.ComputeDistance(unknown, leaf))
		}
		// Two edits turn any two-letter word into any other.
		if d >= len(unknown) && d > 0 {
			continue
		}
		if d < best {
			best, found = d, nil
		}
		if d == best {
			found = append(found, name)
		}
	}
	return found
}

// show formats a value for an error message, as the user wrote it or would write it.
func show(value any) string {
	switch v := value.(type) {
	case scalar:
		switch {
		case v.isText:
			return fmt.Sprintf("%q", v.text)
		case v.text == "":
			return "empty"
		}
		return v.text
	case string:
		return fmt.Sprintf("%q", v)
	case map[string]any:
		return "a section"
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = show(item)
		}
		return "[" + strings.Join(items, ",") + "]"
	case []int:
		return strings.ReplaceAll(fmt.Sprint(v), " ", ",")
	default:
		return fmt.Sprint(v)
	}
}

// Keys returns the names of all keys, such as "experiment.epochs".
func Keys() []string {
	var keys []string
	for _, f := range schema() {
		keys = append(keys, f.key)
	}
	return keys
}
