package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"dagger/fakeart/internal/dagger"
)

// Show the changes that infra-up would make
//
// +cache="never"
func (m *Fakeart) InfraPreview(
	ctx context.Context,
	// Stack, as in Pulumi.STACK.yaml
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets. Not needed for a stack with a KMS key
	// +optional
	passphrase *dagger.Secret,
	// URL of the state, such as gs://BUCKET. Default: no state, so everything would be created
	// +optional
	backend string,
	// Google Cloud credentials file, from gcloud or from workload identity federation
	// +optional
	googleCredentials *dagger.Secret,
	// Copy of ~/.pulumi/plugins, if plugins can't be downloaded
	// +optional
	plugins *dagger.Directory,
) (out string, err error) {
	defer explain("infra-preview", &err)
	c, err := m.pulumi(ctx, stack, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "infra-preview", "STACK=" + stack, "ARGS=--non-interactive --diff"}).CombinedOutput(ctx)
}

// Apply Pulumi.STACK.yaml to the cloud
//
// +cache="never"
func (m *Fakeart) InfraUp(
	ctx context.Context,
	// URL of the state, such as gs://BUCKET
	backend string,
	// Stack, as in Pulumi.STACK.yaml
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets. Not needed for a stack with a KMS key
	// +optional
	passphrase *dagger.Secret,
	// Google Cloud credentials file, from gcloud or from workload identity federation
	// +optional
	googleCredentials *dagger.Secret,
	// Copy of ~/.pulumi/plugins, if plugins can't be downloaded
	// +optional
	plugins *dagger.Directory,
) (out string, err error) {
	defer explain("infra-up", &err)
	c, err := m.pulumi(ctx, stack, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{"make", "infra-up", "STACK=" + stack, "ARGS=--non-interactive --yes"}).CombinedOutput(ctx)
}

// Deploy images by digest to a stack, and apply the rest of Pulumi.STACK.yaml
//
// +cache="never"
func (m *Fakeart) Deploy(
	ctx context.Context,
	// URL of the state, such as gs://BUCKET
	backend string,
	// Server image, HOST/PATH@sha256:…
	image string,
	// Trainer image, HOST/PATH@sha256:…. Default: the one in the stack's file
	// +optional
	trainerImage string,
	// Stack, as in Pulumi.STACK.yaml
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets. Not needed for a stack with a KMS key
	// +optional
	passphrase *dagger.Secret,
	// Google Cloud credentials file, from gcloud or from workload identity federation
	// +optional
	googleCredentials *dagger.Secret,
	// Copy of ~/.pulumi/plugins, if plugins can't be downloaded
	// +optional
	plugins *dagger.Directory,
) (out string, err error) {
	defer explain("deploy", &err)
	for _, image := range []string{image, trainerImage} {
		if _, err := name.NewDigest(image); image != "" && err != nil {
			return "", fmt.Errorf("image %q has no digest\nhint: pass HOST/PATH@sha256:…; a tag could point to another image later", image)
		}
	}
	c, err := m.pulumi(ctx, stack, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return c.WithExec([]string{
		"make", "deploy", "STACK=" + stack, "IMAGE=" + image, "TRAINER_IMAGE=" + trainerImage, "ARGS=--non-interactive --yes",
	}).CombinedOutput(ctx)
}

// pulumi returns a workspace with the Pulumi tools and the caller's credentials. Its next command is
// never cached, because the result depends on the state of the cloud.
func (m *Fakeart) pulumi(ctx context.Context, stack string, passphrase *dagger.Secret, backend string, credentials *dagger.Secret, plugins *dagger.Directory) (*dagger.Container, error) {
	paths, err := m.codePaths(ctx)
	if err != nil {
		return nil, err
	}
	configured := func(c *dagger.Container) *dagger.Container {
		// The make targets set it as well. Setting it here covers commands in a terminal.
		c = c.WithEnvVariable("PULUMI_GCP_SKIP_REGION_VALIDATION", "true")
		if passphrase != nil {
			c = c.WithSecretVariable("PULUMI_CONFIG_PASSPHRASE", passphrase)
		}
		if backend != "" {
			c = c.WithEnvVariable("PULUMI_BACKEND_URL", backend)
		}
		if credentials != nil {
			const file = "/run/google-credentials.json"
			c = c.WithMountedSecret(file, credentials).WithEnvVariable("GOOGLE_APPLICATION_CREDENTIALS", file)
		}
		if plugins != nil {
			c = c.WithMountedDirectory("/root/.pulumi/plugins", plugins)
		}
		return c
	}
	// Report a wrong stack or a missing passphrase before building the tools, which takes minutes.
	c, err := m.workspace(ctx, paths, nil)
	if err != nil {
		return nil, err
	}
	if _, err := c.With(configured).WithExec([]string{"make", "infra-ready", "STACK=" + stack}).Sync(ctx); err != nil {
		return nil, err
	}
	c, err = m.workspace(ctx, paths, []string{"pulumi/pulumi", "pulumi-language-go/pulumi-language-go"})
	if err != nil {
		return nil, err
	}
	return uncached(c.With(configured)), nil
}

// uncached returns a container whose next command runs even if the engine has its result in the cache.
func uncached(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("FAKEART_CALLED_AT", time.Now().Format(time.RFC3339Nano))
}
