package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// interpolate returns a copy of values in which each ${key} is replaced by the value of that
// key. A value that consists of a single reference takes the type of its target. In a string,
// the target is formatted as text.
func interpolate(values map[string]any, fields []field) (map[string]any, problems) {
	r := resolver{values: values, known: keys(fields), kinds: map[string]kind{}, done: map[string]any{}}
	for _, f := range fields {
		r.kinds[f.key] = f.kind
	}
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
	kinds  map[string]kind
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

	v, err := r.resolve(r.values[key], r.kinds[key])
	if err != nil {
		return nil, err
	}
	r.done[key] = v
	return v, nil
}

// resolve resolves the references in a value of kind k.
func (r *resolver) resolve(v any, k kind) (any, error) {
	switch v := v.(type) {
	case scalar:
		return r.text(v, k)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			resolved, err := r.resolve(item, k)
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

// text resolves the references in a scalar of kind k, innermost first.
func (r *resolver) text(s scalar, k kind) (any, error) {
	var out strings.Builder
	for rest := s.text; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			out.WriteString(rest)
			return scalar{out.String(), s.isText}, nil
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
		key, err := r.key(reference)
		if err != nil {
			return nil, err
		}
		v, err := r.value(key)
		if err != nil {
			return nil, err
		}
		target, single := v.(scalar)
		if reference == s.text && (k != kindString || !single) {
			return v, nil
		}
		if !single {
			return nil, fmt.Errorf("%s is a list, which can't be part of a string", reference)
		}
		text := target.text
		if number, ok := r.kinds[key].convert(target); ok {
			text = fmt.Sprint(number) // 1.0e-3 as 0.001
		}
		out.WriteString(rest[:i] + text)
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

// key returns the key that reference ("${…}") refers to, which has a value.
func (r *resolver) key(reference string) (string, error) {
	inner, err := r.text(scalar{reference[len("${") : len(reference)-len("}")], true}, kindString)
	if err != nil {
		return "", err
	}
	name, ok := inner.(scalar)
	if !ok {
		return "", fmt.Errorf("%s: the inner reference is a list, not the name of a key", reference)
	}
	key := strings.TrimSpace(name.text)
	if strings.Contains(key, ":") {
		return "", fmt.Errorf("%s: resolvers are not supported, only ${group.key}", reference)
	}
	if _, ok := r.values[key]; ok {
		return key, nil
	}
	if slices.Contains(r.known, key) {
		return "", fmt.Errorf("%s is not set by the selected files", reference)
	}
	return "", fmt.Errorf("%s: unknown key %q%s", reference, key, suggest(key, r.known))
}
