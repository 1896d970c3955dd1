//go:build unix && !linux

package socket

import "syscall"

// read and write are read(2) and write(2) of a socket that does not block.
// Elsewhere than on Linux the system's library is called, which needs the
// scheduler.

func read(fd uintptr, b []byte) (int, error) { return again(syscall.Read, fd, b) }

func write(fd uintptr, b []byte) (int, error) { return again(syscall.Write, fd, b) }

func again(call func(int, []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		if n, err := call(int(fd), b); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
