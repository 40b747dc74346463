package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/publish"
)

// keyFile is the path of the signing key in cosign's container.
const keyFile = "/run/cosign.key"

// signer signs images with cosign, in a container.
type signer struct {
	m *Fakeart
	// dial is the address, HOST:PORT, at which containers reach the registry. Empty means the
	// registry's own.
	dial string
	// Either key and password are set, or only identity, an OpenID Connect token.
	key, password, identity *dagger.Secret
}

// signer returns a signer, or nil if the caller passed neither a key nor a token.
func (m *Fakeart) signer(dial string, key, password, identity *dagger.Secret) (*signer, error) {
	switch {
	case key == nil && identity == nil:
		return nil, nil
	case key != nil && identity != nil:
		return nil, errors.New("--signing-key and --identity-token can't be used together")
	case key != nil && password == nil:
		return nil, errors.New("--signing-password is missing\nhint: pass the password that --signing-key is encrypted with")
	}
	return &signer{m, dial, key, password, identity}, nil
}

// check returns an error if the key can't be decrypted with its password, or if the token is
// invalid or has expired. It accepts a nil signer.
func (s *signer) check(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if s.key == nil {
		token, err := s.identity.Plaintext(ctx)
		if err != nil {
			return fmt.Errorf("read --identity-token: %w", err)
		}
		return publish.CheckToken(token, time.Now())
	}
	key, err := s.key.Plaintext(ctx)
	if err != nil {
		return fmt.Errorf("read --signing-key: %w", err)
	}
	if err := publish.CheckKey(key); err != nil {
		return err
	}
	if _, err := s.password.Plaintext(ctx); err != nil {
		return fmt.Errorf("read --signing-password: %w", err)
	}
	c, err := s.cosign(ctx)
	if err != nil {
		return err
	}
	_, err = c.WithExec([]string{"cosign", "public-key", "--key", keyFile}).Sync(ctx)
	var exec *dagger.ExecError
	if errors.As(err, &exec) {
		return fmt.Errorf("read the signing key: %w\nhint: check that --signing-password is the password of --signing-key", err)
	}
	return err
}

// sign signs an image. The signature has the image's own name, even if containers reach the
// registry at another address.
func (s *signer) sign(ctx context.Context, ref name.Digest) error {
	c, err := s.cosign(ctx)
	if err != nil {
		return err
	}
	host, file := ref.Context().RegistryStr(), ""
	if s.dial != "" {
		host = s.dial
		service, _, _ := strings.Cut(s.dial, ":")
		c = c.WithServiceBinding(service, s.m.RegistryService)
	}
	if s.m.RegistryPassword != nil {
		c = c.WithSecretVariable("REGISTRY_PASSWORD", s.m.RegistryPassword).WithExec([]string{
			"sh", "-euc",
			`printf %s "$REGISTRY_PASSWORD" | cosign login "$0" --username "$1" --password-stdin`, host, s.m.RegistryUsername,
		})
	}
	if s.key != nil {
		file = keyFile
	}
	_, err = c.WithExec(append([]string{"cosign"}, publish.CosignArgs(ref, file, s.dial)...)).Sync(ctx)
	return explained("sign", err)
}

// cosign returns a container with cosign and its key or token. Its next command is never cached.
func (s *signer) cosign(ctx context.Context) (*dagger.Container, error) {
	tool, err := s.m.tool(ctx, "cosign", "cosign")
	if err != nil {
		return nil, err
	}
	c, err := s.m.builder(ctx)
	if err != nil {
		return nil, err
	}
	c = c.WithFile("/usr/local/bin/cosign", tool)
	if s.key == nil {
		return uncached(c.WithSecretVariable("SIGSTORE_ID_TOKEN", s.identity)), nil
	}
	return uncached(c.WithMountedSecret(keyFile, s.key).WithSecretVariable("COSIGN_PASSWORD", s.password)), nil
}
