package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// refuseDumps keeps the secrets in this process's memory from other processes of
// its user and from core dumps: it can be neither dumped nor traced. A process
// with CAP_SYS_PTRACE can do both all the same. Where the system doesn't let it,
// all stays as it was.
func refuseDumps() { unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// narrowSocket gives a socket the mode that its file will have. Linux makes the
// file with the socket's mode, so it is never wider, not even until a chmod. The
// process's umask is left alone, since other files are made meanwhile.
func narrowSocket(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) })
	if err != nil {
		return err
	}
	return failed
}
