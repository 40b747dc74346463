// Package admin authorizes requests to the routes that administer the server. Call [New] with the
// configured tokens, and [Tokens.Check] for each request.
package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/cli"
)

// Tokens authorizes requests by bearer tokens or, if none are configured, by where they come from. It
// is safe for concurrent use.
type Tokens struct {
	tokens []string
	file   string // file with additional tokens, or empty
}

// MinLength is the length below which a token gets a warning at startup.
const MinLength = 16

// New returns the given tokens together with those in the file, one per line, unless its path is
// empty. It reads the file once, so that an unreadable or empty file fails at startup.
func New(tokens []string, file string) (*Tokens, error) {
	a := &Tokens{tokens, file}
	all, err := a.current()
	if err != nil {
		return nil, err
	}
	if file != "" && len(all) == len(tokens) {
		return nil, fmt.Errorf("admin token file %s is empty\n"+cli.HintPrefix+"write one token per line", file)
	}
	if err := CheckSyntax(all[:len(all)-len(tokens)]); err != nil {
		return nil, fmt.Errorf("admin token file %s: %w", file, err)
	}
	return a, nil
}

// CheckSyntax returns an error if no request could contain one of the tokens.
func CheckSyntax(tokens []string) error {
	if slices.ContainsFunc(tokens, func(token string) bool {
		return strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
	}) {
		return errors.New("a token contains characters that are invalid in an HTTP header\n" + cli.HintPrefix + "use only visible ASCII characters")
	}
	return nil
}

// current returns the tokens that are valid now. It reads the token file on each call.
func (a *Tokens) current() ([]string, error) {
	if a.file == "" {
		return a.tokens, nil
	}
	// A device or a pipe could block, or never end.
	if info, err := os.Stat(a.file); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read admin tokens: %s is not a regular file", a.file)
	}
	text, err := os.ReadFile(a.file)
	if err != nil {
		return nil, fmt.Errorf("read admin tokens: %w", err)
	}
	return append(strings.Fields(string(text)), a.tokens...), nil
}

// Configured reports whether access requires a token.
func (a *Tokens) Configured() bool { return len(a.tokens) > 0 || a.file != "" }

// HasShort reports whether a token is short enough to be guessed.
func (a *Tokens) HasShort() bool {
	all, _ := a.current()
	for _, t := range all {
		if len(t) < MinLength {
			return true
		}
	}
	return false
}

// Check returns nil if the request may use the admin routes, and otherwise an error with the HTTP
// status. If tokens are configured, the request must carry one (RFC 6750). Otherwise it must come
// from this machine.
func (a *Tokens) Check(c *fiber.Ctx) error {
	if !a.Configured() {
		if isLocal(c) {
			return nil
		}
		return fiber.NewError(fiber.StatusForbidden, "without an admin token, admin routes accept only requests from the loopback interface; set FAKEART_ADMIN_TOKEN")
	}
	scheme, token, _ := strings.Cut(c.Get(fiber.HeaderAuthorization), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="fakeart"`)
		return fiber.NewError(fiber.StatusUnauthorized, "this route requires an admin token; send the header Authorization: Bearer TOKEN")
	}
	all, err := a.current()
	if err != nil {
		return err
	}
	// Digests all have the same length, so the time of the comparison doesn't reveal the length
	// of a token.
	given, match := sha256.Sum256([]byte(strings.TrimSpace(token))), 0
	for _, t := range all {
		known := sha256.Sum256([]byte(t))
		match |= subtle.ConstantTimeCompare(given[:], known[:])
	}
	if match == 0 {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="fakeart", error="invalid_token"`)
		return fiber.NewError(fiber.StatusUnauthorized, "the admin token is invalid or has been revoked")
	}
	return nil
}

// isLocal reports whether the request originates on this machine. It rejects requests forwarded
// by a local proxy, and requests from a web page whose host name was made to resolve to this
// machine (DNS rebinding).
func isLocal(c *fiber.Ctx) bool {
	for _, addr := range []net.Addr{c.Context().RemoteAddr(), c.Context().LocalAddr()} {
		ip, err := netip.ParseAddrPort(addr.String())
		if err != nil || !ip.Addr().Unmap().IsLoopback() {
			return false
		}
	}
	for _, header := range []string{fiber.HeaderXForwardedFor, fiber.HeaderForwarded, fiber.HeaderVia, "X-Real-Ip", fiber.HeaderXForwardedHost} {
		if len(c.Request().Header.PeekAll(header)) > 0 {
			return false
		}
	}
	// CORS may allow a page of another origin to use the API, but not to administer it.
	for _, origin := range c.Request().Header.PeekAll(fiber.HeaderOrigin) {
		if string(origin) != "http://"+string(c.Request().Header.Host()) {
			return false
		}
	}
	host := string(c.Request().Header.Host())
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}
