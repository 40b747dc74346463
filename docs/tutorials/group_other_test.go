//go:build !unix

package tutorials

import "os/exec"

func alone(*exec.Cmd) {}

func end(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
