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
func (f *Flow) decline(ctx context.Context, id, operatorOpenID string) error {
	p, err := f.consents.Get(ctx, id)
	if err != nil {
		return err
	}
	if p.OpenID != operatorOpenID {
		return fmt.Errorf("declining a consent: %w", errNotTheirs)
	}
	_, err = f.close(ctx, p, session.ConsentDeclined, "")
	return err
}

// close ends an open consent and updates its card.
func (f *Flow) close(ctx context.Context, p *session.Consent, state session.ConsentState, reason string) (*session.Consent, error) {
	closed, err := f.consents.Close(ctx, p.ID, state, reason)
	if err != nil {
		return nil, err
	}
	f.afterClose(ctx, closed)
	return closed, nil
}

// afterClose counts a consent that this process has closed, and updates its
// card.
func (f *Flow) afterClose(ctx context.Context, p *session.Consent) {
	f.count(p, p.State)
	if p.CardMessageID != "" {
		f.task(ctx, func(ctx context.Context) { f.updateCard(ctx, p) })
	}
}

// expire closes a consent that has expired, unless somebody has its lease: a
// grant that came in time may be about to be stored. It returns errAgain if
// the consent is closed now, by this process or another.
func (f *Flow) expire(ctx context.Context, id string) error {
	p, err := f.consents.Leases.Claim(ctx, id, startLease)
	switch {
	case errors.Is(err, session.ErrLeased):
		now, err := f.consents.Get(ctx, id)
		if err == nil && now.State == session.ConsentPending {
			return nil
		}
		return errors.Join(errAgain, err)
	case err != nil:
		return err
	}
	if _, err = f.close(ctx, p, session.ConsentExpired, ""); err != nil && !errors.Is(err, session.ErrConflict) {
		return err
	}
	return errAgain
}

// expireOrLog is expire for callers who don't use its outcome.
func (f *Flow) expireOrLog(ctx context.Context, p *session.Consent) {
	if err := f.expire(ctx, p.ID); err != nil && !errors.Is(err, errAgain) {
		f.logThrottled(ctx, "can't close a consent", p.Key, err)
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
func (f *Flow) updateCard(ctx context.Context, p *session.Consent) {
	claimed, err := f.consents.Cards.Claim(ctx, p.ID, cardLease)
	if err != nil || !claimed {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, cardTimeout)
	defer cancel()
	app, ok := f.apps[p.AppID]
	if !ok {
		return
	}
	err = app.UpdateCard(bounded, p.CardMessageID, f.cards.closed(f.apps.name(ctx, p.AppID), p))
	var e *lark.Error
	if errors.As(err, &e) && (e.Class == lark.Retry || e.Class == lark.Unknown || e.Class == lark.Misconfigured || e.Class == lark.AppRefused) {
		f.logThrottled(ctx, "can't update a card; trying again", p.Key, err)
		return
	}
	if err != nil {
		f.log.InfoContext(ctx, "a card can't be updated any more", "app_id", p.AppID, f.users.Log(p.OpenID), "error", err)
	}
	if err := f.consents.Cards.SetShows(ctx, p.ID, p.State); err != nil {
		f.logThrottled(ctx, "can't record a card", p.Key, err)
	}
}

// Revoke ends the session of key for reason: here at once, and at Lark as soon
// as Lark answers. The card of the latest consent shows it.
// [session.ErrNotFound] if there is no session.
func (f *Flow) Revoke(ctx context.Context, key session.Key, reason session.Reason) error {
	before, err := f.revokeHere(ctx, key, reason)
	if err != nil {
		return err
	}
	f.Discard(ctx, key, before.AccessToken, before.RefreshToken)
	f.task(ctx, func(ctx context.Context) { f.showRevoked(ctx, key) })
	return nil
}

// revokeHere ends the session of key in the database, and returns it as it was.
func (f *Flow) revokeHere(ctx context.Context, key session.Key, reason session.Reason) (before *session.Session, err error) {
	err = retry(ctx, 10*time.Millisecond, 5, func() (again bool, err error) {
		// A refresh may change the row between the look and the write.
		before, err = f.sessions.Revoke(ctx, key, reason)
		return errors.Is(err, session.ErrConflict), err
	})
	return before, err
}

// showRevoked makes the card of the latest consent of key show that it is over.
func (f *Flow) showRevoked(ctx context.Context, key session.Key) {
	if p, err := f.consents.Latest(ctx, key); err == nil {
		f.showRevokedOn(ctx, p)
	}
}

func (f *Flow) showRevokedOn(ctx context.Context, p *session.Consent) {
	key := p.Key
	app, ok := f.apps[key.AppID]
	if !ok || p.State != session.ConsentDone || p.CardMessageID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cardTimeout)
	defer cancel()
	if err := app.UpdateCard(ctx, p.CardMessageID, f.cards.revoked(f.apps.name(ctx, key.AppID))); err != nil {
		f.log.InfoContext(ctx, "can't update the card of a revoked session", "app_id", key.AppID, f.users.Log(key.OpenID), "error", err)
	}
}

const (
	revokeTimeout = 5 * time.Second
	revokeTries   = 8 // over about half a minute
)

// Discard revokes tokens at Lark that must not be used: the refresh token
// first, since it works for longer. It makes the first try before it returns,
// and others after that.
func (f *Flow) Discard(ctx context.Context, key session.Key, access, refresh session.Secret) {
	f.discard(ctx, key, access, refresh)
}

// discard is [Flow.Discard]. It reports whether Lark has taken the first tries.
func (f *Flow) discard(ctx context.Context, key session.Key, access, refresh session.Secret) (taken bool) {
	app, ok := f.apps[key.AppID]
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
		goneOn := f.task(ctx, func(ctx context.Context) {
			err := retry(ctx, 250*time.Millisecond, revokeTries, func() (bool, error) { return try(ctx) })
			if err != nil {
				f.logUnrevoked(ctx, key, one.hint, err)
			}
		})
		if !goneOn {
			f.logUnrevoked(ctx, key, one.hint, err)
		}
	}
	return taken
}

func (f *Flow) logUnrevoked(ctx context.Context, key session.Key, hint string, err error) {
	f.log.ErrorContext(ctx, "can't revoke a token at Lark; it lives until it expires",
		"token", hint, "app_id", key.AppID, f.users.Log(key.OpenID), "error", err)
}
