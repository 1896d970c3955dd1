package consent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

// errNotTheirs: the consent is another user's.
var errNotTheirs = errors.New("not this user's consent")

// decline ends an open consent because its user said no. operatorOpenID is who
// said so: errNotTheirs if that is not the user. [session.ErrNotFound] if
// there is no such consent, [session.ErrConflict] if it is over already.
// Nothing is sent to the user before Ask is called again.
func (m *Manager) decline(ctx context.Context, id, operatorOpenID string) error {
	p, err := m.consents.Get(ctx, id)
	if err != nil {
		return err
	}
	if p.OpenID != operatorOpenID {
		return fmt.Errorf("declining a consent: %w", errNotTheirs)
	}
	_, err = m.close(ctx, p, session.ConsentDeclined, "")
	return err
}

// close ends an open consent and updates its card.
func (m *Manager) close(ctx context.Context, p *session.Consent, state session.ConsentState, reason string) (*session.Consent, error) {
	closed, err := m.consents.Close(ctx, p.ID, state, reason)
	if err != nil {
		return nil, err
	}
	m.afterClose(ctx, closed)
	return closed, nil
}

// afterClose counts a consent that this process has closed, and updates its
// card.
func (m *Manager) afterClose(ctx context.Context, p *session.Consent) {
	m.count(p, p.State)
	if p.CardMessageID != "" {
		m.task(ctx, func(ctx context.Context) { m.updateCard(ctx, p) })
	}
}

// expire closes a consent that has expired, unless somebody has its lease: a
// grant that came in time may be about to be stored. It returns errAgain if
// the consent is closed now, by this process or another.
func (m *Manager) expire(ctx context.Context, id string) error {
	p, err := m.consents.Leases.Claim(ctx, id, startLease)
	switch {
	case errors.Is(err, session.ErrLeased):
		now, err := m.consents.Get(ctx, id)
		if err == nil && now.State == session.ConsentPending {
			return nil
		}
		return errors.Join(errAgain, err)
	case err != nil:
		return err
	}
	if _, err = m.close(ctx, p, session.ConsentExpired, ""); err != nil && !errors.Is(err, session.ErrConflict) {
		return err
	}
	return errAgain
}

// expireOrLog is expire for callers who don't use its outcome.
func (m *Manager) expireOrLog(ctx context.Context, p *session.Consent) {
	if err := m.expire(ctx, p.ID); err != nil && !errors.Is(err, errAgain) {
		m.logThrottled(ctx, "can't close a consent", p.Key, err)
	}
}

const (
	// cardLease is how long one replica has to update a card, and after how
	// long a failed update is tried again.
	cardLease   = 30 * time.Second
	cardTimeout = 10 * time.Second
	// cardsTriedFor is for how long the update of a card is tried.
	cardsTriedFor = 24 * time.Hour
)

// updateCard makes the card of a closed consent show what became of it. Run
// tries again what fails, until Lark says that the card can't be updated.
func (m *Manager) updateCard(ctx context.Context, p *session.Consent) {
	claimed, err := m.consents.Cards.Claim(ctx, p.ID, cardLease)
	if err != nil || !claimed {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, cardTimeout)
	defer cancel()
	app, ok := m.apps[p.AppID]
	if !ok {
		return
	}
	err = app.UpdateCard(bounded, p.CardMessageID, m.cards.closed(m.apps.name(ctx, p.AppID), p))
	var e *lark.Error
	if errors.As(err, &e) && (e.Class == lark.Retry || e.Class == lark.Unknown || e.Class == lark.Misconfigured || e.Class == lark.AppRefused) {
		m.logThrottled(ctx, "can't update a card; trying again", p.Key, err)
		return
	}
	if err != nil {
		m.log.InfoContext(ctx, "a card can't be updated any more", "app_id", p.AppID, m.users.Log(p.OpenID), "error", err)
	}
	if err := m.consents.Cards.SetShows(ctx, p.ID, p.State); err != nil {
		m.logThrottled(ctx, "can't record a card", p.Key, err)
	}
}

// Revoke ends the session of key for reason: here at once, and at Lark as soon
// as Lark answers. The card of the latest consent shows it.
// [session.ErrNotFound] if there is no session.
func (m *Manager) Revoke(ctx context.Context, key session.Key, reason session.Reason) error {
	before, err := m.revokeHere(ctx, key, reason)
	if err != nil {
		return err
	}
	m.Discard(ctx, key, before.AccessToken, before.RefreshToken)
	m.task(ctx, func(ctx context.Context) { m.showRevoked(ctx, key) })
	return nil
}

// revokeHere ends the session of key in the database, and returns it as it was.
func (m *Manager) revokeHere(ctx context.Context, key session.Key, reason session.Reason) (before *session.Session, err error) {
	err = retry(ctx, 10*time.Millisecond, 5, func() (again bool, err error) {
		// A refresh may change the row between the look and the write.
		before, err = m.sessions.Revoke(ctx, key, reason)
		return errors.Is(err, session.ErrConflict), err
	})
	return before, err
}

// showRevoked makes the card of the latest consent of key show that it is over.
func (m *Manager) showRevoked(ctx context.Context, key session.Key) {
	if p, err := m.consents.Latest(ctx, key); err == nil {
		m.showRevokedOn(ctx, p)
	}
}

func (m *Manager) showRevokedOn(ctx context.Context, p *session.Consent) {
	key := p.Key
	app, ok := m.apps[key.AppID]
	if !ok || p.State != session.ConsentDone || p.CardMessageID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cardTimeout)
	defer cancel()
	if err := app.UpdateCard(ctx, p.CardMessageID, m.cards.revoked(m.apps.name(ctx, key.AppID))); err != nil {
		m.log.InfoContext(ctx, "can't update the card of a revoked session", "app_id", key.AppID, m.users.Log(key.OpenID), "error", err)
	}
}

const (
	revokeTimeout = 5 * time.Second
	revokeTries   = 8 // over about half a minute
)

// Discard revokes tokens at Lark that must not be used: the refresh token
// first, since it works for longer. It makes the first try before it returns,
// and others after that.
func (m *Manager) Discard(ctx context.Context, key session.Key, access, refresh session.Secret) {
	m.discard(ctx, key, access, refresh)
}

// discard is [Manager.Discard]. It reports whether Lark has taken the first tries.
func (m *Manager) discard(ctx context.Context, key session.Key, access, refresh session.Secret) (taken bool) {
	app, ok := m.apps[key.AppID]
	if !ok {
		return access.Empty() && refresh.Empty()
	}
	taken = true
	for _, one := range []struct {
		token session.Secret
		hint  string
	}{{refresh, "refresh_token"}, {access, "access_token"}} {
		if one.token.Empty() {
			continue
		}
		try := func(ctx context.Context) (again bool, err error) {
			ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
			defer cancel()
			err = app.Revoke(ctx, one.token, one.hint)
			var e *lark.Error
			// With Reauthorize the token is dead already.
			if errors.As(err, &e) && e.Class == lark.Reauthorize {
				return false, nil
			}
			return true, err
		}
		_, err := try(ctx)
		if err == nil {
			continue
		}
		taken = false
		goneOn := m.task(ctx, func(ctx context.Context) {
			err := retry(ctx, 250*time.Millisecond, revokeTries, func() (bool, error) { return try(ctx) })
			if err != nil {
				m.logUnrevoked(ctx, key, one.hint, err)
			}
		})
		if !goneOn {
			m.logUnrevoked(ctx, key, one.hint, err)
		}
	}
	return taken
}

func (m *Manager) logUnrevoked(ctx context.Context, key session.Key, hint string, err error) {
	m.log.ErrorContext(ctx, "can't revoke a token at Lark; it lives until it expires",
		"token", hint, "app_id", key.AppID, m.users.Log(key.OpenID), "error", err)
}
