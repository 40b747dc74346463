// Package publish pushes container images to a registry. [All] pushes all images by digest, then
// signs them, then sets their tags, so a failed push never leaves a tag on an incomplete or
// unsigned image. Call [Target.CheckPush] first to find missing permissions before images are
// built.
package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"dagger/fakeart/internal/oci"
)

// Target is the registry that images are pushed to, and how to connect to it.
type Target struct {
	// Registry is the prefix of the repositories' names, such as
	// europe-west4-docker.pkg.dev/project/fakeart-dev. Each program has its own repository there,
	// with the program's name.
	Registry string
	// Tags are set on every image.
	Tags []string
	// Username and Password are the registry's credentials. If they are empty, those of `docker
	// login` are used, if there are any.
	Username, Password string
	// Dial is the address, HOST:PORT, to connect to instead of the registry's own. Empty means its
	// own.
	Dial string
	// Transport is used for requests, for example to trust other certificates. Nil means
	// http.DefaultTransport.
	Transport *http.Transport
	// Sign signs a pushed image, before tags are set. Nil means that images aren't signed.
	Sign func(context.Context, name.Digest) error
}

// Check returns an error if the registry's name or a tag is invalid, or if the user name or the
// password is missing. It sends no request.
func (t Target) Check() error {
	if _, err := t.repository("server"); err != nil {
		return err
	}
	for _, tag := range t.Tags {
		if _, err := name.NewTag("registry.example/image:"+tag, name.StrictValidation); err != nil {
			return fmt.Errorf("invalid tag %q\nhint: use up to 128 letters, digits, and any of ._- after the first character", tag)
		}
	}
	if (t.Username == "") != (t.Password == "") {
		return errors.New("the registry's user name or password is missing\nhint: set both --registry-username and --registry-password, or neither")
	}
	return nil
}

// repository returns a program's repository, or an error if the registry's name is invalid.
func (t Target) repository(program string) (name.Repository, error) {
	repo, err := name.NewRepository(strings.TrimSuffix(t.Registry, "/")+"/"+program, name.StrictValidation)
	if err != nil {
		return name.Repository{}, fmt.Errorf("invalid registry %q\nhint: use HOST/PATH in lower case, such as 127.0.0.1:5000/fakeart", t.Registry)
	}
	return repo, nil
}

// All pushes images, keyed by program, and returns their references by digest. If an image or a
// signature fails, no tag has been set. Repeating a push changes nothing.
func All(ctx context.Context, bundles map[string]*oci.Bundle, t Target) (map[string]name.Digest, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	options := t.options()
	pushed := map[string]name.Digest{}
	programs := slices.Sorted(maps.Keys(bundles))
	for _, program := range programs {
		repo, err := t.repository(program)
		if err != nil {
			return nil, err
		}
		if pushed[program], err = bundles[program].Push(ctx, repo, options...); err != nil {
			return nil, t.explain(repo, err)
		}
	}
	if t.Sign != nil {
		for _, program := range programs {
			if err := t.Sign(ctx, pushed[program]); err != nil {
				return nil, fmt.Errorf("sign %s: %w", pushed[program], err)
			}
		}
	}
	for _, tag := range t.Tags {
		for _, program := range programs {
			if err := oci.Tag(ctx, pushed[program], tag, options...); err != nil {
				return nil, t.explain(pushed[program].Context(), err)
			}
		}
	}
	return pushed, nil
}

// Fetch reads an image with its attachments. The reference must have a digest. It's read from its own
// registry, with the target's credentials.
func (t Target) Fetch(ctx context.Context, reference string) (*oci.Bundle, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("image %q has no digest\nhint: pass HOST/PATH@sha256:…", reference)
	}
	b, err := oci.Fetch(ctx, ref, t.options()...)
	return b, t.explain(ref.Context(), err)
}

// options returns the options for requests to the registry.
func (t Target) options() []remote.Option {
	return []remote.Option{remote.WithTransport(t.transport()), remote.WithAuthFromKeychain(t.keychain())}
}

// transport returns a copy of the target's transport, which connects to Dial if it's set.
func (t Target) transport() *http.Transport {
	base := t.Transport
	if base == nil {
		base = http.DefaultTransport.(*http.Transport)
	}
	base = base.Clone()
	if t.Dial != "" {
		host := t.host()
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == host {
				addr = t.Dial
			}
			return dial(ctx, network, addr)
		}
	}
	return base
}

// host returns the registry's own address, HOST:PORT, or "" if its name is invalid.
func (t Target) host() string {
	repo, err := t.repository("server")
	if err != nil {
		return ""
	}
	host := repo.RegistryStr()
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if repo.Scheme() == "http" {
		return net.JoinHostPort(host, "80")
	}
	return net.JoinHostPort(host, "443")
}
