package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// YAML returns the composed configuration as YAML. Sections and keys are in the order of
// Config's fields, references are replaced by their values, and keys that don't apply are
// omitted. Equal configurations give equal bytes, and [LoadFile] restores the same Config.
func (c *Config) YAML() ([]byte, error) {
	values := c.flat()
	var document yaml.Node
	document.Kind = yaml.MappingNode
	var section *yaml.Node
	name := ""
	for _, f := range schema() {
		value, ok := values[f.key]
		if !ok {
			continue
		}
		if f.section() != name {
			name = f.section()
			section = &yaml.Node{Kind: yaml.MappingNode}
			document.Content = append(document.Content, plain(name), section)
		}
		var node yaml.Node
		if err := node.Encode(value); err != nil {
			return nil, fmt.Errorf("write configuration: %s: %w", f.key, err)
		}
		node.Style |= yaml.FlowStyle // lists on one line
		section.Content = append(section.Content, plain(f.key[len(name)+1:]), &node)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return out.Bytes(), nil
}

func plain(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: s}
}

// digestExcludes lists the sections and keys that don't affect the trained model: paths,
// profiling and evaluation. Digest covers all other keys.
var digestExcludes = []string{
	"run", "profiler", "evaluate",
	"dataset.path", "dataset.dir", "dataset.strict", "dataset.endpoint", "dataset.model",
}

// excluded reports whether the digest leaves the key out.
func (f field) excluded() bool {
	return slices.Contains(digestExcludes, f.section()) || slices.Contains(digestExcludes, f.key)
}

// Digest returns "sha256:" and the hash, in hexadecimal, of everything that determines the
// model. Two configurations with the same digest train the same model from the same data.
//
// The digest ignores paths (run.*, dataset.path, dataset.dir), dataset.strict and
// dataset.endpoint, profiling and evaluation (profiler.*, evaluate.*), the order of keys in
// the files, and the spelling of numbers.
func (c *Config) Digest() string {
	values := c.flat()
	for _, f := range schema() {
		// Keys of newer versions don't change the digest of a run that older ones started.
		before, isNew := added[f.key]
		if isNew {
			before, _ = f.kind.convert(before)
		}
		if f.excluded() || isNew && fmt.Sprint(values[f.key]) == fmt.Sprint(before) {
			delete(values, f.key)
		}
	}
	values["experiment.flip"] = c.Augment.Flip // its former name
	delete(values, "augment.flip")
	// encoding/json is deterministic: it sorts the keys and writes the shortest exact numbers.
	data, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("config: digest: %v", err)) // NaN, which Load rejects
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Differences lists the keys that [Config.Digest] covers and whose values differ in o, such as
// "experiment.epochs: 6 → 8", in the order of Config's fields.
func (c *Config) Differences(o *Config) []string {
	var lines []string
	a, b := c.flat(), o.flat()
	for _, f := range schema() {
		if f.excluded() || reflect.DeepEqual(a[f.key], b[f.key]) {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s → %s", f.key, showOr(a[f.key]), showOr(b[f.key])))
	}
	return lines
}

func showOr(v any) string {
	if v == nil {
		return "(none)"
	}
	return show(v)
}

// flat returns the values of all keys that apply, by key.
func (c *Config) flat() map[string]any {
	values := map[string]any{}
	root := reflect.ValueOf(*c)
	for _, f := range schema() {
		if f.appliesTo(c.nameOf(f.section())) {
			values[f.key] = root.FieldByIndex(f.index).Interface()
		}
	}
	return values
}

func (c *Config) nameOf(section string) string {
	switch section {
	case "dataset":
		return c.Dataset.Name
	case "optimizer":
		return c.Optimizer.Name
	}
	return ""
}
