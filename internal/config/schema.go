package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// kind is the type that a key wants, in the words of an error message.
type kind string

const (
	text    kind = "text"
	whole   kind = "a whole number"
	number  kind = "a number"
	boolean kind = "true or false"
	wholes  kind = "a list of whole numbers such as [32,64,128]"
)

// variants are the values of <section>.name that decide which keys the section
// has.
var variants = map[string][]string{
	"dataset":   {"synthetic", "archive", "feedback", "huggingface"},
	"optimizer": {"adam", "sgd"},
}

// field is one key of the configuration, as the Go type declares it.
type field struct {
	key   string // "optimizer.momentum"
	kind  kind
	only  []string // values of <section>.name for which the key exists; nil: all
	index []int    // for reflect.Value.FieldByIndex on a Config
}

// section is the part of the key before the dot.
func (f field) section() string {
	s, _, _ := strings.Cut(f.key, ".")
	return s
}

// appliesTo tells whether the key exists where <section>.name is name.
func (f field) appliesTo(name string) bool {
	return f.only == nil || slices.Contains(f.only, name)
}

// schema lists the keys of the configuration in the order of Config's fields.
// The Go type is the only place that states them.
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
				key:   section.Tag.Get("koanf") + "." + f.Tag.Get("koanf"),
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
		return text
	case reflect.Int, reflect.Int64:
		return whole
	case reflect.Float64:
		return number
	case reflect.Bool:
		return boolean
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Int {
			return wholes
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

// sections returns the names before the dots, without repetition.
func sections(fields []field) []string {
	var names []string
	for _, f := range fields {
		if s := f.section(); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}

// convert checks that a value as YAML gives it is of the kind wanted and
// returns it as the Go type of that kind. A whole number may stand for a
// number; nothing else is converted.
func (k kind) convert(value any) (any, bool) {
	switch k {
	case text:
		s, ok := value.(string)
		return s, ok
	case boolean:
		b, ok := value.(bool)
		return b, ok
	case whole:
		return wholeNumber(value)
	case number:
		if f, ok := value.(float64); ok {
			return f, true
		}
		n, ok := wholeNumber(value)
		return float64(n), ok
	case wholes:
		list, ok := value.([]any)
		if !ok {
			return nil, false
		}
		numbers := make([]int, len(list))
		for i, item := range list {
			n, ok := wholeNumber(item)
			if !ok {
				return nil, false
			}
			numbers[i] = int(n)
		}
		return numbers, true
	}
	return nil, false
}

func wholeNumber(value any) (int64, bool) {
	switch n := value.(type) {
	case int:
		return int64(n), true
	case int64:
		return n, true
	}
	return 0, false
}

// suggest ends an error message about an unknown name with the known names
// nearest to it, or with nothing when none is near.
func suggest(unknown string, known []string) string {
	near := nearest(unknown, known)
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// nearest returns the known names that differ least from the unknown one. A
// name without a dot is also compared with what follows the dot of a key, so
// that "lr" finds experiment.lr.
func nearest(unknown string, known []string) []string {
	unknown = strings.ToLower(unknown)
	best := max(2, len(unknown)/3) // more edits than this is another word
	var found []string
	for _, name := range known {
		d := levenshtein.ComputeDistance(unknown, name)
		if _, leaf, ok := strings.Cut(name, "."); ok && !strings.Contains(unknown, ".") {
			d = min(d, levenshtein.ComputeDistance(unknown, leaf))
		}
		// Two edits make any two-letter word out of any other.
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

// show writes a value into an error message as the user would write it.
func show(value any) string {
	switch v := value.(type) {
	case nil:
		return "empty"
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

// Keys are the names of all keys, as in experiment.epochs.
func Keys() []string {
	var keys []string
	for _, f := range schema() {
		keys = append(keys, f.key)
	}
	return keys
}
