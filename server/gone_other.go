//go:build !unix

package main

// Gone would tell whether the client has closed the connection; here that is found
// out when the answer is written.
func (c *conn) Disconnected() bool { return false }
