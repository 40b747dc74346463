package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// admins decides who may use the administrator's routes.
type admins struct {
	tokens []string
	file   string // with more of them; empty without one
}

// minToken is the length below which a token is called short at the start.
const minToken = 16

// newAdmins reads the tokens once, so that a file that cannot be read is known at
// the start.
func newAdmins(tokens []string, file string) (*admins, error) {
	a := &admins{tokens, file}
	all, err := a.all()
	if err != nil {
		return nil, err
	}
	if file != "" && len(all) == len(tokens) {
		return nil, fmt.Errorf("administrators' tokens: %s holds none; write one a line", file)
	}
	return a, nil
}

// all are the tokens of this moment.
func (a *admins) all() ([]string, error) {
	if a.file == "" {
		return a.tokens, nil
	}
	text, err := os.ReadFile(a.file)
	if err != nil {
		return nil, fmt.Errorf("administrators' tokens: %w", err)
	}
	return append(strings.Fields(string(text)), a.tokens...), nil
}

// configured tells whether there is any token.
func (a *admins) configured() bool { return len(a.tokens) > 0 || a.file != "" }

// short tells whether a token can be guessed.
func (a *admins) short() bool {
	all, _ := a.all()
	for _, t := range all {
		if len(t) < minToken {
			return true
		}
	}
	return false
}

// check lets a request of an administrator pass. With tokens it must carry one
// (RFC 6750); without any, it must come from this machine itself.
func (a *admins) check(c *fiber.Ctx) error {
	if !a.configured() {
		if local(c) {
			return nil
		}
		return fiber.NewError(fiber.StatusForbidden, "the administrator's routes are open on the loopback interface alone as long as no token is configured; set FAKEART_ADMIN_TOKEN")
	}
	scheme, token, _ := strings.Cut(c.Get(fiber.HeaderAuthorization), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="fakeart"`)
		return fiber.NewError(fiber.StatusUnauthorized, "this route is the administrator's; send the header Authorization: Bearer TOKEN")
	}
	all, err := a.all()
	if err != nil {
		return err
	}
	// Digests have one length, so that the comparison does not tell that of a token.
	given, match := sha256.Sum256([]byte(strings.TrimSpace(token))), 0
	for _, t := range all {
		known := sha256.Sum256([]byte(t))
		match |= subtle.ConstantTimeCompare(given[:], known[:])
	}
	if match == 0 {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="fakeart", error="invalid_token"`)
		return fiber.NewError(fiber.StatusUnauthorized, "the token is not valid (any more)")
	}
	return nil
}

// local tells whether the request comes from this machine and from no further: not
// through a proxy on it, and not from a web page whose host name was made to point
// here.
func local(c *fiber.Ctx) bool {
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
	// Nor from a page of another origin, which CORS may let read the API.
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

// clients tells requests' clients apart.
type clients struct{ proxies []netip.Prefix }

func newClients(proxies []string) *clients {
	c := &clients{}
	for _, p := range proxies {
		c.proxies = append(c.proxies, netip.MustParsePrefix(p)) // Config.Validate has seen it
	}
	return c
}

func (s *clients) trusted(ip netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// of returns the address of the request's client: that of the connection, or, when
// it is a trusted proxy's, the last one in X-Forwarded-For that is none. What a
// client itself writes there stands before that, and is not believed.
func (s *clients) of(c *fiber.Ctx) netip.Addr {
	peer, _ := netip.ParseAddrPort(c.Context().RemoteAddr().String())
	ip := peer.Addr().Unmap()
	if len(s.proxies) == 0 || !s.trusted(ip) {
		return ip
	}
	// Several lines of it are one list (RFC 9110, section 5.3).
	hops := strings.Split(string(bytes.Join(c.Request().Header.PeekAll(fiber.HeaderXForwardedFor), []byte(","))), ",")
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

// key names the client for a limit: an IPv6 client has a whole network of 64 bits.
func (s *clients) key(c *fiber.Ctx) string {
	ip := s.of(c)
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
