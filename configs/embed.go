// Package configs embeds the training configuration files, so that a binary doesn't need a
// checkout to compose an experiment. Package config reads them.
package configs

import "embed"

// Files holds config.yaml and one directory per group.
//
//go:embed config.yaml */*.yaml
var Files embed.FS
