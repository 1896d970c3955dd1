package proxy

import (
	"sync"

	"larkside/session"
)

// places are for the requests that wait for a consent. Each caller has a share
// of them, so that none can hold them all.
type places struct {
	total int

	mu   sync.Mutex
	held map[string]int // by caller; no zeros
	sum  int
}

func newPlaces(total int) *places { return &places{total: total, held: make(map[string]int)} }

// take takes a place for caller, who is one of a number of callers. It reports
// false if the caller's share is used up, or all places are.
func (p *places) take(caller string, callers int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sum >= p.total || p.held[caller] >= session.Share(p.total, callers) {
		return false
	}
	p.held[caller]++
	p.sum++
	return true
}

func (p *places) giveBack(caller string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum--
	if p.held[caller]--; p.held[caller] == 0 {
		delete(p.held, caller)
	}
}

// taken returns how many places are held.
func (p *places) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sum
}
