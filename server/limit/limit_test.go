package limit

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"fakeart/internal/imaging"
	"fakeart/server/failure"
)

func TestClients_Resolve(t *testing.T) {
	clients, err := NewClients([]string{"10.0.0.0/8", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, peer, forwarded, want string }{
		{"direct", "192.0.2.1:80", "", "192.0.2.1"},
		{"untrusted_peer", "192.0.2.1:80", "198.51.100.1", "192.0.2.1"},
		{"one_proxy", "10.0.0.1:80", "198.51.100.1", "198.51.100.1"},
		{"two_proxies", "10.0.0.1:80", "198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"spoofed", "10.0.0.1:80", "127.0.0.1, 198.51.100.1", "198.51.100.1"},
		{"invalid_address", "10.0.0.1:80", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"},
		{"IPv4_in_IPv6", "[::ffff:10.0.0.1]:80", "198.51.100.1", "198.51.100.1"},
		{"IPv6", "[fd00::1]:80", "2001:db8::1", "2001:db8::1"},
		{"no_header", "10.0.0.1:80", "", "10.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := clients.Resolve(test.peer, func() string { return test.forwarded }); got.String() != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
	if key := ClientKey(clients.Resolve("[2001:db8::1]:80", nil)); key != "2001:db8::/64" {
		t.Errorf("key %s", key)
	}
}

func isUnavailable(err error) bool { return errors.As(err, new(*failure.Unavailable)) }

func TestBodies_Reserve(t *testing.T) {
	b := NewBodies(1<<10, 1<<20)
	if held, err := b.Reserve(SmallBody); held != 0 || err != nil {
		t.Errorf("small body: %d, %v", held, err)
	}
	held, err := b.Reserve(math.MaxInt64)
	if held != 1<<20 || err != nil {
		t.Fatalf("more than all: %d, %v", held, err)
	}
	if _, err := b.Reserve(SmallBody + 1); !isUnavailable(err) {
		t.Errorf("no memory is left: %v", err)
	}
	b.Release(held)
	if held, err := b.Reserve(SmallBody + 1); held != SmallBody+1 || err != nil {
		t.Errorf("after Release: %d, %v", held, err)
	}
}

func TestMemory(t *testing.T) {
	m := NewMemory(8 << 20)
	large := imaging.Info{Memory: 6 << 20}
	release, err := m.Admit(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Admit(t.Context(), imaging.Info{Memory: smallImage}); err != nil {
		t.Errorf("small image: %v", err)
	}
	if _, err := m.Admit(t.Context(), imaging.Info{Memory: 8<<20 + 1}); !errors.Is(err, imaging.ErrTooLarge) {
		t.Errorf("more than all: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := m.Admit(ctx, large); !isUnavailable(err) {
		t.Errorf("no memory is left: %v", err)
	}
	release()
	if _, err := m.Admit(t.Context(), large); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestPool(t *testing.T) {
	closed := make(chan struct{})
	p := NewPool(closed, "a", "b")
	first, err := p.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := p.Take(t.Context()); err != nil || second == first || p.Idle() != 0 {
		t.Fatalf("%q, %q, %v, %d idle", first, second, err, p.Idle())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := p.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	close(closed)
	if _, err := p.Take(t.Context()); !isUnavailable(err) {
		t.Errorf("closed: %v", err)
	}
	p.Put(first)
	if again, err := p.Take(t.Context()); err != nil || again != first {
		t.Errorf("an idle value of a closed pool: %q, %v", again, err)
	}
}
