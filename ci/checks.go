package main

import (
	"context"
	"slices"

	"dagger/fakeart/internal/dagger"
)

// testDocs lists the pages that tests outside package docs read. These tests compare pages with the
// programs or run the commands of a tutorial.
var testDocs = []string{
	"docs/reference/", "docs/runbooks/", "docs/how-to/", "docs/explanation/costs.md", "docs/site/public/",
	"docs/getting-started.md", "docs/tutorials/",
}

// Lint the code of every module, and check the workflows
//
// +check
func (m *Fakeart) Lint(ctx context.Context) (out string, err error) { //nolint:unparam // Dagger returns out to the caller
	defer explain("lint", &err)
	paths, err := m.codePaths(ctx)
	if err != nil {
		return "", err
	}
	tests, err := m.Source.Glob(ctx, "docs/*.go")
	if err != nil {
		return "", err
	}
	// `make workflows` compares the page with the workflows.
	c, err := m.workspace(ctx, slices.Concat(paths, tests, []string{"docs/how-to/ci.md"}), []string{"lint/golangci-lint"})
	if err != nil {
		return "", err
	}
	return c.WithMountedCache("/root/.cache/golangci-lint", dag.CacheVolume("fakeart-golangci-lint")).
		WithExec([]string{"make", "lint-go", "workflows"}).CombinedOutput(ctx)
}

// Check the language of docs, comments and messages
//
// +check
func (m *Fakeart) Prose(ctx context.Context) (out string, err error) {
	defer explain("prose", &err)
	c, err := m.fullWorkspace(ctx, "vale/vale")
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "prose"}).CombinedOutput(ctx)
}

// Run the quick tests, without the race detector
//
// +check
func (m *Fakeart) Test(ctx context.Context) (out string, err error) {
	defer explain("test", &err)
	c, err := m.testWorkspace(ctx, nil)
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "test-short"}).CombinedOutput(ctx)
}

// Run all tests with the race detector.
//
// It returns the coverage profiles, and coverage.txt with the coverage per package.
func (m *Fakeart) Cover(ctx context.Context) (dir *dagger.Directory, err error) {
	defer explain("cover", &err)
	c, err := m.fullTestWorkspace(ctx)
	if err != nil {
		return nil, err
	}
	return c.WithExec([]string{"make", "cover"}).Directory("build/coverage").Sync(ctx)
}

// Run all tests like cover; returns their JUnit reports, even if tests fail
func (m *Fakeart) Report(ctx context.Context) (dir *dagger.Directory, err error) {
	defer explain("report", &err)
	c, err := m.fullTestWorkspace(ctx)
	if err != nil {
		return nil, err
	}
	return c.WithExec([]string{"make", "--keep-going", "cover"}, dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny}).
		Directory("build/tests").Sync(ctx)
}

// Check the documentation and build its site; returns the site's folder
//
// +check
func (m *Fakeart) Docs(
	ctx context.Context,
	// Path that the site is served at, starting and ending with a slash
	// +default="/"
	path string,
	// URL of the repository, for links to files. Default: a placeholder
	// +optional
	repository string,
) (dir *dagger.Directory, err error) {
	defer explain("docs", &err)
	c, err := m.fullWorkspace(ctx)
	if err != nil {
		return nil, err
	}
	builder, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	c = c.WithMountedDirectory("/src/docs/site/node_modules", m.npm(builder, "docs/site/")).
		WithExec([]string{"touch", "docs/site/node_modules/.package-lock.json"}).
		WithEnvVariable("DOCS_BASE", path)
	if repository != "" {
		c = c.WithEnvVariable("DOCS_REPOSITORY", repository)
	}
	return c.WithExec([]string{"make", "docs"}).Directory("build/docs").Sync(ctx)
}

// docsCheck checks links, commands and generated pages. It doesn't build the site.
func (m *Fakeart) docsCheck(ctx context.Context) (err error) {
	defer explain("docs-check", &err)
	c, err := m.fullWorkspace(ctx)
	if err != nil {
		return err
	}
	_, err = c.WithExec([]string{"make", "docs-check"}).Sync(ctx)
	return err
}

// Check the Prometheus rules, and test that each alert fires and resolves
func (m *Fakeart) SloCheck(ctx context.Context) (out string, err error) {
	defer explain("slo-check", &err)
	c, err := m.builder(ctx)
	if err != nil {
		return "", err
	}
	// Debian's package includes promtool, which would take half an hour to build.
	return c.With(install("prometheus")).With(m.withPaths("Makefile", "monitoring/prometheus/")).
		WithExec([]string{"make", "slo-check"}).CombinedOutput(ctx)
}

// Run each fuzz target for some seconds
func (m *Fakeart) Fuzz(ctx context.Context) (out string, err error) {
	defer explain("fuzz", &err)
	c, err := m.testWorkspace(ctx, nil)
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "fuzz"}).CombinedOutput(ctx)
}

// Run the demo, then send its server every kind of request that the API accepts
func (m *Fakeart) Smoke(ctx context.Context) (out string, err error) {
	defer explain("smoke", &err)
	c, err := m.testWorkspace(ctx, []string{"k6/k6"})
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "smoke"}).CombinedOutput(ctx)
}

// Test the server with other projects' clients and tools
func (m *Fakeart) Interop(ctx context.Context) (out string, err error) {
	defer explain("interop", &err)
	c, err := m.testWorkspace(ctx, nil, install("python3-venv"))
	if err != nil {
		return "", err
	}
	return c.WithMountedCache("/root/.cache/pip", dag.CacheVolume("fakeart-pip")).
		WithExec([]string{"make", "interop"}).CombinedOutput(ctx)
}

// Find known vulnerabilities that our code can reach
//
// +cache="never"
func (m *Fakeart) Vulns(
	ctx context.Context,
	// Copy of the vulnerability database, if https://vuln.go.dev can't be reached
	// +optional
	database *dagger.Directory,
) (out string, err error) {
	defer explain("vulns", &err)
	c, err := m.testWorkspace(ctx, []string{"govulncheck/govulncheck"})
	if err != nil {
		return "", err
	}
	args := []string{"make", "vulns"}
	if database != nil {
		c = c.WithMountedDirectory("/vulndb", database)
		args = append(args, "GOVULNDB=file:///vulndb")
	}
	return uncached(c).WithExec(args).CombinedOutput(ctx)
}

// testWorkspace returns a workspace with all files that the tests read.
func (m *Fakeart) testWorkspace(ctx context.Context, tools []string, prepare ...dagger.WithContainerFunc) (*dagger.Container, error) {
	paths, err := m.codePaths(ctx)
	if err != nil {
		return nil, err
	}
	return m.workspace(ctx, slices.Concat(paths, testDocs), tools, prepare...)
}

// fullTestWorkspace returns a workspace in which all tests run, including the browser tests.
func (m *Fakeart) fullTestWorkspace(ctx context.Context) (*dagger.Container, error) {
	return m.testWorkspace(ctx, []string{"gotestsum/gotestsum", "k6/k6"}, install("chromium"))
}

// fullWorkspace returns a workspace with the whole checkout, except .git, and tools.
func (m *Fakeart) fullWorkspace(ctx context.Context, tools ...string) (*dagger.Container, error) {
	entries, err := m.Source.Entries(ctx)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(path string) bool { return path == ".git/" || path == ".git" })
	return m.workspace(ctx, entries, tools)
}
