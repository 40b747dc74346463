package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/stage"
)

// buildPaths lists the paths that the programs and their images are built from. Directories end
// with a slash.
var buildPaths = []string{
	"Makefile", "go.mod", "go.sum", "package.json", "package-lock.json", ".npmrc", "LICENSE",
	"configs/", "internal/", "monitoring/", "server/", "trainer/",
	"ci/go.mod", "ci/go.sum", "ci/images.yaml", "ci/cmd/", "ci/internal/",
}

// Build the programs for images.
//
// It returns a folder per platform, such as linux_amd64, with server, trainer and their files.
func (m *Fakeart) Build(ctx context.Context) (dir *dagger.Directory, err error) { //nolint:unparam // Dagger returns dir to the caller
	defer explain("build", &err)
	c, err := m.staged(ctx, m.platforms())
	if err != nil {
		return nil, err
	}
	return c.Directory("build/stage").Sync(ctx)
}

// staged returns a container with the programs for platforms in build/stage.
func (m *Fakeart) staged(ctx context.Context, platforms []string) (*dagger.Container, error) {
	if err := stage.CheckPlatforms(platforms); err != nil {
		return nil, err
	}
	source, err := m.source(ctx)
	if err != nil {
		return nil, err
	}
	c, err := m.workspace(ctx, buildPaths, nil, withCompiler)
	if err != nil {
		return nil, err
	}
	return c.WithExec(append([]string{"make", "stage"}, makeVariables(platforms, source)...)), nil
}

// makeVariables returns the make variables that select the platforms and the commit.
func makeVariables(platforms []string, source stage.Source) []string {
	return []string{
		"PLATFORMS=" + strings.Join(platforms, ","), "REVISION=" + source.Revision, "CREATED=" + source.Created.Format(time.RFC3339),
	}
}

// Prepare data and train a model; returns the run's folder: model.onnx, eval.json, report.html
func (m *Fakeart) Train(
	ctx context.Context,
	// Configuration overrides, key=value each
	// +optional
	overrides []string,
	// Folder with prepared data, from `trainer data prepare`. Default: prepare the data first
	// +optional
	data *dagger.Directory,
) (dir *dagger.Directory, err error) {
	defer explain("train", &err)
	if err := m.checkExperiment(ctx); err != nil {
		return nil, err
	}
	platform, err := enginePlatform(ctx)
	if err != nil {
		return nil, err
	}
	// Stage the platforms of the images, so that the engine builds the programs only once.
	staged, err := m.staged(ctx, platformsWith(m.platforms(), platform))
	if err != nil {
		return nil, err
	}
	builder, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	c := builder.
		WithMountedDirectory("/app", staged.Directory("build/stage/"+stage.Dir(platform))).
		WithWorkdir("/work")
	configuration := append([]string{"experiment=" + m.Experiment, "dataset.dir=data"}, overrides...)
	if data != nil {
		c = c.WithMountedDirectory("data", data)
	} else {
		c = c.WithExec(append([]string{"/app/trainer", "data", "prepare"}, configuration...))
	}
	return c.
		WithExec(append([]string{"/app/trainer", "train", "run.dir=run"}, configuration...)).
		Directory("run").Sync(ctx)
}

// checkExperiment returns an error if the checkout doesn't have the experiment to train.
func (m *Fakeart) checkExperiment(ctx context.Context) error {
	file := "configs/experiment/" + m.Experiment + ".yaml"
	has, err := m.Source.Exists(ctx, file)
	if err == nil && !has {
		err = fmt.Errorf("--experiment=%s: the checkout has no %s", m.Experiment, file)
	}
	return err
}

// platforms returns the platforms of the images, without variants.
func (m *Fakeart) platforms() []string {
	var all []string
	for _, p := range m.Platforms {
		all = append(all, withoutVariant(p))
	}
	return all
}

// enginePlatform returns the platform that the engine runs containers on.
func enginePlatform(ctx context.Context) (string, error) {
	platform, err := dag.DefaultPlatform(ctx)
	return withoutVariant(platform), err
}

// withoutVariant returns linux/arm64 for linux/arm64/v8.
func withoutVariant(platform dagger.Platform) string {
	parts := strings.SplitN(string(platform), "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// platformsWith returns platforms if it contains platform, and otherwise only platform.
func platformsWith(platforms []string, platform string) []string {
	for _, p := range platforms {
		if p == platform {
			return platforms
		}
	}
	return []string{platform}
}
