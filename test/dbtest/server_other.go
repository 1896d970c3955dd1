//go:build !unix

package dbtest

import "os/exec"

// runAs does nothing: only root needs another user for the server.
func runAs(*exec.Cmd, int, int) {}
