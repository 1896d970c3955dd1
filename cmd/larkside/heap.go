package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// leanGrowth is by how many bytes the heap may grow between two collections in a
	// quiet process.
	leanGrowth = 24 << 20
	// heapPace is how often the heap is looked at.
	heapPace = 250 * time.Millisecond
)

// limitHeap sets GOGC by what is live and how much is allocated, until ctx is done.
// No constant fits every replica. With 100, Go's default, a quiet process with
// 100,000 users takes 2.35 times the memory of their tokens. With 12 a busy one
// spends half of its CPU on collections. A small busy one spends a tenth more on
// each request with 100 than with 400. GOGC of the operator wins; GOMEMLIMIT bounds
// the heap as it always does.
func limitHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(heap)
	var t heapTuner
	allocated, looked := heap[1].Value.Uint64(), time.Now()
	for ctx.Err() == nil {
		percent, quiet := t.look(heap[0].Value.Uint64(), heap[1].Value.Uint64()-allocated, time.Since(looked))
		allocated, looked = heap[1].Value.Uint64(), time.Now()
		debug.SetGCPercent(percent)
		if quiet {
			debug.FreeOSMemory() // the process would keep its garbage for minutes
		}
		select {
		case <-ctx.Done():
		case <-time.After(heapPace):
		}
		metrics.Read(heap)
	}
}

// heapTuner decides how much the heap may grow.
type heapTuner struct {
	// rate is the bytes that are allocated in a second. It rises at once and falls
	// slowly, so that a pause in the load is not yet quiet.
	rate float64
	// wasBusy says that the heap has grown by more than in a quiet process, and
	// nothing was given back since.
	wasBusy bool
}

// look is told what is live and what was allocated since the last look. It returns
// GOGC, and whether a process that was busy has become quiet.
func (t *heapTuner) look(live, allocated uint64, since time.Duration) (percent int, quiet bool) {
	t.rate = max(t.rate*7/8, float64(allocated)/max(since, heapPace).Seconds())
	switch {
	case t.rate > leanGrowth:
		t.wasBusy = true
	case t.wasBusy && t.rate < leanGrowth/8: // far below, so that load near leanGrowth/s costs no collections
		t.wasBusy, quiet = false, true
	}
	return gcPercent(live, uint64(t.rate)), quiet
}

// gcPercent lets a heap of live bytes grow between two collections by leanGrowth, or
// by what is allocated in a second if that is more: a collection of 100,000 users'
// sessions takes 80 ms of CPU. But from 40 MiB on it grows by 12 % at least and by
// 60 % at most: with more, tokens lie so scattered that the memory of a busy time
// can't be given back. Below that it grows at most fourfold.
func gcPercent(live, perSecond uint64) int {
	live = max(1, live)
	most := max(60, min(400, leanGrowth*100/live))
	return int(min(most, max(12, max(leanGrowth, perSecond)*100/live)))
}
