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

// checkTimeout limits [Target.CheckPush] for one repository.
const checkTimeout = time.Minute

// CheckPush returns an error if the registry rejects pushes to the programs' repositories. It
// starts an upload to each repository and cancels it. Call it before builds, so that missing
// permissions are reported early.
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
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no response within %v: %w", checkTimeout, context.DeadlineExceeded))
	defer cancel()
	err := remote.CheckPushPermission(repo.Tag("latest"), t.keychain(), transport.NewRetry(contextTransport{ctx, t.transport()}))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// contextTransport is a transport that cancels its requests when ctx is done.
type contextTransport struct {
	ctx  context.Context // in the struct because remote.CheckPushPermission takes none
	base http.RoundTripper
}

func (b contextTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodDelete {
		return b.base.RoundTrip(r) // cancels the upload, even if ctx is done
	}
	return b.base.RoundTrip(r.WithContext(b.ctx))
}

// keychain returns the target's credentials, or those of `docker login` if it has none.
func (t Target) keychain() authn.Keychain {
	if t.Username == "" {
		return authn.DefaultKeychain
	}
	return fixedKeychain{&authn.Basic{Username: t.Username, Password: t.Password}}
}

// fixedKeychain returns the same credentials for every registry.
type fixedKeychain struct{ authn.Authenticator }

func (f fixedKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return f.Authenticator, nil
}

// explain adds a hint to an error of a registry, if it knows one. It returns nil if err is nil.
func (t Target) explain(repo name.Repository, err error) error {
	host := repo.RegistryStr()
	var (
		response  *transport.Error
		authority x509.UnknownAuthorityError
		network   net.Error
		hint      string
	)
	switch {
	case errors.As(err, &response):
		switch response.StatusCode {
		case http.StatusUnauthorized:
			hint = fmt.Sprintf("%s requires other credentials: set --registry-username and --registry-password, or without Dagger run `docker login %s`", host, host)
		case http.StatusForbidden:
			hint = fmt.Sprintf("give the account access to %s, on Google Cloud with roles/artifactregistry.writer, or use other credentials: --registry-username and --registry-password, or without Dagger `docker login %s`", repo, host)
		case http.StatusNotFound:
			hint = fmt.Sprintf("check the repository's name, and create it on %s if it doesn't exist", host)
		}
	case errors.As(err, &authority):
		hint = fmt.Sprintf("trust the certificate authority of %s: pass its certificate with --ca-bundle, or without Dagger add it to the system's", host)
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		hint = fmt.Sprintf("check the registry's name, and that %s is running", host)
		if t.Dial != "" {
			hint += " at the address of --registry-service"
		} else if repo.Scheme() == "http" {
			hint += "; for a registry on the machine's loopback interface, Dagger also needs --registry-service=tcp://" + t.host()
		}
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w\nhint: %s", err, hint)
}

// CheckKey returns an error if text isn't a private key in cosign's format. It doesn't check the key's
// password.
func CheckKey(text string) error {
	block, _ := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return errors.New("the signing key isn't in PEM format\nhint: create one with `cosign generate-key-pair`, and pass the content of cosign.key")
	case block.Type != "ENCRYPTED SIGSTORE PRIVATE KEY" && block.Type != "ENCRYPTED COSIGN PRIVATE KEY":
		return fmt.Errorf("the signing key is a PEM block of type %q, not a private cosign key\nhint: import it with `cosign import-key-pair`, or pass the content of cosign.key", block.Type)
	}
	return nil
}

// CheckToken returns an error if text isn't an OpenID Connect token or if it has expired at the
// time now. It doesn't verify the token's signature.
func CheckToken(text string, now time.Time) error {
	const hint = "\nhint: pass the token itself, not a file name, just issued for the audience sigstore"
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
