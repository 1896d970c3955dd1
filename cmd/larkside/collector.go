package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// With Go's default, GOGC=100, the heap may grow to twice of what is live. That
// is too little for a proxy that holds next to nothing, which then collects a
// dozen times a second under load, and too much for one that holds the tokens of
// 100,000 users. So the room that the heap has is set here, after each
// collection, by what is live; GOMEMLIMIT bounds it as it always does.

const (
	// busyRoom is what a heap that is collected often may grow by, and what a
	// larger one may at least.
	busyRoom = 24 << 20
	// largePart is the part of a large heap by which it may grow.
	largePart = 8
	// oftenWithin and rarelyAfter say when collections are frequent, and when
	// they have ceased to be.
	oftenWithin = 500 * time.Millisecond
	rarelyAfter = 10 * time.Second
)

// gcPercent is GOGC for a heap of which live bytes are in use.
func gcPercent(live uint64, busy bool) int {
	live = max(live, 1<<20)
	room := max(busyRoom, live/largePart)
	if !busy {
		room = min(room, live)
	}
	return int(room * 100 / live)
}

// collector sets GOGC after each collection.
type collector struct {
	last    time.Time
	busy    bool
	percent int
	set     func(percent int)
}

// after is told that a collection has ended at now, and returns what GOGC is to
// be.
func (c *collector) after(now time.Time, live uint64) int {
	switch since := now.Sub(c.last); {
	case since < oftenWithin:
		c.busy = true
	case since > rarelyAfter:
		c.busy = false
	}
	c.last = now
	return gcPercent(live, c.busy)
}

// tuneCollector begins to follow the process's collections. It leaves a GOGC
// that the operator has set alone.
var tuneCollector = sync.OnceFunc(func() {
	if os.Getenv("GOGC") != "" {
		return
	}
	follow(&collector{last: time.Now(), percent: 100, set: func(p int) { debug.SetGCPercent(p) }})
})

// mark becomes unreachable at once, so that its cleanup runs after the next
// collection. It has a pointer in it: what has none is allocated with others.
type mark struct{ _ *mark }

func follow(c *collector) {
	runtime.AddCleanup(new(mark), func(c *collector) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		// Setting it stops the world for a moment: not for nothing.
		if p := c.after(time.Now(), live[0].Value.Uint64()); p < c.percent*9/10 || p > c.percent*11/10 {
			c.percent = p
			c.set(p)
		}
		follow(c)
	}, c)
}
