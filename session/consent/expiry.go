package consent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
)

const (
	// renewalLead is how long before its end a long grant gets its card, and
	// how long that card's link works at most. A short grant gets it in the
	// last tenth of its life.
	renewalLead = 3 * 24 * time.Hour
	// leastRenewal is the shortest life of a link for which a card is sent.
	leastRenewal = time.Minute
	// renewalTick is how often grants that end are looked for.
	renewalTick = time.Minute
	// activeFor is how long after the end of the last access token a user
	// counts as active.
	activeFor = 24 * time.Hour

	// ending is the reason of a card for a grant that still works, and lacking is
	// that of a card for a grant without a scope that an API wants.
	ending  session.Reason = "ending"
	lacking session.Reason = "lacking"
)

// A grant that ends soon gets one card, which store.Reminders.Claim sees to. In
// the redirect flow the card belongs to a consent like any other, whose link
// works until the grant ends. In the device flow Lark's codes work for minutes,
// so a link that is sent days ahead would be dead when the user looks at it.
// There the card has a button that brings a new link. Buttons need events, so
// without them no card is sent ahead. In both flows a user whose grant has
// ended while the user was active is asked at once.

// remindExpiring asks the users whose grants end soon.
func (m *Manager) remindExpiring(ctx context.Context) {
	if m.cardOff || m.flow == session.DeviceFlow && !m.cards.buttons {
		return
	}
	// Half of MaxPending is left for users who wait.
	if n, err := m.consents.History.Pending(ctx); err != nil || n >= m.maxPending/2 {
		return
	}
	expiring, err := m.reminders.Due(ctx, renewalLead, batch)
	if err != nil {
		m.logUnlessStopping(ctx, "can't look for grants that end", err)
		return
	}
	for _, x := range expiring {
		select {
		case m.cardTasks <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !m.task(ctx, func(ctx context.Context) { defer func() { <-m.cardTasks }(); m.remind(ctx, x) }) {
			<-m.cardTasks
			return
		}
	}
}

func (m *Manager) remind(ctx context.Context, x store.Expiring) {
	life := min(x.EndsAt.Sub(m.now()), renewalLead)
	if m.apps[x.AppID] == nil || life < leastRenewal {
		return
	}
	m.remindOnce(ctx, x.Key, x.GrantedAt, func(ctx context.Context) error {
		if m.flow == session.DeviceFlow {
			return m.announceEnd(ctx, x)
		}
		// Only the whole row shows that its scopes are those that were granted.
		row, err := m.sessions.Load(ctx, x.Key)
		if err != nil {
			return err
		}
		return m.askToRenew(ctx, x.Key, wish{reason: ending, scopes: m.scopes.with(parseScopes(row.Scope)...), caller: ownCaller, life: life})
	})
}

// Ended asks the user of a session that can't be renewed any more, if the user
// was active in the last day and has not been asked for this grant. It returns
// at once.
func (m *Manager) Ended(ctx context.Context, s *session.Session) {
	if m.cardOff || s.State != session.ConsentRequired || s.Reason == session.Revoked || m.apps[s.AppID] == nil ||
		m.now().Sub(s.ExpiresAt) > activeFor {
		return
	}
	w := wish{reason: s.Reason, scopes: m.scopes.with(parseScopes(s.Scope)...), caller: ownCaller, life: m.ttl, yields: true}
	if m.flow == session.RedirectFlow {
		w.life = renewalLead
	}
	m.task(ctx, func(ctx context.Context) {
		m.remindOnce(ctx, s.Key, s.GrantedAt, func(ctx context.Context) error { return m.askToRenew(ctx, s.Key, w) })
	})
}

// remindOnce runs ask, if no replica has for this grant. If ask fails, it may
// be run again.
func (m *Manager) remindOnce(ctx context.Context, key session.Key, grantedAt time.Time, ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	claimed, err := m.reminders.Claim(ctx, key, grantedAt)
	if err != nil || !claimed {
		return
	}
	if err = ask(ctx); err == nil {
		return
	}
	m.logThrottled(ctx, "can't send a renewal card; trying again", key, err)
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := m.reminders.Release(again, key, grantedAt); err != nil {
		m.logThrottled(ctx, "can't release a renewal", key, err)
	}
}

// errNotAsked: no consent could be started for now.
var errNotAsked = errors.New("no consent could be started")

func (m *Manager) askToRenew(ctx context.Context, key session.Key, w wish) error {
	o, _, err := m.asks.Do(ctx, askKey{key, w.caller}, func(ctx context.Context) (outcome, error) { return m.open(ctx, key, w) })
	if err != nil {
		return err
	}
	if card := o.challenge.Card; card == session.CardSent || card == session.CardAlreadySent {
		return nil
	}
	if _, muted := m.refusedCard(key); muted {
		return nil // the user can't be asked for an hour at least
	}
	// An open consent without a card would prevent the next try.
	p, err := m.consents.Open(ctx, key)
	if err == nil && p.Card == session.CardFailed {
		m.closeOrLog(ctx, p, session.ConsentFailed, reasonStartFailed)
	}
	return fmt.Errorf("asking to renew: %w", errNotAsked)
}

// announceEnd sends a card without a link, with a button that brings one.
func (m *Manager) announceEnd(ctx context.Context, x store.Expiring) error {
	if _, muted := m.refusedCard(x.Key); muted {
		return nil
	}
	sum := sha256.Sum256(fmt.Append(nil, x.AppID, "\x00", x.OpenID, "\x00", x.GrantedAt.UnixMilli()))
	_, err := m.apps[x.AppID].SendCard(ctx, x.OpenID, "larkside-end-"+hex.EncodeToString(sum[:16]), m.cards.ending(m.apps.name(ctx, x.AppID)))
	var e *lark.Error
	if errors.As(err, &e) && (e.Class == lark.InvalidID || e.Class == lark.Undeliverable || e.Class == lark.UserDisabled) {
		m.cardRefusals.Add(x.Key, cardRefusal{until: m.now().Add(muteForCard), unknown: e.Class == lark.InvalidID})
		return nil
	}
	return err
}
