package consent

import (
	"context"
	"errors"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// maxPolls is how many polls this process has under way at most.
	maxPolls = 16
	// batch is how many rows are read at a time.
	batch = 200
	// fallbackTick is how often to look for due consents of other replicas,
	// which may have died. Those of this process wake Run.
	fallbackTick = time.Second
	// leastRound is the least time between two rounds, however many timers
	// fire.
	leastRound = 20 * time.Millisecond
	cardsTick  = 5 * time.Second
	forgetTick = time.Hour
	keepClosed = 7 * 24 * time.Hour

	// pollLease is longer than pollTimeout, so that one replica polls at a
	// time.
	pollLease   = 20 * time.Second
	pollTimeout = 10 * time.Second
	// slowDown is that of RFC 8628 section 3.5, and slowest is the cap of
	// Lark's own client.
	slowDown = 5 * time.Second
	fastest  = time.Second
	slowest  = 60 * time.Second
	// slowestBlind is the cap while Lark does not answer. It is low, so that a
	// user who approves meanwhile does not wait long.
	slowestBlind = 20 * time.Second
)

// Run polls device flows, closes expired consents, updates cards, asks users
// whose grants end, and deletes what is a week old, until ctx is done. Every
// replica runs it. Leases see to it that one replica works on a row.
// [Flow.Shutdown] waits for what Run started.
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
			f.remindExpiring(ctx)
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
	time.AfterFunc(d+2*time.Millisecond, func() { // the database counts in milliseconds
		select {
		case f.wakeUp <- struct{}{}:
		default:
		}
	})
}

func (f *Flow) pollDue(ctx context.Context) {
	ids, err := f.consents.Leases.Due(ctx, batch)
	if err != nil {
		f.logUnlessStopping(ctx, "can't look for due consents", err)
		return
	}
	for _, id := range ids {
		select {
		case f.polls <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !f.task(ctx, func(ctx context.Context) { f.handleDue(ctx, id) }) {
			<-f.polls
			return
		}
	}
}

// handleDue polls for one due consent, or closes it if it has expired. It gives
// its slot back before it finishes a grant, since that may take as long as the
// database is down.
func (f *Flow) handleDue(ctx context.Context, id string) {
	p, token, granted := func() (*session.Consent, lark.Token, bool) {
		defer func() { <-f.polls }()
		p, err := f.consents.Leases.ClaimDue(ctx, id, pollLease)
		if err != nil {
			if !errors.Is(err, session.ErrLeased) {
				f.logUnlessStopping(ctx, "can't claim a consent", err)
			}
			return nil, lark.Token{}, false
		}
		if p.Left <= 0 {
			f.closeOrLog(ctx, p, session.ConsentExpired, "")
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
		f.pollAgainAfter(ctx, p, slowest)
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
		f.pollAgainAfter(ctx, p, p.PollInterval)
	case errors.Is(err, lark.ErrSlowDown):
		f.pollAgainAfter(ctx, p, min(p.PollInterval+slowDown, slowest))
	case errors.Is(err, lark.ErrAccessDenied):
		f.closeOrLog(ctx, p, session.ConsentDeclined, "")
	case errors.Is(err, lark.ErrExpired):
		f.closeOrLog(ctx, p, session.ConsentExpired, "")
	case refused:
		f.refuse(ctx, p, refusal, err)
	case e != nil && (e.Class == lark.Reauthorize || e.Class == lark.UserDisabled && !e.Doubtful()):
		f.log.WarnContext(ctx, "Lark ended a device flow", "app_id", p.AppID, f.users.Log(p.OpenID), "error", err)
		f.closeOrLog(ctx, p, session.ConsentFailed, reasonRefused)
	default:
		f.logThrottled(ctx, "can't poll a device flow; trying again until it expires", p.Key, err)
		f.pollAgainAfter(ctx, p, max(p.PollInterval, min(p.PollInterval*2, slowestBlind)))
	}
	return lark.Token{}, false
}

// pollAgainAfter gives the lease back until the next poll.
func (f *Flow) pollAgainAfter(ctx context.Context, p *session.Consent, interval time.Duration) {
	interval = max(interval, fastest)
	if err := f.consents.Leases.Release(ctx, p.ID, interval); err != nil {
		f.logUnlessStopping(ctx, "can't release a consent", err) // its lease runs out
		return
	}
	f.wakeAfter(interval)
}

// closeOrLog closes p. If the database fails, the next poll closes p.
func (f *Flow) closeOrLog(ctx context.Context, p *session.Consent, state session.ConsentState, reason string) {
	if _, err := f.close(ctx, p, state, reason); err != nil && !errors.Is(err, session.ErrConflict) {
		f.logUnlessStopping(ctx, "can't close a consent", err)
	}
}

// updateCards updates cards whose update failed, or whose consent ended before
// the card had been sent.
func (f *Flow) updateCards(ctx context.Context) {
	behind, err := f.consents.Cards.Behind(ctx, cardsTriedFor, batch)
	if err != nil {
		f.logUnlessStopping(ctx, "can't look for cards to update", err)
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
		f.logUnlessStopping(ctx, "can't delete old consents", err)
	}
	if err := f.events.Forget(ctx); err != nil {
		f.logUnlessStopping(ctx, "can't delete old event ids", err)
	}
}

// logUnlessStopping logs an error of a job of Run, unless ctx has ended.
func (f *Flow) logUnlessStopping(ctx context.Context, kind string, err error) {
	if ctx.Err() == nil {
		f.logThrottled(ctx, kind, session.Key{}, err)
	}
}
