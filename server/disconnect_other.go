//go:build !unix

package main

// Disconnected always returns false on this platform: a closed connection is detected when the response
// is written.
func (c *conn) Disconnected() bool { return false }
