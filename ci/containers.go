package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dagger/fakeart/internal/dagger"
)

// builder returns the container that everything is built in. It has Go, Node, npm and the caller's
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
	// The order is fixed because it's part of the engine's cache key.
	for _, v := range [][2]string{{"CI", "true"}, {"GOPROXY", m.GoProxy}, {"GOSUMDB", m.GoSumdb}, {"NPM_CONFIG_REGISTRY", m.NpmRegistry}, {"PIP_INDEX_URL", m.PipIndex}} {
		if v[1] != "" {
			c = c.WithEnvVariable(v[0], v[1])
		}
	}
	if m.Netrc != nil {
		c = c.WithMountedSecret("/root/.netrc", m.Netrc).WithMountedSecret("/etc/apt/auth.conf.d/netrc.conf", m.Netrc)
	}
	if m.CaBundle != nil {
		const bundle = "/usr/local/share/ca-certificates/given.crt"
		c = c.WithFile(bundle, m.CaBundle).
			WithExec([]string{"update-ca-certificates"}).
			WithEnvVariable("NODE_EXTRA_CA_CERTS", bundle).
			WithEnvVariable("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
	}
	if m.AptMirror != "" {
		c = c.WithExec([]string{"sed", "-i", "-E", "s|^(URIs: *)[a-z]+://[^/]+|\\1" + strings.TrimSuffix(m.AptMirror, "/") + "|", "/etc/apt/sources.list.d/debian.sources"})
	}
	return c.
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("fakeart-go-modules")).
		WithMountedCache("/root/.cache/go-build", dag.CacheVolume("fakeart-go-build")).
		WithMountedCache("/root/.npm", dag.CacheVolume("fakeart-npm")).
		WithWorkdir("/src"), nil
}

// withPaths copies files and directories of the checkout to /src, each under its own path.
// Directories end with a slash.
func (m *Fakeart) withPaths(paths ...string) dagger.WithContainerFunc {
	return func(c *dagger.Container) *dagger.Container { return c.WithDirectory("/src", m.tree(paths)) }
}

// tree returns a directory with files and directories of the checkout. The engine caches File and
// Directory of the source by content, unlike a copy with a filter. So a step runs again only if one
// of its own paths changed. Steps whose lists start with the same paths share that part of the tree.
func (m *Fakeart) tree(paths []string) *dagger.Directory {
	tree := dag.Directory()
	for _, path := range paths {
		if folder, ok := strings.CutSuffix(path, "/"); ok {
			tree = tree.WithDirectory(folder, m.Source.Directory(folder))
		} else {
			tree = tree.WithFile(path, m.Source.File(path))
		}
	}
	return tree
}

// codePaths returns the checkout's top-level paths, except .git and the documentation.
func (m *Fakeart) codePaths(ctx context.Context) ([]string, error) {
	entries, err := m.Source.Entries(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the checkout: %w", err)
	}
	return slices.DeleteFunc(entries, func(path string) bool {
		return strings.TrimSuffix(path, "/") == ".git" || path == "docs/" || strings.HasSuffix(path, ".md")
	}), nil
}

// install installs Debian packages. Call it before the source is added, so that a change of the
// source doesn't repeat the installation.
func install(packages ...string) dagger.WithContainerFunc {
	return func(c *dagger.Container) *dagger.Container {
		return c.WithExec([]string{"sh", "-euc", "apt-get update -q && apt-get install -y -q --no-install-recommends " + strings.Join(packages, " ")})
	}
}

// withCompiler installs the C cross compiler for the other platform: arm64 on amd64, and vice versa.
func withCompiler(c *dagger.Container) *dagger.Container {
	return c.WithExec([]string{"sh", "-euc", `
		case $(dpkg --print-architecture) in
		amd64) other="gcc-aarch64-linux-gnu libc6-dev-arm64-cross";;
		arm64) other="gcc-x86-64-linux-gnu libc6-dev-amd64-cross";;
		esac
		apt-get update -q
		apt-get install -y -q --no-install-recommends $other`})
}

// npm returns the node_modules directory for a folder's lock file. The folder ends with a slash; it
// is "" for the top level.
func (m *Fakeart) npm(c *dagger.Container, folder string) *dagger.Directory {
	return c.With(m.withPaths(folder+"package.json", folder+"package-lock.json", folder+".npmrc")).
		WithWorkdir("/src/" + folder).
		WithExec([]string{"npm", "ci", "--ignore-scripts"}).
		Directory("node_modules")
}

// workspace returns a builder with paths of the checkout in /src, the npm packages, and tools that
// tools/ pins, named MODULE/TOOL. The prepare functions run before the checkout is added, for
// example to install Debian packages.
func (m *Fakeart) workspace(ctx context.Context, paths, tools []string, prepare ...dagger.WithContainerFunc) (*dagger.Container, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	packages := m.npm(c, "")
	for _, p := range prepare {
		c = c.With(p)
	}
	c = c.WithDirectory("/src/bin", dag.Directory())
	for _, tool := range tools {
		module, name, _ := strings.Cut(tool, "/")
		file, err := m.tool(ctx, module, name)
		if err != nil {
			return nil, err
		}
		c = c.WithFile("/src/bin/tools/"+name, file)
	}
	return c.With(m.withPaths(paths...)).
		WithMountedDirectory("/src/node_modules", packages).
		// Make compares modification times: installed files must not look older than their lock files.
		WithExec([]string{"sh", "-euc", "touch node_modules/.package-lock.json && find bin -type f -exec touch {} +"}), nil
}

// tool returns a command-line tool, built from the version that tools/MODULE pins.
func (m *Fakeart) tool(ctx context.Context, module, name string) (*dagger.File, error) {
	c, err := m.builder(ctx)
	if err != nil {
		return nil, err
	}
	file, err := c.With(m.withPaths("tools/build.sh", "tools/gobuild.sh", "tools/"+module+"/")).
		WithExec([]string{"tools/build.sh", module, name, "/out/" + name}).
		File("/out/" + name).Sync(ctx)
	return file, explained("tool "+name, err)
}
