//go:build !linux

package listen

import "net"

// drainBacklog does nothing on this platform: connections in the backlog are reset.
func drainBacklog(*net.TCPListener) []net.Conn { return nil }
