//go:build offline

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/publish/registrytest"
)

// signingKey returns a secret in the format of a private cosign key.
func signingKey() *dagger.Secret {
	const kind = "ENCRYPTED SIGSTORE PRIVATE KEY-----"
	return dag.SetSecret("key", "-----BEGIN "+kind+"\nAAAA\n-----END "+kind+"\n")
}

// identityToken returns an OpenID Connect token that expires after a time.
func identityToken(after time.Duration) *dagger.Secret {
	claims := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(after).Unix())
	return dag.SetSecret("token", "e30."+base64.RawURLEncoding.EncodeToString([]byte(claims))+".AA")
}

// TestEarlyFailures checks that a push or a signature that would fail is reported before the work
// starts.
func TestEarlyFailures(t *testing.T) {
	password := dag.SetSecret("password", "x")
	publish := func(key, password, token *dagger.Secret) func(context.Context, *Fakeart) error {
		return func(ctx context.Context, m *Fakeart) error {
			_, err := m.Publish(ctx, key, password, token)
			return err
		}
	}
	all := map[string]func(context.Context, *Fakeart) error{
		"pipeline": func(ctx context.Context, m *Fakeart) error {
			_, err := m.Pipeline(ctx)
			return err
		},
		"run": func(ctx context.Context, m *Fakeart) error {
			_, err := m.Run(ctx)
			return err
		},
		"publish": publish(nil, nil, nil),
		"promote": func(ctx context.Context, m *Fakeart) error {
			_, err := m.Promote(ctx, "127.0.0.1:1/dev/server@sha256:"+strings.Repeat("1", 64))
			return err
		},
	}
	signing := func(key, password, token *dagger.Secret) map[string]func(context.Context, *Fakeart) error {
		return map[string]func(context.Context, *Fakeart) error{"publish": publish(key, password, token)}
	}
	for _, c := range []struct {
		name   string
		calls  map[string]func(context.Context, *Fakeart) error
		status int
		change func(*engine, *Fakeart)
		want   []string
	}{
		{"unauthorized", all, http.StatusUnauthorized, nil, []string{"push to HOST/fakeart/server: ", "hint: HOST requires other credentials"}},
		{"forbidden", all, http.StatusForbidden, nil, []string{"push to HOST/fakeart/server: ", "hint: give the account access to HOST/fakeart/server, "}},
		{"unreachable_registry", all, 0, func(_ *engine, m *Fakeart) { m.Registry = "127.0.0.1:1/fakeart" }, []string{
			"push to 127.0.0.1:1/fakeart/server: ", "Dagger also needs --registry-service=tcp://127.0.0.1:1",
		}},
		{"unreachable_service", all, 0, func(e *engine, m *Fakeart) {
			e.service, m.RegistryService = "127.0.0.1:1", dag.Address("tcp://127.0.0.1:1").Service()
		}, []string{"push to HOST/fakeart/server: ", "hint: check the registry's name, and that HOST is running at the address of --registry-service"}},
		{"key_in_other_format", signing(password, password, nil), 0, nil, []string{"step signing key failed: the signing key isn't in PEM format\nhint: "}},
		{"key_with_other_password", signing(signingKey(), password, nil), 0, func(e *engine, _ *Fakeart) { e.fail = "cosign public-key" }, []string{
			"step signing key failed: read the signing key: cosign public-key --key /run/cosign.key: exit code 2\nhint: check that --signing-password",
		}},
		{"token_in_other_format", signing(nil, nil, password), 0, nil, []string{"step signing key failed: the identity token isn't a JSON Web Token"}},
		{"expired_token", signing(nil, nil, identityToken(-time.Hour)), 0, nil, []string{"step signing key failed: the identity token expired at "}},
	} {
		for name, call := range c.calls {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				e := start(t)
				host, tags := registrytest.Serve(t, func(*http.Request) int { return c.status })
				m := module(to(host+"/fakeart", "latest"))
				if c.change != nil {
					c.change(e, m)
				}
				err := call(t.Context(), m)
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range append(c.want, "step ", " failed: ") {
					if want = strings.ReplaceAll(want, "HOST", host); !strings.Contains(shown(err), want) {
						t.Errorf("error %v, want %q", shown(err), want)
					}
				}
				for _, command := range e.ran() {
					if strings.HasPrefix(command, "make ") {
						t.Errorf("command %s ran", command)
					}
				}
				if got := tags(); len(got) > 0 {
					t.Errorf("tags %v", got)
				}
			})
		}
	}
}

// TestInfra_invalidStack checks that an invalid stack is reported before the Pulumi tools are built.
func TestInfra_invalidStack(t *testing.T) {
	e := start(t)
	e.fail = "make infra-ready STACK=none"
	_, err := module().InfraPreview(t.Context(), "none", nil, "", nil, nil)
	if err == nil || !strings.HasSuffix(shown(err), "step infra-preview failed: make infra-ready STACK=none: exit code 2") {
		t.Errorf("error %v", err)
	}
	for _, command := range e.ran() {
		if strings.Contains(command, "pulumi") {
			t.Errorf("command %s ran", command)
		}
	}
}
