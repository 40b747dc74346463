package config

import (
	"fmt"
	"slices"
)

// Group is a group of configuration files of which a run uses one.
type Group struct {
	Name    string   // "optimizer"
	Choices []string // the files' names without extension, sorted
	Default string   // the choice if there is no override
}

// Groups returns the groups of the configuration files in dir, or of the built-in files if dir is
// empty, in the order of config.yaml.
func Groups(dir string) ([]Group, error) {
	c := newComposer(dir)
	choices, err := c.groups()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	_, defaults, err := c.read(rootFile)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var groups []Group
	for _, item := range defaults {
		pair, _ := item.(map[string]any) // "_self_" isn't a group
		for name, choice := range pair {
			slices.Sort(choices[name])
			chosen, _ := choice.(scalar)
			groups = append(groups, Group{Name: name, Choices: choices[name], Default: chosen.text})
		}
	}
	return groups, nil
}
