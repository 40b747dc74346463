package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"dagger/fakeart/internal/dagger"
)

// InfraPreview shows what infra-up would change
//
// +cache="never"
func (m *Fakeart) InfraPreview(
	ctx context.Context,
	// Which stack: Pulumi.STACK.yaml.
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets, unless the stack has a key of a KMS.
	// +optional
	passphrase *dagger.Secret,
	// Where the state is, such as gs://BUCKET; without it there is none, and everything would be made.
	// +optional
	backend string,
	// Google's credentials: a file that gcloud or a forge's federation has made.
	// +optional
	googleCredentials *dagger.Secret,
	// Folder with Pulumi's plug-ins, as ~/.pulumi/plugins, where they cannot be downloaded.
	// +optional
	plugins *dagger.Directory,
) (_ string, err error) {
	defer explain("infra-preview", &err)
	c, err := m.pulumi(ctx, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return printed(ctx, "infra-preview", c.WithExec([]string{"make", "infra-preview", "STACK=" + stack, "ARGS=--non-interactive --diff"}))
}

// InfraUp makes a stack what its file says
//
// +cache="never"
func (m *Fakeart) InfraUp(
	ctx context.Context,
	// Where the state is, such as gs://BUCKET.
	backend string,
	// Which stack: Pulumi.STACK.yaml.
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets, unless the stack has a key of a KMS.
	// +optional
	passphrase *dagger.Secret,
	// Google's credentials: a file that gcloud or a forge's federation has made.
	// +optional
	googleCredentials *dagger.Secret,
	// Folder with Pulumi's plug-ins, as ~/.pulumi/plugins, where they cannot be downloaded.
	// +optional
	plugins *dagger.Directory,
) (_ string, err error) {
	defer explain("infra-up", &err)
	c, err := m.pulumi(ctx, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return printed(ctx, "infra-up", c.WithExec([]string{"make", "infra-up", "STACK=" + stack, "ARGS=--non-interactive --yes"}))
}

// Deploy has a stack run these images, by digest, and makes it what its file says otherwise
//
// +cache="never"
func (m *Fakeart) Deploy(
	ctx context.Context,
	// Where the state is, such as gs://BUCKET.
	backend string,
	// The server's image: HOST/PATH@sha256:….
	image string,
	// The trainer's image: HOST/PATH@sha256:…; without it the stack keeps what its file says.
	// +optional
	trainerImage string,
	// Which stack: Pulumi.STACK.yaml.
	// +default="dev"
	stack string,
	// Passphrase of the stack's secrets, unless the stack has a key of a KMS.
	// +optional
	passphrase *dagger.Secret,
	// Google's credentials: a file that gcloud or a forge's federation has made.
	// +optional
	googleCredentials *dagger.Secret,
	// Folder with Pulumi's plug-ins, as ~/.pulumi/plugins, where they cannot be downloaded.
	// +optional
	plugins *dagger.Directory,
) (_ string, err error) {
	defer explain("deploy", &err)
	for _, given := range []string{image, trainerImage} {
		if _, err := name.NewDigest(given); given != "" && err != nil {
			return "", fmt.Errorf("image %q: name it by its digest, HOST/PATH@sha256:…: what a tag means changes", given)
		}
	}
	c, err := m.pulumi(ctx, passphrase, backend, googleCredentials, plugins)
	if err != nil {
		return "", err
	}
	return printed(ctx, "deploy", c.WithExec([]string{
		"make", "deploy", "STACK=" + stack, "IMAGE=" + image, "TRAINER_IMAGE=" + trainerImage, "ARGS=--non-interactive --yes",
	}))
}

// pulumi is a checkout with Pulumi's tools and the caller's credentials. What it runs
// is run each time, for the cloud is not what it was.
func (m *Fakeart) pulumi(ctx context.Context, passphrase *dagger.Secret, backend string, credentials *dagger.Secret, plugins *dagger.Directory) (*dagger.Container, error) {
	c, err := m.checkout(ctx)
	if err != nil {
		return nil, err
	}
	for _, tool := range []string{"pulumi", "pulumi-language-go"} {
		file, err := m.tool(ctx, tool, tool)
		if err != nil {
			return nil, err
		}
		c = withTool(c, tool, file)
	}
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
	return again(c), nil
}

// again is a container whose next command is run even if the engine has run it before.
func again(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("FAKEART_CALLED_AT", time.Now().Format(time.RFC3339Nano))
}
