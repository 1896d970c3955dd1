package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

func TestGCPercent(t *testing.T) {
	for _, tc := range []struct {
		live, allocated uint64 // in MiB, and MiB/s
		want            int
	}{
		{0, 0, 400}, {4, 0, 400}, {12, 0, 200}, {24, 0, 100}, {48, 0, 50}, {96, 0, 25}, {1200, 0, 12},
		{4, 1000, 400}, {12, 1000, 200}, {96, 24, 25}, {96, 48, 50}, {96, 1000, 60}, {1200, 300, 25}, {1200, 3000, 60},
	} {
		if got := gcPercent(tc.live<<20, tc.allocated<<20); got != tc.want {
			t.Errorf("%d MiB live, %d MiB/s: %d, want %d", tc.live, tc.allocated, got, tc.want)
		}
	}
}

// some escapes to the heap.
var some []byte

// GOGC follows the heap and what is allocated, both ways, and is left alone once
// the operator has set it.
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
		for range 12 {
			some = make([]byte, 1<<20)
		}
		time.Sleep(heapPace)
		synctest.Wait()
		if p := current(); p < 40 || p > 60 {
			t.Errorf("GOGC=%d with 96 MiB live and 12 MiB allocated in a quarter of a second, want 50 or so", p)
		}
		collections := func() uint64 {
			s := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
			metrics.Read(s)
			return s[0].Value.Uint64()
		}
		before := collections()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if p := current(); p > 25 {
			t.Errorf("GOGC=%d although nothing is allocated any more", p)
		}
		if n := collections() - before; n != 1 {
			t.Errorf("%d collections once it was quiet, want 1", n)
		}
		runtime.KeepAlive(many)
		many = nil
		runtime.GC()
		time.Sleep(heapPace)
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

// Load that stays about where busy begins costs no collection, and a look that comes
// late counts the time that has passed. What was busy is given back once.
func TestHeapTuner(t *testing.T) {
	const mib = 1 << 20
	var tuner heapTuner
	look := func(allocated uint64, since time.Duration) (percent int, quiet bool) {
		return tuner.look(200*mib, allocated, since)
	}
	if p, quiet := look(25*mib/2, 5*heapPace); p != 12 || quiet {
		t.Errorf("10 MiB/s: GOGC=%d, quiet %t", p, quiet)
	}
	for range 40 {
		for _, allocated := range []uint64{6.5 * mib, 5 * mib, 1 * mib} {
			if p, quiet := look(allocated, heapPace); p > 13 || quiet {
				t.Fatalf("26 MiB/s at most: GOGC=%d, quiet %t", p, quiet)
			}
		}
	}
	if p, _ := look(25*mib, heapPace); p != 50 {
		t.Errorf("100 MiB/s: GOGC=%d, want 50", p)
	}
	given := 0
	for range 200 {
		if _, quiet := look(0, heapPace); quiet {
			given++
		}
	}
	if given != 1 {
		t.Errorf("given back %d times, want once", given)
	}
}
