// Package prometheus contains the configuration, rules and rule tests with which Prometheus monitors
// Fakeart, and types for rule and test files. Use [Read] to read rules.
package prometheus

import (
	"bytes"
	"fmt"
	"io/fs"

	"go.yaml.in/yaml/v3"
)

// Rules is a rule file. Prometheus's own types in package rulefmt would add Kubernetes' client as a
// dependency.
type Rules struct {
	Groups []Group `yaml:"groups"`
}

// Group is a group of rules, which Prometheus evaluates in order.
type Group struct {
	Name string `yaml:"name"`
	// Interval is the evaluation interval. If empty, it is that of the configuration.
	Interval string `yaml:"interval,omitempty"`
	Rules    []Rule `yaml:"rules"`
}

// Rule is a recording rule or an alerting rule: either Record or Alert is set.
type Rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// Read returns the rules in the *.rules.yaml files of a folder. An unknown key is an error.
func Read(fsys fs.FS) (rules []Rule, err error) {
	names, err := fs.Glob(fsys, "*.rules.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		var file Rules
		d := yaml.NewDecoder(bytes.NewReader(data))
		d.KnownFields(true)
		if err := d.Decode(&file); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, g := range file.Groups {
			rules = append(rules, g.Rules...)
		}
	}
	return rules, nil
}
