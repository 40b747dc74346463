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

// Run every check, train a model and test its accuracy, make the images, and push them if there is a registry; returns their digests, one line each
//
// +cache="never"
func (m *Fakeart) Pipeline(ctx context.Context) (digests string, err error) {
	defer explain("pipeline", &err)
	var (
		target  publish.Target
		layouts *dagger.Directory
	)
	err = steps.InTurn(ctx,
		// Wrong arguments are reported before the work starts.
		steps.Step{Name: "arguments", Run: func(ctx context.Context) (err error) {
			if err := stage.CheckPlatforms(m.platforms()); err != nil {
				return err
			}
			if err := gate.CheckLeast(m.MinAccuracy); err != nil {
				return err
			}
			if err := m.checkExperiment(ctx); err != nil {
				return err
			}
			if m.Registry == "" {
				if len(m.Tags) > 0 || m.RegistryUsername != "" || m.RegistryPassword != nil || m.RegistryService != nil {
					return errors.New("tags or credentials without a registry: set --registry=HOST/PATH")
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
			return steps.Together(ctx,
				steps.Step{Name: "lint", Run: func(ctx context.Context) error {
					_, err := m.Lint(ctx)
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

// model trains a model and checks its accuracy.
func (m *Fakeart) model(ctx context.Context) error {
	var run *dagger.Directory
	return steps.InTurn(ctx,
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

// Run the pipeline, under a name that newer versions of the CLI accept
//
// +cache="never"
func (m *Fakeart) Run(ctx context.Context) (string, error) { return m.Pipeline(ctx) }
