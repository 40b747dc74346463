//go:build !unix

package listen

// Disconnected always returns false on this platform: a closed connection is detected when the response
// is written.
func (c *Conn) Disconnected() bool { return false }
