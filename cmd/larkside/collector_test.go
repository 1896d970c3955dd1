package main

import (
	"runtime"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		busy bool
		want int
	}{
		{0, false, 100},
		{6 << 20, false, 100},
		{6 << 20, true, 400},
		{24 << 20, false, 100},
		{24 << 20, true, 100},
		{96 << 20, false, 25},
		{96 << 20, true, 25},
		{240 << 20, true, 12},
		{1200 << 20, false, 12},
	} {
		if got := gcPercent(c.live, c.busy); got != c.want {
			t.Errorf("%d MiB live, busy %v: %d, want %d", c.live>>20, c.busy, got, c.want)
		}
	}
}

// A process is busy once collections follow quickly, stays so while they are
// merely regular, and is not when they have become rare.
func TestCollectorBusy(t *testing.T) {
	now := time.Unix(0, 0)
	c := &collector{last: now}
	for i, step := range []struct {
		since time.Duration
		want  int
	}{{time.Minute, 100}, {5 * time.Second, 100}, {100 * time.Millisecond, 400}, {3 * time.Second, 400}, {2 * time.Minute, 100}} {
		now = now.Add(step.since)
		if got := c.after(now, 6<<20); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

// Every collection is followed, not the first one only.
func TestCollectorFollows(t *testing.T) {
	seen := make(chan int)
	c := &collector{last: time.Now()}
	c.set = func(p int) {
		c.percent = 0 // so that the next one is set again
		select {
		case seen <- p:
		case <-t.Context().Done(): // cleanups are not to wait for one another
		}
	}
	follow(c)
	for range 3 {
		runtime.GC()
		if p := <-seen; p < 1 {
			t.Errorf("GOGC=%d", p)
		}
	}
}
