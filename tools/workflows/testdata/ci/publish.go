package main

import (
	"context"

	"dagger/fakeart/internal/dagger"
)

func (m *Fakeart) ServerImage(
	ctx context.Context,
	// +optional
	// +default="linux/amd64"
	platform dagger.Platform,
	// +optional
	registryUsername string, registryPassword *dagger.Secret,
) *dagger.Container {
	return nil
}
