package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"fakeart/configs"
)

// rootFile is the file whose defaults list selects one file from each group.
const rootFile = "config.yaml"

// Load composes the configuration from the files in dir, or from the built-in ones if dir is
// empty, and applies the overrides. An override is "group=choice" or "group.key=value".
// Choices are applied before values, regardless of their order. If two overrides set the same
// group or key, the last one wins.
//
// The error lists all problems, each with the key, its value and what is allowed.
func Load(dir string, overrides []string) (*Config, error) {
	config, err := newComposer(dir).compose(overrides)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return config, nil
}

// LoadFile reads a complete configuration written by [Config.YAML], such as config.yaml in a
// run folder. It doesn't interpolate.
func LoadFile(name string) (*Config, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := composer{fields: schema(), origin: map[string]string{}}
	values, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	config, err := c.decode(k.All())
	if err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	return config, nil
}

// composer composes one configuration.
type composer struct {
	files  fs.FS
	folder string // path of files in error messages
	fields []field
	values *koanf.Koanf
	origin map[string]string // key → file that set it; keys set by overrides are absent
}

// newComposer returns a composer for the files in dir, or for the built-in files if dir is empty.
func newComposer(dir string) *composer {
	c := &composer{
		files:  configs.Files,
		folder: "configs",
		fields: schema(),
		values: koanf.New("."),
		origin: map[string]string{},
	}
	if dir != "" {
		c.files, c.folder = os.DirFS(dir), filepath.ToSlash(filepath.Clean(dir))
	}
	return c
}

func (c *composer) compose(overrides []string) (*Config, error) {
	groups, err := c.groups()
	if err != nil {
		return nil, err
	}
	choices, settings, wrong := c.parseOverrides(overrides, groups)
	if err := wrong.err(); err != nil {
		return nil, err
	}
	if err := c.loadRoot(groups, choices); err != nil {
		return nil, err
	}
	for _, s := range settings {
		if err := c.values.Load(confmap.Provider(map[string]any{s.key: s.value}, "."), nil); err != nil {
			return nil, fmt.Errorf("%s: %w", s.key, err)
		}
		delete(c.origin, s.key)
	}
	values := c.values.All()
	if err := c.unknownKeys(values).err(); err != nil {
		return nil, err
	}
	values, wrong = interpolate(values, keys(c.fields))
	if err := wrong.err(); err != nil {
		return nil, err
	}
	return c.decode(values)
}

// groups returns the choices of each group, which are the YAML files in its directory.
func (c *composer) groups() (map[string][]string, error) {
	if _, err := fs.Stat(c.files, rootFile); err != nil {
		return nil, fmt.Errorf("%s: no %s in this directory", c.folder, rootFile)
	}
	groups := map[string][]string{}
	for _, section := range sections(c.fields) {
		entries, err := fs.ReadDir(c.files, section)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a section without files, such as run
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Join(c.folder, section), err)
		}
		groups[section] = []string{}
		for _, entry := range entries {
			if name, ok := strings.CutSuffix(entry.Name(), ".yaml"); ok && !entry.IsDir() {
				groups[section] = append(groups[section], name)
			}
		}
	}
	return groups, nil
}

// setting is one value from the command line.
type setting struct {
	key   string
	value any
}

// parseOverrides separates the choices from the single values and rejects everything else.
func (c *composer) parseOverrides(overrides []string, groups map[string][]string) (map[string]string, []setting, problems) {
	var (
		choices  = map[string]string{}
		settings []setting
		wrong    problems
	)
	for _, override := range overrides {
		key, value, err := split(override)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		if options, ok := groups[key]; ok {
			if err := choose(key, value, options); err != nil {
				wrong = append(wrong, err.Error())
			}
			choices[key] = value
			continue
		}
		if slices.Contains(sections(c.fields), key) {
			wrong = append(wrong, fmt.Sprintf("%s: %s is a section, not a group of files; set one of its keys: %s",
				override, key, strings.Join(c.keysOf(key), ", ")))
			continue
		}
		i := slices.IndexFunc(c.fields, func(f field) bool { return f.key == key })
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %s", override, c.unknownKey(key)))
			continue
		}
		if section, ok := strings.CutSuffix(key, ".name"); ok && variants[section] != nil {
			wrong = append(wrong, fmt.Sprintf("%s: select a whole file instead: write %s=%s", override, section, value))
			continue
		}
		settings = append(settings, setting{key, c.fields[i].kind.parse(value)})
	}
	return choices, settings, wrong
}

// split returns the key and the value of an override, or an error if it has the wrong form.
func split(override string) (key, value string, err error) {
	key, value, found := strings.Cut(override, "=")
	switch {
	case strings.HasPrefix(override, "-"):
		return "", "", fmt.Errorf("%s: unknown flag; write settings without dashes, as in experiment.epochs=6", override)
	case strings.HasPrefix(override, "+"):
		return "", "", fmt.Errorf("%s: adding keys with + is not supported; every key already exists, so write %s",
			override, strings.TrimLeft(override, "+"))
	case strings.HasPrefix(override, "~"):
		return "", "", fmt.Errorf("%s: removing keys with ~ is not supported; set another value instead", override)
	case !found:
		return "", "", fmt.Errorf("%q is not a setting; write group.key=value or group=choice without spaces, as in experiment.epochs=6", override)
	case key == "":
		return "", "", fmt.Errorf("%q has no key before the =; write it without spaces, as in experiment.epochs=6", override)
	case key != strings.TrimSpace(key):
		return "", "", fmt.Errorf("%q has spaces around the =; write it without spaces, as in experiment.epochs=6", override)
	}
	return key, value, nil
}

// choose checks that a group has the selected file.
func choose(group, choice string, options []string) error {
	if slices.Contains(options, choice) {
		return nil
	}
	return fmt.Errorf("%s=%s: unknown %s%s (available: %s)",
		group, choice, group, suggest(choice, options), strings.Join(options, ", "))
}

// digits matches a decimal whole number, which YAML 1.1 would read as octal if it starts with
// a zero (010 = 8).
var digits = regexp.MustCompile(`^[+-]?[0-9]+$`)

// parse parses the value of an override as YAML, with two exceptions. A string is taken
// literally unless it's quoted, so that run.name=2024 and dataset.path=C:\cifake need no
// quotes. Whole numbers are decimal even with leading zeros. A value that isn't valid YAML is
// returned as a string; convert checks the type later.
func (k kind) parse(value string) any {
	if k == kindString && !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
		return value
	}
	if digits.MatchString(value) {
		sign, rest := "", value
		if rest[0] == '+' || rest[0] == '-' {
			sign, rest = strings.TrimPrefix(rest[:1], "+"), rest[1:]
		}
		if rest = strings.TrimLeft(rest, "0"); rest == "" {
			rest = "0"
		}
		value = sign + rest
	}
	// The parser requires a mapping at the top level.
	parsed, err := yaml.Parser().Unmarshal([]byte("value: " + value))
	if err != nil || len(parsed) != 1 {
		return value
	}
	return parsed["value"]
}

// parse parses a YAML file with a mapping at the top level. The error is a single line.
func parse(data []byte) (map[string]any, error) {
	values, err := yaml.Parser().Unmarshal(data)
	if err != nil {
		return nil, yamlError(err)
	}
	return values, nil
}

var (
	yamlTopLevel  = regexp.MustCompile(`line (\d+): cannot unmarshal .* into map\[string\]interface`)
	yamlDuplicate = regexp.MustCompile(`line (\d+): mapping key (".*") already defined at line (\d+)`)
	yamlSyntax    = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
)

// yamlError rewrites an error of the YAML parser for users, on a single line.
func yamlError(err error) error {
	message := strings.Join(strings.Fields(err.Error()), " ")
	if m := yamlTopLevel.FindStringSubmatch(message); m != nil {
		return fmt.Errorf(`line %s: the file must consist of "key: value" lines`, m[1])
	}
	if m := yamlDuplicate.FindStringSubmatch(message); m != nil {
		return fmt.Errorf("line %s: key %s is already set on line %s", m[1], m[2], m[3])
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

// loadRoot processes the defaults list of config.yaml. Choices from overrides replace those of
// the list.
func (c *composer) loadRoot(groups map[string][]string, choices map[string]string) error {
	file := path.Join(c.folder, rootFile)
	values, defaults, err := c.read(rootFile)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	self := false
	for _, item := range defaults {
		if item == "_self_" && !self {
			self = true
			if err := c.merge(file, "", values); err != nil {
				return err
			}
			continue
		}
		pair, ok := item.(map[string]any)
		if !ok || len(pair) != 1 {
			return fmt.Errorf(`%s: defaults: %s: each entry must be "- group: choice" or, once, "- _self_"`, file, show(item))
		}
		for group, choice := range pair {
			options, known := groups[group]
			if !known {
				return fmt.Errorf("%s: defaults: unknown group %q%s", file, group, suggest(group, slices.Sorted(maps.Keys(groups))))
			}
			if seen[group] {
				return fmt.Errorf("%s: defaults: %s is listed twice", file, group)
			}
			seen[group] = true
			name, isText := choice.(string)
			if chosen, ok := choices[group]; ok {
				name, isText = chosen, true
			}
			if !isText {
				return fmt.Errorf("%s: defaults: %s: %s is not the name of a file", file, group, show(choice))
			}
			if err := choose(group, name, options); err != nil {
				return fmt.Errorf("%s: defaults: %w", file, err)
			}
			if err := c.loadChoice(group, name, nil); err != nil {
				return err
			}
		}
	}
	for group := range choices {
		if !seen[group] {
			return fmt.Errorf("%s: defaults: no entry for %s, so a %s can't be selected", file, group, group)
		}
	}
	if self {
		return nil
	}
	return c.merge(file, "", values)
}

// loadChoice merges one file of a group, after the files in its own defaults list. within
// lists the files whose defaults lists led to this one, outermost first.
func (c *composer) loadChoice(group, name string, within []string) error {
	file := path.Join(group, name+".yaml")
	label := path.Join(c.folder, file)
	if slices.Contains(within, name) {
		return fmt.Errorf("%s: circular defaults: %s → %s", label, strings.Join(within, " → "), name)
	}
	values, defaults, err := c.read(file)
	if err != nil {
		return err
	}
	self := false
	for _, item := range defaults {
		other, ok := item.(string)
		switch {
		case !ok:
			return fmt.Errorf(`%s: defaults: %s: each entry must be the name of another file in %s, or "_self_"`, label, show(item), group)
		case other == "_self_":
			self = true
			err = c.merge(label, group, values)
		default:
			if _, missing := fs.Stat(c.files, path.Join(group, other+".yaml")); missing != nil {
				return fmt.Errorf("%s: defaults: %s doesn't exist", label, path.Join(c.folder, group, other+".yaml"))
			}
			err = c.loadChoice(group, other, append(slices.Clone(within), name))
		}
		if err != nil {
			return err
		}
	}
	if self {
		return nil
	}
	return c.merge(label, group, values)
}

// read parses a file and returns its values and its defaults list separately.
func (c *composer) read(file string) (values map[string]any, defaults []any, err error) {
	label := path.Join(c.folder, file)
	data, err := fs.ReadFile(c.files, file)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", label, err)
	}
	values, err = parse(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", label, err)
	}
	if list, ok := values["defaults"]; ok {
		if defaults, ok = list.([]any); !ok {
			return nil, nil, fmt.Errorf("%s: defaults is %s: it must be a list", label, show(list))
		}
		delete(values, "defaults")
	}
	return values, defaults, nil
}

// merge merges a file's values into the configuration, under the group's name. Later values
// replace earlier ones.
func (c *composer) merge(label, group string, values map[string]any) error {
	if group != "" {
		values = map[string]any{group: values}
	}
	layer := koanf.New(".")
	if err := layer.Load(confmap.Provider(values, ""), nil); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	// Check each file before merging: a value that replaces a section would otherwise only
	// show up as missing keys.
	for key := range layer.All() {
		c.origin[key] = label
	}
	if err := c.unknownKeys(layer.All()).err(); err != nil {
		return err
	}
	if err := c.values.Merge(layer); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

// unknownKeys lists the keys that aren't in the schema.
func (c *composer) unknownKeys(values map[string]any) problems {
	var p problems
	for _, key := range sortedKeys(values) {
		if empty, ok := values[key].(map[string]any); ok && len(empty) == 0 && slices.Contains(sections(c.fields), key) {
			continue // a file without values, such as one with only comments
		}
		if !slices.Contains(keys(c.fields), key) {
			p = append(p, c.filePrefix(key)+c.unknownKey(key))
		}
	}
	return p
}

func (c *composer) unknownKey(key string) string {
	section, _, _ := strings.Cut(key, ".")
	switch names := sections(c.fields); {
	case slices.Contains(names, key):
		return fmt.Sprintf("%s must be a section of keys: %s", key, strings.Join(c.keysOf(key), ", "))
	case !strings.Contains(key, "."):
		return fmt.Sprintf("unknown key or group %q%s", key, suggest(key, append(names, keys(c.fields)...)))
	case slices.Contains(names, section):
		if hint := suggest(key, keys(c.fields)); hint != "" {
			return fmt.Sprintf("unknown key %q%s", key, hint)
		}
		return fmt.Sprintf("unknown key %q; %s has: %s", key, section, strings.Join(c.keysOf(section), ", "))
	default:
		return fmt.Sprintf("unknown key %q%s", key, suggest(key, keys(c.fields)))
	}
}

func (c *composer) keysOf(section string) []string {
	var names []string
	for _, f := range c.fields {
		if f.section() == section {
			names = append(names, f.key)
		}
	}
	return names
}

// filePrefix returns "FILE: " if a file set the key, and "" if an override did.
func (c *composer) filePrefix(key string) string {
	if file, ok := c.origin[key]; ok {
		return file + ": "
	}
	return ""
}

// decode converts flat values to a Config. It reports unknown and missing keys, keys that
// don't apply, wrong types and values out of range.
func (c *composer) decode(values map[string]any) (*Config, error) {
	wrong := c.unknownKeys(values)
	typed := koanf.New(".")
	for _, f := range c.fields {
		name, _ := values[f.section()+".name"].(string)
		if all := variants[f.section()]; all != nil && !slices.Contains(all, name) {
			if key := f.section() + ".name"; f.key == key && name != "" {
				wrong = append(wrong, c.filePrefix(key)+notOneOf(key, name, all))
			}
			if f.only != nil {
				continue // can't tell whether it applies
			}
		}
		value, there := values[f.key]
		if applies := f.appliesTo(name); !there || !applies {
			switch {
			case there:
				wrong = append(wrong, fmt.Sprintf("%s%s does not apply to %s=%s, only to %s",
					c.filePrefix(f.key), f.key, f.section(), name, orList(f.only)))
			case applies:
				wrong = append(wrong, f.key+" has no value: set it in a file or on the command line")
			}
			continue
		}
		converted, ok := f.kind.convert(value)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s%s is %s: it must be %s%s",
				c.filePrefix(f.key), f.key, show(value), f.kind, typeHint(f.kind, value)))
			continue
		}
		if err := typed.Load(confmap.Provider(map[string]any{f.key: converted}, "."), nil); err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	var config Config
	err := typed.UnmarshalWithConf("", &config, koanf.UnmarshalConf{
		DecoderConfig: &mapstructure.DecoderConfig{
			Result: &config, TagName: "koanf", ErrorUnused: true, WeaklyTypedInput: false,
		},
	})
	if err != nil {
		return nil, err
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &config, nil
}

// typeHint completes the message "it must be <kind>".
func typeHint(k kind, value any) string {
	if k == kindString {
		return ` (quote it if YAML reads it as another type; "" for an empty string)`
	}
	if k == kindInt && outOfRange(value) {
		return fmt.Sprintf(" from %d to %d", math.MinInt64, math.MaxInt64)
	}
	return ""
}

// outOfRange reports whether the YAML parser returned a type other than int and int64 because
// the whole number doesn't fit into 64 bits.
func outOfRange(value any) bool {
	switch n := value.(type) {
	case uint64:
		return true
	case float64:
		return math.Abs(n) >= 1<<63
	}
	return false
}

func sortedKeys(values map[string]any) []string {
	return slices.Sorted(maps.Keys(values))
}
