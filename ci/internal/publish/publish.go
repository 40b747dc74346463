// Package publish pushes images so that nothing is half done under a name that people
// pull: all images by their digests first, then signatures, then tags.
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

// Target is where images go.
type Target struct {
	// Registry is what all repositories' names begin with, such as
	// europe-west4-docker.pkg.dev/project/fakeart-dev. Each image has a repository of its program's name there.
	Registry string
	// Tags are set on every image.
	Tags []string
	// Username and Password are for the registry. Without them the credentials that
	// `docker login` has left are used, if there are any.
	Username, Password string
	// Dial is the address to connect to instead of the registry's own, HOST:PORT; empty for its own.
	Dial string
	// Transport, if there is one, is used for requests; it may trust other certificates.
	Transport *http.Transport
	// Sign, if it isn't nil, signs what was pushed, before it has tags.
	Sign func(context.Context, name.Digest) error
}

// Check says what is wrong with the target, before anything is built for it.
func (t Target) Check() error {
	if _, err := t.repository("server"); err != nil {
		return err
	}
	for _, tag := range t.Tags {
		if _, err := name.NewTag("registry.example/image:"+tag, name.StrictValidation); err != nil {
			return fmt.Errorf("tag %q: letters, digits, and ._- after the first; 128 at most", tag)
		}
	}
	if (t.Username == "") != (t.Password == "") {
		return errors.New("registry: a user name and a password belong together: one is missing")
	}
	return nil
}

func (t Target) repository(program string) (name.Repository, error) {
	repo, err := name.NewRepository(strings.TrimSuffix(t.Registry, "/")+"/"+program, name.StrictValidation)
	if err != nil {
		return name.Repository{}, fmt.Errorf("registry %q: %w; name it HOST/PATH, such as 127.0.0.1:5000/fakeart", t.Registry, err)
	}
	return repo, nil
}

// All pushes images, by program, and returns their names by digest. When an image or a
// signature fails, no tag has moved. Pushing the same again changes nothing.
func All(ctx context.Context, made map[string]*oci.Bundle, t Target) (map[string]name.Digest, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	options := t.options()
	pushed := map[string]name.Digest{}
	programs := slices.Sorted(maps.Keys(made))
	for _, program := range programs {
		repo, err := t.repository(program)
		if err != nil {
			return nil, err
		}
		if pushed[program], err = made[program].Push(ctx, repo, options...); err != nil {
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

// Fetch reads images, named by their digests, from where they are.
func (t Target) Fetch(ctx context.Context, reference string) (*oci.Bundle, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("image %q: name it by its digest, HOST/PATH@sha256:…", reference)
	}
	b, err := oci.Fetch(ctx, ref, t.options()...)
	return b, t.explain(ref.Context(), err)
}

func (t Target) options() []remote.Option {
	return []remote.Option{remote.WithTransport(t.transport()), remote.WithAuthFromKeychain(t.keychain())}
}

// transport returns the target's transport, connected to another address if there is one.
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

// host is the registry's address as it is dialled, with its port.
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
