package limit

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/cli"
)

// Clients identifies the client of a request, for rate limits and logs.
type Clients struct{ proxies []netip.Prefix }

// NewClients parses the networks of trusted proxies. The error lists all invalid ones.
func NewClients(proxies []string) (*Clients, error) {
	c := &Clients{}
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

func (s *Clients) trusted(ip netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// Addr returns the address of the request's client.
func (s *Clients) Addr(c *fiber.Ctx) netip.Addr {
	return s.Resolve(c.Context().RemoteAddr().String(), func() string {
		// Several header lines form one list (RFC 9110, section 5.3).
		return string(bytes.Join(c.Request().Header.PeekAll(fiber.HeaderXForwardedFor), []byte(",")))
	})
}

// Resolve returns the address of a client: the peer of the connection or, if that is a trusted proxy,
// the last address in the header X-Forwarded-For that isn't a trusted proxy. Addresses before that one
// are ignored, because a client can send any value.
func (s *Clients) Resolve(peer string, forwardedFor func() string) netip.Addr {
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

// Key returns the client's key for rate limits.
func (s *Clients) Key(c *fiber.Ctx) string { return ClientKey(s.Addr(c)) }

// ClientKey returns the key of a client for rate limits. IPv6 clients are identified by their /64
// network, because a single client usually controls all of it.
func ClientKey(ip netip.Addr) string {
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
