//go:build !linux

package main

import "syscall"

// refuseDumps is for Linux only.
func refuseDumps() {}

// narrowSocket is for Linux only. Elsewhere the umask counts until the chmod.
func narrowSocket(string, string, syscall.RawConn) error { return nil }
