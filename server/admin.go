package main

import (
	"bytes"
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

// admins authorizes requests to the admin routes.
type admins struct {
	tokens []string
	file   string // file with additional tokens, or empty
}

// minToken is the length below which a token gets a warning at startup.
const minToken = 16

// newAdmins reads the token file once, so that an unreadable or empty file fails at startup.
func newAdmins(tokens []string, file string) (*admins, error) {
	a := &admins{tokens, file}
	all, err := a.current()
	if err != nil {
		return nil, err
	}
	if file != "" && len(all) == len(tokens) {
		return nil, fmt.Errorf("admin token file %s is empty\n"+cli.HintPrefix+"write one token per line", file)
	}
	if slices.ContainsFunc(all[:len(all)-len(tokens)], invalidToken) {
		return nil, fmt.Errorf("admin token file %s: %w", file, errInvalidToken)
	}
	return a, nil
}

// errInvalidToken is returned for a token that no request could contain.
var errInvalidToken = errors.New("a token contains characters that are invalid in an HTTP header\n" + cli.HintPrefix + "use only visible ASCII characters")

func invalidToken(token string) bool {
	return strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// current returns the tokens that are valid now. It reads the token file on each call.
func (a *admins) current() ([]string, error) {
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

// configured reports whether access requires a token.
func (a *admins) configured() bool { return len(a.tokens) > 0 || a.file != "" }

// hasShortToken reports whether a token is short enough to be guessed.
func (a *admins) hasShortToken() bool {
	all, _ := a.current()
	for _, t := range all {
		if len(t) < minToken {
			return true
		}
	}
	return false
}

// check returns nil if the request may use the admin routes, and otherwise an error with the HTTP
// status. If tokens are configured, the request must carry one (RFC 6750). Otherwise it must come
// from this machine.
func (a *admins) check(c *fiber.Ctx) error {
	if !a.configured() {
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

// clients identifies the client of a request, for rate limits and logs.
type clients struct{ proxies []netip.Prefix }

// newClients parses the networks of trusted proxies. The error lists all invalid ones.
func newClients(proxies []string) (*clients, error) {
	c := &clients{}
	var errs []error
	for _, text := range proxies {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() { // addresses of clients are never of this form
			errs = append(errs, fmt.Errorf("--trusted-proxy=%s: invalid network\n"+cli.HintPrefix+"use CIDR notation, such as 10.0.0.0/8", text))
		}
		c.proxies = append(c.proxies, p)
	}
	return c, errors.Join(errs...)
}

func (s *clients) trusted(ip netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// addr returns the address of the request's client.
func (s *clients) addr(c *fiber.Ctx) netip.Addr {
	return s.resolve(c.Context().RemoteAddr().String(), func() string {
		// Several header lines form one list (RFC 9110, section 5.3).
		return string(bytes.Join(c.Request().Header.PeekAll(fiber.HeaderXForwardedFor), []byte(",")))
	})
}

// resolve returns the address of a client: the peer of the connection or, if that is a trusted proxy,
// the last address in the header X-Forwarded-For that isn't a trusted proxy. Addresses before that one
// are ignored, because a client can send any value.
func (s *clients) resolve(peer string, forwardedFor func() string) netip.Addr {
	addr, _ := netip.ParseAddrPort(peer)
	ip := addr.Addr().Unmap()
	if len(s.proxies) == 0 || !s.trusted(ip) {
		return ip
	}
	hops := strings.Split(forwardedFor(), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		ip = hop.Unmap()
		if !s.trusted(ip) {
			break
		}
	}
	return ip
}

// key returns the client's key for rate limits.
func (s *clients) key(c *fiber.Ctx) string { return clientKey(s.addr(c)) }

// clientKey returns the key of a client for rate limits. IPv6 clients are identified by their /64
// network, because a single client usually controls all of it.
func clientKey(ip netip.Addr) string {
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
