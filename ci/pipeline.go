package main

import (
	"context"
	"errors"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/gate"
	"dagger/fakeart/internal/publish"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/steps"
)

// Run all checks, train a model, and make and push the images.
//
// It fails if the model's accuracy is below --min-accuracy. Without --registry, nothing is pushed.
// It returns the images' digests, one line each.
//
// +cache="never"
func (m *Fakeart) Pipeline(ctx context.Context) (digests string, err error) {
	defer explain("pipeline", &err)
	var (
		target  publish.Target
		layouts *dagger.Directory
	)
	err = steps.InSequence(ctx,
		// Report invalid arguments before the work starts.
		steps.Step{Name: "arguments", Run: func(ctx context.Context) (err error) {
			if err := stage.CheckPlatforms(m.platforms()); err != nil {
				return err
			}
			if err := gate.CheckMinimum(m.MinAccuracy); err != nil {
				return err
			}
			if err := m.checkExperiment(ctx); err != nil {
				return err
			}
			if m.Registry == "" {
				if len(m.Tags) > 0 || m.RegistryUsername != "" || m.RegistryPassword != nil || m.RegistryService != nil {
					return errors.New("--tags and --registry-* have no effect without a registry\nhint: set --registry=HOST/PATH")
				}
				return nil
			}
			target, err = m.target(ctx, m.Registry, m.Tags, m.RegistryUsername, m.RegistryPassword, m.RegistryService)
			return err
		}},
		steps.Step{Name: "registry", Run: func(ctx context.Context) error {
			if m.Registry == "" {
				return nil
			}
			return target.CheckPush(ctx, stage.Programs)
		}},
		steps.Step{Name: "checks, model and images", Run: func(ctx context.Context) error {
			return steps.InParallel(ctx,
				steps.Step{Name: "lint", Run: func(ctx context.Context) error {
					_, err := m.Lint(ctx)
					return err
				}},
				steps.Step{Name: "prose", Run: func(ctx context.Context) error {
					_, err := m.Prose(ctx)
					return err
				}},
				steps.Step{Name: "cover", Run: func(ctx context.Context) error {
					_, err := m.Cover(ctx)
					return err
				}},
				steps.Step{Name: "slo-check", Run: func(ctx context.Context) error {
					_, err := m.SloCheck(ctx)
					return err
				}},
				steps.Step{Name: "fuzz", Run: func(ctx context.Context) error {
					_, err := m.Fuzz(ctx)
					return err
				}},
				steps.Step{Name: "smoke", Run: func(ctx context.Context) error {
					_, err := m.Smoke(ctx)
					return err
				}},
				steps.Step{Name: "interop", Run: func(ctx context.Context) error {
					_, err := m.Interop(ctx)
					return err
				}},
				steps.Step{Name: "docs-check", Run: m.docsCheck},
				steps.Step{Name: "model", Run: m.model},
				steps.Step{Name: "images", Run: func(ctx context.Context) (err error) {
					if layouts, err = m.layouts(ctx, m.platforms()); err == nil {
						digests, err = layouts.File("digests.txt").Contents(ctx)
					}
					return err
				}},
			)
		}},
		steps.Step{Name: "push", Run: func(ctx context.Context) (err error) {
			if m.Registry != "" {
				digests, err = push(ctx, layouts, target)
			}
			return err
		}},
	)
	if err != nil {
		return "", err
	}
	return digests, nil
}

// model trains a model and returns an error if its accuracy is below the minimum.
func (m *Fakeart) model(ctx context.Context) error {
	var run *dagger.Directory
	return steps.InSequence(ctx,
		steps.Step{Name: "train", Run: func(ctx context.Context) (err error) {
			run, err = m.Train(ctx, nil, nil)
			return err
		}},
		steps.Step{Name: "gate", Run: func(ctx context.Context) error {
			eval, err := run.File("eval.json").Contents(ctx)
			if err != nil {
				return err
			}
			_, err = gate.Check([]byte(eval), m.MinAccuracy)
			return err
		}},
	)
}

// Run the pipeline, like the function pipeline, whose name newer CLIs don't accept
//
// +cache="never"
func (m *Fakeart) Run(ctx context.Context) (string, error) { return m.Pipeline(ctx) }
