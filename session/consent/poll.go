package consent

import (
	"context"
	"errors"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
)

const (
	// maxTasks is how many cards this process updates or sends at a time, and
	// maxPolls how many polls it has under way. Few of these are quiet ones,
	// since they wait long for the rate when many consents are open.
	maxTasks      = 16
	maxPolls      = 16
	maxQuietPolls = 4
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
	// leadFor is how long a replica does what one does for all, unless it says
	// again within that time that it does.
	leadFor    = 3 * cardsTick
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
	// pollTurnWait is how long a poll waits for the rate of the token endpoint.
	// With pollTimeout it is shorter than pollLease.
	pollTurnWait = 5 * time.Second
	// slowestBlind is the cap while Lark does not answer. It is low, so that a
	// user who approves meanwhile does not wait long.
	slowestBlind = 20 * time.Second
)

// Run polls device flows and closes expired consents until ctx is done. Every
// replica runs it. Leases see to it that one replica works on a row. One replica
// does the rest for all: it updates cards, asks users whose grants end, and
// deletes old consents and sessions that can't be used any more. [Manager.Shutdown]
// waits for what Run started.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(fallbackTick)
	defer tick.Stop()
	var cardsAt, forgetAt, renewAt, retireAt time.Time
	for {
		started := time.Now()
		m.pollDue(ctx)
		if !started.Before(cardsAt) {
			cardsAt = started.Add(cardsTick)
			if m.leads(ctx) {
				m.updateCards(ctx)
				if !started.Before(renewAt) {
					m.remindExpiring(ctx)
					renewAt = started.Add(renewalTick)
				}
				if !started.Before(retireAt) {
					m.startRetiring(ctx)
					retireAt = started.Add(retireTick)
				}
				if !started.Before(forgetAt) {
					m.forget(ctx)
					forgetAt = started.Add(forgetTick)
				}
			}
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
		case <-m.wakeUp:
		case <-tick.C:
		}
	}
}

// leads reports whether this replica does what one does for all.
func (m *Manager) leads(ctx context.Context) bool {
	leads, err := m.elections.Lead(ctx, "consents", leadFor)
	if err != nil {
		m.logUnlessStopping(ctx, "can't ask which replica looks after cards and old consents", err)
	}
	return leads && err == nil
}

// wakeAfter has Run look for due consents after d.
func (m *Manager) wakeAfter(d time.Duration) {
	time.AfterFunc(d+2*time.Millisecond, m.wake) // the database counts in milliseconds
}

// wake has Run look for due consents.
func (m *Manager) wake() {
	select {
	case m.wakeUp <- struct{}{}:
	default:
	}
}

// pollDue starts polls as long as there is room for them. When one ends, Run
// looks again.
func (m *Manager) pollDue(ctx context.Context) {
	due, err := m.consents.Leases.Due(ctx, maxPolls+maxQuietPolls)
	if err != nil {
		m.logUnlessStopping(ctx, "can't look for due consents", err)
		return
	}
	for _, d := range due {
		room := m.polls
		if d.Quiet {
			room = m.quietPolls
		}
		select {
		case room <- struct{}{}:
		default:
			continue
		}
		done := func() { <-room }
		if !m.task(ctx, func(ctx context.Context) { m.handleDue(ctx, d, done) }) {
			<-room
			return
		}
	}
}

// handleDue polls for one due consent, or closes it if it has expired. It calls
// done before it finishes a grant, since that may take as long as the database
// is down.
func (m *Manager) handleDue(ctx context.Context, d store.Due, done func()) {
	p, err := m.consents.Leases.ClaimDue(ctx, d.ID, pollLease)
	if err != nil {
		done()
		if !errors.Is(err, session.ErrLeased) {
			m.logUnlessStopping(ctx, "can't claim a consent", err)
		}
		return
	}
	token, granted := m.closeOrPoll(ctx, p, d.Quiet)
	done()
	m.wake() // more may be due than there was room for
	if granted {
		m.finish(ctx, p, token)
	}
}

// closeOrPoll closes p if it has expired, and else polls for it. The caller has
// the lease on p.
func (m *Manager) closeOrPoll(ctx context.Context, p *session.Consent, quiet bool) (token lark.Token, granted bool) {
	switch {
	case p.Left <= 0:
		m.closeOrLog(ctx, p, session.ConsentExpired, "")
		return token, false
	case m.awaitPollTurn(ctx, p, quiet):
		return m.poll(ctx, p)
	}
	if err := m.consents.Leases.Return(ctx, p.ID); err != nil {
		m.logUnlessStopping(ctx, "can't release a consent", err) // its lease runs out
	}
	return token, false
}

// awaitPollTurn waits until the rate of the token endpoint allows a poll for p. It
// returns false if that takes too long.
func (m *Manager) awaitPollTurn(ctx context.Context, p *session.Consent, quiet bool) bool {
	if m.apps[p.AppID] == nil || p.Flow != session.DeviceFlow {
		return true // nothing will be sent
	}
	call := session.DevicePoll
	if quiet {
		call = session.QuietPoll
	}
	ctx, cancel := context.WithTimeout(ctx, pollTurnWait)
	defer cancel()
	return m.awaitTurn(ctx, p.AppID, call) == nil
}

// touch notes that p's user has done something, and that a request may wait for
// p for so long. If that fails the poll comes later.
func (m *Manager) touch(ctx context.Context, id string, wait time.Duration) {
	if next, err := m.consents.Leases.Touch(ctx, id, wait); err == nil {
		m.wakeAfter(max(0, next))
	}
}

// poll asks Lark once whether the user has decided (RFC 8628 section 3.5).
func (m *Manager) poll(ctx context.Context, p *session.Consent) (token lark.Token, granted bool) {
	sent := time.Now()
	app, ok := m.apps[p.AppID]
	if !ok || p.Flow != session.DeviceFlow {
		m.pollAgainAfter(ctx, p, slowest, sent)
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
		m.pollAgainAfter(ctx, p, p.PollInterval, sent)
	case errors.Is(err, lark.ErrSlowDown):
		m.pollAgainAfter(ctx, p, min(p.PollInterval+slowDown, slowest), sent)
	case errors.Is(err, lark.ErrAccessDenied):
		m.closeOrLog(ctx, p, session.ConsentDeclined, "")
	case errors.Is(err, lark.ErrExpired):
		m.closeOrLog(ctx, p, session.ConsentExpired, "")
	case refused:
		m.refuse(ctx, p, refusal, err)
	case e != nil && (e.Class == lark.Reauthorize || e.Class == lark.UserDisabled && !e.Doubtful()):
		m.log.WarnContext(ctx, "Lark ended a device flow", "app_id", p.AppID, m.users.Log(p.OpenID), "error", err)
		m.closeOrLog(ctx, p, session.ConsentFailed, reasonRefused)
	default:
		m.logThrottled(ctx, "can't poll a device flow; trying again until it expires", p.Key, err)
		m.pollAgainAfter(ctx, p, max(p.PollInterval, min(p.PollInterval*2, slowestBlind)), sent)
	}
	return lark.Token{}, false
}

// pollAgainAfter gives the lease back until the next poll, which comes after
// interval at the earliest.
func (m *Manager) pollAgainAfter(ctx context.Context, p *session.Consent, interval time.Duration, sent time.Time) {
	next, err := m.consents.Leases.Polled(ctx, p.ID, max(interval, fastest), slowest, time.Since(sent))
	switch {
	case err == nil:
		m.wakeAfter(next)
	case !errors.Is(err, session.ErrConflict): // else it was closed or taken over meanwhile
		m.logUnlessStopping(ctx, "can't release a consent", err) // its lease runs out
	}
}

// closeOrLog closes p. If the database fails, the next poll closes p.
func (m *Manager) closeOrLog(ctx context.Context, p *session.Consent, state session.ConsentState, reason string) {
	if _, err := m.close(ctx, p, state, reason); err != nil && !errors.Is(err, session.ErrConflict) {
		m.logUnlessStopping(ctx, "can't close a consent", err)
	}
}

// updateCards updates cards whose update failed, or whose consent ended before
// the card had been sent.
func (m *Manager) updateCards(ctx context.Context) {
	behind, err := m.consents.Cards.Behind(ctx, cardsTriedFor, batch)
	if err != nil {
		m.logUnlessStopping(ctx, "can't look for cards to update", err)
		return
	}
	for i := range behind {
		select {
		case m.cardTasks <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !m.task(ctx, func(ctx context.Context) { defer func() { <-m.cardTasks }(); m.updateCard(ctx, &behind[i]) }) {
			<-m.cardTasks
			return
		}
	}
}

func (m *Manager) forget(ctx context.Context) {
	if err := m.consents.History.Forget(ctx, keepClosed); err != nil {
		m.logUnlessStopping(ctx, "can't delete old consents", err)
	}
	if err := m.events.Forget(ctx); err != nil {
		m.logUnlessStopping(ctx, "can't delete old event ids", err)
	}
}

// logUnlessStopping logs an error of a job of Run, unless ctx has ended.
func (m *Manager) logUnlessStopping(ctx context.Context, kind string, err error) {
	if ctx.Err() == nil {
		m.logThrottled(ctx, kind, session.Key{}, err)
	}
}
