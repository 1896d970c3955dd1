package consent

import (
	"context"
	"errors"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// maxPolls is how many polls this process has in flight.
	maxPolls = 16
	// batch is how many rows one look brings.
	batch = 200
	// fallbackTick is how often due consents are looked for without a reason
	// of our own: another replica may have died.
	fallbackTick = time.Second
	// leastRound keeps many timers from making a busy loop.
	leastRound = 20 * time.Millisecond
	cardsTick  = 5 * time.Second
	forgetTick = time.Hour
	keepClosed = 7 * 24 * time.Hour

	// pollLease outlives pollTimeout: while one replica polls, no other does.
	pollLease   = 20 * time.Second
	pollTimeout = 10 * time.Second
	// slowDown and slowest are RFC 8628 section 3.5 and the cap of Lark's own
	// client.
	slowDown = 5 * time.Second
	slowest  = 60 * time.Second
	// slowestBlind caps the interval while Lark does not answer, low enough
	// that a user who approves meanwhile need not wait long.
	slowestBlind = 20 * time.Second
)

// Run polls device flows, closes expired consents, brings cards up to date, asks
// users whose grants end, and deletes what is a week old, until ctx is done. Each replica runs it; a row is
// worked on by one at a time. What it started then is waited for by [Flow.Shutdown].
func (f *Flow) Run(ctx context.Context) error {
	tick := time.NewTicker(fallbackTick)
	defer tick.Stop()
	var cardsAt, forgetAt, renewAt time.Time
	for {
		started := time.Now()
		f.pollDue(ctx)
		if !started.Before(cardsAt) {
			f.updateCards(ctx)
			cardsAt = started.Add(cardsTick)
		}
		if !started.Before(renewAt) {
			f.renewExpiring(ctx)
			renewAt = started.Add(renewalTick)
		}
		if !started.Before(forgetAt) {
			f.forget(ctx)
			forgetAt = started.Add(forgetTick)
		}
		pause := time.NewTimer(leastRound)
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.wakeUp:
		case <-tick.C:
		}
	}
}

// wakeAfter has Run look for due consents after d.
func (f *Flow) wakeAfter(d time.Duration) {
	time.AfterFunc(d+2*time.Millisecond, func() { // the database counts whole milliseconds
		select {
		case f.wakeUp <- struct{}{}:
		default:
		}
	})
}

func (f *Flow) pollDue(ctx context.Context) {
	ids, err := f.consents.Leases.Due(ctx, batch)
	if err != nil {
		f.unlessEnding(ctx, "can't look for due consents", err)
		return
	}
	for _, id := range ids {
		select {
		case f.polls <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !f.task(ctx, func(ctx context.Context) { f.visit(ctx, id) }) {
			<-f.polls
			return
		}
	}
}

// visit looks after one due consent. It gives its slot back before it finishes
// a grant, which may take as long as the database is down.
func (f *Flow) visit(ctx context.Context, id string) {
	p, token, granted := func() (*session.Consent, lark.Token, bool) {
		defer func() { <-f.polls }()
		p, err := f.consents.Leases.ClaimDue(ctx, id, pollLease)
		if err != nil {
			if !errors.Is(err, session.ErrLeased) {
				f.unlessEnding(ctx, "can't claim a consent", err)
			}
			return nil, lark.Token{}, false
		}
		if p.Left <= 0 {
			f.end(ctx, p, session.ConsentExpired, "")
			return nil, lark.Token{}, false
		}
		token, granted := f.poll(ctx, p)
		return p, token, granted
	}()
	if granted {
		f.finish(ctx, p, token)
	}
}

// poll asks Lark once whether the user has decided (RFC 8628 section 3.5).
func (f *Flow) poll(ctx context.Context, p *session.Consent) (token lark.Token, granted bool) {
	app, ok := f.apps[p.AppID]
	if !ok || p.Flow != session.DeviceFlow {
		f.rest(ctx, p, slowest)
		return token, false
	}
	asking, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	token, err := app.PollDevice(asking, p.Secret)
	var e *lark.Error
	errors.As(err, &e)
	refusal, refused := refusalOf(e)
	switch {
	case err == nil:
		return token, true
	case errors.Is(err, lark.ErrAuthorizationPending):
		f.rest(ctx, p, p.PollInterval)
	case errors.Is(err, lark.ErrSlowDown):
		f.rest(ctx, p, min(p.PollInterval+slowDown, slowest))
	case errors.Is(err, lark.ErrAccessDenied):
		f.end(ctx, p, session.ConsentDeclined, "")
	case errors.Is(err, lark.ErrExpired):
		f.end(ctx, p, session.ConsentExpired, "")
	case refused:
		f.refuse(ctx, p, refusal, err)
	case e != nil && (e.Class == lark.Reauthorize || e.Class == lark.UserDisabled && !e.Doubtful()):
		f.log.WarnContext(ctx, "Lark ended a device flow", "app_id", p.AppID, f.users.Log(p.OpenID), "error", err)
		f.end(ctx, p, session.ConsentFailed, reasonRefused)
	default:
		f.grumble(ctx, "can't poll a device flow; trying again until it expires", p.Key, err)
		f.rest(ctx, p, max(p.PollInterval, min(p.PollInterval*2, slowestBlind)))
	}
	return lark.Token{}, false
}

// rest gives the claim back until the next poll.
func (f *Flow) rest(ctx context.Context, p *session.Consent, interval time.Duration) {
	if err := f.consents.Leases.Release(ctx, p.ID, interval); err != nil {
		f.unlessEnding(ctx, "can't release a consent", err) // its lease runs out
		return
	}
	f.wakeAfter(interval)
}

// end closes p. If the database does not answer, whoever polls next will.
func (f *Flow) end(ctx context.Context, p *session.Consent, state session.ConsentState, reason string) {
	if _, err := f.close(ctx, p, state, reason); err != nil && !errors.Is(err, session.ErrConflict) {
		f.unlessEnding(ctx, "can't close a consent", err)
	}
}

// updateCards catches up on cards whose update failed, or whose consent ended
// before the card had been sent.
func (f *Flow) updateCards(ctx context.Context) {
	behind, err := f.consents.Cards.Behind(ctx, cardsTriedFor, batch)
	if err != nil {
		f.unlessEnding(ctx, "can't look for cards to update", err)
		return
	}
	for i := range behind {
		select {
		case f.polls <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !f.task(ctx, func(ctx context.Context) { defer func() { <-f.polls }(); f.updateCard(ctx, &behind[i]) }) {
			<-f.polls
			return
		}
	}
}

func (f *Flow) forget(ctx context.Context) {
	if err := f.consents.History.Forget(ctx, keepClosed); err != nil {
		f.unlessEnding(ctx, "can't delete old consents", err)
	}
	if err := f.events.Forget(ctx); err != nil {
		f.unlessEnding(ctx, "can't delete old event ids", err)
	}
}

// unlessEnding logs an error of the clock's work, which nobody is told of.
func (f *Flow) unlessEnding(ctx context.Context, kind string, err error) {
	if ctx.Err() == nil {
		f.grumble(ctx, kind, session.Key{}, err)
	}
}
