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
	// renewalLead is how long before its end a long grant gets its card, and how
	// long that card's link lives at most; a short one gets it in the last tenth
	// of its life.
	renewalLead = 3 * 24 * time.Hour
	// leastRenewal is the shortest life of a link that is worth a card.
	leastRenewal = time.Minute
	// renewalTick is how often grants that end are looked for.
	renewalTick = time.Minute
	// activeFor is how long ago a user's last access token may have ended for
	// the user to count as active.
	activeFor = 24 * time.Hour

	// ending is the reason of a card for a grant that is still good.
	ending session.Reason = "ending"
)

// Renewals, in short: a card goes out once for each grant, by the mark that
// store.DB.ClaimRenewal sets. In the redirect flow it is a consent like any
// other, with a link that lives until the grant ends. Lark's device codes live
// for minutes, so a link sent days ahead would be dead when it is looked at:
// there the card has a button that brings a fresh link, which needs events;
// without them nothing is sent ahead. A grant that has ended while its user was
// at work gets a consent at once, in both flows.

// renewExpiring asks the users whose grants end soon.
func (f *Flow) renewExpiring(ctx context.Context) {
	if f.cardOff || f.flow == session.DeviceFlow && !f.cards.buttons {
		return
	}
	// Half of the room for consents is kept for users who wait.
	if n, err := f.consents.History.Pending(ctx); err != nil || n >= f.maxPending/2 {
		return
	}
	expiring, err := f.reminders.Due(ctx, renewalLead, batch)
	if err != nil {
		f.unlessEnding(ctx, "can't look for grants that end", err)
		return
	}
	for _, x := range expiring {
		select {
		case f.polls <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !f.task(ctx, func(ctx context.Context) { defer func() { <-f.polls }(); f.renew(ctx, x) }) {
			<-f.polls
			return
		}
	}
}

func (f *Flow) renew(ctx context.Context, x store.Expiring) {
	life := min(x.EndsAt.Sub(f.now()), renewalLead)
	if f.apps[x.AppID] == nil || life < leastRenewal {
		return
	}
	f.renewOnce(ctx, x.Key, x.GrantedAt, func(ctx context.Context) error {
		if f.flow == session.DeviceFlow {
			return f.announceEnd(ctx, x)
		}
		return f.askToRenew(ctx, x.Key, wish{reason: ending, scopes: f.scopes.with(parseScopes(x.Scope)...), life: life})
	})
}

// Ended asks the user of a session that can't be renewed any more, if the user
// was active of late and has not been asked before. It returns at once.
func (f *Flow) Ended(ctx context.Context, s *session.Session) {
	if f.cardOff || s.State != session.ConsentRequired || s.Reason == session.Revoked || f.apps[s.AppID] == nil ||
		f.now().Sub(s.ExpiresAt) > activeFor {
		return
	}
	w := wish{reason: s.Reason, scopes: f.scopes.with(parseScopes(s.Scope)...), life: f.ttl}
	if f.flow == session.RedirectFlow {
		w.life = renewalLead
	}
	f.task(ctx, func(ctx context.Context) {
		f.renewOnce(ctx, s.Key, s.GrantedAt, func(ctx context.Context) error { return f.askToRenew(ctx, s.Key, w) })
	})
}

// renewOnce runs ask, if no replica has for this grant. When ask fails for a
// reason that passes, it may be run again.
func (f *Flow) renewOnce(ctx context.Context, key session.Key, grantedAt time.Time, ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	claimed, err := f.reminders.Claim(ctx, key, grantedAt)
	if err != nil || !claimed {
		return
	}
	if err = ask(ctx); err == nil {
		return
	}
	f.grumble(ctx, "can't send a renewal card; trying again", key, err)
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := f.reminders.Release(again, key, grantedAt); err != nil {
		f.grumble(ctx, "can't release a renewal", key, err)
	}
}

// errNotAsked: no consent could be started for now.
var errNotAsked = errors.New("no consent could be started")

func (f *Flow) askToRenew(ctx context.Context, key session.Key, w wish) error {
	o, _, err := f.asks.Do(ctx, key, func(ctx context.Context) (outcome, error) { return f.open(ctx, key, w) })
	if err != nil {
		return err
	}
	if card := o.challenge.Card; card == session.CardSent || card == session.CardAlreadySent {
		return nil
	}
	if _, muted := f.refusedCard(key); muted {
		return nil // for reasons that do not pass soon
	}
	// A consent whose card did not go out would stand in the way of the next try.
	p, err := f.consents.Open(ctx, key)
	if err == nil && p.Card == session.CardFailed {
		f.end(ctx, p, session.ConsentFailed, reasonStartFailed)
	}
	return fmt.Errorf("asking to renew: %w", errNotAsked)
}

// announceEnd sends the card that has no link, only a button for one.
func (f *Flow) announceEnd(ctx context.Context, x store.Expiring) error {
	if _, muted := f.refusedCard(x.Key); muted {
		return nil
	}
	sum := sha256.Sum256(fmt.Append(nil, x.AppID, "\x00", x.OpenID, "\x00", x.GrantedAt.UnixMilli()))
	_, err := f.apps[x.AppID].SendCard(ctx, x.OpenID, "larkside-end-"+hex.EncodeToString(sum[:16]), f.cards.ending(f.apps.name(ctx, x.AppID)))
	var e *lark.Error
	if errors.As(err, &e) && (e.Class == lark.InvalidID || e.Class == lark.Undeliverable || e.Class == lark.UserDisabled) {
		f.refusals.Add(x.Key, refusal{until: f.now().Add(muteForCard), unknown: e.Class == lark.InvalidID})
		return nil
	}
	return err
}
