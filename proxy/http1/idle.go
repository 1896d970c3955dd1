package http1

import (
	"sync/atomic"
	"time"
)

// keep makes c available to the next request.
func (t *Transport) keep(c *conn) {
	if t.c.IdleTimeout <= 0 || c.epoch != t.epoch.Load() || !t.idle.push(c, t.c.MaxIdle) {
		c.close()
		return
	}
	if t.reaping.CompareAndSwap(false, true) {
		time.AfterFunc(t.c.IdleTimeout, t.reap)
	}
}

// reap closes what has been idle for too long, at most half as long again.
func (t *Transport) reap() {
	t.reaping.Store(false)
	t.idle.closeOlder(t.c.IdleTimeout)
	if t.idle.size.Load() > 0 && t.reaping.CompareAndSwap(false, true) {
		time.AfterFunc(max(t.c.IdleTimeout/2, time.Millisecond), t.reap)
	}
}

// CloseIdleConnections closes the connections that no request is using. Those
// that one is using now are closed after it.
func (t *Transport) CloseIdleConnections() {
	t.epoch.Add(1)
	t.idle.closeOlder(0)
	if f, ok := t.c.Fallback.(interface{ CloseIdleConnections() }); ok {
		f.CloseIdleConnections()
	}
}

// stack holds the idle connections, the last one used on top. It has no lock
// that all requests would share. A node is never used again, and its address
// not as long as somebody holds it, so that an old top can't be mistaken for a
// new one; whoever swaps its connection out owns that. What closeOlder leaves
// is empty nodes, fewer than there were connections: a new one is made only
// when the stack is empty.
type stack struct {
	top  atomic.Pointer[node]
	size atomic.Int64 // of connections, not nodes
}

type node struct {
	c     atomic.Pointer[conn]
	since time.Time
	next  *node
}

// push reports false if there are enough.
func (s *stack) push(c *conn, most int) bool {
	if s.size.Add(1) > int64(most) {
		s.size.Add(-1)
		return false
	}
	n := &node{since: time.Now()}
	n.c.Store(c)
	for {
		n.next = s.top.Load()
		if s.top.CompareAndSwap(n.next, n) {
			return true
		}
	}
}

// pop returns the last connection used and since when it has been idle, or nil.
func (s *stack) pop() (*conn, time.Time) {
	for {
		n := s.top.Load()
		if n == nil {
			return nil, time.Time{}
		}
		if s.top.CompareAndSwap(n, n.next) {
			if c := s.take(n); c != nil {
				return c, n.since
			}
		}
	}
}

func (s *stack) take(n *node) *conn {
	c := n.c.Swap(nil)
	if c != nil {
		s.size.Add(-1)
	}
	return c
}

// closeOlder closes the connections that have been idle for d, without taking
// the others away from anybody.
func (s *stack) closeOlder(d time.Duration) {
	for n := s.top.Load(); n != nil; n = n.next {
		if time.Since(n.since) >= d {
			if c := s.take(n); c != nil {
				c.close()
			}
		}
	}
}
