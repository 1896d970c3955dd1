package refresh

import (
	"context"
	"sync"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// governor delays an app's calls to the token endpoint, so that all replicas
// together stay under its limits. Calls that a request waits for go first.
type governor struct {
	app    string
	rates  *store.Rates
	limits []session.Limit

	mu      sync.Mutex
	urgent  []*turn
	idle    []*turn
	running bool
	// waiters counts the requests that wait for a renewal, by open_id. See
	// expect.
	waiters map[string]int
	// news wakes the dispatcher while it waits for the rate: the first urgent
	// turn has come, or the last turn has left.
	news chan struct{}
}

// turn is a place in line for one call.
type turn struct {
	openID string
	// urgent is guarded by the governor's mu.
	urgent bool
	// ready gets nil when the call may be made, or an error of the database.
	ready chan error
}

func newGovernor(app string, rates *store.Rates, limits []session.Limit) *governor {
	return &governor{app: app, rates: rates, limits: limits, waiters: make(map[string]int), news: make(chan struct{}, 1)}
}

// admissionBatch is how many admissions are taken from the database at most at
// a time.
const admissionBatch = 20

// expect tells the governor that a request waits for openID's renewal. Until
// done is called, its turn is urgent. That holds for a turn that is in line
// already, too, since a request may come to wait for a renewal that began
// without one.
func (g *governor) expect(openID string) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiters[openID]++
	for i, t := range g.idle {
		if t.openID == openID {
			g.idle = append(g.idle[:i:i], g.idle[i+1:]...)
			g.addUrgent(t)
			break
		}
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.waiters[openID]--; g.waiters[openID] == 0 {
			delete(g.waiters, openID)
		}
	}
}

// join takes a place in line for openID's call. The caller waits for ready, or
// calls leave.
func (g *governor) join(openID string) *turn {
	t := &turn{openID: openID, ready: make(chan error, 1)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiters[openID] > 0 {
		g.addUrgent(t)
	} else {
		g.idle = append(g.idle, t)
	}
	if !g.running {
		g.running = true
		go g.dispatch()
	}
	return t
}

// addUrgent appends t to the urgent ones. g.mu is held.
func (g *governor) addUrgent(t *turn) {
	t.urgent = true
	g.urgent = append(g.urgent, t)
	if len(g.urgent) == 1 {
		g.wake()
	}
}

// wasUrgent reports whether a request waited for t's call.
func (g *governor) wasUrgent(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return t.urgent
}

// leave gives up a place in line. If its call has just been admitted, the
// admission goes to the next.
func (g *governor) leave(t *turn) {
	if !g.drop(t) && <-t.ready == nil {
		g.pass()
	}
}

// drop takes t out of the line, and reports whether it was in line.
func (g *governor) drop(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, queue := range []*[]*turn{&g.urgent, &g.idle} {
		for i, other := range *queue {
			if other == t {
				*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
				if len(g.urgent)+len(g.idle) == 0 {
					g.wake()
				}
				return true
			}
		}
	}
	return false
}

// dispatch takes admissions from the database until nobody is in line.
func (g *governor) dispatch() {
	for {
		n, urgent := g.waiting()
		if n == 0 {
			return
		}
		admitted, rest, err := g.rates.Take(context.Background(), g.name(), g.limitsFor(urgent), min(n, admissionBatch))
		switch {
		case err != nil:
			g.call(n, err)
		case admitted > 0:
			g.call(admitted, nil)
		default:
			g.pause(rest)
		}
	}
}

// pause waits for the rate to admit more, or for news.
func (g *governor) pause(rest time.Duration) {
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.news:
	}
}

// wake makes a dispatcher that waits for the rate look again.
func (g *governor) wake() {
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// waiting returns how many urgent turns are in line, or how many others if none
// is urgent. If nobody is in line it marks the dispatcher as ended.
func (g *governor) waiting() (n int, urgent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.urgent); n > 0 {
		return n, true
	}
	g.running = len(g.idle) > 0
	return len(g.idle), false
}

// limitsFor returns the limits for urgent turns, and half of them for others,
// so that half of the rate is left for requests that wait on any replica.
func (g *governor) limitsFor(urgent bool) []session.Limit {
	if urgent {
		return g.limits
	}
	halves := make([]session.Limit, len(g.limits))
	for i, l := range g.limits {
		halves[i] = session.Limit{N: max(1, l.N/2), Period: l.Period}
	}
	return halves
}

// pass hands an admission on to the next in line. Its owner could not use it,
// since another replica has the session's lease. With nobody in line it is
// lost.
func (g *governor) pass() { g.call(1, nil) }

// call sends err to the first n turns in line, the urgent ones first.
func (g *governor) call(n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for range n {
		queue := &g.urgent
		if len(*queue) == 0 {
			queue = &g.idle
		}
		if len(*queue) == 0 {
			break
		}
		(*queue)[0].ready <- err
		*queue = (*queue)[1:]
	}
	if len(g.urgent)+len(g.idle) == 0 {
		g.wake()
	}
}
