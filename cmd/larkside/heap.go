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
// One constant fits no replica: with 100, Go's default, a quiet process with
// 100,000 users takes 2.35 times the memory of their tokens; with 12 a busy one
// spends half of its CPU on collections; and a small busy one spends a tenth more
// on each request with 100 than with 400. GOGC of the operator wins;
// GOMEMLIMIT bounds the heap as it always does.
func limitHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(heap)
	percent, before, perSecond := 100, heap[1].Value.Uint64(), uint64(0)
	for ctx.Err() == nil {
		allocated := heap[1].Value.Uint64()
		wasBusy := perSecond > leanGrowth
		// It falls within seconds, so that load may pause.
		perSecond = max(perSecond-perSecond/8, (allocated-before)*uint64(time.Second/heapPace))
		before = allocated
		if p := gcPercent(heap[0].Value.Uint64(), perSecond); p != percent { // setting it stops the world
			debug.SetGCPercent(p)
			percent = p
		}
		if wasBusy && perSecond <= leanGrowth {
			debug.FreeOSMemory() // a quiet process would keep its garbage for minutes
		}
		select {
		case <-ctx.Done():
		case <-time.After(heapPace):
		}
		metrics.Read(heap)
	}
}

// gcPercent lets a heap of live bytes grow between two collections by leanGrowth, or
// by what is allocated in a second if that is more: a collection of 100,000 users'
// sessions takes 80 ms of CPU. A large heap grows by an eighth at least and by three
// fifths at most: with more, tokens lie so scattered that the memory of a busy time
// can't be given back. A small one grows at most to five times its size.
func gcPercent(live, perSecond uint64) int {
	live = max(1, live)
	most := max(60, min(400, leanGrowth*100/live))
	return int(min(most, max(12, max(leanGrowth, perSecond)*100/live)))
}
