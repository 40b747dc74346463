package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/images"
	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/publish"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/steps"
)

// ServerImage makes the server's image; returns a container of it
func (m *Fakeart) ServerImage(
	ctx context.Context,
	// What it is for; without it what the engine runs.
	// +optional
	platform string,
) (_ *dagger.Container, err error) {
	defer explain("server-image", &err)
	return m.container(ctx, "server", platform)
}

// TrainerImage makes the trainer's image; returns a container of it
func (m *Fakeart) TrainerImage(
	ctx context.Context,
	// What it is for; without it what the engine runs.
	// +optional
	platform string,
) (_ *dagger.Container, err error) {
	defer explain("trainer-image", &err)
	return m.container(ctx, "trainer", platform)
}

// ImageTarball makes an image; returns it as an OCI archive, which `docker load` and `skopeo copy oci-archive:` read
func (m *Fakeart) ImageTarball(
	ctx context.Context,
	// Which: server or trainer.
	// +default="server"
	program string,
	// What it is for; without it what the engine runs.
	// +optional
	platform string,
) (_ *dagger.File, err error) {
	defer explain("image-tarball", &err)
	if !slices.Contains(stage.Programs, program) {
		return nil, fmt.Errorf("program %q: there are images of %s", program, strings.Join(stage.Programs, " and "))
	}
	if platform == "" {
		own, err := dag.DefaultPlatform(ctx)
		if err != nil {
			return nil, err
		}
		platform = withoutVariant(string(own))
	}
	made, err := m.images(ctx, []string{platform}, "")
	if err != nil {
		return nil, err
	}
	about, err := images.About(made[program])
	if err != nil {
		return nil, err
	}
	manifest, err := made[program].Index.IndexManifest()
	if err != nil {
		return nil, err
	}
	img, err := made[program].Index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	// In the function's own working folder, from where the engine can take it.
	file := program + ".tar"
	if err := oci.Archive(img, "fakeart/"+program+":"+publish.CommitTag(about.Revision), file, about.Created); err != nil {
		return nil, err
	}
	return dag.CurrentModule().WorkdirFile(file), nil
}

// container is an image as a container of the engine's.
func (m *Fakeart) container(ctx context.Context, program, platform string) (*dagger.Container, error) {
	tarball, err := m.ImageTarball(ctx, program, platform)
	if err != nil {
		return nil, err
	}
	return dag.Container(dagger.ContainerOpts{Platform: dagger.Platform(platform)}).Import(tarball), nil
}

// Publish makes the images and pushes them, by digest first and by tag last; returns their digests, a line each
//
// +cache="never"
func (m *Fakeart) Publish(
	ctx context.Context,
	// What repositories' names begin with: HOST/PATH.
	registry string,
	// Tags besides the commit's own.
	// +optional
	tags []string,
	// What the images are for.
	// +default=["linux/amd64", "linux/arm64"]
	platforms []string,
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
	// Private key of cosign's to sign with.
	// +optional
	signingKey *dagger.Secret,
	// Password of that key.
	// +optional
	signingPassword *dagger.Secret,
	// OpenID Connect token to sign with instead of a key.
	// +optional
	identityToken *dagger.Secret,
) (_ string, err error) {
	defer explain("publish", &err)
	var (
		target  publish.Target
		made    map[string]*oci.Bundle
		digests string
	)
	err = steps.InTurn(ctx,
		steps.Step{Name: "arguments", Run: func(ctx context.Context) (err error) {
			if err := stage.CheckPlatforms(platforms); err != nil {
				return err
			}
			if target, err = m.target(ctx, registry, tags, registryUsername, registryPassword, registryService); err != nil {
				return err
			}
			target.Sign, err = m.signer(registryUsername, registryPassword, registryService, target, signingKey, signingPassword, identityToken)
			return err
		}},
		steps.Step{Name: "images", Run: func(ctx context.Context) (err error) {
			made, err = m.images(ctx, platforms, builder)
			return err
		}},
		steps.Step{Name: "push", Run: func(ctx context.Context) (err error) {
			digests, err = push(ctx, made, target)
			return err
		}},
	)
	return digests, err
}

// push pushes images under their commit's tag and the target's, and returns a line for each.
func push(ctx context.Context, made map[string]*oci.Bundle, t publish.Target) (string, error) {
	about, err := images.About(made["server"])
	if err != nil {
		return "", err
	}
	t.Tags = slices.Compact(append([]string{publish.CommitTag(about.Revision)}, t.Tags...))
	pushed, err := publish.All(ctx, made, t)
	if err != nil {
		return "", err
	}
	return publish.Lines(pushed), nil
}

// Promote copies an image, and what is attached to it, to another registry by its digest; returns its name there
//
// +cache="never"
func (m *Fakeart) Promote(
	ctx context.Context,
	// The image: HOST/PATH@sha256:….
	from string,
	// What repositories' names begin with there: HOST/PATH. The last part of the image's name stays.
	registry string,
	// Tags that it has there besides the commit's own.
	// +optional
	tags []string,
	// User name for both registries.
	// +optional
	registryUsername string,
	// Password for both registries.
	// +optional
	registryPassword *dagger.Secret,
	// The registry itself, where containers do not reach it: tcp://127.0.0.1:5000.
	// +optional
	registryService *dagger.Service,
) (_ string, err error) {
	defer explain("promote", &err)
	ref, err := name.NewDigest(from)
	if err != nil {
		return "", fmt.Errorf("image %q: name it by its digest, HOST/PATH@sha256:…", from)
	}
	to, err := m.target(ctx, registry, tags, registryUsername, registryPassword, registryService)
	if err != nil {
		return "", err
	}
	source := to
	source.Registry = strings.TrimSuffix(ref.Context().Name(), "/"+filepath.Base(ref.Context().Name()))
	b, err := source.Fetch(ctx, from)
	if err != nil {
		return "", err
	}
	about, err := images.About(b)
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

// images builds the programs and makes their images.
func (m *Fakeart) images(ctx context.Context, platforms []string, builder string) (map[string]*oci.Bundle, error) {
	p, err := m.pins(ctx)
	if err != nil {
		return nil, err
	}
	staged, err := m.Build(ctx, platforms)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fakeart-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	from := filepath.Join(dir, "stage")
	if _, err := staged.Export(ctx, from); err != nil {
		return nil, fmt.Errorf("fetch the programs: %w", err)
	}
	base, err := m.base(ctx, dir, p.Base, platforms)
	if err != nil {
		return nil, err
	}
	if builder == "" {
		builder = p.Repository + "/blob/main/docs/how-to/ci.md#the-pipeline"
	}
	made, err := images.Make(images.Options{Stage: from, Base: base, Repository: p.Repository, Builder: builder})
	if err != nil {
		return nil, err
	}
	for _, program := range slices.Sorted(maps.Keys(made)) {
		if err := images.Check(program, made[program]); err != nil {
			return nil, fmt.Errorf("image of %s: %w", program, err)
		}
	}
	return made, nil
}

// base gets what images stand on: through the engine, which has mirrors, credentials and a
// cache, or from the caller's layout.
func (m *Fakeart) base(ctx context.Context, dir, reference string, platforms []string) (*oci.Base, error) {
	var parts []*oci.Base
	if m.BaseLayout != nil {
		layout := filepath.Join(dir, "base")
		if _, err := m.BaseLayout.Export(ctx, layout); err != nil {
			return nil, fmt.Errorf("fetch the base's layout: %w", err)
		}
		base, err := oci.ReadBase(layout)
		if err != nil {
			return nil, err
		}
		return base.Named(reference), nil
	}
	for _, platform := range platforms {
		archive := filepath.Join(dir, stage.Dir(platform)+".tar")
		_, err := dag.Container(dagger.ContainerOpts{Platform: dagger.Platform(platform)}).From(reference).AsTarball().Export(ctx, archive)
		if err != nil {
			return nil, fmt.Errorf("fetch the base %s for %s: %w", reference, platform, err)
		}
		part, err := oci.ReadBase(archive)
		if err != nil {
			return nil, err
		}
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return nil, err
		}
		if !part.Has(*p) {
			return nil, fmt.Errorf("the base %s has no image for %s", reference, platform)
		}
		parts = append(parts, part)
	}
	return oci.JoinBases(reference, parts...)
}

// target is a registry as publish knows it.
func (m *Fakeart) target(ctx context.Context, registry string, tags []string, username string, password *dagger.Secret, service *dagger.Service) (publish.Target, error) {
	t := publish.Target{Registry: registry, Tags: tags, Username: username}
	if password != nil {
		text, err := password.Plaintext(ctx)
		if err != nil {
			return t, fmt.Errorf("registry's password: %w", err)
		}
		t.Password = strings.TrimSpace(text)
	}
	if err := t.Check(); err != nil {
		return t, err
	}
	if service != nil {
		started, err := service.Start(ctx)
		if err != nil {
			return t, fmt.Errorf("registry's service: %w", err)
		}
		if t.Dial, err = started.Endpoint(ctx); err != nil {
			return t, fmt.Errorf("registry's service: %w", err)
		}
	}
	if m.CaBundle != nil {
		text, err := m.CaBundle.Contents(ctx)
		if err != nil {
			return t, fmt.Errorf("certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(text)) {
			return t, errors.New("certificates: --ca-bundle has none in PEM")
		}
		t.Transport = publish.Trusting(http.DefaultTransport.(*http.Transport), pool)
	}
	return t, nil
}

// signer returns what signs an image with cosign, in a container; nil when nobody asked.
func (m *Fakeart) signer(username string, password *dagger.Secret, service *dagger.Service, t publish.Target,
	key, keyPassword, identity *dagger.Secret,
) (func(context.Context, name.Digest) error, error) {
	switch {
	case key == nil && identity == nil:
		return nil, nil
	case key != nil && identity != nil:
		return nil, errors.New("sign with a key or with an identity, not with both")
	case key != nil && keyPassword == nil:
		return nil, errors.New("--signing-password is missing: the key is encrypted with it")
	}
	return func(ctx context.Context, ref name.Digest) error {
		cosign, err := m.tool(ctx, "cosign", "cosign")
		if err != nil {
			return err
		}
		c, err := m.builder(ctx)
		if err != nil {
			return err
		}
		c = c.WithFile("/usr/local/bin/cosign", cosign)
		signed := ref
		if service != nil {
			// Under the name that containers know; what is signed is a digest.
			host, _, _ := strings.Cut(t.Dial, ":")
			c = c.WithServiceBinding(host, service)
			repo, err := name.NewRepository(strings.Replace(ref.Context().Name(), ref.Context().RegistryStr(), t.Dial, 1), name.Insecure)
			if err != nil {
				return err
			}
			signed = repo.Digest(ref.DigestStr())
		}
		if password != nil {
			c = c.WithSecretVariable("REGISTRY_PASSWORD", password).WithExec([]string{
				"sh", "-euc",
				`printf %s "$REGISTRY_PASSWORD" | cosign login "$0" --username "$1" --password-stdin`, signed.Context().RegistryStr(), username,
			})
		}
		keyFile := ""
		if key != nil {
			keyFile = "/run/cosign.key"
			c = c.WithMountedSecret(keyFile, key).WithSecretVariable("COSIGN_PASSWORD", keyPassword)
		} else {
			c = c.WithSecretVariable("SIGSTORE_ID_TOKEN", identity)
		}
		args := append([]string{"cosign"}, publish.Cosign(signed, keyFile)...)
		if service != nil {
			args = slices.Insert(args, 2, "--allow-http-registry")
		}
		_, err = printed(ctx, "sign", again(c).WithExec(args))
		return err
	}, nil
}
