package main

import (
	"context"

	"dagger/fakeart/internal/dagger"
)

// Scenario selects a load test. See loadtest/README.md.
type Scenario string

const (
	// Each request of the API once
	Smoke Scenario = "smoke"
	// Users who pause between requests
	Users Scenario = "users"
	// A constant rate of predictions
	Steady Scenario = "steady"
	// A sudden peak
	Spike Scenario = "spike"
	// A rising rate, until an objective is missed
	Breakpoint Scenario = "breakpoint"
	// The mixed scenario for an hour
	Soak Scenario = "soak"
	// Images of all sizes and formats
	Mixed Scenario = "mixed"
)

// Serve a model with the server's image; try it with: dagger call serve up --ports 8080:8080
func (m *Fakeart) Serve(
	ctx context.Context,
	// Model to serve. Default: train one with --experiment
	// +optional
	model *dagger.File,
) (service *dagger.Service, err error) {
	defer explain("serve", &err)
	if model == nil {
		run, err := m.Train(ctx, nil, nil)
		if err != nil {
			return nil, err
		}
		model = run.File("model.onnx")
	}
	image, err := m.container(ctx, Server, "")
	if err != nil {
		return nil, err
	}
	return image.
		WithMountedFile("/models/model.onnx", model).
		WithEnvVariable("FAKEART_MODEL", "/models/model.onnx").
		WithExposedPort(8080).
		AsService(dagger.ContainerAsServiceOpts{UseEntrypoint: true}), nil
}

// Run a load test with k6 against the server's image.
//
// It returns the report, and fails if an objective is missed.
//
// +cache="never"
func (m *Fakeart) LoadTest(
	ctx context.Context,
	// Load test to run
	// +default="smoke"
	scenario Scenario,
	// Model to serve. Default: train one with --experiment
	// +optional
	model *dagger.File,
) (dir *dagger.Directory, err error) {
	defer explain("load-test", &err)
	server, err := m.Serve(ctx, model)
	if err != nil {
		return nil, err
	}
	k6, err := m.tool(ctx, "k6", "k6")
	if err != nil {
		return nil, err
	}
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	return uncached(c).
		WithFile("/usr/local/bin/k6", k6).
		With(m.withPaths("loadtest/")).
		WithServiceBinding("server", server).
		WithNewFile("/report/.keep", "").
		WithExec([]string{
			"k6", "run", "--no-usage-report", "-e", "TARGET=http://server:8080", "-e", "SCENARIO=" + string(scenario), "-e", "REPORT=/report", "loadtest/predict.js",
		}).
		Directory("/report").Sync(ctx)
}

// Open a shell in the build container, with the checkout and the npm packages
func (m *Fakeart) Terminal(ctx context.Context) (c *dagger.Container, err error) {
	defer explain("terminal", &err)
	if c, err = m.fullWorkspace(ctx); err != nil {
		return nil, err
	}
	return c.Terminal(dagger.ContainerTerminalOpts{Cmd: []string{"bash"}}), nil
}
