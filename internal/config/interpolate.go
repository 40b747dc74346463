package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// interpolate returns a copy of values in which each ${key} is replaced by the value of that
// key. A value that consists of a single reference takes the type of its target. In a longer
// string, the target is formatted as text.
func interpolate(values map[string]any, known []string) (map[string]any, problems) {
	r := resolver{values: values, known: known, done: map[string]any{}}
	var wrong problems
	for _, key := range sortedKeys(values) {
		if _, err := r.value(key); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", key, err))
		}
	}
	return r.done, wrong
}

type resolver struct {
	values map[string]any
	known  []string
	done   map[string]any
	path   []string // keys whose values are being resolved, outermost first
}

func (r *resolver) value(key string) (any, error) {
	if v, ok := r.done[key]; ok {
		return v, nil
	}
	if i := slices.Index(r.path, key); i >= 0 {
		return nil, fmt.Errorf("circular reference: %s → %s", strings.Join(r.path[i:], " → "), key)
	}
	r.path = append(r.path, key)
	defer func() { r.path = r.path[:len(r.path)-1] }()

	v, err := r.resolve(r.values[key])
	if err != nil {
		return nil, err
	}
	r.done[key] = v
	return v, nil
}

func (r *resolver) resolve(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			resolved, err := r.resolve(item)
			if err != nil {
				return nil, err
			}
			list[i] = resolved
		}
		return list, nil
	default:
		return v, nil
	}
}

// text resolves the references in a string, innermost first.
func (r *resolver) text(s string) (any, error) {
	var out strings.Builder
	for rest := s; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			out.WriteString(rest)
			return out.String(), nil
		}
		if i > 0 && rest[i-1] == '\\' {
			out.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		n := closing(rest[i:])
		if n < 0 {
			return nil, errors.New(`"${" is not closed; write ${group.key}, or \${ for a literal "${"`)
		}
		reference := rest[i : i+n]
		v, err := r.target(reference)
		if err != nil {
			return nil, err
		}
		if reference == s {
			return v, nil
		}
		if _, list := v.([]any); list {
			return nil, fmt.Errorf("%s is a list, which can't be part of a string", reference)
		}
		out.WriteString(rest[:i] + fmt.Sprint(v))
		rest = rest[i+n:]
	}
}

// closing returns the length of the reference that s starts with, or -1 if its brace isn't
// closed.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// target returns the value that reference ("${…}") refers to.
func (r *resolver) target(reference string) (any, error) {
	inner, err := r.text(reference[len("${") : len(reference)-len("}")])
	if err != nil {
		return nil, err
	}
	key := strings.TrimSpace(fmt.Sprint(inner))
	if strings.Contains(key, ":") {
		return nil, fmt.Errorf("%s: resolvers are not supported, only ${group.key}", reference)
	}
	if _, ok := r.values[key]; ok {
		return r.value(key)
	}
	if slices.Contains(r.known, key) {
		return nil, fmt.Errorf("%s is not set by the selected files", reference)
	}
	return nil, fmt.Errorf("%s: unknown key %q%s", reference, key, suggest(key, r.known))
}
