package socket

import (
	"syscall"
	"unsafe"
)

// read and write are read(2) and write(2) of a socket that does not block, and
// of at least one byte. syscall.Read and syscall.Write would tell the scheduler.

func read(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_READ, fd, b) }

func write(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_WRITE, fd, b) }

func call(number, fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, syscall.EAGAIN // as a constant it allocates nothing
		default:
			return 0, errno
		}
	}
}
