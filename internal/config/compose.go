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
	"reflect"
	"slices"
	"strings"

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
	flat := map[string]any{}
	if err := flatten(flat, "", values); err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	// The config.yaml of older runs.
	if flip, ok := flat["experiment.flip"]; ok {
		flat["augment.flip"] = flip
	}
	for key := range removed {
		delete(flat, key)
	}
	config, err := c.decode(flat)
	if err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	return config, nil
}

// removed lists the keys of earlier versions, each with what to use instead.
var removed = map[string]string{
	"experiment.flip": "use augment.flip, or augment=standard",
	"evaluate.split":  "training evaluates the test split; `trainer evaluate --split` evaluates another",
}

// added lists the keys that the config.yaml of older runs and the files of older configuration directories lack, with the
// values that do what the program did without them.
var added = map[string]any{
	"dataset.size":               scalar{"32", false},
	"dataset.fit":                scalar{"stretch", true},
	"dataset.orientation":        scalar{"ignore", true},
	"dataset.jpeg":               scalar{"full", true},
	"dataset.model":              scalar{"", true},
	"augment.flip":               scalar{"false", false},
	"augment.crop":               scalar{"0", false},
	"augment.padding":            scalar{"reflect", true},
	"augment.random_ops":         scalar{"0", false},
	"augment.magnitude":          scalar{"0", false},
	"augment.brightness":         scalar{"0", false},
	"augment.contrast":           scalar{"0", false},
	"augment.saturation":         scalar{"0", false},
	"augment.cutout":             scalar{"0", false},
	"model.stem":                 scalar{"0", false},
	"model.residual":             []any{},
	"model.global_pool":          scalar{"false", false},
	"model.positive":             scalar{PositiveAuto, true},
	"optimizer.decay_kernels":    scalar{"false", false},
	"experiment.init":            scalar{"", true},
	"experiment.ema":             scalar{"0", false},
	"experiment.class_weights":   scalar{ClassWeightsNone, true},
	"experiment.label_smoothing": scalar{"0", false},
	"experiment.mixup":           scalar{"0", false},
}

// composer composes one configuration.
type composer struct {
	files  fs.FS
	folder string // path of files in error messages
	fields []field
	values map[string]any    // by key, such as "experiment.epochs"
	origin map[string]string // key → file that set it; keys set by overrides are absent
}

// newComposer returns a composer for the files in dir, or for the built-in files if dir is empty.
func newComposer(dir string) *composer {
	c := &composer{
		files:  configs.Files,
		folder: "configs",
		fields: schema(),
		values: map[string]any{},
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
		c.values[s.key] = s.value
		delete(c.origin, s.key)
	}
	if err := c.unknownKeys(c.values).err(); err != nil {
		return nil, err
	}
	values, wrong := interpolate(c.values, c.fields)
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
		parsed, err := c.fields[i].kind.parse(value)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", override, err))
			continue
		}
		settings = append(settings, setting{key, parsed})
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

// overridePrefix starts an entry of the defaults list of a file that selects a file of another group: "override
// /optimizer: adamw", as in Hydra.
const overridePrefix = "override /"

// overridden adds to choices what the defaults lists of the selected files select in other groups. Choices on the command
// line come first, then those of the groups that are listed first in config.yaml.
func (c *composer) overridden(groups map[string][]string, defaults []any, choices map[string]string) error {
	for _, item := range defaults {
		pair, _ := item.(map[string]any)
		for group, choice := range pair {
			name, _ := choice.(scalar)
			if chosen, ok := choices[group]; ok {
				name = scalar{chosen, true}
			}
			if !slices.Contains(groups[group], name.text) {
				continue // loadRoot reports it
			}
			if err := c.overriddenBy(group, name.text, groups, choices, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// overriddenBy adds to choices what a file, and the files of its group that it is based on, select in other groups.
func (c *composer) overriddenBy(group, name string, groups map[string][]string, choices map[string]string, depth int) error {
	label := path.Join(c.folder, group, name+".yaml")
	_, defaults, err := c.read(path.Join(group, name+".yaml"))
	if err != nil || depth > maxDepth {
		return nil //nolint:nilerr // loadChoice reports it
	}
	// The file's own entries replace those of the files that it is based on.
	for _, item := range defaults {
		pair, _ := item.(map[string]any)
		for key, choice := range pair {
			other, ok := strings.CutPrefix(key, overridePrefix)
			selected, _ := choice.(scalar)
			switch options, known := groups[other]; {
			case !ok || other == group:
				continue // loadChoice reports it
			case !known:
				return fmt.Errorf("%s: defaults: unknown group %q%s", label, other, suggest(other, slices.Sorted(maps.Keys(groups))))
			case !selected.isText:
				return fmt.Errorf("%s: defaults: %s: %s is not the name of a file", label, key, show(choice))
			default:
				if err := choose(other, selected.text, options); err != nil {
					return fmt.Errorf("%s: defaults: %w", label, err)
				}
			}
			if _, ok := choices[other]; !ok {
				choices[other] = selected.text
			}
		}
	}
	for _, item := range defaults {
		if base, _ := item.(scalar); base.isText && base.text != "_self_" && slices.Contains(groups[group], base.text) {
			if err := c.overriddenBy(group, base.text, groups, choices, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadRoot processes the defaults list of config.yaml. Choices from overrides replace those of
// the list.
func (c *composer) loadRoot(groups map[string][]string, choices map[string]string) error {
	file := path.Join(c.folder, rootFile)
	values, defaults, err := c.read(rootFile)
	if err != nil {
		return err
	}
	if err := c.overridden(groups, defaults, choices); err != nil {
		return err
	}
	seen := map[string]bool{}
	self := false
	for _, item := range defaults {
		if name, ok := item.(scalar); ok && name.text == "_self_" && !self {
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
			name, _ := choice.(scalar)
			if chosen, ok := choices[group]; ok {
				name = scalar{chosen, true}
			}
			if !name.isText {
				return fmt.Errorf("%s: defaults: %s: %s is not the name of a file", file, group, show(choice))
			}
			if err := choose(group, name.text, options); err != nil {
				return fmt.Errorf("%s: defaults: %w", file, err)
			}
			if err := c.loadChoice(group, name.text, nil); err != nil {
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
		if pair, ok := item.(map[string]any); ok && len(pair) == 1 && strings.HasPrefix(slices.Collect(maps.Keys(pair))[0], overridePrefix) {
			if key := slices.Collect(maps.Keys(pair))[0]; key == overridePrefix+group {
				return fmt.Errorf("%s: defaults: %s: name the file itself to base this one on it", label, key)
			}
			continue // already selected
		}
		named, _ := item.(scalar)
		other := named.text
		switch {
		case !named.isText:
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
	prefix := ""
	if group != "" {
		prefix = group + "."
	}
	layer := map[string]any{}
	if err := flatten(layer, prefix, values); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	// Check each file before merging: a value that replaces a section would otherwise only
	// show up as missing keys.
	for key := range layer {
		c.origin[key] = label
	}
	if err := c.unknownKeys(layer).err(); err != nil {
		return err
	}
	maps.Copy(c.values, layer)
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
	if instead, ok := removed[key]; ok {
		return fmt.Sprintf("%s was removed: %s", key, instead)
	}
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
	var config Config
	written := map[string]string{}
	for _, f := range c.fields {
		name, _ := values[f.section()+".name"].(scalar)
		if all := variants[f.section()]; all != nil && !slices.Contains(all, name.text) {
			if key := f.section() + ".name"; f.key == key && name.text != "" {
				wrong = append(wrong, c.filePrefix(key)+notOneOf(key, name.text, all))
			}
			if f.only != nil {
				continue // can't tell whether it applies
			}
		}
		value, there := values[f.key]
		if !there && f.appliesTo(name.text) {
			value, there = added[f.key]
		}
		if applies := f.appliesTo(name.text); !there || !applies {
			switch {
			case there:
				wrong = append(wrong, fmt.Sprintf("%s%s does not apply to %s=%s, only to %s",
					c.filePrefix(f.key), f.key, f.section(), name.text, orList(f.only)))
			case applies:
				wrong = append(wrong, f.key+" has no value: set it in a file or on the command line")
			}
			continue
		}
		converted, ok := f.kind.convert(value)
		if !ok && c.reportedElsewhere(f) {
			continue
		}
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s%s is %s: it must be %s%s",
				c.filePrefix(f.key), f.key, show(value), f.kind, c.typeHint(f, value)))
			continue
		}
		target := reflect.ValueOf(&config).Elem().FieldByIndex(f.index)
		target.Set(reflect.ValueOf(converted).Convert(target.Type()))
		written[f.key] = show(value)
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	if err := config.validate(written); err != nil {
		return nil, err
	}
	return &config, nil
}

// reportedElsewhere reports whether a key with an invalid value only passes on the value of another key
// of its kind, as optimizer.lr does with ${experiment.lr}.
func (c *composer) reportedElsewhere(f field) bool {
	s, _ := c.values[f.key].(scalar)
	return slices.ContainsFunc(c.fields, func(other field) bool {
		return s.text == "${"+other.key+"}" && other.kind == f.kind
	})
}

// typeHint completes the message "it must be <kind>".
func (c *composer) typeHint(f field, value any) string {
	_, inFile := c.origin[f.key]
	s, isScalar := value.(scalar)
	switch {
	case !isScalar:
	case f.kind == kindString && inFile:
		return ` (quote it if YAML reads it as another type; "" for an empty string)`
	case f.kind == kindString:
		return fmt.Sprintf(" (%s= for an empty one)", f.key)
	case f.kind == kindInt:
		if _, inRange, ok := s.integer(); ok && !inRange {
			return fmt.Sprintf(" from %d to %d", math.MinInt64, math.MaxInt64)
		}
	}
	return ""
}

func sortedKeys(values map[string]any) []string {
	return slices.Sorted(maps.Keys(values))
}
