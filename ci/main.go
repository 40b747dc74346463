// Build, test, train and deploy Fakeart in containers
//
// Start with `dagger call pipeline`, which runs everything, or `dagger check`, which runs the
// checks. The functions run the make targets that developers use, so results are the same on every
// engine. The CLI and the engine must be v0.20.3.
package main

import (
	"context"
	"errors"
	"fmt"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/pins"
	"dagger/fakeart/internal/stage"
)

// Fakeart is the pipeline of a checkout, configured by [New].
type Fakeart struct {
	// +private
	Source *dagger.Directory
	// +private
	GoImage string
	// +private
	NodeImage string
	// +private
	Base string
	// +private
	BaseLayout *dagger.Directory
	// +private
	GoProxy string
	// +private
	GoSumdb string
	// +private
	NpmRegistry string
	// +private
	PipIndex string
	// +private
	AptMirror string
	// +private
	CaBundle *dagger.File
	// +private
	Netrc *dagger.Secret
	// +private
	Revision string
	// +private
	Created string
	// +private
	Experiment string
	// +private
	MinAccuracy float64
	// +private
	Platforms []dagger.Platform
	// +private
	Registry string
	// +private
	Tags []string
	// +private
	RegistryUsername string
	// +private
	RegistryPassword *dagger.Secret
	// +private
	RegistryService *dagger.Service
	// +private
	Builder string
}

// Configure the checkout, the sources of packages and images, and the registry
func New(
	// Checkout, including its .git folder
	// +defaultPath="/"
	// +ignore=["**/bin", "**/build", "data", "runs", "models", ".pulumi-state", "**/node_modules", "**/.venv", "**/.idea", "**/.vscode", "**/__pycache__", "**/.DS_Store", "docs/site/.vitepress/cache", "docs/site/.vitepress/.temp", "**/*.prof", "predictions.db*", ".env", "ci/dagger.gen.go"]
	source *dagger.Directory,
	// Image with Go to build in, by digest. Default: the one in ci/images.yaml
	// +optional
	goImage string,
	// Image to take Node and npm from, by digest. Default: the one in ci/images.yaml
	// +optional
	nodeImage string,
	// Base of the program images, by digest. Default: the one in ci/images.yaml
	// +optional
	base string,
	// OCI layout of the base image, if its registry can't be reached
	// +optional
	baseLayout *dagger.Directory,
	// Go module proxy (GOPROXY)
	// +optional
	goProxy string,
	// Go checksum database (GOSUMDB), or "off"
	// +optional
	goSumdb string,
	// URL of the npm registry
	// +optional
	npmRegistry string,
	// URL of the Python package index
	// +optional
	pipIndex string,
	// URL of a Debian mirror, which replaces scheme and host of the image's package sources
	// +optional
	aptMirror string,
	// Additional CA certificates to trust, in PEM
	// +optional
	caBundle *dagger.File,
	// Credentials for the Go proxy and the Debian mirror, in the format of ~/.netrc
	// +optional
	netrc *dagger.Secret,
	// Commit hash (40 digits), if the checkout has no .git folder
	// +optional
	revision string,
	// Commit time (RFC 3339), if the checkout has no .git folder
	// +optional
	created string,
	// Experiment to train, a file of configs/experiment
	// +default="smoke"
	experiment string,
	// Minimum accuracy of the model on the test split, between 0 and 1
	// +default=0.9
	minAccuracy float64,
	// Platforms to build for
	// +default=["linux/amd64", "linux/arm64"]
	platforms []dagger.Platform,
	// Registry to push to, HOST/PATH. Without it nothing is pushed
	// +optional
	registry string,
	// Tags to set in addition to the commit's
	// +optional
	tags []string,
	// User name for the registry
	// +optional
	registryUsername string,
	// Password for the registry
	// +optional
	registryPassword *dagger.Secret,
	// Tunnel to the registry, if containers can't reach it: tcp://127.0.0.1:5000
	// +optional
	registryService *dagger.Service,
	// URI of the build system, for the provenance
	// +optional
	builder string,
) *Fakeart {
	return &Fakeart{
		Source: source, GoImage: goImage, NodeImage: nodeImage, Base: base, BaseLayout: baseLayout,
		GoProxy: goProxy, GoSumdb: goSumdb, NpmRegistry: npmRegistry, PipIndex: pipIndex, AptMirror: aptMirror, CaBundle: caBundle, Netrc: netrc,
		Revision: revision, Created: created,
		Experiment: experiment, MinAccuracy: minAccuracy, Platforms: platforms,
		Registry: registry, Tags: tags, RegistryUsername: registryUsername, RegistryPassword: registryPassword, RegistryService: registryService,
		Builder: builder,
	}
}

// pins returns the pins in ci/images.yaml. Images that the caller passed as arguments replace them.
func (m *Fakeart) pins(ctx context.Context) (pins.Pins, error) {
	text, err := m.Source.File("ci/images.yaml").Contents(ctx)
	if err != nil {
		return pins.Pins{}, fmt.Errorf("ci/images.yaml: %w", err)
	}
	p, err := pins.Parse([]byte(text))
	if err != nil {
		return p, err
	}
	for _, override := range []struct {
		image string
		pin   *string
	}{{m.GoImage, &p.Go}, {m.NodeImage, &p.Node}, {m.Base, &p.Base}} {
		if override.image != "" {
			*override.pin = override.image
		}
	}
	return p, nil
}

// source returns the commit to build: the one from --revision and --created, or else the one in .git.
// If the checkout has both, they must match.
func (m *Fakeart) source(ctx context.Context) (stage.Source, error) {
	if m.Revision == "" && m.Created == "" {
		return m.gitSource(ctx)
	}
	given, err := stage.ParseSource(m.Revision, m.Created)
	if err != nil {
		return stage.Source{}, err
	}
	// The .git of a worktree is a file that points to a directory outside the checkout.
	has, err := m.Source.Exists(ctx, ".git", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeDirectoryType})
	if err != nil || !has {
		return given, err
	}
	tree, err := m.gitSource(ctx)
	if err != nil {
		return stage.Source{}, err
	}
	return given, given.Agrees(tree)
}

// gitSource returns the commit in the checkout's .git.
func (m *Fakeart) gitSource(ctx context.Context) (stage.Source, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return stage.Source{}, err
	}
	text, err := c.WithMountedDirectory("/src", m.Source).WithWorkdir("/src").
		WithExec([]string{"sh", "-euc", stage.Script}).Stdout(ctx)
	var exec *dagger.ExecError
	switch {
	case errors.As(err, &exec):
		return stage.Source{}, explained("source", fmt.Errorf("find the commit: %w\nhint: worktrees and archives have no .git directory; pass --revision and --created", err))
	case err != nil:
		return stage.Source{}, explained("source", err)
	}
	return stage.ParseTree(text)
}
