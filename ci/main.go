// Fakeart's pipeline: build, test, train, make images, push and deploy them
//
// What `make` does on a laptop these functions do in containers, the same everywhere:
// `dagger call pipeline` is all of it. They need the CLI and the engine v0.20.3.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/pins"
	"dagger/fakeart/internal/stage"
)

// Fakeart is the pipeline of a checkout.
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
	AptMirror string
	// +private
	CaBundle *dagger.File
	// +private
	Netrc *dagger.Secret
	// +private
	Revision string
	// +private
	Created string
}

// New takes the checkout, and where things come from if not from their public places.
func New(
	// The checkout, with its .git.
	// +defaultPath="/"
	// +ignore=["bin", "build", "data", "runs", ".pulumi-state", "**/node_modules", "docs/site/.vitepress/cache", "**/*.prof", "predictions.db*", "ci/dagger.gen.go"]
	source *dagger.Directory,
	// Image that builds, by digest; without it the one in ci/images.yaml.
	// +optional
	goImage string,
	// Image that npm comes from, by digest; without it the one in ci/images.yaml.
	// +optional
	nodeImage string,
	// Image that the programs' images stand on, by digest; without it the one in ci/images.yaml.
	// +optional
	base string,
	// OCI layout of that image, where its registry cannot be reached.
	// +optional
	baseLayout *dagger.Directory,
	// GOPROXY: where Go modules come from.
	// +optional
	goProxy string,
	// GOSUMDB: where their checksums come from, or "off".
	// +optional
	goSumdb string,
	// Where npm packages come from, a URL.
	// +optional
	npmRegistry string,
	// Where Debian's packages come from, a URL: it takes the place of scheme and host in the image's sources.
	// +optional
	aptMirror string,
	// Certificates to trust besides the usual ones, in PEM.
	// +optional
	caBundle *dagger.File,
	// User names and passwords for the Go proxy and Debian's packages, in the form of ~/.netrc.
	// +optional
	netrc *dagger.Secret,
	// The commit, if the checkout has no .git: 40 digits.
	// +optional
	revision string,
	// The time of that commit, in RFC 3339.
	// +optional
	created string,
) *Fakeart {
	return &Fakeart{
		Source: source, GoImage: goImage, NodeImage: nodeImage, Base: base, BaseLayout: baseLayout,
		GoProxy: goProxy, GoSumdb: goSumdb, NpmRegistry: npmRegistry, AptMirror: aptMirror, CaBundle: caBundle, Netrc: netrc,
		Revision: revision, Created: created,
	}
}

// Lint checks style and likely mistakes, in every module; returns what was printed
func (m *Fakeart) Lint(ctx context.Context) (_ string, err error) { //nolint:unparam // the caller of the function sees it
	defer explain("lint", &err)
	c, err := m.checkout(ctx)
	if err != nil {
		return "", err
	}
	linter, err := m.tool(ctx, "lint", "golangci-lint")
	if err != nil {
		return "", err
	}
	return printed(ctx, "lint", withTool(c, "golangci-lint", linter).
		WithMountedCache("/root/.cache/golangci-lint", dag.CacheVolume("fakeart-golangci-lint")).
		WithExec([]string{"make", "lint", "vet", "workflows"}))
}

// Test runs all tests under the race detector, those of the alerts, a short fuzzing and the demo; returns the coverage: cover.out, and coverage.txt by package
func (m *Fakeart) Test(ctx context.Context) (_ *dagger.Directory, err error) { //nolint:unparam // the caller of the function sees it
	defer explain("test", &err)
	c, err := m.checkout(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"k6", "promtool"} {
		tool, err := m.tool(ctx, name, name)
		if err != nil {
			return nil, err
		}
		c = withTool(c, name, tool)
	}
	dir, err := withBrowser(c).
		WithExec([]string{"make", "race", "slo-check", "fuzz", "smoke", "cover"}).
		Directory("build/coverage").Sync(ctx)
	return dir, explained("test", err)
}

// Build builds the programs for images; returns a folder for each platform, such as linux_amd64, with server, trainer and what they need
func (m *Fakeart) Build(
	ctx context.Context,
	// What to build for.
	// +default=["linux/amd64", "linux/arm64"]
	platforms []string,
) (_ *dagger.Directory, err error) {
	defer explain("build", &err)
	c, err := m.checkout(ctx, withCompilers)
	if err != nil {
		return nil, err
	}
	source, err := m.source(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := c.
		WithExec([]string{
			"make", "stage", "PLATFORMS=" + strings.Join(platforms, ","),
			"REVISION=" + source.Revision, "CREATED=" + source.Created.Format(time.RFC3339),
		}).
		Directory("build/stage").Sync(ctx)
	return dir, explained("build", err)
}

// Train prepares data and trains a model; returns the run's folder: model.onnx, eval.json, report.html
func (m *Fakeart) Train(
	ctx context.Context,
	// What is trained: a file of configs/experiment.
	// +default="smoke"
	experiment string,
	// More of the configuration, key=value each.
	// +optional
	overrides []string,
	// A folder that `trainer data prepare` has made; without it the data are prepared first.
	// +optional
	data *dagger.Directory,
) (_ *dagger.Directory, err error) {
	defer explain("train", &err)
	platform, err := dag.DefaultPlatform(ctx)
	if err != nil {
		return nil, err
	}
	staged, err := m.Build(ctx, platformsWith(string(platform)))
	if err != nil {
		return nil, err
	}
	builder, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	c := builder.
		WithMountedDirectory("/app", staged.Directory(stage.Dir(withoutVariant(string(platform))))).
		WithWorkdir("/work")
	configuration := append([]string{"experiment=" + experiment, "dataset.dir=data"}, overrides...)
	if data != nil {
		c = c.WithMountedDirectory("data", data)
	} else {
		c = c.WithExec(append([]string{"/app/trainer", "data", "prepare"}, configuration...))
	}
	dir, err := c.
		WithExec(append([]string{"/app/trainer", "train", "run.dir=run"}, configuration...)).
		Directory("run").Sync(ctx)
	return dir, explained("train", err)
}

// Docs builds the documentation's site; returns its folder
func (m *Fakeart) Docs(
	ctx context.Context,
	// Path that the site is served at, with a slash at both ends.
	// +default="/"
	path string,
	// Where links to the repository's files lead, a URL; without it a placeholder.
	// +optional
	repository string,
) (_ *dagger.Directory, err error) {
	defer explain("docs", &err)
	c, err := m.checkout(ctx)
	if err != nil {
		return nil, err
	}
	if repository != "" {
		c = c.WithEnvVariable("DOCS_REPOSITORY", repository)
	}
	dir, err := c.WithEnvVariable("DOCS_BASE", path).WithExec([]string{"make", "docs"}).Directory("build/docs").Sync(ctx)
	return dir, explained("docs", err)
}

// RenewImages looks up the digests of the images that images are made of; returns the file for ci/images.yaml
//
// +cache="never"
func (m *Fakeart) RenewImages(ctx context.Context) (_ *dagger.File, err error) {
	defer explain("renew-images", &err)
	text, err := m.Source.File("ci/images.yaml").Contents(ctx)
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
			return "", fmt.Errorf("the engine calls it %q, without a digest", found)
		}
		return digest, nil
	})
	if err != nil {
		return nil, err
	}
	return dag.File("images.yaml", string(renewed)), nil
}

// pins are what ci/images.yaml says, but for what the caller has said.
func (m *Fakeart) pins(ctx context.Context) (pins.Pins, error) {
	text, err := m.Source.File("ci/images.yaml").Contents(ctx)
	if err != nil {
		return pins.Pins{}, fmt.Errorf("ci/images.yaml: %w", err)
	}
	p, err := pins.Parse([]byte(text))
	if err != nil {
		return p, err
	}
	for _, given := range []struct {
		image string
		pin   *string
	}{{m.GoImage, &p.Go}, {m.NodeImage, &p.Node}, {m.Base, &p.Base}} {
		if given.image != "" {
			*given.pin = given.image
		}
	}
	return p, nil
}

// builder is the container that everything is built in: Go, npm, and the caller's
// settings.
func (m *Fakeart) builder(ctx context.Context) (*dagger.Container, error) {
	p, err := m.pins(ctx)
	if err != nil {
		return nil, err
	}
	node := dag.Container().From(p.Node)
	c := dag.Container().From(p.Go).
		WithFile("/usr/local/bin/node", node.File("/usr/local/bin/node")).
		WithDirectory("/usr/local/lib/node_modules", node.Directory("/usr/local/lib/node_modules")).
		WithSymlink("../lib/node_modules/npm/bin/npm-cli.js", "/usr/local/bin/npm")
	for name, value := range map[string]string{"GOPROXY": m.GoProxy, "GOSUMDB": m.GoSumdb, "NPM_CONFIG_REGISTRY": m.NpmRegistry} {
		if value != "" {
			c = c.WithEnvVariable(name, value)
		}
	}
	if m.Netrc != nil {
		c = c.WithMountedSecret("/root/.netrc", m.Netrc).WithMountedSecret("/etc/apt/auth.conf.d/netrc.conf", m.Netrc)
	}
	if m.CaBundle != nil {
		const bundle = "/usr/local/share/ca-certificates/given.crt"
		c = c.WithFile(bundle, m.CaBundle).
			WithExec([]string{"update-ca-certificates"}).
			WithEnvVariable("NODE_EXTRA_CA_CERTS", bundle)
	}
	if m.AptMirror != "" {
		c = c.WithExec([]string{"sed", "-i", "-E", "s|^(URIs: *)[a-z]+://[^/]+|\\1" + strings.TrimSuffix(m.AptMirror, "/") + "|", "/etc/apt/sources.list.d/debian.sources"})
	}
	return c.
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("fakeart-go-modules")).
		WithMountedCache("/root/.cache/go-build", dag.CacheVolume("fakeart-go-build")).
		WithMountedCache("/root/.npm", dag.CacheVolume("fakeart-npm")).
		WithEnvVariable("CI", "true"), nil
}

// checkout is a builder with the checkout in /src, and npm's packages. What else it needs of
// the system is installed before, so that it stays where the source changes.
func (m *Fakeart) checkout(ctx context.Context, installed ...dagger.WithContainerFunc) (*dagger.Container, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	for _, install := range installed {
		c = c.With(install)
	}
	// Of these files alone, so that other changes leave the packages as they are.
	packages := c.WithWorkdir("/src").
		WithDirectory(".", m.Source, dagger.ContainerWithDirectoryOpts{Include: []string{"package.json", "package-lock.json", ".npmrc"}}).
		WithExec([]string{"npm", "ci", "--ignore-scripts"}).
		Directory("node_modules")
	return c.
		WithDirectory("/src", m.tree()).
		WithMountedDirectory("/src/node_modules", packages).
		WithWorkdir("/src").
		// For make, which compares it with the lockfile's time.
		WithExec([]string{"touch", "node_modules/.package-lock.json"}), nil
}

// tree is the checkout without its history, which changes where no file does.
func (m *Fakeart) tree() *dagger.Directory { return m.Source.WithoutDirectory(".git") }

// tool builds a command-line tool that a module of tools/ pins.
func (m *Fakeart) tool(ctx context.Context, module, name string) (*dagger.File, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	file, err := c.WithWorkdir("/src").
		WithDirectory(".", m.Source, dagger.ContainerWithDirectoryOpts{Include: []string{"Makefile", "tools/" + module + "/go.*"}}).
		WithExec([]string{"make", "bin/tools/" + name}).
		File("bin/tools/" + name).Sync(ctx)
	return file, explained("tool "+name, err)
}

// withTool puts a tool where make would build it, as new as can be.
func withTool(c *dagger.Container, name string, tool *dagger.File) *dagger.Container {
	path := "bin/tools/" + name
	return c.WithFile(path, tool).WithExec([]string{"touch", path})
}

// withBrowser installs the browser that the server's page is tried in.
func withBrowser(c *dagger.Container) *dagger.Container {
	return c.WithExec([]string{"sh", "-euc", `
		apt-get update -q
		apt-get install -y -q --no-install-recommends chromium`})
}

// withCompilers installs the C compiler for the platform that the container is not of.
func withCompilers(c *dagger.Container) *dagger.Container {
	return c.WithExec([]string{"sh", "-euc", `
		case $(dpkg --print-architecture) in
		amd64) other="gcc-aarch64-linux-gnu libc6-dev-arm64-cross";;
		arm64) other="gcc-x86-64-linux-gnu libc6-dev-amd64-cross";;
		esac
		apt-get update -q
		apt-get install -y -q --no-install-recommends $other`})
}

// source returns the commit that the checkout is. If the caller gives one, it must be the checkout's.
func (m *Fakeart) source(ctx context.Context) (stage.Source, error) {
	if m.Revision == "" && m.Created == "" {
		return m.tracked(ctx)
	}
	given, err := stage.Given(m.Revision, m.Created)
	if err != nil {
		return stage.Source{}, err
	}
	// The .git of a worktree is a file that names a folder elsewhere.
	has, err := m.Source.Exists(ctx, ".git", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeDirectoryType})
	if err != nil || !has {
		return given, err
	}
	tree, err := m.tracked(ctx)
	if err != nil {
		return stage.Source{}, err
	}
	return given, given.Agrees(tree)
}

// tracked returns the commit that the checkout's .git names.
func (m *Fakeart) tracked(ctx context.Context) (stage.Source, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return stage.Source{}, err
	}
	text, err := c.WithMountedDirectory("/src", m.Source).WithWorkdir("/src").
		WithExec([]string{"sh", "-euc", stage.Script}).Stdout(ctx)
	var exec *dagger.ExecError
	switch {
	case errors.As(err, &exec):
		return stage.Source{}, explained("source", fmt.Errorf("find the commit: %w\nhint: the .git of a worktree or an archive is missing; give the commit with --revision and --created", err))
	case err != nil:
		return stage.Source{}, explained("source", err)
	}
	return stage.ParseTree(text)
}

// withoutVariant is a platform without its variant: linux/arm64 for linux/arm64/v8.
func withoutVariant(platform string) string {
	parts := strings.SplitN(platform, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// platformsWith are those of images, or the given one alone if it is none of them.
func platformsWith(platform string) []string {
	for _, p := range stage.Platforms {
		if p == withoutVariant(platform) {
			return stage.Platforms
		}
	}
	return []string{withoutVariant(platform)}
}

// printed runs the container and returns what it printed on both streams.
func printed(ctx context.Context, step string, c *dagger.Container) (string, error) {
	out, err := c.CombinedOutput(ctx)
	return out, explained(step, err)
}
