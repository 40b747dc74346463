package main

import (
	"context"
	"fmt"
	"strings"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/pins"
)

// Format the Go code; returns the changes to the checkout
//
// +generate
func (m *Fakeart) Fmt(ctx context.Context) (changes *dagger.Changeset, err error) {
	defer explain("fmt", &err)
	return m.generated(ctx, []string{"lint/golangci-lint"}, "fmt")
}

// Generate the documentation's reference pages; returns the changes to the checkout
//
// +generate
func (m *Fakeart) Reference(ctx context.Context) (changes *dagger.Changeset, err error) {
	defer explain("reference", &err)
	return m.generated(ctx, nil, "reference")
}

// generated runs a make target and returns the changes it made to the checkout.
func (m *Fakeart) generated(ctx context.Context, tools []string, target string) (*dagger.Changeset, error) {
	c, err := m.fullWorkspace(ctx, tools...)
	if err != nil {
		return nil, err
	}
	sources := func(c *dagger.Container) *dagger.Directory {
		return c.Directory("/src").WithoutDirectory("bin").WithoutDirectory("build").WithoutDirectory("node_modules")
	}
	return sources(c.WithExec([]string{"make", target})).Changes(sources(c)).Sync(ctx)
}

// Look up the current digests of the images in ci/images.yaml; returns the changes to the checkout
//
// +cache="never"
func (m *Fakeart) RenewImages(ctx context.Context) (changes *dagger.Changeset, err error) {
	defer explain("renew-images", &err)
	const path = "ci/images.yaml"
	text, err := m.Source.File(path).Contents(ctx)
	if err != nil {
		return nil, err
	}
	renewed, err := pins.Renew(ctx, []byte(text), func(ctx context.Context, image string) (string, error) {
		found, err := dag.Container().From(image).ImageRef(ctx)
		if err != nil {
			return "", err
		}
		_, digest, ok := strings.Cut(found, "@")
		if !ok {
			return "", fmt.Errorf("the engine returned %q for %s, without a digest", found, image)
		}
		return digest, nil
	})
	if err != nil {
		return nil, err
	}
	return dag.Directory().WithNewFile(path, string(renewed)).Changes(dag.Directory().WithNewFile(path, text)).Sync(ctx)
}
