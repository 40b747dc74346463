package main

import (
	"context"
	"errors"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/gate"
	"dagger/fakeart/internal/images"
	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/publish"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/steps"
)

// Pipeline lints, tests, builds, trains, holds the model to an accuracy, makes the images, and pushes them if there is a registry; returns their digests, a line each
//
// +cache="never"
func (m *Fakeart) Pipeline(
	ctx context.Context,
	// What is trained: a file of configs/experiment.
	// +default="smoke"
	experiment string,
	// Accuracy on the test split that the model has to have, a share.
	// +default=0.9
	minAccuracy float64,
	// What the images are for.
	// +default=["linux/amd64", "linux/arm64"]
	platforms []string,
	// What repositories' names begin with: HOST/PATH; without it nothing is pushed.
	// +optional
	registry string,
	// Tags besides the commit's own.
	// +optional
	tags []string,
	// User name for the registry.
	// +optional
	registryUsername string,
	// Password for the registry.
	// +optional
	registryPassword *dagger.Secret,
	// The registry itself, where containers do not reach it: tcp://127.0.0.1:5000.
	// +optional
	registryService *dagger.Service,
	// Who builds, for the provenance: a URI.
	// +optional
	builder string,
) (_ string, err error) {
	defer explain("pipeline", &err)
	var (
		target  publish.Target
		made    map[string]*oci.Bundle
		digests string
	)
	err = steps.InTurn(ctx,
		// What is wrong with the arguments is said before the work, not after it.
		steps.Step{Name: "arguments", Run: func(ctx context.Context) (err error) {
			if err := stage.CheckPlatforms(platforms); err != nil {
				return err
			}
			if registry == "" {
				if len(tags) > 0 || registryUsername != "" || registryPassword != nil || registryService != nil {
					return errors.New("--registry is missing: tags and credentials are for one")
				}
				return nil
			}
			target, err = m.target(ctx, registry, tags, registryUsername, registryPassword, registryService)
			return err
		}},
		steps.Step{Name: "checks and model", Run: func(ctx context.Context) error {
			return steps.Together(ctx,
				steps.Step{Name: "lint", Run: func(ctx context.Context) error {
					_, err := m.Lint(ctx)
					return err
				}},
				steps.Step{Name: "test", Run: func(ctx context.Context) error {
					_, err := m.Test(ctx)
					return err
				}},
				steps.Step{Name: "model", Run: func(ctx context.Context) error {
					return m.model(ctx, experiment, minAccuracy, platforms)
				}},
			)
		}},
		steps.Step{Name: "images", Run: func(ctx context.Context) (err error) {
			if made, err = m.images(ctx, platforms, builder); err == nil {
				digests, err = images.List(made)
			}
			return err
		}},
		steps.Step{Name: "push", Run: func(ctx context.Context) (err error) {
			if registry != "" {
				digests, err = push(ctx, made, target)
			}
			return err
		}},
	)
	return digests, err
}

// model builds the programs, and trains a model that is good enough.
func (m *Fakeart) model(ctx context.Context, experiment string, minAccuracy float64, platforms []string) error {
	var run *dagger.Directory
	return steps.InTurn(ctx,
		steps.Step{Name: "build", Run: func(ctx context.Context) error {
			_, err := m.Build(ctx, platforms)
			return err
		}},
		steps.Step{Name: "train", Run: func(ctx context.Context) (err error) {
			run, err = m.Train(ctx, experiment, nil, nil)
			return err
		}},
		steps.Step{Name: "gate", Run: func(ctx context.Context) error {
			eval, err := run.File("eval.json").Contents(ctx)
			if err != nil {
				return err
			}
			_, err = gate.Check([]byte(eval), minAccuracy)
			return err
		}},
	)
}

// Run is pipeline, under a name that newer versions of the CLI take, too
//
// +cache="never"
func (m *Fakeart) Run(
	ctx context.Context,
	// What is trained: a file of configs/experiment.
	// +default="smoke"
	experiment string,
	// Accuracy on the test split that the model has to have, a share.
	// +default=0.9
	minAccuracy float64,
	// What the images are for.
	// +default=["linux/amd64", "linux/arm64"]
	platforms []string,
	// What repositories' names begin with: HOST/PATH; without it nothing is pushed.
	// +optional
	registry string,
	// Tags besides the commit's own.
	// +optional
	tags []string,
	// User name for the registry.
	// +optional
	registryUsername string,
	// Password for the registry.
	// +optional
	registryPassword *dagger.Secret,
	// The registry itself, where containers do not reach it: tcp://127.0.0.1:5000.
	// +optional
	registryService *dagger.Service,
	// Who builds, for the provenance: a URI.
	// +optional
	builder string,
) (_ string, err error) {
	defer explain("run", &err)
	return m.Pipeline(ctx, experiment, minAccuracy, platforms, registry, tags, registryUsername, registryPassword, registryService, builder)
}

// LoadTest asks the server's image for predictions with k6, as a scenario has it; returns the report's folder, or fails when the objective is broken
//
// +cache="never"
func (m *Fakeart) LoadTest(
	ctx context.Context,
	// One of loadtest/README.md.
	// +default="smoke"
	scenario string,
	// What is served; without it a model is trained, as experiment smoke has it.
	// +optional
	model *dagger.File,
) (_ *dagger.Directory, err error) {
	defer explain("load-test", &err)
	if model == nil {
		run, err := m.Train(ctx, "smoke", nil, nil)
		if err != nil {
			return nil, err
		}
		model = run.File("model.onnx")
	}
	image, err := m.ServerImage(ctx, "")
	if err != nil {
		return nil, err
	}
	server := image.
		WithMountedFile("/models/model.onnx", model).
		WithEnvVariable("FAKEART_MODEL", "/models/model.onnx").
		WithExposedPort(8080).
		AsService(dagger.ContainerAsServiceOpts{UseEntrypoint: true})
	k6, err := m.tool(ctx, "k6", "k6")
	if err != nil {
		return nil, err
	}
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	report, err := again(c).
		WithFile("/usr/local/bin/k6", k6).
		WithMountedDirectory("/src/loadtest", m.Source.Directory("loadtest")).
		WithWorkdir("/src").
		WithServiceBinding("server", server).
		WithNewFile("/report/.keep", "").
		WithExec([]string{
			"k6", "run", "--no-usage-report", "-e", "TARGET=http://server:8080", "-e", "SCENARIO=" + scenario, "-e", "REPORT=/report", "loadtest/predict.js",
		}).
		Directory("/report").Sync(ctx)
	return report, explained("load-test", err)
}
