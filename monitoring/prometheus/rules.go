// Package prometheus has what a Prometheus runs by to watch Fakeart: its configuration,
// rules and their unit tests, and the types of rules.
package prometheus

import (
	"bytes"
	"fmt"
	"io/fs"

	"go.yaml.in/yaml/v3"
)

// Rules is a file of rules. Prometheus's own types, of its package rulefmt, would bring
// along Kubernetes' client.
type Rules struct {
	Groups []Group `yaml:"groups"`
}

// Group is rules that are evaluated one after the other.
type Group struct {
	Name string `yaml:"name"`
	// Interval is that of the configuration when it is empty.
	Interval string `yaml:"interval,omitempty"`
	Rules    []Rule `yaml:"rules"`
}

// Rule records a series, or alerts: one of Record and Alert is set.
type Rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// Read reads all rules of a folder's files *.rules.yaml. A key that is none is an error.
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
