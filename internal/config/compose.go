package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

// rootFile is the file that names one file of each group.
const rootFile = "config.yaml"

// Load composes the configuration from the files in dir, or from those built
// into the program when dir is empty, and the overrides, "group=choice" or
// "group.key=value". Choices are made before values are set, whatever their
// order; of two overrides of the same thing the last one counts.
//
// The error lists everything found wrong, each with its key, its value and
// what is allowed.
func Load(dir string, overrides []string) (*Config, error) {
	c := composer{
		files:  configs.Files,
		folder: "configs",
		fields: schema(),
		values: koanf.New("."),
		origin: map[string]string{},
	}
	if dir != "" {
		c.files, c.folder = os.DirFS(dir), filepath.ToSlash(filepath.Clean(dir))
	}
	config, err := c.compose(overrides)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return config, nil
}

// LoadFile reads a complete configuration as Config.YAML writes it, such as
// the config.yaml of a run folder. Nothing is interpolated.
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

// composer puts one configuration together.
type composer struct {
	files  fs.FS
	folder string // what to call files in messages
	fields []field
	values *koanf.Koanf
	origin map[string]string // key → the file that set it; overrides have none
}

func (c *composer) compose(overrides []string) (*Config, error) {
	groups, err := c.groups()
	if err != nil {
		return nil, err
	}
	choices, settings, wrong := c.sort(overrides, groups)
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
	if err := c.unknown(values).err(); err != nil {
		return nil, err
	}
	values, wrong = interpolate(values, keys(c.fields))
	if err := wrong.err(); err != nil {
		return nil, err
	}
	return c.decode(values)
}

// groups returns the choices of each group: the YAML files of its folder.
func (c *composer) groups() (map[string][]string, error) {
	if _, err := fs.Stat(c.files, rootFile); err != nil {
		return nil, fmt.Errorf("%s: there is no %s in this folder", c.folder, rootFile)
	}
	groups := map[string][]string{}
	for _, section := range sections(c.fields) {
		entries, err := fs.ReadDir(c.files, section)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a section of config.yaml, such as run
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

// sort tells choices from settings and refuses what is neither.
func (c *composer) sort(overrides []string, groups map[string][]string) (map[string]string, []setting, problems) {
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
			wrong = append(wrong, fmt.Sprintf("%s: %s is a section, not a group with choices; set one of its keys: %s",
				override, key, strings.Join(c.keysOf(key), ", ")))
			continue
		}
		i := slices.IndexFunc(c.fields, func(f field) bool { return f.key == key })
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %s", override, c.unknownKey(key)))
			continue
		}
		if section, ok := strings.CutSuffix(key, ".name"); ok && variants[section] != nil {
			wrong = append(wrong, fmt.Sprintf("%s: this takes a whole file; write %s=%s", override, section, value))
			continue
		}
		settings = append(settings, setting{key, c.fields[i].kind.parse(value)})
	}
	return choices, settings, wrong
}

// split takes an override apart and says what is amiss with its form.
func split(override string) (key, value string, err error) {
	key, value, found := strings.Cut(override, "=")
	switch {
	case strings.HasPrefix(override, "-"):
		return "", "", fmt.Errorf("%s: settings are written without dashes, as in experiment.epochs=6", override)
	case strings.HasPrefix(override, "+"):
		return "", "", fmt.Errorf("%s: adding keys with + is not supported; every key already has a value, so write %s",
			override, strings.TrimLeft(override, "+"))
	case strings.HasPrefix(override, "~"):
		return "", "", fmt.Errorf("%s: removing keys with ~ is not supported; set another value instead", override)
	case !found:
		return "", "", fmt.Errorf("%q is not a setting: write group.key=value or group=choice in one word, as in experiment.epochs=6", override)
	case key == "":
		return "", "", fmt.Errorf("%q has no key before the =; write it without spaces, as in experiment.epochs=6", override)
	case key != strings.TrimSpace(key):
		return "", "", fmt.Errorf("%q: write it without spaces around the =, as in experiment.epochs=6", override)
	}
	return key, value, nil
}

// choose checks that a group has the file that is asked for.
func choose(group, choice string, options []string) error {
	if slices.Contains(options, choice) {
		return nil
	}
	return fmt.Errorf("%s=%s: there is no such %s%s (there are: %s)",
		group, choice, group, suggest(choice, options), strings.Join(options, ", "))
}

// digits is a whole number as people write it; YAML 1.1 would read 010 as 8.
var digits = regexp.MustCompile(`^[+-]?[0-9]+$`)

// parse reads the value of an override as YAML, but for two things: where a
// text is wanted the characters are taken as they are, so that run.name=2024
// and dataset.path=C:\cifake need no quotes, and whole numbers are decimal.
// What is not YAML stays a text; whether the type is right is decided later.
func (k kind) parse(value string) any {
	if k == text && !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
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
	// As the value of a key, because a whole document that is one text is no map.
	parsed, err := yaml.Parser().Unmarshal([]byte("value: " + value))
	if err != nil || len(parsed) != 1 {
		return value
	}
	return parsed["value"]
}

// parse reads a YAML file whose top is a map, with an error of one line.
func parse(data []byte) (map[string]any, error) {
	values, err := yaml.Parser().Unmarshal(data)
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	return values, nil
}

// loadRoot follows config.yaml's defaults list, with the choices made on the
// command line in place of its own.
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
			return fmt.Errorf(`%s: defaults: %s: each line is "- group: choice" or, once, "- _self_"`, file, show(item))
		}
		for group, choice := range pair {
			options, known := groups[group]
			if !known {
				return fmt.Errorf("%s: defaults: there is no group %q%s", file, group, suggest(group, slices.Sorted(maps.Keys(groups))))
			}
			if seen[group] {
				return fmt.Errorf("%s: defaults: %s is there twice", file, group)
			}
			seen[group] = true
			name, isText := choice.(string)
			if chosen, ok := choices[group]; ok {
				name, isText = chosen, true
			}
			if !isText {
				return fmt.Errorf("%s: defaults: %s: %s is not the name of a choice", file, group, show(choice))
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
			return fmt.Errorf("%s: defaults: has no line for %s, so it cannot be chosen", file, group)
		}
	}
	if self {
		return nil
	}
	return c.merge(file, "", values)
}

// loadChoice merges one file of a group, after those that its own defaults
// list names. within lists the files that led here.
func (c *composer) loadChoice(group, name string, within []string) error {
	file := path.Join(group, name+".yaml")
	label := path.Join(c.folder, file)
	if slices.Contains(within, name) {
		return fmt.Errorf("%s: defaults go round in a circle: %s → %s", label, strings.Join(within, " → "), name)
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
			return fmt.Errorf(`%s: defaults: %s: each line is the name of another file of %s, or "_self_"`, label, show(item), group)
		case other == "_self_":
			self = true
			err = c.merge(label, group, values)
		default:
			if _, missing := fs.Stat(c.files, path.Join(group, other+".yaml")); missing != nil {
				return fmt.Errorf("%s: defaults: there is no %s", label, path.Join(c.folder, group, other+".yaml"))
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

// read parses a file and takes its defaults list out of its values.
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

// merge lays a file's values over what is there, below the group's name.
func (c *composer) merge(label, group string, values map[string]any) error {
	if group != "" {
		values = map[string]any{group: values}
	}
	layer := koanf.New(".")
	if err := layer.Load(confmap.Provider(values, ""), nil); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	// Checked file by file: once merged, a section overwritten by a value
	// would only show as keys that are missing.
	for key := range layer.All() {
		c.origin[key] = label
	}
	if err := c.unknown(layer.All()).err(); err != nil {
		return err
	}
	if err := c.values.Merge(layer); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

// unknown lists the keys that the configuration does not have.
func (c *composer) unknown(values map[string]any) problems {
	var p problems
	for _, key := range sortedKeys(values) {
		if empty, ok := values[key].(map[string]any); ok && len(empty) == 0 && slices.Contains(sections(c.fields), key) {
			continue // a file without values, such as one of comments only
		}
		if !slices.Contains(keys(c.fields), key) {
			p = append(p, c.from(key)+c.unknownKey(key))
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

// from starts a message with the file that set the key, if one did.
func (c *composer) from(key string) string {
	if file, ok := c.origin[key]; ok {
		return file + ": "
	}
	return ""
}

// decode makes the typed configuration out of flat values, each key known.
func (c *composer) decode(values map[string]any) (*Config, error) {
	wrong := c.unknown(values)
	typed := koanf.New(".")
	for _, f := range c.fields {
		name, _ := values[f.section()+".name"].(string)
		if all := variants[f.section()]; all != nil && !slices.Contains(all, name) {
			if key := f.section() + ".name"; f.key == key && name != "" {
				wrong = append(wrong, c.from(key)+notAmong(key, name, all))
			}
			if f.only != nil {
				continue // whether it applies is anybody's guess
			}
		}
		value, there := values[f.key]
		if applies := f.appliesTo(name); !there || !applies {
			switch {
			case there:
				wrong = append(wrong, fmt.Sprintf("%s%s does not apply to %s=%s, only to %s",
					c.from(f.key), f.key, f.section(), name, orList(f.only)))
			case applies:
				wrong = append(wrong, f.key+" has no value: set it in a file or on the command line")
			}
			continue
		}
		converted, ok := f.kind.convert(value)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s%s is %s: it must be %s%s",
				c.from(f.key), f.key, show(value), f.kind, quoteHint(f.kind)))
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

func quoteHint(k kind) string {
	if k == text {
		return ` (in quotes where YAML takes it for something else; "" for none)`
	}
	return ""
}

func sortedKeys(values map[string]any) []string {
	return slices.Sorted(maps.Keys(values))
}
