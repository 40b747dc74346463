//go:build !linux

package load

import (
	"context"
	"net/netip"
)

func closed(ctx context.Context, addr netip.AddrPort, request []byte, connections int, limit Limit) (*Run, error) {
	return goroutines(ctx, addr, request, connections, limit, nil)
}
