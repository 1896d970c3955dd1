package refresh

import (
	"context"
	"sync"
	"time"

	"larkside/session"
	"larkside/session/store"
)

// governor delays an app's calls to the token endpoint, so that all replicas
// together stay under its limits. Of the calls that wait in this process the
// lower kind goes first. Over all replicas shareOf keeps the kinds apart.
type governor struct {
	app    string
	rates  *store.Rates
	limits []session.Limit

	mu      sync.Mutex
	lines   [session.TokenCalls][]*turn
	running bool
	// waiters counts the requests that wait for a renewal, by open_id. See
	// expect.
	waiters map[string]int
	// news wakes the dispatcher while it waits for the rate: the first turn of
	// a kind has come, or the last turn has left.
	news chan struct{}
}

// turn is a place in line for one call.
type turn struct {
	openID string // of a refresh
	// call is guarded by the governor's mu.
	call session.TokenCall
	// ready gets nil when the call may be made, or an error of the database.
	ready chan error
}

// share is what one kind of call may use of the rate, in eighths.
type share struct {
	// total is how much of the rate may be used by all kinds for a call of this
	// kind to be admitted. What is left is for the kinds before it.
	total int
	// polls and idle are how much the polls, or the idle refreshes, may use by
	// themselves. 0: the call is not one of them.
	polls, idle int
}

// shareOf has the share of each kind. A kind that goes first may use what is
// kept from those behind it. Polls can't use up what the idle refreshes need,
// however many consents are open: of all grants, those that nobody uses end
// unless they are renewed.
var shareOf = [session.TokenCalls]share{
	session.CodeExchange:   {total: 8},
	session.AwaitedRefresh: {total: 8},
	session.DevicePoll:     {total: 7, polls: 4},
	session.QuietPoll:      {total: 6, polls: 2},
	session.IdleRefresh:    {total: 6, idle: 4},
}

func newGovernor(app string, rates *store.Rates, limits []session.Limit) *governor {
	return &governor{app: app, rates: rates, limits: limits, waiters: make(map[string]int), news: make(chan struct{}, 1)}
}

// admissionBatch is how many admissions are taken from the database at most at
// a time.
const admissionBatch = 20

// expect tells the governor that a request waits for openID's renewal. Until
// done is called, its turn is an [session.AwaitedRefresh]. That holds for a turn
// that is in line already, too, since a request may come to wait for a renewal
// that began without one.
func (g *governor) expect(openID string) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiters[openID]++
	idle := g.lines[session.IdleRefresh]
	for i, t := range idle {
		if t.openID == openID {
			g.lines[session.IdleRefresh] = append(idle[:i:i], idle[i+1:]...)
			t.call = session.AwaitedRefresh
			g.add(t)
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

// joinRefresh takes a place in line for openID's refresh. The caller waits for
// ready, or calls leave.
func (g *governor) joinRefresh(openID string) *turn {
	g.mu.Lock()
	defer g.mu.Unlock()
	call := session.IdleRefresh
	if g.waiters[openID] > 0 {
		call = session.AwaitedRefresh
	}
	return g.join(&turn{openID: openID, call: call})
}

// joinCall takes a place in line for another call.
func (g *governor) joinCall(call session.TokenCall) *turn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.join(&turn{call: call})
}

// join puts t in line. g.mu is held.
func (g *governor) join(t *turn) *turn {
	t.ready = make(chan error, 1)
	g.add(t)
	if !g.running {
		g.running = true
		go g.dispatch()
	}
	return t
}

// add appends t to the line of its kind. g.mu is held.
func (g *governor) add(t *turn) {
	g.lines[t.call] = append(g.lines[t.call], t)
	if len(g.lines[t.call]) == 1 {
		g.wake()
	}
}

// callOf returns the kind of t, which may have changed since it joined.
func (g *governor) callOf(t *turn) session.TokenCall {
	g.mu.Lock()
	defer g.mu.Unlock()
	return t.call
}

// leave gives up a place in line. If its call has just been admitted, the
// admission goes to the next.
func (g *governor) leave(t *turn) {
	if !g.drop(t) && <-t.ready == nil {
		g.pass(1)
	}
}

// drop takes t out of the line, and reports whether it was in line.
func (g *governor) drop(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	line := g.lines[t.call]
	for i, other := range line {
		if other == t {
			g.lines[t.call] = append(line[:i:i], line[i+1:]...)
			g.wakeIfEmpty()
			return true
		}
	}
	return false
}

// dispatch takes admissions from the database until nobody is in line.
func (g *governor) dispatch() {
	for {
		waiting, any := g.waiting()
		if !any {
			return
		}
		if rest := g.grant(waiting); rest > 0 {
			g.pause(rest)
		}
	}
}

// grant takes admissions for the first kind that gets some. If none does, it
// returns how long to wait.
func (g *governor) grant(waiting [session.TokenCalls]int) (rest time.Duration) {
	for i, n := range waiting {
		if n == 0 {
			continue
		}
		call := session.TokenCall(i)
		admitted, wait, err := g.rates.Take(context.Background(), g.name(), g.limitsFor(call), min(n, admissionBatch))
		switch {
		case err != nil:
			g.fail(call, n, err)
			return 0
		case admitted > 0:
			g.pass(admitted)
			return 0
		case rest == 0 || wait < rest:
			rest = wait
		}
		if shareOf[call].total == 8 {
			break // all of the rate is used, so the others get nothing either
		}
	}
	return max(rest, time.Millisecond)
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

// wakeIfEmpty wakes the dispatcher if the last turn has left. g.mu is held.
func (g *governor) wakeIfEmpty() {
	for _, line := range g.lines {
		if len(line) > 0 {
			return
		}
	}
	g.wake()
}

// waiting returns how many turns of each kind are in line. If there is none it
// marks the dispatcher as ended.
func (g *governor) waiting() (n [session.TokenCalls]int, any bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for call, line := range g.lines {
		n[call] = len(line)
		any = any || len(line) > 0
	}
	g.running = any
	return n, any
}

// limitsFor returns what a call of this kind has to keep to: the limits of all
// calls, then those of the polls, then those of the idle refreshes. All kinds
// name the same limits in the same order, since they are counted by position.
func (g *governor) limitsFor(call session.TokenCall) []session.Limit {
	var all []session.Limit
	s := shareOf[call]
	for _, eighths := range []int{s.total, s.polls, s.idle} {
		for _, l := range g.limits {
			n := 0 // not counted
			if eighths > 0 {
				n = max(1, l.N*eighths/8)
			}
			all = append(all, session.Limit{N: n, Period: l.Period})
		}
	}
	return all
}

// pass hands n admissions to the next in line, of whatever kind. Some were taken
// for these, and some come back from owners who could not use them, for instance
// since another replica has the session's lease. With nobody in line they are
// lost.
func (g *governor) pass(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for call := range g.lines {
		n -= g.call(session.TokenCall(call), n, nil)
	}
}

// fail gives the first n turns of a kind an error.
func (g *governor) fail(call session.TokenCall, n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.call(call, n, err)
}

// call sends err to the first n turns of a kind, and returns how many there
// were. g.mu is held.
func (g *governor) call(call session.TokenCall, n int, err error) int {
	line := g.lines[call]
	n = min(n, len(line))
	for _, t := range line[:n] {
		t.ready <- err
	}
	g.lines[call] = line[n:]
	g.wakeIfEmpty()
	return n
}
