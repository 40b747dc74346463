package main

import (
	"context"

	"dagger/fakeart/internal/dagger"
)

type Fakeart struct{ Source *dagger.Directory }

type Image struct{}

func New(
	// +defaultPath="/"
	source *dagger.Directory,
	// +optional
	goImage, caBundle string,
	// +optional
	goSumdb string,
) *Fakeart {
	return &Fakeart{Source: source}
}

func (m *Fakeart) Lint(ctx context.Context) error { return nil }

func (m *Fakeart) unexported(secret string) {}

func (i *Image) Other(flag string) {}

func Helper(flag string) {}
