package publish

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// patience is how long a registry may take to answer [Target.CheckPush] for one repository.
const patience = time.Minute

// CheckPush returns an error unless the registry accepts pushes to the programs' repositories. It starts an
// upload to each and cancels it, so call it before the work that a refused push would waste.
func (t Target) CheckPush(ctx context.Context, programs []string) error {
	for _, program := range programs {
		repo, err := t.repository(program)
		if err != nil {
			return err
		}
		if err := t.checkPush(ctx, repo); err != nil {
			return t.explain(repo, fmt.Errorf("push to %s: %w", repo, err))
		}
	}
	return nil
}

func (t Target) checkPush(ctx context.Context, repo name.Repository) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v: %w", patience, context.DeadlineExceeded))
	defer cancel()
	err := remote.CheckPushPermission(repo.Tag("latest"), t.keychain(), transport.NewRetry(bound{ctx, t.transport()}))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// bound is a transport whose requests end with a context.
type bound struct {
	ctx  context.Context // because the library's call takes none
	base http.RoundTripper
}

func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodDelete {
		return b.base.RoundTrip(r) // cancels the upload, when the call has ended
	}
	return b.base.RoundTrip(r.WithContext(b.ctx))
}

// keychain has the target's credentials, or those of `docker login`.
func (t Target) keychain() authn.Keychain {
	if t.Username == "" {
		return authn.DefaultKeychain
	}
	return fixed{&authn.Basic{Username: t.Username, Password: t.Password}}
}

type fixed struct{ authn.Authenticator }

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) { return f.Authenticator, nil }

// explain adds to the error of a registry what to do.
func (t Target) explain(repo name.Repository, err error) error {
	host := repo.RegistryStr()
	var (
		refused   *transport.Error
		authority x509.UnknownAuthorityError
		network   net.Error
		hint      string
	)
	switch {
	case errors.As(err, &refused):
		switch refused.StatusCode {
		case http.StatusUnauthorized:
			hint = fmt.Sprintf("%s needs other credentials: set --registry-username and --registry-password, or without Dagger run `docker login %s`", host, host)
		case http.StatusForbidden:
			hint = fmt.Sprintf("give the account access to %s, on Google Cloud with roles/artifactregistry.writer, or use other credentials: --registry-username and --registry-password, or without Dagger `docker login %s`", repo, host)
		case http.StatusNotFound:
			hint = fmt.Sprintf("check the name, and that %s has such a repository", host)
		}
	case errors.As(err, &authority):
		hint = fmt.Sprintf("trust the authority of %s: add its certificate with --ca-bundle, or without Dagger to the system's", host)
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		hint = fmt.Sprintf("check the name, and that the registry %s runs", host)
		if t.Dial != "" {
			hint += " where --registry-service says"
		} else if repo.Scheme() == "http" {
			hint += "; on the machine's own loopback, Dagger also needs --registry-service=tcp://" + t.host()
		}
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w\nhint: %s", err, hint)
}

// CheckKey returns an error unless text is a private key in the form that cosign signs with. Whether a password
// decrypts it, only cosign can say.
func CheckKey(text string) error {
	block, _ := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return errors.New("the signing key isn't in PEM\nhint: make one with `cosign generate-key-pair`, and pass the content of cosign.key")
	case block.Type != "ENCRYPTED SIGSTORE PRIVATE KEY" && block.Type != "ENCRYPTED COSIGN PRIVATE KEY":
		return fmt.Errorf("the signing key is a %q in PEM, not a private key of cosign\nhint: import it with `cosign import-key-pair`, or pass the content of cosign.key", block.Type)
	}
	return nil
}

// CheckToken returns an error unless text is an OpenID Connect token that is valid at the time.
func CheckToken(text string, now time.Time) error {
	const hint = "\nhint: pass the token itself, new from its issuer, with the audience sigstore"
	parts := strings.Split(strings.TrimSpace(text), ".")
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if len(parts) != 3 {
		return errors.New("the identity token isn't a JSON Web Token" + hint)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return errors.New("the identity token isn't a JSON Web Token" + hint)
	}
	if end := time.Unix(int64(claims.Expires), 0); now.After(end) {
		return fmt.Errorf("the identity token expired at %s%s", end.UTC().Format(time.RFC3339), hint)
	}
	return nil
}
