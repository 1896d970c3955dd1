package consent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

// askKey says which calls of [Manager.Ask] share one look into the database. Callers
// don't share them, since each has limits of its own.
type askKey struct {
	session.Key
	caller string
}

const (
	// askWait is how long a caller waits for a consent to be started. The start
	// goes on after that.
	askWait = 5 * time.Second
	// linkWait is how long a caller waits for another replica's start.
	linkWait = 3 * time.Second
	// linkPoll is how often to look for a link: storing one sends no
	// notification.
	linkPoll = 100 * time.Millisecond
	// slotWait is how long a start waits for a slot of MaxStarting.
	slotWait = 2 * time.Second
	// cardGrace is the age after which a consent without a recorded card is
	// taken over: its starter must have died.
	cardGrace = startTimeout
	// askTries bounds how often Ask starts over because the consent changed.
	askTries = 6

	retrySoon     = time.Second
	retryPending  = 5 * time.Second
	retryFailed   = 30 * time.Second
	retryNobody   = 10 * time.Minute
	muteForNobody = 10 * time.Minute
	muteForCard   = time.Hour
)

// outcome is the result of one call of Ask. Everybody who asks meanwhile shares it.
type outcome struct {
	challenge session.Challenge
	scopes    scopes
	// polled is the id of the open consent if Lark is polled for it. began: it
	// was started just now. pollSoon: it is polled soon in any case.
	polled          string
	began, pollSoon bool
}

// cardRefusal is Lark's answer that a user can't get a card.
type cardRefusal struct {
	until time.Time
	// unknown: Lark knows no such user, so there is nobody to ask.
	unknown bool
}

// wish is what a consent is to be opened for.
type wish struct {
	reason session.Reason
	scopes scopes
	anyOf  []string // see [session.ConsentRequest]; scopes is empty then
	caller string
	life   time.Duration
	// yields: any open consent will do. A request may have its link already, and
	// superseding it would break that.
	yields bool
}

// coveredBy reports whether a consent that asks for these scopes is enough.
func (w wish) coveredBy(asked scopes) bool {
	if w.yields {
		return true
	}
	if len(w.anyOf) > 0 {
		return slices.ContainsFunc(w.anyOf, func(scope string) bool { return slices.Contains(asked, scope) })
	}
	return asked.covers(w.scopes)
}

var (
	// errAgain: the consent changed meanwhile, so start over.
	errAgain = errors.New("the consent changed meanwhile")
	// errScopes: Lark refused the scopes, and the consent is closed.
	errScopes = errors.New("Lark refuses the scopes")
)

// Ask sees to it that key's user has one open consent, and returns what to tell
// the caller. Concurrent calls for one user share one look into the database,
// and one consent over all replicas.
//
// Ask returns within about five seconds. What it has begun goes on, even if ctx
// ends earlier. If Lark fails there is no error, and the Challenge has no link.
// Errors: [session.ErrUnavailable] (database), [session.ErrAppMisconfigured]
// (Lark refuses the app), an unknown app id, and ctx's.
func (m *Manager) Ask(ctx context.Context, key session.Key, want session.ConsentRequest) (session.Challenge, error) {
	ctx, span := m.tracer.Start(ctx, "consent.start", trace.WithAttributes(
		telemetry.AppID.String(key.AppID), telemetry.Flow.String(string(m.flow))))
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(m.users.Attr(key.OpenID))
	}
	c, err := m.ask(ctx, key, want)
	if err != nil {
		span.SetAttributes(telemetry.ErrorType.String(askError(err)))
		span.SetStatus(codes.Error, "")
		return session.Challenge{Card: session.CardFailed, RetryAfter: retryFailed}, err
	}
	if c == (session.Challenge{}) {
		return c, nil // there was nothing to ask for
	}
	span.SetAttributes(telemetry.Card.String(string(c.Card)))
	m.cardCount.Add(ctx, 1, metric.WithAttributes(telemetry.Result.String(string(c.Card))))
	return c, nil
}

// askError returns the error.type of a span for an error of Ask.
func askError(err error) string {
	switch {
	case errors.Is(err, session.ErrConflict):
		return "authorized_meanwhile"
	case errors.Is(err, session.ErrUnavailable):
		return "store_unavailable"
	case errors.Is(err, session.ErrAppMisconfigured):
		return "app_misconfigured"
	}
	return "_OTHER"
}

func (m *Manager) ask(ctx context.Context, key session.Key, want session.ConsentRequest) (session.Challenge, error) {
	if _, ok := m.apps[key.AppID]; !ok {
		return session.Challenge{}, fmt.Errorf("asking for consent: no app %q is configured", key.AppID)
	}
	waiting, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	w := wish{reason: want.Reason, scopes: m.wanted(want.Scopes), anyOf: want.AnyOf, caller: want.Caller, life: m.ttl}
	if len(w.anyOf) > 0 {
		w.reason = lacking
	}
	for range askTries {
		o, joined, err := m.asks.Do(waiting, askKey{key, want.Caller}, func(ctx context.Context) (outcome, error) {
			return m.open(ctx, key, w)
		})
		switch {
		case err != nil && ctx.Err() != nil:
			return session.Challenge{}, context.Cause(ctx)
		case err != nil && waiting.Err() != nil:
			return stillStarting().challenge, nil
		case err != nil:
			return session.Challenge{}, err
		case joined && o.challenge.AuthorizeURL != "" && !w.coveredBy(o.scopes):
			continue // it was shared with callers who wanted less
		}
		if o.polled != "" && (want.Wait > 0 || !joined && !o.began && !o.pollSoon) {
			m.touch(ctx, o.polled, want.Wait)
		}
		if joined && o.challenge.Card == session.CardSent {
			o.challenge.Card = session.CardAlreadySent
		}
		return o.challenge, nil
	}
	return stillStarting().challenge, nil
}

// declinedFor is how long a "no" counts as the reason of a session that ended
// for another reason.
const declinedFor = time.Hour

// Reason returns why key's user has to be asked: [session.Declined] if the
// user's last answer was no, else reason, which is the session's. If there is a
// session, nobody knows what the "no" was about, so it counts for an hour only.
// If the database does not answer, Reason returns reason.
func (m *Manager) Reason(ctx context.Context, key session.Key, reason session.Reason) session.Reason {
	p, err := m.consents.Latest(ctx, key)
	if err != nil || p.State != session.ConsentDeclined {
		return reason
	}
	if reason == session.NoSession || age(p) < declinedFor {
		return session.Declined
	}
	return reason
}

// age returns how long ago p was started, by the database's clock.
func age(p *session.Consent) time.Duration { return p.ExpiresAt.Add(-p.Left).Sub(p.CreatedAt) }

// wanted returns the scopes to ask the user for.
func (m *Manager) wanted(exactly []string) scopes {
	if s := newScopes(exactly...); len(s) > 0 {
		return s.with(offlineAccess)
	}
	return m.scopes
}

// Start opens a consent for an operator. It is [Manager.Ask], and also returns the
// consent, which is zero without a link.
func (m *Manager) Start(ctx context.Context, key session.Key, scopes []string) (session.Consent, session.Challenge, error) {
	c, err := m.Ask(ctx, key, session.ConsentRequest{Scopes: scopes, Caller: ownCaller})
	if err != nil || c.AuthorizeURL == "" {
		return session.Consent{}, c, err
	}
	p, err := m.consents.Open(ctx, key)
	if errors.Is(err, session.ErrNotFound) {
		p, err = m.consents.Latest(ctx, key)
	}
	if err != nil {
		return session.Consent{}, c, err
	}
	return *p, c, nil
}

// open finds or starts the open consent of key. No caller's context ends it.
func (m *Manager) open(ctx context.Context, key session.Key, w wish) (outcome, error) {
	if !m.enter() {
		return outcome{}, errClosing
	}
	defer m.tasks.Done()
	ctx, cancel := m.detach(ctx)
	defer cancel()
	if len(w.anyOf) > 0 {
		var err error
		if w.scopes, err = m.choose(ctx, key, w.anyOf); err != nil || len(w.scopes) == 0 {
			return outcome{}, err
		}
	}
	for range askTries {
		p, err := m.consents.Open(ctx, key)
		var o outcome
		switch {
		case errors.Is(err, session.ErrNotFound):
			o, err = m.begin(ctx, key, w)
		case err != nil:
			return outcome{}, err
		case p.Left <= 0:
			o, err = stillStarting(), m.expire(ctx, p.ID)
		case p.Link.Empty():
			o, err = m.awaitLink(ctx, p, w.reason)
		case w.coveredBy(parseScopes(p.Scopes)):
			return m.report(ctx, p, w.reason), nil
		default:
			w.scopes = w.scopes.with(parseScopes(p.Scopes)...)
			o, err = m.supersede(ctx, p, w.reason)
		}
		switch {
		case errors.Is(err, errScopes):
			if w.scopes.String() == m.scopes.String() {
				return withoutLink(session.CardFailed, retryFailed), nil
			}
			w.scopes, w.anyOf = m.scopes, nil
		case !errors.Is(err, errAgain):
			return o, err
		}
	}
	return stillStarting(), nil
}

// begin starts a consent for a user who has none.
func (m *Manager) begin(ctx context.Context, key session.Key, w wish) (outcome, error) {
	if r, ok := m.refusedCard(key); ok && r.unknown {
		return withoutLink(session.CardFailed, retryNobody), nil
	}
	if err := m.checkNotAuthorized(ctx, key, w); err != nil {
		return outcome{}, err
	}
	if limited, err := m.rateReached(ctx, key); limited || err != nil {
		return withoutLink(session.CardRateLimited, m.rate.Period), err
	}
	giveBack := m.slots.take(ctx, w.caller, m.callers())
	if giveBack == nil {
		return withoutLink(session.CardRateLimited, retrySoon), nil
	}
	defer giveBack()
	admitted, err := m.admitStart(ctx, key.AppID, w.caller)
	if err != nil || !admitted.granted {
		return withoutLink(session.CardRateLimited, admitted.wait), err
	}
	p, began, err := m.consents.Begin(ctx, session.Consent{
		Key: key, Flow: m.flow, Scopes: w.scopes.String(), Caller: w.caller,
	}, startLease, w.life)
	switch {
	case errors.Is(err, session.ErrNotFound), err == nil && !began:
		return outcome{}, errAgain
	case err != nil:
		return outcome{}, err
	}
	// The user may have authorized just before Begin. An earlier consent is
	// stored and closed in one step, so from here on the answer is certain.
	if err := m.checkNotAuthorized(ctx, key, w); err != nil {
		m.consents.Close(ctx, p.ID, session.ConsentSuperseded, "authorized_meanwhile")
		return outcome{}, err
	}
	m.count(p, session.ConsentPending)
	return m.start(ctx, p, w.reason, admitted.card)
}

// justGranted is the age up to which a grant may have been stored after a
// caller looked for it.
const justGranted = 10 * time.Second

// checkNotAuthorized returns [session.ErrConflict] if key's user has authorized
// between the caller's look-up and now. A caller who needs more than that
// authorization gets no error.
func (m *Manager) checkNotAuthorized(ctx context.Context, key session.Key, w wish) error {
	if w.scopes.String() != m.scopes.String() || w.reason == session.TokenRefused {
		return nil
	}
	row, err := m.sessions.Load(ctx, key)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	now := m.now()
	if now.Sub(row.GrantedAt).Abs() < justGranted && session.NewAccess(row).Usable(now) {
		return fmt.Errorf("the user has authorized meanwhile: %w", session.ErrConflict)
	}
	return nil
}

func (m *Manager) rateReached(ctx context.Context, key session.Key) (bool, error) {
	n, err := m.consents.History.Started(ctx, key, m.rate.Period)
	return n >= m.rate.N, err
}

// awaitLink waits until the replica that is starting p has stored the link. It
// takes over if that replica's lease runs out.
func (m *Manager) awaitLink(ctx context.Context, p *session.Consent, reason session.Reason) (outcome, error) {
	changed, stop := m.changes.Watch(p.Key)
	defer stop()
	poll := time.NewTicker(linkPoll)
	defer poll.Stop()
	deadline := time.NewTimer(linkWait)
	defer deadline.Stop()
	for {
		select {
		case <-changed:
		case <-poll.C:
		case <-deadline.C:
			return stillStarting(), nil
		case <-ctx.Done():
			return outcome{}, context.Cause(ctx)
		}
		now, err := m.consents.Get(ctx, p.ID)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return outcome{}, errAgain
		case err != nil:
			return outcome{}, err
		case now.State != session.ConsentPending, !now.Link.Empty(), now.Left <= 0:
			return outcome{}, errAgain
		}
		claimed, err := m.consents.Leases.Claim(ctx, p.ID, startLease)
		switch {
		case errors.Is(err, session.ErrLeased):
		case err != nil:
			return outcome{}, err
		case claimed.Link.Empty():
			return m.start(ctx, claimed, reason, true)
		default: // the starter has stored the link just now
			return outcome{}, errors.Join(errAgain, m.consents.Leases.Return(ctx, p.ID))
		}
	}
}

// supersede closes a consent that asks for too little. The caller begins
// another one for both. If the user's rate does not allow another one, the user
// keeps the present link.
func (m *Manager) supersede(ctx context.Context, p *session.Consent, reason session.Reason) (outcome, error) {
	if limited, err := m.rateReached(ctx, p.Key); err != nil {
		return outcome{}, err
	} else if limited {
		return m.report(ctx, p, reason), nil
	}
	if _, err := m.close(ctx, p, session.ConsentSuperseded, reasonScopes); err != nil && !errors.Is(err, session.ErrConflict) {
		return outcome{}, err
	}
	return outcome{}, errAgain
}

// report returns the outcome of an open consent.
func (m *Manager) report(ctx context.Context, p *session.Consent, reason session.Reason) outcome {
	card, send := p.Card, false
	switch {
	case card == session.CardSent, card == "" && age(p) < cardGrace:
		card = session.CardAlreadySent
	case card == session.CardRateLimited:
		// The card had to wait. If it can't be sent now, the link is there.
		send, _, _ = m.admitCard(ctx, p.AppID, p.Caller)
	case card == "":
		// The starter died between the link and the card. If the card was sent,
		// Lark knows its uuid and drops this one.
		send = true
	}
	if send {
		var nobody bool
		if card, nobody = m.sendCard(ctx, p, reason); nobody {
			return withoutLink(session.CardFailed, retryNobody)
		}
	}
	return withLink(p, card)
}

// withLink returns an outcome with p's link.
func withLink(p *session.Consent, card session.CardResult) outcome {
	o := outcome{scopes: parseScopes(p.Scopes), challenge: session.Challenge{
		AuthorizeURL: p.Link.Expose(), ExpiresIn: p.Left, Card: card, RetryAfter: retryPending,
	}}
	if p.Flow == session.DeviceFlow {
		o.polled, o.pollSoon = p.ID, p.PollSoon
	}
	return o
}

// withoutLink returns an outcome without a link.
func withoutLink(card session.CardResult, retry time.Duration) outcome {
	return outcome{challenge: session.Challenge{Card: card, RetryAfter: retry}}
}

// stillStarting returns the outcome while a consent is being started.
func stillStarting() outcome { return withoutLink(session.CardFailed, retrySoon) }

// refusedCard returns Lark's refusal to send to key, if it still counts.
func (m *Manager) refusedCard(key session.Key) (cardRefusal, bool) {
	r, ok := m.cardRefusals.Get(key)
	return r, ok && m.now().Before(r.until)
}
