package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/images"
	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/publish"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/steps"
)

// Program selects the program whose image is built.
type Program string

const (
	// The server, which classifies images over HTTP
	Server Program = "server"
	// The trainer, which prepares data, trains and evaluates models
	Trainer Program = "trainer"
)

// Make the server's image; returns it as a container
func (m *Fakeart) ServerImage(
	ctx context.Context,
	// Platform of the image. Default: the engine's
	// +optional
	platform dagger.Platform,
) (c *dagger.Container, err error) {
	defer explain("server-image", &err)
	return m.container(ctx, Server, platform)
}

// Make the trainer's image; returns it as a container
func (m *Fakeart) TrainerImage(
	ctx context.Context,
	// Platform of the image. Default: the engine's
	// +optional
	platform dagger.Platform,
) (c *dagger.Container, err error) {
	defer explain("trainer-image", &err)
	return m.container(ctx, Trainer, platform)
}

// Make an image; returns it as an OCI archive for `docker load` or `skopeo copy oci-archive:`
func (m *Fakeart) ImageTarball(
	ctx context.Context,
	// Program of the image
	// +default="server"
	program Program,
	// Platform of the image. Default: the engine's
	// +optional
	platform dagger.Platform,
) (file *dagger.File, err error) {
	defer explain("image-tarball", &err)
	target := withoutVariant(platform)
	if target == "" {
		if target, err = enginePlatform(ctx); err != nil {
			return nil, err
		}
	}
	layouts, err := m.layouts(ctx, []string{target})
	if err != nil {
		return nil, err
	}
	// The engine can read files in the function's working directory.
	name := string(program) + ".tar"
	return dag.CurrentModule().WorkdirFile(name), withBundles(ctx, layouts, func(bundles map[string]*oci.Bundle) error {
		about, err := images.Summarize(bundles[string(program)])
		if err != nil {
			return err
		}
		manifest, err := bundles[string(program)].Index.IndexManifest()
		if err != nil {
			return err
		}
		img, err := bundles[string(program)].Index.Image(manifest.Manifests[0].Digest)
		if err != nil {
			return err
		}
		return oci.Archive(img, "fakeart/"+string(program)+":"+publish.CommitTag(about.Revision), name, about.Created)
	})
}

// container returns a program's image as a container.
func (m *Fakeart) container(ctx context.Context, program Program, platform dagger.Platform) (*dagger.Container, error) {
	tarball, err := m.ImageTarball(ctx, program, platform)
	if err != nil {
		return nil, err
	}
	return dag.Container(dagger.ContainerOpts{Platform: platform}).Import(tarball), nil
}

// Make the images and push them by digest, then tag them; returns their digests, one line each
//
// +cache="never"
func (m *Fakeart) Publish(
	ctx context.Context,
	// Private cosign key to sign with
	// +optional
	signingKey *dagger.Secret,
	// Password of the signing key
	// +optional
	signingPassword *dagger.Secret,
	// OpenID Connect token to sign with instead of a key
	// +optional
	identityToken *dagger.Secret,
) (digests string, err error) {
	defer explain("publish", &err)
	var (
		target  publish.Target
		signing *signer
		layouts *dagger.Directory
	)
	err = steps.InSequence(ctx,
		steps.Step{Name: "arguments", Run: func(ctx context.Context) (err error) {
			if err := stage.CheckPlatforms(m.platforms()); err != nil {
				return err
			}
			if target, err = m.target(ctx, m.Registry, m.Tags, m.RegistryUsername, m.RegistryPassword, m.RegistryService); err != nil {
				return err
			}
			if signing, err = m.signer(target.Dial, signingKey, signingPassword, identityToken); signing != nil {
				target.Sign = signing.sign
			}
			return err
		}},
		steps.Step{Name: "registry", Run: func(ctx context.Context) error { return target.CheckPush(ctx, stage.Programs) }},
		steps.Step{Name: "signing key", Run: func(ctx context.Context) error { return signing.check(ctx) }},
		steps.Step{Name: "images", Run: func(ctx context.Context) (err error) {
			layouts, err = m.layouts(ctx, m.platforms())
			return err
		}},
		steps.Step{Name: "push", Run: func(ctx context.Context) (err error) {
			digests, err = push(ctx, layouts, target)
			return err
		}},
	)
	return digests, err
}

// push pushes images with their commit's tag and the target's tags. It returns a line per image:
// the program and its reference by digest.
func push(ctx context.Context, layouts *dagger.Directory, t publish.Target) (digests string, err error) {
	return digests, withBundles(ctx, layouts, func(bundles map[string]*oci.Bundle) error {
		about, err := images.Summarize(bundles["server"])
		if err != nil {
			return err
		}
		t.Tags = slices.Compact(append([]string{publish.CommitTag(about.Revision)}, t.Tags...))
		pushed, err := publish.All(ctx, bundles, t)
		digests = publish.Lines(pushed)
		return err
	})
}

// Copy an image and its attachments to another registry, by digest; returns its new reference
//
// +cache="never"
func (m *Fakeart) Promote(
	ctx context.Context,
	// Image to copy, HOST/PATH@sha256:…. It is read with the target registry's credentials
	from string,
) (copied string, err error) {
	defer explain("promote", &err)
	ref, err := name.NewDigest(from)
	if err != nil {
		return "", fmt.Errorf("image %q has no digest\nhint: pass HOST/PATH@sha256:…", from)
	}
	to, err := m.target(ctx, m.Registry, m.Tags, m.RegistryUsername, m.RegistryPassword, m.RegistryService)
	if err != nil {
		return "", err
	}
	if err := to.CheckPush(ctx, []string{filepath.Base(ref.Context().Name())}); err != nil {
		return "", err
	}
	source := to
	source.Registry = strings.TrimSuffix(ref.Context().Name(), "/"+filepath.Base(ref.Context().Name()))
	b, err := source.Fetch(ctx, from)
	if err != nil {
		return "", err
	}
	about, err := images.Summarize(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	to.Tags = slices.Compact(append([]string{publish.CommitTag(about.Revision)}, to.Tags...))
	pushed, err := publish.All(ctx, map[string]*oci.Bundle{about.Program: b}, to)
	if err != nil {
		return "", err
	}
	return publish.Lines(pushed), nil
}

// layouts builds the images in a container. It returns a directory with an OCI layout per program and
// digests.txt. The engine builds them again only if the programs or the base changed.
func (m *Fakeart) layouts(ctx context.Context, platforms []string) (dir *dagger.Directory, err error) {
	defer explain("images", &err)
	p, err := m.pins(ctx)
	if err != nil {
		return nil, err
	}
	source, err := m.source(ctx)
	if err != nil {
		return nil, err
	}
	c, err := m.staged(ctx, platforms)
	if err != nil {
		return nil, err
	}
	args := append([]string{"make", "images", "STAGED=1"}, makeVariables(platforms, source)...)
	if m.BaseLayout != nil {
		c = c.WithMountedDirectory("/base", m.BaseLayout)
		args = append(args, "BASE=/base")
	} else {
		// The engine pulls the base, because it has mirrors, credentials and a cache.
		var variants []*dagger.Container
		for _, platform := range platforms {
			variants = append(variants, dag.Container(dagger.ContainerOpts{Platform: dagger.Platform(platform)}).From(p.Base))
		}
		archive := variants[0].AsTarball(dagger.ContainerAsTarballOpts{PlatformVariants: variants[1:]})
		c = c.WithMountedFile("/base.tar", archive)
		args = append(args, "BASE=/base.tar", "BASE_NAME="+p.Base)
	}
	builder := m.Builder
	if builder == "" {
		builder = p.Repository + "/blob/main/docs/how-to/ci.md#the-pipeline"
	}
	return c.WithExec(append(args, "BUILDER="+builder)).Directory("build/images").Sync(ctx)
}

// withBundles calls use with the images in layouts, keyed by program. They are valid until use
// returns.
func withBundles(ctx context.Context, layouts *dagger.Directory, use func(map[string]*oci.Bundle) error) error {
	dir, err := os.MkdirTemp("", "fakeart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := layouts.Export(ctx, dir); err != nil {
		return fmt.Errorf("fetch the images: %w", err)
	}
	bundles := map[string]*oci.Bundle{}
	for _, program := range stage.Programs {
		if bundles[program], err = oci.Load(filepath.Join(dir, program)); err != nil {
			return err
		}
	}
	return use(bundles)
}

// target returns the registry to push to. It starts the service, if there is one, as a tunnel to
// the registry.
func (m *Fakeart) target(ctx context.Context, registry string, tags []string, username string, password *dagger.Secret, service *dagger.Service) (publish.Target, error) {
	t := publish.Target{Registry: registry, Tags: tags, Username: username}
	if password != nil {
		text, err := password.Plaintext(ctx)
		if err != nil {
			return t, fmt.Errorf("read --registry-password: %w", err)
		}
		t.Password = strings.TrimSpace(text)
	}
	if err := t.Check(); err != nil {
		return t, err
	}
	if service != nil {
		started, err := service.Start(ctx)
		if err != nil {
			return t, fmt.Errorf("start --registry-service: %w", err)
		}
		if t.Dial, err = started.Endpoint(ctx); err != nil {
			return t, fmt.Errorf("start --registry-service: %w", err)
		}
	}
	if m.CaBundle != nil {
		text, err := m.CaBundle.Contents(ctx)
		if err != nil {
			return t, fmt.Errorf("read --ca-bundle: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(text)) {
			return t, errors.New("--ca-bundle contains no certificates in PEM format")
		}
		t.Transport = publish.WithRootCAs(http.DefaultTransport.(*http.Transport), pool)
	}
	return t, nil
}
