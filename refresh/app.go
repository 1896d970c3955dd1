package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"larkside/session"
	"larkside/session/lark"
)

// app is what all sessions of one app share: its client, the rate at which the
// token endpoint may be called, and whether it is worth calling at all.
type app struct {
	id       string
	client   Lark
	governor *governor
	// breaker opens when the token endpoint fails again and again, whoever's
	// session it is.
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	now     func() time.Time
	log     *slog.Logger

	mu sync.Mutex
	// refusal is Lark's word that the app itself is not accepted; nil when it
	// is. probeAt is when one refresh may be tried all the same.
	refusal error
	probeAt time.Time
}

const (
	// breakAfter is how many calls in a row must fail for the circuit to open.
	breakAfter = 10
	// breakFor is how long it stays open before one call is let through.
	breakFor = 2 * time.Second
	// probeEvery is how often a refused app is tried.
	probeEvery = 30 * time.Second
)

func newApp(id string, client Lark, store *session.Store, rates []session.Limit, now func() time.Time, log *slog.Logger) *app {
	return &app{
		id: id, client: client, now: now, log: log.With("app_id", id),
		governor: &governor{app: id, store: store, rates: rates, news: make(chan struct{}, 1)},
		breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: id, MaxRequests: 1, Timeout: breakFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
			OnStateChange: func(name string, from, to gobreaker.State) {
				log.Warn("the circuit to Lark's token endpoint changed", "app_id", name, "from", from.String(), "to", to.String())
			},
		}),
	}
}

// resting says why the token endpoint may not be called now. It changes
// nothing.
func (a *app) resting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusal != nil {
		if rest := a.probeAt.Sub(a.now()); rest > 0 {
			return &session.RetryError{Err: fmt.Errorf("%w: %w", session.ErrAppMisconfigured, a.refusal), After: atLeastASecond(rest)}
		}
	}
	if a.breaker.State() == gobreaker.StateOpen {
		return errCircuitOpen()
	}
	return nil
}

func errCircuitOpen() error {
	return &session.RetryError{Err: fmt.Errorf("%w: the token endpoint keeps failing", session.ErrRefreshUnavailable), After: breakFor}
}

// admit takes the right to call the token endpoint once. The outcome of the
// call goes into done. Of an app that is refused, one call in every probeEvery
// is let through.
func (a *app) admit() (done func(error), err error) {
	if err := a.resting(); err != nil {
		return nil, err
	}
	report, err := a.breaker.Allow()
	if err != nil {
		return nil, errCircuitOpen()
	}
	a.mu.Lock()
	a.probeAt = a.now().Add(probeEvery)
	a.mu.Unlock()
	return func(err error) {
		a.judge(err)
		report(transient(err))
	}, nil
}

// transient returns err if it says that the endpoint is failing, not that it
// refused one request.
func transient(err error) error {
	var e *lark.Error
	if errors.As(err, &e) && e.Class != lark.Retry {
		return nil
	}
	return err
}

// judge keeps the verdict on the app. It is logged when it changes, not each
// time it is confirmed.
func (a *app) judge(err error) {
	var e *lark.Error
	refused := errors.As(err, &e) && e.Class == lark.Misconfigured
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case refused:
		if a.refusal == nil {
			a.log.Error("Lark refuses the app; no session is renewed and nobody is asked to authorize until this is mended", "error", err)
		}
		a.refusal, a.probeAt = err, a.now().Add(probeEvery)
	case err == nil && a.refusal != nil:
		a.log.Info("Lark accepts the app again")
		a.refusal = nil
	}
}

// refreshSwitch is Lark's word that the console's "refresh user_access_token"
// switch is off.
const refreshSwitch = 20074

// Report takes the outcome of another call to Lark that authenticated as the
// app, such as the start of a consent. A success there says nothing about the
// refresh switch.
func (s *Source) Report(appID string, err error) {
	a, ok := s.apps[appID]
	if !ok {
		return
	}
	var refusal *lark.Error
	if err == nil && errors.As(a.verdict(), &refusal) && refusal.Code == refreshSwitch {
		return
	}
	a.judge(err)
}

func (a *app) verdict() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

func (a *app) forgive() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeAt = time.Time{}
}

// Refusal returns why Lark refuses the app, nil while it is accepted as far as
// is known.
func (s *Source) Refusal(appID string) error {
	if a, ok := s.apps[appID]; ok {
		return a.verdict()
	}
	return nil
}

// Reconsider lets refused apps be tried at once: an app secret has changed.
func (s *Source) Reconsider() {
	for _, a := range s.apps {
		a.forgive()
	}
}

// Admitted returns nil if app's token endpoint may be called as far as is
// known: what starts consents asks, so that nobody gets a card of an app that
// can't take the answer.
func (s *Source) Admitted(appID string) error {
	a, ok := s.apps[appID]
	if !ok {
		return fmt.Errorf("app %q is not configured", appID)
	}
	if err := a.resting(); errors.Is(err, session.ErrAppMisconfigured) {
		return err
	}
	return nil
}

// governor spreads an app's calls to the token endpoint so that all replicas
// together stay under its rates.
type governor struct {
	app   string
	store *session.Store
	rates []session.Limit

	mu      sync.Mutex
	urgent  []chan error
	idle    []chan error
	running bool
	// news wakes a dispatcher that waits for the rate: the first urgent one came,
	// or the last one left.
	news chan struct{}
}

// batch is how many admissions are taken from the database at a time, at most.
const batch = 20

// join takes a place in line. The channel gets nil when one call may be made, or
// the database's error; whoever does not wait for it has to leave.
func (g *governor) join(urgent bool) (turn chan error) {
	turn = make(chan error, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if urgent {
		g.urgent = append(g.urgent, turn)
		if len(g.urgent) == 1 {
			g.tell()
		}
	} else {
		g.idle = append(g.idle, turn)
	}
	if !g.running {
		g.running = true
		go g.dispatch()
	}
	return turn
}

// leave gives up a place in line, or hands on what has just been admitted.
func (g *governor) leave(turn chan error) {
	if !g.drop(turn) && <-turn == nil {
		g.pass()
	}
}

// drop reports whether turn was still in line.
func (g *governor) drop(turn chan error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, queue := range []*[]chan error{&g.urgent, &g.idle} {
		for i, c := range *queue {
			if c == turn {
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
		admitted, rest, err := g.store.TakeRate(context.Background(), g.name(), g.limits(urgent), min(n, batch))
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

// limits leaves half of the rate to those who wait, on this replica or another,
// when the work is not urgent.
func (g *governor) limits(urgent bool) []session.Limit {
	if urgent {
		return g.rates
	}
	halves := make([]session.Limit, len(g.rates))
	for i, l := range g.rates {
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
		(*queue)[0] <- err
		*queue = (*queue)[1:]
	}
	if len(g.urgent)+len(g.idle) == 0 {
		g.tell()
	}
}
