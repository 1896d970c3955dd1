package main

import (
	"os/exec"
	"syscall"
	"time"
)

// endWithParent makes cmd end with this process, even when that is killed.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// sleep is more exact than time.Sleep, and takes a thread.
func sleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	syscall.Nanosleep(&ts, nil) // a signal may end it early: one request comes too soon
}
