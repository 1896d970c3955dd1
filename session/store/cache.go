package store

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"larkside/session"
)

// cache is the LRU of access tokens. It is cut into shards because one LRU has
// one lock and every look-up moves an entry to the front: a lock that all users
// share would be the busiest of the process.
//
// Refresh tokens never enter it, so a stale entry can't spend one.
type cache struct {
	seed maphash.Seed
	// began is what times are counted from: a duration from there takes a third
	// of a time's memory and, like it, no notice of a clock that is set.
	began  time.Time
	shards []shard
	// epoch is what entries have to carry to count as checked. Raising it makes
	// every entry be looked up in the database again before it is trusted.
	epoch atomic.Int64
}

type shard struct {
	mu  sync.Mutex
	lru *simplelru.LRU[session.Key, entry]
	// removals counts remove calls, so that a row read before one is not
	// cached after it.
	removals int64
	_        [64]byte // keep neighbours off one cache line
}

// ticket is taken before a row is read and shown when it is cached.
type ticket struct{ epoch, removals int64 }

type entry struct {
	access *session.Access
	// checked is when the row was read, from the cache's beginning.
	checked time.Duration
	epoch   int64
}

const (
	maxShards     = 64
	leastPerShard = 256
)

// newCache holds at most size entries in all.
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
	return ticket{c.epoch.Load(), s.removals}
}

// put caches a, which was read under t. It reports whether another entry had to
// go for it.
func (c *cache) put(a *session.Access, now time.Time, t ticket) (evicted bool) {
	s := c.shard(a.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removals != t.removals {
		return false
	}
	if old, ok := s.lru.Peek(a.Key); ok && old.access.Version > a.Version {
		return false
	}
	return s.lru.Add(a.Key, entry{access: a, checked: now.Sub(c.began), epoch: t.epoch})
}

func (c *cache) remove(key session.Key) {
	s := c.shard(key)
	s.mu.Lock()
	s.removals++
	s.lru.Remove(key)
	s.mu.Unlock()
}

// distrust makes every entry be read again before it is served.
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
