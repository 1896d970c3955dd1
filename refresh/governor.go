package refresh

import (
	"context"
	"sync"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// governor spreads an app's calls to the token endpoint so that all replicas
// together stay under its rates. Calls for sessions that a request waits for go
// first.
type governor struct {
	app    string
	rates  *store.Rates
	limits []session.Limit

	mu      sync.Mutex
	urgent  []*turn
	idle    []*turn
	running bool
	// waiters counts, by open_id, the requests that wait for a session's
	// renewal. See expect.
	waiters map[string]int
	// news wakes a dispatcher that waits for the rate: the first urgent turn has
	// come, or the last turn has left.
	news chan struct{}
}

// turn is a place in line for one call.
type turn struct {
	openID string
	// urgent is guarded by the governor's mu.
	urgent bool
	// ready gets nil when the call may be made, or the database's error.
	ready chan error
}

func newGovernor(app string, rates *store.Rates, limits []session.Limit) *governor {
	return &governor{app: app, rates: rates, limits: limits, waiters: make(map[string]int), news: make(chan struct{}, 1)}
}

// admissionBatch is how many admissions are taken from the database at a time,
// at most.
const admissionBatch = 20

// expect tells the governor that a request waits for openID's renewal. Until
// done is called its turn is urgent, also one that is in line already: a renewal
// that began behind a request, or for the sweep, may have to be waited for later.
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

// join takes a place in line for openID's call. Whoever does not wait for it to
// be ready has to leave.
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
		g.tell()
	}
}

// wasUrgent reports whether a request waited for t's call.
func (g *governor) wasUrgent(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return t.urgent
}

// leave gives up a place in line, or hands on what has just been admitted.
func (g *governor) leave(t *turn) {
	if !g.drop(t) && <-t.ready == nil {
		g.pass()
	}
}

// drop reports whether t was still in line.
func (g *governor) drop(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, queue := range []*[]*turn{&g.urgent, &g.idle} {
		for i, other := range *queue {
			if other == t {
				*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
				if len(g.urgent)+len(g.idle) == 0 {
					g.tell()
				}
				return true
			}
		}
	}
	return false
}

// dispatch runs while anyone waits.
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

func (g *governor) tell() {
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// waiting returns how many wait, of the urgent ones if there are any, and ends
// the dispatcher when nobody does.
func (g *governor) waiting() (n int, urgent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.urgent); n > 0 {
		return n, true
	}
	g.running = len(g.idle) > 0
	return len(g.idle), false
}

// limitsFor leaves half of the rate to those who wait, on this replica or another,
// when the work is not urgent.
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

// pass hands on an admission that its taker has found no use for: another owner
// was at work on the session already. The next in line spends it at about the
// same moment; with nobody in line it is lost.
func (g *governor) pass() { g.call(1, nil) }

// call tells the first n in line, the urgent ones first.
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
		g.tell()
	}
}
