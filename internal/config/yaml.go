package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// scalar is a single value as it was written in a file or on the command line. Conversions start from
// its text, so that every number is read by the same rules and an error can quote it.
type scalar struct {
	text   string
	isText bool // a string for YAML, because it's quoted or looks like nothing else
}

// isNull reports whether the value is null or missing.
func (s scalar) isNull() bool {
	return !s.isText && slices.Contains([]string{"", "~", "null", "Null", "NULL"}, s.text)
}

// parse parses a YAML file with a mapping at the top level. Its values are scalars, lists ([]any) and
// sections (map[string]any). The error is a single line.
func parse(data []byte) (map[string]any, error) {
	node, err := document(data)
	if err != nil || node == nil {
		return nil, err
	}
	value, err := new(reader).tree(node, 0)
	if err != nil {
		return nil, err
	}
	switch v := value.(type) {
	case map[string]any:
		return v, nil
	case scalar:
		if v.isNull() {
			return nil, nil
		}
	}
	return nil, fmt.Errorf(`line %d: the file must consist of "key: value" lines`, node.Line)
}

// document returns the top-level node of the only YAML document in data, or nil if data is empty.
func document(data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, yamlError(data, err)
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
		return first.Content[0], nil
	case err != nil:
		return nil, yamlError(data, err)
	}
	return nil, fmt.Errorf(`line %d: a second YAML document; remove the "---" before it, or move it to a file of its own`, second.Line)
}

// Limits of a file, so that aliases that contain themselves or multiply are an error.
const (
	maxDepth  = 5
	maxValues = 10000
)

// reader converts the nodes of one file and counts them.
type reader struct{ values int }

// tree converts a node to scalars, lists and sections. Aliases and merge keys are replaced by what
// they refer to.
func (r *reader) tree(node *yaml.Node, depth int) (any, error) {
	r.values++
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch {
	case depth > maxDepth || r.values > maxValues:
		return nil, fmt.Errorf("line %d: too many values or nested too deeply, or an alias contains itself", node.Line)
	case node.Style&yaml.TaggedStyle != 0:
		return nil, fmt.Errorf("line %d: tags such as %s are not supported", node.Line, node.Tag)
	}
	switch node.Kind {
	case yaml.MappingNode:
		var entries map[string]yaml.Node
		if err := node.Decode(&entries); err != nil {
			return nil, yamlError(nil, err)
		}
		section := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			entry := entries[key]
			value, err := r.tree(&entry, depth+1)
			if err != nil {
				return nil, err
			}
			section[key] = value
		}
		return section, nil
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range node.Content {
			value, err := r.tree(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	default:
		tag := node.ShortTag()
		return scalar{text: node.Value, isText: tag == "!!str" || tag == "!!timestamp"}, nil
	}
}

// flatten adds the values of a section to flat, with keys such as "experiment.epochs". An empty
// section is a value of its own.
func flatten(flat map[string]any, prefix string, section map[string]any) error {
	for key, value := range section {
		key = prefix + key
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 {
			if err := flatten(flat, key+".", inner); err != nil {
				return err
			}
			continue
		}
		if _, twice := flat[key]; twice {
			return fmt.Errorf("key %q is set twice", key)
		}
		flat[key] = value
	}
	return nil
}

// parse parses the value of an override as YAML, except that a string is taken literally unless it's
// quoted or null, so that run.name=2024 and dataset.path=C:\cifake need no quotes.
func (k kind) parse(text string) (any, error) {
	if k == kindString {
		trimmed := strings.TrimSpace(text)
		if s := (scalar{text: trimmed}); trimmed != "" && s.isNull() {
			return s, nil
		}
		if !strings.HasPrefix(trimmed, `"`) && !strings.HasPrefix(trimmed, "'") {
			return scalar{text, true}, nil
		}
	}
	node, err := document([]byte(text))
	if err == nil && node == nil {
		return scalar{}, nil
	}
	if err == nil {
		var value any
		if value, err = new(reader).tree(node, 0); err == nil {
			if _, section := value.(map[string]any); !section {
				return value, nil
			}
		}
	}
	if k == kindString {
		return nil, errors.New("one pair of quotes must enclose the whole value")
	}
	return scalar{text, true}, nil // convert reports it
}

// digits matches a decimal whole number, which YAML 1.1 would read as octal if it starts with a zero.
var digits = regexp.MustCompile(`^[+-]?[0-9]+$`)

// ParseInteger parses a whole number by the rule for values: decimal, even with leading zeros, or with
// a prefix 0x, 0o or 0b. Digits may be grouped by underscores. The error is strconv.ErrRange (wrapped)
// if 64 bits are too few.
func ParseInteger(text string) (int64, error) {
	text, base := strings.ReplaceAll(text, "_", ""), 0
	if digits.MatchString(text) {
		base = 10
	}
	return strconv.ParseInt(text, base, 64)
}

// integer is like ParseInteger. inRange is false if only 64 bits are too few.
func (s scalar) integer() (n int64, inRange, ok bool) {
	n, err := ParseInteger(s.text)
	inRange = !errors.Is(err, strconv.ErrRange)
	return n, inRange, !s.isText && (err == nil || !inRange)
}

// float parses a number: a whole number as integer does, a decimal fraction, or .inf and .nan.
func (s scalar) float() (float64, bool) {
	if n, inRange, ok := s.integer(); ok && inRange {
		return float64(n), true
	}
	if s.isText || s.isNull() {
		return 0, false
	}
	text := strings.ReplaceAll(strings.ToLower(s.text), "_", "")
	text = strings.Replace(strings.Replace(text, ".inf", "inf", 1), ".nan", "nan", 1)
	f, err := strconv.ParseFloat(text, 64) // infinite if it's too large, which no key allows
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

// boolean parses true and false.
func (s scalar) boolean() (value, ok bool) {
	value = strings.EqualFold(s.text, "true")
	return value, !s.isText && (value || strings.EqualFold(s.text, "false"))
}

var (
	yamlDuplicate = regexp.MustCompile(`line (\d+): mapping key (".*") already defined at line (\d+)`)
	yamlSyntax    = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	yamlTab       = regexp.MustCompile(`(?m)^ *\t`)
)

// yamlError rewrites an error of the YAML parser for users, on a single line. data is the file.
func yamlError(data []byte, err error) error {
	message := strings.Join(strings.Fields(err.Error()), " ")
	if m := yamlDuplicate.FindStringSubmatch(message); m != nil {
		return fmt.Errorf("line %s: key %s is already set on line %s", m[1], m[2], m[3])
	}
	if tab := yamlTab.FindIndex(data); tab != nil {
		return fmt.Errorf("line %d: a tab in the indentation; YAML allows only spaces", 1+bytes.Count(data[:tab[0]], []byte("\n")))
	}
	m := yamlSyntax.FindStringSubmatch(message)
	switch {
	case m == nil:
		return fmt.Errorf("invalid YAML: %s", message)
	case m[1] == "":
		return fmt.Errorf("invalid YAML: %s", m[2])
	default:
		return fmt.Errorf("line %s: invalid YAML: %s", m[1], m[2])
	}
}
