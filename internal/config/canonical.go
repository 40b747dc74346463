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

// YAML returns the composed configuration: one section each, keys in the order
// of Config's fields, references replaced by their values, keys that do not
// apply left out. Equal configurations give equal bytes, and LoadFile reads
// them back exactly.
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

// outside are the keys that do not decide which model comes out: where things
// lie, what is recorded and measured. Everything else enters the digest.
var outside = []string{
	"run", "profiler", "evaluate",
	"dataset.path", "dataset.dir", "dataset.strict", "dataset.endpoint",
}

// Digest returns "sha256:…" over what determines the model. It does not depend
// on where files lie (run.*, dataset.path and dir), on what is recorded or
// measured (profiler.*, evaluate.*), or on the order of keys and the spelling
// of numbers in the files; two configurations with the same digest train the
// same model from the same data.
func (c *Config) Digest() string {
	values := c.flat()
	for _, f := range schema() {
		if slices.Contains(outside, f.section()) || slices.Contains(outside, f.key) {
			delete(values, f.key)
		}
	}
	// JSON because its text is fixed: keys sorted, shortest exact numbers.
	data, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("config: digest: %v", err)) // NaN, which Load refuses
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Differences lists what o changes in c, a line each as
// "experiment.epochs: 6 → 8", in the order of the fields. It is empty when
// both are the same; run.resume is left out, since it differs between a run
// and its continuation by nature.
func (c *Config) Differences(o *Config) []string {
	var lines []string
	a, b := c.flat(), o.flat()
	for _, f := range schema() {
		if f.key == "run.resume" || reflect.DeepEqual(a[f.key], b[f.key]) {
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

// flat returns the values of the keys that apply.
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
