package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 4 << 20: 400, 12 << 20: 200, 24 << 20: 100, 48 << 20: 50, 96 << 20: 25, 1200 << 20: 12} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d MiB live: %d, want %d", live>>20, got, want)
		}
	}
}

// GOGC follows the heap, both ways, and is left alone once the operator has set it.
func TestLimitHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	current := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		many := make([]byte, 96<<20)
		runtime.GC()
		go limitHeap(ctx)
		synctest.Wait()
		if p := current(); p < 12 || p > 25 {
			t.Errorf("GOGC=%d with 96 MiB live, want 25 or less", p)
		}
		runtime.KeepAlive(many)
		many = nil
		runtime.GC()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p := current(); p < 50 {
			t.Errorf("GOGC=%d after most has been freed", p)
		}
		cancel()
		synctest.Wait()
	})
	t.Setenv("GOGC", "33")
	debug.SetGCPercent(33)
	limitHeap(t.Context()) // returns at once
	if p := current(); p != 33 {
		t.Errorf("GOGC=%d, the operator's is 33", p)
	}
}
