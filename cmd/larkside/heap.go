package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// limitHeap lowers GOGC while much is cached, until ctx is done. One constant
// fits no replica: 100, Go's default, takes 2.35 times the memory of 100,000
// users' tokens, and 25, which takes 1.67, costs a small busy process a third
// more CPU a request. GOGC of the operator wins; GOMEMLIMIT bounds the heap as
// it always does.
func limitHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for last := 100; ctx.Err() == nil; {
		metrics.Read(live)
		if p := gcPercent(live[0].Value.Uint64()); p != last { // setting it stops the world
			debug.SetGCPercent(p)
			last = p
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// gcPercent lets a heap of live bytes grow by 24 MiB between collections, but at
// most double and at least by an eighth.
func gcPercent(live uint64) int { return int(min(100, max(12, (24<<20)*100/max(1, live)))) }
