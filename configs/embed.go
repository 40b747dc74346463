// Package configs carries the configuration files inside the programs, so that
// a binary composes the same experiments wherever it is copied to.
package configs

import "embed"

// Files holds config.yaml and one folder for each group of choices.
//
//go:embed config.yaml */*.yaml
var Files embed.FS
