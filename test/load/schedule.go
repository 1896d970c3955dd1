package main

import (
	"runtime"
	"syscall"
	"time"
)

// schedule says when each request of an open loop is meant to be sent.
type schedule struct {
	start time.Time
	// rate is in requests per second.
	rate float64
}

// at is when request i, from 0, is due. It depends on nothing but i: a request
// that is late does not move those behind it.
func (s schedule) at(i int) time.Time {
	return s.start.Add(time.Duration(float64(i) / s.rate * float64(time.Second)))
}

// count is how many requests are due within length.
func (s schedule) count(length time.Duration) int { return int(s.rate * length.Seconds()) }

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
