package main

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// dieWithParent makes cmd end with this process, whatever becomes of that.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// precise gives the calling goroutine a thread of its own, whose sleeps end
// when they should. Go's timers wait in epoll, by the millisecond, which is ten
// times what is to be measured; the kernel adds 50 µs of slack of its own.
func precise() {
	runtime.LockOSThread()
	const setTimerSlack = 29 // PR_SET_TIMERSLACK, prctl(2); in nanoseconds
	syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
}

// sleepUntil returns at t or after it. The caller is [precise].
func sleepUntil(t time.Time) {
	for wait := time.Until(t); wait > 0; wait = time.Until(t) {
		ts := syscall.NsecToTimespec(int64(wait))
		syscall.Nanosleep(&ts, nil) // a signal ends it early: hence the loop
	}
}
