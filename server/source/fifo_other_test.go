//go:build !unix

package source

import "testing"

// mkfifo does nothing on systems without FIFOs in directories.
func mkfifo(*testing.T, string) {}
