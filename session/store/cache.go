package store

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"larkside/session"
)

// cache is the LRU of access tokens. It has shards, since an LRU has one lock
// and every look-up moves an entry to the front: a lock that all users share
// would be the busiest of the process.
//
// Refresh tokens never enter it, so a stale entry can't spend one.
type cache struct {
	seed maphash.Seed
	// began is what an entry's time counts from. A duration takes a third of
	// the memory of a time.Time, and does not change when the clock is set.
	began  time.Time
	shards []shard
	// epoch is the epoch of the entries that count as checked. Raising it makes
	// every entry be checked against the database before it is served.
	epoch atomic.Int64
}

type shard struct {
	mu  sync.Mutex
	lru *simplelru.LRU[session.Key, entry]
	// news counts the changes that were heard of or stored. A row that was read
	// before a change may be older than what is cached.
	news int64
	_    [64]byte // keeps the shards on cache lines of their own
}

// ticket is taken before a statement, and shown when its row is cached.
type ticket struct{ epoch, news int64 }

type entry struct {
	access *session.Access
	// checked is when the row was read, counted from the cache's beginning.
	checked time.Duration
	epoch   int64
}

// unchecked is the epoch of an entry that is served only if the database
// confirms it or is down.
const unchecked = -1

const (
	maxShards     = 64
	leastPerShard = 256
)

// newCache returns a cache for size entries.
func newCache(size int) (*cache, error) {
	n := min(maxShards, max(1, size/leastPerShard))
	c := &cache{seed: maphash.MakeSeed(), began: time.Now(), shards: make([]shard, n)}
	for i := range c.shards {
		share := size / n
		if i < size%n {
			share++
		}
		lru, err := simplelru.NewLRU[session.Key, entry](max(1, share), nil)
		if err != nil {
			return nil, err
		}
		c.shards[i].lru = lru
	}
	return c, nil
}

func (c *cache) shard(key session.Key) *shard {
	return &c.shards[maphash.Comparable(c.seed, key)%uint64(len(c.shards))]
}

func (c *cache) get(key session.Key) (entry, bool) {
	s := c.shard(key)
	s.mu.Lock()
	e, ok := s.lru.Get(key)
	s.mu.Unlock()
	return e, ok
}

func (c *cache) ticket(key session.Key) ticket {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return ticket{c.epoch.Load(), s.news}
}

// replace caches a, the row of a statement for which t was taken; wrote says
// that the statement wrote it. It reports whether another entry was evicted.
//
// Without news since t, a is the newest. With news, the row of a read may be
// older than the news, so it is not cached. The row of a write is cached unless
// a newer version is, but unchecked: nothing tells the order of two rows of one
// version.
func (c *cache) replace(a *session.Access, t ticket, wrote bool, now time.Time) (evicted bool) {
	s := c.shard(a.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := entry{access: a, checked: now.Sub(c.began), epoch: t.epoch}
	if s.news != t.news {
		old, ok := s.lru.Peek(a.Key)
		if !wrote || ok && old.access.Version > a.Version {
			return false
		}
		e.epoch = unchecked
	}
	if wrote {
		s.news++
	}
	return s.lru.Add(a.Key, e)
}

// heard takes the news that key's session has a version and a state. An entry
// that differs is removed. News that came late, and is older than the entry,
// keeps the entry, which is then checked before it is served. If it were
// removed, the row of an older write that is late too could take its place.
func (c *cache) heard(key session.Key, version int64, state session.State) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news++
	switch e, ok := s.lru.Peek(key); {
	case !ok || e.access.Version == version && e.access.State == state:
	case e.access.Version > version:
		e.epoch = unchecked
		s.lru.Add(key, e)
	default:
		s.lru.Remove(key)
	}
}

// absent removes the entry of key because a read, for which t was taken, found
// no row.
func (c *cache) absent(key session.Key, t ticket) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news == t.news {
		s.lru.Remove(key)
	}
}

// distrust makes every entry be checked against the database before it is
// served.
func (c *cache) distrust() { c.epoch.Add(1) }

func (c *cache) len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += c.shards[i].lru.Len()
		c.shards[i].mu.Unlock()
	}
	return n
}
